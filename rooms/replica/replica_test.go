package replica

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"parlor/rooms"
	"parlor/rooms/replica/s3test"

	"github.com/benbjohnson/litestream"
	"github.com/stretchr/testify/require"
)

// shortTTL is the lease's lifetime in tests that wait for its end: the shortest that a
// loaded machine can renew.
const shortTTL = 5 * time.Second

// everyPlace runs a test on both kinds of replica.
func everyPlace(t *testing.T, f func(t *testing.T, url string)) {
	t.Run("s3", func(t *testing.T) {
		t.Parallel()
		f(t, s3URL(t))
	})
	t.Run("file", func(t *testing.T) {
		t.Parallel()
		f(t, "file://"+filepath.Join(t.TempDir(), "replica"))
	})
}

func TestRestoreOnEmptyMachine(t *testing.T) {
	t.Parallel()
	everyPlace(t, func(t *testing.T, url string) {
		a := mustOpen(t, t.TempDir(), "a", Config{URL: url})
		require.EqualValues(t, 1, a.replica.Epoch())
		a.mustCreate(t, "one", "two")
		a.mustClose(t)
		require.Equal(t, LeaseReleased, a.replica.Status().Lease)

		b := mustOpen(t, t.TempDir(), "b", Config{URL: url, ExpectReplica: true})
		require.EqualValues(t, 2, b.replica.Epoch())
		require.Equal(t, []string{"one", "two"}, b.names(t))
		m, err := b.store.Meta(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 2, m.Epoch)
		b.mustCreate(t, "three")
		b.mustClose(t)

		c := mustOpen(t, t.TempDir(), "c", Config{URL: url, ExpectReplica: true})
		require.EqualValues(t, 3, c.replica.Epoch())
		require.Equal(t, []string{"one", "three", "two"}, c.names(t))
		c.mustClose(t)
	})
}

func TestRestartGoesOnInItsGeneration(t *testing.T) {
	t.Parallel()
	everyPlace(t, func(t *testing.T, url string) {
		dir := t.TempDir()
		a := mustOpen(t, dir, "", Config{URL: url})
		a.mustCreate(t, "one")
		a.mustClose(t)
		a = mustOpen(t, dir, "", Config{URL: url})
		require.EqualValues(t, 1, a.replica.Epoch())
		require.Equal(t, []string{"one"}, a.names(t))
		a.mustCreate(t, "two")
		a.vanish(t)
		a = mustOpen(t, dir, "", Config{URL: url})
		require.EqualValues(t, 1, a.replica.Epoch())
		require.Equal(t, []string{"one", "two"}, a.names(t))
		a.mustClose(t)
		b := mustOpen(t, t.TempDir(), "b", Config{URL: url})
		require.EqualValues(t, 2, b.replica.Epoch())
		require.Equal(t, []string{"one", "two"}, b.names(t))
		b.mustClose(t)
	})
}

// TestCopiedFolder on the same machine: the copy waits for the lease like another
// machine, and the original takes its own lease at once.
func TestCopiedFolder(t *testing.T) {
	t.Parallel()
	url, dir, twin := s3URL(t), t.TempDir(), t.TempDir()
	config := Config{URL: url, LeaseTTL: time.Hour}
	a := mustOpen(t, dir, "", config)
	a.mustCreate(t, "one")
	a.vanish(t) // its lease is still valid
	require.NoError(t, os.CopyFS(twin, os.DirFS(dir)))
	waits := &waiting{seen: make(chan struct{})}
	ctx, cancel := context.WithCancel(within(t, 2*time.Minute))
	go func() { // ends with the test's time at the latest
		select {
		case <-waits.seen:
		case <-ctx.Done():
		}
		cancel()
	}()
	config.Log = logTo(waits)
	b, err := openNode(ctx, twin, "", config)
	if err == nil {
		b.mustClose(t)
	}
	require.ErrorContains(t, err, "to run out")

	a = mustOpen(t, dir, "", config)
	require.EqualValues(t, 1, a.replica.Epoch())
	require.Equal(t, []string{"one"}, a.names(t))
	a.mustClose(t)
	// A released lease can be taken by any machine.
	b = mustOpen(t, twin, "", config)
	require.EqualValues(t, 2, b.replica.Epoch())
	require.Equal(t, []string{"one"}, b.names(t))
	b.mustClose(t)
}

// waiting is a log that notes when a process waits for a lease.
type waiting struct {
	once sync.Once
	seen chan struct{}
}

func (w *waiting) Write(line []byte) (int, error) {
	if strings.Contains(string(line), "waiting for the lease") {
		w.once.Do(func() { close(w.seen) })
	}
	return len(line), nil
}

// TestReboot: the boot id has changed, so the machine counts as another one. Its database
// is still the newest, with changes that had not reached the replica.
func TestReboot(t *testing.T) {
	t.Parallel()
	url, dir := s3URL(t), t.TempDir()
	a := mustOpen(t, dir, "boot 1", Config{URL: url, LeaseTTL: shortTTL, Patience: time.Minute, SyncInterval: time.Hour})
	a.mustCreate(t, "one")
	a.vanish(t)
	a = mustOpen(t, dir, "boot 2", Config{URL: url, LeaseTTL: shortTTL, Patience: time.Minute})
	require.EqualValues(t, 2, a.replica.Epoch())
	require.Equal(t, []string{"one"}, a.names(t))
	a.mustClose(t)
}

