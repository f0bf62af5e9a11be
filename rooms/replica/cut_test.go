package replica

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/stretchr/testify/require"
	"github.com/superfly/ltx"

	"parlor/rooms/sqlite"
)

// stagedAlone makes a room that is staged and not uploaded.
func (n *node) stagedAlone(t testing.TB, name string) {
	t.Helper()
	n.mustCreate(t, name)
	require.NoError(t, n.store.Between(t.Context(), n.replica.Sync))
	require.Greater(t, n.replica.upload.provenTo(), n.replica.db.Replica.Pos().TXID, "it is uploaded")
}

// cutWAL takes the last frame from a WAL.
func cutWAL(t testing.TB, dir string) { cutWALBy(t, dir, 4096+walFrameHeader) }

func cutWALBy(t testing.TB, dir string, bytes int64) {
	t.Helper()
	fi, err := os.Stat(database(dir) + "-wal")
	require.NoError(t, err)
	require.NoError(t, os.Truncate(database(dir)+"-wal", fi.Size()-bytes))
}

// What was staged before the WAL was lost, and did not reach the replica, is not lost.
func TestWhatWasStagedOutlivesTheWAL(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, a *node, dir, copied string) string{
		"cut while the server runs": func(t *testing.T, a *node, dir, _ string) string {
			cutWAL(t, dir)
			_ = a.create("during")
			require.ErrorIs(t, a.replica.Barrier(within(t, time.Minute)), errCut)
			_ = a.close(within(t, 3*time.Second))
			return dir
		},
		"cut within a page while the server runs": func(t *testing.T, a *node, dir, _ string) string {
			cutWALBy(t, dir, 100)
			_ = a.create("during") // the WAL is long again
			require.ErrorIs(t, a.replica.Barrier(within(t, time.Minute)), errCut)
			_ = a.close(within(t, 3*time.Second))
			return dir
		},
		"cut after it was killed": func(t *testing.T, a *node, _, copied string) string {
			a.vanish(t)
			cutWAL(t, copied)
			return copied
		},
		"removed after it was killed": func(t *testing.T, a *node, _, copied string) string {
			a.vanish(t)
			require.NoError(t, os.Remove(database(copied)+"-wal"))
			require.NoError(t, os.Remove(database(copied)+"-shm"))
			return copied
		},
	} {
		for _, damaged := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, damaged: %v", name, damaged), func(t *testing.T) {
				t.Parallel()
				config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica"), SyncInterval: time.Hour, CheckInterval: time.Hour}
				dir, copied := t.TempDir(), t.TempDir()
				a := mustOpen(t, dir, "", config)
				a.mustCreate(t, "uploaded")
				a.mustBarrier(t)
				a.replica.endMerging() // a snapshot would have what is staged, too
				a.stagedAlone(t, "staged")
				a.stagedAlone(t, "staged last")
				require.NoError(t, os.CopyFS(copied, os.DirFS(dir))) // what a kill leaves
				last := a.replica.upload.provenTo()
				left := lose(t, a, dir, copied)
				want, most := []string{"staged", "staged last", "uploaded"}, last
				if damaged {
					require.NoError(t, half(litestream.LTXFilePath(litestreamPath(database(left)), 0, last, last)))
					want, most = []string{"staged", "uploaded"}, last-1
				}
				b := mustOpen(t, left, "b", config)
				require.Equal(t, want, b.names(t))
				b.mustClose(t)
				c := mustOpen(t, t.TempDir(), "c", config)
				require.Equal(t, want, c.names(t))
				first, err := c.replica.place.client(1)
				require.NoError(t, err)
				is, err := lastTXID(t.Context(), first)
				require.NoError(t, err)
				require.Equal(t, most, is, "what Litestream made of a WAL that was cut is uploaded")
				c.mustClose(t)
			})
		}
	}
}

