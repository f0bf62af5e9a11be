package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

// watcher listens like systemd.
type watcher struct {
	t    *testing.T
	conn *net.UnixConn
	path string
}

func newWatcher(t *testing.T) *watcher {
	t.Helper()
	dir, err := os.MkdirTemp("", "parlor") // short, as a socket's name must be
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &watcher{t: t, path: filepath.Join(dir, "notify")}
	w.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: w.path, Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.conn.Close() })
	return w
}

// hears waits for the next notification, except for signs of life.
func (w *watcher) hears(want string) {
	w.t.Helper()
	for {
		if told := w.next(); told != "WATCHDOG=1" || want == told {
			require.Equal(w.t, want, told)
			return
		}
	}
}

func (w *watcher) next() string {
	w.t.Helper()
	require.NoError(w.t, w.conn.SetReadDeadline(time.Now().Add(time.Minute)))
	b := make([]byte, 1024)
	n, err := w.conn.Read(b)
	require.NoError(w.t, err)
	return string(b[:n])
}

// TestCommandServeTellsItsSupervisor that it is ready, alive, reloading and stopping.
func TestCommandServeTellsItsSupervisor(t *testing.T) {
	w := newWatcher(t)
	hangups := make(chan os.Signal)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan int, 1)
	go func() {
		ended <- Run(ctx, Environment{
			Args: []string{"--dev", "--port", "0", "--bind", "127.0.0.1", "--udp-port", "0", "--tcp-port", "0", "--database", filepath.Join(t.TempDir(), "parlor.db")},
			Environ: []string{"NOTIFY_SOCKET=" + w.path, "WATCHDOG_USEC=3000000", fmt.Sprintf("WATCHDOG_PID=%d", os.Getpid()),
				"LISTEN_FDS=3", "LISTEN_PID=1"}, // for another process
			Out: io.Discard, Err: io.Discard, Hangups: hangups,
		})
	}()
	w.hears("READY=1")
	w.hears("WATCHDOG=1")
	w.hears("WATCHDOG=1")
	hangups <- syscall.SIGHUP
	w.hears("RELOADING=1")
	w.hears("READY=1")
	cancel()
	w.hears("STOPPING=1")
	require.Zero(t, <-ended)
}

// TestCommandServeIsSilentWhileItHangs, so that its supervisor kills it.
func TestCommandServeIsSilentWhileItHangs(t *testing.T) {
	w := newWatcher(t)
	s := newSupervisor([]string{"NOTIFY_SOCKET=" + w.path, "WATCHDOG_USEC=3000"}, 1, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	asked := new(atomic.Int32)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.watch(ctx, func(ctx context.Context) error {
			switch asked.Add(1) {
			case 1:
				<-ctx.Done() // no answer in time
				return ctx.Err()
			case 2, 3:
				return errors.New("no")
			}
			return nil
		})
	}()
	require.Equal(t, "WATCHDOG=1", w.next())
	require.GreaterOrEqual(t, asked.Load(), int32(4), "only what answers lives")
	cancel()
	<-ended

	h := start(t, filepath.Join(t.TempDir(), "parlor.db"))
	require.NoError(t, h.alive(t.Context()))
	release, in := make(chan struct{}), make(chan struct{})
	held := make(chan error, 1)
	go func() {
		held <- h.store.Between(t.Context(), func(context.Context) error {
			close(in)
			<-release
			return nil
		})
	}()
	<-in
	bounded, done := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer done()
	require.ErrorContains(t, h.alive(bounded), "the database's writer")
	close(release)
	require.NoError(t, <-held)
	require.NoError(t, h.alive(t.Context()))
}

// TestCommandServeRestartsWithoutRefusedConnections on a socket that is passed to it: a
// client that connects while no server runs is served by the next one, as is one that connects
// when it was told that this server stops.
func TestCommandServeRestartsWithoutRefusedConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f, err := l.(*net.TCPListener).File()
	require.NoError(t, err)
	defer f.Close()
	url := "http://" + l.Addr().String()
	require.NoError(t, l.Close()) // f has its own descriptor
	w, dir, log := newWatcher(t), t.TempDir(), &transcript{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(log)
		}
	})
	run := func() *exec.Cmd {
		// Only the child knows its process id, which LISTEN_PID must be.
		cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, binary(t), "--dev", "--port", "1", "--udp-port", "0", "--tcp-port", "0",
			"--database", filepath.Join(dir, "parlor.db"))
		cmd.ExtraFiles = []*os.File{f}
		cmd.Env = append(os.Environ(), "LISTEN_FDS=1", "NOTIFY_SOCKET="+w.path)
		cmd.Stderr = log
		require.NoError(t, cmd.Start())
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // it may have ended
			_ = cmd.Wait()         // killed
		})
		w.hears("READY=1")
		return cmd
	}
	// asks connects and asks whether the server takes work. answered reads the answer.
	asks := func() net.Conn {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		_, err = io.WriteString(conn, "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		require.NoError(t, err)
		return conn
	}
	answered := func(conn net.Conn) {
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
		answer, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Regexp(t, `^HTTP/1.1 200 OK\r\n`, string(answer))
	}
	cmd := run()
	answered(asks())
	token, err := auth.NewAccessToken("devkey", "secret").SetIdentity("ann").SetVideoGrant(&auth.VideoGrant{RoomJoin: true, Room: "r"}).ToJWT()
	require.NoError(t, err)
	client, resp, err := websocket.Dial(t.Context(), url+"/rtc?protocol=16&access_token="+token, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	defer client.CloseNow()
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	for leave := (*livekit.LeaveRequest)(nil); leave == nil; {
		_, b, err := client.Read(t.Context())
		require.NoError(t, err)
		var m livekit.SignalResponse
		require.NoError(t, proto.Unmarshal(b, &m))
		leave = m.GetLeave()
	}
	told := asks()
	w.hears("STOPPING=1")
	require.NoError(t, cmd.Wait())
	away := asks()
	run()
	answered(told)
	answered(away)
	require.Contains(t, log.String(), strings.TrimPrefix(url, "http://"))
}

// TestCommandServeRefusesSocketsThatAreNone on which it could serve HTTP.
func TestCommandServeRefusesSocketsThatAreNone(t *testing.T) {
	s := newSupervisor([]string{"LISTEN_FDS=2", "LISTEN_PID=7", "LISTEN_FDNAMES=http:metrics"}, 7, slog.New(slog.DiscardHandler))
	require.Equal(t, []string{"http", "metrics"}, s.sockets)
	for _, environ := range [][]string{nil, {"LISTEN_FDS=2"}, {"LISTEN_FDS=-1", "LISTEN_PID=7"}, {"LISTEN_FDS=x", "LISTEN_PID=7"}} {
		require.Empty(t, newSupervisor(environ, 7, s.log).sockets, environ)
	}
	(*supervisor)(nil).tell("READY=1") // there is no supervisor
	(&supervisor{socket: "/nowhere/at/all", log: s.log}).tell("READY=1")
}
