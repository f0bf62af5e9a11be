package estimate

import "time"

// Constants of the estimate at the receiver:
const (
	receiverStart = 300_000.0 // bits/s, with which senders begin that know nothing
	// receiverFirst is how long packets must have come before the estimate says anything.
	receiverFirst = int64(time.Second)
	// receiverRTT is assumed for the way of the estimate to the sender and of its answer to it.
	receiverRTT = 200 * time.Millisecond
	judgedEvery = int64(50 * time.Millisecond)
	// quickGrowth is the growth per second where nothing has shown the bandwidth yet, or the
	// path carries more than it did.
	quickGrowth = 0.5
	toldEvery   = int64(time.Second)     // how often what was told is remembered
	clockJump   = int64(3 * time.Second) // the sender's clock was set, or another one is read
)

// ReceiveSide estimates at the receiver, by the times at which packets were sent and came, for
// a sender that is told the result (REMB). Queues are found and followed as by [SendSide].
// There are three differences, because the sender does not know its packets:
//
//   - Nothing is probed. The estimate rises to half as much again as arrives, so that the
//     sender can find out what there is by sending that.
//   - Losses do not count. The sender learns them from receiver reports.
//   - A queue that does not shrink although the sender does as it is told is taken for the
//     path. It is not contended for, because only losses would end that.
//
// It is made by [NewReceiveSide].
type ReceiveSide struct {
	e        SendSide
	began    int64
	judgedAt int64
	offset   int64 // of the sender's clock
	way      int64 // of the last packet, by that offset
	begun    bool
	timed    bool
	news     bool    // a packet with a time has come since the last judgement
	kept     float64 // the estimate at keptAt
	keptAt   int64
}

// NewReceiveSide makes an estimator without measurements.
func NewReceiveSide() *ReceiveSide {
	r := &ReceiveSide{e: *NewSendSide(receiverStart)}
	r.e.remote, r.e.queue.steps = true, false
	r.e.rtt = receiverRTT
	return r
}

// Counted takes a packet that came at a time and does not tell when it was sent.
func (r *ReceiveSide) Counted(now int64, size int) {
	r.begin(now)
	r.e.acked.add(now, size)
	r.e.spaced.add(now, size, r.e.queue.waited)
}

// Arrived takes a packet that came at a time. sentAt is when it was sent, by a clock of the
// sender, in ns.
func (r *ReceiveSide) Arrived(now, sentAt int64, size int) {
	r.begin(now)
	way := now - sentAt - r.offset
	if d := way - r.way; !r.timed || d > clockJump || d < -clockJump {
		r.Resumed(now, sentAt)
		way = r.way
	}
	r.way, r.news = way, true
	r.e.acked.add(now, size)
	r.e.queue.add(now, way, now)
	r.e.spaced.add(now, size, r.e.queue.waited)
	r.e.trend.add(now-way, now)
}

// Resumed tells that another clock of the sender is read from now on, and shows that time. The
// next packet is taken to have been on its way for as long as the last one.
func (r *ReceiveSide) Resumed(now, sentAt int64) {
	r.offset, r.timed = now-sentAt-r.way, true
	r.e.trend.reset()
}

func (r *ReceiveSide) begin(now int64) {
	if !r.begun {
		r.began, r.judgedAt, r.begun = now, now, true
	}
}

// Judge computes the estimate in bits/s, and reports whether it is new. There is none before
// enough has come, nor while no packet tells when it was sent: nothing shows then whether
// packets wait, as while sound goes on alone.
func (r *ReceiveSide) Judge(now int64) (bitrate float64, fresh bool) {
	if !r.begun || now-r.judgedAt < judgedEvery {
		return 0, false
	}
	r.judgedAt = now
	e := &r.e
	if v, ok := e.acked.over(rateWindow); ok {
		e.acknowledged, e.sent = v, v // nothing is known of what was lost
	}
	if !r.news {
		return 0, false
	}
	r.news = false
	if e.cause == Start && e.trend.usage == normal && e.queue.current < holdQueue {
		e.delay = max(e.delay, e.acknowledged) // the path carries it
	}
	e.control(now, 0, 0)
	if now-r.keptAt >= toldEvery {
		e.toldBefore, r.kept, r.keptAt = r.kept, e.delay, now
	}
	return e.delay, e.acknowledged > 0 && (now-r.began >= receiverFirst || e.cause != Start)
}