// A start that dies while it moves a database and its stage aside is gone on with, wherever
// it died.
func TestAKillWhileADatabaseIsMovedAside(t *testing.T) {
	t.Parallel()
	config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica"), LeaseTTL: shortTTL}
	dir := t.TempDir()
	a := mustOpen(t, dir, "a", config)
	a.mustCreate(t, "one")
	a.mustBarrier(t)
	image := t.TempDir()
	require.NoError(t, os.CopyFS(image, os.DirFS(dir)))
	a.mustClose(t)
	cutWAL(t, image)
	for made := range 6 {
		here := t.TempDir()
		require.NoError(t, os.CopyFS(here, os.DirFS(image)))
		l, err := readLocal(database(here))
		require.NoError(t, err)
		dies := &Replica{path: database(here), local: l, doubt: true}
		dies.local.Cut = true
		require.NoError(t, dies.beginAside())
		moves := dies.asideMoves()
		require.Len(t, moves, 5)
		for _, m := range moves[:made] {
			if err := os.Rename(m.from, m.to); !errors.Is(err, fs.ErrNotExist) {
				require.NoError(t, err)
			}
		}
		b := mustOpen(t, here, fmt.Sprint("b", made), config)
		require.Equal(t, []string{"one"}, b.names(t))
		b.mustClose(t)
		require.FileExists(t, dies.local.Aside)
		require.FileExists(t, dies.local.Aside+"-wal")
		kept, err := os.ReadDir(filepath.Join(litestreamPath(dies.local.Aside), "ltx", "0"))
		require.NoError(t, err)
		require.NotEmpty(t, kept, "what was staged is kept")
		l, err = readLocal(database(here))
		require.NoError(t, err)
		require.Empty(t, l.Aside)
	}
}

// A database whose WAL was lost is kept only if it is whole, however new it says to be.
func TestAMixtureOfOldAndNewIsNotBelieved(t *testing.T) {
	t.Parallel()
	for name, mix := range map[string]func(t *testing.T, older, newer []byte, page int) []byte{
		"whole":                                func(_ *testing.T, _, newer []byte, _ int) []byte { return newer },
		"whole, and SQLite left the WAL empty": func(_ *testing.T, _, newer []byte, _ int) []byte { return newer },
		"an older page": func(t *testing.T, older, newer []byte, page int) []byte {
			require.NotEqual(t, older[page*4096:][:4096], newer[page*4096:][:4096])
			copy(newer[page*4096:][:4096], older[page*4096:][:4096])
			return newer
		},
		"the number of the newest event alone": func(t *testing.T, older, newer []byte, _ int) []byte {
			for at := 0; at+4096 <= len(older); at += 4096 {
				if bytes.Contains(newer[at:][:4096], []byte("DB_")) { // the page of meta
					copy(older[at:][:4096], newer[at:][:4096])
					return older
				}
			}
			require.FailNow(t, "the page is not found")
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica"), SyncInterval: time.Hour, CheckInterval: time.Hour}
			dir, copied := t.TempDir(), t.TempDir()
			a := mustOpen(t, dir, "", config)
			a.mustCreate(t, "before")
			a.mustBarrier(t)
			require.NoError(t, os.CopyFS(copied, os.DirFS(dir))) // what a kill leaves
			a.vanish(t)
			_ = namesIn(t, database(copied)) // its WAL comes into the file
			older, err := os.ReadFile(database(copied))
			require.NoError(t, err)
			s, err := sqlite.Open(t.Context(), sqlite.Config{Path: database(copied)})
			require.NoError(t, err)
			(&node{store: s}).mustCreate(t, "after")
			require.NoError(t, s.Close(t.Context()))
			db, err := sql.Open("sqlite", database(copied))
			require.NoError(t, err)
			var page int
			require.NoError(t, db.QueryRow("SELECT rootpage FROM sqlite_schema WHERE name = 'event'").Scan(&page))
			require.NoError(t, db.Close())
			newer, err := os.ReadFile(database(copied))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(database(copied), mix(t, older, newer, page-1), 0o600))
			if strings.HasSuffix(name, "empty") {
				require.NoError(t, os.WriteFile(database(copied)+"-wal", nil, 0o600))
			}
			b := mustOpen(t, copied, "b", config)
			want, moved := []string{"before"}, 1
			if strings.HasPrefix(name, "whole") {
				want, moved = []string{"after", "before"}, 0
			}
			require.Equal(t, want, b.names(t))
			b.mustClose(t)
			aside, err := filepath.Glob(database(copied) + ".epoch-1-*Z")
			require.NoError(t, err)
			require.Len(t, aside, moved)
		})
	}
}

