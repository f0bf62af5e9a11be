package browser_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
)

// hooks records the webhooks' events, as "event identity source".
type hooks struct {
	*httptest.Server
	mu    sync.Mutex // guards lines
	lines []string
}

func newHooks(t *testing.T) *hooks {
	h := &hooks{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e struct {
			Event       string
			Participant struct{ Identity string }
			Track       struct{ Source string }
		}
		if json.NewDecoder(r.Body).Decode(&e) == nil {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.lines = append(h.lines, e.Event+" "+e.Participant.Identity+" "+e.Track.Source)
		}
	}))
	t.Cleanup(h.Close)
	return h
}

// count is the number of each line from index from on, and of all.
func (h *hooks) count(from int) (counts map[string]int, all int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	counts = map[string]int{}
	for _, line := range h.lines[from:] {
		counts[line]++
	}
	return counts, len(h.lines)
}

// TestKillInACall: after a crash of the server, pages in both modes return by themselves,
// with the same identity and room.
func TestKillInACall(t *testing.T) {
	if testing.Short() {
		t.Skip("drives a browser")
	}
	findChromium(t)
	told := newHooks(t)
	config := filepath.Join(t.TempDir(), "parlor.yaml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, "webhook: {api_key: devkey, urls: [%q]}\n", told.URL), 0o600))
	f := &fixture{startServer(t, buildServer(t), "--dev", "--config", config), startBrowser(t, fakeDevices(t)...)}
	const room = "crash"
	service, ctx := f.server.rooms(room, "")
	_, err := service.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: room, Metadata: "of the room", MaxParticipants: 3, DepartureTimeout: 1001})
	require.NoError(t, err)
	pages := map[string]*page{
		"Ann": f.join(t, modes[0], room, "Ann", "identity", "Ann"),
		"Bob": f.elsewhere(t).join(t, modes[1], room, "Bob", "identity", "Bob"),
		"Cem": f.join(t, modes[0], room, "Cem", "identity", "Cem", "video", "0"),
	}
	flows := func() map[string]time.Time {
		at := map[string]time.Time{}
		for name, other := range map[string]string{"Ann": "Bob", "Bob": "Ann", "Cem": "Ann"} {
			pages[name].sees(other)
			at[name] = time.Now()
		}
		return at
	}
	flows()
	pages["Ann"].hears("Cem")
	for _, u := range []*livekit.UpdateParticipantRequest{
		{Identity: "Ann", Metadata: "moderated", Attributes: map[string]string{"role": "host"}},
		{Identity: "Cem", Permission: &livekit.ParticipantPermission{CanSubscribe: true, CanPublishData: true}},
	} {
		u.Room = room
		_, err := service.UpdateParticipant(ctx, u)
		require.NoError(t, err)
	}
	pages["Cem"].until("the end of its microphone", `parlor.room.localParticipant.permissions.canPublish === false`)
	list := func() (*livekit.Room, map[string]*livekit.ParticipantInfo) {
		t.Helper()
		found, err := service.ListRooms(ctx, &livekit.ListRoomsRequest{Names: []string{room}})
		require.NoError(t, err)
		require.Len(t, found.Rooms, 1)
		there, err := service.ListParticipants(ctx, &livekit.ListParticipantsRequest{Room: room})
		require.NoError(t, err)
		people := map[string]*livekit.ParticipantInfo{}
		for _, p := range there.Participants {
			people[p.Identity] = p
		}
		require.Len(t, people, len(pages))
		return found.Rooms[0], people
	}
	roomBefore, before := list()
	require.Eventually(t, func() bool { counts, _ := told.count(0); return counts["track_unpublished Cem MICROPHONE"] == 1 },
		patience, 50*time.Millisecond, "the webhooks so far")
	_, toldBefore := told.count(0)
	for _, p := range pages {
		p.do(`window.tries = []; window.back = 0;
			parlor.room.on('reconnected', () => { window.back = Date.now() });
			const Plain = WebSocket;
			window.WebSocket = class extends Plain { constructor(...args) { window.tries.push(Date.now()); super(...args) } }`)
	}

	down := time.Now()
	f.server.stop(syscall.SIGKILL)
	f.server.start()
	ready := time.Now()
	for _, p := range pages {
		p.until("the call again", `window.back > 0 && parlor.room.state === 'connected'`)
	}
	for name, at := range flows() {
		p := pages[name]
		back := get[int64](p, `window.back`) - ready.UnixMilli()
		tried := get[int64](p, fmt.Sprintf(`(window.tries.find((at) => at > %d) ?? 0)`, ready.UnixMilli())) - ready.UnixMilli()
		t.Logf("%s tried at %s ms", name, get[string](p, fmt.Sprintf(`window.tries.map((at) => at - %d).join(', ')`, ready.UnixMilli())))
		t.Logf("%s: connected again %d ms after the server was ready: %d ms until the client tried, %d ms from there; pictures seen to move by %d ms (down %d ms)",
			name, back, tried, back-tried, at.Sub(ready).Milliseconds(), ready.Sub(down).Milliseconds())
	}
	pages["Cem"].hears("Bob")

	roomAfter, after := list()
	require.Equal(t, roomBefore.Sid, roomAfter.Sid)
	require.Equal(t, "of the room", roomAfter.Metadata)
	require.EqualValues(t, 3, roomAfter.MaxParticipants)
	require.EqualValues(t, 1001, roomAfter.DepartureTimeout)
	for name, earlier := range before {
		is := after[name]
		require.Equal(t, earlier.Sid, is.Sid, name)
		require.Equal(t, earlier.JoinedAtMs, is.JoinedAtMs, name)
		require.Equal(t, earlier.Metadata, is.Metadata, name)
		require.Equal(t, earlier.Attributes, is.Attributes, name)
		require.Equal(t, earlier.Permission.String(), is.Permission.String(), name)
		require.Equal(t, earlier.Sid, get[string](pages[name], `parlor.room.localParticipant.sid`))
		require.Equal(t, roomBefore.Sid, get[string](pages[name], `await parlor.room.getSid()`))
	}
	require.Equal(t, "host", after["Ann"].Attributes["role"])
	require.False(t, after["Cem"].Permission.CanPublish)
	require.Empty(t, after["Cem"].Tracks)

	want := map[string]int{}
	for _, name := range []string{"Ann", "Bob"} {
		for _, source := range []string{"CAMERA", "MICROPHONE"} {
			want["track_unpublished "+name+" "+source], want["track_published "+name+" "+source] = 1, 1
		}
	}
	require.Eventually(t, func() bool { _, all := told.count(0); return all >= toldBefore+len(want) }, patience, 50*time.Millisecond)
	counts, _ := told.count(toldBefore)
	require.Equal(t, want, counts, "nobody joined or left, and no room began")
}
