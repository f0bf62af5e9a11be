package estimate

import (
	"time"

	"parlor/media/downlink/sent"
)

// Constants of the control:
const (
	leastBitrate = 30_000.0
	mostBitrate  = 1e9

	holdQueue  = int64(25 * time.Millisecond) // a queue during which the estimate does not grow
	drainQueue = int64(60 * time.Millisecond) // a queue that is drained even if it does not grow
	emptyQueue = int64(15 * time.Millisecond)
	aheadSpare = int64(50 * time.Millisecond) // of a frame that was just sent
	mostAhead  = int64(400 * time.Millisecond)
	provenFor  = int64(10 * time.Second) // how long a measurement is trusted without traffic that confirms it
	// noFeedback is how long after the last report what it said of the queue holds.
	noFeedback = int64(2 * time.Second)
	// early is the part that is believed of a bitrate that was measured so early that packets from
	// before the path narrowed count.
	early = 0.9
	// mostProbeJitter is the jitter up to which a probe result below the estimate is
	// trusted.
	mostProbeJitter = float64(5 * time.Millisecond)
	// mostBeside is the share of a probe's result that may be sent, probe included, where the
	// queue is the probe's own.
	mostBeside = 0.7
	// measuredFor is how long after a probe, and the time in which reports show it, a queue may
	// be the probe's.
	measuredFor = int64(150 * time.Millisecond)
	futileCuts  = 3
	// standsFor is how long a queue must stand, beyond the time in which a cut shows, to be none.
	standsFor = int64(700 * time.Millisecond)
	// standsAgain is the least time between two such conclusions: what others send may keep a
	// short queue standing.
	standsAgain = int64(10 * time.Second)
	lossless    = 0.02
	// carries is the share of what is sent that arrives at least, for a moment, where the way
	// becomes longer and no narrower.
	carries     = 0.85
	growth      = 0.08 // per second, far from the knee
	packetBits  = 1200 * 8
	leastWindow = 3
	shortWindow = 6 // buckets: 150 ms
)

// SendSide estimates by transport-wide feedback: by the delay and the losses of the sent
// packets. It is made by [NewSendSide].
type SendSide struct {
	trend   trend
	queue   queue
	acked   rate   // by arrival
	spaced  spaced // by arrival
	sending rate   // of the reported packets, by their send times
	losses  lossBound

	delay   float64 // bits/s that the delay allows
	cause   Cause
	knee    float64 // bits/s that arrived when the path was overused; 0 = unknown
	rtt     time.Duration
	wayBack int64 // fastest recent time from the sending of a packet to its report, ns

	updatedAt   int64
	cutAt       int64
	cutQueue    int64   // the queue at the last cut
	cutFactor   float64 // of the arriving bitrate, at the last cut
	draining    bool
	late        int64 // ns, at the last report
	usual       int64 // ns; how late reports are
	lateReports int   // in a row, in which late was above MostLate
	backlog     int64 // ns, at the last computation
	futile      int
	before      float64 // delay before the first of the cuts that the queue did not follow
	// provenBefore is proven before that cut.
	provenBefore float64
	begun        int64 // when that was
	contest      contest
	// standing is within what bounds the queue has been since a time; see stands.
	standing   struct{ at, low, high int64 }
	stoodAt    int64   // when it was last taken for the way; 0 = never
	carried    float64 // the least share of what was sent that arrived, since the first cut
	lengthened int     // how often the way was found to be longer

	measured   float64 // bits/s that the last probe arrived at which the path did not carry
	measuredAt int64   // when that was reported

	// remote: the estimate is made at the receiver, where nothing is probed and losses are
	// not known; see [ReceiveSide].
	remote     bool
	toldBefore float64 // what a remote sender was told one to two seconds ago, bits/s

	acknowledged float64
	sent         float64
	proven       float64
	provenAt     int64
	feedbackAt   int64
	// soundAlone: nothing but sound is sent, for longer than noFeedback. pictureAt is when the last
	// other packet was sent; 0 = there was none.
	soundAlone bool
	pictureAt  int64
}

// NewSendSide makes an estimator that assumes start, in bits/s, until it has
// measurements.
func NewSendSide(start float64) *SendSide {
	e := &SendSide{delay: max(start, leastBitrate)}
	e.trend.limit = firstLimit
	e.queue.steps = true
	return e
}

// Estimated does nothing: transport-wide feedback says more than a REMB.
func (e *SendSide) Estimated(int64, float64) {}

// Lost does nothing: transport-wide feedback covers each packet.
func (e *SendSide) Lost(int64, float64) {}

// Overdue cuts as for a queue in the feedback.
func (e *SendSide) Overdue(now int64, waited time.Duration, sending float64) {
	if e.acknowledged <= 0 {
		e.acknowledged = sending / 2 // no feedback has come in time
	}
	e.cut(now, int64(waited))
}

