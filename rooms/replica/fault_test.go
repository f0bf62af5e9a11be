package replica

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"parlor/rooms/replica/s3test"

	"github.com/benbjohnson/litestream"
	"github.com/stretchr/testify/require"
	"github.com/superfly/ltx"
)

// harm is a node and its replica in a directory, to be damaged.
type harm struct {
	*node
	t   *testing.T
	dir string // folder of the database
	at  string // folder of the replica
}

// staged is the folder of staged files, and uploaded that of the replica's files.
func (h harm) staged() string { return filepath.Join(litestreamPath(database(h.dir)), "ltx", "0") }
func (h harm) uploaded() string {
	return filepath.Join(h.at, generation(h.replica.Epoch()), "ltx", "0")
}

// newest is the newest file in a folder of staged or uploaded files.
func (h harm) newest(folder string) (path string, id ltx.TXID) {
	h.t.Helper()
	entries, err := os.ReadDir(folder)
	require.NoError(h.t, err)
	for _, e := range entries {
		if _, to, err := ltx.ParseFilename(e.Name()); err == nil && to > id {
			path, id = filepath.Join(folder, e.Name()), to
		}
	}
	require.NotZero(h.t, id)
	return path, id
}

// stages makes a room, and waits until it is staged.
func (h harm) stages(name string) {
	h.t.Helper()
	_, before := h.newest(h.staged())
	h.mustCreate(h.t, name)
	require.Eventually(h.t, func() bool { _, now := h.newest(h.staged()); return now > before }, time.Minute, 5*time.Millisecond)
}

// away makes the replica unreachable: below a file even root cannot write.
func (h harm) away() {
	require.NoError(h.t, os.Rename(h.at, h.at+".away"))
	require.NoError(h.t, os.WriteFile(h.at, nil, 0o600))
}

func (h harm) back() {
	require.NoError(h.t, os.Remove(h.at))
	require.NoError(h.t, os.Rename(h.at+".away", h.at))
}

func (h harm) must(err error) {
	h.t.Helper()
	require.NoError(h.t, err)
}

func half(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, fi.Size()/2)
}

