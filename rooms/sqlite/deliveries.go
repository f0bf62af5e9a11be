package sqlite

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"parlor/rooms"
	"parlor/rooms/log"
)

// errorMax bounds the stored text of an attempt's error, in bytes.
const errorMax = 500

// DueHeads returns deliveries that can be sent now, the longest due first; see
// [log.Outbox].
func (s *Store) DueHeads(ctx context.Context, q log.DueQuery) ([]log.Delivery, error) {
	var w where
	w.add("endpoint_id = ? AND next_ms <= ?", q.EndpointID, q.NowMs)
	if q.MaxSeq > 0 {
		w.add("event_seq <= ?", q.MaxSeq)
	}
	// Deliveries in flight are skipped here and not in SQL: they are few, and SQL that
	// lists them would have to be prepared each time.
	limit := pageLimit(q.Limit)
	if limit == 0 {
		return nil, nil
	}
	var due []log.Delivery
	err := s.each(ctx, func(rs *sql.Rows) error {
		d, err := scanDelivery(rs, true)
		if err == nil && len(due) < limit && !slices.Contains(q.Exclude, d.Seq) {
			due = append(due, d)
		}
		return err
	}, `SELECT `+deliveryColumns+`, e.body FROM delivery AS d INDEXED BY delivery_due JOIN event AS e ON e.seq = d.event_seq
		WHERE `+w.condition()+` ORDER BY next_ms, event_seq LIMIT +?`, append(w.args, limit+len(q.Exclude))...)
	if err != nil {
		return nil, err
	}
	return due, nil
}

const deliveryColumns = `d.endpoint_id, d.event_seq, d.state, d.attempts, coalesce(d.next_ms, 0), d.last_ms, d.last_status, d.last_error,
	e.id, e.type, e.room_sid, e.room_name, e.room_seq, e.created_ms, e.epoch`

func scanDelivery(s scanner, body bool) (log.Delivery, error) {
	var d log.Delivery
	e := &d.Event
	fields := []any{&d.EndpointID, &d.Seq, &d.State, &d.Attempts, &d.NextMs, &d.LastMs, &d.LastStatus, &d.LastError,
		&e.ID, &e.Type, &e.RoomSID, &e.RoomName, &e.RoomSeq, &e.CreatedMs, &e.Epoch}
	if body {
		fields = append(fields, &e.Body)
	}
	err := s.Scan(fields...)
	e.Seq = d.Seq
	return d, err
}

// pullInSlack is how far in the future a time may lie that no clock that was set explains.
const pullInSlack = 2 * time.Second

// PullIn makes deliveries due that a clock which has been set back since has put off; see
// [log.Outbox].
func (s *Store) PullIn(ctx context.Context, endpointID, nowMs int64, longest time.Duration) (int, error) {
	const astray = ` FROM delivery INDEXED BY delivery_due WHERE endpoint_id = ? AND next_ms > ?
		AND (attempts = 0 OR last_ms > ? OR next_ms > ?) LIMIT +?`
	soon := nowMs + pullInSlack.Milliseconds()
	args := func(most int) []any { return []any{endpointID, soon, soon, nowMs + longest.Milliseconds(), most} }
	var some int
	err := s.one(ctx, []any{&some}, `SELECT count(*) FROM (SELECT 1`+astray+`)`, args(1)...)
	if err != nil || some == 0 { // as nearly always: nothing is written
		return 0, err
	}
	for total := 0; ; {
		n, err := call(ctx, s, func(t *tx) (int64, error) {
			t.news = true
			return t.exec(`UPDATE delivery SET next_ms = ? WHERE endpoint_id = ? AND event_seq IN (SELECT event_seq`+astray+`)`,
				append([]any{nowMs, endpointID}, args(retireBatch)...)...)
		})
		total += int(n)
		if err != nil || n < retireBatch {
			return total, err
		}
	}
}

// NextDue is when the next delivery after afterMs falls due; 0 = there is none.
func (s *Store) NextDue(ctx context.Context, endpointID, afterMs int64) (ms int64, err error) {
	err = s.one(ctx, []any{&ms}, `SELECT coalesce(min(next_ms), 0) FROM delivery INDEXED BY delivery_due
		WHERE endpoint_id = ? AND next_ms > ?`, endpointID, afterMs)
	return ms, err
}

