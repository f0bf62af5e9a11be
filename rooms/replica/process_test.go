//go:build unix

package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"parlor/rooms/replica/s3test"
	"parlor/rooms/sqlite"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestKilledAndDiskLost: the process is killed and its disk is lost. All that a barrier
// guaranteed is there on another machine, and of the rest no more is lost than the loss
// window. PARLOR_SOAK makes it run for that long before.
func TestKilledAndDiskLost(t *testing.T) {
	t.Parallel()
	url := s3URL(t)
	var lines []string
	first := filepath.Join(t.TempDir(), "first")
	require.NoError(t, os.Mkdir(first, 0o755))
	p := startProcess(t, role{Dir: first, URL: url, Machine: "a", TTL: 2 * shortTTL, Rate: 100})
	p.ready(t)
	soak := 3500 * time.Millisecond
	if s := os.Getenv("PARLOR_SOAK"); s != "" {
		var err error
		soak, err = time.ParseDuration(s)
		require.NoError(t, err)
	}
	for len(lines) < int(soak/(10*time.Millisecond)) {
		lines = append(lines, p.line(t))
	}
	require.NoError(t, p.cmd.Process.Signal(unix.SIGKILL))
	lines = append(lines, p.rest()...)
	killed := time.Now()
	require.NoError(t, os.RemoveAll(first))

	b := mustOpen(t, t.TempDir(), "b", Config{URL: url, LeaseTTL: shortTTL, Patience: time.Minute})
	t.Logf("served again %v after the kill, %v of it the lease's", time.Since(killed).Round(time.Millisecond), 2*shortTTL+clockGrain)
	require.EqualValues(t, 2, b.replica.Epoch())
	names := b.names(t)
	last := 0
	if len(names) > 0 {
		_, err := fmt.Sscanf(names[len(names)-1], "first-%d", &last)
		require.NoError(t, err)
	}
	require.Len(t, names, last, "there are holes in what was restored")
	var acknowledged, vouched int
	var at, lastAt int64
	_, err := fmt.Sscanf(told(lines, "a"), "%d %d", &acknowledged, &at)
	require.NoError(t, err)
	_, err = fmt.Sscanf(told(lines, "b"), "%d", &vouched)
	require.NoError(t, err)
	require.NotZero(t, vouched)
	require.GreaterOrEqual(t, last, vouched, "a barrier lied")
	for _, l := range lines {
		var n int
		var ms int64
		if _, err := fmt.Sscanf(l, "a %d %d", &n, &ms); err == nil && n <= last {
			lastAt = ms
		}
	}
	lost := time.Duration(at-lastAt) * time.Millisecond
	t.Logf("kill -9 and lost disk at 100 rooms/s: %d of %d rooms lost, %v of writes", max(0, acknowledged-last), acknowledged, max(0, lost))
	require.Less(t, lost, 5*time.Second)
	b.mustClose(t)
}

// TestKilledAndRestarted: the process is killed and started again on its disk. It takes
// its own lease at once and has all data, and so has the replica.
func TestKilledAndRestarted(t *testing.T) {
	t.Parallel()
	url, dir := s3URL(t), filepath.Join(t.TempDir(), "here")
	require.NoError(t, os.Mkdir(dir, 0o755))
	p := startProcess(t, role{Dir: dir, URL: url, TTL: time.Minute, Rate: 100})
	p.ready(t)
	lines := []string{}
	for len(lines) < 130 {
		lines = append(lines, p.line(t))
	}
	require.NoError(t, p.cmd.Process.Signal(unix.SIGKILL))
	lines = append(lines, p.rest()...)
	_ = p.cmd.Wait()
	var acknowledged int
	_, err := fmt.Sscanf(told(lines, "a"), "%d", &acknowledged)
	require.NoError(t, err)

	p = startProcess(t, role{Dir: dir, URL: url, TTL: time.Minute})
	epoch, took := p.ready(t)
	require.EqualValues(t, 1, epoch)
	t.Logf("started again in %v, with a lease that had most of a minute to run", took)
	require.Less(t, took, 20*time.Second)
	require.NoError(t, p.in.Close())
	require.Equal(t, []string{"closed"}, p.rest())
	to := filepath.Join(t.TempDir(), "restored.db")
	_, err = Restore(t.Context(), RestoreConfig{URL: url, To: to})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(namesIn(t, to)), acknowledged)
	require.Equal(t, namesIn(t, database(dir)), namesIn(t, to))
}