// TestEveryFaultIsToldAndHeals: whatever breaks between a write and the replica, the
// write succeeds, the lag grows, the failing stage is reported, and all data is
// replicated in the end, by itself or after the operator followed the advice.
func TestEveryFaultIsToldAndHeals(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		harm  func(h harm)
		mend  func(h harm) // nil = no action is needed
		stage Stage
		says  string
		fresh bool // a new generation begins
	}{
		{name: "the newest staged file is removed", stage: StageLocal, says: "no such file", fresh: true, harm: func(h harm) {
			path, _ := h.newest(h.staged())
			h.must(os.Remove(path))
		}},
		{name: "the newest staged file is emptied", stage: StageLocal, says: "corrupted", fresh: true, harm: func(h harm) {
			path, _ := h.newest(h.staged())
			h.must(os.Truncate(path, 0))
		}},
		{name: "the newest staged file is unreadable", stage: StageLocal, says: "corrupted", fresh: true, harm: func(h harm) {
			path, _ := h.newest(h.staged())
			h.must(os.Remove(path))
			h.must(os.Mkdir(path, 0o700)) // even root cannot read it
		}},
		{name: "the folder is removed", stage: StageLocal, says: "no such file", fresh: true, harm: func(h harm) {
			h.must(os.RemoveAll(litestreamPath(database(h.dir))))
		}},
		{name: "the folder starts over", stage: StageLocal, says: errAstray.Error(), fresh: true, harm: func(h harm) {
			h.must(os.RemoveAll(litestreamPath(database(h.dir))))
			_, err := h.replica.db.MaxLTXFileInfo(h.t.Context(), 0)
			h.must(err)
			h.must(h.replica.store.DBs()[0].ResetLocalState(h.t.Context())) // as Litestream does when it checks its files
		}},
		{name: "something is in the way of the next file", stage: StageLocal, says: "is a directory", fresh: true, harm: func(h harm) {
			_, id := h.newest(h.staged())
			h.must(os.MkdirAll(filepath.Join(h.staged(), ltx.FormatFilename(id+1, id+1)+".tmp", "full"), 0o700))
		}},
		{name: "the folder cannot be written", stage: StageLocal, says: "make " /* the folder one that can be written */, fresh: true, harm: func(h harm) {
			folder := litestreamPath(database(h.dir))
			h.must(os.Rename(folder, folder+".aside"))
			h.must(os.WriteFile(folder, nil, 0o600))
		}, mend: func(h harm) { h.must(os.Remove(litestreamPath(database(h.dir)))) }},
		{name: "the disk is full", stage: StageLocal, says: "make room", harm: func(h harm) {
			_, id := h.newest(h.staged())
			h.must(os.Symlink("/dev/full", filepath.Join(h.staged(), ltx.FormatFilename(id+1, id+1)+".tmp")))
		}},
		{name: "a file is removed before it is uploaded", stage: StageUpload, says: "no such file", fresh: true, harm: func(h harm) {
			h.away()
			h.stages("unlucky")
			path, _ := h.newest(h.staged())
			h.stages("lucky")
			h.must(os.Remove(path))
			h.back()
		}},
		{name: "a file is cut before it is uploaded", stage: StageUpload, says: errStaged.Error(), fresh: true, harm: func(h harm) {
			h.away()
			h.stages("unlucky")
			path, _ := h.newest(h.staged())
			h.stages("lucky")
			h.must(half(path))
			h.back()
		}},
		{name: "the replica is gone", stage: StageUpload, says: "not a directory", harm: harm.away, mend: harm.back},
		{name: "the generation on the replica is removed", stage: StageCheck, says: errGap.Error(), fresh: true, harm: func(h harm) {
			h.must(os.RemoveAll(filepath.Join(h.at, generation(h.replica.Epoch()))))
		}},
		{name: "a file on the replica is removed", stage: StageCheck, says: errGap.Error(), fresh: true, harm: func(h harm) {
			h.stages("lost") // otherwise a snapshot may contain it
			h.mustBarrier(h.t)
			path, _ := h.newest(h.uploaded())
			h.must(os.Remove(path))
		}},
		{name: "a file of somebody else's is on the replica", stage: StageCheck, says: errGap.Error(), fresh: true, harm: func(h harm) {
			path, id := h.newest(h.uploaded())
			b, err := os.ReadFile(path)
			h.must(err)
			h.must(os.WriteFile(filepath.Join(h.uploaded(), ltx.FormatFilename(id+100, id+100)), b, 0o600))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := harm{t: t, dir: t.TempDir(), at: filepath.Join(t.TempDir(), "replica")}
			config := Config{URL: "file://" + h.at, SyncInterval: 100 * time.Millisecond, CheckInterval: 200 * time.Millisecond}
			h.node = mustOpen(t, h.dir, "a", config)
			h.mustCreate(t, "before")
			h.mustBarrier(t)
			require.Eventually(t, func() bool { // otherwise the first snapshot may heal the fault
				snapshots, err := os.ReadDir(filepath.Join(h.at, generation(1), "ltx", strconv.Itoa(litestream.SnapshotLevel)))
				return err == nil && len(snapshots) > 0
			}, time.Minute, 5*time.Millisecond)
			began := h.replica.Status()
			tc.harm(h)
			h.mustCreate(t, "during")
			written := time.Now()
			var s Status
			failures := func(s Status) uint64 {
				n := uint64(0)
				for _, f := range s.Faults {
					if f.Stage == tc.stage {
						n = f.Failures
					}
				}
				return n
			}
			var told, lag bool
			require.Eventually(t, func() bool { // a fault that heals at once is visible only in the counters
				s = h.replica.Status()
				if s.Lag > 0 && !lag {
					lag = true
					require.True(t, time.Now().Add(-s.Lag).Before(written.Add(time.Second)), "the lag counts from the first write that is not there, and is %v", s.Lag)
				}
				told = told || (s.Stage == tc.stage && strings.Contains(s.LastError, tc.says))
				return lag && told && failures(s) > failures(began)
			}, time.Minute, time.Millisecond, "%+v", &s)
			if tc.mend != nil {
				require.NotZero(t, h.replica.Status().Lag)
				tc.mend(h)
			}
			require.Eventually(t, func() bool { s = h.replica.Status(); return s.Lag == 0 && s.LastError == "" }, time.Minute, 5*time.Millisecond, "%+v", &s)
			if tc.fresh {
				require.EqualValues(t, 1, s.Begun)
				require.EqualValues(t, 2, s.Epoch)
			} else {
				require.Zero(t, s.Begun)
			}
			m, err := h.store.Meta(t.Context())
			require.NoError(t, err)
			require.Equal(t, s.Epoch, m.Epoch, "events bear the new epoch")
			h.mustCreate(t, "after")
			h.mustBarrier(t)
			names := h.names(t)
			h.mustClose(t)
			to := filepath.Join(t.TempDir(), "restored.db")
			_, err = Restore(t.Context(), RestoreConfig{URL: config.URL, To: to})
			require.NoError(t, err)
			require.Equal(t, names, namesIn(t, to))
			b := mustOpen(t, h.dir, "a", config)
			require.Equal(t, names, b.names(t))
			b.mustClose(t)
		})
	}
}

