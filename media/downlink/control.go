package downlink

import (
	"time"

	"parlor/media/downlink/allocate"
	"parlor/media/downlink/estimate"
	"parlor/media/downlink/feedback"
	"parlor/media/downlink/pacer"
	"parlor/media/downlink/probe"
	"parlor/media/downlink/sent"
)

// StartBitrate is what a path is taken to carry until its first probe has come back,
// in bits/s.
const StartBitrate = 500_000

// sendingWindow is how long what is sent is counted before a bitrate is made of it.
const sendingWindow = int64(500 * time.Millisecond)

// Control is the congestion control of one downlink: the record of what was sent, the
// estimator, the probes, the pacer and the allocator, put together. T is a packet of
// the caller that waits in the pacer.
//
// It is not safe for concurrent use, has no goroutine and reads no clock.
type Control[T any] struct {
	record    *sent.Record
	estimator estimate.Estimator
	probe     probe.Controller
	pacer     pacer.Pacer[T]
	allocator allocate.Allocator

	results    []sent.Result
	state      estimate.State
	emptyingAt int64 // when a queue began to be emptied
	steadyAt   int64 // since when spatial layers stay for steadyFor
	divided    allocate.Summary
	forced     bool  // divided is more than the path is judged to carry
	forcedAt   int64 // when that began

	wide      bool    // judged by transport-wide feedback
	limit     float64 // bits/s, whatever is judged; 0 = none
	firstSent int64   // when the first packet with a number left, 0 = none yet
	told      bool    // transport-wide feedback came
	silent    bool    // none came, so what else is reported is gone by

	sending     float64 // bits/s
	windowAt    int64
	windowBytes int64
	probed      uint64 // bytes
}

// NewControl makes a control that judges by transport-wide feedback, or, without it,
// by what the receiver reports.
func NewControl[T any](transportWide bool) *Control[T] {
	c := &Control[T]{record: sent.New(), estimator: &estimate.Reported{}}
	if transportWide {
		c.JudgeBySending()
	}
	c.judge(0)
	return c
}

// JudgeBySending has a control judge by transport-wide feedback from now on. If none
// comes within a while of the first packet, it goes on by what else is reported.
func (c *Control[T]) JudgeBySending() {
	if !c.wide {
		c.wide, c.estimator = true, estimate.NewSendSide(StartBitrate)
	}
}

// Limit bounds, in bits/s, what is divided; 0 leaves it to the judgement.
func (c *Control[T]) Limit(bitrate float64) { c.limit = max(bitrate, 0) }

// Count takes note of a packet that is written now without a transport-wide number.
func (c *Control[T]) Count(now int64, size int) { c.windowBytes += int64(size) }

// Offer takes a packet that is to leave: see [pacer.Pacer.Offer].
func (c *Control[T]) Offer(now int64, p pacer.Packet, v T) pacer.Verdict {
	return c.pacer.Offer(now, p, v)
}

// Waiting is the packets and bytes that wait in the pacer.
func (c *Control[T]) Waiting() (packets, bytes int) { return c.pacer.Waiting() }

// Paces reports whether packets may have to wait: whether they are to be offered at
// all.
func (c *Control[T]) Paces() bool {
	waiting, _ := c.pacer.Waiting()
	return c.state.Limited || waiting > 0 || c.pacer.Broken()
}

// Next is the next waiting packet that is to be sent or dropped: see
// [pacer.Pacer.Next].
func (c *Control[T]) Next(now int64) (T, pacer.Packet, pacer.Verdict) { return c.pacer.Next(now) }

// Leave takes note of a packet that is written now, and gives its transport-wide
// number. It is to be called in the order in which packets leave.
func (c *Control[T]) Leave(now int64, size int, kind sent.Kind) uint16 {
	c.windowBytes += int64(size)
	if c.firstSent == 0 {
		c.firstSent = now
	}
	cluster := c.probe.Cluster()
	if cluster != 0 {
		c.probe.Sent(now, size)
	}
	if kind == sent.Padding {
		c.probed += uint64(size)
		c.pacer.Sent(now, size)
	}
	return c.record.Add(now, size, kind, cluster)
}

// Probe is how many bytes of repeats or padding are to leave now, in packets of at
// most size bytes; 0 when none are. Each is noted with Leave as [sent.Padding].
func (c *Control[T]) Probe(now int64) (bytes, size int) {
	if waiting, _ := c.pacer.Waiting(); waiting > 0 {
		return 0, 0 // media carries the probe
	}
	bytes, size, _ = c.probe.Due(now)
	return bytes, size
}

