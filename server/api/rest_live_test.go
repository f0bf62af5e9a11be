package api_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// guest is a client without media. It records its messages.
type guest struct {
	*rooms.Participant

	mu        sync.Mutex // guards the following
	left      *livekit.LeaveRequest
	data      []string
	media     *rooms.MediaSummary
	announced *livekit.TrackInfo
}

func (g *guest) Send(m *rooms.Message) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := m.Response.GetTrackPublished(); t != nil {
		g.announced = t.Track
	}
	return true
}

func (g *guest) Leave(l *livekit.LeaveRequest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left = l
}

func (g *guest) Attached() bool { return !g.gone() }

func (g *guest) gone() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.left != nil
}

func (g *guest) received() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.data)
}

// noMedia is a guest's peer.
type noMedia struct{ g *guest }

func (noMedia) AddTrack(rooms.Announcement, *livekit.TrackInfo) {}
func (noMedia) RemoveTrack(string)                              {}
func (noMedia) UpdateTrack(*livekit.TrackInfo)                  {}
func (noMedia) SetTrackSettings([]string, rooms.TrackSettings)  {}
func (noMedia) SetPublisherAllowed(bool, bool)                  {}
func (noMedia) Subscribe(rooms.Subscription)                    {}
func (noMedia) Unsubscribe(string)                              {}
func (noMedia) SendDataTrack([]byte)                            {}
func (noMedia) Quality() (livekit.ConnectionQuality, float32)   { return 0, 0 }
func (noMedia) BeginSummary()                                   {}
func (noMedia) Close()                                          {}
func (m noMedia) Summary() *rooms.MediaSummary {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	return m.g.media
}
func (m noMedia) SendData(_ rooms.Peer, _ livekit.DataPacket_Kind, b []byte) {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	m.g.data = append(m.g.data, string(b))
}

type sound string

func (s sound) SID() string               { return string(s) }
func (sound) AudioLevel() (float32, bool) { return 0, false }

func (h *house) join(room, identity string) (*guest, error) {
	g := &guest{}
	p, _, err := h.rooms.Join(h.t.Context(), rooms.JoinRequest{
		Room: room, Protocol: 17, AutoSubscribe: true, Outlet: g, IssuedMs: rooms.NowMs(time.Now()),
		Info: &livekit.ParticipantInfo{Identity: identity, Permission: &livekit.ParticipantPermission{
			CanPublish: true, CanSubscribe: true, CanPublishData: true,
		}},
	})
	if err != nil {
		return nil, err
	}
	g.Participant = p
	require.NoError(h.t, p.Enter(noMedia{g}, func(*rooms.Participant, rooms.Snapshot) {}))
	p.Connected()
	p.Sync()
	return g, nil
}

func (h *house) mustJoin(room, identity string) *guest {
	g, err := h.join(room, identity)
	require.NoError(h.t, err)
	return g
}

// publish gives a guest a microphone and returns the track's SID.
func (g *guest) publish() string {
	g.AddTrack(&livekit.AddTrackRequest{Cid: "mic", Type: livekit.TrackType_AUDIO, Source: livekit.TrackSource_MICROPHONE})
	g.Sync()
	g.mu.Lock()
	info := g.announced
	g.mu.Unlock()
	g.TrackPublished(sound(info.Sid), rooms.TrackFacts{})
	g.Sync()
	return info.Sid
}

// server makes a request with the key and its secret. headers are name, value, …
func (h *house) server(method, path, body string, headers ...string) (*http.Response, string) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.URL+path, strings.NewReader(body))
	require.NoError(h.t, err)
	req.SetBasicAuth(key, secret)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return h.do(req)
}

// status is the status of server's answer.
func (h *house) status(method, path, body string, headers ...string) int {
	h.t.Helper()
	resp, _ := h.server(method, path, body, headers...)
	return resp.StatusCode
}