// TestAStopHealsToo: a server that is stopped right after the fault replicates its last
// changes before it ends.
func TestAStopHealsToo(t *testing.T) {
	t.Parallel()
	h := harm{t: t, dir: t.TempDir(), at: filepath.Join(t.TempDir(), "replica")}
	config := Config{URL: "file://" + h.at}
	h.node = mustOpen(t, h.dir, "a", config)
	h.mustCreate(t, "before")
	h.mustBarrier(t)
	path, _ := h.newest(h.staged())
	h.must(os.Remove(path))
	h.mustCreate(t, "after")
	h.mustClose(t)
	b := mustOpen(t, t.TempDir(), "b", config)
	require.Equal(t, []string{"after", "before"}, b.names(t))
	b.mustClose(t)
}

// TestWhatWasLeftCannotBeGoneOnWith: a start that finds its folder damaged begins a new
// generation and does not fail.
func TestWhatWasLeftCannotBeGoneOnWith(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(string) error{
		"cut": half, "emptied": func(path string) error { return os.Truncate(path, 0) }, "removed": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := harm{t: t, dir: t.TempDir(), at: filepath.Join(t.TempDir(), "replica")}
			config := Config{URL: "file://" + h.at}
			h.node = mustOpen(t, h.dir, "a", config)
			h.mustCreate(t, "before")
			h.mustBarrier(t)
			h.mustClose(t)
			path, _ := h.newest(h.staged())
			h.must(damage(path))
			h.node = mustOpen(t, h.dir, "a", config)
			require.EqualValues(t, 2, h.replica.Epoch())
			h.mustCreate(t, "after")
			h.mustClose(t)
			b := mustOpen(t, t.TempDir(), "b", config)
			require.Equal(t, []string{"after", "before"}, b.names(t))
			b.mustClose(t)
		})
	}
}

// TestACrashWhileAGenerationIsGivenUp: the replica was unreachable meanwhile, the machine
// has rebooted, and the database here is still the newest.
func TestACrashWhileAGenerationIsGivenUp(t *testing.T) {
	t.Parallel()
	h := harm{t: t, dir: t.TempDir(), at: filepath.Join(t.TempDir(), "replica")}
	config := Config{URL: "file://" + h.at, SyncInterval: 100 * time.Millisecond}
	h.node = mustOpen(t, h.dir, "boot 1", config)
	h.mustCreate(t, "before")
	h.mustBarrier(t)
	h.away()
	path, _ := h.newest(h.staged())
	h.must(os.Remove(path))
	h.mustCreate(t, "during")
	var s Status
	require.Eventually(t, func() bool {
		s = h.replica.Status()
		return s.Faults[1].Stage == StageGeneration && s.Faults[1].Failures > 0
	}, time.Minute, 5*time.Millisecond)
	require.NotZero(t, s.Lag)
	h.vanish(t)
	h.back()
	h.node = mustOpen(t, h.dir, "boot 2", config)
	require.EqualValues(t, 2, h.replica.Epoch())
	require.Equal(t, []string{"before", "during"}, h.names(t), "it was taken for an old image of the disk")
	h.mustClose(t)
}