// Feedback takes in transport-wide feedback. It reports whether the judgement has
// changed so much that Divide is to be called at once.
func (c *Control[T]) Feedback(now int64, fb *feedback.Report) (divide bool) {
	if c.told = true; c.silent {
		c.silent, c.estimator = false, estimate.NewSendSide(StartBitrate)
	}
	before := c.state
	c.results = c.record.Match(fb, c.results[:0])
	c.estimator.Feedback(now, c.results, c.record.InFlight())
	if o, ok := c.probe.Feedback(now, c.results); ok && o.Bitrate > 0 {
		c.estimator.Probed(now, o.Bitrate, o.Full)
	}
	c.judge(now)
	return c.state.Emptying && !before.Emptying || c.state.Bitrate > 1.1*before.Bitrate || c.state.Bitrate < 0.9*before.Bitrate
}

// Estimated takes in the receiver's own estimate (REMB), in bits/s.
func (c *Control[T]) Estimated(now int64, bitrate float64) { c.estimator.Estimated(now, bitrate) }

// Report takes in what a receiver report tells: the share of packets lost, and the
// round trip, 0 if unknown.
func (c *Control[T]) Report(now int64, lost float64, rtt time.Duration) {
	c.estimator.Lost(now, lost)
	if rtt > 0 {
		c.estimator.SetRTT(rtt)
	}
}

// Overdue says that the path itself, such as a TCP connection, dropped a packet that it
// had held for waited. broken: those of the stream that follow depend on it.
func (c *Control[T]) Overdue(now int64, stream uint32, waited time.Duration, broken bool) {
	if broken {
		c.pacer.Break(stream)
	}
	c.estimator.Overdue(now, waited, c.sending)
	c.judge(now)
}

func (c *Control[T]) judge(now int64) {
	if passed := now - c.windowAt; passed >= sendingWindow {
		c.sending = float64(c.windowBytes*8) / (float64(passed) / float64(time.Second))
		c.windowAt, c.windowBytes = now, 0
	}
	if c.wide && !c.told && !c.silent && c.firstSent != 0 && now-c.firstSent > untold {
		c.silent, c.estimator = true, &estimate.Reported{}
	}
	emptying := c.state.Emptying
	c.state = c.estimator.State(now, c.sending, c.divided.Goal)
	if c.state.Emptying && !emptying {
		c.emptyingAt = now
		if now-c.steadyAt >= 2*steadyFor {
			c.steadyAt = now // not again and again: then it is no passing matter
		}
	}
	c.setPace(now)
	c.decide(now)
}

// setPace has the pacer follow the judgement and the division.
func (c *Control[T]) setPace(now int64) {
	pace, deep := c.state.Bitrate, c.state.Emptying && c.state.Queue > deepQueue
	if c.state.Emptying && !deep {
		pace = c.state.Settled // what is left out already is enough to empty it
	}
	if c.forced {
		// Nothing is left to leave out. What waits would only become too old: the path may
		// carry it, since the judgement may be wrong, and if not, it drops what it cannot.
		pace, deep = max(pace, forcedPace*c.divided.Bitrate), false
	}
	if !c.state.Limited {
		pace = 0 // nothing is held where there is room, or where nothing is known yet
	}
	c.pacer.SetRate(now, pace, deep)
}

func (c *Control[T]) decide(now int64) {
	c.probe.Decide(now, probe.Situation{
		Estimate: c.state.Bitrate, Need: c.divided.Need, Goal: c.divided.Goal,
		Queue: c.state.Queue, Jitter: c.state.Jitter, Congested: c.state.Congested,
	})
}

// Divide decides what is forwarded of each track. It is to be called some ten times a
// second while there is feedback, and when what is wanted changes. The decisions are
// valid until the next call.
func (c *Control[T]) Divide(now int64, tracks []allocate.Track) []allocate.Decision {
	c.judge(now)
	budget := c.state.Settled
	if budget > 0 && c.state.Cause != estimate.Start {
		// What was not shown lately is not believed: it takes a probe to add to what is sent.
		budget = min(budget, max(c.state.Proven, c.divided.Bitrate/(1-budgetMargin)))
	}
	if c.state.Emptying && c.state.Backlog > deepQueue {
		budget *= wary // what arrives now was in part sent before the path narrowed
	}
	if c.state.Emptying && now-c.emptyingAt < patience && budget > hopeless*c.divided.Bitrate {
		budget = max(budget, c.divided.Bitrate)
	}
	if c.limit > 0 && (budget <= 0 || budget > c.limit) {
		budget = c.limit
	}
	if c.steadyAt != 0 && now-c.steadyAt < steadyFor {
		for i := range tracks {
			tracks[i].Steady = true
		}
	}
	if !c.mayPause(now) {
		for i := range tracks {
			tracks[i].CanPause = false
		}
	}
	decisions, summary := c.allocator.Divide(tracks, budget, c.momentary())
	forced := budget > 0 && summary.Bitrate > budget
	if forced && !c.forced {
		c.forcedAt = now
	}
	c.divided, c.forced = summary, forced
	c.setPace(now)
	c.decide(now)
	return decisions
}