// TestOneOfSeveralCreatesOpensTheRoom: it is answered with 201, and the others return the
// same room.
func TestOneOfSeveralCreatesOpensTheRoom(t *testing.T) {
	h := open(t)
	const rooms, creates = 5, 6
	for i := range rooms {
		statuses, sids := make([]int, creates), make([]string, creates)
		var wg sync.WaitGroup
		for j := range creates {
			wg.Go(func() {
				resp, body := h.server("POST", "/v1/rooms", fmt.Sprintf(`{"name":"r%d"}`, i))
				statuses[j], sids[j] = resp.StatusCode, read[roomJSON](t, body).SID
			})
		}
		wg.Wait()
		slices.Sort(statuses)
		require.Equal(t, []int{200, 200, 200, 200, 200, 201}, statuses)
		require.Len(t, slices.Compact(sids), 1)
	}
}

// TestETagsNameWhatIsShown: events in a room that do not show in a resource do not make
// conditional changes of it fail.
func TestETagsNameWhatIsShown(t *testing.T) {
	h := open(t)
	ada, host := h.mustJoin("r", "ada"), h.mustJoin("r", "host")
	sid := ada.publish()
	host.publish()
	edit := func(identity, body string) { // answered when all earlier changes are stored too
		require.Equal(t, 200, h.status("PATCH", "/v1/rooms/r/participants/"+identity, body))
	}
	shown := func() string {
		resp, _ := h.server("GET", "/v1/rooms/r", "")
		return resp.Header.Get("ETag")
	}
	edit("host", `{"name":"Host"}`)
	tag := shown()
	ada.Mute(&livekit.MuteTrackRequest{Sid: sid, Muted: true})
	edit("host", `{"metadata":"m","permissions":{"can_publish_data":false}}`)
	require.Equal(t, tag, shown())
	resp, body := h.server("PATCH", "/v1/rooms/r", `{"metadata":"b"}`, "If-Match", "W/"+tag) // as a proxy that compresses has it
	require.Equal(t, 200, resp.StatusCode, body)
	tag = resp.Header.Get("ETag")
	require.Equal(t, tag, shown())

	h.mustJoin("r", "eve")
	edit("eve", `{"name":"Eve"}`)
	require.Equal(t, 412, h.status("PATCH", "/v1/rooms/r", `{"metadata":"c"}`, "If-Match", tag), "how many are in it is shown")
	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/r", "", "If-Match", shown()))
}

func TestEditRoom(t *testing.T) {
	h := open(t)
	resp, _ := h.server("POST", "/v1/rooms", `{"name":"r","metadata":"a"}`)
	tag := resp.Header.Get("ETag")
	resp, body := h.server("PATCH", "/v1/rooms/r", `{"metadata":"b","empty_timeout":"never","departure_timeout":9,"max_participants":3,"locked":true,"tags":{"k":"v"}}`, "If-Match", tag)
	require.Equal(t, 200, resp.StatusCode, body)
	room := read[roomJSON](t, body)
	require.Equal(t, "b", room.Metadata)
	require.Equal(t, "never", room.EmptyTimeout)
	require.EqualValues(t, 9, room.DepartureTimeout)
	require.Equal(t, 3, room.MaxParticipants)
	require.Equal(t, map[string]string{"k": "v"}, room.Tags)
	require.Nil(t, room.ExpiresAt, "its deadline went with the timeout")
	next := resp.Header.Get("ETag")
	require.NotEqual(t, tag, next)

	_, err := h.join("r", "ada")
	require.Equal(t, rooms.Denied, rooms.ErrorCode(err), "the room is locked")

	require.Equal(t, 412, h.status("PATCH", "/v1/rooms/r", `{"locked":false}`, "If-Match", tag), "of two who change the same state one loses")
	require.Equal(t, 412, h.status("PATCH", "/v1/rooms/r", `{"locked":false}`, "If-Match", `"x"`))
	require.Equal(t, 412, h.status("PATCH", "/v1/rooms/r", `{"locked":false}`, "If-Match", `W/"RM_x.1"`))
	require.Equal(t, 400, h.status("PATCH", "/v1/rooms/r", `{"locked":false}`, "If-Match", tag+", "+next))
	require.Equal(t, 400, h.status("PATCH", "/v1/rooms/r", `{"lock":false}`))
	require.Equal(t, 400, h.status("PATCH", "/v1/rooms/r", `{"metadata":"`+strings.Repeat("x", 2000)+`"}`))
	require.Equal(t, 404, h.status("PATCH", "/v1/rooms/absent", `{"locked":false}`))
	resp, body = h.server("PATCH", "/v1/rooms/r", `{"locked":false}`)
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "b", read[roomJSON](t, body).Metadata, "what is not given stays")

	require.Equal(t, 412, h.status("DELETE", "/v1/rooms/r", "", "If-Match", tag))
	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/r", "", "If-Match", resp.Header.Get("ETag")))
	h.server("POST", "/v1/rooms", `{"name":"r"}`)
	require.Equal(t, 412, h.status("DELETE", "/v1/rooms/r", "", "If-Match", tag), "another room of that name")
	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/r", "", "If-Match", "*"))
}

