package replica

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/guid"
)

// mustGrow writes some hundred kilobytes.
func (n *node) mustGrow(t testing.TB, name string) {
	t.Helper()
	now := rooms.NowMs(time.Now())
	r := rooms.Record{
		SID: guid.New("RM_"), Name: name, CreatedMs: now, EmptyTimeout: rooms.Never, DepartureTimeout: rooms.Never,
		Metadata: strings.Repeat(name, 256<<10/len(name)),
	}
	r.SetEmpty(now)
	done := make(chan error, 1)
	n.store.Submit(&rooms.Change{Kind: rooms.ChangeCreate, Room: r}, func(_ rooms.Outcome, err error) { done <- err })
	require.NoError(t, <-done)
}

// TestAReaderThatHoldsTheWAL, such as a backup or somebody's shell: writes go on, and
// reach the replica; the WAL grows, and is cut once the reader has gone.
func TestAReaderThatHoldsTheWAL(t *testing.T) {
	t.Parallel()
	const kept = 6 << 20
	dir := t.TempDir()
	n := mustOpen(t, dir, "", Config{URL: "file://" + filepath.Join(t.TempDir(), "replica")})
	n.mustCreate(t, "one")
	require.NoError(t, n.store.Between(t.Context(), func(context.Context) error { n.replica.upload.walKept = kept; return nil }))
	wal := func() int64 {
		fi, err := os.Stat(database(dir) + "-wal")
		require.NoError(t, err)
		return fi.Size()
	}
	db, err := sql.Open("sqlite", "file:"+database(dir)+"?mode=ro")
	require.NoError(t, err)
	defer db.Close()
	reader, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	var count int
	require.NoError(t, reader.QueryRow("SELECT count(*) FROM room").Scan(&count))

	names := []string{"one"}
	for i := 0; wal() < 3*kept; i++ {
		name := fmt.Sprintf("room%03d", i)
		n.mustGrow(t, name)
		names = append(names, name)
		require.Less(t, i, 200, "the WAL does not grow")
	}
	n.mustBarrier(t)
	require.Eventually(t, func() bool { return n.replica.Status().Lag == 0 }, time.Minute, 10*time.Millisecond)
	require.Empty(t, n.replica.Status().Stage)

	require.NoError(t, reader.Rollback())
	require.Eventually(t, func() bool {
		name := fmt.Sprintf("room%03d", len(names))
		n.mustCreate(t, name)
		names = append(names, name)
		return wal() <= kept
	}, time.Minute, 50*time.Millisecond)
	n.mustClose(t)

	b := mustOpen(t, t.TempDir(), "b", Config{URL: n.replica.config.URL, ExpectReplica: true})
	require.Equal(t, names, b.names(t))
	b.mustClose(t)
}
