package rooms_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
	"parlor/rooms/log"
	"parlor/rooms/sqlite"
)

func mustUnmarshal(b []byte) *livekit.DataPacket {
	dp := &livekit.DataPacket{}
	if err := proto.Unmarshal(b, dp); err != nil {
		panic(err)
	}
	return dp
}

func webhook(t *testing.T, e log.Event) *livekit.WebhookEvent {
	t.Helper()
	w := &livekit.WebhookEvent{}
	require.NoError(t, protojson.Unmarshal(e.Body, w))
	require.Equal(t, e.ID, w.Id)
	return w
}

// one is the only open room.
func (h *house) one(name string) *livekit.Room {
	h.t.Helper()
	list, err := h.List(context.Background(), []string{name})
	require.NoError(h.t, err)
	require.Len(h.t, list, 1)
	return list[0]
}

// flush returns when all changes of the room are on disk.
func (h *house) flush(room string) {
	h.t.Helper()
	_, err := h.UpdateMetadata(context.Background(), &livekit.UpdateRoomMetadataRequest{Room: room})
	require.NoError(h.t, err)
}

func (h *house) none(name string) {
	h.t.Helper()
	list, err := h.List(context.Background(), []string{name})
	require.NoError(h.t, err)
	require.Empty(h.t, list)
}

func TestACallFromFirstJoinToEmptyRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		ann := h.join("tea", "ann")
		bob := h.join("tea", "bob")
		require.Len(t, bob.snap.Others, 1)
		require.Equal(t, "ann", bob.snap.Others[0].Identity)

		sid := ann.publish(t, "cam", livekit.TrackSource_CAMERA)
		bob.Sync()
		require.True(t, bob.isSubscribed(sid))
		time.Sleep(2 * time.Second)
		room := h.one("tea")
		require.EqualValues(t, 2, room.NumParticipants)
		require.EqualValues(t, 1, room.NumPublishers)

		ann.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
		bob.Sync()
		require.False(t, bob.isSubscribed(sid))
		require.Equal(t, livekit.DisconnectReason_CLIENT_INITIATED, ann.leave().Reason)
		bob.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)

		time.Sleep(19900 * time.Millisecond)
		require.Equal(t, room.Sid, h.one("tea").Sid, "open until its departure timeout")
		time.Sleep(200 * time.Millisecond)
		h.none("tea")
		require.Equal(t, []string{
			"room_started", "participant_joined ann", "participant_joined bob", "track_published ann",
			"track_unpublished ann", "participant_left ann", "participant_left bob", "room_finished",
		}, h.events("tea"))
	})
}

func TestCountsInEventsAreExact(t *testing.T) {
	h := newHouse(t)
	ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
	ann.publish(t, "mic", livekit.TrackSource_MICROPHONE)
	ann.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
	bob.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
	require.NoError(t, h.Delete(t.Context(), "tea"))
	evs, err := h.store.Events(t.Context(), log.Query{Limit: 100})
	require.NoError(t, err)
	var got []string
	for _, e := range evs {
		if w := webhook(t, e); w.Room.CreationTimeMs != 0 {
			got = append(got, fmt.Sprintf("%s %d/%d", e.Type, w.Room.NumParticipants, w.Room.NumPublishers))
		}
	}
	require.Equal(t, []string{
		"room_started 0/0", "participant_joined 1/0", "participant_joined 2/0",
		"participant_left 1/0", "participant_left 0/0", "room_finished 0/0",
	}, got)
}

func TestEmptyTimeoutCountsFromCreation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "quiet", EmptyTimeout: 10})
		require.NoError(t, err)
		time.Sleep(9950 * time.Millisecond)
		h.one("quiet")
		time.Sleep(100 * time.Millisecond)
		h.none("quiet")
		evs, err := h.store.Events(t.Context(), log.Query{Limit: 10, Types: []string{log.RoomFinished}})
		require.NoError(t, err)
		require.Len(t, evs, 1)
		require.Equal(t, livekit.RoomEndReason_ROOM_END_IDLE_TIMEOUT, webhook(t, evs[0]).RoomEndReason)
	})
}

