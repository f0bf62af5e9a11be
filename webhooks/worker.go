package webhooks

import (
	"context"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"parlor/rooms/log"
	"parlor/rooms/outage"
)

const (
	// claimBatch is how many deliveries one query asks for.
	claimBatch = 64
	// minClaims is the least bound of claimed deliveries: those that wait for a request,
	// are being sent, or are done and not yet recorded.
	minClaims = 256
	// maxTried bounds how many deliveries a sweep or a row of probes remembers.
	maxTried = 512
	// maxSleep bounds the timer for a delivery that is due later: a clock that is set, or
	// a machine that was suspended, moves the wall clock and not the timer. At a wake-up
	// the worker looks at the clock, and asks the store only when the delivery is due.
	maxSleep = 5 * time.Second
	// astrayEvery is the time between two looks for deliveries that a clock which has been
	// set back has put off.
	astrayEvery = 30 * time.Second
	// storeRetry is the time until a failed read or write of the store is repeated.
	storeRetry = time.Second
	// recordTime bounds the last write when the dispatcher closes.
	recordTime = 5 * time.Second
	// anyTime is a time by which every head of a room's queue is due.
	anyTime = math.MaxInt64
)

// worker sends to one endpoint. One goroutine, run, owns its state. Requests and writes
// run on goroutines of their own, bounded in number, which report to run; run waits for
// them before it returns.
type worker struct {
	target  target
	store   log.Outbox
	sender  *sender
	sched   schedule
	maxSeq  func() (seq int64, ok bool) // bound set by the barrier; false = nothing may be sent yet
	allow   func() error                // nil = always
	metrics workerMetrics
	log     *slog.Logger

	wake     chan struct{}   // poked: something may be due
	ctl      chan func()     // run in the loop
	ended    chan struct{}   // closed when run has returned
	done     chan attempt    // requests → loop; its capacity is the concurrency, so it never blocks
	recorded chan error      // writes → loop; capacity for the one that may be under way
	lifetime context.Context // of requests: ends when the dispatcher closes
	writing  context.Context // of writes: ends a while later
	tasks    sync.WaitGroup

	// Owned by run.
	state     log.EndpointState
	failSince int64     // ms; 0 = the last attempt succeeded; also of earlier processes
	failing   time.Time // the first failure since then that this process saw
	goneMs    int64     // when the receiver answered 410, as long as that is not on disk; else 0
	breaker   breaker
	probing   bool   // a probe is under way
	probeErr  string // of the last failed probe
	claimed   map[int64]struct{}
	queue     []log.Delivery // claimed and waiting for a request
	active    int            // requests under way
	results   []log.DeliveryResult
	recording []log.DeliveryResult // being written
	exhausted bool                 // the last query found no more; until woken
	sleepTill time.Time            // when to look again without being woken; zero = never
	lookAgain time.Time            // when to look again even if the wall clock says that it is not time yet
	soughtAt  time.Time            // when deliveries that were put off by the clock were looked for
	retryAt   time.Time            // when to use the store again after a failure
	reads     outage.Log           // of the store
	writes    outage.Log           // of the store
	barred    bool                 // another machine may serve the rooms
	sweeping  bool                 // all pending deliveries are tried at once, due or not
	sweepFail int                  // failures in a row within the sweep
	tried     map[int64]struct{}   // not to be tried again in this sweep or row of probes
	expiring  bool                 // old events may have to be given up
	expired   int                  // given up so far, for the log
	waiters   []chan struct{}      // callers of Drain, told when nothing can be done now
}

// attempt is one request and its outcome.
type attempt struct {
	delivery log.Delivery
	probe    bool // made while the breaker is open
	early    bool // made before it was due
	outcome
	at time.Time // when it ended
}

func newWorker(t target, probeMin, probeMax time.Duration) *worker {
	return &worker{
		target:    t,
		wake:      make(chan struct{}, 1),
		ctl:       make(chan func()),
		ended:     make(chan struct{}),
		done:      make(chan attempt, t.concurrency),
		recorded:  make(chan error, 1),
		state:     t.record.State,
		failSince: t.record.FailSinceMs,
		breaker:   breaker{min: probeMin, max: probeMax},
		claimed:   map[int64]struct{}{},
		tried:     map[int64]struct{}{},
	}
}

// poke wakes the worker; it never blocks.
func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default: // it is about to wake already
	}
}

// do runs f in the worker's loop and waits for it. It reports false if ctx or the worker
// has ended.
func (w *worker) do(ctx context.Context, f func()) bool {
	ran := make(chan struct{})
	select {
	case w.ctl <- func() { f(); close(ran) }:
	case <-ctx.Done():
		return false
	case <-w.ended:
		return false
	}
	<-ran // soon: the loop runs f at once
	return true
}

