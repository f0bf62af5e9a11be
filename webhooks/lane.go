package webhooks

import (
	"context"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"parlor/rooms"
)

const (
	// claimBatch is how many deliveries are asked for at once.
	claimBatch = 64
	// minClaims is how many deliveries may at least be in hand: waiting for a
	// request, in one, or done and not yet recorded.
	minClaims = 256
	// maxTried bounds how many deliveries a sweep or a row of probes remembers.
	maxTried = 512
	// maxSleep bounds the timer for a delivery that is due later: a clock that is set,
	// or a machine that was suspended, moves the wall clock and not the timer. Looking
	// at the clock costs nothing; the store is asked only when it is time.
	maxSleep = 5 * time.Second
	// storeRetry is the time until a failed read or write of the store is repeated.
	storeRetry = time.Second
	// recordTime bounds the last write when the dispatcher closes.
	recordTime = 5 * time.Second
	// anyTime is a time by which every delivery that heads its room is due.
	anyTime = math.MaxInt64
)

// lane sends to one endpoint. One goroutine, run, owns all of it; requests and
// writes run in goroutines of their own, bounded, that report to it and are
// waited for before run returns.
type lane struct {
	target  target
	store   Store
	sender  *sender
	sched   schedule
	maxSeq  func() (seq int64, ok bool) // bound set by the barrier; false = send nothing yet
	allow   func() error                // nil = always
	metrics laneMetrics
	log     *slog.Logger

	wake     chan struct{}   // poked: something may be due
	ctl      chan func()     // run in the loop
	ended    chan struct{}   // closed when run has returned
	done     chan attempt    // requests → loop; never blocks, its room is the concurrency
	recorded chan error      // writes → loop; room for the one that may be under way
	lifetime context.Context // of requests: ends when the dispatcher closes
	writing  context.Context // of writes: ends a while later
	workers  sync.WaitGroup

	// Owned by run.
	state     rooms.EndpointState
	failSince int64 // ms; 0 = the last attempt succeeded
	breaker   breaker
	probing   bool   // a probe is under way
	probeErr  string // of the last failed probe
	claimed   map[int64]struct{}
	queue     []rooms.Delivery // claimed and waiting for a request
	active    int              // requests under way
	results   []rooms.DeliveryResult
	recording []rooms.DeliveryResult // being written
	exhausted bool                   // the last query found no more; until woken
	sleepTill time.Time              // when to look again by ourselves; zero = never
	retryAt   time.Time              // when to use the store again after a failure
	reads     rooms.Outage           // of the store
	writes    rooms.Outage           // likewise
	barred    bool                   // another machine may send what pends
	sweeping  bool                   // what pends is tried at once, due or not
	sweepFail int                    // in a row, within the sweep
	tried     map[int64]struct{}     // not to be tried again in this sweep or row of probes
	expiring  bool                   // what is too old may have to be given up
	expired   int                    // given up so far, to be logged
	waiters   []chan struct{}        // told when nothing is to be done now
}

// attempt is one request on its way, and what came of it.
type attempt struct {
	delivery rooms.Delivery
	probe    bool // made because the breaker is open
	early    bool // made before it was due
	outcome
	at time.Time // when it ended
}

