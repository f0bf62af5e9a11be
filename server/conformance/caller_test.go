package conformance

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

// caller is our own client with media: a signaller and its peer connections. It sends the
// messages of a stock client when the test wants them.
type caller struct {
	*testing.T
	single bool
	jwt    string
	pub    *webrtc.PeerConnection // the only one in single mode
	sub    *webrtc.PeerConnection
	heard  atomic.Int64 // packets received
	data   channels     // data channels and received packets

	wg   sync.WaitGroup // readers of tracks, and the sender
	stop chan struct{}  // ends the sender and the pump

	networks []webrtc.NetworkType

	mu    sync.Mutex // guards the following; held while a message is handled
	ws    *signaller
	at    int  // the next message of ws to handle
	asked bool // an offer is requested, to be made when no other is under way
}

func newCaller(t *testing.T, m mode, room, identity string) *caller {
	t.Helper()
	return newCallerAs(t, m, identity, join(room))
}

// newCallerAs makes a caller with a grant that can use certain networks; UDP if none are
// named.
func newCallerAs(t *testing.T, m mode, identity string, grant *auth.VideoGrant, networks ...webrtc.NetworkType) *caller {
	t.Helper()
	c := &caller{T: t, single: m.name == single.name, jwt: token(t, identity, grant), networks: networks, stop: make(chan struct{})}
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
	if len(c.networks) > 0 {
		settings.SetNetworkTypes(c.networks)
	}
	pc, err := webrtc.NewAPI(webrtc.WithSettingEngine(settings)).NewPeerConnection(webrtc.Configuration{})
	require.NoError(c, err)
	pc.OnDataChannel(c.data.add)
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

// path is the path to connect, or to resume the participant sid.
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

// pump handles the server's messages about the connections.
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
			c.say(c.sub, false, m.GetOffer().Id, false)
		}
	case m.GetAnswer() != nil:
		err = c.pub.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: m.GetAnswer().Sdp})
	case m.GetMediaSectionsRequirement() != nil:
		for range m.GetMediaSectionsRequirement().NumAudios {
			_, err = c.pub.AddTransceiverFromKind(webrtc.RTPCodecTypeAudio, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly})
		}
		for range m.GetMediaSectionsRequirement().NumVideos {
			_, err = c.pub.AddTransceiverFromKind(webrtc.RTPCodecTypeVideo, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly})
		}
		c.asked = true
	case m.GetTrickle() != nil:
		pc := c.pub
		if m.GetTrickle().Target == livekit.SignalTarget_SUBSCRIBER {
			pc = c.sub
		}
		var candidate webrtc.ICECandidateInit
		// A candidate that comes before the description is also in the description.
		if err = json.Unmarshal([]byte(m.GetTrickle().CandidateInit), &candidate); err == nil && pc.RemoteDescription() != nil {
			err = pc.AddICECandidate(candidate)
		}
	}
	select {
	case <-c.stop:
		return // the connections are closed, and take no more messages
	default:
	}
	if err != nil {
		c.Errorf("handle %T: %v", m.Message, err)
		return
	}
	if c.asked && c.pub.SignalingState() == webrtc.SignalingStateStable {
		c.asked = false
		c.say(c.pub, true, 2, false)
	}
}

// say sends an offer for the publishing connection, which may restart ICE, or an answer
// for the subscribing one, with all candidates in it.
func (c *caller) say(pc *webrtc.PeerConnection, offer bool, id uint32, restart bool) {
	gathered := webrtc.GatheringCompletePromise(pc)
	var sd webrtc.SessionDescription
	var err error
	if offer {
		sd, err = pc.CreateOffer(&webrtc.OfferOptions{ICERestart: restart})
	} else {
		sd, err = pc.CreateAnswer(nil)
	}
	if err == nil {
		err = pc.SetLocalDescription(sd)
	}
	select {
	case <-c.stop:
		return // the connections are closed, and gather no more candidates
	default:
	}
	if err != nil {
		c.Errorf("describe: %v", err)
		return
	}
	select {
	case <-gathered:
	case <-c.stop:
		return
	}
	said := &livekit.SessionDescription{Type: sd.Type.String(), Sdp: pc.LocalDescription().SDP, Id: id}
	request := &livekit.SignalRequest{Message: &livekit.SignalRequest_Answer{Answer: said}}
	if offer {
		request.Message = &livekit.SignalRequest_Offer{Offer: said}
	}
	data, err := proto.Marshal(request)
	if err == nil {
		err = c.ws.conn.Write(context.Background(), websocket.MessageBinary, data)
	}
	if err != nil { // the server has closed the socket, and the wait for the next message reports it
		c.Logf("not said: %v", err)
	}
}

// offer sends an offer for the publishing connection, when no other is under way. With
// one connection the offer has sections to receive in too.
func (c *caller) offer(id uint32) {
	c.Helper()
	c.offerAnd(id, false)
}