func TestNeverMeansNever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{
			Name: "lobby", EmptyTimeout: rooms.WireNever, DepartureTimeout: rooms.WireNever,
		})
		require.NoError(t, err)
		sid := h.one("lobby").Sid
		// More than a year, in most of which no process runs: the room's time passes all the
		// same, and each five seconds of a process cost the test a look at the clock.
		const restarts, cycle, runs = 100, 96 * time.Hour, 10 * time.Hour
		for n := range restarts {
			time.Sleep(runs)
			if n%5 == 0 {
				c := h.join("lobby", "visitor")
				c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
			}
			h.close()
			time.Sleep(cycle - runs)
			h.open()
			require.Equal(t, sid, h.one("lobby").Sid)
		}
		require.NoError(t, h.Delete(t.Context(), "lobby"))
		h.none("lobby")
	})
}

func TestJoinKeepsARoomOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		c := h.join("long", "ann")
		sid := c.snap.Room.Sid
		time.Sleep(72 * time.Hour)
		require.Equal(t, sid, h.one("long").Sid)
		require.Equal(t, sid, h.join("long", "bob").snap.Room.Sid)
	})
}

func TestDeleteSendsEverybodyAwayAndFreesTheName(t *testing.T) {
	h := newHouse(t)
	ann := h.join("tea", "ann")
	old := ann.snap.Room.Sid
	require.NoError(t, h.Delete(t.Context(), "tea"))
	// The client is told after the request is answered.
	require.Eventually(t, func() bool { return ann.leave() != nil }, 30*time.Second, time.Millisecond)
	require.Equal(t, livekit.DisconnectReason_ROOM_DELETED, ann.leave().Reason)
	require.Equal(t, livekit.LeaveRequest_DISCONNECT, ann.leave().Action)
	require.ErrorIs(t, h.Delete(t.Context(), "tea"), rooms.ErrNoRoom)
	again := h.join("tea", "ann")
	require.NotEqual(t, old, again.snap.Room.Sid)
	ann.publishIgnored()
	require.EqualValues(t, 1, h.one("tea").NumParticipants)
}

// publishIgnored sends a late request to publish, which has no effect.
func (c *client) publishIgnored() {
	c.AddTrack(&livekit.AddTrackRequest{Cid: "late", Type: livekit.TrackType_VIDEO})
	c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
}

func TestSameIdentityReplaces(t *testing.T) {
	h := newHouse(t)
	first := h.join("tea", "ann")
	second := h.join("tea", "ann")
	require.Equal(t, livekit.DisconnectReason_DUPLICATE_IDENTITY, first.leave().Reason)
	require.NotEqual(t, first.SID(), second.SID())
	require.True(t, first.Ended())
	require.EqualValues(t, 1, h.one("tea").NumParticipants)
	h.flush("tea")
	require.Equal(t, []string{"room_started", "participant_joined ann", "participant_left ann", "participant_joined ann"}, h.events("tea"))
}

func TestNeverActiveIsAborted(t *testing.T) {
	h := newHouse(t)
	c, err := h.try("tea", "ann")
	require.NoError(t, err)
	c.SignalLost()
	require.NoError(t, h.Delete(t.Context(), "tea"))
	require.Equal(t, []string{"room_started", "participant_connection_aborted ann", "room_finished"}, h.events("tea"))
}

func TestMaxParticipantsCountsAllButDependents(t *testing.T) {
	h := newHouse(t)
	_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "pair", MaxParticipants: 2})
	require.NoError(t, err)
	h.join("pair", "ann")
	h.join("pair", "agent", func(r *rooms.JoinRequest) { r.Info.Kind = livekit.ParticipantInfo_AGENT })
	h.join("pair", "bob")
	_, err = h.try("pair", "eve")
	require.ErrorIs(t, err, rooms.ErrRoomFull)
	h.join("pair", "bob") // a participant's own seat is not a new one
	require.EqualValues(t, 2, h.one("pair").NumParticipants)
}

