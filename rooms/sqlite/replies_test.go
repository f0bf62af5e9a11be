package sqlite

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/rooms/log"
)

func TestReplies(t *testing.T) {
	s := openNew(t)
	ctx := t.Context()
	day := (24 * time.Hour).Milliseconds()
	key := func(n byte) (k [32]byte) { k[0] = n; return k }
	first := log.Reply{
		Key: key(1), APIKey: "APIx", Fingerprint: key(7), CreatedMs: 1000, Status: 201,
		Header: map[string]string{"ETag": `"x"`}, Body: []byte("answer"),
	}
	require.NoError(t, s.SaveReply(ctx, first))
	other := first
	other.Status = 409
	require.NoError(t, s.SaveReply(ctx, other))
	got, found, err := s.FindReply(ctx, key(1), 1000+day)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, first, got, "the first answer stands")
	_, found, err = s.FindReply(ctx, key(2), 1000)
	require.NoError(t, err)
	require.False(t, found)
	_, found, err = s.FindReply(ctx, key(1), 1001+day)
	require.NoError(t, err)
	require.False(t, found, "a day has passed")

	count := func() (n int) {
		require.NoError(t, s.one(ctx, []any{&n}, `SELECT count(*) FROM reply`))
		return n
	}
	require.NoError(t, s.SaveReply(ctx, log.Reply{Key: key(3), CreatedMs: 1001 + day}))
	require.Equal(t, 1, count(), "the old one is forgotten")
	second := log.Reply{Key: key(3), CreatedMs: 1002 + 2*day, Status: 200, Header: map[string]string{}, Body: []byte("second")}
	require.NoError(t, s.SaveReply(ctx, second))
	got, _, err = s.FindReply(ctx, key(3), 1002+2*day)
	require.NoError(t, err)
	require.Equal(t, second, got, "a key may be used again")
	require.NoError(t, s.do(ctx, func(tx *tx) error {
		_, err := tx.exec(`UPDATE reply SET created_ms = ?`, 1001+day)
		return err
	}))
	require.NoError(t, s.do(ctx, func(tx *tx) error {
		_, err := tx.exec(`UPDATE reply SET number = 20000`)
		return err
	}))
	require.NoError(t, s.SaveReply(ctx, log.Reply{Key: key(4), CreatedMs: 1001 + day}))
	require.NoError(t, s.do(ctx, func(tx *tx) error {
		_, err := tx.exec(`UPDATE reply SET number = 1 WHERE number = 20000`)
		return err
	}))
	require.NoError(t, s.SaveReply(ctx, log.Reply{Key: key(5), CreatedMs: 1001 + day}))
	require.Equal(t, 2, count(), "no more than ten thousand back")
}

// TestRepliesOfOneKeyDoNotCrowdOutAnothers: each key may have ten thousand.
func TestRepliesOfOneKeyDoNotCrowdOutAnothers(t *testing.T) {
	s := openNew(t)
	ctx := t.Context()
	n := 0
	save := func(apiKey string) (key [32]byte) {
		n++
		key[0], key[1] = byte(n), byte(n>>8)
		require.NoError(t, s.SaveReply(ctx, log.Reply{Key: key, APIKey: apiKey, CreatedMs: 1000, Status: 200}))
		return key
	}
	has := func(key [32]byte) bool {
		_, found, err := s.FindReply(ctx, key, 1000)
		require.NoError(t, err)
		return found
	}
	oldest, modest := save("greedy"), save("modest")
	// As if it had sent the largest number of kept replies since.
	require.NoError(t, s.do(ctx, func(tx *tx) error {
		_, err := tx.exec(`INSERT INTO reply (key, api_key, number, fingerprint, created_ms, status, header, body)
			VALUES (x'01', 'greedy', ?, x'', 1000, 200, '{}', x'')`, maxReplies)
		return err
	}))
	require.True(t, has(oldest))
	newest := save("greedy")
	require.False(t, has(oldest))
	require.True(t, has(newest))
	require.True(t, has(modest))
	require.True(t, has(save("modest")))
	require.True(t, has(modest))
}