func TestHistory(t *testing.T) {
	h := open(t)
	for i := range 3 {
		h.mustJoin("r", fmt.Sprint("p", i))
	}
	_, body := h.server("GET", "/v1/rooms/r", "")
	sid := read[roomJSON](t, body).SID
	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/r", ""))
	resp, body := h.server("GET", "/v1/history/"+sid, "")
	require.Equal(t, 200, resp.StatusCode, body)
	ended := read[roomJSON](t, body)
	require.Equal(t, "closed", ended.EndReason)
	require.InDelta(t, ended.EndedAt.Sub(ended.CreatedAt).Seconds(), ended.DurationSeconds, 1e-9)
	require.Equal(t, [3]int{0, 3, 3}, [3]int{ended.NumParticipants, ended.NumJoined, ended.PeakParticipants})

	type sessions struct {
		Sessions []struct {
			Identity, Reason string
			JoinedAt         *time.Time `json:"joined_at"`
			LeftAt           *time.Time `json:"left_at"`
		}
		NextCursor string `json:"next_cursor"`
	}
	_, body = h.server("GET", "/v1/history/"+sid+"/sessions?limit=2", "")
	first := read[sessions](t, body)
	require.Len(t, first.Sessions, 2)
	_, body = h.server("GET", "/v1/history/"+sid+"/sessions?limit=2&cursor="+first.NextCursor, "")
	second := read[sessions](t, body)
	require.Len(t, second.Sessions, 1)
	require.Empty(t, second.NextCursor)
	require.Equal(t, "room_deleted", second.Sessions[0].Reason)
	require.NotNil(t, second.Sessions[0].LeftAt)
	require.Equal(t, 404, h.status("GET", "/v1/history/RM_absent", ""))
	require.Equal(t, 404, h.status("GET", "/v1/history/RM_absent/sessions", ""))
	for _, path := range []string{"/v1/history/" + sid + "/sessions", "/v1/history/RM_absent/sessions"} {
		resp, _ := h.ask("GET", path, h.token(&auth.VideoGrant{RoomList: true, RoomAdmin: true, Room: "another"}), "", "")
		require.Equal(t, 403, resp.StatusCode, "who was there is told to whom who is there is told")
	}
	require.Equal(t, 400, h.status("GET", "/v1/history/"+sid+"/sessions?cursor=!", ""))

	_, body = h.server("GET", "/v1/rooms?state=ended&created_after=2100-01-01T00:00:00Z", "")
	require.JSONEq(t, `{"rooms":[]}`, body)
	_, body = h.server("GET", "/v1/rooms?state=all&created_before=2100-01-01T00:00:00Z&name=r", "")
	require.Contains(t, body, sid)
	require.Equal(t, 400, h.status("GET", "/v1/rooms?created_after=yesterday", ""))
}