func newLane(t target, probeMin, probeMax time.Duration) *lane {
	return &lane{
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

// poke wakes the lane; it never blocks.
func (l *lane) poke() {
	select {
	case l.wake <- struct{}{}:
	default: // it is awake already
	}
}

// do runs f in the lane's loop and waits for it. It reports false if ctx ended
// or the lane has.
func (l *lane) do(ctx context.Context, f func()) bool {
	ran := make(chan struct{})
	select {
	case l.ctl <- func() { f(); close(ran) }:
	case <-ctx.Done():
		return false
	case <-l.ended:
		return false
	}
	<-ran // the loop waits for nobody, so this is soon
	return true
}

// run is the lane's loop. It returns after ctx has ended, when all that it
// started has.
func (l *lane) run(ctx context.Context) {
	defer close(l.ended)
	l.lifetime = ctx
	var giveUp context.CancelFunc // what is known must be written, but not for ever
	l.writing, giveUp = context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	if l.failSince != 0 {
		l.breaker.doubt(time.UnixMilli(l.failSince), time.Now())
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		if !l.retryAt.IsZero() && !time.Now().Before(l.retryAt) {
			l.retryAt = time.Time{}
		}
		l.expire(ctx)
		l.fill(ctx)
		l.dispatch()
		l.record()
		l.tellWaiters()
		l.arm(timer)
		select {
		case <-ctx.Done():
		case <-l.wake:
			l.exhausted = false
		case <-timer.C:
			if !time.Now().Before(l.sleepTill) { // by the wall clock, as it is now
				l.exhausted, l.sleepTill = false, time.Time{}
			}
		case f := <-l.ctl:
			f()
		case a := <-l.done:
			l.finish(ctx, a)
		case err := <-l.recorded:
			l.afterRecord(err)
		}
	}
	late := time.AfterFunc(recordTime, giveUp)
	defer late.Stop()
	l.stop(ctx)
}

// arm sets the timer to the next moment at which the lane has something to do
// by itself.
func (l *lane) arm(timer *time.Timer) {
	at := l.sleepTill
	switch {
	case !l.retryAt.IsZero():
		at = l.retryAt
	case l.state != rooms.EndpointOn:
		at = time.Time{}
	case l.breaker.open:
		if l.probing || l.active >= l.target.concurrency {
			at = time.Time{} // what ends is news
		} else if !l.exhausted {
			at = l.breaker.until
		}
	}
	if at.IsZero() {
		timer.Stop()
		return
	}
	timer.Reset(min(time.Until(at), maxSleep))
}

// fill claims what can be sent.
func (l *lane) fill(ctx context.Context) {
	for l.wantsMore() {
		now := time.Now()
		q, ok := l.query(now)
		if !ok {
			l.exhausted, l.sleepTill = true, time.Time{} // the barrier will wake us
			return
		}
		found, err := l.store.DueHeads(ctx, q)
		if err != nil {
			l.storeFailed(ctx, &l.reads, "read due deliveries", err)
			return
		}
		for _, d := range found {
			l.claimed[d.Seq] = struct{}{}
			l.queue = append(l.queue, d)
		}
		if len(found) == q.Limit {
			continue
		}
		if !l.noMore(ctx, q, len(found)) {
			if l.retryAt.IsZero() {
				l.reads.Over(l.log, "webhooks: deliveries are read again")
			}
			return
		}
	}
}

// mayNot tells whether another machine may have the outbox. What is claimed is
// given back, and in a while it is asked again.
func (l *lane) mayNot() bool {
	var err error
	if l.allow != nil {
		err = l.allow()
	}
	if err != nil && !l.barred {
		l.log.Warn("webhooks: nothing is sent, another machine may have the rooms", "err", err)
	}
	if l.barred = err != nil; l.barred {
		l.release()
		l.retryAt = time.Now().Add(storeRetry)
	}
	return l.barred
}

// wantsMore tells whether there is room for more claims, and a chance of any.
func (l *lane) wantsMore() bool {
	if l.state != rooms.EndpointOn || l.exhausted || !l.retryAt.IsZero() || l.mayNot() {
		return false
	}
	if l.breaker.open {
		return !l.probing && len(l.queue) == 0 && l.active < l.target.concurrency &&
			!time.Now().Before(l.breaker.until)
	}
	return len(l.queue) < l.target.concurrency && l.room() > 0
}

// room is how many more deliveries may be claimed.
func (l *lane) room() int {
	return max(minClaims, 4*l.target.concurrency) - len(l.claimed)
}

// query is what to ask for now: what is due; in a sweep, what is not due either;
// one for a probe, due or not. It is false if the barrier lets nothing pass yet.
func (l *lane) query(now time.Time) (rooms.DueQuery, bool) {
	bound, ok := l.maxSeq()
	q := rooms.DueQuery{
		EndpointID: l.target.record.ID,
		NowMs:      rooms.NowMs(now),
		MaxSeq:     bound,
		Limit:      min(claimBatch, l.room()),
	}
	if l.breaker.open {
		q.Limit = 1
	}
	if l.breaker.open && !now.Before(l.breaker.early) || l.sweeping {
		q.NowMs = anyTime // those longest due come first
	}
	q.Exclude = l.inHand(l.tried)
	return q, ok
}

// inHand is the deliveries that are claimed, and those in more.
func (l *lane) inHand(more map[int64]struct{}) []int64 {
	out := make([]int64, 0, len(l.claimed)+len(more))
	out = slices.AppendSeq(out, maps.Keys(l.claimed))
	return slices.AppendSeq(out, maps.Keys(more))
}

// noMore decides what follows a query that found less than it asked for. It
// reports whether to ask again at once.
func (l *lane) noMore(ctx context.Context, q rooms.DueQuery, found int) bool {
	switch {
	case l.breaker.open && found == 0 && len(l.tried) > 0:
		clear(l.tried) // all have had their turn as probes: begin again
		return true
	case l.sweeping:
		l.endSweep()
		return true
	}
	l.exhausted, l.sleepTill = true, time.Time{}
	if q.NowMs == anyTime {
		return false // nothing pends at all; what comes wakes us
	}
	next, err := l.store.NextDue(ctx, q.EndpointID, q.NowMs)
	if err != nil {
		l.storeFailed(ctx, &l.reads, "read the next due delivery", err)
		return false
	}
	if next > 0 {
		l.sleepTill = time.UnixMilli(next)
		if l.breaker.open && l.breaker.early.Before(l.sleepTill) {
			l.sleepTill = l.breaker.early
		}
	}
	return false
}

// storeFailed has the lane use the store again in a while.
func (l *lane) storeFailed(ctx context.Context, o *rooms.Outage, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	o.Failed(l.log, "webhooks: cannot "+what, err)
	l.exhausted = false
	l.retryAt = time.Now().Add(storeRetry)
}

// dispatch starts requests for what is claimed.
func (l *lane) dispatch() {
	for len(l.queue) > 0 && l.active < l.target.concurrency {
		if l.breaker.open && l.probing || l.mayNot() {
			return
		}
		d := l.queue[0]
		l.queue = l.queue[1:]
		a := attempt{
			delivery: d,
			probe:    l.breaker.open,
			early:    d.NextMs > rooms.NowMs(time.Now()),
		}
		l.probing = l.probing || a.probe
		l.active++
		l.workers.Go(func() { // ends within the sender's timeout, or with lifetime; stop waits
			begin := time.Now()
			a.outcome = l.sender.send(l.lifetime, &l.target, &a.delivery.Event)
			a.at = time.Now()
			l.metrics.attempt(a.label(), a.at.Sub(begin))
			l.done <- a
		})
	}
}

// record writes what attempts came to, one batch at a time.
func (l *lane) record() {
	if l.recording != nil || len(l.results) == 0 || !l.retryAt.IsZero() {
		return
	}
	l.recording, l.results = l.results, nil
	batch := l.recording
	l.workers.Go(func() { // ends when the store has answered, or with writing; stop waits
		l.recorded <- l.store.FinishDeliveries(l.writing, batch)
	})
}

// afterRecord takes up the store's answer.
func (l *lane) afterRecord(err error) {
	batch := l.recording
	l.recording = nil
	if err != nil {
		l.results = append(batch, l.results...)
		l.storeFailed(context.Background(), &l.writes, "record deliveries", err)
		return
	}
	l.writes.Over(l.log, "webhooks: deliveries are recorded again")
	for _, r := range batch {
		delete(l.claimed, r.Seq)
	}
	l.exhausted = false
}

// tellWaiters answers those who wait until there is nothing to do now.
func (l *lane) tellWaiters() {
	if len(l.waiters) == 0 || l.active > 0 || len(l.results) > 0 || l.recording != nil {
		return
	}
	if l.state == rooms.EndpointOn && !l.breaker.open && !l.barred && (!l.exhausted || len(l.queue) > 0) {
		return
	}
	for _, w := range l.waiters {
		close(w)
	}
	l.waiters = nil
}

// stop waits for what the lane started and writes what it knows.
func (l *lane) stop(ctx context.Context) {
	for l.active > 0 {
		a := <-l.done
		if a.class == gone {
			a.class = refused // whoever starts next asks again
		}
		l.finish(ctx, a)
	}
	if l.recording != nil {
		l.afterRecord(<-l.recorded)
	}
	l.workers.Wait()
	if len(l.results) > 0 {
		if err := l.store.FinishDeliveries(l.writing, l.results); err != nil {
			l.log.Error("webhooks: cannot record deliveries, they will be sent again", "err", err)
		}
	}
	for _, w := range l.waiters {
		close(w)
	}
}
