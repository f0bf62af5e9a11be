package media

import (
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// outOfFiles fails as a listener does whose process has no file descriptor left.
type outOfFiles struct {
	net.Listener
	mu   sync.Mutex // guards left
	left int
}

func (l *outOfFiles) Accept() (net.Conn, error) {
	l.mu.Lock()
	fail := l.left > 0
	l.left--
	l.mu.Unlock()
	if fail {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func listenLocally(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// A listener that ran out of file descriptors says so once, and goes on when there are
// some again.
func TestTheListenerOutlivesAShortageOfFiles(t *testing.T) {
	var log strings.Builder
	counts := &tcpCounts{}
	l := newListener(&outOfFiles{Listener: listenLocally(t), left: 3}, slog.New(slog.NewTextHandler(&log, nil)), counts)
	dialled, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer dialled.Close()
	accepted, err := l.Accept()
	require.NoError(t, err)
	require.NoError(t, accepted.Close())
	require.EqualValues(t, 3, counts.failures.Load())
	require.Equal(t, 1, strings.Count(log.String(), "level=ERROR"), log.String())
	require.Contains(t, log.String(), "accepted again")
	require.NoError(t, l.Close())
	_, err = l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}

// Closing ends an Accept that waits for file descriptors.
func TestTheListenerClosesDuringAShortage(t *testing.T) {
	l := newListener(&outOfFiles{Listener: listenLocally(t), left: 1 << 30}, slog.New(slog.DiscardHandler), &tcpCounts{})
	ended := make(chan error, 1)
	go func() { _, err := l.Accept(); ended <- err }()
	require.Eventually(t, func() bool { return l.counts.failures.Load() > 0 }, patience, time.Millisecond)
	require.NoError(t, l.Close())
	require.ErrorIs(t, <-ended, net.ErrClosed)
}

// One address cannot take all connections, nor can all addresses take more than there
// are; a connection that is closed makes room.
func TestConnectionsOfTheListenerAreBounded(t *testing.T) {
	for name, bound := range map[string]func(*listener){
		"per address": func(l *listener) { l.perAddress = 2 },
		"in all":      func(l *listener) { l.most = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			counts := &tcpCounts{}
			l := newListener(listenLocally(t), slog.New(slog.DiscardHandler), counts)
			bound(l)
			accepted := make(chan net.Conn, 10)
			go func() { // ends with the listener
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					accepted <- conn
				}
			}()
			dial := func() net.Conn {
				conn, err := net.Dial("tcp", l.Addr().String())
				require.NoError(t, err)
				t.Cleanup(func() { _ = conn.Close() })
				return conn
			}
			dial()
			dial()
			first, second := <-accepted, <-accepted
			require.EqualValues(t, 2, counts.open.Load())
			one := dial()
			_, err := one.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF, "it is closed at once")
			require.EqualValues(t, 1, counts.refused.Load())
			require.NoError(t, first.Close())
			_ = first.Close() // counts once
			dial()
			require.NoError(t, (<-accepted).Close())
			require.NoError(t, second.Close())
			require.Zero(t, counts.open.Load())
			require.NoError(t, l.Close())
		})
	}
}