// unreadable is a store that cannot be read while fail is set.
type unreadable struct {
	*sqlite.Store
	fail atomic.Bool
}

func (s *unreadable) FindOpen(ctx context.Context, name string) (rooms.Record, error) {
	if s.fail.Load() {
		return rooms.Record{}, errors.New("SELECT * FROM /var/lib/parlor.db")
	}
	return s.Store.FindOpen(ctx, name)
}

// TestCallersAreNotToldOfTheMachine that the store's errors name.
func TestCallersAreNotToldOfTheMachine(t *testing.T) {
	s := &unreadable{}
	h := newHouse(t, func(c *rooms.Config) { s.Store = c.Store.(*sqlite.Store); c.Store = s })
	s.fail.Store(true)
	_, err := h.UpdateMetadata(t.Context(), &livekit.UpdateRoomMetadataRequest{Room: "tea"})
	require.Equal(t, rooms.Unavailable, rooms.ErrorCode(err))
	require.NotContains(t, err.Error(), "parlor.db")
	s.fail.Store(false)
}

// TestACallerGoesWhileTheDiskHangs: it does not wait for longer than it wants to.
func TestACallerGoesWhileTheDiskHangs(t *testing.T) {
	h := &house{t: t, path: filepath.Join(t.TempDir(), "parlor.db")}
	hang := make(chan struct{})
	var hangs atomic.Bool
	h.allow = func() error {
		if hangs.Load() {
			<-hang
		}
		return nil
	}
	h.open()
	t.Cleanup(h.close)
	hangs.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := h.Create(ctx, &livekit.CreateRoomRequest{Name: "tea"})
		done <- err
	}()
	cancel()
	select {
	case err := <-done:
		require.ErrorIs(t, err, context.Canceled)
	case <-time.After(20 * time.Second):
		t.Error("it waits for the disk")
	}
	hangs.Store(false)
	close(hang)
}

// TestARoomIsRecordedWhileARecorderIsThere, also one that is expected back.
func TestARoomIsRecordedWhileARecorderIsThere(t *testing.T) {
	h := newHouse(t)
	recorder := func(r *rooms.JoinRequest) { r.Info.Kind = livekit.ParticipantInfo_EGRESS }
	oldToken := func(r *rooms.JoinRequest) { r.Info.Permission = &livekit.ParticipantPermission{Recorder: true} }
	h.join("tea", "ann")
	require.False(t, h.one("tea").ActiveRecording)
	first, second := h.join("tea", "first", recorder), h.join("tea", "second", oldToken)
	require.True(t, h.one("tea").ActiveRecording)
	leave := func(c *client) {
		c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
		h.flush("tea")
	}
	leave(first)
	require.True(t, h.one("tea").ActiveRecording, "the second recorder is there")
	leave(second)
	require.False(t, h.one("tea").ActiveRecording)

	h.join("tea", "first", recorder)
	h.join("tea", "second", oldToken)
	h.restart()
	leave(h.join("tea", "second", oldToken))
	require.True(t, h.one("tea").ActiveRecording, "the first recorder is expected back")
	leave(h.join("tea", "first", recorder))
	require.False(t, h.one("tea").ActiveRecording)
}

func TestAgentsDoNotKeepARoomOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		agent := h.join("tea", "agent", func(r *rooms.JoinRequest) { r.Info.Kind = livekit.ParticipantInfo_AGENT })
		ann := h.join("tea", "ann")
		ann.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
		time.Sleep(19 * time.Second)
		h.one("tea")
		time.Sleep(1100 * time.Millisecond)
		h.none("tea")
		require.Equal(t, livekit.DisconnectReason_ROOM_CLOSED, agent.leave().Reason)
		require.Equal(t, []string{
			"room_started", "participant_joined agent", "participant_joined ann",
			"participant_left ann", "participant_left agent", "room_finished",
		}, h.events("tea"))
	})
}