// ListDeliveries returns a page of at most 1000 of an endpoint's deliveries; see
// [log.Outbox].
func (s *Store) ListDeliveries(ctx context.Context, q log.DeliveryQuery) ([]log.Delivery, error) {
	var w where
	w.add("d.endpoint_id = ? AND d.state = ?", q.EndpointID, int(q.State))
	if q.BeforeSeq > 0 {
		w.add("d.event_seq < ?", q.BeforeSeq)
	}
	var out []log.Delivery
	err := s.each(ctx, func(rs *sql.Rows) error {
		d, err := scanDelivery(rs, false)
		out = append(out, d)
		return err
	}, `SELECT `+deliveryColumns+` FROM delivery AS d INDEXED BY delivery_state JOIN event AS e ON e.seq = d.event_seq
		WHERE `+w.condition()+` ORDER BY d.event_seq DESC LIMIT +?`, append(w.args, pageLimit(q.Limit))...)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// FinishDeliveries records the outcomes of attempts; see [log.Outbox].
func (s *Store) FinishDeliveries(ctx context.Context, results []log.DeliveryResult) error {
	return s.do(ctx, func(t *tx) error {
		health := make(map[int64]*health)
		for i := range results {
			r := &results[i]
			e, err := t.endpoint(r.EndpointID)
			if err != nil {
				continue // the endpoint is not in this database, so there is nothing to record
			}
			if err := t.finish(e, r); err != nil {
				return err
			}
			if health[e.ID] == nil {
				health[e.ID] = newHealth()
			}
			health[e.ID].add(r)
		}
		for id, h := range health {
			if err := t.setHealth(id, h); err != nil {
				return err
			}
		}
		return nil
	})
}

func (t *tx) finish(e *log.Endpoint, r *log.DeliveryResult) error {
	if r.State != log.DeliveryDelivered {
		t.count(e.ID, counts{failures: 1})
	}
	var room string
	var attempts int
	var ready bool
	err := t.row([]any{&room, &attempts, &ready}, `SELECT room_sid, attempts, next_ms IS NOT NULL FROM delivery
		WHERE endpoint_id = ? AND event_seq = ? AND state = 0`, r.EndpointID, r.Seq)
	if err == sql.ErrNoRows {
		return t.finishLate(r)
	}
	if err != nil {
		return err
	}
	// A replay of an earlier event, while this one was in flight, may have made it wait.
	next := nextMs(ready && r.State == log.DeliveryPending, r.NextMs)
	_, err = t.exec(`UPDATE delivery SET state = ?, attempts = attempts + 1, next_ms = ?,
			last_ms = ?, last_status = ?, last_error = ? WHERE endpoint_id = ? AND event_seq = ?`,
		int(r.State), next, r.AtMs, r.Status, bounded(r.Error), r.EndpointID, r.Seq)
	if err != nil {
		return err
	}
	switch r.State {
	case log.DeliveryDelivered:
		t.count(e.ID, counts{pending: -1, delivered: 1})
	case log.DeliveryDead:
		t.count(e.ID, counts{pending: -1, dead: 1})
	case log.DeliveryPending:
		t.news = true
		ready = ready && passes(e, attempts+1)
	}
	if !ready {
		return nil
	}
	return t.promote(e, room, r.Seq, r.AtMs)
}

// finishLate records the success of a delivery that became a dead letter while it was in
// flight.
func (t *tx) finishLate(r *log.DeliveryResult) error {
	if r.State != log.DeliveryDelivered {
		return nil
	}
	n, err := t.exec(`UPDATE delivery SET state = 1, attempts = attempts + 1, last_ms = ?, last_status = ?, last_error = ?
		WHERE endpoint_id = ? AND event_seq = ? AND state = 2`, r.AtMs, r.Status, bounded(r.Error), r.EndpointID, r.Seq)
	t.count(r.EndpointID, counts{dead: -n, delivered: n})
	return err
}

// bounded cuts s to errorMax bytes at a rune's edge, and makes it valid UTF-8.
func bounded(s string) string {
	if len(s) > errorMax {
		s = s[:errorMax]
		for len(s) > 0 && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]) && len(s) > errorMax-utf8.UTFMax {
			s = s[:len(s)-1]
		}
	}
	return strings.ToValidUTF8(s, "�")
}

