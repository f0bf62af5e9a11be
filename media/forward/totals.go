package forward

import (
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"
)

// Traffic counts packets of tracks in one direction: from publishers to the server, or
// from the server to subscribers.
type Traffic struct {
	Packets uint64
	// Bytes of the packets. To subscribers, RTP header extensions and the overhead of
	// SRTP do not count.
	Bytes uint64
	// Lost packets: from publishers those that never came, to subscribers those in their
	// reports (RFC 3550, section 6.4.1).
	Lost uint64
	// NACKs counts packets that the receiver asked for again. Repeats counts packets that
	// the server retransmitted; for publishers it is 0, because their retransmissions are
	// not recognised.
	NACKs, Repeats uint64
	KeyRequests    uint64 // for key frames (PLI, FIR), by the receiver

	// To subscribers: packets that were dropped because they waited too long in the
	// pacer, changes of the forwarded layer, and pauses for want of bandwidth.
	Overdue, Switches, Pauses uint64
}

// Totals count the traffic of many tracks, by kind and direction, accurate to a second.
// The zero value is ready for use. Its methods may be called concurrently.
type Totals struct {
	audio, video [2]traffic
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

// Received counts traffic from publishers.
func (t *Totals) Received() (audio, video Traffic) {
	return t.audio[incoming].get(), t.video[incoming].get()
}

// Sent counts traffic to subscribers.
func (t *Totals) Sent() (audio, video Traffic) {
	return t.audio[outgoing].get(), t.video[outgoing].get()
}

// of is the counter of a kind and direction; nil for a nil t.
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

// grow adds the growth of a stream's traffic since counted, and updates counted. A count
// that shrinks, as losses do when packets come late, is added again only when it exceeds
// its former maximum.
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

// trafficLocked counts the layer's traffic. mu is held.
func (l *Layer) trafficLocked() Traffic {
	return Traffic{
		Packets: l.rates.packets, Bytes: l.rates.bytes, Lost: l.stream.Lost(),
		NACKs: l.counters.nacks.Load(), KeyRequests: l.counters.keyRequests.Load(),
	}
}

// countLocked updates the track's totals. mu is held.
func (l *Layer) countLocked() {
	l.track.cfg.Totals.of(l.track.video, incoming).grow(&l.counted, l.trafficLocked())
}

// trafficLocked counts the traffic to the subscriber. mu is held.
func (f *Forwarder) trafficLocked() Traffic {
	s := &f.stats
	return Traffic{
		Packets: s.Packets, Bytes: s.Bytes, Lost: min(uint64(f.receipts.get().lost), s.Packets), // the subscriber may report any number of losses
		NACKs: s.NACKs, Repeats: s.Retransmitted, KeyRequests: s.KeyRequests,
		Overdue: s.Overdue, Switches: s.Switches, Pauses: s.Pauses,
	}
}

// countLocked updates the track's totals. mu is held.
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
	return Account{Traffic: l.trafficLocked(), Inbound: true, RTT: l.rttLocked()}
}

// Account is what went to the subscriber.
func (f *Forwarder) Account() Account {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := Account{Traffic: f.trafficLocked(), RTT: f.receipts.get().rtt, Quality: livekit.VideoQuality_OFF}
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