func TestHiddenIsSeenByNobody(t *testing.T) {
	h := newHouse(t)
	ann := h.join("tea", "ann")
	spy := h.join("tea", "spy", func(r *rooms.JoinRequest) { r.Info.Permission.Hidden = true })
	require.Len(t, spy.snap.Others, 1)
	ann.Sync()
	require.Nil(t, find(ann, func(m *livekit.SignalResponse) *livekit.ParticipantUpdate {
		for _, p := range m.GetUpdate().GetParticipants() {
			if p.Identity == "spy" {
				return m.GetUpdate()
			}
		}
		return nil
	}))
	require.Empty(t, h.join("tea", "bob").snap.Others[1:], "bob sees ann alone")
}

func TestRestartIsAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
		ann.publish(t, "cam", livekit.TrackSource_CAMERA)
		_, err := h.UpdateMetadata(t.Context(), &livekit.UpdateRoomMetadataRequest{Room: "tea", Metadata: "minutes"})
		require.NoError(t, err)
		_, err = h.UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{
			Room: "tea", Identity: "bob", Attributes: map[string]string{"role": "guest"},
			Permission: &livekit.ParticipantPermission{CanSubscribe: true},
		})
		require.NoError(t, err)
		room := h.one("tea")

		h.restart()
		require.Equal(t, livekit.LeaveRequest_RECONNECT, ann.leave().Action)
		time.Sleep(10 * time.Second)
		back := h.join("tea", "bob")
		require.Equal(t, room.Sid, back.snap.Room.Sid)
		require.Equal(t, "minutes", back.snap.Room.Metadata)
		require.Equal(t, bob.SID(), back.SID())
		require.Equal(t, bob.snap.Self.JoinedAtMs, back.snap.Self.JoinedAtMs)
		require.Equal(t, "guest", back.snap.Self.Attributes["role"])
		require.False(t, back.snap.Self.Permission.CanPublish, "a moderator's decision outlives the token's word")
		require.True(t, back.snap.Resumed)
		require.EqualValues(t, 2, h.one("tea").NumParticipants, "ann is expected back")
		info, err := h.Participant(t.Context(), "tea", "ann")
		require.NoError(t, err)
		require.Equal(t, ann.SID(), info.Sid)

		time.Sleep(51 * time.Second)
		require.EqualValues(t, 1, h.one("tea").NumParticipants)
		require.Equal(t, []string{
			"room_started", "participant_joined ann", "participant_joined bob", "track_published ann",
			"track_unpublished ann", "participant_left ann",
		}, h.events("tea"))
	})
}

func TestDeadlinesRunWhileNothingRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "short", EmptyTimeout: 60})
		require.NoError(t, err)
		_, err = h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "long", EmptyTimeout: 7200})
		require.NoError(t, err)
		h.join("busy", "ann")
		h.close()
		time.Sleep(time.Hour)
		h.open()
		synctest.Wait()
		time.Sleep(time.Millisecond)
		h.none("short")
		h.one("long")
		h.one("busy")
		time.Sleep(time.Minute + 10*time.Second)
		require.EqualValues(t, 0, h.one("busy").NumParticipants, "nobody came back")
		time.Sleep(11 * time.Second)
		h.none("busy")
		require.Equal(t, []string{"room_started", "participant_joined ann", "participant_left ann", "room_finished"}, h.events("busy"))
		require.Equal(t, []string{"room_started", "room_finished"}, h.events("short"))
	})
}

