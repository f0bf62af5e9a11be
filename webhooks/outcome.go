package webhooks

import (
	"context"
	"time"

	"parlor/rooms/log"
)

// finish handles the outcome of a request.
func (w *worker) finish(ctx context.Context, a attempt) {
	w.active--
	if a.probe {
		w.probing = false
	}
	switch a.class {
	case aborted:
		delete(w.claimed, a.delivery.Seq)
	case delivered:
		w.succeeded(a)
	case gone:
		w.failed(a)
		w.setState(log.EndpointDisabled)
		w.goneMs = a.at.UnixMilli()
		w.log.Warn("webhooks: endpoint disabled, it answered 410 Gone")
	default:
		w.failed(a)
	}
}

func (w *worker) succeeded(a attempt) {
	w.results = append(w.results, log.DeliveryResult{
		EndpointID: w.target.record.ID, Seq: a.delivery.Seq,
		State: log.DeliveryDelivered, AtMs: a.at.UnixMilli(), Status: a.status,
	})
	wasOpen, since := w.breaker.open, w.failSince
	w.failSince, w.failing, w.probeErr, w.sweepFail, w.expiring = 0, time.Time{}, "", 0, false
	recovered := w.breaker.success(a.at)
	if !wasOpen {
		return
	}
	w.exhausted = false
	if !w.sweeping {
		clear(w.tried)
	}
	if recovered {
		w.sweeping = true
		w.log.Info("webhooks: endpoint is back, sending what pends", "failing_since", time.UnixMilli(since))
	}
}

// failed decides what a failure means for the event and for the endpoint. It counts as an
// attempt of the event only if it says something about the event. It does not if the
// event was not due and was sent as a probe or in a sweep, nor if a probe found that the
// endpoint is still unreachable. So an outage uses up no attempts and does not change the
// order.
func (w *worker) failed(a attempt) {
	if a.early || a.probe && a.class == unreachable {
		delete(w.claimed, a.delivery.Seq)
		w.setAside(a)
	} else {
		w.results = append(w.results, w.failure(a))
	}
	if a.early && !a.probe && a.class == refused {
		return // it has failed before and was sent early: this says nothing new about the endpoint
	}
	if w.failSince == 0 {
		w.failSince = a.at.UnixMilli()
	}
	if w.failing.IsZero() {
		w.failing = a.at
	}
	if a.probe {
		w.probeErr = a.err
		w.expiring = w.triedLongEnough(a.at)
	}
	opened := w.breaker.failure(a.at, a.probe, a.class)
	if a.retryAfter > 0 {
		opened = opened || !w.breaker.open
		w.breaker.hold(a.at, a.retryAfter)
	}
	if opened {
		w.endSweep()
		w.release()
		w.log.Warn("webhooks: endpoint is failing, probing it", "error", a.err)
	}
}

// restarts is how many times the schedule's time an endpoint may fail by the calendar, if no
// process runs for as long as the schedule lasts.
const restarts = 10

// moment is how long a receiver has after this machine came back.
const moment = 10 * time.Minute

// triedLongEnough reports whether the endpoint has failed for as long as the schedule lasts.
// Only time in which this process ran counts, as nothing was tried in the rest: a receiver
// that comes back together with this machine, a moment later, gets all events. After the
// tenfold time by the calendar a moment is enough, since the process is restarted again and
// again.
func (w *worker) triedLongEnough(now time.Time) bool {
	total, here := w.sched.total(), now.Sub(w.failing)
	return here >= total || here >= min(total/restarts, moment) && now.Sub(time.UnixMilli(w.failSince)) >= restarts*total
}

// setAside excludes a delivery from this sweep or row of probes.
func (w *worker) setAside(a attempt) {
	if !w.sweeping && !w.breaker.open {
		return
	}
	if len(w.tried) >= maxTried {
		clear(w.tried)
		w.sweeping = false
	}
	w.tried[a.delivery.Seq] = struct{}{}
	w.exhausted = false
	if !a.probe {
		w.sweepFail++
		if w.sweepFail >= breakAfter {
			w.endSweep() // the events fail for their own reasons, so their schedule applies
		}
	}
}

