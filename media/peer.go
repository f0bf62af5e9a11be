package media

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/interceptor"
	"github.com/pion/webrtc/v4"

	"parlor/media/forward"
	"parlor/media/turn"
	"parlor/rooms"
	"parlor/rooms/mailbox"
)

// maxWaiting bounds the tasks of a client that wait for its peer's loop.
const maxWaiting = 4096

// PeerConfig configures a [Peer] for its participant.
type PeerConfig struct {
	SID, Identity string
	// SinglePC: there is one peer connection, and the client makes its offers. Otherwise
	// there are two.
	SinglePC bool
	// SubscriberPrimary (two peer connections only): the participant counts as connected
	// when the subscribing connection is up, and not the publishing one.
	SubscriberPrimary bool
	Protocol          int
	Client            *livekit.ClientInfo
	// AdaptiveStream: video starts at its lowest layer until the client says how large it
	// shows the video.
	AdaptiveStream bool
	// AllowPause: video is paused when not even its lowest layer fits. Otherwise that
	// layer is sent all the same.
	AllowPause bool
	// TCPOnly offers the client only candidates over TCP, if there are any.
	TCPOnly bool

	// Codecs, by mime type, that the client is not to send, nor to be sent, and that it is
	// not to send. With one peer connection the latter are the client's to heed.
	DisabledCodecs, DisabledPublishCodecs []string

	// The permissions at the beginning; see [Peer.SetPublisherAllowed]. The room checks
	// the permission to subscribe itself, before it calls [Peer.Subscribe].
	CanPublish, CanPublishData, CanSubscribe bool

	// Signals carries messages to the client.
	Signals Signals
	// Events receives the events of the peer.
	Events rooms.PeerEvents
	// Log has the room and the participant as attributes.
	Log *slog.Logger
}

// Peer is the transports of one participant. All methods may be called concurrently and
// never block. The peer's loop carries the calls out in the order in which they came.
type Peer struct {
	cfg    PeerConfig
	engine *Engine
	log    *slog.Logger
	born   time.Time
	queue  *mailbox.Box[func()]
	data   *dataChannels
	codecs codecSet // that it may send and be sent; never changed
	stop   chan struct{}
	done   chan struct{} // closed when all goroutines of the peer have ended

	closeOnce    sync.Once
	closing      atomic.Bool
	mediaAllowed atomic.Bool
	dataAllowed  atomic.Bool
	describing   atomic.Int64 // bytes of the client's descriptions that wait for the loop
	quality      *qualityMeter
	summary      *summaryMeter
	voice        *forward.Voice
	relays       *turn.Session // the client's use of our TURN server; nil without one

	wishesMu sync.Mutex
	wishes   map[string]wish // by track SID: of which the loop has not heard; guarded by wishesMu

	// The following belong to the loop.
	pub, sub      *transport // sub is nil in single mode
	started       bool
	connected     bool // Events.Connected was called
	ended         bool // Events.Disconnected or NeedsReconnect was called
	pubs          map[string]*publication
	announcements int                   // publications that there have been
	sections      map[string]*upSection // by mid, of the transport for which the client makes the offers
	subs          map[string]*subscription
	subOrder      []*subscription // in the order subscribed
	single        singleState
	deferred      []func() // tasks of Bind
	joinTimer     *time.Timer
	answerTimer   *time.Timer
	graceTimer    *time.Timer
	factsTimer    *time.Timer // runs while untold is not empty
	untold        map[*publication]struct{}
}

var _ rooms.Peer = (*Peer)(nil)

