package conformance

import (
	"context"
	"strings"
	"testing"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
	"github.com/twitchtv/twirp"
	"google.golang.org/protobuf/proto"
)

// testDataChannels: data packets use _reliable and _lossy: to the server on the channels
// that the client made, from the server on those of the connection by which the client
// receives. The server sets the sender.
func testDataChannels(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		bob := m.join(t, room, "bob")
		c := newCaller(t, m, room, "alice")
		c.connect()
		sid := c.ws.joined(t).Participant.Sid
		bob.sees(t, "alice")
		channels := 1 // with one connection the client's channels serve both directions
		if !c.single {
			channels = 2
		}
		for _, label := range []string{"_reliable", "_lossy"} {
			eventually(t, "the channels "+label, func() bool { return len(c.data.of(label)) == channels })
			for _, dc := range c.data.of(label) {
				eventually(t, label+" opens", func() bool { return dc.ReadyState() == webrtc.DataChannelStateOpen })
			}
			dc := c.data.of(label)[channels-1]
			require.Equal(t, label == "_reliable", dc.Ordered(), label)
			if label == "_lossy" {
				require.NotNil(t, dc.MaxRetransmits())
				require.Zero(t, *dc.MaxRetransmits())
			}
		}
		for label, kind := range map[string]livekit.DataPacket_Kind{
			"_reliable": livekit.DataPacket_RELIABLE, "_lossy": livekit.DataPacket_LOSSY,
		} {
			data, err := proto.Marshal(&livekit.DataPacket{
				ParticipantIdentity: "somebody else", ParticipantSid: "PA_somebody", Kind: kind,
				Value: &livekit.DataPacket_User{User: &livekit.UserPacket{Payload: []byte(label), Topic: ptr("t")}},
			})
			require.NoError(t, err)
			want := datum{"alice", "t", label}
			require.NoError(t, c.data.of(label)[0].Send(data))
			eventually(t, "bob gets what alice sends on "+label, func() bool {
				if kind == livekit.DataPacket_LOSSY { // lossy packets may be lost
					require.NoError(t, c.data.of(label)[0].Send(data))
				}
				for _, got := range bob.received() {
					if got == want {
						return true
					}
				}
				return false
			})
			reply := "reply on " + label
			eventually(t, "alice gets what bob sends as "+kind.String(), func() bool {
				require.NoError(t, bob.LocalParticipant.PublishDataPacket(lksdk.UserData([]byte(reply)),
					lksdk.WithDataPublishReliable(kind == livekit.DataPacket_RELIABLE)))
				for _, got := range c.data.packets() {
					if string(got.GetUser().GetPayload()) == reply {
						require.Equal(t, "bob", got.ParticipantIdentity)
						require.Equal(t, bob.LocalParticipant.SID(), got.ParticipantSid)
						require.Equal(t, kind, got.Kind) // for old clients
						return true
					}
				}
				return false
			})
		}
		require.NotEqual(t, "PA_somebody", sid)
	})
}

// testRoomUpdates: a change of the room's metadata is sent at once, changes of its counts
// a moment later.
func testRoomUpdates(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		c := newCaller(t, m, room, "alice")
		c.connect()
		told := func(what string, such func(*livekit.Room) bool) {
			t.Helper()
			await(t, c.ws, "a room update: "+what, func(m *livekit.SignalResponse) *livekit.Room {
				if r := m.GetRoomUpdate().GetRoom(); r != nil && such(r) {
					return r
				}
				return nil
			})
		}
		_, err := roomService(env.server).UpdateRoomMetadata(t.Context(), &livekit.UpdateRoomMetadataRequest{Room: room, Metadata: "news"})
		require.NoError(t, err)
		sid := c.ws.joined(t).Room.Sid
		told("the metadata", func(r *livekit.Room) bool { return r.Sid == sid && r.Name == room && r.Metadata == "news" })
		m.join(t, room, "bob").publishMicrophone(t)
		told("the counts", func(r *livekit.Room) bool { return r.NumParticipants == 2 && r.NumPublishers == 1 })
	})
}