func TestDataGoesToThoseItIsFor(t *testing.T) {
	h := newHouse(t)
	ann, bob, eve := h.join("tea", "ann"), h.join("tea", "bob"), h.join("tea", "eve")
	mute := h.join("tea", "mute", func(r *rooms.JoinRequest) { r.Info.Permission.CanPublishData = false })
	send := func(c *client, dp *livekit.DataPacket) {
		b, err := proto.Marshal(dp)
		require.NoError(t, err)
		c.Data(livekit.DataPacket_RELIABLE, b)
	}
	user := func(s string) *livekit.DataPacket_User {
		return &livekit.DataPacket_User{User: &livekit.UserPacket{Payload: []byte(s)}}
	}
	send(ann, &livekit.DataPacket{Value: user("all"), ParticipantIdentity: "forged", Sequence: 1})
	send(ann, &livekit.DataPacket{Value: user("again"), Sequence: 1})
	send(ann, &livekit.DataPacket{Value: user("bob"), DestinationIdentities: []string{"bob"}, Sequence: 2})
	send(mute, &livekit.DataPacket{Value: user("forbidden")})
	ann.Data(livekit.DataPacket_RELIABLE, []byte("\xffgarbage"))
	require.Len(t, bob.packets(), 2)
	require.Len(t, eve.packets(), 1)
	require.Empty(t, ann.packets())
	require.Equal(t, "ann", eve.packets()[0].ParticipantIdentity)
	require.Equal(t, ann.SID(), eve.packets()[0].ParticipantSid)
}

func TestPermissionIsEnforcedAtOnce(t *testing.T) {
	h := newHouse(t)
	ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
	sid := ann.publish(t, "cam", livekit.TrackSource_CAMERA)
	bob.Sync()
	require.True(t, bob.isSubscribed(sid))
	_, err := h.UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{
		Room: "tea", Identity: "bob", Permission: &livekit.ParticipantPermission{CanPublish: true},
	})
	require.NoError(t, err)
	require.False(t, bob.isSubscribed(sid))
	_, err = h.UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{
		Room: "tea", Identity: "ann", Permission: &livekit.ParticipantPermission{CanSubscribe: true},
	})
	require.NoError(t, err)
	require.EqualValues(t, 0, h.one("tea").NumPublishers)
	require.NotNil(t, find(ann, func(m *livekit.SignalResponse) *livekit.TrackUnpublishedResponse { return m.GetTrackUnpublished() }))
	ann.AddTrack(&livekit.AddTrackRequest{Cid: "x", Type: livekit.TrackType_VIDEO})
	ann.Sync()
	resp := find(ann, func(m *livekit.SignalResponse) *livekit.RequestResponse { return m.GetRequestResponse() })
	require.Equal(t, livekit.RequestResponse_NOT_ALLOWED, resp.GetReason())
}

func TestPublisherDecidesWhoMaySubscribe(t *testing.T) {
	h := newHouse(t)
	ann, bob, eve := h.join("tea", "ann"), h.join("tea", "bob"), h.join("tea", "eve")
	ann.SetSubscriptionPermission(&livekit.SubscriptionPermission{TrackPermissions: []*livekit.TrackPermission{
		{ParticipantIdentity: "bob", AllTracks: true},
	}})
	sid := ann.publish(t, "cam", livekit.TrackSource_CAMERA)
	bob.Sync()
	eve.Sync()
	require.True(t, bob.isSubscribed(sid))
	require.False(t, eve.isSubscribed(sid))
	ann.SetSubscriptionPermission(&livekit.SubscriptionPermission{AllParticipants: true})
	ann.Sync()
	require.True(t, eve.isSubscribed(sid))
}

func TestMuteByTheAPI(t *testing.T) {
	h := newHouse(t)
	ann := h.join("tea", "ann")
	sid := ann.publish(t, "mic", livekit.TrackSource_MICROPHONE)
	info, err := h.MuteTrack(t.Context(), &livekit.MuteRoomTrackRequest{Room: "tea", Identity: "ann", TrackSid: sid, Muted: true})
	require.NoError(t, err)
	require.True(t, info.Muted)
	_, err = h.MuteTrack(t.Context(), &livekit.MuteRoomTrackRequest{Room: "tea", Identity: "ann", TrackSid: sid})
	require.Equal(t, rooms.Precondition, rooms.ErrorCode(err))
	_, err = h.MuteTrack(t.Context(), &livekit.MuteRoomTrackRequest{Room: "tea", Identity: "nobody", TrackSid: sid})
	require.ErrorIs(t, err, rooms.ErrNoParticipant)
}