// run is the worker's loop. It returns after ctx has ended and all its goroutines have.
func (w *worker) run(ctx context.Context) {
	defer close(w.ended)
	w.lifetime = ctx
	var giveUp context.CancelFunc // outcomes must be recorded, but not wait for ever
	w.writing, giveUp = context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	if w.failSince != 0 {
		w.breaker.doubt(time.UnixMilli(w.failSince), time.Now())
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		if !w.retryAt.IsZero() && !time.Now().Before(w.retryAt) {
			w.retryAt = time.Time{}
		}
		w.disable(ctx)
		w.expire(ctx)
		w.fill(ctx)
		w.dispatch()
		w.record()
		w.tellWaiters()
		w.arm(timer)
		select {
		case <-ctx.Done():
		case <-w.wake:
			w.exhausted = false
		case <-timer.C:
			if now := time.Now(); !now.Before(w.sleepTill) || !now.Before(w.lookAgain) { // the first by the wall clock, as it is now
				w.exhausted, w.sleepTill = false, time.Time{}
			}
		case f := <-w.ctl:
			f()
		case a := <-w.done:
			w.finish(ctx, a)
		case err := <-w.recorded:
			w.afterRecord(err)
		}
	}
	late := time.AfterFunc(recordTime, giveUp)
	defer late.Stop()
	w.stop(ctx)
}

// arm sets the timer to the next moment at which the worker has something to do without
// being woken.
func (w *worker) arm(timer *time.Timer) {
	at := w.sleepTill
	switch {
	case !w.retryAt.IsZero():
		at = w.retryAt
	case w.state != log.EndpointOn:
		at = time.Time{}
	case w.breaker.open:
		if w.probing || w.active >= w.target.concurrency {
			at = time.Time{} // the end of a request wakes the loop
		} else if !w.exhausted {
			at = w.breaker.until
		}
	}
	if at.IsZero() {
		timer.Stop()
		return
	}
	timer.Reset(min(time.Until(at), maxSleep))
}

// fill claims deliveries that can be sent.
func (w *worker) fill(ctx context.Context) {
	for w.wantsMore() {
		now := time.Now()
		q, ok := w.query(now)
		if !ok {
			w.exhausted, w.sleepTill = true, time.Time{} // the barrier will wake the worker
			return
		}
		found, err := w.store.DueHeads(ctx, q)
		if err != nil {
			w.storeFailed(ctx, &w.reads, "read due deliveries", err)
			return
		}
		for _, d := range found {
			w.claimed[d.Seq] = struct{}{}
			w.queue = append(w.queue, d)
		}
		if len(found) == q.Limit {
			continue
		}
		if !w.noMore(ctx, q, len(found)) {
			if w.retryAt.IsZero() {
				w.reads.Over(w.log, "webhooks: deliveries are read again")
			}
			return
		}
	}
}

// mayNot reports whether another machine may serve the rooms. Then it gives up the
// claims, and asks again after storeRetry.
func (w *worker) mayNot() bool {
	var err error
	if w.allow != nil {
		err = w.allow()
	}
	if err != nil && !w.barred {
		w.log.Warn("webhooks: nothing is sent, another machine may have the rooms", "error", err)
	}
	if w.barred = err != nil; w.barred {
		w.release()
		w.retryAt = time.Now().Add(storeRetry)
	}
	return w.barred
}

// wantsMore reports whether the worker may claim more, and whether a query may find any.
func (w *worker) wantsMore() bool {
	if w.state != log.EndpointOn || w.exhausted || !w.retryAt.IsZero() || w.mayNot() {
		return false
	}
	if w.breaker.open {
		return !w.probing && len(w.queue) == 0 && w.active < w.target.concurrency &&
			!time.Now().Before(w.breaker.until)
	}
	return len(w.queue) < w.target.concurrency && w.room() > 0
}

// room is how many more deliveries may be claimed.
func (w *worker) room() int {
	return max(minClaims, 4*w.target.concurrency) - len(w.claimed)
}

// query is the query for now: for due deliveries; in a sweep also for others; for a probe
// for one, due or not. It is false while the barrier lets nothing pass.
func (w *worker) query(now time.Time) (log.DueQuery, bool) {
	bound, ok := w.maxSeq()
	q := log.DueQuery{
		EndpointID: w.target.record.ID,
		NowMs:      now.UnixMilli(),
		MaxSeq:     bound,
		Limit:      min(claimBatch, w.room()),
	}
	if w.breaker.open {
		q.Limit = 1
	}
	if w.breaker.open && !now.Before(w.breaker.early) || w.sweeping {
		q.NowMs = anyTime // the longest due come first
	}
	q.Exclude = w.inHand(w.tried)
	return q, ok
}

// inHand returns the claimed deliveries and those in more.
func (w *worker) inHand(more map[int64]struct{}) []int64 {
	out := make([]int64, 0, len(w.claimed)+len(more))
	out = slices.AppendSeq(out, maps.Keys(w.claimed))
	return slices.AppendSeq(out, maps.Keys(more))
}

