package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"

	"parlor/rooms"
)

// FindOpen returns the open room of that name.
func (s *Store) FindOpen(ctx context.Context, name string) (rooms.Record, error) {
	return s.room(ctx, `SELECT `+roomColumns+` FROM room WHERE name = ? AND ended_ms = 0`, name)
}

// GetBySID returns a room, open or ended.
func (s *Store) GetBySID(ctx context.Context, sid string) (rooms.Record, error) {
	return s.room(ctx, `SELECT `+roomColumns+` FROM room WHERE sid = ?`, sid)
}

func (s *Store) room(ctx context.Context, query string, args ...any) (rooms.Record, error) {
	var r recordRow
	err := s.one(ctx, r.fields(), query, args...)
	if err == sql.ErrNoRows {
		return rooms.Record{}, rooms.ErrNoRoom
	}
	if err != nil {
		return rooms.Record{}, err
	}
	return r.done(s.damage), nil
}

func (s *Store) records(ctx context.Context, query string, args ...any) ([]rooms.Record, error) {
	var out []rooms.Record
	err := s.each(ctx, func(rs *sql.Rows) error {
		r, err := scanRecord(rs, s.damage)
		out = append(out, r)
		return err
	}, query, args...)
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Store) sessions(ctx context.Context, query string, args ...any) ([]rooms.Session, error) {
	var out []rooms.Session
	err := s.each(ctx, func(rs *sql.Rows) error {
		v, err := scanSession(rs, s.damage)
		out = append(out, v)
		return err
	}, query, args...)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Present returns the sessions of a room that have not left, in the order of
// joining.
func (s *Store) Present(ctx context.Context, roomSID string) ([]rooms.Session, error) {
	return s.sessions(ctx, `SELECT `+sessionColumns+` FROM session INDEXED BY session_present
		WHERE room_sid = ? AND left_ms = 0 ORDER BY joined_ms, sid`, roomSID)
}

// DataBlobs returns the blobs of a room's sessions that have not left.
func (s *Store) DataBlobs(ctx context.Context, roomSID string) ([]rooms.DataBlob, error) {
	var out []rooms.DataBlob
	err := s.each(ctx, func(rs *sql.Rows) error {
		var b rooms.DataBlob
		err := rs.Scan(&b.Session, &b.Key, &b.Contents)
		out = append(out, b)
		return err
	}, `SELECT sid, key, contents FROM session INDEXED BY session_present JOIN data_blob ON session_sid = sid
		WHERE room_sid = ? AND left_ms = 0`, roomSID)
	return out, err
}

// HostDecisions returns what was decided in a room of who is host.
func (s *Store) HostDecisions(ctx context.Context, roomSID string) ([]rooms.HostDecision, error) {
	var out []rooms.HostDecision
	err := s.each(ctx, func(rs *sql.Rows) error {
		var d rooms.HostDecision
		err := rs.Scan(&d.Identity, &d.Host)
		out = append(out, d)
		return err
	}, `SELECT identity, host FROM host WHERE room_sid = ?`, roomSID)
	return out, err
}

// HostDecided tells what was decided of an identity in the open room of that name.
func (s *Store) HostDecided(ctx context.Context, roomName, identity string) (host, decided bool, err error) {
	err = s.one(ctx, []any{&host}, `SELECT host FROM room JOIN host ON room_sid = sid
		WHERE name = ? AND ended_ms = 0 AND identity = ?`, roomName, identity)
	if err == sql.ErrNoRows {
		return false, false, nil
	}
	return host, err == nil, err
}

// Latest returns the newest sessions of a room; see [rooms.Store].
func (s *Store) Latest(ctx context.Context, roomSID string, limit int) ([]rooms.Session, error) {
	all, err := s.sessions(ctx, `SELECT `+sessionColumns+` FROM session
		WHERE room_sid = ? ORDER BY joined_ms DESC, sid DESC LIMIT +?`, roomSID, limit)
	slices.Reverse(all)
	return all, err
}

// Occupied returns the open rooms that have a session which has not left, or a running
// job, or breakout rooms.
func (s *Store) Occupied(ctx context.Context) ([]rooms.Record, error) {
	return s.records(ctx, `SELECT `+roomColumns+` FROM room WHERE ended_ms = 0 AND sid IN
		(SELECT room_sid FROM session INDEXED BY session_present WHERE left_ms = 0
		UNION SELECT room_sid FROM job INDEXED BY job_running WHERE ended_ms = 0 AND status = 1
		UNION SELECT sid FROM room INDEXED BY room_divided WHERE ended_ms = 0 AND instr(config, '"division":') > 0)`)
}

// ListOpen returns the open rooms with those names, all of them if names is empty, in the
// order of their creation.
func (s *Store) ListOpen(ctx context.Context, names []string) ([]rooms.Record, error) {
	if len(names) == 0 {
		return s.records(ctx, `SELECT `+roomColumns+` FROM room WHERE ended_ms = 0 ORDER BY created_ms, sid`)
	}
	return s.records(ctx, `SELECT `+roomColumns+` FROM room INDEXED BY room_open_name WHERE ended_ms = 0 AND name IN
		(SELECT value FROM json_each(?)) ORDER BY created_ms, sid`, jsonList(names))
}

// NextDeadline is the earliest deadline of an open room; see [rooms.Store].
func (s *Store) NextDeadline(ctx context.Context, now rooms.Instant) (ms int64, err error) {
	const next = `SELECT coalesce(min(expires_ms), 0) FROM room WHERE expires_ms > 0 AND ended_ms = 0`
	if now.Uniform() {
		err = s.one(ctx, []any{&ms}, next)
		return ms, err
	}
	var old int64
	if err = s.one(ctx, []any{&ms}, next+` AND empty_since_ms >= ?`, now.SinceMs); err == nil {
		err = s.one(ctx, []any{&old}, next+` AND empty_since_ms < ?`, now.SinceMs)
	}
	if old != 0 {
		if old += now.Ms - now.OldMs; ms == 0 || old < ms {
			ms = old
		}
	}
	return ms, err
}

// isDue selects rooms whose deadline has come.
func isDue(now rooms.Instant) (where string, args []any) {
	const due = `expires_ms > 0 AND ended_ms = 0 AND expires_ms <= ?`
	if now.Uniform() {
		return due, []any{now.Ms}
	}
	return due + ` AND expires_ms <= CASE WHEN empty_since_ms < ? THEN ? ELSE ? END`,
		[]any{max(now.Ms, now.OldMs), now.SinceMs, now.OldMs, now.Ms}
}

// CountDue returns how many open rooms have a deadline that has come.
func (s *Store) CountDue(ctx context.Context, now rooms.Instant) (n int64, err error) {
	where, args := isDue(now)
	err = s.one(ctx, []any{&n}, `SELECT count(*) FROM room WHERE `+where, args...)
	return n, err
}

// EndDue ends up to limit rooms whose deadline has come, and at most 1000; see
// [rooms.Store].
func (s *Store) EndDue(ctx context.Context, now rooms.Instant, limit int) ([]rooms.Record, error) {
	type result struct {
		ended []rooms.Record
		stuck error
	}
	r, err := call(ctx, s, func(t *tx) (r result, err error) {
		r.ended, r.stuck, err = t.endDue(now, min(limit, endDueMax))
		return r, err
	})
	return r.ended, errors.Join(err, r.stuck)
}

// jsonList is list for SQLite's json_each. Names that are not UTF-8, which it would
// change, cannot occur: JSON and protobuf do not carry them.
func jsonList(list []string) string {
	if len(list) == 0 {
		return "[]"
	}
	b, _ := json.Marshal(list) // never fails for strings
	return string(b)
}
