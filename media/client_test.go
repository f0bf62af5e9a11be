package media

import (
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/interceptor"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
	"parlor/rooms/mailbox"
)

const patience = 30 * time.Second

func testLog(t *testing.T) *slog.Logger {
	if os.Getenv("MEDIA_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func newTestEngine(t *testing.T, change func(*Config)) *Engine {
	t.Helper()
	cfg := Config{BindAddresses: []string{"127.0.0.1"}, LoopbackCandidate: true, Log: testLog(t)}
	if change != nil {
		change(&cfg)
	}
	e, err := NewEngine(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

// occurrence is one call of rooms.PeerEvents.
type occurrence struct {
	what  string
	sid   string
	track rooms.MediaTrack
	info  *livekit.TrackInfo
	kind  livekit.DataPacket_Kind
	data  []byte
	label string
	err   livekit.SubscriptionError
	why   livekit.DisconnectReason
}

// events records what a peer reports to its room, in order. It handles tracks as a room
// does: it knows the announcements, adds the peer's facts to them, and tells the peer.
type events struct {
	ch   chan occurrence
	kept []occurrence // belongs to the test's goroutine
	told *Peer        // the peer that gets a room's messages; set before the first announcement

	mu    sync.Mutex // guards the following
	infos map[string]*livekit.TrackInfo
}

// change changes the state of a track, and returns the new one.
func (e *events) change(sid string, f func(*livekit.TrackInfo) *livekit.TrackInfo) *livekit.TrackInfo {
	e.mu.Lock()
	defer e.mu.Unlock()
	info := e.infos[sid]
	if info == nil {
		info = &livekit.TrackInfo{Sid: sid}
	}
	if e.infos == nil {
		e.infos = map[string]*livekit.TrackInfo{}
	}
	e.infos[sid] = f(info)
	return e.infos[sid]
}

func (e *events) put(o occurrence) { e.ch <- o }

func (e *events) Connected() { e.put(occurrence{what: "connected"}) }
func (e *events) Disconnected(r livekit.DisconnectReason) {
	e.put(occurrence{what: "disconnected", why: r})
}
func (e *events) NeedsReconnect(why string) { e.put(occurrence{what: "reconnect", label: why}) }
func (e *events) TrackPublished(t rooms.MediaTrack, facts rooms.TrackFacts) {
	info := e.change(t.SID(), facts.Complete)
	e.told.UpdateTrack(info)
	e.put(occurrence{what: "published", sid: t.SID(), track: t, info: proto.CloneOf(info)})
}
func (e *events) TrackUnpublished(sid string) { e.put(occurrence{what: "unpublished", sid: sid}) }
func (e *events) Subscribed(sid string)       { e.put(occurrence{what: "subscribed", sid: sid}) }
func (e *events) SubscriptionFailed(sid string, err livekit.SubscriptionError) {
	e.put(occurrence{what: "failed", sid: sid, err: err})
}
func (e *events) Data(kind livekit.DataPacket_Kind, p []byte) {
	e.put(occurrence{what: "data", kind: kind, data: p})
}
func (e *events) Message(p []byte)   { e.put(occurrence{what: "message", data: p}) }
func (e *events) DataTrack(p []byte) { e.put(occurrence{what: "data track", data: p}) }

// announce announces a track, or a further codec of it, to the peer as its room would.
func (c *client) announce(req *livekit.AddTrackRequest, info *livekit.TrackInfo) {
	if req.Stereo {
		info.AudioFeatures = append(info.AudioFeatures, livekit.AudioTrackFeature_TF_STEREO)
	}
	if req.DisableDtx {
		info.AudioFeatures = append(info.AudioFeatures, livekit.AudioTrackFeature_TF_NO_DTX)
	}
	if len(info.Codecs) == 0 {
		info.Codecs = []*livekit.SimulcastCodecInfo{{Cid: req.Cid, Layers: info.Layers}}
	}
	a := rooms.Announcement{CID: req.Cid, DisableRED: req.DisableRed, Backup: req.BackupCodecPolicy}
	for _, codec := range req.SimulcastCodecs {
		a.Codecs = append(a.Codecs, rooms.AnnouncedCodec{Codec: codec.Codec, CID: codec.Cid})
	}
	c.peer.AddTrack(a, c.events.change(info.Sid, func(known *livekit.TrackInfo) *livekit.TrackInfo {
		if req.Sid != "" {
			return known
		}
		return info
	}))
}

// setMuted mutes or unmutes a track as its room would.
func (c *client) setMuted(sid string, muted bool) {
	c.peer.UpdateTrack(c.events.change(sid, func(info *livekit.TrackInfo) *livekit.TrackInfo {
		info = proto.CloneOf(info)
		info.Muted = muted
		return info
	}))
}

// wait returns the next occurrence of that kind. Others are kept for later.
func (e *events) wait(t *testing.T, what string) occurrence {
	t.Helper()
	for i, o := range e.kept {
		if o.what == what {
			e.kept = append(e.kept[:i:i], e.kept[i+1:]...)
			return o
		}
	}
	deadline := time.After(patience)
	for {
		select {
		case o := <-e.ch:
			if o.what == what {
				return o
			}
			e.kept = append(e.kept, o)
		case <-deadline:
			require.FailNow(t, "nothing came", "waiting for %s, had %+v", what, e.kept)
		}
	}
}

// client is the client of a participant, built with pion only.
type client struct {
	t      *testing.T
	peer   *Peer
	events *events
	single bool
	api    *webrtc.API

	pub, sub *webrtc.PeerConnection // sub is nil in single mode
	inbox    *mailbox.Box[func()]
	stop     chan struct{}
	done     chan struct{}
	tracks   chan remoteTrack
	messages chan occurrence // received data
	open     map[string]chan *webrtc.DataChannel
	ending   sync.Once
	slow     func() time.Duration      // delay before a message of the server is read; nil: none
	onTrack  func(*webrtc.TrackRemote) // called on its own goroutine instead of tracks; nil: tracks is used
	reword   func(string) string       // changes an offer before it is sent; nil: unchanged
	reread   func(string) string       // changes an answer before it is applied; nil: unchanged
	reanswer func(string) string       // changes an answer before it is sent; nil: unchanged
	reroute  func(string) string       // changes the server's candidates, and the client sends none; nil: unchanged

	claims        []*livekit.VideoLayer // what it announces of its simulcast; nil: the truth
	layerSizes    [3]int                // of the frames of publishSimulcast, in bytes; 0: minimal
	still         atomic.Bool           // publishSimulcast sends nothing
	configuration webrtc.Configuration  // of its peer connections

	mu           sync.Mutex // guards the following
	offerID      uint32
	offering     bool
	offerAgain   bool
	requirements []sectionCount
	midToTrack   map[string]string
	states       []*livekit.StreamStateInfo
	qualities    [][]Wanted // of video
	sounds       [][]Wanted
	mute         bool // answers no offers
	repeats      bool // answers each offer without its number, and again when the next comes
	repeated     *Description
	pendingPub   []webrtc.ICECandidateInit
	pendingSub   []webrtc.ICECandidateInit
	answers      []Description
	offers       []Description
	resumes      int // number of requests to resume
}

type remoteTrack struct {
	*webrtc.TrackRemote
	mid      string
	receiver *webrtc.RTPReceiver
}

type clientConfig struct {
	sid      string
	single   bool
	change   func(*PeerConfig)
	codecs   func(*webrtc.MediaEngine) error
	settings func(*webrtc.SettingEngine)

	configuration webrtc.Configuration

	interceptors func(*webrtc.MediaEngine, *interceptor.Registry) error // nil: none
}

func newClient(t *testing.T, e *Engine, cc clientConfig) *client {
	t.Helper()
	c := &client{
		t: t, single: cc.single, events: &events{ch: make(chan occurrence, 10000)},
		inbox: mailbox.New[func()](), stop: make(chan struct{}), done: make(chan struct{}), tracks: make(chan remoteTrack, 100),
		messages: make(chan occurrence, 10000), midToTrack: map[string]string{},
		open: map[string]chan *webrtc.DataChannel{}, configuration: cc.configuration,
	}
	for _, l := range []string{"_reliable", "_lossy", "_data_track", "own"} {
		c.open[l] = make(chan *webrtc.DataChannel, 4)
	}
	m := &webrtc.MediaEngine{}
	if cc.codecs == nil {
		cc.codecs = (*webrtc.MediaEngine).RegisterDefaultCodecs
	}
	require.NoError(t, cc.codecs(m))
	for _, uri := range []string{uriMID, uriRID, uriRepairedRID, uriTransportCC} {
		require.NoError(t, m.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: uri}, webrtc.RTPCodecTypeVideo))
	}
	for _, uri := range []string{uriMID, uriAudioLevel} {
		require.NoError(t, m.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: uri}, webrtc.RTPCodecTypeAudio))
	}
	var s webrtc.SettingEngine
	s.SetIncludeLoopbackCandidate(true)
	s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	s.SetIPFilter(func(ip net.IP) bool { return ip.IsLoopback() })
	s.DisableCloseByDTLS(true) // the server may close first
	s.LoggerFactory = pionLogs{testLog(t).With("side", "client")}
	if cc.settings != nil {
		cc.settings(&s)
	}
	registry := &interceptor.Registry{}
	if cc.interceptors != nil {
		require.NoError(t, cc.interceptors(m, registry))
	}
	c.api = webrtc.NewAPI(webrtc.WithMediaEngine(m), webrtc.WithSettingEngine(s), webrtc.WithInterceptorRegistry(registry))
	c.pub = c.newPC(Publishing)
	if !cc.single {
		c.sub = c.newPC(Subscribing)
	}
	cfg := PeerConfig{
		SID: cc.sid, Identity: "id-" + cc.sid, SinglePC: cc.single, SubscriberPrimary: !cc.single,
		Protocol: 17, Client: &livekit.ClientInfo{}, CanPublish: true, CanPublishData: true, CanSubscribe: true,
		Events: c.events, Log: testLog(t).With("participant", cc.sid),
		Signals: hearing{c},
	}
	if cc.change != nil {
		cc.change(&cfg)
	}
	var err error
	c.peer, err = e.NewPeer(cfg)
	require.NoError(t, err)
	c.events.told = c.peer
	go c.loop() // ends by close
	t.Cleanup(c.close)
	return c
}

