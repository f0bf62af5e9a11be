package sqlite

import (
	"context"
	"database/sql"

	"parlor/rooms"
)

// PruneHistory forgets rooms that ended before endedBeforeMs, with their sessions;
// see [rooms.History].
func (s *Store) PruneHistory(ctx context.Context, endedBeforeMs int64, batch int) (int, error) {
	return call(ctx, s, func(t *tx) (int, error) {
		var sids []string
		err := t.rows(func(rs *sql.Rows) error {
			var sid string
			err := rs.Scan(&sid)
			sids = append(sids, sid)
			return err
		}, `SELECT sid FROM room WHERE ended_ms > 0 AND ended_ms < ? ORDER BY ended_ms LIMIT ?`, endedBeforeMs, pageLimit(batch))
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

// pruneRoom deletes up to limit rows of an ended room: its sessions, then itself.
func (t *tx) pruneRoom(sid string, limit int) (int, error) {
	n, err := t.exec(`DELETE FROM session WHERE id IN
		(SELECT id FROM session WHERE room_sid = ? ORDER BY joined_ms, sid LIMIT ?)`, sid, limit)
	if err != nil || int(n) == limit {
		return int(n), err
	}
	for _, query := range []string{
		`DELETE FROM job WHERE room_sid = ?`, `DELETE FROM dispatch WHERE room_sid = ?`, `DELETE FROM room WHERE sid = ?`,
	} {
		if _, err := t.exec(query, sid); err != nil {
			return 0, err
		}
	}
	t.ended--
	return int(n) + 1, nil
}

// forgettable holds for a session s that left before ?1 and has ?2 newer ones in its
// room. A session that left before a time joined before it, too, which bounds what is
// looked at.
const forgettable = `s.joined_ms < ?1 AND s.left_ms > 0 AND s.left_ms < ?1
	AND (s.joined_ms, s.sid) <= (SELECT n.joined_ms, n.sid FROM session n WHERE n.room_sid = s.room_sid
		ORDER BY n.joined_ms DESC, n.sid DESC LIMIT 1 OFFSET ?2)`

// roomsLookedAt is how many open rooms a call of PruneSessions looks at.
const roomsLookedAt = 500

// PruneSessions forgets sessions of open rooms that left before leftBeforeMs; see
// [rooms.History].
func (s *Store) PruneSessions(ctx context.Context, leftBeforeMs int64, after rooms.RoomCursor, batch int) (int, rooms.RoomCursor, error) {
	type candidate struct {
		at   rooms.RoomCursor
		some bool // it has sessions to forget
	}
	var all []candidate
	err := s.each(ctx, func(rs *sql.Rows) error {
		var c candidate
		err := rs.Scan(&c.at.CreatedMs, &c.at.SID, &c.some)
		all = append(all, c)
		return err
	}, `SELECT created_ms, sid, EXISTS (SELECT 1 FROM session s WHERE s.room_sid = room.sid AND `+forgettable+`)
		FROM room WHERE ended_ms = 0 AND (created_ms, sid) > (?3, ?4) ORDER BY created_ms, sid LIMIT ?5`,
		leftBeforeMs, rooms.MostDeparted, after.CreatedMs, after.SID, roomsLookedAt)
	if err != nil {
		return 0, after, err
	}
	total := 0
	for _, c := range all {
		if c.some {
			n, err := s.pruneSessions(ctx, c.at.SID, leftBeforeMs, batch-total)
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

// pruneSessions deletes up to limit sessions of a room. Which are its newest is
// found in the transaction itself: a join that came meanwhile counts.
func (s *Store) pruneSessions(ctx context.Context, roomSID string, leftBeforeMs int64, limit int) (int, error) {
	return call(ctx, s, func(t *tx) (int, error) {
		n, err := t.exec(`DELETE FROM session WHERE id IN
			(SELECT s.id FROM session s WHERE s.room_sid = ?3 AND `+forgettable+` ORDER BY s.joined_ms, s.sid LIMIT ?4)`,
			leftBeforeMs, rooms.MostDeparted, roomSID, limit)
		return int(n), err
	})
}