func (w *worker) endSweep() {
	w.sweeping, w.sweepFail = false, 0
	clear(w.tried)
}

// failure is the record of a failed attempt.
func (w *worker) failure(a attempt) log.DeliveryResult {
	r := log.DeliveryResult{
		EndpointID: w.target.record.ID, Seq: a.delivery.Seq,
		AtMs: a.at.UnixMilli(), Status: a.status, Error: a.err,
	}
	wait, again := w.sched.next(a.delivery.Attempts + 1)
	if !again {
		r.State = log.DeliveryDead
		w.log.Warn("webhooks: giving up an event", "room", a.delivery.Event.RoomName,
			"event", a.delivery.Event.ID, "attempts", a.delivery.Attempts+1, "error", a.err)
		return r
	}
	r.State = log.DeliveryPending
	r.NextMs = a.at.Add(max(wait, a.retryAfter)).UnixMilli()
	return r
}

// disable writes what a 410 means: the receiver wants no more events, and none of the
// pending ones.
func (w *worker) disable(ctx context.Context) {
	if w.goneMs == 0 || !w.retryAt.IsZero() {
		return
	}
	const reason = "the receiver answered 410 Gone"
	id := w.target.record.ID
	if err := w.store.SetEndpointState(ctx, id, log.EndpointDisabled, reason); err != nil {
		w.storeFailed(ctx, &w.writes, "disable the endpoint", err)
		return
	}
	if _, err := w.store.BoundPending(ctx, id, 0, w.goneMs, reason); err != nil {
		w.storeFailed(ctx, &w.writes, "give up what pends", err)
		return
	}
	w.goneMs = 0
}

// setState follows a change of the endpoint's state.
func (w *worker) setState(s log.EndpointState) {
	w.state, w.goneMs = s, 0
	w.endSweep()
	w.release()
	if s == log.EndpointOn {
		w.exhausted = false
		if w.failSince != 0 { // probe before sending everything; old events get their full time again
			w.breaker.doubt(time.UnixMilli(w.failSince), time.Now())
			w.failSince, w.failing, w.expiring = 0, time.Time{}, false
		}
	}
}

// release gives up the claims of deliveries that are not being sent.
func (w *worker) release() {
	for _, d := range w.queue {
		delete(w.claimed, d.Seq)
	}
	w.queue = nil
	w.exhausted = false
}

// expire gives up, while the endpoint is down, the events that it has failed to take for
// as long as the schedule lasts. Otherwise a receiver that never returns would keep the
// log from being pruned.
func (w *worker) expire(ctx context.Context) {
	if !w.expiring || !w.breaker.open || w.state != log.EndpointOn || len(w.results) > 0 || w.recording != nil {
		return
	}
	bound, ok := w.maxSeq()
	if !ok {
		return
	}
	now := time.Now()
	found, err := w.store.DueHeads(ctx, log.DueQuery{
		EndpointID: w.target.record.ID, NowMs: anyTime, MaxSeq: bound, Limit: claimBatch, Exclude: w.inHand(nil),
	})
	if err != nil {
		w.storeFailed(ctx, &w.reads, "read old deliveries", err)
		return
	}
	limit := now.Add(-w.sched.total()).UnixMilli()
	reason := "given up: the endpoint has been failing since " +
		time.UnixMilli(w.failSince).UTC().Format(time.RFC3339) + ": " + w.probeErr
	for _, d := range found {
		if d.Event.CreatedMs > limit {
			continue
		}
		w.claimed[d.Seq] = struct{}{}
		w.results = append(w.results, log.DeliveryResult{
			EndpointID: d.EndpointID, Seq: d.Seq, State: log.DeliveryDead, AtMs: now.UnixMilli(), Error: reason,
		})
	}
	w.expired += len(w.results)
	w.expiring = len(w.results) > 0 // then there may be more
	if !w.expiring && w.expired > 0 {
		w.log.Warn("webhooks: gave up old events", "count", w.expired, "error", w.probeErr)
		w.expired = 0
	}
}
