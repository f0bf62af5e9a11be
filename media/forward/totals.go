package forward

import (
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"
)

// Traffic is what went over tracks in one direction: from publishers to us, or from us
// to subscribers.
type Traffic struct {
	Packets uint64
	// Bytes of the packets. Those of RTP header extensions and of SRTP do not count on
	// the way to subscribers.
	Bytes uint64
	// Lost packets: of publishers' those that never came, of subscribers' those that
	// their reports tell of (RFC 3550, 6.4.1).
	Lost uint64
	// NACKs are packets that the receiver asked for again, and Repeats those that we
	// sent again; publishers' are not told from others.
	NACKs, Repeats uint64
	KeyRequests    uint64 // for key frames (PLI, FIR), by the receiver

	// Of subscribers: packets that were dropped since they waited too long for their turn,
	// changes of the layer that is forwarded, and pauses for want of bandwidth.
	Overdue, Switches, Pauses uint64
}

// Histogram is how often something was measured to be how much.
type Histogram struct {
	Bounds []float64
	Counts []uint64 // of measurements up to each bound
	Count  uint64
	Sum    float64
}

// histogram counts measurements, of up to 16 bounds.
type histogram struct {
	counts [17]atomic.Uint64
	sum    atomic.Uint64 // millionths
}

func (h *histogram) observe(bounds []float64, v float64) {
	i := 0
	for i < len(bounds) && v > bounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(uint64(max(v, 0) * 1e6))
}

func (h *histogram) get(bounds []float64) Histogram {
	out := Histogram{Bounds: bounds, Counts: make([]uint64, len(bounds)), Sum: float64(h.sum.Load()) / 1e6}
	for i := range bounds {
		out.Count += h.counts[i].Load()
		out.Counts[i] = out.Count
	}
	out.Count += h.counts[len(bounds)].Load()
	return out
}

// The bounds of what is measured of paths to subscribers, in seconds and shares.
var (
	rttBounds   = []float64{0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2}
	queueBounds = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1}
	lossBounds  = []float64{0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5}
)

// Paths is how the paths to subscribers fared: what was measured of each, about once a
// second.
type Paths struct {
	RTT, Queue Histogram // seconds
	Loss       Histogram // share of packets
}

// Paths is how the paths to subscribers fared.
func (t *Totals) Paths() Paths {
	return Paths{t.rtt.get(rttBounds), t.queue.get(queueBounds), t.loss.get(lossBounds)}
}

// Totals count the traffic of many tracks, by kind and direction, to within a second.
// The zero value has counted nothing. Its methods may be called concurrently.
type Totals struct {
	audio, video     [2]traffic
	rtt, queue, loss histogram // of paths to subscribers
}

// Directions of traffic.
const (
	incoming = iota
	outgoing
)

type traffic struct {
	packets, bytes, lost, nacks, repeats, keyRequests atomic.Uint64
	overdue, switches, pauses                         atomic.Uint64
}

// Received is what came from publishers.
func (t *Totals) Received() (audio, video Traffic) {
	return t.audio[incoming].get(), t.video[incoming].get()
}

// Sent is what went to subscribers.
func (t *Totals) Sent() (audio, video Traffic) {
	return t.audio[outgoing].get(), t.video[outgoing].get()
}

// of is the counter of a kind and direction. A nil t has none.
func (t *Totals) of(video bool, direction int) *traffic {
	switch {
	case t == nil:
		return nil
	case video:
		return &t.video[direction]
	}
	return &t.audio[direction]
}

func (c *traffic) get() Traffic {
	return Traffic{
		Packets: c.packets.Load(), Bytes: c.bytes.Load(), Lost: c.lost.Load(),
		NACKs: c.nacks.Load(), Repeats: c.repeats.Load(), KeyRequests: c.keyRequests.Load(),
		Overdue: c.overdue.Load(), Switches: c.switches.Load(), Pauses: c.pauses.Load(),
	}
}

// grow adds what a stream's traffic has grown by since it was counted last, which
// counted says. What shrinks, as losses do by packets that come late, counts again when
// it has grown beyond what it was.
func (c *traffic) grow(counted *Traffic, now Traffic) {
	if c == nil {
		return
	}
	for _, f := range []struct {
		total       *atomic.Uint64
		before, now *uint64
	}{
		{&c.packets, &counted.Packets, &now.Packets},
		{&c.bytes, &counted.Bytes, &now.Bytes},
		{&c.lost, &counted.Lost, &now.Lost},
		{&c.nacks, &counted.NACKs, &now.NACKs},
		{&c.repeats, &counted.Repeats, &now.Repeats},
		{&c.keyRequests, &counted.KeyRequests, &now.KeyRequests},
		{&c.overdue, &counted.Overdue, &now.Overdue},
		{&c.switches, &counted.Switches, &now.Switches},
		{&c.pauses, &counted.Pauses, &now.Pauses},
	} {
		if *f.now > *f.before {
			f.total.Add(*f.now - *f.before)
			*f.before = *f.now
		}
	}
}

// trafficLocked is what came of the layer. mu is held.
func (l *Layer) trafficLocked() Traffic {
	return Traffic{
		Packets: l.rates.packets, Bytes: l.rates.bytes, Lost: l.stream.Lost(),
		NACKs: l.counters.nacks.Load(), KeyRequests: l.counters.keyRequests.Load(),
	}
}

// countLocked brings the track's totals up to date. mu is held.
func (l *Layer) countLocked() {
	l.track.cfg.Totals.of(l.track.video, incoming).grow(&l.counted, l.trafficLocked())
}

// trafficLocked is what went to the subscriber. mu is held.
func (f *Forwarder) trafficLocked() Traffic {
	s := &f.stats
	return Traffic{
		Packets: s.Packets, Bytes: s.Bytes, Lost: min(s.Lost, s.Packets), // which is the subscriber's word
		NACKs: s.NACKs, Repeats: s.Retransmitted, KeyRequests: s.KeyRequests,
		Overdue: s.Overdue, Switches: s.Switches, Pauses: s.Pauses,
	}
}

// countLocked brings the track's totals up to date. mu is held.
func (f *Forwarder) countLocked() {
	if !f.cfg.Aside {
		f.track.cfg.Totals.of(f.video, outgoing).grow(&f.counted, f.trafficLocked())
	}
}

// Account is what a stream of a track has done so far, in one direction.
type Account struct {
	Traffic Traffic
	Inbound bool          // it came from the publisher; else it went to a subscriber
	RTT     time.Duration // 0 = unknown
	// Shown tells that it is video which the subscriber asks for and the publisher sends,
	// and Quality in which quality it is forwarded, OFF for not at all.
	Shown   bool
	Quality livekit.VideoQuality
}

// Account is what came of the layer.
func (l *Layer) Account() Account {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := Account{Traffic: l.trafficLocked(), Inbound: true}
	if l.missing != nil {
		a.RTT = l.missing.RTT()
	}
	return a
}

// Account is what went to the subscriber.
func (f *Forwarder) Account() Account {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := Account{Traffic: f.trafficLocked(), RTT: f.stats.RTT, Quality: livekit.VideoQuality_OFF}
	if f.video {
		a.Quality = f.shownLocked()
		switch f.shortfallLocked(f.wantedLocked()) {
		case Muted, NotAskedFor:
		case NotSent:
			a.Shown = a.Quality != livekit.VideoQuality_OFF
		default:
			a.Shown = true
		}
	}
	return a
}
