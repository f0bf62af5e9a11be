package conformance

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

// testWebhooks delivers a whole call, and compares every event and its content.
func testWebhooks(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		api := roomService(env.server)
		created, err := api.CreateRoom(t.Context(), &livekit.CreateRoomRequest{Name: room, DepartureTimeout: 1, Metadata: "m"})
		require.NoError(t, err)
		alice := m.join(t, room, "alice")
		env.hooks.await(t, room, "participant_joined alice")
		bob := m.join(t, room, "bob")
		env.hooks.await(t, room, "participant_joined bob")
		audio := alice.publishMicrophone(t)
		env.hooks.await(t, room, "track_published alice MICROPHONE")
		video := alice.publishCamera(t)
		env.hooks.await(t, room, "track_published alice CAMERA")
		bob.awaitMedia(t, audio.SID(), 5)
		bob.awaitMedia(t, video.SID(), 5)
		require.NoError(t, alice.LocalParticipant.UnpublishTrack(video.SID()))
		env.hooks.await(t, room, "track_unpublished alice CAMERA")
		sids := map[string]string{"alice": alice.LocalParticipant.SID(), "bob": bob.LocalParticipant.SID()}
		alice.Disconnect()
		env.hooks.await(t, room, "participant_left alice")
		_, err = api.RemoveParticipant(t.Context(), &livekit.RoomParticipantIdentity{Room: room, Identity: "bob"})
		require.NoError(t, err)
		env.hooks.await(t, room, "room_finished")

		require.Equal(t, []string{
			"room_started",
			"participant_joined alice", "participant_joined bob",
			"track_published alice MICROPHONE", "track_published alice CAMERA",
			"track_unpublished alice CAMERA",
			"track_unpublished alice MICROPHONE", "participant_left alice",
			"participant_left bob",
			"room_finished",
		}, env.hooks.lines(room))
		env.hooks.check(t)

		ids := map[string]bool{}
		for _, e := range env.hooks.of(room) {
			require.True(t, strings.HasPrefix(e.Id, "EV_"), e.Id)
			require.False(t, ids[e.Id], "ids differ")
			ids[e.Id] = true
			require.InDelta(t, time.Now().Unix(), e.CreatedAt, 120, "seconds")
			require.Equal(t, created.Sid, e.Room.Sid)
			if e.Participant != nil {
				require.Equal(t, sids[e.Participant.Identity], e.Participant.Sid)
			}
			if strings.HasPrefix(e.Event, "track_") { // with only the ids of room and participant
				require.True(t, proto.Equal(&livekit.Room{Sid: created.Sid, Name: room}, e.Room), "%v", e.Room)
				require.True(t, proto.Equal(&livekit.ParticipantInfo{Sid: sids["alice"], Identity: "alice"}, e.Participant), "%v", e.Participant)
				require.NotEmpty(t, e.Track.Sid)
				continue
			}
			require.Equal(t, room, e.Room.Name)
			require.Equal(t, "m", e.Room.Metadata)
			require.Equal(t, created.CreationTime, e.Room.CreationTime)
			require.NotEmpty(t, e.Room.TurnPassword)
			require.NotEmpty(t, e.Room.EnabledCodecs)
		}
		find := func(line string) *livekit.WebhookEvent {
			return env.hooks.of(room)[slices.Index(env.hooks.lines(room), line)]
		}
		require.Equal(t, livekit.ParticipantInfo_ACTIVE, find("participant_joined bob").Participant.State)
		left := find("participant_left alice")
		require.Equal(t, livekit.ParticipantInfo_DISCONNECTED, left.Participant.State)
		require.Equal(t, livekit.DisconnectReason_CLIENT_INITIATED, left.Participant.DisconnectReason)
		require.Equal(t, livekit.DisconnectReason_PARTICIPANT_REMOVED, find("participant_left bob").Participant.DisconnectReason)
		published := find("track_published alice MICROPHONE")
		require.Equal(t, audio.SID(), published.Track.Sid)
		require.Equal(t, livekit.TrackType_AUDIO, published.Track.Type)

		if !env.reference { // stock counts only from time to time
			require.Equal(t, uint32(1), find("participant_joined alice").Room.NumParticipants)
			require.Equal(t, uint32(2), find("participant_joined bob").Room.NumParticipants)
			require.Equal(t, uint32(1), left.Room.NumParticipants)
			require.Equal(t, uint32(0), find("participant_left bob").Room.NumParticipants)
			require.Equal(t, uint32(0), find("room_finished").Room.NumParticipants)
		}
	})
}