// NewPeer makes a participant's transports. They send nothing before Start or the
// client's first offer. Close must be called.
func (e *Engine) NewPeer(cfg PeerConfig) (*Peer, error) {
	if cfg.Log == nil {
		cfg.Log = e.log
	}
	p := &Peer{
		cfg: cfg, engine: e, log: cfg.Log, born: time.Now(),
		queue: mailbox.New[func()](), quality: newQualityMeter(), summary: newSummaryMeter(), voice: forward.NewVoice(), stop: make(chan struct{}), done: make(chan struct{}),
		pubs: map[string]*publication{}, sections: map[string]*upSection{}, subs: map[string]*subscription{},
		joinTimer: time.NewTimer(e.cfg.JoinTimeout), answerTimer: stoppedTimer(), graceTimer: stoppedTimer(),
		factsTimer: stoppedTimer(), untold: map[*publication]struct{}{}, wishes: map[string]wish{},
	}
	p.codecs = e.codecs.without(cfg.DisabledCodecs)
	p.mediaAllowed.Store(cfg.CanPublish)
	p.dataAllowed.Store(cfg.CanPublishData)
	p.data = newDataChannels(p)
	if err := p.open(); err != nil {
		return nil, errors.Join(err, p.closeTransports())
	}
	if err := e.add(p); err != nil {
		return nil, errors.Join(err, p.closeTransports())
	}
	go p.loop() // ends by Close; Engine.Close waits for it
	return p, nil
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

func (p *Peer) open() (err error) {
	r := rolePublisher
	if p.cfg.SinglePC {
		r = roleSingle
	}
	if p.pub, err = p.newTransport(r, Publishing); err != nil {
		return err
	}
	if p.cfg.SinglePC {
		if p.cfg.Protocol >= negotiatedChannelsProtocol && p.engine.cfg.Protocol >= negotiatedChannelsProtocol {
			return p.data.negotiated(p.pub.pc)
		}
		return nil
	}
	if p.sub, err = p.newTransport(roleSubscriber, Subscribing); err != nil {
		return err
	}
	p.sub.offerID = uint32(rand.IntN(1 << 8)) // like LiveKit: offer IDs start at a small random number
	if p.cfg.SubscriberPrimary {
		return p.data.create(p.sub.pc)
	}
	return nil
}

// down is the transport that carries the client's subscriptions.
func (p *Peer) down() *transport {
	if p.sub != nil {
		return p.sub
	}
	return p.pub
}

// primary is the transport that decides whether the participant is connected.
func (p *Peer) primary() *transport {
	if p.sub != nil && p.cfg.SubscriberPrimary {
		return p.sub
	}
	return p.pub
}

// post queues f for the loop.
func (p *Peer) post(f func()) { p.queue.Post(f) }

// later queues f to run after pion has applied the description that it is applying now.
// It is for callbacks that pion makes on the loop.
func (p *Peer) later(f func()) { p.deferred = append(p.deferred, f) }

// postFromClient queues a request of the client. A client that sends requests faster than
// its loop works must reconnect.
func (p *Peer) postFromClient(f func()) {
	if !p.queue.PostWithin(f, maxWaiting) && !p.closing.Load() {
		p.post(func() { p.needsReconnect("too many signalling messages") })
	}
}

func (p *Peer) loop() {
	defer close(p.done)
	defer p.engine.remove(p)
	defer p.teardown()
	judge := time.NewTimer(p.untilJudged(time.Now()))
	defer judge.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-p.queue.Wake():
			for _, task := range p.queue.Take() {
				if p.closing.Load() {
					return
				}
				task()
			}
			p.negotiate()
		case <-p.joinTimer.C:
			p.disconnect(livekit.DisconnectReason_JOIN_FAILURE)
		case <-p.graceTimer.C:
			p.disconnect(livekit.DisconnectReason_CONNECTION_TIMEOUT)
		case <-p.factsTimer.C:
			p.tellFacts()
		case <-judge.C:
			judge.Reset(p.untilJudged(time.Now()))
			p.measureRoundTrip()
			_, score := p.quality.judge()
			if p.connected {
				p.summary.look(p.down().protocol(), float64(score), p.down().down.Stats().Estimate, time.Now())
			}
		case <-p.answerTimer.C:
			if p.connected { // before it connects, joinTimer decides
				p.needsReconnect("no answer to an offer")
			}
		}
	}
}

// untilJudged is the time until the peer judges its connection again. Peers judge at the
// same few moments of each interval, because each moment wakes the process.
func (p *Peer) untilJudged(now time.Time) time.Duration {
	const moments = 8
	const apart = qualityInterval / moments
	phase := time.Duration(p.born.UnixNano()) / time.Microsecond % moments * apart
	return qualityInterval - (now.Sub(now.Truncate(qualityInterval))+qualityInterval-phase)%qualityInterval
}

// Close implements rooms.Peer.
func (p *Peer) Close() {
	p.closeOnce.Do(func() {
		p.closing.Store(true)
		p.queue.Close()
		close(p.stop)
	})
}

func (p *Peer) teardown() {
	if p.relays != nil {
		p.relays.End()
	}
	for _, t := range []*time.Timer{p.joinTimer, p.answerTimer, p.graceTimer, p.factsTimer} {
		t.Stop()
	}
	for _, pub := range p.pubs {
		p.endPublication(pub)
	}
	for _, s := range p.subOrder {
		s.unbind()
	}
	p.data.close()
	p.warnUnconnected()
	if err := p.closeTransports(); err != nil {
		p.log.Warn("transports did not close cleanly", "error", err)
	}
	p.data.wait()
}

