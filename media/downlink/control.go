package downlink

import (
	"slices"
	"time"

	"parlor/media/downlink/allocate"
	"parlor/media/downlink/estimate"
	"parlor/media/downlink/feedback"
	"parlor/media/downlink/pacer"
	"parlor/media/downlink/probe"
	"parlor/media/downlink/sent"
)

// StartBitrate is what a path is assumed to carry until the first probe has a result, in
// bits/s.
const StartBitrate = 500_000

// sendingWindow is the time over which sent bytes are counted for a bitrate.
const sendingWindow = int64(500 * time.Millisecond)

// Control is the congestion control of one downlink: the record of sent packets, the
// estimator, the probes and the pacer. T is the caller's type for a packet
// that waits in the pacer.
//
// It is not safe for concurrent use, has no goroutine and reads no clock.
type Control[T any] struct {
	record    sent.Record
	estimator estimate.Estimator
	probe     probe.Controller
	pacer     pacer.Pacer[T]

	results []sent.Result // of the report that is taken; see lend
	state   estimate.State
	// A queue is drained in this order. A deep one holds video once. For the time of patience
	// the layers stay as they are, and spatial layers stay for steadyFor: temporal layers are
	// given up first. If the queue still stands then, or packets grow too old in the pacer,
	// the layers are cramped: neither holds any more, and less than the estimate is used,
	// until the queue is empty.
	emptyingAt int64 // when the draining of a queue began
	cramped    bool  // the layers do not let the present queue drain, or packets waited too long in the pacer
	held       bool  // video was, for the present queue
	heldUntil  int64 // until then no video is sent, so that it drains
	doubted    bool  // the last report came without packets that it should tell of
	steadyAt   int64 // for steadyFor from here, spatial layers stay
	divided    allocate.Summary
	forced     bool  // divided exceeds the estimate
	forcedAt   int64 // when that began

	wide      bool    // uses congestion control feedback
	limit     float64 // bits/s, in addition to the estimate; 0 = none
	firstSent int64   // when the first numbered packet was sent; 0 = not yet
	movedAt   int64   // number of the first packet on the present path
	told      bool    // congestion control feedback has come
	numbered  int64   // when transport-wide feedback came last; 0 = never
	silent    bool    // no such feedback came, so other reports are used
	resumedAt int64   // see Resume
	resumes   bool    // the present division is at that time

	// sending is the bitrate of all packets, in bits/s, and beside that of those without a
	// transport-wide number. Feedback tells nothing of these, such as sound: what it shows of the
	// path is what the path carries beside them.
	sending, beside          float64
	windowAt                 int64
	windowBytes, besideBytes int64
	probed                   uint64 // bytes
}

// NewControl makes a control that estimates by transport-wide feedback, or, without it,
// by the receiver's other reports.
func NewControl[T any](transportWide bool) *Control[T] {
	c := &Control[T]{record: *sent.New(), estimator: &estimate.Reported{}}
	if transportWide {
		c.JudgeBySending()
	}
	c.judge(0)
	return c
}

// JudgeBySending makes the control estimate by congestion control feedback from now on. If
// none comes within 1.2 s of the first packet, it falls back to the other reports.
func (c *Control[T]) JudgeBySending() {
	if !c.wide {
		c.wide, c.estimator = true, estimate.NewSendSide(StartBitrate)
		c.beside, c.besideBytes = 0, 0
	}
}

// Limit bounds the divided bandwidth, in bits/s; 0 removes the limit.
func (c *Control[T]) Limit(bitrate float64) { c.limit = max(bitrate, 0) }

// Count records a packet that is sent now without a transport-wide number.
func (c *Control[T]) Count(now int64, size int) {
	c.windowBytes += int64(size)
	c.besideBytes += int64(size)
}

// unnumbered is the bitrate of the packets of which the estimator does not know.
func (c *Control[T]) unnumbered() float64 {
	if c.wide && !c.silent {
		return c.beside
	}
	return 0
}

// Repeated notes that the packet with a transport-wide number is sent once more in the same
// bytes, so that reports do not tell which of the two arrived.
func (c *Control[T]) Repeated(number uint16) { c.record.Repeated(number) }

// Offer takes a packet to be sent: see [pacer.Pacer.Offer].
func (c *Control[T]) Offer(now int64, p pacer.Packet, v T) pacer.Verdict {
	return c.pacer.Offer(now, p, v)
}