// A check reads what is new in the WAL. All of it is looked at more rarely, and a hole in
// what is old is found then.
func TestAHoleInTheOldPartOfTheWAL(t *testing.T) {
	t.Parallel()
	config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica"), CheckInterval: time.Millisecond}
	dir := t.TempDir()
	a := mustOpen(t, dir, "", config)
	a.mustCreate(t, "before", "and then")
	a.mustBarrier(t)
	a.replica.endMerging() // it makes snapshots, too
	w := &walWatch{database: database(dir), sql: a.replica.db.SQLDB}
	before, err := w.whole(t.Context())
	require.NoError(t, err)
	require.Greater(t, before.frames, int64(2))
	wal, err := os.OpenFile(database(dir)+"-wal", os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = wal.WriteAt(make([]byte, 100), before.offset(0)+walFrameHeader)
	require.NoError(t, err)
	require.NoError(t, wal.Close())
	_, err = w.since(t.Context(), &before)
	require.NoError(t, err, "only what is new is read")
	require.Eventually(t, func() bool {
		s := a.replica.Status()
		return s.Stage == StageLocal && strings.Contains(s.LastError, "cut")
	}, time.Minute, 5*time.Millisecond)
	_ = a.close(within(t, 3*time.Second))
}

// All of the WAL is looked at before SQLite copies it into the database, which would have the
// hole then.
func TestAHoleIsFoundBeforeItIsInTheDatabase(t *testing.T) {
	t.Parallel()
	for name, copies := range map[string]func(t *testing.T, a *node) error{
		"by a checkpoint": func(t *testing.T, a *node) error {
			require.NoError(t, a.store.Between(t.Context(), func(context.Context) error { a.replica.db.MinCheckpointPageN = 1; return nil }))
			return a.replica.Barrier(within(t, time.Minute))
		},
		"by a checkpoint after a while": func(t *testing.T, a *node) error {
			require.NoError(t, a.store.Between(t.Context(), func(context.Context) error { a.replica.db.CheckpointInterval = 1; return nil }))
			return a.replica.Barrier(within(t, time.Minute))
		},
		"as it is closed": func(t *testing.T, a *node) error { return a.close(within(t, time.Minute)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica"), SyncInterval: time.Hour, CheckInterval: time.Hour}
			dir := t.TempDir()
			a := mustOpen(t, dir, "", config)
			a.mustCreate(t, "before", "and then")
			a.mustBarrier(t)
			a.replica.endMerging() // it makes snapshots, too
			w := &walWatch{database: database(dir), sql: a.replica.db.SQLDB}
			is, err := w.whole(t.Context())
			require.NoError(t, err)
			wal, err := os.OpenFile(database(dir)+"-wal", os.O_RDWR, 0)
			require.NoError(t, err)
			_, err = wal.WriteAt(make([]byte, 100), is.offset(0)+walFrameHeader)
			require.NoError(t, err)
			require.NoError(t, wal.Close())
			require.ErrorIs(t, copies(t, a), errCut)
			_ = a.close(within(t, time.Minute))
			b := mustOpen(t, dir, "", config)
			require.Equal(t, []string{"and then", "before"}, b.names(t))
			b.mustClose(t)
			aside, err := filepath.Glob(database(dir) + ".epoch-1-*Z")
			require.NoError(t, err)
			require.Len(t, aside, 1)
		})
	}
}

// What Litestream stages may be uploaded before the writer has looked at the WAL again. Then
// the upload looks at it.
func TestWhatIsStagedOfACutWALIsNotUploaded(t *testing.T) {
	t.Parallel()
	config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica"), SyncInterval: time.Hour, CheckInterval: time.Hour}
	dir := t.TempDir()
	a := mustOpen(t, dir, "", config)
	a.mustCreate(t, "uploaded")
	a.mustBarrier(t)
	a.replica.endMerging()
	a.replica.upload.stop() // the uploads are this test's
	// staged is what Litestream has staged after two commits, and the writer not looked at.
	staged := func(between func()) ltx.TXID {
		require.NoError(t, a.store.Between(t.Context(), func(ctx context.Context) error {
			for range 2 {
				_, err := a.replica.db.SQLDB().ExecContext(ctx, "INSERT INTO _litestream_seq (id, seq) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET seq = seq + 1")
				require.NoError(t, err)
			}
			between()
			return a.replica.db.Sync(ctx)
		}))
		pos, err := a.replica.db.Pos()
		require.NoError(t, err)
		require.Greater(t, pos.TXID, a.replica.upload.provenTo())
		return pos.TXID
	}
	uploaded := func() ltx.TXID {
		first, err := a.replica.place.client(1)
		require.NoError(t, err)
		last, err := lastTXID(t.Context(), first)
		require.NoError(t, err)
		return last
	}
	whole := staged(func() {})
	require.NoError(t, a.replica.upload.upload(t.Context()))
	require.Equal(t, whole, uploaded())
	require.Greater(t, staged(func() { cutWAL(t, dir) }), whole, "the first of the two commits is still there")
	require.ErrorIs(t, a.replica.upload.upload(t.Context()), errCut)
	require.Equal(t, whole, uploaded())
	s := a.replica.Status()
	require.Equal(t, StageLocal, s.Stage, "nothing is wrong with the replica")
	_ = a.close(within(t, 3*time.Second))
	require.Equal(t, whole, uploaded())
}

// A WAL that is cut before the first stage of a start is no beginning: the start fails, and the
// next one has what the replica has.
func TestTheWALIsCutDuringAStart(t *testing.T) {
	t.Parallel()
	config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica"), Log: testLog(t)}
	dir := t.TempDir()
	a := mustOpen(t, dir, "", config)
	a.mustCreate(t, "uploaded")
	a.mustClose(t)
	r := prepared(t, config)
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: database(dir), Prepare: r.Prepare, Allow: r.Check})
	require.NoError(t, err)
	n := &node{store: s, replica: r}
	n.mustCreate(t, "one", "two")
	cutWALBy(t, dir, 100)
	n.mustCreate(t, "three")
	err = r.Start(within(t, time.Minute), s.Between)
	_ = n.close(within(t, 3*time.Second))
	require.ErrorIs(t, err, errCut)
	b := mustOpen(t, dir, "", config)
	require.Equal(t, []string{"uploaded"}, b.names(t))
	b.mustClose(t)
}

