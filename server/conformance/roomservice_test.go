package conformance

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/stretchr/testify/require"
	"github.com/twitchtv/twirp"
)

func roomService(s *server) *lksdk.RoomServiceClient {
	return lksdk.NewRoomServiceClient(s.http(), apiKey, apiSecret)
}

func requireTwirp(t *testing.T, err error, code twirp.ErrorCode, text string) {
	t.Helper()
	require.Error(t, err)
	var e twirp.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, code, e.Code(), e.Msg())
	require.Contains(t, e.Msg(), text)
}

func testRoomServiceRooms(t *testing.T) {
	t.Parallel()
	ctx, api, name := t.Context(), roomService(env.server), roomName(t)
	before := time.Now().Add(-time.Second)
	room, err := api.CreateRoom(ctx, &livekit.CreateRoomRequest{
		Name: name, EmptyTimeout: 600, DepartureTimeout: 60, MaxParticipants: 7, Metadata: "first",
	})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(room.Sid, "RM_"))
	require.Equal(t, name, room.Name)
	require.Equal(t, uint32(600), room.EmptyTimeout)
	require.Equal(t, uint32(60), room.DepartureTimeout)
	require.Equal(t, uint32(7), room.MaxParticipants)
	require.Equal(t, "first", room.Metadata)
	require.GreaterOrEqual(t, room.CreationTimeMs, before.UnixMilli())
	require.Equal(t, room.CreationTimeMs/1000, room.CreationTime)
	require.NotEmpty(t, room.EnabledCodecs)

	again, err := api.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: name})
	require.NoError(t, err)
	require.Equal(t, room.Sid, again.Sid, "an open room is not created twice")
	require.Equal(t, "first", again.Metadata)

	list, err := api.ListRooms(ctx, &livekit.ListRoomsRequest{Names: []string{name, "no such room"}})
	require.NoError(t, err)
	require.Len(t, list.Rooms, 1)
	require.Equal(t, room.Sid, list.Rooms[0].Sid)
	all, err := api.ListRooms(ctx, &livekit.ListRoomsRequest{})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(all.Rooms), 1)

	listener := dual.join(t, name, "listener")
	require.Equal(t, "first", listener.Metadata())
	updated, err := api.UpdateRoomMetadata(ctx, &livekit.UpdateRoomMetadataRequest{Room: name, Metadata: "second"})
	require.NoError(t, err)
	require.Equal(t, "second", updated.Metadata)
	listener.await(t, "room metadata second")

	_, err = api.DeleteRoom(ctx, &livekit.DeleteRoomRequest{Room: name})
	require.NoError(t, err)
	listener.await(t, "disconnected ROOM_DELETED")
	list, err = api.ListRooms(ctx, &livekit.ListRoomsRequest{Names: []string{name}})
	require.NoError(t, err)
	require.Empty(t, list.Rooms)

	reborn, err := api.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: name})
	require.NoError(t, err)
	require.NotEqual(t, room.Sid, reborn.Sid, "a new room of the name is another room")
	require.Empty(t, reborn.Metadata)
	_, err = api.DeleteRoom(ctx, &livekit.DeleteRoomRequest{Room: name})
	require.NoError(t, err)

	_, err = api.DeleteRoom(ctx, &livekit.DeleteRoomRequest{Room: roomName(t)})
	requireTwirp(t, err, twirp.NotFound, "requested room does not exist")
	_, err = api.UpdateRoomMetadata(ctx, &livekit.UpdateRoomMetadataRequest{Room: roomName(t), Metadata: "x"})
	requireTwirp(t, err, twirp.NotFound, "requested room does not exist")
	_, err = api.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: strings.Repeat("n", 257)})
	requireTwirp(t, err, twirp.InvalidArgument, "")
}

