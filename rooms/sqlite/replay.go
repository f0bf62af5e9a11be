package sqlite

import (
	"context"
	"database/sql"
	"math"

	"parlor/rooms"
	"parlor/rooms/log"
)

// replayBatch is how many events or deliveries one transaction looks at.
const replayBatch = 500

// Replay makes deliveries pending again, in small transactions; see
// [log.Outbox].
func (s *Store) Replay(ctx context.Context, endpointID int64, r log.Replay, nowMs int64) (int, error) {
	if r.ToSeq == 0 {
		r.ToSeq = math.MaxInt64
	}
	if r.EventID != "" {
		var seq int64
		err := s.one(ctx, []any{&seq}, `SELECT seq FROM event WHERE id = ?`, r.EventID)
		if err == sql.ErrNoRows {
			return 0, rooms.Errorf(rooms.NotFound, "no event %s in the log", r.EventID)
		}
		if err != nil {
			return 0, err
		}
		r.FromSeq, r.ToSeq = max(seq, r.FromSeq), min(seq, r.ToSeq)
	}
	type progress struct {
		replayed int
		next     int64 // where the next transaction goes on; 0 = done
	}
	total := 0
	for {
		p, err := call(ctx, s, func(t *tx) (p progress, err error) {
			p.replayed, p.next, err = t.replay(endpointID, r, nowMs)
			return p, err
		})
		total += p.replayed
		if err != nil || p.next == 0 {
			return total, err
		}
		r.FromSeq = p.next
	}
}

// candidate is an event that may be sent to an endpoint again.
type candidate struct {
	seq       int64
	eventType string
	room      string
	createdMs int64
	state     sql.NullInt64 // of its delivery; null = it has none
}

// The candidates of a replay: the deliveries of one state, by their index, or all events.
const (
	replayState = `SELECT e.seq, e.type, e.room_sid, e.created_ms, d.state
		FROM delivery AS d INDEXED BY delivery_state JOIN event AS e ON e.seq = d.event_seq
		WHERE d.endpoint_id = ? AND d.state = ? AND d.event_seq BETWEEN ? AND ? ORDER BY d.event_seq LIMIT +?`
	replayEvents = `SELECT e.seq, e.type, e.room_sid, e.created_ms, d.state
		FROM event AS e LEFT JOIN delivery AS d ON d.endpoint_id = ? AND d.event_seq = e.seq
		WHERE e.seq BETWEEN ? AND ? ORDER BY e.seq LIMIT +?`
)

func (t *tx) replay(endpointID int64, r log.Replay, nowMs int64) (n int, next int64, err error) {
	e, err := t.endpoint(endpointID)
	if err != nil {
		return 0, 0, err
	}
	if e.State == log.EndpointDisabled { // it would never send them
		return 0, 0, rooms.Errorf(rooms.Precondition, "webhook endpoint %d is disabled (%s): resume it first, then replay", e.ID, e.Reason)
	}
	query, args := replayState, []any{endpointID, int(r.State), r.FromSeq, r.ToSeq, replayBatch}
	if r.AnyState || r.Missing {
		query, args = replayEvents, []any{endpointID, r.FromSeq, r.ToSeq, replayBatch}
	}
	var all []candidate
	err = t.rows(func(rs *sql.Rows) error {
		var c candidate
		err := rs.Scan(&c.seq, &c.eventType, &c.room, &c.createdMs, &c.state)
		all = append(all, c)
		return err
	}, query, args...)
	if err != nil {
		return 0, 0, err
	}
	touched := make(map[string]bool)
	for _, c := range all {
		if !replays(e, &r, &c) {
			continue
		}
		if err := t.revive(e, &c, nowMs); err != nil {
			return 0, 0, err
		}
		n++
		touched[c.room] = true
	}
	for room := range touched {
		if room == "" {
			continue
		}
		if err := t.requeue(e, room, nowMs); err != nil {
			return 0, 0, err
		}
	}
	if len(all) == replayBatch {
		next = all[len(all)-1].seq + 1
	}
	return n, next, nil
}

// replays reports whether r selects c.
func replays(e *log.Endpoint, r *log.Replay, c *candidate) bool {
	if c.createdMs < r.SinceMs {
		return false
	}
	if !c.state.Valid {
		return r.Missing && e.Wants(c.eventType)
	}
	state := log.DeliveryState(c.state.Int64)
	return state != log.DeliveryPending && (r.AnyState || state == r.State)
}

// revive makes a delivery pending, due at nowMs.
func (t *tx) revive(e *log.Endpoint, c *candidate, nowMs int64) error {
	if c.state.Valid && c.state.Int64 == int64(log.DeliveryDead) {
		t.count(e.ID, counts{dead: -1})
	}
	t.count(e.ID, counts{pending: 1})
	t.news = true
	_, err := t.exec(`INSERT INTO delivery (endpoint_id, event_seq, room_sid, next_ms) VALUES (?, ?, ?, ?)
		ON CONFLICT (endpoint_id, event_seq) DO UPDATE SET state = 0, attempts = 0, next_ms = excluded.next_ms`,
		e.ID, c.seq, c.room, nowMs)
	return err
}