// TestDiskImage: an older image of the disk is restored. Its database is older than the
// replica, though of the same epoch.
func TestDiskImage(t *testing.T) {
	t.Parallel()
	url, dir, image := s3URL(t), t.TempDir(), t.TempDir()
	a := mustOpen(t, dir, "boot 1", Config{URL: url})
	a.mustCreate(t, "one")
	a.mustClose(t)
	require.NoError(t, os.CopyFS(image, os.DirFS(dir)))
	a = mustOpen(t, dir, "boot 1", Config{URL: url})
	require.EqualValues(t, 1, a.replica.Epoch())
	a.mustCreate(t, "two")
	a.mustClose(t)

	b := mustOpen(t, image, "boot 2", Config{URL: url})
	require.EqualValues(t, 2, b.replica.Epoch())
	require.Equal(t, []string{"one", "two"}, b.names(t))
	b.mustClose(t)
}

func TestTwoLive(t *testing.T) {
	t.Parallel()
	everyPlace(t, func(t *testing.T, url string) {
		a := mustOpen(t, t.TempDir(), "a", Config{URL: url, LeaseTTL: shortTTL, Patience: time.Minute})
		a.mustCreate(t, "one")
		dir := t.TempDir()
		began := time.Now()
		_, err := openNode(within(t, time.Minute), dir, "b", Config{URL: url, LeaseTTL: shortTTL, Patience: time.Minute, Log: testLog(t)})
		var held *HeldError
		require.ErrorAs(t, err, &held)
		require.Contains(t, err.Error(), fmt.Sprintf("in use by process %d on ", os.Getpid()))
		require.Less(t, time.Since(began), 10*time.Second)
		require.NoFileExists(t, database(dir))
		a.mustCreate(t, "two")
		a.mustBarrier(t)
		require.Equal(t, LeaseHeld, a.replica.Status().Lease)
		a.mustClose(t)
	})
}

func TestRacingStarters(t *testing.T) {
	t.Parallel()
	everyPlace(t, func(t *testing.T, url string) {
		a := mustOpen(t, t.TempDir(), "a", Config{URL: url, LeaseTTL: shortTTL, Patience: time.Minute})
		a.mustCreate(t, "one")
		a.mustBarrier(t)
		a.vanish(t)
		const starters = 4
		nodes, errs := make([]*node, starters), make([]error, starters)
		var wg sync.WaitGroup
		for i := range starters {
			dir, log := t.TempDir(), testLog(t)
			wg.Go(func() {
				nodes[i], errs[i] = openNode(within(t, time.Minute), dir, fmt.Sprint("starter ", i), Config{URL: url, LeaseTTL: 2 * shortTTL, Patience: time.Minute, Log: log})
			})
		}
		wg.Wait()
		won := 0
		for i, n := range nodes {
			if n == nil {
				var held *HeldError
				require.ErrorAs(t, errs[i], &held)
				continue
			}
			won++
			require.EqualValues(t, 2, n.replica.Epoch())
			require.Equal(t, []string{"one"}, n.names(t))
			n.mustClose(t)
		}
		require.Equal(t, 1, won)
	})
}

func TestStaleMachineReturns(t *testing.T) {
	t.Parallel()
	everyPlace(t, func(t *testing.T, url string) {
		config := Config{URL: url, LeaseTTL: shortTTL, Patience: time.Minute}
		dir := t.TempDir()
		a := mustOpen(t, dir, "a", config)
		a.mustCreate(t, "one")
		a.mustBarrier(t)
		a.vanish(t)
		b := mustOpen(t, t.TempDir(), "b", config) // waits for a's lease to run out
		require.EqualValues(t, 2, b.replica.Epoch())
		b.mustCreate(t, "two")

		before, err := os.ReadFile(database(dir))
		require.NoError(t, err)
		_, err = openNode(within(t, time.Minute), dir, "a", config)
		var held *HeldError
		require.ErrorAs(t, err, &held)
		after, err := os.ReadFile(database(dir))
		require.NoError(t, err)
		require.Equal(t, before, after)
		b.mustCreate(t, "three")
		b.mustClose(t)

		a = mustOpen(t, dir, "a", config)
		require.EqualValues(t, 3, a.replica.Epoch())
		require.Equal(t, []string{"one", "three", "two"}, a.names(t))
		a.mustClose(t)
		aside, err := filepath.Glob(database(dir) + ".epoch-1-*Z")
		require.NoError(t, err)
		require.Len(t, aside, 1)
		require.Equal(t, []string{"one"}, namesIn(t, aside[0]))
	})
}

