package sqlite

import (
	"context"
	"database/sql"
	"math"

	"parlor/rooms/log"
)

// maxDeeds is how many lines of the audit are kept of the dashboard, of those who call with
// tokens of their own, and of API keys, so that none displaces the others'.
const maxDeeds = 100_000

// NoteDeed implements [log.Audit].
func (s *Store) NoteDeed(d log.Deed, done func(error)) {
	kind := 0
	switch {
	case d.Session != "":
		kind = 1
	case d.Identity != "":
		kind = 2
	}
	s.writer.queue.submit(job{done: done, run: func(t *tx) error {
		if _, err := t.exec(`INSERT INTO deed (dashboard, number, at_ms, api_key, identity, session, role, address, call, path, room, participant)
			VALUES (?1, coalesce((SELECT max(number) FROM deed WHERE dashboard = ?1), 0) + 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)`,
			kind, d.AtMs, d.APIKey, d.Identity, d.Session, d.Role, d.Address, d.Call, d.Path, d.Room, d.Participant); err != nil {
			return err
		}
		_, err := t.exec(`DELETE FROM deed WHERE dashboard = ?1 AND
			number <= (SELECT max(number) FROM deed WHERE dashboard = ?1) - ?2`, kind, maxDeeds)
		return err
	}})
}

// Deeds implements [log.Audit].
func (s *Store) Deeds(ctx context.Context, q log.DeedQuery) (all []log.Deed, err error) {
	const columns = `SELECT id, at_ms, api_key, identity, session, role, address, call, path, room, participant FROM deed WHERE `
	before := q.Before
	if before <= 0 {
		before = math.MaxInt64
	}
	where, args := `id < ? ORDER BY id DESC LIMIT +?`, []any{before, pageLimit(q.Limit)}
	switch {
	case q.Room != "" && q.Dashboard:
		where, args = `room = ? AND id < ? AND dashboard = 1 ORDER BY id DESC LIMIT +?`, append([]any{q.Room}, args...)
	case q.Room != "":
		where, args = `room = ? AND id < ? ORDER BY id DESC LIMIT +?`, append([]any{q.Room}, args...)
	case q.Dashboard: // whose numbers grow as their ids do
		where = `dashboard = 1 AND +id < ? ORDER BY number DESC LIMIT +?`
	}
	err = s.each(ctx, func(row *sql.Rows) error {
		var d log.Deed
		err := row.Scan(&d.ID, &d.AtMs, &d.APIKey, &d.Identity, &d.Session, &d.Role, &d.Address, &d.Call, &d.Path, &d.Room, &d.Participant)
		all = append(all, d)
		return err
	}, columns+where, args...)
	return all, err
}