// Waiting is the number of packets and bytes that wait in the pacer.
func (c *Control[T]) Waiting() (packets, bytes int) { return c.pacer.Waiting() }

// Paces reports whether packets may have to wait, so that they must be offered.
func (c *Control[T]) Paces() bool {
	waiting, _ := c.pacer.Waiting()
	return c.state.Limited || waiting > 0 || c.doubted || c.pacer.Broken()
}

// lossyFrom is the share of lost packets from which a path is lossy.
const lossyFrom = 0.03

// Lossy reports whether the path loses packets although it has room: it is neither full nor
// near the bitrate that it was seen not to carry. Losses alone may have made it look so: then
// the part of them counts that the bitrate does not explain.
func (c *Control[T]) Lossy() bool {
	s := &c.state
	return s.Random >= lossyFrom && !s.Congested && !s.Emptying && (!s.Limited || s.Cause == estimate.Loss)
}

// Next is the next waiting packet to send or drop: see [pacer.Pacer.Next].
func (c *Control[T]) Next(now int64) (T, pacer.Packet, pacer.Verdict) {
	v, p, verdict := c.pacer.Next(now)
	if verdict == pacer.DropAndAsk && c.state.Emptying {
		c.cramped = true
	}
	return v, p, verdict
}

// Leave records a packet that is sent now, and returns its transport-wide number. It must
// be called in the order in which packets are sent.
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

// Named records the SSRC and sequence number of the packet that Leave recorded last, for
// receivers that report by stream.
func (c *Control[T]) Named(ssrc uint32, sequence uint16) { c.record.Name(ssrc, sequence) }

// Probe is how many bytes of retransmissions or padding to send now, in packets of at
// most size bytes; 0 for none. Each packet must be recorded by Leave as [sent.Padding].
func (c *Control[T]) Probe(now int64) (bytes, size int) {
	if waiting, _ := c.pacer.Waiting(); waiting > 0 {
		return 0, 0 // media carries the probe
	}
	bytes, size, _ = c.probe.Due(now)
	return bytes, size
}

// lend gives the control the memory for the results of the next report, and take returns
// it. What is kept of a report is little; controls that take their reports in turns share
// the rest, which stays in the processor's cache.
func (c *Control[T]) lend(results []sent.Result) { c.results = results }

func (c *Control[T]) take() (results []sent.Result) {
	results, c.results = c.results, nil
	return results
}

// Feedback takes transport-wide feedback. It reports whether the estimate has changed so
// much that Divide must be called at once.
func (c *Control[T]) Feedback(now int64, fb *feedback.Report) (divide bool) {
	c.numbered = now
	c.results = c.record.Match(fb, c.results[:0])
	c.dropFormer()
	return c.taken(now)
}

// StreamFeedback is Feedback for a receiver that reports by stream (RFC 8888). If the
// receiver sends transport-wide feedback too, only that is used: its times are finer, and
// it reports the packets of all streams in the order in which they were sent.
func (c *Control[T]) StreamFeedback(now int64, fb *feedback.StreamReport) (divide bool) {
	if c.numbered != 0 && now-c.numbered < numberedFor {
		return false
	}
	c.results = c.record.MatchStreams(fb, c.results[:0])
	c.dropFormer()
	if len(c.results) == 0 {
		return false // the report tells nothing new of a packet that is known by name
	}
	return c.taken(now)
}

// dropFormer drops the results of packets that took a former path.
func (c *Control[T]) dropFormer() {
	if c.movedAt > 0 {
		c.results = slices.DeleteFunc(c.results, func(r sent.Result) bool { return r.Number < c.movedAt })
	}
}

// taken updates the estimate from the results of a report.
func (c *Control[T]) taken(now int64) (divide bool) {
	if c.told = true; c.silent {
		c.silent, c.estimator = false, estimate.NewSendSide(StartBitrate)
	}
	before := c.state
	c.estimator.Feedback(now, c.results, c.record.InFlight(), c.record.Oldest())
	if o, ok := c.probe.Feedback(now, c.results); ok && o.Bitrate > 0 {
		c.estimator.Probed(now, o.Began, o.Bitrate, o.Full)
	}
	c.judge(now)
	c.doubt(now)
	if c.state.Lengthened > before.Lengthened {
		c.Resume(now) // what was left out comes back
		c.steadyAt = 0
		return true
	}
	return c.state.Emptying && !before.Emptying || c.state.Bitrate > 1.1*before.Bitrate || c.state.Bitrate < 0.9*before.Bitrate
}

