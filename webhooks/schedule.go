package webhooks

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DefaultSchedule is the example schedule of Standard Webhooks 1.0: ten attempts in some
// 75 hours.
func DefaultSchedule() []time.Duration {
	return []time.Duration{
		5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
		10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
	}
}

// maxRetryAfter bounds a receiver's Retry-After, so that a mistake there does not silence
// an endpoint for a year.
const maxRetryAfter = time.Hour

// schedule is the time from each failed attempt to the next.
type schedule []time.Duration

// next is the wait after the failed attempt of that number, from 1; false if it was the
// last.
func (s schedule) next(attempt int) (time.Duration, bool) {
	if attempt > len(s) {
		return 0, false
	}
	return jitter(s[max(attempt, 1)-1]), true
}

// lasting is s with its last attempt after d: cut short, or with its last step repeated.
func (s schedule) lasting(d time.Duration) schedule {
	var out schedule
	for i := 0; d > 0; i++ {
		step := min(s[min(i, len(s)-1)], d)
		out = append(out, step)
		d -= step
	}
	return out
}

// total is how long an event is tried.
func (s schedule) total() (sum time.Duration) {
	for _, d := range s {
		sum += d
	}
	return sum
}

// longest is the longest that a delivery waits for its next attempt.
func (s schedule) longest() time.Duration {
	return max(time.Duration(1.2*float64(slices.Max(s))), maxRetryAfter)
}

// jitter is d ±20 %, so that events that failed together are not retried together.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// retryAfter reads a Retry-After header (RFC 9110 section 10.2.3: seconds or a date),
// bounded; 0 if there is none or it is invalid.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0
	}
	if n, err := strconv.ParseUint(v, 10, 63); err == nil {
		if n >= uint64(maxRetryAfter/time.Second) {
			return maxRetryAfter
		}
		return time.Duration(n) * time.Second
	}
	t, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	return min(max(t.Sub(now), 0), maxRetryAfter)
}
