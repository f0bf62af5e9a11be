package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"parlor/rooms"
)

// Clock returns the state of the steady clock, and the latest moment from which a deadline
// counts; see [rooms.ClockStore].
func (s *Store) Clock(ctx context.Context) (c rooms.ClockState, latestMs int64, err error) {
	err = s.one(ctx, []any{&c.Boot, &c.Elapsed, &c.Base, &c.Ahead, &c.SinceMs, &c.OldAhead},
		`SELECT boot, elapsed_ns, base_ns, ahead_ns, since_ms, old_ahead_ns FROM clock WHERE id = 1`)
	if errors.Is(err, sql.ErrNoRows) {
		c, err = rooms.ClockState{}, nil
	}
	if err == nil {
		err = s.one(ctx, []any{&latestMs}, `SELECT max(
			coalesce((SELECT max(empty_since_ms) FROM room WHERE expires_ms > 0 AND ended_ms = 0), 0),
			coalesce((SELECT max(max(empty_since_ms, `+divisionFrom+`)) FROM room INDEXED BY room_divided
				WHERE ended_ms = 0 AND instr(config, '"division":') > 0), 0))`)
	}
	return c, latestMs, err
}

// divisionFrom is since when the limit of a room's division counts; 0 if it has none, or its
// settings cannot be read.
const divisionFrom = `CASE WHEN json_valid(config) THEN coalesce(json_extract(config, '$.division.from_ms'), 0) ELSE 0 END`

// SetClock writes the state of the steady clock; see [rooms.ClockStore].
func (s *Store) SetClock(ctx context.Context, c rooms.ClockState, jump *rooms.ClockJump) error {
	return s.do(ctx, func(t *tx) error {
		if jump != nil {
			if err := t.jump(jump); err != nil {
				return err
			}
		}
		_, err := t.exec(`INSERT INTO clock (id, boot, elapsed_ns, base_ns, ahead_ns, since_ms, old_ahead_ns) VALUES (1, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET boot = excluded.boot, elapsed_ns = excluded.elapsed_ns, base_ns = excluded.base_ns,
				ahead_ns = excluded.ahead_ns, since_ms = excluded.since_ms, old_ahead_ns = excluded.old_ahead_ns`,
			c.Boot, c.Elapsed, c.Base, c.Ahead, c.SinceMs, c.OldAhead)
		return err
	})
}

// jump makes moments of two clocks be of one. It is done once for a boot.
func (t *tx) jump(j *rooms.ClockJump) error {
	if _, err := t.exec(`UPDATE job SET due_ms = ?1 WHERE id IN
		(SELECT id FROM job INDEXED BY job_due WHERE ended_ms = 0 AND status = 0 AND due_ms > ?1)`, j.JobsMs); err != nil {
		return err
	}
	if j.ByMs == 0 {
		return nil
	}
	if _, err := t.exec(`UPDATE room SET config = json_set(config, '$.division.until_ms', json_extract(config, '$.division.until_ms') + ?1,
			'$.division.from_ms', `+divisionFrom+` + ?1)
		WHERE id IN (SELECT id FROM room INDEXED BY room_divided WHERE ended_ms = 0 AND instr(config, '"division":') > 0)
			AND CASE WHEN json_valid(config) THEN json_extract(config, '$.division.until_ms') > 0 AND `+divisionFrom+` < ?2 ELSE 0 END`,
		j.ByMs, j.BeforeMs); err != nil {
		return err
	}
	_, err := t.exec(`UPDATE room SET empty_since_ms = empty_since_ms + ?1, expires_ms = CASE expires_ms WHEN 0 THEN 0 ELSE expires_ms + ?1 END
		WHERE id IN (SELECT id FROM room INDEXED BY room_open WHERE ended_ms = 0 AND empty_since_ms > 0 AND empty_since_ms < ?2)`, j.ByMs, j.BeforeMs)
	return err
}