// prepared is a replica that reads the databases of the tests.
func prepared(t testing.TB, c Config) *Replica {
	t.Helper()
	c.ReadEpoch, c.ReadSeq, c.Sound = sqlite.ReadEpoch, sqlite.ReadSeq, sqlite.Sound
	r, err := New(c)
	require.NoError(t, err)
	return r
}

// A cut of which it is not known what was staged before it, as an earlier version noted it:
// what is staged is not believed.
func TestACutAtAnUnknownPlace(t *testing.T) {
	t.Parallel()
	config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica"), SyncInterval: time.Hour, CheckInterval: time.Hour}
	dir := t.TempDir()
	a := mustOpen(t, dir, "", config)
	a.mustCreate(t, "uploaded")
	a.mustBarrier(t)
	a.replica.endMerging() // a snapshot would have what is staged, too
	uploaded := a.replica.upload.provenTo()
	a.stagedAlone(t, "staged")
	cutWAL(t, dir)
	_ = a.create("during")
	require.ErrorIs(t, a.replica.Barrier(within(t, time.Minute)), errCut)
	_ = a.close(within(t, 3*time.Second))
	l, err := readLocal(database(dir))
	require.NoError(t, err)
	require.True(t, l.Cut)
	require.NotZero(t, l.Staged)
	left, err := replicatedTo(database(dir))
	require.NoError(t, err)
	require.Equal(t, l.Staged, left, "what Litestream made of a WAL that was cut is left")
	l.Staged = 0
	require.NoError(t, l.write(database(dir)))
	b := mustOpen(t, dir, "", config)
	require.Equal(t, []string{"uploaded"}, b.names(t))
	first, err := b.replica.place.client(1)
	require.NoError(t, err)
	is, err := lastTXID(t.Context(), first)
	require.NoError(t, err)
	require.Equal(t, uploaded, is)
	b.mustClose(t)
}

// The writer can begin another round of the WAL between two reads of it. A frame of the round
// before is no part of this one.
func TestAFrameOfAnEarlierRound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := mustOpen(t, dir, "", Config{URL: "file://" + filepath.Join(t.TempDir(), "replica"), CheckInterval: time.Hour})
	a.mustCreate(t, "one")
	a.mustBarrier(t)
	wal, err := os.ReadFile(database(dir) + "-wal")
	require.NoError(t, err)
	other := filepath.Join(t.TempDir(), "other.db")
	w := &walWatch{database: other, sql: a.replica.db.SQLDB}
	fine := func(*walState, io.ReaderAt) (bool, error) { return true, nil } // it has caught up by then
	require.NoError(t, os.WriteFile(other+"-wal", wal, 0o600))
	_, err = w.state(t.Context(), fine)
	require.NoError(t, err)
	wal[16]++ // the salt of the header
	require.NoError(t, os.WriteFile(other+"-wal", wal, 0o600))
	_, err = w.state(t.Context(), fine)
	require.ErrorIs(t, err, errCut)
	a.mustClose(t)
}

