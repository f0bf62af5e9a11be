//go:build unix

package sqlite

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"parlor/migrations"
	"parlor/rooms"
	"parlor/rooms/guid"
	"parlor/rooms/log"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// roleVariable makes the test's program another process of a test. It names the operation
// on the database in the first argument.
const roleVariable = "PARLOR_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "":
		os.Exit(m.Run())
	case "hold":
		roleHold(os.Args[1])
	case "load":
		roleLoad(os.Args[1])
	case "full":
		roleFull(os.Args[1])
	}
}

// child is another process that uses a database.
type child struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

func startChild(t *testing.T, role, path string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0], path)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = t.Output()
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	c := &child{cmd, in, bufio.NewScanner(out)}
	t.Cleanup(func() { c.kill() })
	return c
}

// line is the child's next line of output.
func (c *child) line(t *testing.T) string {
	t.Helper()
	require.True(t, c.lines.Scan(), "the child ended: %v", c.lines.Err())
	return c.lines.Text()
}

// kill kills the child, like a crash, and waits for its end.
func (c *child) kill() {
	_ = c.cmd.Process.Kill() // it may have ended
	_ = c.cmd.Wait()
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func roleHold(path string) {
	_, err := Open(context.Background(), Config{Path: path})
	check(err)
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	check(err)
}

func TestSecondProcessIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "parlor.db")
	holder := startChild(t, "hold", path)
	require.Equal(t, "ready", holder.line(t))

	link := filepath.Join(t.TempDir(), "link.db")
	require.NoError(t, os.Symlink(path, link))
	for _, p := range []string{path, link} {
		_, err := Open(t.Context(), Config{Path: p})
		require.ErrorIs(t, err, ErrLocked)
		require.ErrorContains(t, err, fmt.Sprintf("process %d on ", holder.cmd.Process.Pid))
		host, hostErr := os.Hostname()
		require.NoError(t, hostErr)
		require.ErrorContains(t, err, host)
		require.ErrorContains(t, err, " since "+strconv.Itoa(time.Now().UTC().Year()))
		require.ErrorContains(t, err, path)
	}
	holder.kill()
	s := openAt(t, path) // kill -9 releases the lock
	create(t, s, "lobby", 1)

	_, err := Open(t.Context(), Config{Path: path})
	require.ErrorIs(t, err, ErrLocked, "nor twice in one process")
	require.ErrorContains(t, err, fmt.Sprintf("process %d on ", os.Getpid()))
}

func TestOpenFailsClearly(t *testing.T) {
	fresh := func(t *testing.T) string { return filepath.Join(t.TempDir(), "parlor.db") }
	made := func(t *testing.T) string {
		path := fresh(t)
		s, err := Open(t.Context(), Config{Path: path})
		require.NoError(t, err)
		create(t, s, "lobby", 1)
		require.NoError(t, s.Close(t.Context()))
		return path
	}
	for _, c := range []struct {
		name string
		path func(t *testing.T) string
		says string
		is   error
	}{
		{"a file for a directory", func(t *testing.T) string { return filepath.Join(made(t), "parlor.db") }, "not a directory", nil},
		{"a WAL without its database", func(t *testing.T) string {
			path := fresh(t)
			require.NoError(t, os.WriteFile(path+"-wal", []byte("what was committed last"), 0o644))
			return path
		}, "or, to begin with a new one, move it away", ErrOrphan},
		{"no path", func(*testing.T) string { return "" }, "no path given", nil},
		{"a directory", func(t *testing.T) string { return t.TempDir() }, "cannot be opened", nil},
		{"garbage", func(t *testing.T) string {
			path := fresh(t)
			require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("not a database ", 1000)), 0o644))
			return path
		}, "not an SQLite database", nil},
		{"damaged", func(t *testing.T) string {
			path := made(t)
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			for i := 100; i < 4096; i++ { // the schema
				b[i] = 0xff
			}
			require.NoError(t, os.WriteFile(path, b, 0o644))
			return path
		}, "it is damaged", nil},
		{"cut short", func(t *testing.T) string {
			path := made(t)
			require.NoError(t, os.Truncate(path, 8192))
			return path
		}, "it is damaged", nil},
		{"newer", func(t *testing.T) string {
			path := made(t)
			s, err := Open(t.Context(), Config{Path: path})
			require.NoError(t, err)
			require.NoError(t, s.Between(t.Context(), func(context.Context) error {
				_, err := s.writer.conn.exec("PRAGMA user_version = 99")
				return err
			}))
			require.NoError(t, s.Close(t.Context()))
			return path
		}, "version is 99", migrations.ErrNewer},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := c.path(t)
			_, err := Open(t.Context(), Config{Path: path})
			require.ErrorContains(t, err, c.says)
			require.ErrorContains(t, err, path)
			if c.is != nil {
				require.ErrorIs(t, err, c.is)
			}
			t.Log(err)
			if _, err := os.Stat(path + ".lock"); err == nil {
				f, err := lockFile(path + ".lock")
				require.NoError(t, err, "a failed open keeps no lock")
				require.NoError(t, f.Close())
			}
		})
	}
}