// TestTheWALIsTakenAway: other processes cannot read SQLite's later writes. This is
// reported with advice, and following it loses no data.
func TestTheWALIsTakenAway(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(path string) error{
		"removed": os.Remove,
		"replaced by its copy": func(path string) error {
			b, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path+".copy", b, 0o600)
			}
			return errors.Join(err, os.Rename(path+".copy", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica")}
			dir := t.TempDir()
			a := mustOpen(t, dir, "", config)
			a.mustCreate(t, "before")
			a.mustBarrier(t)
			_ = a.names(t) // a reader has it open too
			require.NoError(t, take(database(dir)+"-wal"))
			a.mustCreate(t, "during")
			var s Status
			require.Eventually(t, func() bool { s = a.replica.Status(); return s.Stage == StageLocal && s.Lag > 0 }, time.Minute, 5*time.Millisecond)
			require.Contains(t, s.LastError, "start it again")
			require.ErrorIs(t, a.replica.Barrier(within(t, time.Minute)), errWAL, "nobody is told that it is on the replica")
			require.NoError(t, a.store.Close(within(t, time.Minute)))
			require.ErrorIs(t, a.replica.Close(within(t, time.Minute)), errWAL)
			a = mustOpen(t, dir, "", config)
			require.Equal(t, []string{"before", "during"}, a.names(t))
			a.mustClose(t)
			b := mustOpen(t, t.TempDir(), "b", config)
			require.Equal(t, []string{"before", "during"}, b.names(t))
			b.mustClose(t)
		})
	}
}

// TestTheWALIsCut: its content is lost here. This is reported, the replica keeps its data,
// and so does the next start.
func TestTheWALIsCut(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(size int64) int64{
		"to nothing":      func(int64) int64 { return 0 },
		"to its half":     func(size int64) int64 { return size / 2 },
		"by a frame":      func(size int64) int64 { return size - 4096 - walFrameHeader },
		"within a header": func(int64) int64 { return walHeader / 2 },
	} {
		for _, again := range []string{"here", "elsewhere"} {
			t.Run(name+", restored "+again, func(t *testing.T) {
				t.Parallel()
				config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica"), CheckInterval: 20 * time.Millisecond}
				dir := t.TempDir()
				a := mustOpen(t, dir, "", config)
				a.mustCreate(t, "long before")
				a.mustBarrier(t)
				_, err := a.replica.db.SQLDB().Exec("PRAGMA wal_checkpoint(PASSIVE)") // the database could be read alone
				require.NoError(t, err)
				a.mustCreate(t, "before")
				a.mustBarrier(t)
				fi, err := os.Stat(database(dir) + "-wal")
				require.NoError(t, err)
				require.NoError(t, os.Truncate(database(dir)+"-wal", cut(fi.Size())))
				for range 3 {
					_ = a.create("during") // SQLite may notice
				}
				require.Eventually(t, func() bool {
					return a.replica.Barrier(within(t, time.Minute)) != nil || a.store.Stats().Failing != ""
				}, time.Minute, 5*time.Millisecond)
				require.Error(t, a.replica.Barrier(within(t, time.Minute)), "nobody is told that it is on the replica")
				require.Error(t, a.create("afterwards"), "it would be lost")
				_ = a.close(within(t, 3*time.Second))
				if again == "elsewhere" {
					dir = t.TempDir()
				}
				b := mustOpen(t, dir, again, config)
				require.Contains(t, b.names(t), "before")
				require.Contains(t, b.names(t), "long before")
				b.mustCreate(t, "after")
				b.mustClose(t)
				c := mustOpen(t, t.TempDir(), "c", config)
				require.Contains(t, c.names(t), "before")
				require.Contains(t, c.names(t), "after")
				c.mustClose(t)
			})
		}
	}
}

