package conformance

import (
	"encoding/base64"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

var ufrag = regexp.MustCompile(`a=ice-ufrag:(\S+)`)

func ufragOf(sdp string) string { return ufrag.FindStringSubmatch(sdp)[1] }

// testRawResume checks the messages to a resuming client and their order, also for a
// client that does not send its sid, and the ends of the old WebSocket and of the old ICE
// transports.
func testRawResume(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		bob := m.join(t, room, "bob")
		bob.publishMicrophone(t)
		c := newCaller(t, m, room, "alice")
		joined := c.ws.joined(t)
		require.NotEmpty(t, joined.Participant.Sid)
		sid := c.publish()
		bob.awaitMedia(t, sid, 10)
		c.hears(t)

		for round, said := range []string{joined.Participant.Sid, ""} {
			earlier := map[*webrtc.PeerConnection]string{
				c.pub: ufragOf(c.pub.CurrentRemoteDescription().SDP), c.sub: ufragOf(c.sub.CurrentRemoteDescription().SDP),
			}
			old, now := c.resume(said)
			old.awaitClose(t, websocket.StatusNormalClosure)
			require.NotContains(t, old.kinds(), "Leave")

			eventually(t, "the whole state", func() bool { return len(now.kinds()) >= 4 })
			require.Equal(t, []string{"Reconnect", "Update", "RoomUpdate", "RefreshToken"}, now.kinds()[:4])
			all := now.messages()
			require.NotNil(t, all[0].GetReconnect().ServerInfo)
			var who []string
			for _, p := range all[1].GetUpdate().Participants {
				who = append(who, p.Identity)
				if p.Identity == "alice" {
					require.Equal(t, joined.Participant.Sid, p.Sid, "the session is the same")
					require.Len(t, p.Tracks, 1)
				}
			}
			slices.Sort(who)
			require.Equal(t, []string{"alice", "bob"}, who)
			require.Equal(t, joined.Room.Sid, all[2].GetRoomUpdate().Room.Sid)
			require.NotEmpty(t, all[3].GetRefreshToken())

			// The client's part: its state, and its own ICE restart.
			now.request(t, &livekit.SignalRequest{Message: &livekit.SignalRequest_SyncState{SyncState: &livekit.SyncState{
				PublishTracks: []*livekit.TrackPublishedResponse{{Cid: "cid-mic", Track: &livekit.TrackInfo{Sid: sid}}},
			}}})
			c.offerAnd(uint32(10+round), true)
			eventually(t, "ICE is restarted", func() bool {
				for pc, ufrag := range earlier {
					if ufragOf(pc.CurrentRemoteDescription().SDP) == ufrag || pc.ICEConnectionState() != webrtc.ICEConnectionStateConnected {
						return false
					}
				}
				return true
			})
			offers := slices.Contains(now.kinds(), "Offer")
			require.Equal(t, !c.single, offers, "with two connections the server restarts its own: %v", now.kinds())
			c.hears(t)
			bob.awaitMedia(t, sid, 10)
			now.alive(t)
		}
		require.Equal(t, 0, bob.count("left alice"), "nobody else learns of it")
		require.Equal(t, 1, bob.count("published alice MICROPHONE"))
		require.Equal(t, 1, strings.Count(strings.Join(env.hooks.lines(room), "\n"), "participant_joined alice"))

		// A state that is not the session's requires a full reconnect.
		c.ws.request(t, &livekit.SignalRequest{Message: &livekit.SignalRequest_SyncState{SyncState: &livekit.SyncState{
			PublishTracks: []*livekit.TrackPublishedResponse{{Cid: "x", Track: &livekit.TrackInfo{Sid: "TR_unknown"}}},
		}}})
		require.Equal(t, livekit.LeaveRequest_RECONNECT, c.ws.awaitLeave(t).Action)

		// A session that has ended cannot be resumed.
		again := dial(t, env.server, c.path(true, joined.Participant.Sid), c.jwt)
		leave := again.awaitLeave(t)
		require.Equal(t, []string{"Leave"}, again.kinds())
		require.Equal(t, livekit.DisconnectReason_STATE_MISMATCH, leave.Reason)
		require.Equal(t, livekit.LeaveRequest_RECONNECT, leave.Action)
	})
}

// TestAFreshTokenDoesNotWiden: the token that a client gets when it resumes contains the
// room's decisions, and not the grants of the token that it resumes with.
func TestAFreshTokenDoesNotWiden(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		c := newCaller(t, m, room, "alice")
		joined := c.ws.joined(t)
		c.publish()
		require.True(t, joined.Participant.Permission.CanPublish)
		eventually(t, "alice is active", func() bool {
			p, err := roomService(env.server).GetParticipant(t.Context(), &livekit.RoomParticipantIdentity{Room: room, Identity: "alice"})
			return err == nil && p.State == livekit.ParticipantInfo_ACTIVE
		})
		_, err := roomService(env.server).UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{
			Room: room, Identity: "alice", Permission: &livekit.ParticipantPermission{CanSubscribe: true},
		})
		require.NoError(t, err)
		_, now := c.resume(joined.Participant.Sid)
		fresh := *await(t, now, "a fresh token", func(m *livekit.SignalResponse) *string {
			if m.GetRefreshToken() == "" {
				return nil
			}
			return &m.Message.(*livekit.SignalResponse_RefreshToken).RefreshToken
		})
		payload, err := base64.RawURLEncoding.DecodeString(strings.Split(fresh, ".")[1])
		require.NoError(t, err)
		var claims struct {
			Video struct {
				CanPublish *bool `json:"canPublish"`
			} `json:"video"`
		}
		require.NoError(t, json.Unmarshal(payload, &claims))
		require.NotNil(t, claims.Video.CanPublish)
		require.False(t, *claims.Video.CanPublish)
	})
}