// TestFenced: a serving machine is cut off from S3 until another took over.
func TestFenced(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	ttl := shortTTL
	a := mustOpen(t, t.TempDir(), "a", Config{URL: s3test.URL(t, p.Address()), LeaseTTL: ttl, Patience: time.Hour})
	a.mustCreate(t, "one")
	a.mustBarrier(t)
	p.Cut(true)
	b := mustOpen(t, t.TempDir(), "b", Config{URL: s3URL(t), LeaseTTL: ttl})
	require.ErrorIs(t, a.replica.Check(), ErrUnsure, "a still wrote when b had the lease")
	err := a.create("late")
	require.Equal(t, rooms.Unavailable, rooms.ErrorCode(err), "%v", err)
	require.Equal(t, LeaseUnsure, a.replica.Status().Lease)
	b.mustCreate(t, "two")
	before := objects(t, "gen-1") // all uploads under way are done

	p.Cut(false)
	select {
	case err := <-a.lost:
		require.ErrorIs(t, err, ErrLost)
		require.Contains(t, err.Error(), "holds it with epoch 2")
	case <-time.After(time.Minute):
		require.Fail(t, "the stale machine did not notice")
	}
	require.ErrorIs(t, a.replica.Check(), ErrLost)
	require.Error(t, a.create("later"))
	require.NoError(t, a.close(within(t, time.Minute)))
	require.Equal(t, before, objects(t, "gen-1"), "a stale machine wrote to the replica")
	require.Equal(t, []string{"one", "two"}, b.names(t))
	b.mustClose(t)
}

// TestCutOffWithoutPatience: the lease counts as lost when it cannot be renewed in time,
// before others can take it.
func TestCutOffWithoutPatience(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	ttl := shortTTL
	a := mustOpen(t, t.TempDir(), "a", Config{URL: s3test.URL(t, p.Address()), LeaseTTL: ttl})
	p.Cut(true)
	cut := time.Now()
	select {
	case err := <-a.lost:
		require.ErrorIs(t, err, ErrLost)
		require.Less(t, time.Since(cut), 2*ttl)
	case <-time.After(time.Minute):
		require.Fail(t, "nobody was told")
	}
	require.NoError(t, a.close(within(t, time.Minute)))
}

func TestS3DownAndBack(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	a := mustOpen(t, t.TempDir(), "a", Config{URL: s3test.URL(t, p.Address()), LeaseTTL: shortTTL, Patience: time.Minute, SyncInterval: 200 * time.Millisecond})
	a.mustCreate(t, "before")
	a.mustBarrier(t)
	require.Zero(t, a.replica.Status().LastError)
	p.Cut(true)
	a.mustCreate(t, "during") // the lease has not expired yet
	require.Error(t, a.replica.Barrier(within(t, time.Second)))
	require.Eventually(t, func() bool { return a.replica.Check() != nil }, time.Minute, 10*time.Millisecond)
	require.Error(t, a.create("refused"))
	require.Eventually(t, func() bool { return a.replica.Status().LastError != "" }, time.Minute, 10*time.Millisecond)
	require.NotZero(t, a.replica.Status().Lag)
	require.NotEmpty(t, a.replica.Status().LeaseError)
	p.Cut(false)
	back := time.Now()
	require.Eventually(t, func() bool { return a.replica.Check() == nil }, time.Minute, 10*time.Millisecond)
	a.mustCreate(t, "after")
	require.Eventually(t, func() bool { s := a.replica.Status(); return s.Lag == 0 && s.LastError == "" && s.LastSync.After(back) }, time.Minute, 10*time.Millisecond)
	t.Logf("replicating again %v after S3 was back", time.Since(back).Round(time.Millisecond))
	a.mustBarrier(t)
	a.vanish(t)
	b := mustOpen(t, t.TempDir(), "b", Config{URL: s3URL(t)})
	require.Equal(t, []string{"after", "before", "during"}, b.names(t))
	b.mustClose(t)
}

// TestWritesDoNotWaitForS3: not even while Litestream lists what to compact.
func TestWritesDoNotWaitForS3(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	a := mustOpen(t, t.TempDir(), "a", Config{URL: s3test.URL(t, p.Address()), LeaseTTL: time.Minute})
	p.Cut(true)
	ctx, stop := context.WithCancel(t.Context())
	var compactions sync.WaitGroup
	for _, level := range litestream.DefaultCompactionLevels[1:] {
		compactions.Go(func() { _, _ = a.replica.store.CompactDB(ctx, a.replica.db, level) }) // it fails, or has no work
	}
	for n := range 40 {
		began := time.Now()
		a.mustCreate(t, fmt.Sprint(n))
		require.Less(t, time.Since(began), 5*time.Second)
		time.Sleep(50 * time.Millisecond) // between uploads
	}
	stop()
	compactions.Wait()
	p.Cut(false)
	a.mustClose(t)
}

