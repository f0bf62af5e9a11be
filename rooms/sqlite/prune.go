package sqlite

import (
	"context"
	"database/sql"

	"parlor/rooms"
)

// PruneHistory deletes rooms that ended before endedBeforeMs, with their sessions; see
// [rooms.History].
func (s *Store) PruneHistory(ctx context.Context, endedBeforeMs int64, batch int) (int, error) {
	return call(ctx, s, func(t *tx) (int, error) {
		var sids []string
		err := t.rows(func(rs *sql.Rows) error {
			var sid string
			err := rs.Scan(&sid)
			sids = append(sids, sid)
			return err
		}, `SELECT sid FROM room WHERE ended_ms > 0 AND ended_ms < ? ORDER BY ended_ms LIMIT +?`, endedBeforeMs, pageLimit(batch))
		if err != nil {
			return 0, err
		}
		total := 0
		for _, sid := range sids {
			n, err := t.pruneRoom(sid, batch-total)
			if err != nil {
				return 0, err
			}
			if total += n; total >= batch {
				break
			}
		}
		return total, nil
	})
}

// pruneRoom deletes up to limit rows of an ended room: its sessions, jobs and dispatches,
// then its own row.
func (t *tx) pruneRoom(sid string, limit int) (int, error) {
	total := 0
	for _, query := range []string{
		`DELETE FROM session WHERE id IN (SELECT id FROM session WHERE room_sid = ? ORDER BY joined_ms, sid LIMIT +?)`,
		`DELETE FROM job WHERE id IN (SELECT id FROM job INDEXED BY job_room WHERE room_sid = ? LIMIT +?)`,
		`DELETE FROM dispatch WHERE id IN (SELECT id FROM dispatch INDEXED BY dispatch_room WHERE room_sid = ? LIMIT +?)`,
	} {
		n, err := t.exec(query, sid, limit-total)
		if err != nil {
			return 0, err
		}
		if total += int(n); total >= limit {
			return total, nil
		}
	}
	if _, err := t.exec(`DELETE FROM room WHERE sid = ?`, sid); err != nil {
		return 0, err
	}
	t.ended--
	return total + 1, nil
}

// forgettable selects a session s that left before ?1 and has ?2 newer ones in its room.
// A session that left before a time also joined before it, which lets an index bound the
// search.
const forgettable = `s.joined_ms < ?1 AND s.left_ms > 0 AND s.left_ms < ?1
	AND (s.joined_ms, s.sid) <= (SELECT n.joined_ms, n.sid FROM session n WHERE n.room_sid = s.room_sid
		ORDER BY n.joined_ms DESC, n.sid DESC LIMIT 1 OFFSET +?2)`

// roomsLookedAt is how many open rooms a call of PruneSessions or PruneAgents looks at.
const roomsLookedAt = 500

// PruneSessions deletes sessions of open rooms that left before leftBeforeMs; see
// [rooms.History].
func (s *Store) PruneSessions(ctx context.Context, leftBeforeMs int64, after rooms.RoomCursor, batch int) (int, rooms.RoomCursor, error) {
	return s.pruneOpen(ctx, after, batch, func(sid string, limit int) (int, error) {
		return s.pruneSessions(ctx, sid, leftBeforeMs, limit)
	}, `SELECT created_ms, sid, EXISTS (SELECT 1 FROM session s WHERE s.room_sid = room.sid AND `+forgettable+`)
		FROM room WHERE ended_ms = 0 AND (created_ms, sid) > (?3, ?4) ORDER BY created_ms, sid LIMIT +?5`,
		leftBeforeMs, rooms.MostDeparted, after.CreatedMs, after.SID, roomsLookedAt)
}

// PruneAgents deletes ended jobs and deleted dispatches of open rooms; see
// [rooms.History].
func (s *Store) PruneAgents(ctx context.Context, after rooms.RoomCursor, batch int) (int, rooms.RoomCursor, error) {
	return s.pruneOpen(ctx, after, batch, func(sid string, limit int) (int, error) {
		return s.pruneAgents(ctx, sid, limit)
	}, `SELECT created_ms, sid, EXISTS (SELECT 1 FROM dispatch d INDEXED BY dispatch_room WHERE d.room_sid = room.sid AND d.deleted_ms > 0)
			OR (SELECT j.id FROM job j INDEXED BY job_room WHERE j.room_sid = room.sid AND j.ended_ms > 0 LIMIT 1 OFFSET +?) IS NOT NULL
		FROM room WHERE ended_ms = 0 AND (created_ms, sid) > (?, ?) ORDER BY created_ms, sid LIMIT +?`,
		rooms.MostJobs, after.CreatedMs, after.SID, roomsLookedAt)
}

// pruneOpen calls prune for the open rooms that the query marks, until batch rows are
// deleted. It returns where the next call goes on.
func (s *Store) pruneOpen(ctx context.Context, after rooms.RoomCursor, batch int, prune func(sid string, limit int) (int, error),
	query string, args ...any) (int, rooms.RoomCursor, error) {
	type candidate struct {
		at   rooms.RoomCursor
		some bool // it has rows to delete
	}
	var all []candidate
	err := s.each(ctx, func(rs *sql.Rows) error {
		var c candidate
		err := rs.Scan(&c.at.CreatedMs, &c.at.SID, &c.some)
		all = append(all, c)
		return err
	}, query, args...)
	if err != nil {
		return 0, after, err
	}
	total := 0
	for _, c := range all {
		if c.some {
			n, err := prune(c.at.SID, batch-total)
			if err != nil {
				return total, after, err
			}
			if total += n; total >= batch {
				return total, after, nil // this room may have more
			}
		}
		after = c.at
	}
	if len(all) < roomsLookedAt {
		after = rooms.RoomCursor{}
	}
	return total, after, nil
}

// pruneAgents deletes up to limit dispatches and jobs of a room. The transaction itself
// finds the newest jobs, so that jobs that came meanwhile count.
func (s *Store) pruneAgents(ctx context.Context, roomSID string, limit int) (int, error) {
	return call(ctx, s, func(t *tx) (int, error) {
		dispatches, err := t.exec(`DELETE FROM dispatch WHERE id IN
			(SELECT id FROM dispatch INDEXED BY dispatch_room WHERE room_sid = ? AND deleted_ms > 0 LIMIT +?)`, roomSID, limit)
		if err != nil {
			return 0, err
		}
		jobs, err := t.exec(`DELETE FROM job WHERE id IN
			(SELECT id FROM job INDEXED BY job_room WHERE room_sid = ?1 AND ended_ms > 0 AND (created_ms, id) <=
				(SELECT created_ms, id FROM job INDEXED BY job_room WHERE room_sid = ?1 AND ended_ms > 0
					ORDER BY created_ms DESC, id DESC LIMIT 1 OFFSET +?2)
				ORDER BY created_ms, id LIMIT +?3)`, roomSID, rooms.MostJobs, limit-int(dispatches))
		return int(dispatches + jobs), err
	})
}

// pruneSessions deletes up to limit sessions of a room. The transaction itself finds the
// newest sessions, so that a join that came meanwhile counts.
func (s *Store) pruneSessions(ctx context.Context, roomSID string, leftBeforeMs int64, limit int) (int, error) {
	return call(ctx, s, func(t *tx) (int, error) {
		n, err := t.exec(`DELETE FROM session WHERE id IN
			(SELECT s.id FROM session s WHERE s.room_sid = ?3 AND `+forgettable+` ORDER BY s.joined_ms, s.sid LIMIT +?4)`,
			leftBeforeMs, rooms.MostDeparted, roomSID, limit)
		return int(n), err
	})
}