func (c *client) newPC(connection Connection) *webrtc.PeerConnection {
	pc, err := c.api.NewPeerConnection(c.configuration)
	require.NoError(c.t, err)
	pc.OnICECandidate(func(ic *webrtc.ICECandidate) {
		if ic == nil || c.reroute != nil {
			return
		}
		told := Candidate{ICECandidateInit: ic.ToJSON(), Connection: connection}
		c.inbox.Post(func() { c.peer.HandleCandidate(told) })
	})
	pc.OnTrack(func(r *webrtc.TrackRemote, recv *webrtc.RTPReceiver) {
		if c.onTrack != nil {
			c.onTrack(r)
			return
		}
		c.tracks <- remoteTrack{r, recv.RTPTransceiver().Mid(), recv}
	})
	pc.OnDataChannel(c.listen)
	return pc
}

func (c *client) listen(dc *webrtc.DataChannel) {
	dc.OnMessage(func(m webrtc.DataChannelMessage) {
		c.messages <- occurrence{label: dc.Label(), data: m.Data}
	})
	dc.OnOpen(func() {
		if ch := c.open[dc.Label()]; ch != nil {
			ch <- dc
		}
	})
}

func (c *client) loop() {
	defer close(c.done)
	for {
		select {
		case <-c.stop:
			return
		case <-c.inbox.Wake():
			for _, f := range c.inbox.Take() {
				f()
			}
		}
	}
}