// TestLostWAL: the process is killed and its WAL removed, with data that the replica has
// and the database file lacks. If a program has meanwhile opened the database without the
// replica, it has moved the WAL's data into the file: then nothing is lost.
func TestLostWAL(t *testing.T) {
	t.Parallel()
	killed := func(t *testing.T, url string) (dir string, lines []string) {
		dir = filepath.Join(t.TempDir(), "here")
		require.NoError(t, os.Mkdir(dir, 0o755))
		p := startProcess(t, role{Dir: dir, URL: url, TTL: time.Minute, Rate: 10})
		p.ready(t)
		for told(lines, "b") == "" {
			lines = append(lines, p.line(t))
		}
		require.NoError(t, p.cmd.Process.Signal(unix.SIGKILL))
		lines = append(lines, p.rest()...)
		_ = p.cmd.Wait()
		return dir, lines
	}
	everyPlace(t, func(t *testing.T, url string) {
		dir, lines := killed(t, url)
		require.NoError(t, os.Remove(database(dir)+"-wal"))
		require.NoError(t, os.RemoveAll(database(dir)+"-shm"))
		var vouched int
		_, err := fmt.Sscanf(told(lines, "b"), "%d", &vouched)
		require.NoError(t, err)
		a := mustOpen(t, dir, "", Config{URL: url, LeaseTTL: time.Minute})
		require.GreaterOrEqual(t, len(a.names(t)), vouched)
		require.EqualValues(t, 2, a.replica.Epoch())
		aside, err := filepath.Glob(database(dir) + ".epoch-1-*Z")
		require.NoError(t, err)
		require.Len(t, aside, 1)
		require.NoFileExists(t, database(dir)+".newest")
		names := a.names(t)
		a.mustClose(t)
		to := filepath.Join(t.TempDir(), "restored.db")
		_, err = Restore(t.Context(), RestoreConfig{URL: url, To: to})
		require.NoError(t, err)
		require.Equal(t, names, namesIn(t, to))

		// After an orderly end the loss of the WAL does not matter.
		require.NoError(t, os.RemoveAll(database(dir)+"-wal"))
		a = mustOpen(t, dir, "", Config{URL: url, LeaseTTL: time.Minute})
		require.EqualValues(t, 2, a.replica.Epoch())
		require.Equal(t, names, a.names(t))
		a.mustClose(t)
	})
	t.Run("died again before it served", func(t *testing.T) {
		t.Parallel()
		url := "file://" + filepath.Join(t.TempDir(), "replica")
		dir, lines := killed(t, url)
		r, err := New(Config{URL: url, LeaseTTL: time.Minute, ReadEpoch: sqlite.ReadEpoch, ReadSeq: sqlite.ReadSeq, Sound: sqlite.Sound, OnLost: func(error) {}})
		require.NoError(t, err)
		require.NoError(t, r.Prepare(within(t, 2*time.Minute), database(dir)))
		r.lease.stop()
		require.NoError(t, r.place.close())
		require.NoFileExists(t, database(dir)+"-wal", "it was brought into the database")
		a := mustOpen(t, dir, "", Config{URL: url, LeaseTTL: time.Minute})
		require.EqualValues(t, 1, a.replica.Epoch())
		var acknowledged int
		_, err = fmt.Sscanf(told(lines, "a"), "%d", &acknowledged)
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(a.names(t)), acknowledged)
		a.mustClose(t)
	})
	// A start that could not read the database, or that died as it did so, has not brought the
	// WAL into it. Its loss matters as before.
	for name, lose := range map[string]func(t *testing.T, wal string){
		"could not be read, removed": func(t *testing.T, wal string) { require.NoError(t, os.Remove(wal)) },
		"could not be read, cut": func(t *testing.T, wal string) {
			fi, err := os.Stat(wal)
			require.NoError(t, err)
			require.NoError(t, os.Truncate(wal, fi.Size()/2))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := "file://" + filepath.Join(t.TempDir(), "replica")
			dir, lines := killed(t, url)
			cannot := func(context.Context, string) (int64, error) { return 0, errors.New("permission denied") }
			r, err := New(Config{URL: url, LeaseTTL: time.Minute, ReadEpoch: cannot, ReadSeq: sqlite.ReadSeq, Sound: sqlite.Sound, OnLost: func(error) {}})
			require.NoError(t, err)
			require.ErrorContains(t, r.Prepare(within(t, 2*time.Minute), database(dir)), "permission denied")
			lose(t, database(dir)+"-wal")
			require.NoError(t, os.RemoveAll(database(dir)+"-shm"))
			var vouched int
			_, err = fmt.Sscanf(told(lines, "b"), "%d", &vouched)
			require.NoError(t, err)
			a := mustOpen(t, dir, "", Config{URL: url, LeaseTTL: time.Minute})
			require.GreaterOrEqual(t, len(a.names(t)), vouched)
			require.EqualValues(t, 2, a.replica.Epoch())
			a.mustClose(t)
		})
	}
	t.Run("served without the replica", func(t *testing.T) {
		t.Parallel()
		url := "file://" + filepath.Join(t.TempDir(), "replica")
		dir, _ := killed(t, url)
		s, err := sqlite.Open(t.Context(), sqlite.Config{Path: database(dir)})
		require.NoError(t, err)
		n := &node{store: s}
		n.mustCreate(t, "meanwhile")
		names := n.names(t)
		require.NoError(t, s.Close(t.Context()))
		require.NoFileExists(t, database(dir)+"-wal")
		a := mustOpen(t, dir, "", Config{URL: url, LeaseTTL: time.Minute})
		require.Equal(t, names, a.names(t))
		a.mustClose(t)
	})
}