func TestCloseWhileS3IsDown(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	dir := t.TempDir()
	config := Config{URL: s3test.URL(t, p.Address()), LeaseTTL: 30 * time.Second, SyncInterval: time.Hour}
	a := mustOpen(t, dir, "", config)
	p.Cut(true)
	a.mustCreate(t, "one")
	began := time.Now()
	require.NoError(t, a.store.Close(within(t, time.Minute)))
	require.ErrorContains(t, a.replica.Close(within(t, 2*time.Second)), "they stay here")
	require.Less(t, time.Since(began), 20*time.Second)
	p.Cut(false)
	began = time.Now()
	a = mustOpen(t, dir, "", config)
	require.Less(t, time.Since(began), 20*time.Second, "it waited for its own lease")
	a.vanish(t) // what it left is on the replica since the start
	to := filepath.Join(t.TempDir(), "restored.db")
	_, err := Restore(t.Context(), RestoreConfig{URL: s3URL(t), To: to})
	require.NoError(t, err)
	require.Equal(t, []string{"one"}, namesIn(t, to))
}

func TestBarriersShareUploads(t *testing.T) {
	t.Parallel()
	a := mustOpen(t, t.TempDir(), "a", Config{URL: s3URL(t)})
	before := a.replica.Status().Files
	var wg sync.WaitGroup
	errs := make([]error, 100)
	for i := range errs {
		wg.Go(func() {
			if errs[i] = a.create(fmt.Sprintf("room %03d", i)); errs[i] == nil {
				errs[i] = a.replica.Barrier(t.Context())
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Less(t, a.replica.Status().Files-before, uint64(50))
	a.vanish(t)
	to := filepath.Join(t.TempDir(), "restored.db")
	_, err := Restore(t.Context(), RestoreConfig{URL: s3URL(t), To: to})
	require.NoError(t, err)
	require.Len(t, namesIn(t, to), 100)
}

func TestPointInTime(t *testing.T) {
	t.Parallel()
	everyPlace(t, func(t *testing.T, url string) {
		began := time.Now()
		var times []time.Time
		mark := func(n *node) {
			n.mustBarrier(t)
			time.Sleep(20 * time.Millisecond) // the format has milliseconds
			times = append(times, time.Now())
			time.Sleep(20 * time.Millisecond)
		}
		a := mustOpen(t, t.TempDir(), "a", Config{URL: url})
		a.mustCreate(t, "one")
		mark(a)
		a.mustCreate(t, "two")
		mark(a)
		a.mustClose(t)
		b := mustOpen(t, t.TempDir(), "b", Config{URL: url})
		mark(b)
		b.mustCreate(t, "three")
		mark(b)

		restored := func(at time.Time) (int64, []string) {
			to := filepath.Join(t.TempDir(), "restored.db")
			made, err := Restore(t.Context(), RestoreConfig{URL: url, To: to, At: at, Log: testLog(t)})
			require.NoError(t, err)
			require.False(t, made.At.IsZero())
			if !at.IsZero() {
				require.False(t, made.At.After(at))
			}
			return made.Generation, namesIn(t, to)
		}
		for i, want := range []struct {
			generation int64
			names      []string
		}{{1, []string{"one"}}, {1, []string{"one", "two"}}, {2, []string{"one", "two"}}, {2, []string{"one", "three", "two"}}} {
			n, names := restored(times[i])
			require.Equal(t, want.generation, n, "at %d", i)
			require.Equal(t, want.names, names, "at %d", i)
		}
		future, err := Restore(t.Context(), RestoreConfig{URL: url, To: filepath.Join(t.TempDir(), "x.db"), At: time.Now().Add(time.Hour)})
		require.NoError(t, err)
		require.False(t, future.At.After(time.Now()), "it tells what it restored, not what was asked for")
		n, names := restored(time.Time{})
		require.EqualValues(t, 2, n)
		require.Len(t, names, 3)
		listed, err := b.replica.Generations(t.Context())
		require.NoError(t, err)
		require.Len(t, listed, 2)
		for i, g := range listed {
			require.EqualValues(t, 2-i, g.Number)
			require.Positive(t, g.Bytes)
			require.WithinRange(t, g.From, began, time.Now().Add(2*time.Second))
			require.WithinRange(t, g.To, g.From, time.Now().Add(2*time.Second))
		}
		n, _ = restored(listed[0].From)
		require.EqualValues(t, 2, n, "which has begun by then")

		_, err = Restore(t.Context(), RestoreConfig{URL: url, To: filepath.Join(t.TempDir(), "x.db"), At: began.Add(-time.Second)})
		require.ErrorIs(t, err, ErrEmpty)
		there := filepath.Join(t.TempDir(), "x.db")
		require.NoError(t, os.WriteFile(there, []byte("mine"), 0o644))
		_, err = Restore(t.Context(), RestoreConfig{URL: url, To: there})
		require.ErrorIs(t, err, os.ErrExist)
		b.mustClose(t)
	})
}

// TestRestoreBesideWhatIsLeft of another database: SQLite would take these files for the
// restored database's own, and the result would not be of the requested time.
func TestRestoreBesideWhatIsLeft(t *testing.T) {
	t.Parallel()
	url, dir := "file://"+filepath.Join(t.TempDir(), "replica"), t.TempDir()
	a := mustOpen(t, dir, "a", Config{URL: url})
	a.mustCreate(t, "one")
	a.mustBarrier(t)
	left, err := os.ReadFile(database(dir) + "-wal")
	require.NoError(t, err)
	require.NotEmpty(t, left)
	a.mustClose(t)
	for _, suffix := range []string{"-wal", "-shm", "-journal"} {
		to := filepath.Join(t.TempDir(), "restored.db")
		require.NoError(t, os.WriteFile(to+suffix, left, 0o600))
		_, err := Restore(t.Context(), RestoreConfig{URL: url, To: to})
		require.ErrorIs(t, err, os.ErrExist)
		require.ErrorContains(t, err, to+suffix+" is left of another database: move it away")
		require.NoFileExists(t, to)
		kept, err := os.ReadFile(to + suffix)
		require.NoError(t, err)
		require.Equal(t, left, kept)
		require.NoError(t, os.Rename(to+suffix, to+suffix+".away"))
		_, err = Restore(t.Context(), RestoreConfig{URL: url, To: to})
		require.NoError(t, err)
		require.Equal(t, []string{"one"}, namesIn(t, to))
	}
}

func TestOperatorsMistakes(t *testing.T) {
	t.Parallel()
	everyPlace(t, func(t *testing.T, url string) {
		ctx := within(t, 2*time.Minute)
		other := strings.Replace(url, "?", "/other?", 1)
		if other == url {
			other = url + "2"
		}
		_, err := openNode(ctx, t.TempDir(), "a", Config{URL: url, ExpectReplica: true})
		require.ErrorIs(t, err, ErrEmpty)
		require.ErrorContains(t, err, "is the URL right?")
		if path, ok := strings.CutPrefix(url, "file://"); ok {
			require.NoFileExists(t, filepath.Join(path, "owner.lock"))
			require.NoDirExists(t, path, "a mistyped path was made")
		}

		dir := t.TempDir()
		a := mustOpen(t, dir, "a", Config{URL: url})
		a.mustCreate(t, "one")
		a.mustClose(t)
		// The path is another: this is a move, if no replica is expected there.
		_, err = openNode(ctx, dir, "a", Config{URL: other, ExpectReplica: true})
		require.ErrorIs(t, err, ErrEmpty)
		// An unrelated database, where the replica has one.
		foreign := t.TempDir()
		f := mustOpen(t, foreign, "f", Config{URL: "file://" + filepath.Join(t.TempDir(), "elsewhere")})
		f.mustCreate(t, "foreign")
		f.mustClose(t)
		_, err = openNode(ctx, foreign, "f", Config{URL: url})
		require.ErrorIs(t, err, ErrUnknown)
		require.ErrorContains(t, err, "--adopt-database")
		require.Equal(t, []string{"foreign"}, namesIn(t, database(foreign)))
		// It is adopted when its operator says so, and the epoch does not fall.
		f = mustOpen(t, foreign, "f", Config{URL: url, Adopt: true})
		require.EqualValues(t, 2, f.replica.Epoch())
		require.Equal(t, []string{"foreign"}, f.names(t))
		f.mustClose(t)
		f = mustOpen(t, foreign, "f", Config{URL: other})
		require.EqualValues(t, 3, f.replica.Epoch())
		f.mustClose(t)
	})
}

func TestNoSuchBucket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := openNode(within(t, time.Minute), dir, "a", Config{URL: strings.Replace(s3URL(t), "bucket", "buckte", 1)})
	require.ErrorContains(t, err, "NoSuchBucket")
	require.NoFileExists(t, database(dir))
}

// TestRemovedWhileServing: the lease or the whole replica is removed under a server. It
// writes both again, continues, and still keeps others out.
func TestRemovedWhileServing(t *testing.T) {
	t.Parallel()
	for name, all := range map[string]bool{"lease": false, "all": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			place := filepath.Join(t.TempDir(), "replica")
			config := Config{URL: "file://" + place, LeaseTTL: shortTTL, Patience: time.Hour, SyncInterval: 100 * time.Millisecond, CheckInterval: 200 * time.Millisecond}
			a := mustOpen(t, t.TempDir(), "a", config)
			a.mustCreate(t, "before")
			a.mustBarrier(t)
			removed := filepath.Join(place, ownerName)
			if all {
				removed = place
			}
			// The server writes meanwhile, and a new file in a folder makes the folder's
			// removal fail.
			require.Eventually(t, func() bool { return os.RemoveAll(removed) == nil }, time.Minute, time.Millisecond)
			require.Eventually(t, func() bool {
				_, err := os.Stat(filepath.Join(place, ownerName))
				return err == nil
			}, time.Minute, 20*time.Millisecond)
			a.mustCreate(t, "after")
			// By a new generation, or by a snapshot that was under way.
			require.Eventually(t, func() bool { return a.replica.Barrier(t.Context()) == nil && a.replica.Status().LastError == "" }, time.Minute, 20*time.Millisecond)
			_, err := openNode(within(t, time.Minute), t.TempDir(), "b", config)
			require.ErrorAs(t, err, new(*HeldError))
			require.Empty(t, a.lost)
			a.mustClose(t)
			b := mustOpen(t, t.TempDir(), "b", config)
			require.Equal(t, []string{"after", "before"}, b.names(t))
			b.mustClose(t)
		})
	}
}

// TestRemovedAndTaken: another machine took the lease while it was removed, or may have,
// because the lease had expired. Then the server ends.
func TestRemovedAndTaken(t *testing.T) {
	t.Parallel()
	open := func(t *testing.T) (*node, Config) {
		config := Config{URL: "file://" + filepath.Join(t.TempDir(), "replica"), LeaseTTL: time.Hour, Patience: time.Hour}
		a := mustOpen(t, t.TempDir(), "a", config)
		a.replica.lease.stop() // the test renews it
		// Something may be written there between two steps of the removal.
		require.Eventually(t, func() bool { return os.RemoveAll(a.replica.place.(*directory).dir) == nil }, time.Minute, time.Millisecond)
		return a, config
	}
	t.Run("taken", func(t *testing.T) {
		t.Parallel()
		a, config := open(t)
		b := mustOpen(t, t.TempDir(), "b", config)
		err := a.replica.lease.renewInTime(within(t, time.Minute))
		require.ErrorIs(t, err, ErrLost)
		require.ErrorContains(t, err, "holds it")
		a.replica.lease.lose(err)
		require.NoError(t, a.close(within(t, time.Minute)))
		b.mustCreate(t, "one")
		b.mustBarrier(t)
		b.mustClose(t)
	})
	t.Run("run out", func(t *testing.T) {
		t.Parallel()
		a, _ := open(t)
		l := a.replica.lease
		l.mu.Lock()
		l.renewed = l.renewed.Add(-l.ttl)
		l.mu.Unlock()
		err := l.renewInTime(within(t, time.Minute))
		require.ErrorIs(t, err, ErrLost)
		require.ErrorIs(t, err, ErrRemoved)
		l.lose(err)
		require.NoError(t, a.close(within(t, time.Minute)))
	})
}

// TestEmptiedReplica: the files at a replica's location are gone.
func TestEmptiedReplica(t *testing.T) {
	t.Parallel()
	place, dir := filepath.Join(t.TempDir(), "replica"), t.TempDir()
	config := Config{URL: "file://" + place}
	a := mustOpen(t, dir, "a", config)
	a.mustCreate(t, "one")
	a.mustClose(t)
	require.NoError(t, os.RemoveAll(place))
	_, err := openNode(t.Context(), dir, "a", config)
	require.ErrorIs(t, err, ErrEmpty)
	require.ErrorContains(t, err, "was it emptied?")
	config.Adopt = true
	a = mustOpen(t, dir, "a", config)
	require.EqualValues(t, 2, a.replica.Epoch())
	require.Equal(t, []string{"one"}, a.names(t))
	a.mustClose(t)
}

// TestLostGenerations: a fresh machine finds that there was a replica, but not its data.
// It does not begin a new one by itself.
func TestLostGenerations(t *testing.T) {
	t.Parallel()
	place := filepath.Join(t.TempDir(), "replica")
	config := Config{URL: "file://" + place}
	a := mustOpen(t, t.TempDir(), "a", config)
	a.mustCreate(t, "one")
	a.mustClose(t)
	lost, err := filepath.Glob(filepath.Join(place, generationPrefix+"*"))
	require.NoError(t, err)
	require.NotEmpty(t, lost)
	aside := t.TempDir()
	for _, dir := range lost {
		require.NoError(t, os.Rename(dir, filepath.Join(aside, filepath.Base(dir))))
	}
	dir := t.TempDir()
	_, err = openNode(t.Context(), dir, "b", config)
	require.ErrorIs(t, err, ErrEmpty)
	require.ErrorContains(t, err, "says that there was")
	require.NoFileExists(t, database(dir))
	foreign := t.TempDir() // nor with an unrelated database
	f := mustOpen(t, foreign, "f", Config{URL: "file://" + filepath.Join(t.TempDir(), "elsewhere")})
	f.mustCreate(t, "foreign")
	f.mustClose(t)
	_, err = openNode(t.Context(), foreign, "f", config)
	require.ErrorIs(t, err, ErrEmpty)

	// The data is brought back: no data is lost, and the operator need not act.
	for _, dir := range lost {
		require.NoError(t, os.Rename(filepath.Join(aside, filepath.Base(dir)), dir))
	}
	b := mustOpen(t, dir, "b", config)
	require.Equal(t, []string{"one"}, b.names(t))
	b.mustClose(t)
	// Or the data is lost for good, and the operator says so.
	lost, err = filepath.Glob(filepath.Join(place, generationPrefix+"*"))
	require.NoError(t, err)
	for _, dir := range lost {
		require.NoError(t, os.RemoveAll(dir))
	}
	config.Adopt = true
	c := mustOpen(t, t.TempDir(), "c", config)
	require.EqualValues(t, 3, c.replica.Epoch(), "it does not fall")
	require.Empty(t, c.names(t))
	c.mustClose(t)
}

// TestCrashOfTheFirstStart, between the lease and the first upload: no client was served,
// so any machine may begin.
func TestCrashOfTheFirstStart(t *testing.T) {
	t.Parallel()
	everyPlace(t, func(t *testing.T, url string) {
		dir := t.TempDir()
		r, err := New(Config{URL: url, Machine: "a", Log: testLog(t), LeaseTTL: shortTTL, Patience: time.Minute})
		require.NoError(t, err)
		require.NoError(t, r.Prepare(within(t, 2*time.Minute), database(dir)))
		r.lease.stop()
		require.NoError(t, r.place.close())
		fresh := mustOpen(t, t.TempDir(), "b", Config{URL: url, LeaseTTL: shortTTL, Patience: time.Minute})
		require.EqualValues(t, 2, fresh.replica.Epoch())
		fresh.mustClose(t)
	})
}

// TestBegunIsTold to others while the lease is held, and not only at its end.
func TestBegunIsTold(t *testing.T) {
	t.Parallel()
	a := mustOpen(t, t.TempDir(), "a", Config{URL: s3URL(t), LeaseTTL: shortTTL, Patience: time.Minute})
	defer a.mustClose(t)
	require.Eventually(t, func() bool {
		b, _, _, err := a.replica.place.readOwner(t.Context())
		require.NoError(t, err)
		o, err := decodeOwner(b)
		require.NoError(t, err)
		return o.Begun
	}, time.Minute, 50*time.Millisecond)
}

// busyPlace refuses writes as S3 does while another one is under way.
type busyPlace struct {
	place
	refuse int  // so many writes
	late   bool // the last of those takes effect all the same
	asked  int  // writes
}

func (p *busyPlace) writeOwner(ctx context.Context, b []byte, version string) (string, error) {
	p.asked++
	if p.refuse > 0 {
		p.refuse--
		if p.late && p.refuse == 0 {
			_, version, _, err := p.readOwner(ctx)
			if err == nil {
				_, err = p.place.writeOwner(ctx, b, version)
			}
			if err != nil {
				return "", err
			}
		}
		return "", errChanged
	}
	return p.place.writeOwner(ctx, b, version)
}

// TestARenewalWhileAnEarlierOneIsUnderWay: nobody else has the lease, so it is not lost, and
// is renewed when S3 takes writes again.
func TestARenewalWhileAnEarlierOneIsUnderWay(t *testing.T) {
	t.Parallel()
	l, busy := leased(t)
	busy.refuse = 2
	require.NoError(t, l.renewInTime(t.Context()))
	state, _, failing := l.status()
	require.Equal(t, LeaseHeld, state)
	require.ErrorContains(t, failing, "under way")
	require.NoError(t, l.renewInTime(t.Context()))
	_, _, failing = l.status()
	require.NoError(t, failing)

	_, version := l.current()
	other, err := owner{Replica: "replica", Epoch: 2, Machine: "b", Instance: "b", Owner: "another"}.encode()
	require.NoError(t, err)
	_, err = busy.place.writeOwner(t.Context(), other, version)
	require.NoError(t, err)
	busy.refuse = 2
	err = l.renewInTime(t.Context())
	require.ErrorIs(t, err, ErrLost)
	require.ErrorContains(t, err, "another holds it")
}

// leased is a lease of a place that refuses writes when it is told to.
func leased(t *testing.T) (*lease, *busyPlace) {
	d, err := openDirectory(t.TempDir(), true)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.close()) })
	busy := &busyPlace{place: d}
	l := &lease{place: busy, log: testLog(t), ttl: time.Minute, wait: time.Hour}
	_, err = l.take(t.Context(), owner{Replica: "replica", Machine: "a", Instance: "a", Owner: "this"}, func(*owner) int64 { return 1 })
	require.NoError(t, err)
	return l, busy
}