// noMore handles a query that found less than it asked for. It reports whether to ask
// again at once.
func (w *worker) noMore(ctx context.Context, q log.DueQuery, found int) bool {
	switch {
	case w.breaker.open && found == 0 && len(w.tried) > 0:
		clear(w.tried) // every delivery has been a probe: begin again
		return true
	case w.sweeping:
		w.endSweep()
		return true
	}
	w.exhausted, w.sleepTill = true, time.Time{}
	if q.NowMs == anyTime {
		return false // nothing is pending at all; a new event wakes the worker
	}
	next, err := w.store.NextDue(ctx, q.EndpointID, q.NowMs)
	if err != nil {
		w.storeFailed(ctx, &w.reads, "read the next due delivery", err)
		return false
	}
	if next > 0 {
		now := time.Now()
		if w.soughtAt.IsZero() || now.Sub(w.soughtAt) >= astrayEvery {
			n, err := w.store.PullIn(ctx, q.EndpointID, now.UnixMilli(), w.sched.longest())
			if err != nil {
				w.storeFailed(ctx, &w.reads, "look for deliveries that the clock has put off", err)
				return false
			}
			w.soughtAt = now
			if n > 0 {
				w.log.Warn("webhooks: deliveries waited for a time that the clock has been set back from, they are due now", "count", n)
				w.exhausted = false
				return true
			}
		}
		w.lookAgain = now.Add(astrayEvery)
		w.sleepTill = time.UnixMilli(next)
		if w.breaker.open && w.breaker.early.Before(w.sleepTill) {
			w.sleepTill = w.breaker.early
		}
	}
	return false
}

// storeFailed logs a failure and puts off the next use of the store.
func (w *worker) storeFailed(ctx context.Context, o *outage.Log, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	o.Failed(w.log, "webhooks: cannot "+what, err)
	w.exhausted = false
	w.retryAt = time.Now().Add(storeRetry)
}

// dispatch starts requests for the claimed deliveries.
func (w *worker) dispatch() {
	for len(w.queue) > 0 && w.active < w.target.concurrency {
		if w.breaker.open && w.probing || w.mayNot() {
			return
		}
		d := w.queue[0]
		w.queue = w.queue[1:]
		a := attempt{
			delivery: d,
			probe:    w.breaker.open,
			early:    d.NextMs > time.Now().UnixMilli(),
		}
		w.probing = w.probing || a.probe
		w.active++
		w.tasks.Go(func() { // ends within the sender's timeout, or with lifetime; stop waits
			begin := time.Now()
			a.outcome = w.sender.send(w.lifetime, &w.target, &a.delivery.Event)
			a.at = time.Now()
			w.metrics.attempt(a.label(), a.at.Sub(begin))
			w.done <- a
		})
	}
}

// record writes the outcomes of attempts, one batch at a time.
func (w *worker) record() {
	if w.recording != nil || len(w.results) == 0 || !w.retryAt.IsZero() {
		return
	}
	w.recording, w.results = w.results, nil
	batch := w.recording
	w.tasks.Go(func() { // ends when the store has answered, or with writing; stop waits
		w.recorded <- w.store.FinishDeliveries(w.writing, batch)
	})
}

// afterRecord handles the store's answer.
func (w *worker) afterRecord(err error) {
	batch := w.recording
	w.recording = nil
	if err != nil {
		w.results = append(batch, w.results...)
		w.storeFailed(context.Background(), &w.writes, "record deliveries", err)
		return
	}
	w.writes.Over(w.log, "webhooks: deliveries are recorded again")
	for _, r := range batch {
		delete(w.claimed, r.Seq)
	}
	w.exhausted = false
}

// tellWaiters answers the callers that wait until nothing can be done now.
func (w *worker) tellWaiters() {
	if len(w.waiters) == 0 || w.active > 0 || len(w.results) > 0 || w.recording != nil || w.goneMs != 0 {
		return
	}
	if w.state == log.EndpointOn && !w.breaker.open && !w.barred && (!w.exhausted || len(w.queue) > 0) {
		return
	}
	for _, c := range w.waiters {
		close(c)
	}
	w.waiters = nil
}

// stop waits for the worker's goroutines and records the last outcomes.
func (w *worker) stop(ctx context.Context) {
	for w.active > 0 {
		a := <-w.done
		if a.class == gone {
			a.class = refused // the next process asks the endpoint again
		}
		w.finish(ctx, a)
	}
	if w.recording != nil {
		w.afterRecord(<-w.recorded)
	}
	w.tasks.Wait()
	if len(w.results) > 0 {
		if err := w.store.FinishDeliveries(w.writing, w.results); err != nil {
			w.log.Error("webhooks: cannot record deliveries, they will be sent again", "error", err)
		}
	}
	for _, c := range w.waiters {
		close(c)
	}
}