func (p *Peer) closeTransports() error {
	var errs []error
	for _, t := range []*transport{p.pub, p.sub} {
		if t != nil {
			errs = append(errs, t.close())
		}
	}
	return errors.Join(errs...)
}

// Start allows the first offer to be sent (two peer connections only).
func (p *Peer) Start() {
	p.post(func() {
		p.started = true
		if p.sub != nil && p.cfg.SubscriberPrimary {
			p.sub.dirty = true
		}
	})
}

// stateChanged is called when a transport's ICE or DTLS state has changed.
func (p *Peer) stateChanged(t *transport, s webrtc.PeerConnectionState) {
	if t.state == s {
		return
	}
	t.state = s
	t.log.Debug("transport state", "state", s.String())
	p.followPath(t)
	p.quality.setLost(p.connected && p.failing())
	switch s {
	case webrtc.PeerConnectionStateConnected:
		t.everConnected = true
		if t == p.primary() && !p.connected {
			p.connected = true
			p.summary.begin(time.Now())
			p.joinTimer.Stop()
			p.log.Info("media connected", "transport", t.protocol(), "after", time.Since(p.born).Round(time.Millisecond))
			if p.sub != nil && p.sub.offered {
				p.answerTimer.Reset(p.engine.cfg.NegotiationTimeout)
			}
			p.cfg.Events.Connected()
		}
		if !p.failed() {
			p.graceTimer.Stop()
		}
	case webrtc.PeerConnectionStateFailed:
		if p.connected {
			p.lost()
		}
	}
}

// closedByClient is called when the SCTP association has ended: the client closed its
// peer connection. ICE would notice it later.
func (p *Peer) closedByClient(t *transport) {
	t.gone = true
	p.quality.setLost(p.connected)
	if p.connected {
		p.graceTimer.Reset(p.engine.cfg.ReconnectGrace)
	}
}

// failing reports whether a transport was connected and does not answer now.
func (p *Peer) failing() bool {
	for _, t := range []*transport{p.pub, p.sub} {
		if t != nil && t.everConnected && t.state == webrtc.PeerConnectionStateDisconnected {
			return true
		}
	}
	return p.failed()
}

func (p *Peer) failed() bool {
	for _, t := range []*transport{p.pub, p.sub} {
		if t != nil && (t.gone || t.state == webrtc.PeerConnectionStateFailed) {
			return true
		}
	}
	return false
}

// lost asks the client to resume, and gives it ReconnectGrace to do so.
func (p *Peer) lost() {
	p.graceTimer.Reset(p.engine.cfg.ReconnectGrace)
	p.cfg.Signals.AskResume()
}

func (p *Peer) disconnect(reason livekit.DisconnectReason) {
	if !p.ended {
		p.ended = true
		if reason == livekit.DisconnectReason_JOIN_FAILURE {
			p.engine.counters.joinFailures.Add(1)
		} else {
			p.engine.counters.timeouts.Add(1)
		}
		p.cfg.Events.Disconnected(reason)
	}
}

func (p *Peer) needsReconnect(why string) {
	if !p.ended {
		p.ended = true
		p.engine.counters.needsReconnect.Add(1)
		p.cfg.Events.NeedsReconnect(why)
	}
}

// SetPublisherAllowed implements rooms.Peer.
func (p *Peer) SetPublisherAllowed(media, data bool) {
	p.mediaAllowed.Store(media)
	p.dataAllowed.Store(data)
}

// SendData implements rooms.Peer.
func (p *Peer) SendData(from rooms.Peer, kind livekit.DataPacket_Kind, packet []byte) {
	sender, _ := from.(*Peer)
	if kind == livekit.DataPacket_LOSSY {
		p.data.send(sender, labelLossy, packet)
		return
	}
	p.data.send(sender, labelReliable, packet)
}

// SendDataTrack implements rooms.Peer.
func (p *Peer) SendDataTrack(packet []byte) { p.data.send(nil, labelDataTrack, packet) }

// LimitDownlink treats the path to the client as one that carries at most bitrate, in
// bits/s, whatever the client's feedback says; 0 removes the limit.
func (p *Peer) LimitDownlink(bitrate uint64) {
	p.post(func() { p.down().down.Limit(bitrate) })
}

// LastMessageSeq is the sequence number of the last reliable data packet that came from
// the client; 0 if none came. A resuming client is told of it.
func (p *Peer) LastMessageSeq() uint32 { return p.data.lastSeq.Load() }

// noInterceptors keeps pion from adding its default interceptors.
func noInterceptors() *interceptor.Registry { return &interceptor.Registry{} }