func (c *client) close() { c.ending.Do(c.end) }

func (c *client) end() {
	c.peer.Close()
	c.inbox.Close()
	close(c.stop)
	<-c.done
	for _, pc := range []*webrtc.PeerConnection{c.pub, c.sub} {
		if pc != nil {
			_ = pc.GracefulClose()
		}
	}
	<-c.peer.done
}

// hearing is a client that handles the server's messages as stock clients do, on its own
// goroutine.
type hearing struct{ c *client }

var _ Signals = hearing{}

func (h hearing) hear(f func(c *client)) {
	h.c.inbox.Post(func() {
		if h.c.slow != nil {
			time.Sleep(h.c.slow())
		}
		h.c.mu.Lock()
		defer h.c.mu.Unlock()
		f(h.c)
	})
}

func (h hearing) Offer(d Description) {
	h.hear(func(c *client) {
		c.offers = append(c.offers, d)
		c.midToTrack = d.Tracks
		if !c.mute {
			c.answerLocked(d)
		}
	})
}

func (h hearing) Answer(d Description) {
	h.hear(func(c *client) { c.takeAnswerLocked(d) })
}

func (h hearing) Candidate(candidate Candidate) {
	h.hear(func(c *client) { c.trickleLocked(candidate) })
}

func (h hearing) WantSections(audios, videos int) {
	h.hear(func(c *client) {
		c.requirements = append(c.requirements, sectionCount{audios, videos})
		for range audios {
			c.addReceiverLocked(webrtc.RTPCodecTypeAudio)
		}
		for range videos {
			c.addReceiverLocked(webrtc.RTPCodecTypeVideo)
		}
		c.offerLocked(false)
	})
}

