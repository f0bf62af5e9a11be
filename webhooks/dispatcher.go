package webhooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parlor/rooms/log"
)

const (
	// boundEvery is the least time between two counts of the pending deliveries.
	boundEvery = time.Minute
	// barrierRetry is the time until a failed barrier is tried again.
	barrierRetry = time.Second
	// barrierRetryMax is the longest such time; it doubles up to this.
	barrierRetryMax = 30 * time.Second
)

// ErrClosed is returned by a [Dispatcher] that is closed or not started.
var ErrClosed = errors.New("webhooks: the dispatcher is not running")

// Dispatcher reads the outbox and sends what is due. After Start its methods may be
// called concurrently.
//
// Each endpoint has a worker, a goroutine that sends to it alone, so that no endpoint
// waits for another. One more goroutine wakes the workers when the store has news; with a
// barrier, another follows the replica.
type Dispatcher struct {
	config    Config
	store     log.Outbox
	transport http.RoundTripper
	metrics   *metrics

	workers map[int64]*worker // by endpoint; not changed after Start
	order   []int64           // as in the configuration
	cancel  context.CancelFunc
	loops   sync.WaitGroup

	replicated atomic.Int64  // the newest seq that is on the replica
	advance    chan struct{} // wakes the barrier's loop
}

// New makes a dispatcher; nothing runs before Start.
func New(c Config) *Dispatcher {
	c = c.withDefaults()
	d := &Dispatcher{
		config:    c,
		store:     c.Store,
		transport: c.Transport,
		workers:   map[int64]*worker{},
		advance:   make(chan struct{}, 1),
	}
	if d.transport == nil {
		d.transport = NewTransport(nil, perHost(c))
	}
	d.metrics = newMetrics(d)
	return d
}

// perHost is how many idle connections to keep to a host: as many as can be in use at a
// time.
func perHost(c Config) int {
	n := c.Concurrency
	for _, e := range c.Endpoints {
		n = max(n, e.Concurrency)
	}
	return n
}

// Collector returns the dispatcher's metrics. Register it after Start.
func (d *Dispatcher) Collector() prometheus.Collector { return d.metrics }

// Start checks the configuration, brings the stored endpoints in line with it, and begins
// to send. ctx bounds only the start: the goroutines run until Close.
func (d *Dispatcher) Start(ctx context.Context) error {
	targets, err := d.config.targets()
	if err != nil {
		return err
	}
	configured := make([]log.Endpoint, len(targets))
	for i, t := range targets {
		configured[i] = t.record
	}
	before, err := d.store.EndpointStats(ctx)
	if err != nil {
		return fmt.Errorf("read the webhook endpoints: %w", err)
	}
	stored, err := d.store.SyncEndpoints(ctx, configured, time.Now().UnixMilli())
	if err != nil {
		return fmt.Errorf("store the webhook endpoints: %w", err)
	}
	d.tellRemoved(before, stored)
	byURL := make(map[string]log.Endpoint, len(stored))
	for _, e := range stored {
		byURL[e.URL] = e
	}
	for _, t := range targets {
		t.record = byURL[t.record.URL]
		d.workers[t.record.ID] = d.newWorker(t)
		d.order = append(d.order, t.record.ID)
	}
	d.run(context.WithoutCancel(ctx))
	return nil
}

// tellRemoved logs the deliveries that became dead letters because the configuration no
// longer names their endpoint.
func (d *Dispatcher) tellRemoved(before []log.EndpointStats, configured []log.Endpoint) {
	for _, s := range before {
		named := slices.ContainsFunc(configured, func(e log.Endpoint) bool { return e.ID == s.Endpoint.ID })
		if named || s.Pending == 0 {
			continue
		}
		d.config.Logger.Warn("webhooks: the configuration no longer names an endpoint for which deliveries pended; "+
			"they are dead letters: name it again and replay them if that was not meant",
			"endpoint", redact(s.Endpoint.URL), "count", s.Pending)
	}
}

func (d *Dispatcher) newWorker(t target) *worker {
	w := newWorker(t, d.config.ProbeMin, d.config.ProbeMax)
	w.store = d.store
	w.sender = &sender{transport: d.transport, timeout: d.config.Timeout, userAgent: d.config.UserAgent}
	w.sched = t.schedule
	w.maxSeq = d.maxSeq
	w.allow = d.config.Allow
	w.metrics = d.metrics.worker(t.record)
	w.log = d.config.Logger.With("endpoint", cmp.Or(t.name, redact(t.record.URL)))
	return w
}

// run starts the goroutines. Close ends them and waits.
func (d *Dispatcher) run(ctx context.Context) {
	ctx, d.cancel = context.WithCancel(ctx)
	for _, w := range d.workers {
		d.loops.Go(func() { w.run(ctx) })
	}
	d.loops.Go(func() { d.watch(ctx) })
	if d.config.Barrier != nil {
		d.loops.Go(func() { d.follow(ctx) })
	}
}

