package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"parlor/rooms"
)

const invitationColumns = `id, secret_hash, room_name, role, name, api_key, created_by, created_ms, uses, used, used_ms, expires_ms, revoked_ms`

// invitationRow is where a row is scanned to.
type invitationRow struct {
	rooms.Invitation
	hash []byte
}

func (r *invitationRow) dest() []any {
	return []any{&r.ID, &r.hash, &r.RoomName, &r.Role, &r.Name, &r.APIKey, &r.CreatedBy, &r.CreatedMs, &r.Uses, &r.Used, &r.UsedMs, &r.ExpiresMs, &r.RevokedMs}
}

// read is the invitation of a row that was scanned.
func (r *invitationRow) read() (rooms.Invitation, error) {
	if len(r.hash) != len(r.SecretHash) {
		return r.Invitation, fmt.Errorf("the hash of the secret of invitation %s has %d bytes", r.ID, len(r.hash))
	}
	copy(r.SecretHash[:], r.hash)
	return r.Invitation, nil
}

// AddInvitation writes a new invitation, unless its room name has that many that can be used
// when it is made: [rooms.ErrInvitations].
func (s *Store) AddInvitation(ctx context.Context, i rooms.Invitation, most int) error {
	return s.do(ctx, func(t *tx) error {
		// A room name has at most twice that many rows: what is over goes before its time.
		if _, err := t.exec(`DELETE FROM invitation WHERE room_name = ?1 AND over_ms > 0 AND over_ms <= ?2
			AND (SELECT count(*) FROM invitation WHERE room_name = ?1) >= ?3`, i.RoomName, i.CreatedMs, 2*most); err != nil {
			return err
		}
		n, err := t.exec(`INSERT INTO invitation (`+invitationColumns+`, over_ms)
			SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0, 0, ?10, 0, ?10
			WHERE (SELECT count(*) FROM invitation WHERE room_name = ?3 AND (over_ms = 0 OR over_ms > ?8)) < ?11`,
			i.ID, i.SecretHash[:], i.RoomName, i.Role, i.Name, i.APIKey, i.CreatedBy, i.CreatedMs, i.Uses, i.ExpiresMs, most)
		if err == nil && n == 0 {
			return rooms.ErrInvitations
		}
		return err
	})
}

// FindInvitation returns an invitation, usable or not; [rooms.ErrNoInvitation] if there is none.
func (s *Store) FindInvitation(ctx context.Context, id string) (rooms.Invitation, error) {
	var r invitationRow
	err := s.one(ctx, r.dest(), `SELECT `+invitationColumns+` FROM invitation WHERE id = ?`, id)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return rooms.Invitation{}, rooms.ErrNoInvitation
	case err != nil:
		return rooms.Invitation{}, err
	}
	return r.read()
}

// ListInvitations returns a page of at most 1000 invitations by the order of their making,
// usable or not; of a room name, or of all if it is "".
func (s *Store) ListInvitations(ctx context.Context, roomName, afterID string, limit int) ([]rooms.Invitation, error) {
	var all []rooms.Invitation
	query, args := `SELECT `+invitationColumns+` FROM invitation WHERE id > ? ORDER BY id LIMIT +?`, []any{afterID, pageLimit(limit)}
	if roomName != "" {
		query, args = `SELECT `+invitationColumns+` FROM invitation WHERE room_name = ? AND id > ? ORDER BY id LIMIT +?`, append([]any{roomName}, args...)
	}
	err := s.each(ctx, func(rs *sql.Rows) error {
		var r invitationRow
		if err := rs.Scan(r.dest()...); err != nil {
			return err
		}
		i, err := r.read()
		all = append(all, i)
		return err
	}, query, args...)
	if err != nil {
		return nil, err
	}
	return all, nil
}

// UseInvitation counts one use of an invitation at a time, and returns it as it is then, or
// why it cannot be used: see [rooms.Invitation.Usable].
func (s *Store) UseInvitation(ctx context.Context, id string, nowMs int64) (rooms.Invitation, error) {
	return call(ctx, s, func(t *tx) (rooms.Invitation, error) {
		var r invitationRow
		err := t.row(r.dest(), `SELECT `+invitationColumns+` FROM invitation WHERE id = ?`, id)
		if errors.Is(err, sql.ErrNoRows) {
			err = rooms.ErrNoInvitation
		}
		if err == nil {
			err = r.Usable(nowMs)
		}
		if err != nil {
			return rooms.Invitation{}, err
		}
		r.Used, r.UsedMs = r.Used+1, nowMs
		if _, err := t.exec(`UPDATE invitation SET used = ?1, used_ms = ?2, over_ms = CASE uses WHEN ?1 THEN ?2 ELSE over_ms END WHERE id = ?3`,
			r.Used, nowMs, id); err != nil {
			return rooms.Invitation{}, err
		}
		return r.read()
	})
}

// RevokeInvitation takes an invitation back; [rooms.ErrNoInvitation] if there is none.
func (s *Store) RevokeInvitation(ctx context.Context, id string, nowMs int64) error {
	return s.do(ctx, func(t *tx) error {
		n, err := t.exec(`UPDATE invitation SET revoked_ms = CASE revoked_ms WHEN 0 THEN ?1 ELSE revoked_ms END,
			over_ms = CASE over_ms WHEN 0 THEN ?1 ELSE min(over_ms, ?1) END WHERE id = ?2`, nowMs, id)
		if err == nil && n == 0 {
			return rooms.ErrNoInvitation
		}
		return err
	})
}

// PruneInvitations forgets those that could not be used any more before a time.
func (s *Store) PruneInvitations(ctx context.Context, beforeMs int64) (int, error) {
	return call(ctx, s, func(t *tx) (int, error) {
		n, err := t.exec(`DELETE FROM invitation WHERE over_ms > 0 AND over_ms < ?`, beforeMs)
		return int(n), err
	})
}
