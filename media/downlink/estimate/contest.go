package estimate

import "time"

// The numbers of contending.
const (
	contendAfter = int64(2500 * time.Millisecond)
	contendShare = 0.5                    // of what was sent before the cuts that nothing followed
	contendCut   = 0.7                    // at a loss
	contendLook  = int64(6 * time.Second) // how long a queue must not change to be taken for the way
	contendStill = int64(30 * time.Millisecond)
	contendMost  = int64(10 * time.Minute)
	// contendSent is how much more than arrives may be sent for a queue to be others': what
	// fills a queue by itself sends more than that.
	contendSent = 1.4
	// obeying is how much more than the estimate may arrive from a sender that goes by it.
	obeying  = 1.15
	leastWay = int64(50 * time.Millisecond) // there and back, without a queue
)

// contest is the time in which others fill the queue, as TCP does, whatever is sent. To
// leave the path to them at each sight of their queue would be to starve: what is sent is
// governed by losses then, as theirs is (RFC 5681), until the queue is gone.
type contest struct {
	on                bool
	at                int64
	lookAt            int64
	shortest, deepest int64 // queues since lookAt
}

// giveUp follows cuts that the queue did not follow. If others fill the queue it begins to
// contend with them, and if it is ours that overflows, the queue there is is taken for the
// way. It reports false while that is not known yet: a queue of our own is gone by then.
func (e *SendSide) giveUp(now, waiting int64) bool {
	if e.sent > contendSent*e.acknowledged {
		e.queue.forget()
		return true
	}
	if now-e.begun < contendAfter {
		return false
	}
	if e.remote {
		if e.acknowledged > obeying*e.toldBefore {
			return false // the sender fills the queue
		}
		e.queue.forget()
		e.delay, e.knee = max(e.delay, contendShare*e.before), 0
		return true
	}
	e.contest = contest{on: true, at: now, lookAt: now, shortest: waiting, deepest: waiting}
	e.queue.held = true
	e.delay = max(e.delay, contendShare*e.before)
	e.cutAt, e.knee = now, 0
	return true
}

// contend governs what is sent while others fill the queue. It reports false once they do
// no more, or if it is the way that has become longer.
func (e *SendSide) contend(now, passed int64, lost int) bool {
	c, waiting := &e.contest, e.queue.current
	c.shortest, c.deepest = min(c.shortest, waiting), max(c.deepest, waiting)
	still := now-c.lookAt >= contendLook && c.deepest-c.shortest < contendStill+int64(e.queue.jitter)
	switch {
	case waiting < holdQueue:
		c.on, e.queue.held = false, false
		return false
	case still, now-c.at >= contendMost:
		c.on, e.queue.held = false, false
		e.queue.forget() // what it is now is taken for the way
		return true
	case now-c.lookAt >= contendLook:
		c.lookAt, c.shortest, c.deepest = now, waiting, waiting
	}
	if lost > 0 {
		if now-e.cutAt >= int64(e.response())+waiting {
			e.delay = max(min(e.delay, 1.2*e.acknowledged)*contendCut, leastBitrate)
			e.cutAt, e.cause = now, Loss
		}
		return true
	}
	if most := 1.5*e.acknowledged + 50_000; e.delay < most {
		// A packet more on the way after each round trip, as a window of TCP grows.
		rtt := max(e.rtt, time.Duration(max(e.wayBack, waiting+leastWay))).Seconds()
		e.delay = min(e.delay+packetBits/rtt*seconds(passed)/rtt, most)
	}
	return true
}