func TestParticipantsOfAllRooms(t *testing.T) {
	h := open(t)
	for i := range 5 {
		h.mustJoin(fmt.Sprint("r", i%2), fmt.Sprint("Guest-", i))
	}
	h.mustJoin("r2", "ada")
	h.mustJoin("gone", "Guest-9")
	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/gone", ""))
	find := func(query string) (found []string, pages int) {
		t.Helper()
		for cursor := ""; ; {
			_, body := h.server("GET", "/v1/participants?"+query+cursor, "")
			page := read[struct {
				Found []struct {
					Room        string
					Participant struct{ Identity string }
				}
				NextCursor string `json:"next_cursor"`
			}](t, body)
			for _, one := range page.Found {
				found = append(found, one.Room+" "+one.Participant.Identity)
			}
			if pages++; page.NextCursor == "" {
				slices.Sort(found) // rooms have random ids
				return found, pages
			}
			cursor = "&cursor=" + page.NextCursor
		}
	}
	all := []string{"r0 Guest-0", "r0 Guest-2", "r0 Guest-4", "r1 Guest-1", "r1 Guest-3", "r2 ada"}
	found, pages := find("")
	require.Equal(t, all, found)
	require.Equal(t, 1, pages)
	found, pages = find("limit=2")
	require.Equal(t, all, found)
	require.Equal(t, 3, pages)
	found, _ = find("limit=2&text=gUEST")
	require.Equal(t, all[:5], found)
	found, _ = find("text=nobody")
	require.Empty(t, found)
	require.Equal(t, 400, h.status("GET", "/v1/participants?cursor=!", ""))
	resp, _ := h.ask("GET", "/v1/participants", h.token(&auth.VideoGrant{RoomList: true, RoomAdmin: true, Room: "r0"}), "", "")
	require.Equal(t, 403, resp.StatusCode, "a token for one room shows no other")

	_, body := h.server("GET", "/v1/rooms/r2/participants/ada", "")
	sid := read[struct{ SID string }](t, body).SID
	c := h.config
	c.Dashboard.Addresses = func() map[string]string { return map[string]string{sid: "2001:db8::7"} }
	h.serve(c)
	found, _ = find("text=2001:DB8:")
	require.Equal(t, []string{"r2 ada"}, found)
	found, _ = find("text=db8")
	require.Empty(t, found, "an address is known by how it begins")
	_, body = h.server("GET", "/v1/participants?text=ada", "")
	require.Contains(t, body, `"address":"2001:db8::7"`)
}