func TestNoAutoCreate(t *testing.T) {
	h := newHouse(t, func(c *rooms.Config) { c.AutoCreate = false })
	_, err := h.try("tea", "ann")
	require.ErrorIs(t, err, rooms.ErrNoRoom)
	require.ErrorIs(t, h.canJoin("tea", "ann"), rooms.ErrNoRoom)
	_, err = h.try("tea", "host", func(r *rooms.JoinRequest) { r.MayCreate = true })
	require.NoError(t, err)
	_, err = h.try("tea", "ann")
	require.NoError(t, err)
}

func TestManyJoinOneNameAtOnce(t *testing.T) {
	h := newHouse(t)
	const n = 50
	sids := make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			c, err := h.try("rush", fmt.Sprint("p", i))
			if err == nil {
				sids[i] = c.snap.Room.Sid
			}
		})
	}
	wg.Wait()
	for _, sid := range sids {
		require.Equal(t, sids[0], sid)
	}
	require.EqualValues(t, n, h.one("rush").NumParticipants)
}

func TestMoveTakesAParticipantAndItsTracksAlong(t *testing.T) {
	h := newHouse(t)
	ann, bob, eve := h.join("tea", "ann"), h.join("tea", "bob"), h.join("coffee", "eve")
	sid := ann.publish(t, "cam", livekit.TrackSource_CAMERA)
	other := eve.publish(t, "cam", livekit.TrackSource_CAMERA)
	old := ann.SID()
	move := &livekit.MoveParticipantRequest{Room: "tea", Identity: "ann", DestinationRoom: "coffee"}
	require.NoError(t, h.Move(t.Context(), move))
	require.NotEqual(t, old, ann.SID())
	require.Nil(t, ann.leave())
	bob.Sync()
	ann.Sync()
	require.False(t, bob.isSubscribed(sid))
	require.True(t, eve.isSubscribed(sid))
	require.True(t, ann.isSubscribed(other))
	moved := find(ann, func(m *livekit.SignalResponse) *livekit.RoomMovedResponse { return m.GetRoomMoved() })
	require.Equal(t, "coffee", moved.GetRoom().GetName())
	require.Equal(t, ann.SID(), moved.GetParticipant().GetSid())
	require.Equal(t, "eve", moved.GetOtherParticipants()[0].Identity)
	require.ErrorIs(t, h.Move(t.Context(), move), rooms.ErrNoParticipant)
	ann.publish(t, "screen", livekit.TrackSource_SCREEN_SHARE)
	h.flush("coffee")
	require.EqualValues(t, 1, h.one("tea").NumParticipants)
	require.EqualValues(t, 2, h.one("coffee").NumParticipants)
	require.Equal(t, []string{
		"room_started", "participant_joined ann", "participant_joined bob", "track_published ann",
		"track_unpublished ann", "participant_left ann",
	}, h.events("tea"))
	require.Equal(t, []string{
		"room_started", "participant_joined eve", "track_published eve", "participant_joined ann",
		"track_published ann", "track_published ann",
	}, h.events("coffee"))
}

func TestMoveToAFullRoomChangesNothing(t *testing.T) {
	h := newHouse(t)
	ann := h.join("tea", "ann")
	_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "cell", MaxParticipants: 1})
	require.NoError(t, err)
	h.join("cell", "eve")
	err = h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: "tea", Identity: "ann", DestinationRoom: "cell"})
	require.ErrorIs(t, err, rooms.ErrRoomFull)
	require.Nil(t, ann.leave())
	ann.publish(t, "cam", livekit.TrackSource_CAMERA)
	require.EqualValues(t, 1, h.one("tea").NumParticipants)
}

