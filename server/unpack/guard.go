package unpack

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
)

const (
	// atOnce is how many bytes may be unpacked at a time, by estimate. The largest single
	// message costs an eighth of it.
	atOnce = 64 << 20
	// small is the cost up to which messages do not wait for a place: most messages are
	// small, and must not wait behind large ones.
	small = 8 << 10
	// guardWait is how long a decoder waits for a place.
	guardWait = 10 * time.Second
)

// ErrBusy: no place was free in time, because too much is being unpacked.
var ErrBusy = errors.New("the server has too much to read at this time, try again")

// Guard bounds how much is unpacked at a time, and counts refusals. Its methods may be
// called concurrently; a nil Guard bounds and counts nothing.
type Guard struct {
	places  *semaphore.Weighted
	refused *prometheus.CounterVec
}

// NewGuard makes a guard.
func NewGuard() *Guard {
	g := &Guard{
		places: semaphore.NewWeighted(atOnce),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parlor_unpack_refused_total",
			Help: "Input refused before it was decoded, by where it came in and why: too_long (bytes), too_much (what they unpack to), too_deep, malformed, busy.",
		}, []string{"what", "why"}),
	}
	// Series exist from the start, because a rate needs an earlier value.
	for _, what := range []string{"twirp", "rest", "join_request", "signal", "token", "data", "agent"} {
		for why := range reasons() {
			g.refused.WithLabelValues(what, why)
		}
	}
	return g
}

// reasons are the errors of this package by the counter's labels.
func reasons() map[string]error {
	return map[string]error{"too_much": ErrTooMuch, "too_long": ErrTooLong, "too_deep": ErrTooDeep, "malformed": ErrMalformed, "busy": ErrBusy}
}

// Describe implements [prometheus.Collector].
func (g *Guard) Describe(ch chan<- *prometheus.Desc) { g.refused.Describe(ch) }

// Collect implements [prometheus.Collector].
func (g *Guard) Collect(ch chan<- prometheus.Metric) { g.refused.Collect(ch) }

// Refused counts err under what if it is an error of this package. It returns err.
func (g *Guard) Refused(what string, err error) error {
	if g == nil {
		return err
	}
	for why, known := range reasons() {
		if errors.Is(err, known) {
			g.refused.WithLabelValues(what, why).Inc()
		}
	}
	return err
}

// Enter waits for a place for cost bytes. The caller gives it up with leave, which may be
// called more than once. It fails with [ErrBusy], or with ctx's error.
func (g *Guard) Enter(ctx context.Context, cost int64) (leave func(), err error) {
	if g == nil || cost <= small {
		return func() {}, nil
	}
	cost = min(cost, atOnce)
	waiting, cancel := context.WithTimeout(ctx, guardWait)
	defer cancel()
	if g.places.Acquire(waiting, cost) != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, ErrBusy
	}
	return sync.OnceFunc(func() { g.places.Release(cost) }), nil
}
