package sqlite

import (
	"context"
	"database/sql"
	"math"

	"parlor/rooms/log"
)

// maxStarts is how many starts are kept.
const maxStarts = 1000

// NoteStart implements [log.Starts].
func (s *Store) NoteStart(ctx context.Context, one log.Start) (int64, error) {
	return call(ctx, s, func(t *tx) (id int64, err error) {
		if err := t.row([]any{&id}, `SELECT coalesce(max(id), 0) + 1 FROM start`); err != nil {
			return 0, err
		}
		if _, err := t.exec(`INSERT INTO start (id, at_ms, version, ready_ms) VALUES (?, ?, ?, ?)`, id, one.AtMs, one.Version, one.ReadyMs); err != nil {
			return 0, err
		}
		_, err = t.exec(`DELETE FROM start WHERE id <= ?`, id-maxStarts)
		return id, err
	})
}

// NoteStop implements [log.Starts].
func (s *Store) NoteStop(ctx context.Context, id, stoppedMs, stopMs int64) error {
	return s.do(ctx, func(t *tx) error {
		_, err := t.exec(`UPDATE start SET stopped_ms = ?, stop_ms = ? WHERE id = ?`, stoppedMs, stopMs, id)
		return err
	})
}

// Starts implements [log.Starts].
func (s *Store) Starts(ctx context.Context, before int64, limit int) (all []log.Start, err error) {
	if before <= 0 {
		before = math.MaxInt64
	}
	err = s.each(ctx, func(row *sql.Rows) error {
		var one log.Start
		err := row.Scan(&one.ID, &one.AtMs, &one.Version, &one.ReadyMs, &one.StoppedMs, &one.StopMs)
		all = append(all, one)
		return err
	}, `SELECT id, at_ms, version, ready_ms, stopped_ms, stop_ms FROM start WHERE id < ? ORDER BY id DESC LIMIT +?`, before, pageLimit(limit))
	return all, err
}