func (h hearing) WantQualities(_ string, kind livekit.TrackType, wanted []Wanted) {
	h.hear(func(c *client) {
		if kind == livekit.TrackType_VIDEO {
			c.qualities = append(c.qualities, wanted)
		} else {
			c.sounds = append(c.sounds, wanted)
		}
	})
}

func (h hearing) StreamState(publisherSID, trackSID string, state livekit.StreamState) {
	h.hear(func(c *client) {
		c.states = append(c.states, &livekit.StreamStateInfo{ParticipantSid: publisherSID, TrackSid: trackSID, State: state})
	})
}

func (h hearing) AskResume() { h.hear(func(c *client) { c.resumes++ }) }

// unheard is a client that ignores all messages except, if it is set, the server's
// candidates.
type unheard struct{ candidate func(Candidate) }

func (unheard) Offer(Description)                                 {}
func (unheard) Answer(Description)                                {}
func (unheard) WantSections(int, int)                             {}
func (unheard) WantQualities(string, livekit.TrackType, []Wanted) {}
func (unheard) StreamState(string, string, livekit.StreamState)   {}
func (unheard) AskResume()                                        {}
func (u unheard) Candidate(c Candidate) {
	if u.candidate != nil {
		u.candidate(c)
	}
}

func (c *client) takeAnswerLocked(d Description) {
	c.answers = append(c.answers, d)
	if c.single {
		c.midToTrack = d.Tracks
	}
	if d.ID != c.offerID || c.pub.SignalingState() != webrtc.SignalingStateHaveLocalOffer {
		return
	}
	text := d.SDP
	if c.reread != nil {
		text = c.reread(text)
	}
	err := c.pub.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: c.rerouted(text)})
	if err != nil {
		c.t.Errorf("answer: %v", err)
	}
	for _, ic := range c.pendingPub {
		_ = c.pub.AddICECandidate(ic)
	}
	c.pendingPub, c.offering = nil, false
	if c.offerAgain {
		c.offerLocked(false)
	}
}

func (c *client) answerLocked(o Description) {
	if err := c.sub.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: c.rerouted(o.SDP)}); err != nil {
		c.t.Errorf("offer: %v", err)
		return
	}
	for _, ic := range c.pendingSub {
		_ = c.sub.AddICECandidate(ic)
	}
	c.pendingSub = nil
	answer, err := c.sub.CreateAnswer(nil)
	if err != nil {
		c.t.Errorf("create answer: %v", err)
		return
	}
	if err := c.sub.SetLocalDescription(answer); err != nil {
		c.t.Errorf("set answer: %v", err)
	}
	text := answer.SDP
	if c.reanswer != nil {
		text = c.reanswer(text)
	}
	d := Description{SDP: c.hidden(text), ID: o.ID}
	if c.repeats {
		d.ID = 0
		if c.repeated != nil {
			c.peer.HandleAnswer(*c.repeated)
		}
		c.repeated = &d
	}
	c.peer.HandleAnswer(d)
}