// health is what attempts tell about their endpoint.
type health struct {
	succeeded   bool
	failSinceMs int64 // of the failures after the last success
	lastMs      int64
	successMs   int64
	status      int
	failure     string
}

func newHealth() *health { return new(health) }

func (h *health) add(r *log.DeliveryResult) {
	h.lastMs, h.status = r.AtMs, r.Status
	if r.State == log.DeliveryDelivered {
		h.succeeded, h.failSinceMs, h.successMs = true, 0, r.AtMs
		return
	}
	h.failure = bounded(r.Error)
	if h.failSinceMs == 0 {
		h.failSinceMs = r.AtMs
	}
}

func (t *tx) setHealth(endpointID int64, h *health) error {
	_, err := t.exec(`UPDATE endpoint SET last_ms = ?, last_status = ?,
			last_success_ms = max(last_success_ms, ?),
			last_error = CASE WHEN ?4 = '' THEN last_error ELSE ?4 END,
			fail_since_ms = CASE WHEN ?5 OR fail_since_ms = 0 THEN ?6 ELSE fail_since_ms END
		WHERE id = ?7`, h.lastMs, h.status, h.successMs, h.failure, h.succeeded, h.failSinceMs, endpointID)
	return err
}

// BoundPending makes dead letters of an endpoint's oldest pending deliveries until at
// most max are pending, in small transactions; see [log.Outbox].
func (s *Store) BoundPending(ctx context.Context, endpointID, max, nowMs int64, reason string) (int, error) {
	total := 0
	for {
		n, err := call(ctx, s, func(t *tx) (int, error) { return t.boundPending(endpointID, max, nowMs, reason) })
		total += n
		if err != nil || n < retireBatch {
			return total, err
		}
	}
}

func (t *tx) boundPending(endpointID, max, nowMs int64, reason string) (int, error) {
	e, err := t.endpoint(endpointID)
	if err != nil {
		return 0, err
	}
	var pending int64
	if err := t.row([]any{&pending}, `SELECT pending FROM endpoint WHERE id = ?`, endpointID); err != nil {
		return 0, err
	}
	excess := pending + t.counts[endpointID].pending - max
	if excess <= 0 {
		return 0, nil
	}
	var oldest []queued
	err = t.rows(scanQueued(&oldest), `SELECT event_seq, room_sid, attempts, next_ms IS NOT NULL FROM delivery
		WHERE endpoint_id = ? AND state = 0 ORDER BY event_seq LIMIT +?`, endpointID, min(excess, retireBatch))
	if err != nil {
		return 0, err
	}
	heads := make(map[string]int64) // by room: the last event that is given up
	for _, q := range oldest {
		_, err := t.exec(`UPDATE delivery SET state = 2, next_ms = NULL, last_ms = ?, last_error = ?
			WHERE endpoint_id = ? AND event_seq = ?`, nowMs, bounded(reason), endpointID, q.seq)
		if err != nil {
			return 0, err
		}
		heads[q.room] = q.seq
	}
	for room, seq := range heads { // nothing before seq is pending, so the next one is the head
		if err := t.promote(e, room, seq, nowMs); err != nil {
			return 0, err
		}
	}
	n := int64(len(oldest))
	t.count(endpointID, counts{pending: -n, dead: n})
	return len(oldest), nil
}

// SendTest writes an event without a room, and a delivery to that endpoint alone; see
// [log.Outbox].
func (s *Store) SendTest(ctx context.Context, endpointID int64, ev log.Event) (int64, error) {
	return call(ctx, s, func(t *tx) (int64, error) {
		e, err := t.endpoint(endpointID)
		if err != nil {
			return 0, err
		}
		if e.State == log.EndpointDisabled {
			return 0, rooms.Errorf(rooms.Precondition, "webhook endpoint %d is disabled (%s): resume it first", e.ID, e.Reason)
		}
		ev := ev // the job may be run twice
		ev.RoomSID, ev.RoomName, ev.RoomSeq = "", "", 0
		if err := t.appendEvent(&ev); err != nil {
			return 0, err
		}
		return ev.Seq, t.deliverTo(e, &ev)
	})
}