// testRoomServiceErrors: the codes are the same in both of Twirp's encodings.
func testRoomServiceErrors(t *testing.T) {
	t.Parallel()
	room := roomName(t)
	dual.join(t, room, "alice")
	all := bearer(t, &auth.VideoGrant{RoomCreate: true, RoomList: true, RoomAdmin: true, Room: room})
	for name, api := range map[string]livekit.RoomService{
		"JSON":     livekit.NewRoomServiceJSONClient(env.server.http(), all),
		"protobuf": livekit.NewRoomServiceProtobufClient(env.server.http(), all),
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			for _, c := range []struct {
				what string
				code twirp.ErrorCode
				call func(context.Context) error
			}{
				{"a room name beyond 256 bytes", twirp.InvalidArgument, func(ctx context.Context) error {
					_, err := api.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: strings.Repeat("n", 257)})
					return err
				}},
				{"an unknown preset", twirp.InvalidArgument, func(ctx context.Context) error {
					_, err := api.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: room + "-preset", RoomPreset: "unknown"})
					return err
				}},
				{"metadata beyond 512 KiB", twirp.InvalidArgument, func(ctx context.Context) error {
					_, err := api.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: room + "-metadata", Metadata: strings.Repeat("m", 512<<10+1)})
					return err
				}},
				{"delete an absent room", twirp.NotFound, func(ctx context.Context) error {
					_, err := api.DeleteRoom(ctx, &livekit.DeleteRoomRequest{Room: room + "-absent"})
					return err
				}},
				{"an absent participant", twirp.NotFound, func(ctx context.Context) error {
					_, err := api.GetParticipant(ctx, &livekit.RoomParticipantIdentity{Room: room, Identity: "nobody"})
					return err
				}},
				{"remove an absent participant", twirp.NotFound, func(ctx context.Context) error {
					_, err := api.RemoveParticipant(ctx, &livekit.RoomParticipantIdentity{Room: room, Identity: "nobody"})
					return err
				}},
				{"update an absent participant", twirp.NotFound, func(ctx context.Context) error {
					_, err := api.UpdateParticipant(ctx, &livekit.UpdateParticipantRequest{Room: room, Identity: "nobody", Metadata: "m"})
					return err
				}},
				{"a nonce of another length", twirp.InvalidArgument, func(ctx context.Context) error {
					_, err := api.SendData(ctx, &livekit.SendDataRequest{Room: room, Data: []byte("d"), Nonce: []byte("short")})
					return err
				}},
				{"a call of nobody", twirp.InvalidArgument, func(ctx context.Context) error {
					_, err := api.PerformRpc(ctx, &livekit.PerformRpcRequest{Room: room, Method: "m"})
					return err
				}},
				{"the admin of another room", twirp.Unauthenticated, func(ctx context.Context) error {
					_, err := api.ListParticipants(ctx, &livekit.ListParticipantsRequest{Room: room + "-absent"})
					return err
				}},
				{"metadata of another's room", twirp.Unauthenticated, func(ctx context.Context) error {
					_, err := api.UpdateRoomMetadata(ctx, &livekit.UpdateRoomMetadataRequest{Room: room + "-absent", Metadata: "m"})
					return err
				}},
			} {
				err := c.call(ctx)
				require.Error(t, err, c.what)
				var e twirp.Error
				require.ErrorAs(t, err, &e, c.what)
				require.Equal(t, c.code, e.Code(), "%s: %s", c.what, e.Msg())
			}
			// Some calls succeed even if the named object does not exist.
			_, err := api.UpdateSubscriptions(ctx, &livekit.UpdateSubscriptionsRequest{Room: room, Identity: "alice", TrackSids: []string{"TR_unknown"}, Subscribe: true})
			require.NoError(t, err)
			_, err = api.MutePublishedTrack(ctx, &livekit.MuteRoomTrackRequest{Room: room, Identity: "alice", TrackSid: "TR_unknown", Muted: true})
			require.NoError(t, err)
			_, err = api.SendData(ctx, &livekit.SendDataRequest{Room: room, Data: []byte("d"), Nonce: []byte("0123456789abcdef")})
			require.NoError(t, err)
		})
	}
}
