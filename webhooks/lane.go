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
	// maxSleep bounds the timer for a delivery that is due later, since a machine
	// that is suspended stops timers but not the wall clock they are set by.
	maxSleep = 10 * time.Minute
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
	metrics laneMetrics
	log     *slog.Logger

	wake     chan struct{}   // poked: something may be due
	ctl      chan func()     // run in the loop
	ended    chan struct{}   // closed when run has returned
	done     chan attempt    // requests → loop; never blocks, its room is the concurrency
	recorded chan error      // writes → loop; room for the one that may be under way
	lifetime context.Context // of requests: ends when the dispatcher closes
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
		l.record(ctx)
		l.tellWaiters()
		l.arm(timer)
		select {
		case <-ctx.Done():
		case <-l.wake:
			l.exhausted = false
		case <-timer.C:
			l.exhausted, l.sleepTill = false, time.Time{}
		case f := <-l.ctl:
			f()
		case a := <-l.done:
			l.finish(ctx, a)
		case err := <-l.recorded:
			l.afterRecord(err)
		}
	}
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
			l.storeFailed(ctx, "read due deliveries", err)
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
			return
		}
	}
}

// wantsMore tells whether there is room for more claims, and a chance of any.
func (l *lane) wantsMore() bool {
	if l.state != rooms.EndpointOn || l.exhausted || !l.retryAt.IsZero() {
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
		l.storeFailed(ctx, "read the next due delivery", err)
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
func (l *lane) storeFailed(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	l.log.Error("webhooks: cannot "+what, "err", err)
	l.exhausted = false
	l.retryAt = time.Now().Add(storeRetry)
}

// dispatch starts requests for what is claimed.
func (l *lane) dispatch() {
	for len(l.queue) > 0 && l.active < l.target.concurrency {
		if l.breaker.open && l.probing {
			return
		}
		d := l.queue[0]
		l.queue = l.queue[1:]
		a := attempt{
			delivery: d,
			probe:    l.breaker.open,
			early:    d.NextMs > rooms.NowMs(time.Now()),
		}
		l.probing = a.probe
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

// finish takes up what came of a request.
func (l *lane) finish(ctx context.Context, a attempt) {
	l.active--
	if a.probe {
		l.probing = false
	}
	switch a.class {
	case aborted:
		delete(l.claimed, a.delivery.Seq)
	case delivered:
		l.succeeded(a)
	case gone:
		l.failed(a)
		l.disable(ctx, a)
	default:
		l.failed(a)
	}
}

func (l *lane) succeeded(a attempt) {
	l.results = append(l.results, rooms.DeliveryResult{
		EndpointID: l.target.record.ID, Seq: a.delivery.Seq,
		State: rooms.DeliveryDelivered, AtMs: rooms.NowMs(a.at), Status: a.status,
	})
	wasOpen, since := l.breaker.open, l.failSince
	l.failSince, l.probeErr, l.sweepFail, l.expiring = 0, "", 0, false
	recovered := l.breaker.success(a.at)
	if !wasOpen {
		return
	}
	l.exhausted = false
	if !l.sweeping {
		clear(l.tried)
	}
	if recovered {
		l.sweeping = true
		l.log.Info("webhooks: endpoint is back, sending what pends", "failing_since", time.UnixMilli(since))
	}
}

// failed decides what a failure means for the event and for the endpoint. It is
// recorded as an attempt of the event only if it tells of the event: not if the
// event was not due, and was sent as a probe or in a sweep, and not if a probe
// found that the endpoint is still unreachable. So an outage uses up nobody's
// attempts, and releases nobody from the order.
func (l *lane) failed(a attempt) {
	if a.early || a.probe && a.class == unreachable {
		delete(l.claimed, a.delivery.Seq)
		l.setAside(a)
	} else {
		l.results = append(l.results, l.failure(a))
	}
	if a.early && !a.probe && a.class == refused {
		return // it failed before and was tried early: no news of the endpoint
	}
	if l.failSince == 0 {
		l.failSince = rooms.NowMs(a.at)
	}
	if a.probe {
		l.probeErr = a.err
		l.expiring = a.at.Sub(time.UnixMilli(l.failSince)) >= l.sched.total()
	}
	opened := l.breaker.failure(a.at, a.probe, a.class)
	if a.retryAfter > 0 {
		opened = opened || !l.breaker.open
		l.breaker.hold(a.at, a.retryAfter)
	}
	if opened {
		l.endSweep()
		l.release()
		l.log.Warn("webhooks: endpoint is failing, probing it", "err", a.err)
	}
}

// setAside keeps a delivery from being tried again in this sweep or row of probes.
func (l *lane) setAside(a attempt) {
	if !l.sweeping && !l.breaker.open {
		return
	}
	if len(l.tried) >= maxTried {
		clear(l.tried)
		l.sweeping = false
	}
	l.tried[a.delivery.Seq] = struct{}{}
	l.exhausted = false
	if !a.probe {
		l.sweepFail++
		if l.sweepFail >= breakAfter {
			l.endSweep() // they fail for reasons of their own: their schedule rules
		}
	}
}

func (l *lane) endSweep() {
	l.sweeping, l.sweepFail = false, 0
	clear(l.tried)
}

// failure is the record of a failed attempt.
func (l *lane) failure(a attempt) rooms.DeliveryResult {
	r := rooms.DeliveryResult{
		EndpointID: l.target.record.ID, Seq: a.delivery.Seq,
		AtMs: rooms.NowMs(a.at), Status: a.status, Error: a.err,
	}
	wait, again := l.sched.next(a.delivery.Attempts + 1)
	if !again {
		r.State = rooms.DeliveryDead
		l.log.Warn("webhooks: giving up an event", "room", a.delivery.Event.RoomName,
			"event", a.delivery.Event.ID, "attempts", a.delivery.Attempts+1, "err", a.err)
		return r
	}
	r.State = rooms.DeliveryPending
	r.NextMs = rooms.NowMs(a.at.Add(max(wait, a.retryAfter)))
	return r
}

// disable obeys a 410: the receiver wants no more, now or of what pends.
func (l *lane) disable(ctx context.Context, a attempt) {
	const reason = "the receiver answered 410 Gone"
	l.setState(rooms.EndpointDisabled)
	l.log.Warn("webhooks: endpoint disabled, it answered 410 Gone")
	id := l.target.record.ID
	if err := l.store.SetEndpointState(ctx, id, rooms.EndpointDisabled, reason); err != nil {
		l.storeFailed(ctx, "disable the endpoint", err)
		return
	}
	if _, err := l.store.BoundPending(ctx, id, 0, rooms.NowMs(a.at), reason); err != nil {
		l.storeFailed(ctx, "give up what pends", err)
	}
}

// setState follows a change of the endpoint's state.
func (l *lane) setState(s rooms.EndpointState) {
	l.state = s
	l.endSweep()
	l.release()
	if s == rooms.EndpointOn {
		l.exhausted = false
		if l.failSince != 0 { // look before sending all of it
			l.breaker.doubt(time.UnixMilli(l.failSince), time.Now())
		}
	}
}

// release gives back what is claimed but not being sent.
func (l *lane) release() {
	for _, d := range l.queue {
		delete(l.claimed, d.Seq)
	}
	l.queue = nil
	l.exhausted = false
}

// expire gives up, while the endpoint is down, what it has failed to take for as
// long as the schedule lasts. Else a receiver that never returns would keep the
// log from ever being pruned.
func (l *lane) expire(ctx context.Context) {
	if !l.expiring || !l.breaker.open || l.state != rooms.EndpointOn || len(l.results) > 0 || l.recording != nil {
		return
	}
	bound, ok := l.maxSeq()
	if !ok {
		return
	}
	now := time.Now()
	found, err := l.store.DueHeads(ctx, rooms.DueQuery{
		EndpointID: l.target.record.ID, NowMs: anyTime, MaxSeq: bound, Limit: claimBatch, Exclude: l.inHand(nil),
	})
	if err != nil {
		l.storeFailed(ctx, "read old deliveries", err)
		return
	}
	limit := rooms.NowMs(now.Add(-l.sched.total()))
	reason := "given up: the endpoint has been failing since " +
		time.UnixMilli(l.failSince).UTC().Format(time.RFC3339) + ": " + l.probeErr
	for _, d := range found {
		if d.Event.CreatedMs > limit {
			continue
		}
		l.claimed[d.Seq] = struct{}{}
		l.results = append(l.results, rooms.DeliveryResult{
			EndpointID: d.EndpointID, Seq: d.Seq, State: rooms.DeliveryDead, AtMs: rooms.NowMs(now), Error: reason,
		})
	}
	l.expired += len(l.results)
	l.expiring = len(l.results) > 0 // then there may be more, also behind these
	if !l.expiring && l.expired > 0 {
		l.log.Warn("webhooks: gave up old events", "count", l.expired, "err", l.probeErr)
		l.expired = 0
	}
}

// inHand is the deliveries that are claimed, and those in more.
func (l *lane) inHand(more map[int64]struct{}) []int64 {
	out := make([]int64, 0, len(l.claimed)+len(more))
	out = slices.AppendSeq(out, maps.Keys(l.claimed))
	return slices.AppendSeq(out, maps.Keys(more))
}

// record writes what attempts came to, one batch at a time.
func (l *lane) record(ctx context.Context) {
	if l.recording != nil || len(l.results) == 0 || !l.retryAt.IsZero() {
		return
	}
	l.recording, l.results = l.results, nil
	batch := l.recording
	ctx = context.WithoutCancel(ctx) // a result that is known must be written
	l.workers.Go(func() {            // ends when the store has answered; stop waits
		l.recorded <- l.store.FinishDeliveries(ctx, batch)
	})
}

// afterRecord takes up the store's answer.
func (l *lane) afterRecord(err error) {
	batch := l.recording
	l.recording = nil
	if err != nil {
		l.results = append(batch, l.results...)
		l.storeFailed(context.Background(), "record deliveries", err)
		return
	}
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
	if l.state == rooms.EndpointOn && !l.breaker.open && (!l.exhausted || len(l.queue) > 0) {
		return
	}
	for _, w := range l.waiters {
		close(w)
	}
	l.waiters = nil
}

// stop waits for what the lane started and writes what it knows.
func (l *lane) stop(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
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
		ctx, cancel := context.WithTimeout(ctx, recordTime)
		defer cancel()
		if err := l.store.FinishDeliveries(ctx, l.results); err != nil {
			l.log.Error("webhooks: cannot record deliveries, they will be sent again", "err", err)
		}
	}
	for _, w := range l.waiters {
		close(w)
	}
}
