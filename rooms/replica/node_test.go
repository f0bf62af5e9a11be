package replica

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"parlor/rooms"
	"parlor/rooms/guid"
	"parlor/rooms/log"
	"parlor/rooms/replica/s3test"
	"parlor/rooms/sqlite"

	"github.com/stretchr/testify/require"
)

// roleVariable makes the test's program a server process of a test. It contains the
// process's configuration.
const roleVariable = "PARLOR_TEST_REPLICA"

func TestMain(m *testing.M) {
	s3test.Environment()
	if role := os.Getenv(roleVariable); role != "" {
		serve(role)
		return
	}
	code := m.Run()
	s3Server.Stop()
	if left := leaked(); code == 0 && left != "" {
		fmt.Println("goroutines were left behind:\n" + left)
		code = 1
	}
	os.Exit(code)
}

// leaked lists goroutines of this package or of Litestream that still run. The idle
// connections of the AWS library end by themselves.
func leaked() string {
	var left []string
	for range 100 {
		stacks := make([]byte, 1<<20)
		left = nil
		for i, s := range strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			if i > 0 && (strings.Contains(s, "parlor/rooms") || strings.Contains(s, "benbjohnson/litestream.")) { // the first is this goroutine
				left = append(left, s)
			}
		}
		if len(left) == 0 {
			return ""
		}
		time.Sleep(20 * time.Millisecond)
	}
	return strings.Join(left, "\n\n")
}

// node is a store with its replica, connected as in the program.
type node struct {
	store   *sqlite.Store
	replica *Replica
	lost    chan error
	closing sync.Once
	failure error // of closing
}

// openNode opens the database in dir. machine distinguishes the machines of a test; "" is
// this one.
func openNode(ctx context.Context, dir, machine string, c Config) (*node, error) {
	n := &node{lost: make(chan error, 1)}
	c.Machine = machine
	c.ReadEpoch, c.ReadSeq, c.Sound = sqlite.ReadEpoch, sqlite.ReadSeq, sqlite.Sound
	c.OnLost = func(err error) { n.lost <- err }
	c.OnEpoch = func(ctx context.Context, epoch int64) error { return n.store.SetEpoch(ctx, epoch) }
	r, err := New(c)
	if err != nil {
		return nil, err
	}
	n.replica = r
	n.store, err = sqlite.Open(ctx, sqlite.Config{
		Path: database(dir), Prepare: r.Prepare, Sync: r.Sync, Committed: r.Committed, Allow: r.Check, SyncInterval: 100 * time.Millisecond,
	})
	if err != nil {
		return nil, errors.Join(err, r.Close(ctx))
	}
	err = n.store.SetEpoch(ctx, r.Epoch())
	if err == nil {
		err = r.Start(ctx, n.store.Between)
	}
	if err != nil {
		return nil, errors.Join(err, n.close(ctx))
	}
	return n, nil
}

func (n *node) close(ctx context.Context) error {
	n.closing.Do(func() { n.failure = errors.Join(n.store.Close(ctx), n.replica.Close(ctx)) })
	return n.failure
}

// vanish leaves the state that the end of the machine would leave: no more uploads, and
// an unreleased lease. It ends the goroutines for the test's sake.
func (n *node) vanish(t testing.TB) {
	t.Helper()
	n.replica.lease.stop()
	n.replica.lease.lose(ErrLost) // from here on the guard stops every upload
	require.NoError(t, n.close(context.Background()))
}

func database(dir string) string { return filepath.Join(dir, "parlor.db") }

func mustOpen(t testing.TB, dir, machine string, c Config) *node {
	t.Helper()
	c.Log = testLog(t)
	n, err := openNode(within(t, 2*time.Minute), dir, machine, c)
	require.NoError(t, err)
	t.Cleanup(func() { // if the test fails: its goroutines would log to a test that is over
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = n.close(ctx)
	})
	return n
}