// SetRTT sets the round-trip time.
func (e *SendSide) SetRTT(rtt time.Duration) { e.rtt = rtt }

// Feedback takes the results of packets.
func (e *SendSide) Feedback(now int64, results []sent.Result, inFlight int, oldest int64) {
	if len(results) == 0 {
		return
	}
	var latest int64
	lost := 0
	for i := range results {
		r := &results[i]
		latest = max(latest, r.Sent)
		if r.Kind != sent.Audio {
			e.pictureAt = max(e.pictureAt, r.Sent)
		}
		if r.Revised {
			e.losses.revise()
		} else {
			e.losses.add(r)
			e.sending.add(r.Sent, int(r.Size))
		}
		if !r.Received {
			lost++
			continue
		}
		e.acked.add(r.Arrived, int(r.Size))
		if e.queue.add(now, r.Arrived-r.Sent, r.Arrived) && e.losses.loss <= lossless {
			e.longer() // with losses, it is a queue that is full
		}
		e.spaced.add(r.Arrived, int(r.Size), e.queue.waited)
		e.trend.add(r.Sent, r.Arrived)
	}
	if way := now - latest; e.wayBack == 0 || way < e.wayBack {
		e.wayBack = way
	} else {
		e.wayBack += (way - e.wayBack) / 64
	}
	e.soundAlone = e.pictureAt != 0 && latest-e.pictureAt > noFeedback
	e.feedbackAt = now
	e.overdue(now, oldest)
	if v, ok := e.acked.over(rateWindow); ok {
		e.acknowledged = v
	}
	if v, ok := e.sending.over(rateWindow); ok {
		e.sent = v
	}
	if e.losses.close(latest) {
		e.losses.judge(e.delay, e.acknowledged)
	}
	e.control(now, e.ahead(inFlight), lost)
}

// stands reports whether a short queue has not changed for so long, while less was sent than had
// arrived, that it is none: the way has become longer, by no clear step.
func (e *SendSide) stands(now int64) bool {
	t, waiting := &e.standing, e.queue.current
	t.low, t.high = min(t.low, waiting), max(t.high, waiting)
	if t.at < e.begun || t.high-t.low > stepStill+int64(e.queue.jitter) || e.losses.loss > lossless {
		t.at, t.low, t.high = now, waiting, waiting
		return false
	}
	if now-t.at < standsFor+int64(e.response()) || e.stoodAt != 0 && now-e.stoodAt < standsAgain {
		return false
	}
	e.stoodAt = now
	return true
}

// longer takes back what was concluded from a queue that was none: the way has become longer. If
// less had arrived than was sent, there was one as well.
func (e *SendSide) longer() {
	e.queue.lengthen()
	e.wayBack = 0 // the next report tells
	switch {
	case e.draining && e.carried < carries:
		e.delay = max(e.delay, 0.95*e.knee)
	case e.draining:
		e.delay, e.knee = max(e.delay, e.before), 0
		e.proven = max(e.proven, e.provenBefore)
		e.lengthened++
	default:
		e.lengthened++
	}
	e.draining, e.futile = false, 0
	e.contest.on, e.queue.held = false, false
	e.trend.reset()
}

// overdue measures how late the report on the oldest packet without one is, beyond what is
// usual.
func (e *SendSide) overdue(now, oldest int64) {
	late := int64(0)
	if oldest > 0 {
		late = max(now-oldest-e.wayBack, 0)
	}
	e.late = 0
	if e.queue.waited > holdQueue && e.queue.jitter < mostProbeJitter { // otherwise it may be the report alone that is late, or a packet
		e.late = max(late-e.usual, 0)
	}
	if time.Duration(e.late) > MostLate {
		e.lateReports++
	} else {
		e.lateReports = 0
	}
	if late > e.usual {
		e.usual = late
	} else {
		e.usual -= (e.usual - late) / 32
	}
}