// A WAL that is cut while nothing is written is found, and told.
func TestACutIsToldOfAnIdleServer(t *testing.T) {
	t.Parallel()
	config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica"), CheckInterval: 20 * time.Millisecond}
	dir := t.TempDir()
	a := mustOpen(t, dir, "", config)
	a.mustCreate(t, "before")
	a.mustBarrier(t)
	require.NoError(t, os.Truncate(database(dir)+"-wal", walHeader))
	require.Eventually(t, func() bool {
		s := a.replica.Status()
		return s.Stage == StageLocal && strings.Contains(s.LastError, "cut")
	}, time.Minute, 5*time.Millisecond)
	require.ErrorIs(t, a.replica.Check(), errCut)
	require.Error(t, a.create("afterwards"), "it would be lost")
	_ = a.close(within(t, 3*time.Second))
	staged, err := filepath.Glob(filepath.Join(dir, ".*litestream", "ltx", "0", "*"))
	require.NoError(t, err)
	b := mustOpen(t, dir, "", config)
	require.Equal(t, []string{"before"}, b.names(t))
	b.mustClose(t)
	kept, err := filepath.Glob(filepath.Join(dir, ".*epoch-*litestream", "ltx", "0", "*"))
	require.NoError(t, err)
	require.Len(t, kept, len(staged), "what was staged is kept for a person to look at")
}

// A disk that fails for a moment is no cut, and what it did not give is asked for again.
func TestAFailingDiskIsNoCut(t *testing.T) {
	t.Parallel()
	config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica")}
	dir := t.TempDir()
	a := mustOpen(t, dir, "", config)
	a.mustCreate(t, "before")
	a.mustBarrier(t)
	w := &walWatch{database: database(dir), sql: a.replica.db.SQLDB}
	first, err := w.whole(t.Context())
	require.NoError(t, err)
	a.mustCreate(t, "after")
	broken := errors.New("the disk does not answer")
	for _, at := range []int64{0, first.offset(first.frames), first.offset(first.frames - 1)} {
		_, err = w.look(t.Context(), func(s *walState, wal io.ReaderAt) (bool, error) {
			good, err := s.chained(t.Context(), badDisk{wal, at, broken}, 0, s.frames)
			require.False(t, good)
			return good, err
		})
		require.ErrorIs(t, err, broken)
		require.NotErrorIs(t, err, errCut)
		require.False(t, w.cut.Load())
	}
	_, err = w.since(t.Context(), &first)
	require.NoError(t, err)
	a.mustClose(t)
}

// badDisk is a file of which one place cannot be read.
type badDisk struct {
	io.ReaderAt
	at  int64
	err error
}

func (f badDisk) ReadAt(b []byte, at int64) (int, error) {
	if at <= f.at && f.at < at+int64(len(b)) {
		return 0, f.err
	}
	return f.ReaderAt.ReadAt(b, at)
}

// A WAL that is cut after its process was killed is not taken for the database's end.
func TestTheWALIsCutAfterACrash(t *testing.T) {
	t.Parallel()
	config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica")}
	dir, copied := t.TempDir(), t.TempDir()
	a := mustOpen(t, dir, "", config)
	a.mustCreate(t, "long before")
	a.mustBarrier(t)
	_, err := a.replica.db.SQLDB().Exec("PRAGMA wal_checkpoint(PASSIVE)")
	require.NoError(t, err)
	a.mustCreate(t, "before")
	a.mustBarrier(t)
	require.NoError(t, os.CopyFS(copied, os.DirFS(dir))) // what a kill leaves
	a.vanish(t)
	fi, err := os.Stat(database(copied) + "-wal")
	require.NoError(t, err)
	require.NoError(t, os.Truncate(database(copied)+"-wal", fi.Size()-4096-walFrameHeader))
	b := mustOpen(t, copied, "b", Config{URL: config.URL, LeaseTTL: config.LeaseTTL})
	require.ElementsMatch(t, []string{"long before", "before"}, b.names(t))
	b.mustClose(t)
}