// A machine that restored the newest generation, and never served, restores it again if another
// machine brought there meanwhile what it had staged.
func TestWhatIsBroughtAfterARestore(t *testing.T) {
	t.Parallel()
	config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica"), SyncInterval: time.Hour, CheckInterval: time.Hour, Log: testLog(t)}
	dir, killed, elsewhere := t.TempDir(), t.TempDir(), t.TempDir()
	a := mustOpen(t, dir, "a", config)
	a.mustCreate(t, "uploaded")
	a.mustBarrier(t)
	a.replica.endMerging() // a snapshot would have what is staged, too
	a.stagedAlone(t, "staged")
	require.NoError(t, os.CopyFS(killed, os.DirFS(dir)))
	a.vanish(t)
	require.NoError(t, os.Remove(database(killed)+"-wal"))
	require.NoError(t, os.Remove(database(killed)+"-shm"))
	for _, start := range []struct{ machine, dir string }{{"b", elsewhere}, {"a", killed}} { // and dies before it serves
		config.Machine = start.machine
		r := prepared(t, config)
		require.NoError(t, r.Prepare(within(t, time.Minute), database(start.dir)))
		require.NoError(t, r.Close(within(t, time.Minute)))
	}
	b := mustOpen(t, elsewhere, "b", config)
	require.Equal(t, []string{"staged", "uploaded"}, b.names(t))
	b.mustClose(t)
}

// A machine whose identity is new at each start goes on with what it restored, until another
// machine has brought something to the replica.
func TestAnIdentityThatChangesAtEachStart(t *testing.T) {
	t.Parallel()
	config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica"), SyncInterval: time.Hour, CheckInterval: time.Hour, Log: testLog(t)}
	dir, killed, here := t.TempDir(), t.TempDir(), t.TempDir()
	a := mustOpen(t, dir, "a", config)
	a.mustCreate(t, "uploaded")
	a.mustBarrier(t)
	a.replica.endMerging() // a snapshot would have what is staged, too
	a.stagedAlone(t, "staged")
	require.NoError(t, os.CopyFS(killed, os.DirFS(dir)))
	a.vanish(t)
	require.NoError(t, os.Remove(database(killed)+"-wal"))
	require.NoError(t, os.Remove(database(killed)+"-shm"))
	start := func(machine, dir string) { // and dies before it serves
		config.Machine = machine
		r := prepared(t, config)
		require.NoError(t, r.Prepare(within(t, time.Minute), database(dir)))
		require.NoError(t, r.Close(within(t, time.Minute)))
	}
	aside := func() []string {
		all, err := filepath.Glob(database(here) + ".epoch-*Z")
		require.NoError(t, err)
		return all
	}
	for _, machine := range []string{"first", "second", "third"} {
		start(machine, here)
	}
	require.Empty(t, aside(), "it was restored again")
	start("a", killed) // brings what was staged
	b := mustOpen(t, here, "fourth", config)
	require.Equal(t, []string{"staged", "uploaded"}, b.names(t))
	b.mustClose(t)
	require.Len(t, aside(), 1)
}

// copyAsItCloses is a log that copies a database's folder when Litestream is about to upload
// what it has, the last time as it closes.
type copyAsItCloses struct {
	t       *testing.T
	dir     string
	closing atomic.Bool
	copied  string // the newest copy
}

func (c *copyAsItCloses) Write(line []byte) (int, error) {
	if c.closing.Load() && strings.Contains(string(line), "replica sync") {
		c.copied = c.t.TempDir()
		if err := os.CopyFS(c.copied, os.DirFS(c.dir)); err != nil {
			c.t.Error(err)
		}
	}
	return len(line), nil
}

// A process that is killed as it closes, before SQLite has copied the WAL into the database,
// leaves the same as any that is killed: the loss of its WAL is noticed.
func TestAKillAsItCloses(t *testing.T) {
	t.Parallel()
	log := &copyAsItCloses{t: t, dir: t.TempDir()}
	config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica"), SyncInterval: time.Hour, CheckInterval: time.Hour}
	config.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug - 4}))
	a, err := openNode(within(t, time.Minute), log.dir, "a", config)
	require.NoError(t, err)
	a.mustCreate(t, "one")
	a.mustBarrier(t)
	log.closing.Store(true)
	a.mustClose(t)
	require.NotEmpty(t, log.copied)
	require.NoError(t, os.Remove(database(log.copied)+"-wal"))
	require.NoError(t, os.Remove(database(log.copied)+"-shm"))
	b := mustOpen(t, log.copied, "a", config)
	require.Equal(t, []string{"one"}, b.names(t))
	b.mustClose(t)
}
