package conformance

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

func testPings(t *testing.T) {
	t.Parallel()
	for _, c := range []*signaller{dialLegacy(t, roomName(t), "alice"), dialSingle(t, roomName(t), "alice")} {
		sent := time.Now().UnixMilli()
		c.request(t, &livekit.SignalRequest{Message: &livekit.SignalRequest_Ping{Ping: sent}})
		c.request(t, &livekit.SignalRequest{Message: &livekit.SignalRequest_PingReq{PingReq: &livekit.Ping{Timestamp: sent, Rtt: 7}}})
		pong := await(t, c, "pong", func(m *livekit.SignalResponse) *int64 {
			if p, ok := m.Message.(*livekit.SignalResponse_Pong); ok {
				return &p.Pong
			}
			return nil
		})
		require.InDelta(t, sent, *pong, 20_000, "milliseconds")
		answer := await(t, c, "the newer pong", (*livekit.SignalResponse).GetPongResp)
		require.Equal(t, sent, answer.LastPingTimestamp)
		require.InDelta(t, sent, answer.Timestamp, 20_000)
	}
}

// TestTextFrames: a client that uses JSON is answered in JSON.
func TestTextFrames(t *testing.T) {
	t.Parallel()
	c := dialLegacy(t, roomName(t), "alice")
	c.joined(t)
	data, err := protojson.Marshal(&livekit.SignalRequest{Message: &livekit.SignalRequest_PingReq{PingReq: &livekit.Ping{Timestamp: 4711}}})
	require.NoError(t, err)
	c.frame(t, websocket.MessageText, data)
	isText := func(stamp int64) *bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for n, m := range c.got {
			if m.GetPongResp().GetLastPingTimestamp() == stamp {
				return &c.text[n]
			}
		}
		return nil
	}
	eventually(t, "an answer", func() bool { return isText(4711) != nil })
	require.True(t, *isText(4711))
	c.request(t, &livekit.SignalRequest{Message: &livekit.SignalRequest_PingReq{PingReq: &livekit.Ping{Timestamp: 4712}}})
	eventually(t, "an answer", func() bool { return isText(4712) != nil })
	require.False(t, *isText(4712), "and in protobuf when it turns to that")
}

