package conformance

import (
	"encoding/base64"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"
	"github.com/stretchr/testify/require"
)

// caller is a client of our own with media: a signaller and its peer
// connections. It says what a stock client says, when the test wants it.
type caller struct {
	*testing.T
	single bool
	jwt    string
	pub    *webrtc.PeerConnection // in single mode the only one
	sub    *webrtc.PeerConnection
	heard  atomic.Int64 // packets received

	wg   sync.WaitGroup // readers of tracks, and the sender
	stop chan struct{}  // ends the sender and the pump

	mu    sync.Mutex // guards the following; held while a message is handled
	ws    *signaller
	at    int  // the next message of ws to handle
	asked bool // an offer is asked for, to be made when no other is under way
}

func newCaller(t *testing.T, m mode, room, identity string) *caller {
	c := &caller{T: t, single: m.name == single.name, jwt: token(t, identity, join(room)), stop: make(chan struct{})}
	c.pub = c.connection()
	c.sub = c.pub
	if !c.single {
		c.sub = c.connection()
	}
	t.Cleanup(func() {
		close(c.stop)
		c.pub.Close()
		c.sub.Close()
		c.wg.Wait()
	})
	c.ws = dial(t, env.server, c.path(false, ""), c.jwt)
	c.wg.Go(c.pump)
	return c
}

func (c *caller) connection() *webrtc.PeerConnection {
	settings := webrtc.SettingEngine{}
	settings.SetIncludeLoopbackCandidate(true)
	pc, err := webrtc.NewAPI(webrtc.WithSettingEngine(settings)).NewPeerConnection(webrtc.Configuration{})
	require.NoError(c, err)
	pc.OnTrack(func(track *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
		c.wg.Go(func() {
			for {
				if _, _, err := track.ReadRTP(); err != nil {
					return // closed
				}
				c.heard.Add(1)
			}
		})
	})
	return pc
}

// path is where to connect, or to resume the participant sid.
func (c *caller) path(resume bool, sid string) string {
	if c.single {
		r := plainJoin()
		r.Reconnect, r.ParticipantSid = resume, sid
		return "/rtc/v1?" + joinQuery(c.T, r, true)
	}
	if resume {
		return "/rtc?" + legacyQuery("reconnect", "1", "sid", sid)
	}
	return "/rtc?" + legacyQuery()
}

// pump handles what the server says about the connections.
func (c *caller) pump() {
	for {
		select {
		case <-c.stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
		c.mu.Lock()
		for all := c.ws.messages(); c.at < len(all); c.at++ {
			c.handle(all[c.at])
		}
		c.mu.Unlock()
	}
}

func (c *caller) handle(m *livekit.SignalResponse) {
	var err error
	switch {
	case m.GetOffer() != nil:
		err = c.sub.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: m.GetOffer().Sdp})
		if err == nil {
			c.say(c.sub, false, m.GetOffer().Id)
		}
	case m.GetAnswer() != nil:
		err = c.pub.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: m.GetAnswer().Sdp})
	case m.GetMediaSectionsRequirement() != nil:
		for range m.GetMediaSectionsRequirement().NumAudios {
			_, err = c.pub.AddTransceiverFromKind(webrtc.RTPCodecTypeAudio, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly})
		}
		c.asked = true
	case m.GetTrickle() != nil:
		pc := c.pub
		if m.GetTrickle().Target == livekit.SignalTarget_SUBSCRIBER {
			pc = c.sub
		}
		var candidate webrtc.ICECandidateInit
		if err = json.Unmarshal([]byte(m.GetTrickle().CandidateInit), &candidate); err == nil {
			err = pc.AddICECandidate(candidate)
		}
	}
	if err != nil {
		c.Errorf("handle %T: %v", m.Message, err)
		return
	}
	if c.asked && c.pub.SignalingState() == webrtc.SignalingStateStable {
		c.asked = false
		c.say(c.pub, true, 2)
	}
}