func TestParticipants(t *testing.T) {
	h := open(t)
	ada, bob := h.mustJoin("r", "ada/1"), h.mustJoin("r", "bob")
	const path = "/v1/rooms/r/participants/ada%2F1"
	_, body := h.server("GET", "/v1/rooms/r/participants", "")
	list := read[struct {
		Participants []struct{ Identity, State string }
	}](t, body).Participants
	require.Equal(t, "ada/1", list[0].Identity)
	require.Equal(t, "active", list[0].State)
	require.Len(t, list, 2)
	resp, body := h.server("GET", path, "")
	require.Equal(t, 200, resp.StatusCode, body)
	require.Equal(t, 404, h.status("GET", "/v1/rooms/r/participants/absent", ""))
	require.Equal(t, 404, h.status("GET", "/v1/rooms/absent/participants", ""))

	resp, body = h.server("PATCH", path, `{"name":"Ada","metadata":"m","attributes":{"a":"b"},"permissions":{"can_publish_sources":["microphone"],"can_publish_data":false}}`)
	require.Equal(t, 200, resp.StatusCode, body)
	type perms struct {
		CanPublish        bool     `json:"can_publish"`
		CanPublishSources []string `json:"can_publish_sources"`
		CanSubscribe      bool     `json:"can_subscribe"`
		CanPublishData    bool     `json:"can_publish_data"`
	}
	p := read[struct {
		Name, Metadata string
		Attributes     map[string]string
		Permissions    perms
	}](t, body)
	require.Equal(t, "Ada", p.Name)
	require.Equal(t, "m", p.Metadata)
	require.Equal(t, map[string]string{"a": "b"}, p.Attributes)
	require.Equal(t, perms{true, []string{"microphone"}, true, false}, p.Permissions, "what is not given stays")
	resp, body = h.server("PATCH", path, `{"permissions":{"can_publish_sources":["mouth"]}}`)
	require.Equal(t, 400, resp.StatusCode)
	require.Equal(t, "permissions.can_publish_sources[0]", read[problemJSON](t, body).Errors[0].Path)
	require.Equal(t, 404, h.status("PATCH", "/v1/rooms/r/participants/absent", `{"name":"x"}`))

	sid := bob.publish()
	_, body = h.server("GET", "/v1/rooms/r/participants/bob/tracks", "")
	require.Contains(t, body, `"sid":"`+sid+`"`)
	require.Contains(t, body, `"source":"microphone"`)
	tracks := "/v1/rooms/r/participants/bob/tracks/"
	resp, body = h.server("PATCH", tracks+sid, `{"muted":true}`)
	require.Equal(t, 200, resp.StatusCode, body)
	require.Contains(t, body, `"muted":true`)
	resp, body = h.server("PATCH", tracks+sid, `{"muted":false}`)
	require.Equal(t, 409, resp.StatusCode, "remote unmute is off")
	require.Equal(t, "failed_precondition", read[problemJSON](t, body).Code)
	require.Equal(t, 404, h.status("PATCH", tracks+"TR_absent", `{"muted":true}`))
	require.Equal(t, 400, h.status("PATCH", tracks+sid, `{}`))
	require.Equal(t, 404, h.status("GET", "/v1/rooms/r/participants/absent/tracks", ""))
	require.Equal(t, 204, h.status("PUT", path+"/subscriptions/"+sid, ""))
	require.Equal(t, 204, h.status("DELETE", path+"/subscriptions/"+sid, ""))
	require.Equal(t, 404, h.status("PUT", "/v1/rooms/r/participants/absent/subscriptions/"+sid, ""))

	require.Equal(t, 204, h.status("POST", "/v1/rooms/r/data", `{"text":"hi","topic":"t","to":["bob"]}`))
	require.Eventually(t, func() bool { return bob.received() == 1 }, time.Minute, time.Millisecond)
	require.Zero(t, ada.received())
	require.Equal(t, 204, h.status("POST", "/v1/rooms/r/data", `{"data":"aGk=","lossy":true}`))
	require.Equal(t, 400, h.status("POST", "/v1/rooms/r/data", `{"data":"!"}`))
	require.Equal(t, 404, h.status("POST", "/v1/rooms/absent/data", `{"text":"hi"}`))
	require.Equal(t, 404, h.status("POST", "/v1/rooms/r/participants/absent/rpc", `{"method":"m"}`))
	require.Equal(t, 400, h.status("POST", path+"/rpc", `{}`))
	require.Equal(t, 400, h.status("POST", path+"/rpc", `{"method":"m","timeout":301}`))
	require.Equal(t, 503, h.status("POST", path+"/rpc", `{"method":"m","timeout":1}`), "nobody answers")

	require.Equal(t, 204, h.status("POST", path+"/forward", `{"room":"overflow"}`))
	require.Equal(t, 409, h.status("POST", path+"/forward", `{"room":"overflow"}`))
	require.Equal(t, 204, h.status("POST", path+"/move", `{"room":"other"}`))
	require.Equal(t, 200, h.status("GET", "/v1/rooms/other/participants/ada%2F1", ""))
	require.Equal(t, 404, h.status("POST", path+"/move", `{"room":"other"}`))
	require.Equal(t, 400, h.status("POST", path+"/move", `{}`))
	require.Equal(t, 400, h.status("POST", "/v1/rooms/r/participants/bob/move", `{"room":"r"}`))
	resp, _ = h.ask("POST", "/v1/rooms/r/participants/bob/move", h.token(admin("r")), "application/json", `{"room":"other"}`)
	require.Equal(t, 403, resp.StatusCode, "the token does not name the destination")

	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/r/participants/bob", ""))
	require.True(t, bob.gone())
	require.Equal(t, 404, h.status("DELETE", "/v1/rooms/r/participants/bob", ""))
	require.Equal(t, 400, h.status("DELETE", "/v1/rooms/r/participants/bob?revoke=perhaps", ""))
}