// TestGarbage: malformed messages harm only their sender.
func TestGarbage(t *testing.T) {
	t.Parallel()
	room := roomName(t)
	bystander := dual.join(t, room, "bystander")
	speaker := dual.join(t, room, "speaker")
	pub := speaker.publishMicrophone(t)
	bystander.awaitMedia(t, pub.SID(), 5)
	victim := func(name string) *signaller {
		c := dialLegacy(t, room, strings.ReplaceAll(name, " ", "-"))
		c.joined(t)
		return c
	}
	t.Run("binary frame", func(t *testing.T) {
		c := victim("binary")
		c.frame(t, websocket.MessageBinary, []byte("\xff\xff\xff\xff"))
		c.awaitClose(t, websocket.StatusNormalClosure)
		require.NotContains(t, c.kinds(), "Leave")
	})
	t.Run("text frame", func(t *testing.T) {
		c := victim("text")
		c.frame(t, websocket.MessageText, []byte(`{"no such thing":`))
		c.awaitClose(t, websocket.StatusNormalClosure)
	})
	t.Run("empty frame", func(t *testing.T) {
		c := victim("empty")
		c.frame(t, websocket.MessageBinary, nil)
		c.alive(t)
	})
	t.Run("unknown message", func(t *testing.T) {
		c := victim("unknown")
		c.frame(t, websocket.MessageBinary, []byte{0xf2, 0x3f, 0x02, 0x08, 0x01}) // field 1022
		c.alive(t)
	})
	t.Run("too large a frame", func(t *testing.T) {
		parlorOnly(t)
		c := victim("large")
		// The server may close before all is written.
		_ = c.conn.Write(t.Context(), websocket.MessageBinary, make([]byte, 3<<20))
		c.awaitClose(t, websocket.StatusMessageTooBig)
	})
	t.Run("SDP", func(t *testing.T) {
		for n, sdp := range []string{"", "garbage", "v=0\r\n", "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=audio\r\n"} {
			for _, r := range []*livekit.SignalRequest{
				{Message: &livekit.SignalRequest_Offer{Offer: &livekit.SessionDescription{Type: "offer", Sdp: sdp, Id: 1}}},
				{Message: &livekit.SignalRequest_Answer{Answer: &livekit.SessionDescription{Type: "answer", Sdp: sdp, Id: 99}}},
				{Message: &livekit.SignalRequest_Offer{Offer: &livekit.SessionDescription{Type: "pranswer", Sdp: sdp, Id: 2}}},
			} {
				c := victim(fmt.Sprintf("sdp-%d-%T", n, r.Message))
				c.request(t, r)
				// The server may continue, or ask the client to start again.
				ping, err := proto.Marshal(&livekit.SignalRequest{Message: &livekit.SignalRequest_Ping{Ping: 1}})
				require.NoError(t, err)
				_ = c.conn.Write(t.Context(), websocket.MessageBinary, ping) // fails if the client was disconnected already
				eventually(t, "the server goes on or ends it", func() bool {
					kinds := c.kinds()
					return slices.Contains(kinds, "Pong") || slices.Contains(kinds, "Leave") && c.end() != nil
				})
			}
		}
	})
	t.Run("candidates", func(t *testing.T) {
		c := victim("candidates")
		for _, init := range []string{"", "garbage", "{}", `{"candidate":"candidate:x"}`, `{"candidate":"candidate:1 1 udp 1 999.1.1.1 99999 typ host"}`} {
			for _, target := range []livekit.SignalTarget{livekit.SignalTarget_PUBLISHER, livekit.SignalTarget_SUBSCRIBER, 7} {
				c.request(t, &livekit.SignalRequest{Message: &livekit.SignalRequest_Trickle{
					Trickle: &livekit.TrickleRequest{CandidateInit: init, Target: target}}})
			}
		}
		c.alive(t)
	})
	t.Run("empty messages", func(t *testing.T) {
		c := victim("empties")
		for _, r := range []*livekit.SignalRequest{
			{Message: &livekit.SignalRequest_AddTrack{AddTrack: &livekit.AddTrackRequest{}}},
			{Message: &livekit.SignalRequest_Mute{Mute: &livekit.MuteTrackRequest{}}},
			{Message: &livekit.SignalRequest_Subscription{Subscription: &livekit.UpdateSubscription{}}},
			{Message: &livekit.SignalRequest_Subscription{Subscription: &livekit.UpdateSubscription{TrackSids: []string{"TR_unknown"}, Subscribe: true}}},
			{Message: &livekit.SignalRequest_TrackSetting{TrackSetting: &livekit.UpdateTrackSettings{TrackSids: []string{"TR_unknown"}}}},
			{Message: &livekit.SignalRequest_SubscriptionPermission{SubscriptionPermission: &livekit.SubscriptionPermission{}}},
			{Message: &livekit.SignalRequest_SyncState{SyncState: &livekit.SyncState{}}},
			{Message: &livekit.SignalRequest_UpdateAudioTrack{UpdateAudioTrack: &livekit.UpdateLocalAudioTrack{}}},
			{Message: &livekit.SignalRequest_UpdateVideoTrack{UpdateVideoTrack: &livekit.UpdateLocalVideoTrack{}}},
			{Message: &livekit.SignalRequest_UpdateLayers{UpdateLayers: &livekit.UpdateVideoLayers{}}},
		} {
			c.request(t, r)
		}
		c.alive(t)
	})
	bystander.awaitMedia(t, pub.SID(), 10)
	require.Equal(t, 0, bystander.count("left speaker"))
	require.Equal(t, 0, bystander.count("reconnecting"))
}

