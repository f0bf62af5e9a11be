package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"slices"

	"parlor/rooms"
	"parlor/rooms/log"
)

// Events returns at most 1000 events in the order of their seq, or against it with
// [log.Query.Before]. Events of a room that was
// pruned from history are found by its name only.
func (s *Store) Events(ctx context.Context, q log.Query) ([]log.Event, error) {
	if len(q.Types) > 0 && q.Room == "" {
		return s.eventsOfTypes(ctx, q)
	}
	var w where
	w.add("seq > ?", q.After)
	order := "ORDER BY seq"
	if q.Before > 0 {
		w.add("seq < ?", q.Before)
		order = "ORDER BY seq DESC"
	}
	if q.Room != "" {
		name, sid, err := s.nameOrSID(ctx, q.Room)
		if err != nil {
			return nil, err
		}
		w.add("room_name = ?", name)
		if sid != "" {
			w.add("room_sid = ?", sid)
		}
	}
	if len(q.Types) > 0 {
		w.add("type IN (SELECT value FROM json_each(?))", jsonList(q.Types))
	}
	return s.listEvents(ctx, `FROM event WHERE `+w.condition()+` `+order+` LIMIT +?`, append(w.args, pageLimit(q.Limit))...)
}

// eventsOfTypes looks the types up one by one, so that rare ones are found without reading
// the events between. All look-ups are of the log as it is at the beginning: otherwise an
// event could be returned without one before it.
func (s *Store) eventsOfTypes(ctx context.Context, q log.Query) ([]log.Event, error) {
	var newest int64
	if err := s.one(ctx, []any{&newest}, `SELECT event_seq FROM meta WHERE id = 1`); err != nil {
		return nil, err
	}
	limit, order, sign := pageLimit(q.Limit), "ORDER BY seq", 1
	if q.Before > 0 {
		newest, order, sign = min(newest, q.Before-1), "ORDER BY seq DESC", -1
	}
	var all []log.Event
	for _, name := range slices.Compact(slices.Sorted(slices.Values(q.Types))) {
		some, err := s.listEvents(ctx, `FROM event INDEXED BY event_type WHERE type = ? AND seq > ? AND seq <= ? `+order+` LIMIT +?`,
			name, q.After, newest, limit)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	slices.SortFunc(all, func(a, b log.Event) int { return sign * cmp.Compare(a.Seq, b.Seq) })
	return all[:min(len(all), limit)], nil
}

func (s *Store) listEvents(ctx context.Context, from string, args ...any) ([]log.Event, error) {
	var out []log.Event
	err := s.each(ctx, func(rs *sql.Rows) error {
		var e log.Event
		err := rs.Scan(eventFields(&e)...)
		out = append(out, e)
		return err
	}, `SELECT `+eventColumns+` `+from, args...)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// nameOrSID tells whether room is a name or an SID, because events are indexed by name.
func (s *Store) nameOrSID(ctx context.Context, room string) (name, sid string, err error) {
	err = s.one(ctx, []any{&name}, `SELECT name FROM room WHERE sid = ?`, room)
	if err == sql.ErrNoRows {
		return room, "", nil
	}
	return name, room, err
}

// SeqRange returns the seqs of the oldest and the newest event that can be read;
// see [log.Store].
func (s *Store) SeqRange(ctx context.Context) (oldest, newest int64, err error) {
	err = s.one(ctx, []any{&oldest, &newest}, `SELECT coalesce((SELECT min(seq) FROM event),
		CASE event_seq WHEN 0 THEN 0 ELSE event_seq + 1 END), event_seq FROM meta WHERE id = 1`)
	return oldest, newest, err
}

// PruneEvents deletes up to batch of the oldest events, and at most 1000; see
// [log.Store].
func (s *Store) PruneEvents(ctx context.Context, olderThanMs, maxRows int64, batch int) (int, error) {
	return call(ctx, s, func(t *tx) (int, error) { return t.pruneEvents(olderThanMs, maxRows, pageLimit(batch)) })
}

func (t *tx) pruneEvents(olderThanMs, maxRows int64, batch int) (int, error) {
	// An event with a pending delivery is kept, and so are all later ones, without a gap.
	end := t.eventSeq + 1
	for _, e := range t.endpoints {
		var pending int64
		err := t.row([]any{&pending}, `SELECT coalesce(min(event_seq), ?) FROM delivery
			WHERE endpoint_id = ? AND state = 0`, end, e.ID)
		if err != nil {
			return 0, err
		}
		end = min(end, pending)
	}
	letters, err := t.newDeadLetter(olderThanMs, end, batch)
	if err != nil {
		return 0, err
	}
	n, last, old := 0, int64(0), true
	err = t.rows(func(rs *sql.Rows) error {
		var seq, created int64
		if err := rs.Scan(&seq, &created); err != nil {
			return err
		}
		old = old && (created < olderThanMs && seq < letters || maxRows > 0 && seq <= t.eventSeq-maxRows)
		if old {
			n, last = n+1, seq
		}
		return nil
	}, `SELECT seq, created_ms FROM event WHERE seq < ? ORDER BY seq LIMIT +?`, end, batch)
	if err != nil || n == 0 {
		return 0, err
	}
	for _, e := range t.endpoints {
		if err := t.forget(e.ID, last); err != nil {
			return 0, err
		}
	}
	_, err = t.exec(`DELETE FROM event WHERE seq <= ?`, last)
	return n, err
}

// newDeadLetter is the first event, among those that a batch may delete, with a delivery
// that was given up at sinceMs or later; end if there is none. So a dead letter can be
// seen and replayed for as long as events are kept, counted from when it was given up.
func (t *tx) newDeadLetter(sinceMs, end int64, batch int) (int64, error) {
	var oldest int64
	if err := t.row([]any{&oldest}, `SELECT coalesce(min(seq), 0) FROM event`); err != nil {
		return 0, err
	}
	first := end
	for _, e := range t.endpoints {
		var seq int64
		err := t.row([]any{&seq}, `SELECT coalesce(min(event_seq), ?) FROM delivery INDEXED BY delivery_state
			WHERE endpoint_id = ? AND state = 2 AND event_seq < ? AND last_ms >= ?`,
			end, e.ID, oldest+int64(batch), sinceMs)
		if err != nil {
			return 0, err
		}
		first = min(first, seq)
	}
	return first, nil
}

// forget deletes an endpoint's deliveries of events up to last.
func (t *tx) forget(endpointID, last int64) error {
	dead, err := t.exec(`DELETE FROM delivery WHERE endpoint_id = ? AND state = 2 AND event_seq <= ?`, endpointID, last)
	if err != nil {
		return err
	}
	t.count(endpointID, counts{dead: -dead})
	_, err = t.exec(`DELETE FROM delivery WHERE endpoint_id = ? AND event_seq <= ?`, endpointID, last)
	return err
}

// SetEpoch sets the epoch of events from now on: that of the lease under which this
// process writes. It refuses a lower epoch than the database's.
func (s *Store) SetEpoch(ctx context.Context, epoch int64) error {
	return s.do(ctx, func(t *tx) error {
		if epoch < t.epoch {
			return rooms.Errorf(rooms.Precondition, "epoch %d is behind the database's epoch %d", epoch, t.epoch)
		}
		t.epoch = epoch
		return nil
	})
}

// Meta describes a database.
type Meta struct {
	DatabaseID string // DB_…, the same in every copy and restore
	CreatedMs  int64
	Epoch      int64
}

// Meta returns the description of the database.
func (s *Store) Meta(ctx context.Context) (m Meta, err error) {
	err = s.one(ctx, []any{&m.DatabaseID, &m.CreatedMs, &m.Epoch}, `SELECT database_id, created_ms, epoch FROM meta WHERE id = 1`)
	return m, err
}