// SQLite's locks protect the database from other processes, and a file of the database that is
// opened and closed beside SQLite would drop them all. What another process finds of the locks
// stays the same while the WAL is looked at.
func TestLooksAtTheWALLeaveSQLitesLocks(t *testing.T) {
	if runtime.GOOS != "linux" {
		return // /proc/locks
	}
	config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica"), CheckInterval: 20 * time.Millisecond}
	dir := t.TempDir()
	a := mustOpen(t, dir, "", config)
	held := func() (n int) {
		id, err := fileID(database(dir) + "-shm")
		require.NoError(t, err)
		_, inode, _ := strings.Cut(id, ":")
		number, err := strconv.ParseUint(inode, 16, 64)
		require.NoError(t, err)
		locks, err := os.ReadFile("/proc/locks")
		require.NoError(t, err)
		return strings.Count(string(locks), fmt.Sprintf(":%d ", number))
	}
	require.Positive(t, held())
	a.replica.endMerging() // it makes snapshots, too
	for i := range 5 {
		a.mustCreate(t, fmt.Sprintf("room %d", i))
		a.mustBarrier(t)
		_, err := a.replica.wal.whole(t.Context())
		require.NoError(t, err)
		_, err = a.replica.db.Snapshot(within(t, time.Minute))
		require.NoError(t, err)
		require.Positive(t, held(), "SQLite's lock on the file is gone")
	}
	a.mustClose(t)
}

// A snapshot of a WAL that is not what SQLite wrote is not taken.
func TestNoSnapshotOfADamagedWAL(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(wal []byte){
		"nothing is left":            func(wal []byte) { clear(wal) },
		"a hole":                     func(wal []byte) { clear(wal[len(wal)/2:][:8192]) },
		"one bit":                    func(wal []byte) { wal[len(wal)/2] ^= 4 },
		"frames of an earlier round": func(wal []byte) { wal[walHeader+8]++ },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica")}
			dir := t.TempDir()
			a := mustOpen(t, dir, "", config)
			a.mustCreate(t, "before")
			a.mustBarrier(t)
			a.replica.endMerging()
			_, err := a.replica.db.Snapshot(within(t, time.Minute))
			require.NoError(t, err)
			a.mustCreate(t, "and then")
			a.mustBarrier(t)
			wal, err := os.ReadFile(database(dir) + "-wal")
			require.NoError(t, err)
			damage(wal)
			require.NoError(t, os.WriteFile(database(dir)+"-wal", wal, 0o600)) // in place
			_, err = a.replica.db.Snapshot(within(t, time.Minute))
			require.Error(t, err)
			_ = a.close(within(t, 3*time.Second))
			b := mustOpen(t, t.TempDir(), "b", config)
			require.ElementsMatch(t, []string{"before", "and then"}, b.names(t))
			b.mustClose(t)
		})
	}
}

// s3Man is a proxy between a node and S3 that can answer in S3's place.
type s3Man struct {
	answer atomic.Pointer[func(w http.ResponseWriter, r *http.Request) bool]
	over   chan struct{} // closed when S3 works again, which ends hanging requests
	url    string
}

func newS3Man(t *testing.T) *s3Man {
	m, address := &s3Man{over: make(chan struct{})}, s3Server.Address(t)
	to := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: address})
			p.Out.Host = p.In.Host
		},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := m.answer.Load(); f != nil && (*f)(w, r) {
			return
		}
		to.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	m.url = s3test.URL(t, strings.TrimPrefix(server.URL, "http://"))
	return m
}

// breakDown makes f answer until heal is called, at the latest at the end of the test.
func (m *s3Man) breakDown(t *testing.T, f func(m *s3Man, w http.ResponseWriter, r *http.Request) bool) (heal func()) {
	g := func(w http.ResponseWriter, r *http.Request) bool { return f(m, w, r) }
	m.answer.Store(&g)
	heal = sync.OnceFunc(func() {
		m.answer.Store(nil)
		close(m.over)
	})
	t.Cleanup(heal)
	return heal
}