func addTrack(cid string) *livekit.SignalRequest {
	return &livekit.SignalRequest{Message: &livekit.SignalRequest_AddTrack{AddTrack: &livekit.AddTrackRequest{
		Cid: cid, Name: "track", Type: livekit.TrackType_AUDIO, Source: mic}}}
}

// testRequestResponses: a request that is refused is answered with a reason.
func testRequestResponses(t *testing.T) {
	t.Parallel()
	room := roomName(t)
	response := func(c *signaller, reason livekit.RequestResponse_Reason) *livekit.RequestResponse {
		t.Helper()
		return await(t, c, "the reason "+reason.String(), func(m *livekit.SignalResponse) *livekit.RequestResponse {
			if r := m.GetRequestResponse(); r != nil && r.Reason == reason {
				return r
			}
			return nil
		})
	}
	c := dialLegacy(t, room, "alice")
	c.joined(t)
	if env.reference {
		c.request(t, addTrack("cid-1"))
		c.request(t, addTrack("cid-1"))
		require.Equal(t, "cid-1", response(c, livekit.RequestResponse_QUEUED).GetAddTrack().GetCid())
	}

	c.request(t, &livekit.SignalRequest{Message: &livekit.SignalRequest_Mute{Mute: &livekit.MuteTrackRequest{Sid: "TR_unknown", Muted: true}}})
	require.Equal(t, "TR_unknown", response(c, livekit.RequestResponse_NOT_FOUND).GetMute().GetSid())

	update := func(c *signaller, u *livekit.UpdateParticipantMetadata) {
		c.request(t, &livekit.SignalRequest{Message: &livekit.SignalRequest_UpdateMetadata{UpdateMetadata: u}})
	}
	update(c, &livekit.UpdateParticipantMetadata{Metadata: "m", RequestId: 11})
	refused := response(c, livekit.RequestResponse_NOT_ALLOWED)
	require.Equal(t, uint32(11), refused.RequestId)
	require.Equal(t, "does not have permission to update own metadata", refused.Message)
	require.NotNil(t, refused.GetUpdateMetadata())

	may := dial(t, env.server, "/rtc?"+legacyQuery(),
		token(t, "bob", &auth.VideoGrant{RoomJoin: true, Room: room, CanUpdateOwnMetadata: ptr(true)}))
	may.joined(t)
	update(may, &livekit.UpdateParticipantMetadata{Metadata: "m", Name: "Bob", RequestId: 12})
	require.Equal(t, uint32(12), response(may, livekit.RequestResponse_OK).RequestId)
	await(t, may, "the update", func(m *livekit.SignalResponse) *livekit.ParticipantInfo {
		for _, p := range m.GetUpdate().GetParticipants() {
			if p.Identity == "bob" && p.Metadata == "m" && p.Name == "Bob" {
				return p
			}
		}
		return nil
	})
	eventually(t, "another fresh token", func() bool {
		return strings.Count(strings.Join(may.kinds(), " "), "RefreshToken") >= 2
	})
	update(may, &livekit.UpdateParticipantMetadata{Name: strings.Repeat("n", 257), RequestId: 13})
	long := response(may, livekit.RequestResponse_LIMIT_EXCEEDED)
	require.Equal(t, uint32(13), long.RequestId)
	require.Equal(t, "exceeds name length limit", long.Message)

	silent := dial(t, env.server, "/rtc?"+legacyQuery(),
		token(t, "carol", &auth.VideoGrant{RoomJoin: true, Room: room, CanPublish: ptr(false)}))
	silent.joined(t)
	silent.request(t, addTrack("cid-2"))
	require.Equal(t, "cid-2", response(silent, livekit.RequestResponse_NOT_ALLOWED).GetAddTrack().GetCid())
}