func testRoomServiceParticipants(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		ctx, api, room := t.Context(), roomService(env.server), roomName(t)
		alice, bob := m.join(t, room, "alice"), m.join(t, room, "bob")
		audio := alice.publishMicrophone(t)
		bob.awaitMedia(t, audio.SID(), 5)
		alice.sees(t, "bob")
		id := func(identity string) *livekit.RoomParticipantIdentity {
			return &livekit.RoomParticipantIdentity{Room: room, Identity: identity}
		}

		list, err := api.ListParticipants(ctx, &livekit.ListParticipantsRequest{Room: room})
		require.NoError(t, err)
		require.Len(t, list.Participants, 2)
		info, err := api.GetParticipant(ctx, id("alice"))
		require.NoError(t, err)
		require.Equal(t, alice.LocalParticipant.SID(), info.Sid)
		require.Equal(t, livekit.ParticipantInfo_ACTIVE, info.State)
		require.InDelta(t, time.Now().UnixMilli(), info.JoinedAtMs, 60_000)
		require.Equal(t, info.JoinedAtMs/1000, info.JoinedAt)
		require.True(t, info.IsPublisher)
		require.Len(t, info.Tracks, 1)
		require.Equal(t, audio.SID(), info.Tracks[0].Sid)
		require.Equal(t, mic, info.Tracks[0].Source)

		muted, err := api.MutePublishedTrack(ctx, &livekit.MuteRoomTrackRequest{
			Room: room, Identity: "alice", TrackSid: audio.SID(), Muted: true})
		require.NoError(t, err)
		require.True(t, muted.Track.Muted)
		bob.await(t, "muted alice MICROPHONE")
		alice.await(t, "muted alice MICROPHONE")
		bob.awaitSilence(t, audio.SID())
		_, err = api.MutePublishedTrack(ctx, &livekit.MuteRoomTrackRequest{
			Room: room, Identity: "alice", TrackSid: audio.SID(), Muted: false})
		requireTwirp(t, err, twirp.FailedPrecondition, "remote unmute not enabled")
		audio.SetMuted(false)
		bob.awaitMedia(t, audio.SID(), 5)

		_, err = api.UpdateSubscriptions(ctx, &livekit.UpdateSubscriptionsRequest{
			Room: room, Identity: "bob", TrackSids: []string{audio.SID()}, Subscribe: false})
		require.NoError(t, err)
		bob.awaitSilence(t, audio.SID())
		_, err = api.UpdateSubscriptions(ctx, &livekit.UpdateSubscriptionsRequest{
			Room: room, Identity: "bob", Subscribe: true,
			ParticipantTracks: []*livekit.ParticipantTracks{{
				ParticipantSid: alice.LocalParticipant.SID(), TrackSids: []string{audio.SID()}}}})
		require.NoError(t, err)
		bob.awaitMedia(t, audio.SID(), 5)

		changed, err := api.UpdateParticipant(ctx, &livekit.UpdateParticipantRequest{
			Room: room, Identity: "alice", Metadata: "by the moderator", Name: "Alice",
			Attributes: map[string]string{"a": "1", "b": "2"}})
		require.NoError(t, err)
		require.Equal(t, "by the moderator", changed.Metadata)
		require.Equal(t, "Alice", changed.Name)
		bob.await(t, "metadata alice by the moderator")
		bob.await(t, "attributes alice map[a:1 b:2]")
		changed, err = api.UpdateParticipant(ctx, &livekit.UpdateParticipantRequest{
			Room: room, Identity: "alice", Attributes: map[string]string{"a": ""}})
		require.NoError(t, err)
		require.Equal(t, map[string]string{"b": "2"}, changed.Attributes)
		require.Equal(t, "by the moderator", changed.Metadata, "what is empty in the request stays")

		_, err = api.SendData(ctx, &livekit.SendDataRequest{
			Room: room, Data: []byte("from the server"), Kind: livekit.DataPacket_RELIABLE,
			DestinationIdentities: []string{"bob"}, Topic: ptr("notice")})
		require.NoError(t, err)
		eventually(t, "bob gets the server's data", func() bool {
			for _, d := range bob.received() {
				if d == (datum{"", "notice", "from the server"}) {
					return true
				}
			}
			return false
		})
		require.Empty(t, alice.received())

		// Data of up to the documented size arrives.
		large := strings.Repeat("x", 65535-100)
		_, err = api.SendData(ctx, &livekit.SendDataRequest{Room: room, Data: []byte(large), DestinationIdentities: []string{"bob"}})
		require.NoError(t, err)
		eventually(t, "bob gets as much as a client takes", func() bool { return slices.Contains(bob.received(), datum{"", "", large}) })
		_, err = api.SendData(ctx, &livekit.SendDataRequest{Room: room, Data: []byte(large + large[:100])})
		requireTwirp(t, err, twirp.InvalidArgument, "65535")

		// Removing the permission to publish ends the track.
		_, err = api.UpdateParticipant(ctx, &livekit.UpdateParticipantRequest{
			Room: room, Identity: "alice", Permission: &livekit.ParticipantPermission{CanSubscribe: true, CanPublishData: true}})
		require.NoError(t, err)
		bob.await(t, "unpublished alice MICROPHONE")
		info, err = api.GetParticipant(ctx, id("alice"))
		require.NoError(t, err)
		require.False(t, info.Permission.CanPublish)
		require.Empty(t, info.Tracks)

		_, err = api.RemoveParticipant(ctx, id("bob"))
		require.NoError(t, err)
		bob.await(t, "disconnected PARTICIPANT_REMOVED")
		alice.await(t, "left bob")
		_, err = api.GetParticipant(ctx, id("bob"))
		requireTwirp(t, err, twirp.NotFound, "participant does not exist")
		_, err = api.RemoveParticipant(ctx, id("bob"))
		requireTwirp(t, err, twirp.NotFound, "participant does not exist")
		_, err = api.UpdateParticipant(ctx, &livekit.UpdateParticipantRequest{Room: room, Identity: "bob", Metadata: "x"})
		requireTwirp(t, err, twirp.NotFound, "participant does not exist")
	})
}