// files reports whether r is about a generation's files, and not the lease.
func files(r *http.Request) bool { return strings.Contains(r.URL.String(), "ltx") }

// TestS3ThatFails: it refuses, hangs, or falsely confirms a write. Rooms continue, the
// failure is reported, and when S3 works again it has all data.
func TestS3ThatFails(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		answer func(m *s3Man, w http.ResponseWriter, r *http.Request) bool
		stage  Stage
		says   string
	}{
		{"refuses", func(_ *s3Man, w http.ResponseWriter, r *http.Request) bool {
			if files(r) {
				http.Error(w, "<Error><Code>AccessDenied</Code></Error>", http.StatusForbidden)
			}
			return files(r)
		}, StageUpload, "403"},
		{"hangs", func(m *s3Man, _ http.ResponseWriter, r *http.Request) bool {
			if files(r) {
				_, _ = io.Copy(io.Discard, r.Body) // otherwise the end of the caller is not noticed
				select {
				case <-r.Context().Done():
				case <-m.over:
				}
				panic(http.ErrAbortHandler)
			}
			return false
		}, StageUpload, "takes long"},
		{"lies", func(_ *s3Man, w http.ResponseWriter, r *http.Request) bool {
			lie := files(r) && r.Method == http.MethodPut
			if lie {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("ETag", `"00000000000000000000000000000000"`)
			}
			return lie
		}, StageCheck, errGap.Error()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			man := newS3Man(t)
			a := mustOpen(t, t.TempDir(), "a", Config{URL: man.url, LeaseTTL: time.Minute, CheckInterval: 200 * time.Millisecond, SyncInterval: 100 * time.Millisecond})
			a.mustCreate(t, "before")
			a.mustBarrier(t)
			heal := man.breakDown(t, tc.answer)
			a.mustCreate(t, "during")
			var s Status
			require.Eventually(t, func() bool {
				s = a.replica.Status()
				return s.Lag > 0 && s.Stage == tc.stage && strings.Contains(s.LastError, tc.says)
			}, time.Minute, time.Millisecond, "%+v", &s)
			for n := range 5 {
				a.mustCreate(t, fmt.Sprint("meanwhile ", n))
			}
			heal()
			require.Eventually(t, func() bool { s = a.replica.Status(); return s.Lag == 0 && s.LastError == "" }, 2*time.Minute, 5*time.Millisecond, "%+v", &s)
			names := a.names(t)
			a.vanish(t)
			to := filepath.Join(t.TempDir(), "restored.db")
			_, err := Restore(t.Context(), RestoreConfig{URL: s3URL(t), To: to})
			require.NoError(t, err)
			require.Equal(t, names, namesIn(t, to))
		})
	}
}

// TestAServiceThatIgnoresAConditionIsRefused, whichever of the two it ignores: with one of
// them a lease is taken for the first time, with the other one it is renewed and taken over.
func TestAServiceThatIgnoresAConditionIsRefused(t *testing.T) {
	t.Parallel()
	for _, header := range []string{"If-None-Match", "If-Match"} {
		t.Run(header, func(t *testing.T) {
			t.Parallel()
			man := newS3Man(t)
			a := mustOpen(t, t.TempDir(), "a", Config{URL: man.url}) // now owner.json exists
			a.mustClose(t)
			man.breakDown(t, func(_ *s3Man, w http.ResponseWriter, r *http.Request) bool {
				ignore := strings.HasSuffix(r.URL.Path, ownerName) && r.Header.Get(header) != ""
				if ignore {
					_, _ = io.Copy(io.Discard, r.Body)
					w.Header().Set("ETag", `"11111111111111111111111111111111"`)
				}
				return ignore
			})
			err := prepared(t, Config{URL: man.url}).Prepare(within(t, time.Minute), database(t.TempDir()))
			require.ErrorContains(t, err, "ignores the conditions")
		})
	}
}
