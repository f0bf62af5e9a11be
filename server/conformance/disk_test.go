package conformance

import (
	"net/http"
	"testing"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/stretchr/testify/require"
	"github.com/twitchtv/twirp"
	"golang.org/x/sys/unix"
)

// fill prevents all files of the server from growing, as on a full disk, or permits it
// again. It uses a process limit, because a really full disk would need a separate file
// system.
func (s *server) fill(t *testing.T, full bool) {
	t.Helper()
	var limit unix.Rlimit
	require.NoError(t, unix.Prlimit(s.cmd.Process.Pid, unix.RLIMIT_FSIZE, nil, &limit))
	limit.Cur = limit.Max
	if full {
		limit.Cur = 1
	}
	require.NoError(t, unix.Prlimit(s.cmd.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil))
}

// TestDiskFullInACall: calls continue while the disk is full, and requests that need a
// write are refused. Events meanwhile are written and delivered when there is space
// again.
func TestDiskFullInACall(t *testing.T) {
	parlorOnly(t)
	s := startServer(t, settings{"webhook": map[string]any{"api_key": apiKey, "urls": []string{env.hooks.URL}}})
	room, api := roomName(t), roomService(s)
	created, err := api.CreateRoom(t.Context(), &livekit.CreateRoomRequest{Name: room, EmptyTimeout: 1001, DepartureTimeout: 1002})
	require.NoError(t, err)
	joinRoom := func(m mode, identity string) *peer { return m.joinAt(t, s.ws(), token(t, identity, join(room))) }
	alice, bob, carol := joinRoom(dual, "alice"), joinRoom(single, "bob"), joinRoom(dual, "carol")
	audio, video := alice.publishMicrophone(t), bob.publishCamera(t)
	bob.awaitMedia(t, audio.SID(), 5)
	alice.awaitMedia(t, video.SID(), 5)
	env.hooks.await(t, room, "participant_joined carol")
	env.hooks.await(t, room, "track_published bob CAMERA")

	s.fill(t, true)
	carol.Disconnect() // her leaving cannot be refused, so it is written later
	_, err = api.CreateRoom(t.Context(), &livekit.CreateRoomRequest{Name: room + "-refused"})
	requireTwirp(t, err, twirp.Unavailable, "the database cannot be written")
	_, err = api.UpdateRoomMetadata(t.Context(), &livekit.UpdateRoomMetadataRequest{Room: room, Metadata: "refused"})
	requireTwirp(t, err, twirp.Unavailable, "cannot be written")
	status, body, err := fetch(t.Context(), s.http()+"/readyz")
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, body, "the database cannot be written")
	status, _, err = fetch(t.Context(), s.http()+"/healthz")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status, "it is not to be restarted")
	list, err := api.ListRooms(t.Context(), &livekit.ListRoomsRequest{Names: []string{room}})
	require.NoError(t, err, "what is there can be read")
	require.Empty(t, list.Rooms[0].Metadata)

	bob.awaitMedia(t, audio.SID(), 50)
	alice.awaitMedia(t, video.SID(), 20)
	require.NoError(t, alice.LocalParticipant.PublishDataPacket(lksdk.UserData([]byte("still here")), lksdk.WithDataPublishReliable(true)))
	eventually(t, "data flows", func() bool { return len(bob.received()) == 1 })
	require.NotContains(t, env.hooks.lines(room), "participant_left carol", "nothing is told that is not written")

	s.fill(t, false)
	env.hooks.await(t, room, "participant_left carol")
	eventually(t, "it is ready again", func() bool {
		status, _, err := fetch(t.Context(), s.http()+"/readyz")
		return err == nil && status == http.StatusOK
	})
	_, err = api.UpdateRoomMetadata(t.Context(), &livekit.UpdateRoomMetadataRequest{Room: room, Metadata: "taken"})
	require.NoError(t, err)
	bob.awaitMedia(t, audio.SID(), 5)
	alice.Disconnect()
	env.hooks.await(t, room, "participant_left alice")

	s.kill() // acknowledged changes are kept, refused ones are not there
	require.NoError(t, s.start())
	list, err = api.ListRooms(t.Context(), &livekit.ListRoomsRequest{})
	require.NoError(t, err)
	require.Len(t, list.Rooms, 1)
	require.Equal(t, created.Sid, list.Rooms[0].Sid)
	require.Equal(t, "taken", list.Rooms[0].Metadata)
	want := []string{"room_started", "participant_left carol", "participant_left alice"}
	for _, line := range want {
		n := 0
		for _, l := range env.hooks.lines(room) {
			if l == line {
				n++
			}
		}
		require.Equal(t, 1, n, line)
	}
	env.hooks.check(t)
}