func TestModerationOutlivesTheRoom(t *testing.T) {
	h := open(t)
	ada, bob := h.mustJoin("r", "ada"), h.mustJoin("r", "bob")
	resp, body := h.server("PUT", "/v1/rooms/r/bans/ada", `{"until":"2100-01-01T00:00:00Z","reason":"spam"}`)
	require.Equal(t, 200, resp.StatusCode, body)
	require.Contains(t, body, `"until":"2100-01-01T00:00:00.000Z"`)
	require.True(t, ada.gone())
	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/r", ""))
	_, err := h.join("r", "ada")
	require.Equal(t, rooms.Denied, rooms.ErrorCode(err))
	require.Equal(t, 200, h.status("PUT", "/v1/rooms/r/bans/eve", ""), "a ban needs no body")
	require.Equal(t, 400, h.status("PUT", "/v1/rooms/r/bans/eve", `{"until":"2001-01-01T00:00:00Z"}`))
	require.Equal(t, 400, h.status("PUT", "/v1/rooms/r/bans/eve", `{"until":"soon"}`))
	require.Equal(t, 400, h.status("PUT", "/v1/rooms/r/bans/eve", `{"reason":"`+strings.Repeat("x", 1001)+`"}`))
	require.Equal(t, 400, h.status("PUT", "/v1/rooms/r/bans/"+strings.Repeat("x", 257), ""), "nobody may be called that")

	type page struct {
		Bans       []struct{ Identity, Reason string }
		NextCursor string `json:"next_cursor"`
	}
	_, body = h.server("GET", "/v1/rooms/r/bans?limit=1", "")
	first := read[page](t, body)
	require.Equal(t, "spam", first.Bans[0].Reason)
	_, body = h.server("GET", "/v1/rooms/r/bans?limit=1&cursor="+first.NextCursor, "")
	require.Equal(t, "eve", read[page](t, body).Bans[0].Identity)
	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/r/bans/ada", ""))
	require.Equal(t, 404, h.status("DELETE", "/v1/rooms/r/bans/ada", ""))
	h.mustJoin("r", "ada")

	// A token from before the revocation is invalid; a later one is not.
	require.True(t, bob.gone())
	before := rooms.NowMs(time.Now()) - 1000
	require.Equal(t, 204, h.status("POST", "/v1/rooms/r/revocations", `{"identity":"bob"}`))
	_, _, err = h.rooms.Join(context.Background(), rooms.JoinRequest{
		Room: "r", Info: &livekit.ParticipantInfo{Identity: "bob"}, Outlet: &guest{}, IssuedMs: before,
	})
	require.Equal(t, rooms.Denied, rooms.ErrorCode(err))
	h.mustJoin("r", "bob")
	require.Equal(t, 400, h.status("POST", "/v1/rooms/r/revocations", `{}`))
	require.Equal(t, 400, h.status("POST", "/v1/rooms/r/revocations", `{"identity":"bob","before":"9999-01-01T00:00:00Z"}`))
	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/r/participants/bob?revoke=true", ""))
	_, revoked, err := h.store.Admission(t.Context(), "r", "bob")
	require.NoError(t, err)
	require.Greater(t, revoked, before+1000)

	// The same holds for an absent identity, in a room that is not open.
	require.Equal(t, 404, h.status("DELETE", "/v1/rooms/r/participants/eve?revoke=false", ""))
	_, revoked, err = h.store.Admission(t.Context(), "r", "eve")
	require.NoError(t, err)
	require.Zero(t, revoked)
	for _, room := range []string{"r", "absent"} {
		require.Equal(t, 204, h.status("DELETE", "/v1/rooms/"+room+"/participants/eve?revoke=true", ""))
		_, revoked, err = h.store.Admission(t.Context(), room, "eve")
		require.NoError(t, err)
		require.NotZero(t, revoked)
	}
}

// TestAFullRoomTakesNobodyOver: that is a conflict with the room's state, and not a rate
// limit.
func TestAFullRoomTakesNobodyOver(t *testing.T) {
	h := open(t)
	h.mustJoin("r", "ada")
	require.Equal(t, 201, h.status("POST", "/v1/rooms", `{"name":"small","max_participants":1}`))
	h.mustJoin("small", "bob")
	for _, how := range []string{"move", "forward"} {
		resp, body := h.server("POST", "/v1/rooms/r/participants/ada/"+how, `{"room":"small"}`)
		require.Equal(t, 409, resp.StatusCode, body)
		require.Equal(t, "room_full", read[problemJSON](t, body).Code)
	}
	token := h.token(&auth.VideoGrant{RoomAdmin: true, Room: "r", DestinationRoom: "small"})
	status, body := h.twirp("MoveParticipant", token, `{"room":"r","identity":"ada","destination_room":"small"}`)
	require.Equal(t, 429, status, body)
	require.Contains(t, body, "resource_exhausted", "Twirp keeps LiveKit's code")
}