// mayPause reports whether tracks may be paused: once one is, or if it is known that the
// path does not carry the lowest layers of all. That it was not shown to carry them is
// not enough: whenever tracks are added it has to be, by a probe.
func (c *Control[T]) mayPause(now int64) bool {
	switch {
	case c.divided.Paused > 0:
		return true
	case !c.forced:
		return false
	case c.limit > 0 && c.divided.Bitrate > c.limit, c.state.Limited && c.divided.Bitrate > c.state.Settled:
		return true
	}
	return now-c.forcedAt >= pauseAfter
}

// Tight reports whether something is held back, or may have to be soon: whether Divide
// is worth while more often than each second.
func (c *Control[T]) Tight() bool {
	s := &c.state
	return c.divided.Need > 0 || s.Congested || s.Bitrate > 0 && c.divided.Goal > 0.7*s.Bitrate
}

// Bound is what is divided at most, in bits/s, 0 = no bound.
func (c *Control[T]) Bound() float64 {
	if c.limit > 0 && (c.state.Bitrate <= 0 || c.state.Bitrate > c.limit) {
		return c.limit
	}
	return c.state.Bitrate
}

// momentary is the bitrate to add to what waits, in the pacer and on the way: less than
// the path carries, so that a key frame has passed before what follows becomes too old.
func (c *Control[T]) momentary() float64 {
	_, bytes := c.pacer.Waiting()
	if c.state.Bitrate <= 0 || bytes == 0 {
		return c.state.Bitrate
	}
	backlog := float64(bytes*8) / c.state.Bitrate // seconds
	if backlog < backlogAllowed.Seconds() {
		return c.state.Bitrate
	}
	return c.state.Bitrate * max(1-2*backlog, 0.5)
}

// A queue that has just been seen is emptied by temporal layers alone, for patience,
// unless the path seems to carry less than the share hopeless of what is sent.
const (
	patience = int64(300 * time.Millisecond)
	hopeless = 0.8
	// wary is the share of what seems to fit that is given out while a deep queue is
	// emptied.
	wary = 0.85
	// untold is how long feedback is waited for after the first packet.
	untold         = int64(1200 * time.Millisecond)
	backlogAllowed = 50 * time.Millisecond
	// steadyFor is how long after a queue was seen spatial layers stay where they can: a
	// change takes a key frame, which is more than what is too much.
	steadyFor = int64(2 * time.Second)
	// pauseAfter is how long the lowest layers may cost more than was shown to fit, though
	// nothing shows that they do not: more than a probe needs, and the next.
	pauseAfter = int64(3 * time.Second)
	// deepQueue is a queue that more is done against than leaving out temporal layers.
	deepQueue = 150 * time.Millisecond
)

// forcedPace is how much faster than its bitrate media is paced that goes beyond what
// the path is judged to carry.
const forcedPace = 1.25

// budgetMargin keeps the layers that are forwarded within the budget that they have
// proved themselves.
const budgetMargin = 0.01

// When is when Next and Probe are to be called again, 0 when not before something is
// offered, reported or divided.
func (c *Control[T]) When(now int64) int64 {
	at := c.pacer.When(now)
	if at != 0 {
		return at // media carries the probe
	}
	if _, _, again := c.probe.Due(now); again != 0 {
		at = again
	}
	return at
}

// State is what is judged of the path.
func (c *Control[T]) State() estimate.State { return c.state }

// Summary is what the last division came to.
func (c *Control[T]) Summary() allocate.Summary { return c.divided }

// Pacing is what the pacer has done.
func (c *Control[T]) Pacing() pacer.Counters { return c.pacer.Counters() }

// Sending is the bitrate of what left, over the last half second or so.
func (c *Control[T]) Sending() float64 { return c.sending }

// Probed is how many bytes left as padding.
func (c *Control[T]) Probed() uint64 { return c.probed }

// Forget drops what is known of a stream that ended: see [pacer.Pacer.Forget].
func (c *Control[T]) Forget(stream uint32) { c.pacer.Forget(stream) }