// TestTheRenewalAfterALateOne replaces what that one wrote.
func TestTheRenewalAfterALateOne(t *testing.T) {
	t.Parallel()
	l, busy := leased(t)
	busy.refuse, busy.late = 2, true
	require.NoError(t, l.renewInTime(t.Context()))
	_, _, failing := l.status()
	require.ErrorContains(t, failing, "under way")
	busy.asked = 0
	require.NoError(t, l.renewInTime(t.Context()))
	_, _, failing = l.status()
	require.NoError(t, failing)
	require.Equal(t, 1, busy.asked, "it knows what it replaces")
}

// TestReleaseWhileARenewalIsUnderWay: what is still this process's is released, and nothing else.
func TestReleaseWhileARenewalIsUnderWay(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		l, busy := leased(t)
		busy.refuse, busy.late = 2, late
		require.NoError(t, l.release(t.Context()))
		state, _, _ := l.status()
		require.Equal(t, LeaseReleased, state)
		b, _, _, err := busy.readOwner(t.Context())
		require.NoError(t, err)
		o, err := decodeOwner(b)
		require.NoError(t, err)
		require.Zero(t, o.Expires)
	}
	l, busy := leased(t)
	busy.refuse = 3
	require.ErrorIs(t, l.release(t.Context()), errChanged)
	state, _, _ := l.status()
	require.Equal(t, LeaseHeld, state, "it runs out")

	_, version := l.current()
	other, err := owner{Replica: "replica", Epoch: 2, Machine: "b", Instance: "b", Owner: "another"}.encode()
	require.NoError(t, err)
	_, err = busy.place.writeOwner(t.Context(), other, version)
	require.NoError(t, err)
	busy.refuse = 2
	require.ErrorContains(t, l.release(t.Context()), "another holds it")
}