// TestNewDatabaseIsTold: after a mistyped path the rooms seem to be lost.
func TestNewDatabaseIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "parlor.db")
	for _, want := range []int{1, 0} {
		var log strings.Builder
		s, err := Open(t.Context(), Config{Path: path, Log: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		require.NoError(t, s.Close(t.Context()))
		require.Equal(t, want, strings.Count(log.String(), `level=WARN msg="there was no database, and a new one was made" database=`+path), log.String())
	}
}

// TestKilledAndDatabaseRemoved: the content of the WAL is not destroyed.
func TestKilledAndDatabaseRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "parlor.db")
	s, err := Open(t.Context(), Config{Path: path})
	require.NoError(t, err)
	create(t, s, "lobby", 1)
	database, err := os.ReadFile(path)
	require.NoError(t, err)
	wal, err := os.ReadFile(path + "-wal")
	require.NoError(t, err)
	require.NoError(t, s.Close(t.Context()))

	left := filepath.Join(t.TempDir(), "parlor.db")
	require.NoError(t, os.WriteFile(left+"-wal", wal, 0o600))
	_, err = Open(t.Context(), Config{Path: left})
	require.ErrorIs(t, err, ErrOrphan)
	require.NoError(t, os.WriteFile(left, database, 0o600)) // the database is restored
	s, err = Open(t.Context(), Config{Path: left})
	require.NoError(t, err)
	_, err = s.FindOpen(t.Context(), "lobby")
	require.NoError(t, err)
	require.NoError(t, s.Close(t.Context()))
}

// A database is prepared under the lock, and a failure ends the opening.
func TestPrepare(t *testing.T) {
	backup := filepath.Join(t.TempDir(), "backup.db")
	s, err := Open(t.Context(), Config{Path: backup})
	require.NoError(t, err)
	create(t, s, "lobby", 1)
	require.NoError(t, s.Close(t.Context()))

	path := filepath.Join(t.TempDir(), "parlor.db")
	broken := errors.New("the replica is away")
	_, err = Open(t.Context(), Config{Path: path, Prepare: func(context.Context, string) error { return broken }})
	require.ErrorIs(t, err, broken)
	s, err = Open(t.Context(), Config{Path: path, Prepare: func(ctx context.Context, p string) error {
		require.Equal(t, path, p)
		_, err := Open(ctx, Config{Path: path})
		require.ErrorIs(t, err, ErrLocked)
		b, err := os.ReadFile(backup)
		require.NoError(t, err)
		return os.WriteFile(p, b, 0o644)
	}})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close(context.Background())) }()
	_, err = s.FindOpen(t.Context(), "lobby")
	require.NoError(t, err)
}

func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755)) // the test's own folder above it
	path := filepath.Join(dir, "parlor.db")
	s, err := Open(t.Context(), Config{Path: path})
	require.NoError(t, err)
	require.NoError(t, s.Close(t.Context()))

	require.NoError(t, os.Chmod(dir, 0o555))
	t.Cleanup(func() { require.NoError(t, os.Chmod(dir, 0o755)) })
	require.NoError(t, os.Chmod(path+".lock", 0o444))
	unprivileged(t, func() { _, err = Open(context.Background(), Config{Path: path}) })
	require.ErrorIs(t, err, os.ErrPermission)
	require.ErrorContains(t, err, path)

	// The lock can be taken, but the database cannot be written.
	require.NoError(t, os.Chmod(dir, 0o777))
	require.NoError(t, os.Chmod(path+".lock", 0o666))
	require.NoError(t, os.Chmod(path, 0o444))
	unprivileged(t, func() { _, err = Open(context.Background(), Config{Path: path}) })
	require.ErrorContains(t, err, "read-only")
	require.ErrorContains(t, err, path)
}

// While the disk fails, writes are refused with the reason. They succeed again when the
// disk works.
func TestDiskFull(t *testing.T) {
	c := startChild(t, "full", filepath.Join(t.TempDir(), "parlor.db"))
	require.Equal(t, "created", c.line(t))
	require.Regexp(t, `^unavailable: the database cannot be written: the disk (failed|is full)$`, c.line(t))
	require.Equal(t, "reads", c.line(t))
	require.Equal(t, "failing", c.line(t))
	require.Equal(t, "created", c.line(t))
	require.Equal(t, "well", c.line(t))
}

