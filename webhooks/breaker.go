package webhooks

import "time"

const (
	// breakAfter failures in a row open a breaker at once.
	breakAfter = 8
	// breakSpan is how long nothing may have succeeded before two failures open it.
	breakSpan = 3 * time.Second
	// sweepSpan is how long an endpoint must have failed for its return to be an
	// event: everything that pends is then tried at once.
	sweepSpan = 5 * time.Second
	// refusedFactor makes the longest time between probes with events that are not
	// due longer while the endpoint answers but refuses: what pends may be the one
	// event that it cannot take.
	refusedFactor = 5
)

// breaker keeps a dead endpoint from being hammered: while it is open, one
// request at a time goes out, at growing intervals. It is owned by its worker.
type breaker struct {
	min, max time.Duration // between probes

	fails int       // in a row
	since time.Time // the first of them
	open  bool
	wait  time.Duration
	until time.Time // when the next probe may go out
	early time.Time // when it may be with an event that is not due
}

// success notes an attempt that succeeded. It reports whether the endpoint was
// down for long enough that what pends should be tried at once.
func (b *breaker) success(now time.Time) (recovered bool) {
	recovered = b.open && now.Sub(b.since) >= sweepSpan
	*b = breaker{min: b.min, max: b.max}
	return recovered
}

// failure notes an attempt that failed; probe tells that it was made because the
// breaker was open. It reports whether it opened the breaker.
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

// hold keeps the next probe back until d has passed, as the receiver asked.
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

// doubt opens the breaker for an endpoint that was failing since that time when
// last seen: the first request is a probe, at once.
func (b *breaker) doubt(since, now time.Time) {
	b.since = since
	b.trip(now)
	b.until, b.early = now, now
}