// TestPermissionGivenLater: later permissions take effect at once.
func TestPermissionGivenLater(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		ctx, api, room := t.Context(), roomService(env.server), roomName(t)
		alice := m.join(t, room, "alice")
		audio := alice.publishMicrophone(t)
		deaf := m.joinAs(t, "bob", &auth.VideoGrant{RoomJoin: true, Room: room, CanSubscribe: ptr(false), CanPublish: ptr(false)})
		require.NotNil(t, deaf.remote(t, "alice", mic), "who may not subscribe still sees what there is")
		steadily(t, time.Second, "bob receives nothing", func() bool { return deaf.inbound(audio.SID()) == nil })
		_, err := api.UpdateParticipant(ctx, &livekit.UpdateParticipantRequest{
			Room: room, Identity: "bob",
			Permission: &livekit.ParticipantPermission{CanSubscribe: true, CanPublish: true, CanPublishData: true}})
		require.NoError(t, err)
		deaf.awaitMedia(t, audio.SID(), 10)
		alice.awaitMedia(t, deaf.publishMicrophone(t).SID(), 10)
	})
}

func testRoomServiceAbsent(t *testing.T) {
	t.Parallel()
	ctx, api, room := t.Context(), roomService(env.server), roomName(t)
	list, err := api.ListParticipants(ctx, &livekit.ListParticipantsRequest{Room: room})
	require.NoError(t, err)
	require.Empty(t, list.Participants)
	_, err = api.GetParticipant(ctx, &livekit.RoomParticipantIdentity{Room: room, Identity: "nobody"})
	requireTwirp(t, err, twirp.NotFound, "participant does not exist")

	// Stock waits three seconds to answer "unavailable"; Parlor answers at once.
	absent := twirp.NotFound
	if env.reference {
		absent = twirp.Unavailable
	}
	_, err = api.MutePublishedTrack(ctx, &livekit.MuteRoomTrackRequest{Room: room, Identity: "nobody", TrackSid: "TR_x", Muted: true})
	requireTwirp(t, err, absent, "")
	_, err = api.UpdateSubscriptions(ctx, &livekit.UpdateSubscriptionsRequest{Room: room, Identity: "nobody", TrackSids: []string{"TR_x"}})
	requireTwirp(t, err, absent, "")
	_, err = api.SendData(ctx, &livekit.SendDataRequest{Room: room, Data: []byte("x")})
	requireTwirp(t, err, absent, "")
}

func testRoomServiceGrants(t *testing.T) {
	t.Parallel()
	ctx, room := t.Context(), roomName(t)
	call := map[string]func(livekit.RoomService) error{
		"create": func(c livekit.RoomService) error {
			_, err := c.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: room})
			return err
		},
		"list": func(c livekit.RoomService) error {
			_, err := c.ListRooms(ctx, &livekit.ListRoomsRequest{})
			return err
		},
		"participants": func(c livekit.RoomService) error {
			_, err := c.ListParticipants(ctx, &livekit.ListParticipantsRequest{Room: room})
			return err
		},
		"metadata": func(c livekit.RoomService) error {
			_, err := c.UpdateRoomMetadata(ctx, &livekit.UpdateRoomMetadataRequest{Room: room, Metadata: "m"})
			return err
		},
		"delete": func(c livekit.RoomService) error {
			_, err := c.DeleteRoom(ctx, &livekit.DeleteRoomRequest{Room: room})
			return err
		},
	}
	order := []string{"create", "list", "participants", "metadata", "delete"}
	for _, c := range []struct {
		name    string
		grant   *auth.VideoGrant
		allowed string
	}{
		{"nothing", nil, ""},
		{"join only", join(room), ""},
		{"create", &auth.VideoGrant{RoomCreate: true}, "create delete"},
		{"list", &auth.VideoGrant{RoomList: true}, "list"},
		{"admin of another room", &auth.VideoGrant{RoomAdmin: true, Room: "another"}, ""},
		{"create and admin", &auth.VideoGrant{RoomCreate: true, RoomAdmin: true, Room: room}, "create participants metadata delete"},
	} {
		client := livekit.NewRoomServiceProtobufClient(env.server.http(), bearer(t, c.grant))
		for _, name := range order {
			err := call[name](client)
			if strings.Contains(c.allowed, name) {
				require.NoError(t, err, "%s with %s", name, c.name)
			} else {
				requireTwirp(t, err, twirp.Unauthenticated, "permissions denied")
			}
		}
	}
}