// TestSidecar runs the litestream command beside a server without replication, with the
// example in testdata. Then a server continues from its replica.
func TestSidecar(t *testing.T) {
	t.Parallel()
	program, err := installedLitestream(t)
	if err != nil && os.Getenv("CI") == "" {
		t.Skipf("the litestream command cannot be built: %v", err)
	}
	require.NoError(t, err)
	dir, address := t.TempDir(), s3Server.Address(t)
	path := database(dir)
	run := func(args ...string) *exec.Cmd {
		cmd := exec.Command(program, args...)
		cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
		cmd.Env = append(os.Environ(), "PARLOR_DATABASE="+path,
			"PARLOR_REPLICA_BUCKET=bucket", "PARLOR_REPLICA_PATH="+t.Name(), "PARLOR_REPLICA_ENDPOINT=http://"+address)
		return cmd
	}
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	require.NoError(t, err)
	n := &node{store: s}
	n.mustCreate(t, "one")
	sidecar := run("replicate", "-config", "testdata/litestream.yml")
	require.NoError(t, sidecar.Start())
	t.Cleanup(func() {
		_ = sidecar.Process.Kill() // it may have ended
		_ = sidecar.Wait()
	})
	n.mustCreate(t, "two")
	require.Eventually(t, func() bool { return len(objects(t, "0000")) > 0 }, time.Minute, 50*time.Millisecond, "nothing was replicated")
	n.mustCreate(t, "three")
	require.NoError(t, s.Close(t.Context()))
	require.NoError(t, sidecar.Process.Signal(unix.SIGTERM)) // it uploads the rest
	require.NoError(t, sidecar.Wait())

	names := []string{"one", "three", "two"}
	require.NoError(t, os.Rename(path, path+".gone"))
	require.NoError(t, run("restore", "-config", "testdata/litestream.yml", path).Run())
	require.Equal(t, names, namesIn(t, path))
	b := mustOpen(t, t.TempDir(), "b", Config{URL: s3URL(t), ExpectReplica: true})
	require.Equal(t, names, b.names(t))
	b.mustClose(t)
	require.NotEmpty(t, objects(t, "gen-1"))
}

// installedLitestream builds the command, in go.mod's version.
func installedLitestream(t *testing.T) (string, error) {
	t.Helper()
	b, err := os.ReadFile("../../go.mod")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(b), "github.com/benbjohnson/litestream ")
	require.True(t, found)
	return s3test.Install("github.com/benbjohnson/litestream/cmd/litestream", strings.Fields(rest)[0])
}