// say sends an offer of the publisher's or an answer of the subscriber's, with
// all candidates in it.
func (c *caller) say(pc *webrtc.PeerConnection, offer bool, id uint32) {
	gathered := webrtc.GatheringCompletePromise(pc)
	var sd webrtc.SessionDescription
	var err error
	if offer {
		sd, err = pc.CreateOffer(&webrtc.OfferOptions{ICERestart: pc.CurrentLocalDescription() != nil})
	} else {
		sd, err = pc.CreateAnswer(nil)
	}
	if err == nil {
		err = pc.SetLocalDescription(sd)
	}
	if err != nil {
		c.Errorf("describe: %v", err)
		return
	}
	<-gathered
	said := &livekit.SessionDescription{Type: sd.Type.String(), Sdp: pc.LocalDescription().SDP, Id: id}
	request := &livekit.SignalRequest{Message: &livekit.SignalRequest_Answer{Answer: said}}
	if offer {
		request.Message = &livekit.SignalRequest_Offer{Offer: said}
	}
	c.ws.request(c.T, request)
}

// offer sends the publisher's offer; with one connection it has room for what
// is to be received, too.
func (c *caller) offer(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.say(c.pub, true, id)
}

// publish announces and offers a microphone, and sends until the test ends.
func (c *caller) publish() (sid string) {
	c.Helper()
	track, err := webrtc.NewTrackLocalStaticSample(opus.capability, "cid-mic", "stream")
	require.NoError(c, err)
	_, err = c.pub.AddTransceiverFromTrack(track, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
	require.NoError(c, err)
	if c.single {
		_, err = c.pub.AddTransceiverFromKind(webrtc.RTPCodecTypeAudio, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly})
		require.NoError(c, err)
	}
	c.ws.request(c.T, &livekit.SignalRequest{Message: &livekit.SignalRequest_AddTrack{AddTrack: &livekit.AddTrackRequest{
		Cid: "cid-mic", Type: livekit.TrackType_AUDIO, Source: mic, Name: "microphone",
	}}})
	published := await(c.T, c.ws, "the published track", (*livekit.SignalResponse).GetTrackPublished)
	c.offer(1)
	c.wg.Go(func() {
		for n := uint32(0); ; n++ {
			select {
			case <-c.stop:
				return
			case <-time.After(opus.interval):
			}
			_ = track.WriteSample(media.Sample{Data: opus.frame(stamp{'f', n}, true), Duration: opus.interval}) // before it is connected
		}
	})
	return published.Track.Sid
}

// resume opens a second WebSocket for the participant; the pump goes on with it.
func (c *caller) resume(sid string) (old, now *signaller) {
	c.Helper()
	now = dial(c.T, env.server, c.path(true, sid), c.jwt)
	c.mu.Lock()
	defer c.mu.Unlock()
	old, c.ws, c.at = c.ws, now, 0
	return old, now
}

func (c *caller) hears(t *testing.T) {
	t.Helper()
	before := c.heard.Load()
	eventually(t, "packets arrive", func() bool { return c.heard.Load() > before+20 })
}

var ufrag = regexp.MustCompile(`a=ice-ufrag:(\S+)`)

func ufragOf(sdp string) string { return ufrag.FindStringSubmatch(sdp)[1] }

// TestRawResume: what a client that resumes is told, in which order, what it may
// say of its sid, and what becomes of the old WebSocket and of ICE.
func TestRawResume(t *testing.T) {
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

		for round, said := range []string{joined.Participant.Sid, "PA_somebody", ""} {
			was := map[*webrtc.PeerConnection]string{
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
					require.Equal(t, joined.Participant.Sid, p.Sid, "the identity decides, not what sid the client says")
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
			c.offer(uint32(10 + round))
			eventually(t, "ICE is restarted", func() bool {
				for pc, ufrag := range was {
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

		// A state that is not ours needs a full reconnect.
		c.ws.request(t, &livekit.SignalRequest{Message: &livekit.SignalRequest_SyncState{SyncState: &livekit.SyncState{
			PublishTracks: []*livekit.TrackPublishedResponse{{Cid: "x", Track: &livekit.TrackInfo{Sid: "TR_unknown"}}},
		}}})
		require.Equal(t, livekit.LeaveRequest_RECONNECT, c.ws.awaitLeave(t).Action)

		// Whoever is gone cannot be resumed.
		again := dial(t, env.server, c.path(true, joined.Participant.Sid), c.jwt)
		leave := again.awaitLeave(t)
		require.Equal(t, []string{"Leave"}, again.kinds())
		require.Equal(t, livekit.DisconnectReason_STATE_MISMATCH, leave.Reason)
		require.Equal(t, livekit.LeaveRequest_RECONNECT, leave.Action)
	})
}

// TestAFreshTokenDoesNotWiden: the token that a client gets when it resumes says
// what the room decided, not what the one said that it resumes with.
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