// testAborted: a client that leaves before it was connected has not joined.
func testAborted(t *testing.T) {
	t.Parallel()
	room := roomName(t)
	for _, c := range []*signaller{dialLegacy(t, room, "legacy"), dialSingle(t, room, "single")} {
		who := c.joined(t).Participant
		c.request(t, &livekit.SignalRequest{Message: &livekit.SignalRequest_Leave{Leave: &livekit.LeaveRequest{}}})
		env.hooks.await(t, room, "participant_connection_aborted "+who.Identity)
		require.NotContains(t, env.hooks.lines(room), "participant_joined "+who.Identity)
	}
	env.hooks.check(t)
}

// TestCounts: the API counts participants and publishers.
func TestCounts(t *testing.T) {
	t.Parallel()
	room, api := roomName(t), roomService(env.server)
	alice := dual.join(t, room, "alice")
	single.join(t, room, "bob")
	alice.publishMicrophone(t)
	count := func() (uint32, uint32) {
		list, err := api.ListRooms(t.Context(), &livekit.ListRoomsRequest{Names: []string{room}})
		require.NoError(t, err)
		require.Len(t, list.Rooms, 1)
		return list.Rooms[0].NumParticipants, list.Rooms[0].NumPublishers
	}
	eventually(t, "two participants, one of them publishing", func() bool {
		participants, publishers := count()
		return participants == 2 && publishers == 1
	})
	alice.Disconnect()
	eventually(t, "one participant", func() bool {
		participants, publishers := count()
		return participants == 1 && publishers == 0
	})
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	api := roomService(env.server)
	t.Run("never joined", func(t *testing.T) {
		t.Parallel()
		room := roomName(t)
		created, err := api.CreateRoom(t.Context(), &livekit.CreateRoomRequest{Name: room, EmptyTimeout: 2, DepartureTimeout: 600})
		require.NoError(t, err)
		env.hooks.await(t, room, "room_finished")
		checkEnd(t, time.UnixMilli(created.CreationTimeMs).Add(2*time.Second))
		require.Equal(t, []string{"room_started", "room_finished"}, env.hooks.lines(room))
	})
	t.Run("left", func(t *testing.T) {
		t.Parallel()
		room := roomName(t)
		_, err := api.CreateRoom(t.Context(), &livekit.CreateRoomRequest{Name: room, EmptyTimeout: 600, DepartureTimeout: 2})
		require.NoError(t, err)
		alice := dual.join(t, room, "alice")
		sid := alice.SID()
		env.hooks.await(t, room, "participant_joined alice")
		alice.Disconnect()
		env.hooks.await(t, room, "participant_left alice")
		left := time.Now()

		// A participant that returns in time finds the same room.
		bob := dual.join(t, room, "bob")
		require.Equal(t, sid, bob.SID())
		steadily(t, 3*time.Second-time.Since(left), "the room stays while somebody is in it", func() bool {
			return !slices.Contains(env.hooks.lines(room), "room_finished")
		})
		bob.Disconnect()
		env.hooks.await(t, room, "participant_left bob")
		left = time.Now()
		env.hooks.await(t, room, "room_finished")
		checkEnd(t, left.Add(2*time.Second))

		// A join after the end opens another room.
		require.NotEqual(t, sid, dual.join(t, room, "carol").SID())
	})
}

// checkEnd compares the present time with the deadline of a room that has just ended.
// Other tests check Parlor's accuracy with a fake clock; here the delivery of the webhook
// and a busy machine need time.
func checkEnd(t *testing.T, deadline time.Time) {
	t.Helper()
	late := time.Since(deadline)
	require.Greater(t, late, -250*time.Millisecond)
	require.Less(t, late, 10*time.Second)
}

func TestAutoCreateOff(t *testing.T) {
	t.Parallel()
	s := startServer(t, settings{"room": map[string]any{"auto_create": false}})
	room := roomName(t)
	status, body, err := fetch(t.Context(), s.http()+"/rtc/validate?access_token="+token(t, "alice", join(room)))
	require.NoError(t, err)
	require.Equal(t, 404, status)
	require.Contains(t, body, "requested room does not exist")
	_, err = roomService(s).CreateRoom(t.Context(), &livekit.CreateRoomRequest{Name: room})
	require.NoError(t, err)
	for _, m := range []mode{dual, single} {
		m.joinAt(t, s.ws(), token(t, "alice-"+m.name, join(room)))
	}
}