func TestForwardShowsAParticipantInASecondRoom(t *testing.T) {
	h := newHouse(t)
	ann, eve := h.join("stage", "ann"), h.join("hall", "eve")
	cam := ann.publish(t, "cam", livekit.TrackSource_CAMERA)
	forward := &livekit.ForwardParticipantRequest{Room: "stage", Identity: "ann", DestinationRoom: "hall"}
	require.NoError(t, h.Forward(t.Context(), forward))
	h.flush("hall")
	require.True(t, eve.isSubscribed(cam))
	require.Equal(t, rooms.Exists, rooms.ErrorCode(h.Forward(t.Context(), forward)))
	mic := ann.publish(t, "mic", livekit.TrackSource_MICROPHONE)
	h.flush("hall")
	require.True(t, eve.isSubscribed(mic))
	list, err := h.Participants(t.Context(), "hall")
	require.NoError(t, err)
	require.Len(t, list, 2)
	ann.TrackUnpublished(cam)
	ann.Sync()
	h.flush("hall")
	require.False(t, eve.isSubscribed(cam))
	ann.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
	h.flush("stage")
	h.flush("hall")
	require.False(t, eve.isSubscribed(mic))
	require.EqualValues(t, 1, h.one("hall").NumParticipants)
	require.Equal(t, []string{
		"room_started", "participant_joined eve", "participant_joined ann", "track_published ann", "track_published ann",
		"track_unpublished ann", "track_unpublished ann", "participant_left ann",
	}, h.events("hall"))
}

func TestParlorsOwnEvents(t *testing.T) {
	h := newHouse(t)
	ann := h.join("tea", "ann")
	sid := ann.publish(t, "mic", livekit.TrackSource_MICROPHONE)
	ann.Mute(&livekit.MuteTrackRequest{Sid: sid, Muted: true})
	ann.Mute(&livekit.MuteTrackRequest{Sid: sid})
	_, err := h.UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{Room: "tea", Identity: "ann", Name: "Ann"})
	require.NoError(t, err)
	_, err = h.UpdateMetadata(t.Context(), &livekit.UpdateRoomMetadataRequest{Room: "tea", Metadata: "m"})
	require.NoError(t, err)
	h.restart()
	h.join("tea", "ann")
	h.flush("tea")
	evs, err := h.store.Events(t.Context(), log.Query{Limit: 100, Types: parlorsOwn()})
	require.NoError(t, err)
	var got []string
	for _, e := range evs {
		got = append(got, e.Type)
	}
	require.Equal(t, []string{
		"track_muted", "track_unmuted", "participant_updated", "room_updated", "participant_resumed", "room_updated",
	}, got)
	require.Equal(t, "Ann", webhook(t, evs[2]).Participant.Name)
	require.Equal(t, "m", webhook(t, evs[3]).Room.Metadata)
}

func TestTagsAreBounded(t *testing.T) {
	h := newHouse(t, func(c *rooms.Config) { c.Limits.MaxAttributes = 100 })
	long := map[string]string{"a": strings.Repeat("b", 100)}
	_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "tea", Tags: long})
	require.Equal(t, rooms.Invalid, rooms.ErrorCode(err))
	_, err = h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "tea", Tags: map[string]string{"a": "b"}})
	require.NoError(t, err)
	_, err = h.Edit(t.Context(), "tea", rooms.RoomEdit{Tags: long})
	require.Equal(t, rooms.Invalid, rooms.ErrorCode(err))
	err = h.Remove(t.Context(), &livekit.RoomParticipantIdentity{Room: "tea", Identity: "ann", RevokeTokenTs: time.Now().UnixNano()})
	require.Equal(t, rooms.Invalid, rooms.ErrorCode(err))
}