// Drain sends what is due now, and returns when nothing more is due, or when ctx ends.
// Deliveries that wait for a retry, or for an endpoint that is down or paused, stay in
// the outbox for the next start.
func (d *Dispatcher) Drain(ctx context.Context) error {
	if d.cancel == nil {
		return nil
	}
	var replica error
	if d.config.Barrier != nil {
		if err := d.pass(ctx); err != nil { // what the replica has is sent all the same
			replica = fmt.Errorf("wait for the replica: %w", err)
		}
	}
	idle := make([]chan struct{}, 0, len(d.workers))
	for _, w := range d.workers {
		c := make(chan struct{})
		idle = append(idle, c)
		if !w.do(ctx, func() {
			w.exhausted = false // look once more
			w.waiters = append(w.waiters, c)
		}) {
			return errors.Join(replica, cmp.Or(ctx.Err(), ErrClosed))
		}
	}
	for _, c := range idle {
		select {
		case <-c:
		case <-ctx.Done():
			return errors.Join(replica, ctx.Err())
		}
	}
	return replica
}

// Close ends all requests and returns when all goroutines have ended. Requests that were
// under way are sent again at the next start, with the same id.
func (d *Dispatcher) Close() {
	if d.cancel == nil {
		return
	}
	d.cancel()
	d.loops.Wait()
	if t, ok := d.transport.(*http.Transport); ok && d.config.Transport == nil {
		t.CloseIdleConnections()
	}
}

// watch wakes the workers when the store has news, and keeps the pending deliveries
// within their bound.
func (d *Dispatcher) watch(ctx context.Context) {
	tokens, cancel := d.store.Watch()
	defer cancel()
	check := time.NewTimer(0) // a token leads to a count soon, but not at once
	defer check.Stop()
	armed := true
	for {
		d.wakeAll()
		if !armed {
			check.Reset(boundEvery)
			armed = true
		}
		select {
		case <-ctx.Done():
			return
		case <-tokens:
		case <-check.C:
			armed = false
			if err := d.bound(ctx); err != nil && ctx.Err() == nil {
				d.config.Logger.Error("webhooks: cannot bound what pends", "error", err)
			}
			select {
			case <-ctx.Done():
				return
			case <-tokens:
			}
		}
	}
}

// wakeAll wakes the workers and the barrier's loop.
func (d *Dispatcher) wakeAll() {
	for _, w := range d.workers {
		w.poke()
	}
	select {
	case d.advance <- struct{}{}:
	default: // it will look anyway
	}
}

// bound makes dead letters of the oldest pending deliveries beyond MaxPending.
func (d *Dispatcher) bound(ctx context.Context) error {
	stats, err := d.store.EndpointStats(ctx)
	if err != nil {
		return fmt.Errorf("count what pends: %w", err)
	}
	for _, s := range stats {
		if s.Pending <= d.config.MaxPending {
			continue
		}
		n, err := d.store.BoundPending(ctx, s.Endpoint.ID, d.config.MaxPending, time.Now().UnixMilli(),
			fmt.Sprintf("given up: more than %d deliveries pend for the endpoint", d.config.MaxPending))
		if err != nil {
			return fmt.Errorf("give up the oldest: %w", err)
		}
		d.config.Logger.Warn("webhooks: too much pends, gave up the oldest",
			"endpoint", redact(s.Endpoint.URL), "count", n)
	}
	return nil
}

// maxSeq is the newest event that may be sent; 0 = any. It is false while no event is
// known to be on the replica.
func (d *Dispatcher) maxSeq() (int64, bool) {
	if d.config.Barrier == nil {
		return 0, true
	}
	seq := d.replicated.Load()
	return seq, seq > 0
}

// follow keeps replicated up to date. It logs the first of several failures, and tries
// again at growing intervals.
func (d *Dispatcher) follow(ctx context.Context) {
	wait := time.Duration(0) // until the next try, after a failure
	for {
		if wait == 0 {
			select {
			case <-ctx.Done():
				return
			case <-d.advance:
			}
		} else {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
		err := d.pass(ctx)
		switch {
		case err == nil:
			wait = 0
		case wait == 0 && ctx.Err() == nil:
			wait = barrierRetry
			d.config.Logger.Warn("webhooks: nothing new is sent until the replica has it", "error", err)
		default:
			wait = min(2*wait, barrierRetryMax)
		}
	}
}

// pass waits until the replica has the newest event, and lets the workers send up to it.
func (d *Dispatcher) pass(ctx context.Context) error {
	_, newest, err := d.store.SeqRange(ctx)
	if err != nil {
		return fmt.Errorf("read the newest event: %w", err)
	}
	if newest <= d.replicated.Load() {
		return nil
	}
	if err := d.config.Barrier(ctx, newest); err != nil {
		return err
	}
	for { // another call may store its value at the same time
		old := d.replicated.Load()
		if newest <= old || d.replicated.CompareAndSwap(old, newest) {
			break
		}
	}
	for _, w := range d.workers {
		w.poke()
	}
	return nil
}
