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

	"github.com/benbjohnson/litestream"
	"github.com/prometheus/client_golang/prometheus"
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

// TestAReaderThatHoldsTheWAL, such as a backup or a shell: writes continue and reach the
// replica. The WAL grows, and is cut once the reader has gone.
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

// TestAReaderThatHoldsTheWALDelaysNoWrite: a blocking checkpoint would stop the writer
// for a second or more at each attempt, and Litestream begins with these once the WAL has
// 121,359 pages. Small pages reach that number soon.
func TestAReaderThatHoldsTheWALDelaysNoWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db, err := sql.Open("sqlite", "file:"+database(dir))
	require.NoError(t, err)
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, pragma := range []string{"page_size=512", "journal_mode=wal"} {
		_, err = db.Exec("PRAGMA " + pragma)
		require.NoError(t, err)
	}
	n := mustOpen(t, dir, "", Config{URL: "file://" + filepath.Join(t.TempDir(), "replica")})
	n.mustCreate(t, "one")
	reader, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	var count int
	require.NoError(t, reader.QueryRow("SELECT count(*) FROM room").Scan(&count))

	const pages = litestream.DefaultTruncatePageN + 10_000
	for i := 0; ; i++ {
		fi, err := os.Stat(database(dir) + "-wal")
		require.NoError(t, err)
		if fi.Size() > pages*(512+24) {
			break
		}
		n.mustGrow(t, fmt.Sprintf("room%03d", i))
		require.Less(t, i, 1000, "the WAL does not grow")
	}
	n.mustBarrier(t)
	tried := checkpoints(t, database(dir))
	require.Zero(t, tried["TRUNCATE"], "checkpoints that block the writer, of %v", tried)
	require.NotZero(t, tried["PASSIVE"], "no checkpoint was tried at all")
	require.NoError(t, reader.Rollback())
	n.mustClose(t)
}

// checkpoints is how many checkpoints Litestream has attempted on the database, by
// SQLite's mode.
func checkpoints(t testing.TB, path string) map[string]float64 {
	t.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	require.NoError(t, err)
	tried := map[string]float64{}
	for _, family := range families {
		if family.GetName() != "litestream_checkpoint_count" {
			continue
		}
		for _, m := range family.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["db"] == path {
				tried[labels["mode"]] += m.GetCounter().GetValue()
			}
		}
	}
	return tried
}