// TestReleaseAfterARenewalThatWasCutOff: the renewal was written, but its answer was not
// received.
func TestReleaseAfterARenewalThatWasCutOff(t *testing.T) {
	t.Parallel()
	everyPlace(t, func(t *testing.T, url string) {
		a := mustOpen(t, t.TempDir(), "a", Config{URL: url, LeaseTTL: time.Hour})
		l := a.replica.lease
		o, version := l.current()
		o.Serial++
		b, err := l.prolonged(o).encode()
		require.NoError(t, err)
		_, err = a.replica.place.writeOwner(within(t, time.Minute), b, version)
		require.NoError(t, err)
		a.mustClose(t)
		require.Equal(t, LeaseReleased, a.replica.Status().Lease)
	})
}

// TestCrashWhileRestoring: a start was killed between the lease and the end of the
// restore.
func TestCrashWhileRestoring(t *testing.T) {
	t.Parallel()
	url, dir := s3URL(t), t.TempDir()
	a := mustOpen(t, t.TempDir(), "a", Config{URL: url})
	a.mustCreate(t, "one")
	a.mustClose(t)
	// It took the lease, with a new epoch, and began to write the database.
	r, err := New(Config{URL: url, Machine: "b", Log: testLog(t)})
	require.NoError(t, err)
	r.path = database(dir)
	require.NoError(t, r.readLocal())
	r.place, err = r.location.open(t.Context(), true)
	require.NoError(t, err)
	r.lease.place = r.place
	_, err = r.takeLease(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, r.Epoch())
	r.local.Restoring = true
	require.NoError(t, r.local.write(r.path))
	require.NoError(t, os.WriteFile(r.path, []byte("half a database"), 0o644))

	b := mustOpen(t, dir, "b", Config{URL: url}) // its own lease: no wait
	require.EqualValues(t, 3, b.replica.Epoch())
	require.Equal(t, []string{"one"}, b.names(t))
	b.mustClose(t)
}