// testLeaves: every end of a session has its reason, and the WebSocket is then closed
// with 1000.
func testLeaves(t *testing.T) {
	t.Parallel()
	api := roomService(env.server)
	for _, dialect := range []struct {
		name string
		dial func(t *testing.T, room, identity string) *signaller
	}{{"legacy", dialLegacy}, {"single", dialSingle}} {
		t.Run(dialect.name, func(t *testing.T) {
			t.Parallel()
			room := roomName(t)
			watcher := dual.join(t, room, "watcher")
			expect := func(c *signaller, reason livekit.DisconnectReason) {
				t.Helper()
				leave := c.awaitLeave(t)
				require.Equal(t, reason, leave.Reason)
				require.Equal(t, livekit.LeaveRequest_DISCONNECT, leave.Action)
			}
			c := dialect.dial(t, room, "own-wish")
			c.joined(t)
			c.request(t, &livekit.SignalRequest{Message: &livekit.SignalRequest_Leave{Leave: &livekit.LeaveRequest{
				Reason: livekit.DisconnectReason_CLIENT_INITIATED, Action: livekit.LeaveRequest_DISCONNECT}}})
			expect(c, livekit.DisconnectReason_CLIENT_INITIATED)

			old := dialect.dial(t, room, "twice")
			before := old.joined(t).Participant.Sid
			young := dialect.dial(t, room, "twice")
			require.NotEqual(t, before, young.joined(t).Participant.Sid)
			expect(old, livekit.DisconnectReason_DUPLICATE_IDENTITY)
			young.alive(t)

			c = dialect.dial(t, room, "removed")
			c.joined(t)
			_, err := api.RemoveParticipant(t.Context(), &livekit.RoomParticipantIdentity{Room: room, Identity: "removed"})
			require.NoError(t, err)
			expect(c, livekit.DisconnectReason_PARTICIPANT_REMOVED)

			// Without media a session cannot be resumed: a client that loses the
			// WebSocket now has left.
			c = dialect.dial(t, room, "lost")
			c.joined(t)
			watcher.sees(t, "lost")
			require.NoError(t, c.conn.CloseNow())
			eventually(t, "the lost one is gone", func() bool { return watcher.GetParticipantByIdentity("lost") == nil })

			_, err = api.DeleteRoom(t.Context(), &livekit.DeleteRoomRequest{Room: room})
			require.NoError(t, err)
			expect(young, livekit.DisconnectReason_ROOM_DELETED)
		})
	}
}

// TestNeverConnected: a client whose media never connects is removed after a minute.
func TestNeverConnected(t *testing.T) {
	if testing.Short() {
		t.Skip("takes over a minute")
	}
	t.Parallel()
	room := roomName(t)
	began := time.Now()
	c := dialLegacy(t, room, "alice")
	c.joined(t)
	eventuallyWithin(t, 3*time.Minute, "a leave", func() bool { return c.end() != nil })
	require.Equal(t, livekit.DisconnectReason_JOIN_FAILURE, c.awaitLeave(t).Reason)
	require.InDelta(t, 60, time.Since(began).Seconds(), 30)
	env.hooks.await(t, room, "participant_connection_aborted alice")
	require.NotContains(t, env.hooks.lines(room), "participant_joined alice")
}

// testResumeUnknown: a client that is not in the room cannot resume, and is told to join
// again.
func testResumeUnknown(t *testing.T) {
	t.Parallel()
	room := roomName(t)
	jwt := token(t, "alice", join(room))
	again := plainJoin()
	again.Reconnect, again.ParticipantSid = true, "PA_unknown"
	for _, path := range []string{
		"/rtc?" + legacyQuery("reconnect", "1", "sid", "PA_unknown"),
		"/rtc/v1?" + joinQuery(t, again, true),
	} {
		c := dial(t, env.server, path, jwt)
		leave := c.awaitLeave(t)
		require.Equal(t, []string{"Leave"}, c.kinds())
		require.Equal(t, livekit.DisconnectReason_STATE_MISMATCH, leave.Reason)
		require.Equal(t, livekit.LeaveRequest_RECONNECT, leave.Action)
	}
}
