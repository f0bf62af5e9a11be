package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"parlor/rooms/log"
)

// The bounds of the stored replies.
const (
	maxReplies  = 10_000 // of one API key
	repliesLive = 24 * time.Hour
)

// SaveReply stores a reply. It deletes replies that are older than a day, and the oldest
// of the API key beyond maxReplies.
func (s *Store) SaveReply(ctx context.Context, r log.Reply) error {
	header, err := json.Marshal(r.Header)
	if err != nil {
		return fmt.Errorf("write a reply's header: %w", err)
	}
	return s.do(ctx, func(t *tx) error {
		// Old replies go first, so that an idempotency key that is used again after a day
		// does not conflict with its own old reply.
		if _, err := t.exec(`DELETE FROM reply WHERE created_ms < ?`, r.CreatedMs-repliesLive.Milliseconds()); err != nil {
			return err
		}
		if _, err := t.exec(`INSERT INTO reply (key, api_key, number, fingerprint, created_ms, status, header, body)
			VALUES (?1, ?2, coalesce((SELECT max(number) FROM reply WHERE api_key = ?2), 0) + 1, ?3, ?4, ?5, ?6, ?7)
			ON CONFLICT (key) DO NOTHING`,
			r.Key[:], r.APIKey, r.Fingerprint[:], r.CreatedMs, r.Status, string(header), notNil(r.Body)); err != nil {
			return err
		}
		_, err := t.exec(`DELETE FROM reply WHERE api_key = ?1 AND
			number <= (SELECT max(number) FROM reply WHERE api_key = ?1) - ?2`, r.APIKey, maxReplies)
		return err
	})
}

// FindReply returns the reply with that key, unless it is older than a day at nowMs.
func (s *Store) FindReply(ctx context.Context, key [32]byte, nowMs int64) (r log.Reply, found bool, err error) {
	var fingerprint []byte
	var header string
	r.Key = key
	err = s.one(ctx, []any{&r.APIKey, &fingerprint, &r.CreatedMs, &r.Status, &header, &r.Body},
		`SELECT api_key, fingerprint, created_ms, status, header, body FROM reply WHERE key = ? AND created_ms >= ?`,
		key[:], nowMs-repliesLive.Milliseconds())
	if errors.Is(err, sql.ErrNoRows) {
		return r, false, nil
	}
	if err != nil {
		return r, false, err
	}
	copy(r.Fingerprint[:], fingerprint)
	if err := json.Unmarshal([]byte(header), &r.Header); err != nil {
		return r, false, fmt.Errorf("read a reply's header: %w", err)
	}
	return r, true, nil
}

func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
