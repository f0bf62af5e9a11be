package media_test

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtp"
	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/media"
	"parlor/rooms"
)

// whip implements the signals of a peer as WHIP (RFC 9725) and WHEP do: the client posts
// an offer, and the answer to that request has all candidates of the server.
type whip struct {
	media.Signals // later requests have no message in WHIP
	answered      chan string
	candidates    string
	answer        string
}

func (w *whip) Answer(d media.Description) { w.answer = d.SDP }

func (w *whip) Candidate(c media.Candidate) {
	w.candidates += "a=" + c.ICECandidateInit.Candidate + "\r\n"
	if c.Final {
		w.answered <- strings.ReplaceAll(w.answer, "a=mid:", w.candidates+"a=mid:")
	}
}

func (w *whip) WantQualities(string, livekit.TrackType, []media.Wanted)        {}
func (w *whip) StreamState(publisher, track string, state livekit.StreamState) {}

// studio is a minimal room: the tracks of one client are forwarded to the clients that
// come later.
type studio struct {
	t      *testing.T
	engine *media.Engine

	mu        sync.Mutex // guards the following
	published []rooms.Subscription
	on        chan string // what was published
}

// guest is a client of a studio. It gets the events of its peer in place of a room.
type guest struct {
	rooms.PeerEvents
	*studio
	sid       string
	announced map[string]*livekit.TrackInfo // by SID
}

func (g *guest) Connected()        {}
func (g *guest) Subscribed(string) {}
func (g *guest) TrackPublished(track rooms.MediaTrack, facts rooms.TrackFacts) {
	g.mu.Lock()
	defer g.mu.Unlock()
	info := facts.Complete(g.announced[track.SID()])
	for _, have := range g.published {
		if have.Track == track {
			return // more facts about it are known
		}
	}
	g.published = append(g.published, rooms.Subscription{Track: track, Info: info, PublisherSID: g.sid})
	g.on <- info.MimeType
}

// request answers a client's POST of an offer: of a client that publishes, whose offer
// announces its tracks, or of a client that watches.
func (s *studio) request(sid, offer string) (answer string, leave func()) {
	speaker := &whip{answered: make(chan string, 1)}
	g := &guest{studio: s, sid: sid, announced: map[string]*livekit.TrackInfo{}}
	peer, err := s.engine.NewPeer(media.PeerConfig{
		SID: sid, SinglePC: true, CanPublish: true, CanSubscribe: true, Signals: speaker, Events: g,
	})
	require.NoError(s.t, err)
	var d sdp.SessionDescription
	require.NoError(s.t, d.UnmarshalString(offer))
	for _, m := range d.MediaDescriptions {
		_, id, sends := strings.Cut(func() string { v, _ := m.Attribute("msid"); return v }(), " ")
		if !sends {
			continue
		}
		info := &livekit.TrackInfo{Sid: "TR_" + id, Type: livekit.TrackType_VIDEO}
		if m.MediaName.Media == "audio" {
			info.Type = livekit.TrackType_AUDIO
		}
		g.announced[info.Sid] = info
		peer.AddTrack(rooms.Announcement{CID: id}, info)
	}
	s.mu.Lock()
	for _, track := range s.published {
		peer.Subscribe(track)
	}
	s.mu.Unlock()
	peer.HandleOffer(media.Description{SDP: offer})
	return <-speaker.answered, peer.Close
}

// browser is a client's peer connection.
func browser(t *testing.T) *webrtc.PeerConnection {
	var s webrtc.SettingEngine
	s.SetIncludeLoopbackCandidate(true)
	s.SetIPFilter(func(ip net.IP) bool { return ip.IsLoopback() })
	s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	pc, err := webrtc.NewAPI(webrtc.WithSettingEngine(s)).NewPeerConnection(webrtc.Configuration{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = pc.GracefulClose() })
	return pc
}

// post makes a WHIP or WHEP client's one request, by which it connects.
func post(t *testing.T, s *studio, sid string, pc *webrtc.PeerConnection) (leave func()) {
	offer, err := pc.CreateOffer(nil)
	require.NoError(t, err)
	gathered := webrtc.GatheringCompletePromise(pc)
	require.NoError(t, pc.SetLocalDescription(offer))
	<-gathered
	answer, leave := s.request(sid, pc.LocalDescription().SDP)
	require.NoError(t, pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: answer}))
	return leave
}

// A publisher and a viewer are served without a message of LiveKit's signalling: they use
// WHIP and WHEP.
func TestASecondSpeaker(t *testing.T) {
	engine, err := media.NewEngine(media.Config{BindAddresses: []string{"127.0.0.1"}, LoopbackCandidate: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, engine.Close()) })
	s := &studio{t: t, engine: engine, on: make(chan string, 10)}

	publisher := browser(t)
	payloads := map[string][]byte{
		webrtc.MimeTypeOpus: {0xfc, 1, 2, 3},
		webrtc.MimeTypeVP8:  {0x10, 0x00, 0x00, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00, 1, 2, 3},
	}
	stop, stopped := make(chan struct{}), sync.WaitGroup{}
	defer stopped.Wait()
	defer close(stop)
	for mime, payload := range payloads {
		_, name, _ := strings.Cut(mime, "/")
		track, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: mime}, name, "studio")
		require.NoError(t, err)
		_, err = publisher.AddTransceiverFromTrack(track, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
		require.NoError(t, err)
		stopped.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for n := uint16(0); ; n++ {
				select {
				case <-stop:
					return
				case <-tick.C: // fails before the connection is up
					_ = track.WriteRTP(&rtp.Packet{Payload: payload, Header: rtp.Header{Version: 2, Marker: true, SequenceNumber: n, Timestamp: uint32(n) * 900}})
				}
			}
		})
	}
	leave := post(t, s, "PA_publisher", publisher)
	for range payloads {
		require.Contains(t, payloads, <-s.on)
	}

	viewer := browser(t)
	tracks := make(chan *webrtc.TrackRemote, 10)
	viewer.OnTrack(func(r *webrtc.TrackRemote, _ *webrtc.RTPReceiver) { tracks <- r })
	for _, kind := range []webrtc.RTPCodecType{webrtc.RTPCodecTypeAudio, webrtc.RTPCodecTypeVideo} {
		_, err := viewer.AddTransceiverFromKind(kind, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly})
		require.NoError(t, err)
	}
	defer post(t, s, "PA_viewer", viewer)()
	for range payloads {
		track := <-tracks
		require.Equal(t, "PA_publisher", track.StreamID())
		for range 10 {
			packet, _, err := track.ReadRTP()
			require.NoError(t, err)
			require.Equal(t, payloads[track.Codec().MimeType], packet.Payload)
		}
	}
	leave()
}
