package sqlite

import (
	"context"
	"database/sql"
	"time"

	"parlor/rooms"
)

// SetBan makes a ban, or changes the ban of that identity and room name.
func (s *Store) SetBan(ctx context.Context, b rooms.Ban) error {
	return s.do(ctx, func(t *tx) error {
		_, err := t.exec(`INSERT INTO ban (room_name, identity, until_ms, created_ms, reason) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (room_name, identity) DO UPDATE SET until_ms = excluded.until_ms,
				created_ms = excluded.created_ms, reason = excluded.reason`,
			b.RoomName, b.Identity, b.UntilMs, b.CreatedMs, b.Reason)
		return err
	})
}

// ClearBan lifts a ban; false if there was none.
func (s *Store) ClearBan(ctx context.Context, roomName, identity string) (bool, error) {
	return call(ctx, s, func(t *tx) (bool, error) {
		n, err := t.exec(`DELETE FROM ban WHERE room_name = ? AND identity = ?`, roomName, identity)
		return n > 0, err
	})
}

// Bans returns a page of at most 1000 of a room name's bans, by identity. Expired bans
// are listed until they are pruned.
func (s *Store) Bans(ctx context.Context, roomName, afterIdentity string, limit int) ([]rooms.Ban, error) {
	var out []rooms.Ban
	err := s.each(ctx, func(rs *sql.Rows) error {
		var b rooms.Ban
		err := rs.Scan(&b.RoomName, &b.Identity, &b.UntilMs, &b.CreatedMs, &b.Reason)
		out = append(out, b)
		return err
	}, `SELECT room_name, identity, until_ms, created_ms, reason FROM ban
		WHERE room_name = ? AND identity > ? ORDER BY identity LIMIT +?`, roomName, afterIdentity, pageLimit(limit))
	if err != nil {
		return nil, err
	}
	return out, nil
}

// SetRevocation refuses that identity's tokens for that room name that were issued before
// notBeforeMs, or before the later time that is stored already.
func (s *Store) SetRevocation(ctx context.Context, roomName, identity string, notBeforeMs int64) error {
	return s.do(ctx, func(t *tx) error {
		_, err := t.exec(`INSERT INTO revocation (room_name, identity, not_before_ms) VALUES (?, ?, ?)
			ON CONFLICT (room_name, identity) DO UPDATE SET not_before_ms = excluded.not_before_ms
				WHERE excluded.not_before_ms > not_before_ms`, roomName, identity, notBeforeMs)
		return err
	})
}

// Revocations returns a page of at most 1000 of a room name's revocations, by identity.
func (s *Store) Revocations(ctx context.Context, roomName, afterIdentity string, limit int) ([]rooms.Revocation, error) {
	var out []rooms.Revocation
	err := s.each(ctx, func(rs *sql.Rows) error {
		var r rooms.Revocation
		err := rs.Scan(&r.RoomName, &r.Identity, &r.NotBeforeMs)
		out = append(out, r)
		return err
	}, `SELECT room_name, identity, not_before_ms FROM revocation
		WHERE room_name = ? AND identity > ? ORDER BY identity LIMIT +?`, roomName, afterIdentity, pageLimit(limit))
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ClearRevocation lifts a revocation; false if there was none.
func (s *Store) ClearRevocation(ctx context.Context, roomName, identity string) (bool, error) {
	return call(ctx, s, func(t *tx) (bool, error) {
		n, err := t.exec(`DELETE FROM revocation WHERE room_name = ? AND identity = ?`, roomName, identity)
		return n > 0, err
	})
}

// Admission tells whether an identity is banned from a room name now, and before which
// time its tokens are revoked; 0 = none are.
func (s *Store) Admission(ctx context.Context, roomName, identity string) (banned bool, revokedBeforeMs int64, err error) {
	err = s.one(ctx, []any{&banned, &revokedBeforeMs}, `SELECT
		EXISTS (SELECT 1 FROM ban WHERE room_name = ?1 AND identity = ?2 AND (until_ms = 0 OR until_ms > ?3)),
		coalesce((SELECT not_before_ms FROM revocation WHERE room_name = ?1 AND identity = ?2), 0)`,
		roomName, identity, rooms.NowMs(time.Now()))
	return banned, revokedBeforeMs, err
}

// PruneModeration deletes bans that ran out before nowMs and revocations with a time
// before revokedBeforeMs. Choose that so that no token lives as long.
func (s *Store) PruneModeration(ctx context.Context, nowMs, revokedBeforeMs int64) (int, error) {
	return call(ctx, s, func(t *tx) (int, error) {
		bans, err := t.exec(`DELETE FROM ban WHERE until_ms > 0 AND until_ms < ?`, nowMs)
		if err != nil {
			return 0, err
		}
		revocations, err := t.exec(`DELETE FROM revocation WHERE not_before_ms < ?`, revokedBeforeMs)
		return int(bans + revocations), err
	})
}