// TestCrashBeforeTheGeneration: a start was killed between the lease and the snapshot.
func TestCrashBeforeTheGeneration(t *testing.T) {
	t.Parallel()
	url, dir := s3URL(t), t.TempDir()
	a := mustOpen(t, dir, "boot 1", Config{URL: url, LeaseTTL: shortTTL, Patience: time.Minute, SyncInterval: time.Hour})
	a.mustCreate(t, "one") // not on the replica
	a.vanish(t)
	for _, boot := range []string{"boot 2", "boot 3", "boot 3"} {
		r, err := New(Config{URL: url, Machine: boot, Log: testLog(t), LeaseTTL: shortTTL, Patience: time.Minute})
		require.NoError(t, err)
		require.NoError(t, r.Prepare(within(t, 2*time.Minute), database(dir)))
		r.lease.stop()
		require.NoError(t, r.place.close())
	}
	a = mustOpen(t, dir, "boot 3", Config{URL: url})
	require.EqualValues(t, 3, a.replica.Epoch())
	require.Equal(t, []string{"one"}, a.names(t))
	a.mustClose(t)
}

func TestCABundle(t *testing.T) {
	address := s3Server.Address(t)
	t.Setenv("AWS_CA_BUNDLE", filepath.Join(t.TempDir(), "ca.pem"))
	var log strings.Builder
	r, err := New(Config{URL: s3test.URL(t, address), Log: logTo(&log)})
	require.NoError(t, err)
	require.NoError(t, r.Prepare(t.Context(), database(t.TempDir())))
	require.NoError(t, r.Close(context.Background()))
	require.Contains(t, log.String(), "SSL_CERT_FILE")
}

// A machine that was suspended for longer than its lease writes nothing until it knows
// that it still holds the lease.
func TestSuspended(t *testing.T) {
	t.Parallel()
	a := mustOpen(t, t.TempDir(), "a", Config{URL: s3URL(t), LeaseTTL: 6 * shortTTL, Patience: time.Minute})
	a.mustCreate(t, "before")
	l := a.replica.lease
	l.mu.Lock()
	l.wall = l.wall.Add(-time.Hour) // time that only the wall clock has counted
	l.mu.Unlock()
	require.Equal(t, rooms.Unavailable, rooms.ErrorCode(a.create("unsure")))
	require.Equal(t, LeaseUnsure, a.replica.Status().Lease)
	require.Eventually(t, func() bool { return a.create("after") == nil }, 6*shortTTL, 20*time.Millisecond)
	require.Equal(t, []string{"after", "before"}, a.names(t))
	a.mustClose(t)
}