// control follows draft-ietf-rmcat-gcc-02, section 5.5, except that it drains a queue
// that has grown, that it handles application-limited senders, and that it contends with
// other traffic that fills the queue. lost is how many packets were newly reported lost.
func (e *SendSide) control(now, ahead int64, lost int) {
	passed := min(now-e.updatedAt, int64(time.Second))
	if e.updatedAt == 0 {
		passed = 0
	}
	e.updatedAt = now
	if e.acknowledged > e.proven || now-e.provenAt > provenFor {
		e.proven, e.provenAt = e.acknowledged, now
	}
	waiting := max(e.queue.current, ahead)
	e.backlog = waiting
	limited := e.sent < 0.8*e.delay
	if e.contest.on && e.contend(now, passed, lost) {
		return
	}
	switch {
	case e.queue.step.on && !e.draining: // it is known soon whether the way has become longer
	case e.trend.usage == overuse && (waiting > holdQueue || !limited && waiting > int64(e.queue.jitter)):
		e.cut(now, waiting)
	case waiting > drainQueue+int64(e.queue.jitter):
		e.cut(now, waiting)
	case !e.draining && e.lateReports >= 2 && e.narrower(): // the queue itself is not seen yet
		e.cut(now, max(waiting, e.late))
		if e.draining {
			e.knee *= early
			e.delay = min(e.delay, max(e.cutFactor*e.knee, leastBitrate))
		}
	case e.draining:
		if e.sent > 0 {
			e.carried = min(e.carried, e.acknowledged/e.sent)
		}
		if !e.remote && e.stands(now) {
			e.longer()
			return
		}
		e.follow(waiting)
		if waiting < emptyQueue+int64(e.queue.jitter/2) {
			e.draining, e.futile = false, 0
			e.delay = max(e.delay, 0.95*e.knee)
		}
	case waiting > holdQueue+int64(e.queue.jitter), e.trend.usage != normal, limited && !e.remote:
	default:
		e.grow(passed)
	}
}

// narrower reports whether less arrives than is sent while the path is busy. That nothing has
// arrived for a moment says nothing of what the path carries.
func (e *SendSide) narrower() bool {
	v, ok := e.busy()
	return ok && v > 0 && v < 0.8*e.sent
}

// ahead is the queue that the packets in flight will meet, if it is long: packets that
// have arrived show the queue of the time when they were sent. It can be computed only
// while there is a queue, because only then the arriving bitrate is the bandwidth of the
// path.
func (e *SendSide) ahead(inFlight int) int64 {
	arriving, ok := e.busy()
	if !ok || arriving < leastBitrate || e.queue.current < holdQueue {
		return 0
	}
	over := int64(float64(inFlight*8)/arriving*float64(time.Second)) - e.wayBack - aheadSpare
	if over < drainQueue {
		return 0
	}
	return min(over, mostAhead)
}

// grow raises the estimate of a sender that uses it.
func (e *SendSide) grow(passed int64) {
	most := 1.5*e.acknowledged + 10_000
	if e.delay >= most {
		return
	}
	share := growth
	if e.remote && e.knee == 0 {
		share = quickGrowth
	}
	more := e.delay * share * seconds(passed)
	if e.knee > 0 && e.delay > 0.8*e.knee && e.delay < 1.2*e.knee {
		// Near the bitrate that was too much before: about one packet per response time.
		more = min(more, packetBits*seconds(passed)/(e.response().Seconds()))
	} else if e.delay >= 1.2*e.knee {
		e.knee = 0
	}
	e.delay = min(e.delay+more, most, mostBitrate)
}

// follow measures the bandwidth of the path while a queue keeps it busy. A lower one is
// believed sooner: the first measurement may contain packets from before the path narrowed,
// and the queue grows until that is known.
func (e *SendSide) follow(waiting int64) {
	if v, ok := e.busy(); ok && waiting > holdQueue {
		part := 0.25
		if v < e.knee {
			part = 0.5
		}
		e.knee += (v - e.knee) * part
		if most := e.cutFactor * e.knee; e.draining && most < e.delay {
			e.delay = max(most, leastBitrate)
		}
	}
}

// busy is the bitrate that arrived while the path was busy, since the queue began, over about
// 150 ms at most.
func (e *SendSide) busy() (float64, bool) {
	recent := e.spaced.newest - shortWindow*bucketLength
	if v, ok := e.spaced.over(max(e.queue.since, recent)); ok {
		return v, true
	}
	if v, ok := e.spaced.over(recent); ok && v > 0.8*e.knee && v < 1.2*e.knee {
		// Little has left the queue yet. Just before, the path carried what it is known to
		// carry; it may have been idle since, which is not its bandwidth.
		return v, true
	}
	since := e.acked.newest - e.queue.since/bucketLength
	return e.acked.over(min(max(since, leastWindow), shortWindow))
}

// response is the time until a change of the bitrate shows in feedback.
func (e *SendSide) response() time.Duration {
	return max(e.rtt, time.Duration(e.wayBack)) + 100*time.Millisecond
}

