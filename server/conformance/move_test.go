package conformance

import (
	"testing"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/stretchr/testify/require"
)

// identities are the identities in a room, according to the API.
func identities(t *testing.T, room string) (all []string) {
	t.Helper()
	list, err := roomService(env.server).ListParticipants(t.Context(), &livekit.ListParticipantsRequest{Room: room})
	require.NoError(t, err)
	for _, p := range list.Participants {
		all = append(all, p.Identity)
	}
	return all
}

// A moved participant keeps its connection and its tracks: it hears and is heard in the
// second room, and has left the first.
func TestMoveParticipant(t *testing.T) {
	parlorOnly(t)
	inBothModes(t, func(t *testing.T, m mode) {
		from := roomName(t)
		to := from + "-to"
		alice, bob, carol := m.join(t, from, "alice"), m.join(t, from, "bob"), m.join(t, to, "carol")
		alice.publishMicrophone(t)
		alice.publishCamera(t)
		bobs, carols := bob.publishMicrophone(t), carol.publishMicrophone(t)
		old := bob.remote(t, "alice", mic).SID()
		bob.awaitMedia(t, old, 20)
		alice.awaitMedia(t, bobs.SID(), 20)

		_, err := roomService(env.server).MoveParticipant(t.Context(), &livekit.MoveParticipantRequest{
			Room: from, Identity: "alice", DestinationRoom: to,
		})
		require.NoError(t, err)

		eventually(t, "alice is told which room she is in", func() bool { return alice.Name() == to })
		require.Equal(t, carol.SID(), alice.SID())
		alice.sees(t, "carol")
		for _, kind := range []livekit.TrackSource{mic, camera} {
			carol.awaitMedia(t, carol.remote(t, "alice", kind).SID(), 20)
		}
		alice.awaitMedia(t, carols.SID(), 20)
		bob.await(t, "left alice")
		bob.awaitSilence(t, old)
		alice.awaitSilence(t, bobs.SID())
		require.Equal(t, []string{"bob"}, identities(t, from))
		require.ElementsMatch(t, []string{"alice", "carol"}, identities(t, to))

		for _, line := range []string{
			"track_unpublished alice MICROPHONE", "track_unpublished alice CAMERA", "participant_left alice",
		} {
			env.hooks.await(t, from, line)
		}
		for _, line := range []string{
			"participant_joined alice", "track_published alice MICROPHONE", "track_published alice CAMERA",
		} {
			env.hooks.await(t, to, line)
		}
		require.NotContains(t, env.hooks.lines(to), "participant_left alice")
		require.NotContains(t, env.hooks.lines(to), "participant_joined bob")

		// It is an ordinary participant of the second room.
		alice.Disconnect()
		carol.await(t, "left alice")
		env.hooks.await(t, to, "participant_left alice")
		env.hooks.check(t)
	})
}

// A forwarded participant is heard in both rooms, until it leaves its own.
func TestForwardParticipant(t *testing.T) {
	parlorOnly(t)
	inBothModes(t, func(t *testing.T, m mode) {
		from := roomName(t)
		to := from + "-to"
		alice, bob, carol := m.join(t, from, "alice"), m.join(t, from, "bob"), m.join(t, to, "carol")
		alice.publishMicrophone(t)
		carols := carol.publishMicrophone(t)
		bobs := bob.publishMicrophone(t)
		hers := bob.remote(t, "alice", mic).SID()
		bob.awaitMedia(t, hers, 20)

		_, err := roomService(env.server).ForwardParticipant(t.Context(), &livekit.ForwardParticipantRequest{
			Room: from, Identity: "alice", DestinationRoom: to,
		})
		require.NoError(t, err)

		carol.awaitMedia(t, carol.remote(t, "alice", mic).SID(), 20)
		bob.awaitMedia(t, hers, 20)
		alice.awaitMedia(t, bobs.SID(), 20)
		alice.publishCamera(t) // later tracks are forwarded too
		carol.awaitMedia(t, carol.remote(t, "alice", camera).SID(), 20)
		require.ElementsMatch(t, []string{"alice", "bob"}, identities(t, from))
		require.ElementsMatch(t, []string{"alice", "carol"}, identities(t, to))
		require.Nil(t, alice.inbound(carols.SID()), "who is forwarded receives nothing of the second room")
		require.Nil(t, alice.GetParticipantByIdentity("carol"))
		for _, line := range []string{
			"participant_joined alice", "track_published alice MICROPHONE", "track_published alice CAMERA",
		} {
			env.hooks.await(t, to, line)
		}

		alice.Disconnect()
		bob.await(t, "left alice")
		carol.await(t, "left alice")
		env.hooks.await(t, from, "participant_left alice")
		env.hooks.await(t, to, "participant_left alice")
		env.hooks.check(t)
	})
}

// A program calls a method that an SDK client offers, through the API.
func TestPerformRPC(t *testing.T) {
	parlorOnly(t)
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		alice := m.join(t, room, "alice")
		require.NoError(t, alice.RegisterRpcMethod("echo", func(d lksdk.RpcInvocationData) (string, error) {
			return d.Payload + "!", nil
		}))
		require.NoError(t, alice.RegisterRpcMethod("refuse", func(lksdk.RpcInvocationData) (string, error) {
			return "", &lksdk.RpcError{Code: 1234, Message: "not today"}
		}))
		admin := bearer(t, &auth.VideoGrant{RoomAdmin: true, Room: room})
		for name, api := range map[string]livekit.RoomService{
			"JSON":     livekit.NewRoomServiceJSONClient(env.server.http(), admin),
			"protobuf": livekit.NewRoomServiceProtobufClient(env.server.http(), admin),
		} {
			answer, err := api.PerformRpc(t.Context(), &livekit.PerformRpcRequest{
				Room: room, DestinationIdentity: "alice", Method: "echo", Payload: "grüezi", ResponseTimeoutMs: 60_000,
			})
			require.NoError(t, err, name)
			require.Equal(t, "grüezi!", answer.Payload, name)
			_, err = api.PerformRpc(t.Context(), &livekit.PerformRpcRequest{
				Room: room, DestinationIdentity: "alice", Method: "refuse", ResponseTimeoutMs: 60_000,
			})
			require.ErrorContains(t, err, "not today", name)
		}
	})
}