// offerAnd is offer that may restart ICE.
func (c *caller) offerAnd(id uint32, restart bool) {
	c.Helper()
	eventually(c.T, "no offer is under way", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.pub.SignalingState() != webrtc.SignalingStateStable {
			return false
		}
		c.say(c.pub, true, id, restart)
		return true
	})
}

// connect makes the data channels of stock clients, and connects.
func (c *caller) connect() {
	c.Helper()
	c.data.create(c.T, c.pub)
	c.offer(1)
	eventually(c.T, "both connections are up", func() bool {
		return c.pub.ConnectionState() == webrtc.PeerConnectionStateConnected && c.sub.ConnectionState() == webrtc.PeerConnectionStateConnected
	})
}

// publish announces and offers a microphone, and sends until the test ends.
func (c *caller) publish() (sid string) {
	c.Helper()
	return c.publishAs(opus, mic, "cid-mic")
}

// publishAs announces and offers a track, and sends until the test ends.
func (c *caller) publishAs(as codec, source livekit.TrackSource, cid string) (sid string) {
	c.Helper()
	track, err := webrtc.NewTrackLocalStaticSample(as.capability, cid, "stream")
	require.NoError(c, err)
	announcement := &livekit.AddTrackRequest{Cid: cid, Type: livekit.TrackType_AUDIO, Source: source, Name: cid}
	if !as.audio() {
		announcement.Type, announcement.Width, announcement.Height = livekit.TrackType_VIDEO, 320, 180
	}
	c.ws.request(c.T, &livekit.SignalRequest{Message: &livekit.SignalRequest_AddTrack{AddTrack: announcement}})
	published := await(c.T, c.ws, "the published track "+cid, func(m *livekit.SignalResponse) *livekit.TrackPublishedResponse {
		if p := m.GetTrackPublished(); p.GetCid() == cid {
			return p
		}
		return nil
	})
	_, err = c.pub.AddTransceiverFromTrack(track, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
	require.NoError(c, err)
	if c.single {
		_, err = c.pub.AddTransceiverFromKind(webrtc.RTPCodecTypeAudio, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly})
		require.NoError(c, err)
	}
	c.offer(1)
	c.wg.Go(func() {
		for n := uint32(0); ; n++ {
			select {
			case <-c.stop:
				return
			case <-time.After(as.interval):
			}
			_ = track.WriteSample(media.Sample{Data: as.frame(stamp{'f', n}, true), Duration: as.interval}) // fails before the connection is up
		}
	})
	return published.Track.Sid
}

// resume opens a second WebSocket for the participant, and the pump continues with it.
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

// hearsNothing waits until nothing has arrived for a while.
func (c *caller) hearsNothing(t *testing.T) {
	t.Helper()
	before, since := c.heard.Load(), time.Now()
	eventually(t, "packets cease", func() bool {
		if now := c.heard.Load(); now != before {
			before, since = now, time.Now()
		}
		return time.Since(since) > 700*time.Millisecond
	})
}

// received is the newest description of what the client receives: with two connections
// the server's offer, with one its answer; nil if there is none yet.
func (c *caller) received() (newest *livekit.SessionDescription) {
	for _, m := range c.ws.messages() {
		if d := m.GetOffer(); d != nil {
			newest = d
		}
		if d := m.GetAnswer(); d != nil && c.single {
			newest = d
		}
	}
	return newest
}

// channels are a caller's data channels and the received packets.
type channels struct {
	mu  sync.Mutex                       // guards the following
	all map[string][]*webrtc.DataChannel // by label; the client's own first
	got []*livekit.DataPacket
}

// create makes a client's channels, with the options that LiveKit uses for each.
func (d *channels) create(t *testing.T, pc *webrtc.PeerConnection) {
	t.Helper()
	for label, init := range map[string]*webrtc.DataChannelInit{
		"_reliable": {Ordered: ptr(true)},
		"_lossy":    {Ordered: ptr(false), MaxRetransmits: ptr(uint16(0))},
	} {
		dc, err := pc.CreateDataChannel(label, init)
		require.NoError(t, err)
		d.add(dc)
	}
}

func (d *channels) add(dc *webrtc.DataChannel) {
	dc.OnMessage(func(m webrtc.DataChannelMessage) {
		packet := &livekit.DataPacket{}
		if err := proto.Unmarshal(m.Data, packet); err != nil {
			return // the wait for it reports the failure
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.got = append(d.got, packet)
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all == nil {
		d.all = map[string][]*webrtc.DataChannel{}
	}
	d.all[dc.Label()] = append(d.all[dc.Label()], dc)
}

// of returns the channels with a label.
func (d *channels) of(label string) []*webrtc.DataChannel {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.all[label])
}

func (d *channels) packets() []*livekit.DataPacket {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.got)
}
