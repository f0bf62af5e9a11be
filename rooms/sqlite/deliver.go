package sqlite

import (
	"database/sql"

	"parlor/rooms/log"
)

// The pending deliveries of a room to an endpoint are a queue in the order of their
// events. After every transaction one rule holds: a delivery may be sent (its next_ms is
// set) if and only if every earlier delivery of the queue has failed often enough to let
// others pass. So a query for due deliveries does not look at the waiting ones. Events
// without a room are in no queue: each is sent by itself.

// passes reports whether a pending delivery with so many failed attempts lets later ones
// of its room pass.
func passes(e *log.Endpoint, attempts int) bool {
	return e.RelaxAfter > 0 && attempts >= e.RelaxAfter
}

// endpoint returns the endpoint with that id.
func (t *tx) endpoint(id int64) (*log.Endpoint, error) {
	for i := range t.endpoints {
		if t.endpoints[i].ID == id {
			return &t.endpoints[i], nil
		}
	}
	return nil, log.ErrNoEndpoint
}

// deliver writes the deliveries of an event that was just written.
func (t *tx) deliver(ev *log.Event) error {
	for i := range t.endpoints {
		e := &t.endpoints[i]
		if e.State == log.EndpointDisabled || !e.Wants(ev.Type) {
			continue
		}
		if err := t.deliverTo(e, ev); err != nil {
			return err
		}
	}
	return nil
}

// deliverTo puts the newest event at the end of its queue.
func (t *tx) deliverTo(e *log.Endpoint, ev *log.Event) error {
	ready := true
	if ev.RoomSeq > 1 { // a room's first event finds no queue, and an event without a room joins none
		var attempts int
		err := t.row([]any{&ready, &attempts}, `SELECT next_ms IS NOT NULL, attempts FROM delivery INDEXED BY delivery_queue
			WHERE endpoint_id = ? AND room_sid = ? AND state = 0 ORDER BY event_seq DESC LIMIT 1`, e.ID, ev.RoomSID)
		switch err {
		case nil:
			ready = ready && passes(e, attempts)
		case sql.ErrNoRows:
			ready = true
		default:
			return err
		}
	}
	_, err := t.exec(`INSERT INTO delivery (endpoint_id, event_seq, room_sid, next_ms) VALUES (?, ?, ?, ?)`,
		e.ID, ev.Seq, ev.RoomSID, nextMs(ready, ev.CreatedMs))
	t.count(e.ID, counts{pending: 1})
	return err
}

// nextMs is the value of the column next_ms: null for a delivery that waits.
func nextMs(ready bool, ms int64) sql.NullInt64 {
	return sql.NullInt64{Int64: ms, Valid: ready}
}

// promote releases deliveries that waited behind the delivery of event seq. That one was
// ready, and now is no longer pending or lets others pass.
func (t *tx) promote(e *log.Endpoint, roomSID string, seq, nowMs int64) error {
	if roomSID == "" {
		return nil
	}
	for {
		var attempts int
		var ready bool
		err := t.row([]any{&seq, &attempts, &ready}, `SELECT event_seq, attempts, next_ms IS NOT NULL
			FROM delivery INDEXED BY delivery_queue
			WHERE endpoint_id = ? AND room_sid = ? AND state = 0 AND event_seq > ? ORDER BY event_seq LIMIT 1`,
			e.ID, roomSID, seq)
		if err == sql.ErrNoRows {
			return nil
		}
		if err != nil {
			return err
		}
		if !ready {
			if err := t.setNext(e.ID, seq, nextMs(true, nowMs)); err != nil {
				return err
			}
		}
		if !passes(e, attempts) {
			return nil
		}
	}
}

func (t *tx) setNext(endpointID, seq int64, next sql.NullInt64) error {
	t.news = t.news || next.Valid
	_, err := t.exec(`UPDATE delivery SET next_ms = ? WHERE endpoint_id = ? AND event_seq = ?`, next, endpointID, seq)
	return err
}

// queued is a pending delivery of a queue.
type queued struct {
	seq      int64
	room     string
	attempts int
	ready    bool
}

func scanQueued(into *[]queued) func(*sql.Rows) error {
	return func(rs *sql.Rows) error {
		var q queued
		err := rs.Scan(&q.seq, &q.room, &q.attempts, &q.ready)
		*into = append(*into, q)
		return err
	}
}

// requeue restores the rule in a room's queue after deliveries came in elsewhere than at
// the end, or in all queues of the endpoint if room is "".
func (t *tx) requeue(e *log.Endpoint, room string, nowMs int64) error {
	query := `SELECT event_seq, room_sid, attempts, next_ms IS NOT NULL FROM delivery INDEXED BY delivery_queue
		WHERE endpoint_id = ? AND state = 0 `
	args := []any{e.ID}
	if room != "" {
		query += `AND room_sid = ? `
		args = append(args, room)
	}
	var all []queued
	if err := t.rows(scanQueued(&all), query+`ORDER BY room_sid, event_seq`, args...); err != nil {
		return err
	}
	ready := true
	for i, q := range all {
		if i == 0 || q.room != all[i-1].room || q.room == "" {
			ready = true
		}
		if q.ready != ready {
			if err := t.setNext(e.ID, q.seq, nextMs(ready, nowMs)); err != nil {
				return err
			}
		}
		ready = ready && passes(e, q.attempts)
	}
	return nil
}