func (c *client) trickleLocked(candidate Candidate) {
	ic := candidate.ICECandidateInit
	ic.Candidate = c.rerouted(ic.Candidate)
	pc, pending := c.pub, &c.pendingPub
	if candidate.Connection == Subscribing {
		pc, pending = c.sub, &c.pendingSub
	}
	if pc.RemoteDescription() == nil {
		*pending = append(*pending, ic)
		return
	}
	_ = pc.AddICECandidate(ic)
}

// rerouted is a description of the server with its candidates changed for the client.
func (c *client) rerouted(text string) string {
	if c.reroute == nil {
		return text
	}
	return c.reroute(text)
}

// hidden is a description of the client without its candidates, if it must not send any.
func (c *client) hidden(text string) string {
	if c.reroute == nil {
		return text
	}
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "a=candidate") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

func (c *client) addReceiverLocked(kind webrtc.RTPCodecType) {
	_, err := c.pub.AddTransceiverFromKind(kind, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly})
	if err != nil {
		c.t.Errorf("add receiver: %v", err)
	}
}

// offer sends an offer for the client's connection.
func (c *client) offer(restart bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offerLocked(restart)
}

func (c *client) offerLocked(restart bool) {
	if c.offering {
		c.offerAgain = true
		return
	}
	c.offering, c.offerAgain = true, false
	offer, err := c.pub.CreateOffer(&webrtc.OfferOptions{ICERestart: restart})
	if err != nil {
		c.t.Errorf("create offer: %v", err)
		return
	}
	if err := c.pub.SetLocalDescription(offer); err != nil {
		c.t.Errorf("set offer: %v", err)
		return
	}
	text := offer.SDP
	if c.reword != nil {
		text = c.reword(text)
	}
	c.offerID++
	c.peer.HandleOffer(Description{SDP: c.hidden(text), ID: c.offerID})
}

// join connects as stock clients do: with its own data channels, and in single mode with
// three sections to receive of each kind.
func (c *client) join() {
	c.t.Helper()
	c.begin()
	c.events.wait(c.t, "connected")
}

// begin is join without the wait for its end.
func (c *client) begin() {
	c.t.Helper()
	ordered, none := false, uint16(0)
	for label, init := range map[string]*webrtc.DataChannelInit{
		"_reliable": nil, "_lossy": {Ordered: &ordered, MaxRetransmits: &none}, "_data_track": {Ordered: &ordered, MaxRetransmits: &none},
	} {
		dc, err := c.pub.CreateDataChannel(label, init)
		require.NoError(c.t, err)
		if c.single {
			c.listen(dc)
		} else {
			dc.OnOpen(func() { c.open["own"] <- dc })
		}
	}
	if c.single {
		c.mu.Lock()
		for range 3 {
			c.addReceiverLocked(webrtc.RTPCodecTypeAudio)
		}
		for range 3 {
			c.addReceiverLocked(webrtc.RTPCodecTypeVideo)
		}
		c.mu.Unlock()
	}
	c.peer.Start()
	c.offer(false)
}

// channel waits until a channel is open on which the server sends.
func (c *client) channel(label string) *webrtc.DataChannel {
	c.t.Helper()
	select {
	case dc := <-c.open[label]:
		return dc
	case <-time.After(patience):
		require.FailNow(c.t, "channel did not open", label)
		return nil
	}
}

func (c *client) message() occurrence {
	c.t.Helper()
	select {
	case m := <-c.messages:
		return m
	case <-time.After(patience):
		require.FailNow(c.t, "no message came")
		return occurrence{}
	}
}

func (c *client) track() remoteTrack {
	c.t.Helper()
	select {
	case r := <-c.tracks:
		return r
	case <-time.After(patience):
		require.FailNow(c.t, "no track came")
		return remoteTrack{}
	}
}

// drain reads a track to its end.
func drain(r *webrtc.TrackRemote, each func([]byte)) {
	b := make([]byte, 1500)
	for {
		n, _, err := r.Read(b)
		if err != nil {
			if err != io.EOF {
				continue
			}
			return
		}
		if each != nil {
			each(b[:n])
		}
	}
}