// doubt holds video until the next report if this one came without packets that it should
// tell of, on a path that seemed to have room. They wait on the path, which may have become so
// narrow that what is sent until the next report overflows its queue, and sound is lost with
// it. If not, little is lost: video is late once, by the time between two reports. Sound waits,
// too, until the last packet of video has left a queue that may be full.
func (c *Control[T]) doubt(now int64) {
	if s := &c.state; !s.Limited && s.Late > estimate.MostLate {
		if !c.doubted {
			c.doubted = true
			c.pacer.Suspend(now + doubtFor)
			c.pacer.Mute(now + longestMute)
		}
	} else {
		c.trust()
	}
}

// trust ends a doubt.
func (c *Control[T]) trust() {
	if c.doubted {
		c.doubted = false
		c.pacer.Resume()
	}
}

// Estimated takes the receiver's own estimate (REMB), in bits/s.
func (c *Control[T]) Estimated(now int64, bitrate float64) { c.estimator.Estimated(now, bitrate) }

// Report takes the content of a receiver report: the share of lost packets, and the
// round-trip time; 0 if unknown.
func (c *Control[T]) Report(now int64, lost float64, rtt time.Duration) {
	c.estimator.Lost(now, lost)
	if rtt > 0 {
		c.estimator.SetRTT(rtt)
	}
}

// Moved notes that the path is another one for the packets that leave from now on. The
// estimate starts over: if the new path is longer, its delay would look like a queue that
// never drains. What the former path was shown to carry is only a first guess,
// which a probe corrects at once where a layer is held back. elsewhere: the path leads over
// another network, so the guess is at least that of a new subscriber.
func (c *Control[T]) Moved(now int64, elsewhere bool) {
	c.movedAt = c.record.Next()
	switch guess := max(c.usable()-c.unnumbered(), 0); {
	case !c.wide || c.silent:
		if elsewhere {
			c.estimator = &estimate.Reported{}
		}
	case elsewhere:
		c.estimator = estimate.NewSendSide(max(guess, StartBitrate))
	default:
		c.estimator = estimate.NewSendSide(guess)
	}
	c.probe.Moved(elsewhere)
	c.steadyAt, c.heldUntil = 0, 0
	c.trust()
	c.judge(now)
}

// Unreported notes that the receiver no longer reports on the packets that are sent: nothing would
// confirm an estimate by these reports, or raise it.
func (c *Control[T]) Unreported(now int64) {
	c.silent = true
	c.Moved(now, true)
}

// usable is the bitrate that may be divided, unless a queue must drain. Bandwidth that has
// not been shown lately is not trusted: only a probe may add to what is sent.
func (c *Control[T]) usable() float64 {
	if c.state.Settled > 0 && c.state.Cause != estimate.Start && !c.resumes {
		return min(c.state.Settled, max(c.state.Proven, c.divided.Bitrate/(1-budgetMargin)))
	}
	return c.state.Settled
}

// Resume notes that streams may begin again, which had been forwarded before. The next
// division takes the estimate at its word, even if little has been sent lately: a path that
// carried the streams before most likely carries them now, and to climb up by probes would
// cost a keyframe for each step.
func (c *Control[T]) Resume(now int64) { c.resumedAt = max(c.resumedAt, now) }

// Overdue notes that the path itself, such as a TCP connection, dropped a packet after it
// had waited for that long. broken: later packets of the stream depend on it.
func (c *Control[T]) Overdue(now int64, stream uint32, waited time.Duration, broken bool) {
	if broken {
		c.pacer.Break(stream)
	}
	c.estimator.Overdue(now, waited, max(c.sending-c.unnumbered(), 0))
	c.judge(now)
}

