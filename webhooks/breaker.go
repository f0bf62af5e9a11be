package webhooks

import "time"

const (
	// breakAfter is the number of failures in a row that opens a breaker at once.
	breakAfter = 8
	// breakSpan is the time without a success after which two failures open it.
	breakSpan = 3 * time.Second
	// sweepSpan is how long an endpoint must have failed for its return to start a sweep,
	// which tries all pending deliveries at once.
	sweepSpan = 5 * time.Second
	// refusedFactor lengthens the longest time between probes with events that are not
	// due, while the endpoint answers but refuses: the pending event may be one that it
	// cannot take.
	refusedFactor = 5
)

// breaker protects an endpoint that is down: while it is open, one request at a time goes
// out, at growing intervals. It belongs to its worker.
type breaker struct {
	min, max time.Duration // between probes

	fails int       // when the first of them was
	since time.Time // the first of them
	open  bool
	wait  time.Duration
	until time.Time // when the next probe may go out
	early time.Time // when the next probe may use an event that is not due
}

// success notes a successful attempt. It reports whether the endpoint was down for so
// long that all pending deliveries should be tried at once.
func (b *breaker) success(now time.Time) (recovered bool) {
	recovered = b.open && now.Sub(b.since) >= sweepSpan
	*b = breaker{min: b.min, max: b.max}
	return recovered
}

// failure notes a failed attempt; probe tells that it was made while the breaker was
// open. It reports whether this failure opened the breaker.
func (b *breaker) failure(now time.Time, probe bool, c class) (opened bool) {
	if b.open {
		if probe {
			limit := b.max
			if c == refused {
				limit *= refusedFactor
			}
			b.wait = min(2*b.wait, limit)
			b.until = now.Add(jitter(min(b.wait, b.max)))
			b.early = b.until
			if b.wait > b.max {
				b.early = b.until.Add(b.wait - b.max)
			}
		}
		return false
	}
	b.fails++
	if b.fails == 1 {
		b.since = now
	}
	if b.fails >= breakAfter || b.fails >= 2 && now.Sub(b.since) >= breakSpan {
		b.trip(now)
		return true
	}
	return false
}

// trip opens the breaker.
func (b *breaker) trip(now time.Time) {
	if b.since.IsZero() {
		b.since = now
	}
	b.open = true
	b.wait = b.min
	b.until = now.Add(jitter(b.wait))
	b.early = b.until
}

// hold delays the next probe until d has passed, as the receiver asked.
func (b *breaker) hold(now time.Time, d time.Duration) {
	if !b.open {
		b.trip(now)
	}
	if t := now.Add(d); t.After(b.until) {
		b.until = t
	}
	if b.early.Before(b.until) {
		b.early = b.until
	}
}

// doubt opens the breaker for an endpoint that was failing since that time: its first
// request is a probe, at once.
func (b *breaker) doubt(since, now time.Time) {
	b.since = since
	b.trip(now)
	b.until, b.early = now, now
}