// TestDataThatNobodyCouldReceiveIsRefused, by its total size on the wire.
func TestDataThatNobodyCouldReceiveIsRefused(t *testing.T) {
	h := open(t)
	ada := h.mustJoin("r", "ada")
	text := func(n int) string { return `"text":"` + strings.Repeat("x", n) + `"` }
	send := func(body string) (int, string) {
		resp, answer := h.server("POST", "/v1/rooms/r/data", "{"+body+"}")
		return resp.StatusCode, answer
	}
	const about = rooms.MaxDataPacket - 100 // about the largest size that passes
	status, body := send(text(about))
	require.Equal(t, 204, status, body)
	ada.Sync()
	require.Equal(t, 1, ada.received())
	for _, tooMuch := range []string{
		text(rooms.MaxDataPacket),
		text(about) + `,"topic":"` + strings.Repeat("t", 100) + `"`,
		text(about) + `,"to":["ada","` + strings.Repeat("e", 60) + `"]`,
	} {
		status, body := send(tooMuch)
		require.Equal(t, 413, status, body)
		require.Equal(t, "too_large", read[problemJSON](t, body).Code)
	}
	payload := strings.Repeat("x", rooms.MaxDataPacket)
	require.Equal(t, 413, h.status("POST", "/v1/rooms/r/participants/ada/rpc", `{"method":"m","payload":"`+payload+`"}`))
	for method, call := range map[string]string{
		"SendData":   `{"room":"r","data":"` + base64.StdEncoding.EncodeToString([]byte(payload)) + `"}`,
		"PerformRpc": `{"room":"r","destination_identity":"ada","method":"m","payload":"` + payload + `"}`,
	} {
		status, body := h.twirp(method, h.token(admin("r")), call)
		require.Equal(t, 400, status, body)
		require.Contains(t, body, "invalid_argument")
	}
	ada.Sync()
	require.Equal(t, 1, ada.received())
}

// TestWhatIsStoredIsBounded: names that no participant can have, and lists without end.
func TestWhatIsStoredIsBounded(t *testing.T) {
	h := open(t)
	h.mustJoin("r", "ada")
	long := strings.Repeat("x", 257)
	list := func(n int, item string) string { return "[" + strings.Repeat(item+",", n) + item + "]" }
	for _, tc := range []struct{ method, path, body, detail string }{
		{"POST", "/revocations", `{"identity":"` + long + `"}`, "identity length"},
		{"DELETE", "/participants/" + long + "?revoke=true", "", "identity length"},
		{"POST", "/mute", `{"hold":true,"except":["` + long + `"]}`, "identity length"},
		{"POST", "/mute", `{"hold":true,"except":` + list(100, `"somebody-else"`) + `}`, "longer than 1000 bytes"},
		{"POST", "/mute", `{"hold":true,"sources":` + list(16, `"camera"`) + `}`, "more than 16"},
		{"PATCH", "/participants/ada", `{"permissions":{"can_publish_sources":` + list(16, `"camera"`) + `}}`, "more than 16"},
	} {
		resp, body := h.server(tc.method, "/v1/rooms/r"+tc.path, tc.body)
		require.Equal(t, 400, resp.StatusCode, body)
		require.Contains(t, read[problemJSON](t, body).Detail, tc.detail)
	}
	_, body := h.server("GET", "/v1/rooms/r", "")
	require.Contains(t, body, `"hold":null`)
	require.Equal(t, 400, h.status("POST", "/v1/rooms/"+long+"/revocations", `{"identity":"ada"}`), "no room can be called that")
	status, body := h.twirp("UpdateParticipant", h.token(admin("r")), `{"room":"r","identity":"ada","permission":{"can_publish_sources":`+list(16, "77")+`}}`)
	require.Equal(t, 400, status, body)
	require.Contains(t, body, "more than 16 track sources")

	require.Equal(t, 200, h.status("POST", "/v1/rooms/r/mute", `{"hold":true,"except":`+list(70, `"somebody-else"`)+`}`))
	require.Equal(t, 200, h.status("PATCH", "/v1/rooms/r/participants/ada", `{"permissions":{"can_publish_sources":`+list(3, `"camera"`)+`}}`))
}