func (c *Control[T]) judge(now int64) {
	if passed := now - c.windowAt; passed >= sendingWindow {
		c.sending = float64(c.windowBytes*8) / (float64(passed) / float64(time.Second))
		c.beside = float64(c.besideBytes*8) / (float64(passed) / float64(time.Second))
		c.windowAt, c.windowBytes, c.besideBytes = now, 0, 0
	}
	if c.wide && !c.told && !c.silent && c.firstSent != 0 && now-c.firstSent > untold {
		c.silent, c.estimator = true, &estimate.Reported{}
	}
	emptying := c.state.Emptying
	if emptying && now-c.emptyingAt > standing && c.state.Backlog > shortQueue {
		c.cramped = true
	}
	c.state = c.whole(c.estimator.State(now, c.sending, c.divided.Goal))
	if c.state.Emptying && !emptying {
		c.emptyingAt = now
		if now-c.steadyAt >= 2*steadyFor {
			c.steadyAt = now // not repeatedly: then the queue is not a passing one
		}
	}
	hold := time.Duration(0)
	if !c.state.Emptying {
		c.held, c.cramped = false, false
	}
	mayHold := !c.held && now-c.emptyingAt < patience || c.held && now-c.heldUntil > holdAgain
	if c.state.Emptying && mayHold && c.state.Backlog > deepQueue && c.holds() {
		if !c.held && !c.doubted { // else it has waited
			c.pacer.Mute(now + longestMute)
		}
		c.held = true
		hold = min(c.state.Backlog-shortQueue, longestHold)
		c.heldUntil = now + int64(hold)
	}
	c.setPace(now)
	if hold > 0 {
		c.pacer.Hold(now, hold) // at the pace at which it is paid
	}
	c.decide(now)
}

// whole is the estimate with what the estimator does not know of.
func (c *Control[T]) whole(s estimate.State) estimate.State {
	more := c.unnumbered()
	for _, bitrate := range []*float64{&s.Bitrate, &s.Settled, &s.Proven, &s.Acknowledged} {
		if *bitrate > 0 {
			*bitrate += more
		}
	}
	return s
}

// holds reports whether video may be held for a queue to drain. Where not even the lowest
// layers fit, queues come again and again, and holding for each costs more frames than the
// path drops.
func (c *Control[T]) holds() bool { return c.divided.Paused == 0 && !c.forced }

// setPace sets the pacer's rate from the estimate and the division.
func (c *Control[T]) setPace(now int64) {
	pace, deep := c.state.Bitrate, c.state.Emptying && c.state.Queue > deepQueue
	switch {
	case c.state.Emptying && now < c.heldUntil+keepsUp && c.holds():
		pace, deep = c.state.Settled, true // what has drained by the hold must not fill again
	case c.state.Emptying && !deep:
		pace = c.state.Settled // the layers left out already suffice to drain it
	}
	if c.forced {
		// No more can be left out. Packets that wait would only become too old. The
		// estimate may be wrong and the path may carry them; if not, it drops the excess
		// itself.
		pace, deep = max(pace, forcedPace*c.divided.Bitrate), false
	}
	if !c.state.Limited {
		pace = 0 // nothing waits where there is room, or before anything is known
	}
	c.pacer.SetRate(now, pace, deep)
}

func (c *Control[T]) decide(now int64) {
	less := c.unnumbered() // probes consist of numbered packets
	c.probe.Decide(now, probe.Situation{
		Estimate: max(c.state.Bitrate-less, 0), Need: max(c.divided.Need-less, 0), Goal: max(c.divided.Goal-less, 0),
		Queue: c.state.Queue, Jitter: c.state.Jitter, Congested: c.state.Congested,
	})
}

// Divide decides which layer of each track is forwarded. It must be called ten times a
// second while Tight says so, about once a second otherwise while feedback arrives, and
// when the wishes change. The decisions are a's, and valid until its next division.
func (c *Control[T]) Divide(now int64, tracks []allocate.Track, a *allocate.Allocator) []allocate.Decision {
	c.judge(now)
	c.resumes = c.resumedAt != 0 && now <= c.resumedAt
	budget := c.usable()
	c.resumes = false
	if c.cramped || c.state.Emptying && c.state.Backlog > deepQueue {
		budget *= wary // the queue must drain, and a keyframe must pass before it is too old
	}
	if !c.cramped && c.state.Emptying && now-c.emptyingAt < patience && budget > hopeless*c.divided.Bitrate {
		budget = max(budget, c.divided.Bitrate)
	}
	if c.limit > 0 && (budget <= 0 || budget > c.limit) {
		budget = c.limit
	}
	if c.steadyAt != 0 && now-c.steadyAt < steadyFor && !c.cramped {
		for i := range tracks {
			tracks[i].Steady = true
		}
	}
	if !c.mayPause(now) {
		for i := range tracks {
			tracks[i].CanPause = false
		}
	}
	decisions, summary := a.Divide(tracks, budget, c.momentary())
	forced := budget > 0 && summary.Bitrate > budget*(1+allocate.KeepMargin)
	if forced && !c.forced {
		c.forcedAt = now
	}
	c.divided, c.forced = summary, forced
	c.setPace(now)
	c.decide(now)
	return decisions
}