func (n *node) mustClose(t testing.TB) {
	t.Helper()
	require.NoError(t, n.close(within(t, 2*time.Minute)))
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// create makes a room, and waits for the disk.
func (n *node) create(name string) error {
	now := rooms.NowMs(time.Now())
	r := rooms.Record{SID: guid.New("RM_"), Name: name, CreatedMs: now, EmptyTimeout: rooms.Never, DepartureTimeout: rooms.Never}
	r.SetEmpty(now)
	done := make(chan error, 1)
	started := log.Event{ID: guid.New("EV_"), Type: log.RoomStarted, RoomSID: r.SID, RoomName: name, CreatedMs: now, Body: []byte("{}")}
	n.store.Submit(&rooms.Change{Kind: rooms.ChangeCreate, Room: r, Events: []log.Event{started}}, func(_ rooms.Outcome, err error) { done <- err })
	return <-done
}

func (n *node) mustCreate(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		require.NoError(t, n.create(name))
	}
}

func (n *node) mustBarrier(t testing.TB) {
	t.Helper()
	require.NoError(t, n.replica.Barrier(within(t, 2*time.Minute)))
}

// names are the names of the open rooms.
func (n *node) names(t testing.TB) []string {
	t.Helper()
	open, err := n.store.ListOpen(t.Context(), nil)
	require.NoError(t, err)
	names := []string{}
	for _, r := range open {
		names = append(names, r.Name)
	}
	slices.Sort(names)
	return names
}

// namesIn are the names of the open rooms in a closed database.
func namesIn(t testing.TB, path string) []string {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	require.NoError(t, err)
	names := (&node{store: s}).names(t)
	require.NoError(t, s.Close(context.Background()))
	return names
}

// role is the configuration of a server process.
type role struct {
	Dir, URL, Machine string
	TTL               time.Duration
	Rate              int // rooms per second
}

// serve is a server process: it makes rooms at a rate, and prints what is acknowledged
// ("a N TIME") and what a barrier guarantees ("b N"), until it is killed or its input
// ends.
func serve(config string) {
	var c role
	err := json.Unmarshal([]byte(config), &c)
	if err == nil {
		err = c.serve()
	}
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("closed")
}

func (c role) serve() error {
	ctx := context.Background()
	began := time.Now()
	n, err := openNode(ctx, c.Dir, c.Machine, Config{URL: c.URL, LeaseTTL: c.TTL, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	fmt.Println("ready", n.replica.Epoch(), time.Since(began).Milliseconds())
	stop := make(chan struct{})
	go func() { // ends with the input, at the latest with the process
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	if err := c.write(ctx, n, stop); err != nil {
		return err
	}
	return n.close(ctx)
}

func (c role) write(ctx context.Context, n *node, stop <-chan struct{}) error {
	if c.Rate == 0 {
		<-stop
		return nil
	}
	tick := time.NewTicker(time.Second / time.Duration(c.Rate))
	defer tick.Stop()
	for i := 1; ; i++ {
		select {
		case <-stop:
			return nil
		case err := <-n.lost:
			return err
		case <-tick.C:
		}
		if err := n.create(fmt.Sprintf("%s-%06d", filepath.Base(c.Dir), i)); err != nil {
			return err
		}
		fmt.Println("a", i, time.Now().UnixMilli())
		if i%c.Rate == 0 {
			if err := n.replica.Barrier(ctx); err != nil {
				return err
			}
			fmt.Println("b", i)
		}
	}
}

// process is a running server process.
type process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

func startProcess(t testing.TB, c role) *process {
	t.Helper()
	config, err := json.Marshal(c)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+string(config))
	cmd.Stderr = t.Output()
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &process{cmd, in, bufio.NewScanner(out)}
	t.Cleanup(func() { p.kill() })
	return p
}

func (p *process) line(t testing.TB) string {
	t.Helper()
	require.True(t, p.lines.Scan(), "the process ended")
	return p.lines.Text()
}

// ready waits until the process serves, and returns its epoch and the time that it took.
func (p *process) ready(t testing.TB) (epoch int64, took time.Duration) {
	t.Helper()
	var ms int64
	line := p.line(t)
	_, err := fmt.Sscanf(line, "ready %d %d", &epoch, &ms)
	require.NoError(t, err, line)
	return epoch, time.Duration(ms) * time.Millisecond
}

// kill kills the process, like a crash.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	_ = p.cmd.Wait()
}

// rest is the remaining output.
func (p *process) rest() []string {
	var lines []string
	for p.lines.Scan() {
		lines = append(lines, p.lines.Text())
	}
	return lines
}

// told is the last line of a kind.
func told(lines []string, kind string) string {
	last := ""
	for _, l := range lines {
		if rest, ok := strings.CutPrefix(l, kind+" "); ok {
			last = rest
		}
	}
	return last
}

func logTo(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