// cut lowers the estimate below the arriving bitrate; the longer the queue, the lower.
func (e *SendSide) cut(now, waiting int64) {
	if e.draining && now-e.cutAt < int64(e.response())+waiting/2 {
		e.follow(waiting)
		return
	}
	if e.soundAlone && !e.draining {
		return // what arrives is no measure of the path, and nothing is there that could be less
	}
	arriving := e.acknowledged
	if v, ok := e.busy(); ok && waiting > holdQueue {
		if arriving = v; e.acknowledged > v && e.acknowledged < 1.2*v {
			arriving = e.acknowledged
		}
	}
	if arriving <= 0 {
		return
	}
	if now-e.measuredAt < int64(e.response())+measuredFor {
		arriving = max(arriving, min(e.measured, e.delay)) // the queue is that of the probe
	}
	if e.draining && waiting > e.cutQueue*9/10 {
		// The queue does not shrink when less is sent. Other traffic fills it, or the path
		// has become longer.
		if e.futile++; e.futile >= futileCuts && e.giveUp(now, waiting) {
			e.futile, e.draining = 0, false
			return
		}
	}
	arriving /= 1 - min(e.losses.random, mostRandom)
	factor := 0.9 - min(seconds(waiting), 0.4)
	e.cutFactor = factor
	target := max(arriving*factor, leastBitrate)
	if !e.draining {
		e.knee, e.before, e.begun, e.provenBefore, e.carried = arriving, e.delay, now, e.proven, 1
	}
	e.draining, e.cutAt, e.cutQueue = true, now, waiting
	if target < e.delay {
		e.delay, e.cause = target, Delay
	}
	e.proven, e.provenAt = min(e.proven, e.delay), now
}

// confirm takes what a probe measured for the bandwidth of the path, if a queue that began with
// the probe was taken for a sign of less. What arrived before may be all that there was to
// send.
func (e *SendSide) confirm(bitrate float64) {
	e.knee = max(e.knee, min(bitrate, e.before))
	e.delay = max(e.delay, min(e.cutFactor*e.knee, e.before))
}

// Probed takes the result of a probe.
func (e *SendSide) Probed(now, began int64, bitrate float64, full bool) {
	if bitrate <= 0 {
		return
	}
	if e.draining {
		// Above what the path carries, a probe makes a queue itself. On a path so narrow that
		// little else is sent, that queue ends with it, and what arrived is the bandwidth.
		if e.begun >= began && !full {
			e.confirm(bitrate)
		}
		if e.begun < began || e.sent > mostBeside*bitrate || bitrate <= e.delay {
			return
		}
		e.draining, e.futile = false, 0
	}
	if bitrate > e.proven {
		e.proven, e.provenAt = bitrate, now
	}
	if !full {
		e.measured, e.measuredAt = bitrate, now
	}
	if e.losses.bound > 0 {
		e.losses.bound = max(e.losses.bound, bitrate)
	}
	if bitrate <= e.delay && e.cause != Start {
		if !full && e.queue.jitter < mostProbeJitter {
			e.delay = max(bitrate, min(e.delay, e.acknowledged), leastBitrate)
		}
		return
	}
	e.delay, e.cause = min(max(bitrate, leastBitrate), mostBitrate), Probe
	if bitrate > 1.2*e.knee {
		e.knee = 0
	}
}

// lapse gives up what was measured so long ago that it says nothing of the path any more.
// While all that has numbers is paused, no report comes: the queue that the last one told of
// would be one for ever, and nothing would be probed.
func (e *SendSide) lapse(now int64) {
	if e.feedbackAt == 0 || now-e.feedbackAt <= noFeedback {
		return
	}
	if e.draining {
		e.delay = max(e.delay, 0.95*e.knee)
	}
	e.draining, e.futile, e.lateReports = false, 0, 0
	e.contest.on, e.queue.held = false, false
	e.queue.count, e.queue.current, e.queue.waited, e.backlog, e.late = 0, 0, 0, 0, 0
	e.trend.reset()
	e.acknowledged, e.sent = 0, 0
	e.losses.forget()
	e.feedbackAt = 0
}

// State computes the estimate.
func (e *SendSide) State(now int64, _, _ float64) State {
	e.lapse(now)
	s := State{
		Bitrate: e.delay, Cause: e.cause, Acknowledged: e.acknowledged,
		Queue: time.Duration(e.queue.current), Backlog: time.Duration(e.backlog), Late: time.Duration(e.late), Jitter: time.Duration(e.queue.jitter),
		Settled: e.delay, Loss: e.losses.loss, Random: min(e.losses.random, e.losses.loss), RTT: max(e.rtt, time.Duration(e.wayBack)), Emptying: e.draining, Congested: e.draining || e.trend.usage == overuse,
	}
	s.Proven, s.Lengthened = e.proven, e.lengthened
	s.Limited = e.draining || e.knee > 0 || e.losses.bound > 0
	if e.draining {
		s.Settled = max(e.delay, 0.95*e.knee)
		s.Proven = s.Settled
	}
	if e.contest.on {
		s.Limited, s.Congested, s.Proven = true, false, e.delay
	}
	if b := e.losses.bound; b > 0 && b < s.Settled {
		s.Settled, s.Bitrate, s.Cause = b, min(b, s.Bitrate), Loss
	}
	s.Proven = min(s.Settled, s.Proven)
	return s
}