// TestARevocationIsLifted, while a ban of the same identity stays.
func TestARevocationIsLifted(t *testing.T) {
	h := open(t)
	join := func() error {
		_, _, err := h.rooms.Join(t.Context(), rooms.JoinRequest{
			Room: "r", Info: &livekit.ParticipantInfo{Identity: "bob"}, Outlet: &guest{}, IssuedMs: rooms.NowMs(time.Now()) - 60_000,
		})
		return err
	}
	const bobs = "/v1/rooms/r/revocations/bob"
	require.Equal(t, 404, h.status("DELETE", bobs, ""))
	require.Equal(t, 204, h.status("POST", "/v1/rooms/r/revocations", `{"identity":"bob"}`))
	require.Equal(t, 204, h.status("POST", "/v1/rooms/r/revocations", `{"identity":"ada","before":"2026-01-31T12:00:00Z"}`))
	type page struct {
		Revocations []struct{ Identity, Before string }
		NextCursor  string `json:"next_cursor"`
	}
	list := func(query string) page {
		_, body := h.server("GET", "/v1/rooms/r/revocations"+query, "")
		return read[page](t, body)
	}
	first := list("?limit=1")
	require.Equal(t, []struct{ Identity, Before string }{{"ada", "2026-01-31T12:00:00.000Z"}}, first.Revocations)
	require.Equal(t, "bob", list("?cursor=" + first.NextCursor).Revocations[0].Identity)
	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/r/revocations/ada", ""))
	require.Len(t, list("").Revocations, 1)
	require.Equal(t, rooms.Denied, rooms.ErrorCode(join()))
	require.Equal(t, 404, h.status("DELETE", "/v1/rooms/another/revocations/bob", ""), "it is another room's")
	resp, body := h.ask("DELETE", bobs, h.token(admin("r")), "", "")
	require.Equal(t, 204, resp.StatusCode, body)
	require.NoError(t, join())
	require.Equal(t, 404, h.status("DELETE", bobs, ""))

	require.Equal(t, 204, h.status("POST", "/v1/rooms/r/revocations", `{"identity":"bob"}`))
	require.Equal(t, 200, h.status("PUT", "/v1/rooms/r/bans/bob", ""))
	require.Equal(t, 204, h.status("DELETE", bobs, ""))
	require.Equal(t, rooms.Denied, rooms.ErrorCode(join()))
}

func TestTokens(t *testing.T) {
	h := open(t)
	resp, body := h.server("POST", "/v1/tokens", `{"identity":"ada","room":"r","name":"Ada","ttl":60,"can_publish":false,"attributes":{"a":"b"},"room_preset":"webinar","room_config":{"empty_timeout":"never"}}`)
	require.Equal(t, 201, resp.StatusCode, body)
	made := read[struct {
		Token, Identity, Room string
		ExpiresAt             time.Time `json:"expires_at"`
	}](t, body)
	require.WithinDuration(t, time.Now().Add(time.Minute), made.ExpiresAt, 3*time.Second)
	c, err := h.verifier.Verify(made.Token)
	require.NoError(t, err)
	require.Equal(t, key, c.APIKey)
	require.Equal(t, "ada", c.Grants.Identity)
	require.Equal(t, "webinar", c.Grants.RoomPreset)
	require.True(t, c.Grants.Video.RoomJoin)
	require.False(t, c.Grants.Video.GetCanPublish())
	require.True(t, c.Grants.Video.GetCanSubscribe())
	require.Equal(t, rooms.WireNever, c.Grants.GetRoomConfiguration().EmptyTimeout)

	for body, path := range map[string]string{
		`{}`:                            "identity",
		`{"identity":"ada"}`:            "room",
		`{"room_admin":true}`:           "room",
		`{"room_list":true,"ttl":"1h"}`: "ttl",
		`{"room_list":true,"x":1}`:      "x",
		`{"identity":"a","room":"r","room_preset":"nope"}`:              "room_preset",
		`{"identity":"a","room":"r","can_publish_sources":["x"]}`:       "can_publish_sources",
		`{"identity":"a","room":"r","room_config":{"empty_timeout":0}}`: "room_config.empty_timeout",
	} {
		resp, got := h.server("POST", "/v1/tokens", body)
		require.Equal(t, 400, resp.StatusCode, body)
		require.Equal(t, path, read[problemJSON](t, got).Errors[0].Path, body)
	}
	resp, _ = h.ask("POST", "/v1/tokens", h.token(admin("r")), "application/json", `{"room_list":true}`)
	require.Equal(t, 403, resp.StatusCode, "a token begets no token")
}