// mayPause reports whether tracks may be paused: if one is paused already, or if the path
// is known not to carry the lowest layers of all. It does not suffice that the path has
// not been shown to carry them: after tracks are added, a probe must show it first.
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

// Tight reports whether some layer is held back, or what is forwarded does not fit any
// more, so that Divide is useful more often than once a second. Where everything fits,
// the estimate often lies just above what is sent, because no more has been shown: that
// alone is no reason to divide.
func (c *Control[T]) Tight() bool {
	s := &c.state
	over := s.Settled > 0 && !c.forced && max(c.divided.Bitrate, c.sending) > s.Settled
	return c.divided.Need > 0 || s.Congested || over
}

// Bound is the upper bound of the divided bandwidth, in bits/s; 0 = no bound.
func (c *Control[T]) Bound() float64 {
	if c.limit > 0 && (c.state.Bitrate <= 0 || c.state.Bitrate > c.limit) {
		return c.limit
	}
	return c.state.Bitrate
}

// momentary is the bitrate for new packets while others wait in the pacer. It is below
// the estimate, so that a keyframe passes before the packets behind it become too old.
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

// For patience after a queue is first seen, it is drained by temporal layers alone,
// unless the path seems to carry less than the share hopeless of the sent bitrate.
const (
	patience = int64(300 * time.Millisecond)
	hopeless = 0.8
	// wary is the share of the budget that is used while a deep queue is drained.
	wary = 0.85
	// untold is how long to wait for feedback after the first packet.
	untold = int64(1200 * time.Millisecond)
	// numberedFor is how long after a transport-wide report the others are ignored.
	numberedFor    = int64(5 * time.Second)
	backlogAllowed = 50 * time.Millisecond
	// steadyFor is how long after a queue was seen spatial layers stay where they can: a
	// change needs a keyframe, which costs more than the excess.
	steadyFor = int64(2 * time.Second)
	// pauseAfter is how long the lowest layers may exceed what the path was shown to carry,
	// if nothing shows that it does not carry them. Two probes fit into this time.
	pauseAfter = int64(3 * time.Second)
	// deepQueue is a queue for which leaving out temporal layers does not suffice.
	deepQueue = 120 * time.Millisecond
	// When a deep queue is seen, no video is sent until it is a shortQueue, or for
	// longestHold: a keyframe that is sent at once is dropped by the path. For keepsUp
	// after that, video is sent as fast as the path carries it, or the keyframe would
	// become too old in the pacer. The reports show the queue of before for that long.
	shortQueue  = 100 * time.Millisecond
	longestHold = 120 * time.Millisecond
	keepsUp     = int64(300 * time.Millisecond)
	// holdAgain is how long after a hold the reports show what it has done.
	holdAgain = int64(250 * time.Millisecond)
	// doubtFor is more than the time between two reports.
	doubtFor = int64(150 * time.Millisecond)
	// longestMute is how long a path of 250 kbit/s takes for a packet of video. A path that was
	// full has room for sound after that.
	longestMute = int64(40 * time.Millisecond)
	// standing is how long a queue may stay longer than shortQueue before it is taken for
	// a sign that what is forwarded does not fit.
	standing = int64(time.Second)
)

// forcedPace is how much faster than its bitrate media is paced that exceeds the
// estimate.
const forcedPace = 1.25

// budgetMargin keeps the forwarded layers within a budget that they have shown
// themselves.
const budgetMargin = 0.01

// When is the time at which Next and Probe must be called again; 0 if not before the next
// Offer, report or Divide.
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

// State is the present estimate of the path.
func (c *Control[T]) State() estimate.State { return c.state }

// Summary is the result of the last division.
func (c *Control[T]) Summary() allocate.Summary { return c.divided }

// Pacing is the pacer's counters.
func (c *Control[T]) Pacing() pacer.Counters { return c.pacer.Counters() }

// Sending is the bitrate of sent packets, over about the last half second.
func (c *Control[T]) Sending() float64 { return c.sending }

// Probed is the number of bytes sent as padding.
func (c *Control[T]) Probed() uint64 { return c.probed }

// End drops the packets of a stream that wait: nobody receives it any more.
func (c *Control[T]) End(stream uint32) { c.pacer.End(stream) }

// Forget drops the state of a stream: see [pacer.Pacer.Forget].
func (c *Control[T]) Forget(stream uint32) {
	c.pacer.Forget(stream)
	c.record.Forget(stream)
}