// roleFull simulates a full disk by a limit on the size of files.
func roleFull(path string) {
	signal.Ignore(syscall.SIGXFSZ)
	ctx := context.Background()
	s, err := Open(ctx, Config{Path: path})
	check(err)
	put := func(name string) error {
		r := newRoom(name, 1)
		r.Metadata = strings.Repeat("x", 100_000)
		done := make(chan error, 1)
		s.Submit(&rooms.Change{Kind: rooms.ChangeCreate, Room: r}, func(_ rooms.Outcome, err error) { done <- err })
		return <-done
	}
	check(put("a"))
	fmt.Println("created")
	var earlier unix.Rlimit
	check(unix.Getrlimit(unix.RLIMIT_FSIZE, &earlier))
	check(unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 300_000, Max: earlier.Max}))
	for err == nil {
		err = put(guid.New("n"))
	}
	fmt.Printf("%s: %v\n", rooms.ErrorCode(err), err)
	_, err = s.FindOpen(ctx, "a")
	check(err)
	fmt.Println("reads")
	if s.Stats().Failing != "" {
		fmt.Println("failing")
	}
	check(unix.Setrlimit(unix.RLIMIT_FSIZE, &earlier))
	check(put("b"))
	fmt.Println("created")
	if s.Stats().Failing == "" {
		fmt.Println("well")
	}
	check(s.Close(ctx))
}

// TestCrash kills a busy process repeatedly, and checks that all acknowledged changes are
// there and none is there in part. PARLOR_TEST_CRASHES sets the number of kills.
func TestCrash(t *testing.T) {
	crashes := 8
	if n, err := strconv.Atoi(os.Getenv("PARLOR_TEST_CRASHES")); err == nil {
		crashes = n
	}
	path := filepath.Join(t.TempDir(), "parlor.db")
	acknowledged := make(map[string]string) // room SID → last acknowledged state
	said := 0
	for i := range crashes {
		c := startChild(t, "load", path)
		require.Equal(t, "ready", c.line(t))
		killSoon := func() {
			time.AfterFunc(time.Duration(rand.IntN(150))*time.Millisecond, func() { _ = c.cmd.Process.Kill() })
		}
		busy := i%2 == 0 // killed only when it has done something, however slow the machine is
		if !busy {
			killSoon()
		}
		for c.lines.Scan() {
			if busy {
				busy = false
				killSoon()
			}
			what, sid, ok := strings.Cut(c.lines.Text(), " ")
			if !ok || len(sid) != len(guid.New("RM_")) {
				break // the line was cut by the kill
			}
			acknowledged[sid] = what
			said++
		}
		c.kill()
		requireAcknowledged(t, path, acknowledged)
	}
	require.GreaterOrEqual(t, said, crashes/2, "the load did something")
	t.Logf("%d changes acknowledged over %d crashes", said, crashes)
}

func requireAcknowledged(t *testing.T, path string, acknowledged map[string]string) {
	t.Helper()
	s, err := Open(t.Context(), Config{Path: path})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close(context.Background())) }()
	requireSound(t, s)
	progress := map[string]int64{"create": 1, "join": 2, "end": 3}
	for sid, what := range acknowledged {
		r, err := s.GetBySID(t.Context(), sid)
		require.NoError(t, err, "%s was acknowledged", what)
		require.GreaterOrEqual(t, r.Seq, progress[what], "%s of %s was acknowledged", what, sid)
	}
	var half int
	require.NoError(t, s.read.QueryRow(`SELECT count(*) FROM room WHERE
		(seq >= 2) <> EXISTS (SELECT 1 FROM session WHERE room_sid = room.sid) OR
		(seq = 3) <> (ended_ms > 0) OR (seq = 3) <> EXISTS (SELECT 1 FROM session WHERE room_sid = room.sid AND left_ms > 0)`).Scan(&half))
	require.Zero(t, half, "changes that are half there")
	require.NoError(t, s.read.QueryRow(`SELECT (SELECT count(*) FROM event) - (SELECT count(*) FROM delivery)`).Scan(&half))
	require.Zero(t, half, "events without a delivery")
}

// roleLoad creates, changes and ends rooms, and prints what is acknowledged.
func roleLoad(path string) {
	s, err := Open(context.Background(), Config{Path: path})
	check(err)
	_, err = s.SyncEndpoints(context.Background(), []log.Endpoint{{URL: "http://a"}}, 1)
	check(err)
	var mu sync.Mutex // guards the output
	say := func(what, sid string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(what, sid)
	}
	fmt.Println("ready")
	do := func(c rooms.Change, what, eventType string) rooms.Record {
		c.Events = []log.Event{event(eventType, &c.Room, 1)}
		done := make(chan rooms.Record, 1)
		s.Submit(&c, func(out rooms.Outcome, err error) {
			check(err)
			done <- out.Room
		})
		r := <-done
		say(what, r.SID)
		return r
	}
	for i := range 24 {
		go func() {
			for {
				r := do(rooms.Change{Kind: rooms.ChangeCreate, Room: newRoom(guid.New("n"), 1)}, "create", log.RoomStarted)
				v := rooms.Session{SID: guid.New("PA_"), RoomSID: r.SID, Identity: fmt.Sprint(i), JoinedMs: 2}
				r = do(rooms.Change{Kind: rooms.ChangeUpdate, Room: r, Sessions: []rooms.Session{v}}, "join", log.ParticipantJoined)
				v.LeftMs = 3
				r.EndedMs, r.EndReason = 3, rooms.EndClosed
				do(rooms.Change{Kind: rooms.ChangeEnd, Room: r, Sessions: []rooms.Session{v}}, "end", log.RoomFinished)
			}
		}()
	}
	select {}
}
