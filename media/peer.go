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
)

// maxWaiting bounds what a client may have waiting in its peer's loop.
const maxWaiting = 4096

// PeerConfig is what a [Peer] needs to know of its participant.
type PeerConfig struct {
	SID, Identity string
	// SinglePC: one peer connection that the client offers. Else two.
	SinglePC bool
	// SubscriberPrimary (two peer connections only): the participant is connected
	// when the one that we offer is.
	SubscriberPrimary bool
	Protocol          int
	Client            *livekit.ClientInfo
	// AdaptiveStream: video starts at its lowest layer until the client says what
	// it shows.
	AdaptiveStream bool
	// AllowPause: video is paused when not even its lowest layer fits. Else that layer is
	// sent all the same.
	AllowPause bool
	// TCPOnly offers the client nothing but candidates over TCP, if there are any.
	TCPOnly bool

	// What the participant may do at first; see [Peer.SetPublisherAllowed]. Whether
	// it may subscribe is its room's to know, which subscribes it.
	CanPublish, CanPublishData, CanSubscribe bool

	// Signals is the way to the client.
	Signals Signals
	// Events receives what happens.
	Events rooms.PeerEvents
	// Log carries the room and the participant.
	Log *slog.Logger
}

// Peer is one participant's transports. All methods may be called concurrently and
// never block; what they ask for happens in the order asked, on the peer's loop.
type Peer struct {
	cfg    PeerConfig
	engine *Engine
	log    *slog.Logger
	born   time.Time
	queue  *taskQueue
	data   *dataChannels
	stop   chan struct{}
	done   chan struct{} // closed when everything has ended

	closeOnce    sync.Once
	closing      atomic.Bool
	mediaAllowed atomic.Bool
	dataAllowed  atomic.Bool
	describing   atomic.Int64 // bytes of the client's descriptions that wait for the loop
	quality      *qualityMeter
	summary      *summaryMeter
	voice        *forward.Voice
	relays       *turn.Session // by which the client uses our TURN server; nil without one

	// The following belong to the loop.
	pub, sub    *transport // sub is nil in single mode
	started     bool
	connected   bool // Events.Connected was called
	ended       bool // Events.Disconnected or NeedsReconnect was called
	pubs        map[string]*publication
	sections    map[string]*upSection // by mid, of the transport that the client offers
	subs        map[string]*subscription
	subOrder    []*subscription // in the order subscribed
	single      singleState
	deferred    []func() // of Bind
	joinTimer   *time.Timer
	answerTimer *time.Timer
	graceTimer  *time.Timer
	factsTimer  *time.Timer // runs while untold is not empty
	untold      map[*publication]struct{}
}

var _ rooms.Peer = (*Peer)(nil)

// NewPeer makes a participant's transports. Nothing is sent until Start or the
// client's first offer. Close must be called.
func (e *Engine) NewPeer(cfg PeerConfig) (*Peer, error) {
	if cfg.Log == nil {
		cfg.Log = e.log
	}
	p := &Peer{
		cfg: cfg, engine: e, log: cfg.Log, born: time.Now(),
		queue: newTaskQueue(), quality: newQualityMeter(), summary: newSummaryMeter(), voice: forward.NewVoice(), stop: make(chan struct{}), done: make(chan struct{}),
		pubs: map[string]*publication{}, sections: map[string]*upSection{}, subs: map[string]*subscription{},
		joinTimer: time.NewTimer(e.cfg.JoinTimeout), answerTimer: stoppedTimer(), graceTimer: stoppedTimer(),
		factsTimer: stoppedTimer(), untold: map[*publication]struct{}{},
	}
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
	p.sub.offerID = uint32(rand.IntN(1 << 8)) // as LiveKit: from a small random number on
	if p.cfg.SubscriberPrimary {
		return p.data.create(p.sub.pc)
	}
	return nil
}

// down is the transport that carries what the client is subscribed to.
func (p *Peer) down() *transport {
	if p.sub != nil {
		return p.sub
	}
	return p.pub
}

// primary is the transport that makes the participant connected.
func (p *Peer) primary() *transport {
	if p.sub != nil && p.cfg.SubscriberPrimary {
		return p.sub
	}
	return p.pub
}

// post queues f for the loop.
func (p *Peer) post(f func()) { p.queue.post(f, 0) }

// later does f when the description that pion is at is applied. For what pion calls
// on the loop.
func (p *Peer) later(f func()) { p.deferred = append(p.deferred, f) }

// postFromClient queues what the client asked for. A client that asks faster than
// its loop works has to start again.
func (p *Peer) postFromClient(f func()) {
	if !p.queue.post(f, maxWaiting) && !p.closing.Load() {
		p.post(func() { p.needsReconnect("too many signalling messages") })
	}
}

func (p *Peer) loop() {
	defer close(p.done)
	defer p.engine.remove(p)
	defer p.teardown()
	judge := time.NewTicker(qualityInterval)
	defer judge.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-p.queue.wake:
			for _, task := range p.queue.take() {
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
			_, score := p.quality.judge()
			if p.connected {
				p.summary.look(p.down().protocol(), float64(score), time.Now())
			}
		case <-p.answerTimer.C:
			if p.connected { // else the time to join decides
				p.needsReconnect("no answer to an offer")
			}
		}
	}
}

// Close implements rooms.Peer.
func (p *Peer) Close() {
	p.closeOnce.Do(func() {
		p.closing.Store(true)
		p.queue.close()
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

// Start lets the first offer go out (two peer connections only).
func (p *Peer) Start() {
	p.post(func() {
		p.started = true
		if p.sub != nil && p.cfg.SubscriberPrimary {
			p.sub.dirty = true
		}
	})
}

// stateChanged follows a transport's ICE and DTLS.
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

// closedByClient follows the end of a data channel association: the client closed
// its peer connection, which is noticed so before ICE would.
func (p *Peer) closedByClient(t *transport) {
	t.gone = true
	p.quality.setLost(p.connected)
	if p.connected {
		p.graceTimer.Reset(p.engine.cfg.ReconnectGrace)
	}
}

// failing reports whether a transport has been up and does not answer now.
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

// lost gives the client a moment to resume, and asks it to.
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

// LimitDownlink takes the path to the client for one that carries bitrate at most,
// in bits/s, whatever the client reports of it; 0 lifts that.
func (p *Peer) LimitDownlink(bitrate uint64) {
	p.post(func() { p.down().down.Limit(bitrate) })
}

// LastMessageSeq is the sequence of the last reliable data packet that came from
// the client, which a resuming client is told; 0 if there was none.
func (p *Peer) LastMessageSeq() uint32 { return p.data.lastSeq.Load() }

// noInterceptors keeps pion from adding its own.
func noInterceptors() *interceptor.Registry { return &interceptor.Registry{} }
