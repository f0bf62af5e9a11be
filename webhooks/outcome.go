package webhooks

import (
	"context"
	"time"

	"parlor/rooms"
)

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
		l.storeFailed(ctx, &l.writes, "disable the endpoint", err)
		return
	}
	if _, err := l.store.BoundPending(ctx, id, 0, rooms.NowMs(a.at), reason); err != nil {
		l.storeFailed(ctx, &l.writes, "give up what pends", err)
	}
}

// setState follows a change of the endpoint's state.
func (l *lane) setState(s rooms.EndpointState) {
	l.state = s
	l.endSweep()
	l.release()
	if s == rooms.EndpointOn {
		l.exhausted = false
		if l.failSince != 0 { // look before sending all of it; what is old has its time anew
			l.breaker.doubt(time.UnixMilli(l.failSince), time.Now())
			l.failSince, l.expiring = 0, false
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
		l.storeFailed(ctx, &l.reads, "read old deliveries", err)
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
