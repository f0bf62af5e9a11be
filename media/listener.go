package media

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of ICE-TCP connections, whatever they turn out to be. A participant has one
// or two; many participants may share an address behind a NAT.
const (
	maxTCPConns           = 4096
	maxTCPConnsPerAddress = 256
	// firstSTUN is the time that a new connection has until its first STUN request
	// (RFC 6544 section 5): a client sends it at once.
	firstSTUN = 5 * time.Second
	// tcpQueue bounds the bytes that wait for one TCP receiver: two seconds of 2 Mbit/s.
	tcpQueue = 512 << 10
)

// tcpCounts are what listeners count.
type tcpCounts struct {
	open     atomic.Int64  // connections now
	failures atomic.Uint64 // times that no connection could be accepted
	refused  atomic.Uint64 // connections beyond the bounds
}

// listener accepts ICE-TCP connections up to a bound. Pion's mux ends for good at the
// first error of its listener; this one waits until a connection can be accepted
// again, since a process that is out of file descriptors gets some back.
type listener struct {
	net.Listener
	log        *slog.Logger
	counts     *tcpCounts
	most       int
	perAddress int
	closed     chan struct{}
	closeOnce  sync.Once

	mu   sync.Mutex         // guards the following
	open map[netip.Addr]int // by address
	all  int
}

func newListener(l net.Listener, log *slog.Logger, counts *tcpCounts) *listener {
	return &listener{
		Listener: l, log: log, counts: counts, most: maxTCPConns, perAddress: maxTCPConnsPerAddress,
		closed: make(chan struct{}), open: map[netip.Addr]int{},
	}
}

// Accept implements net.Listener. Its only error is net.ErrClosed.
func (l *listener) Accept() (net.Conn, error) {
	const (
		again    = 100 * time.Millisecond
		logEvery = time.Minute
	)
	var logged time.Time
	for {
		conn, err := l.Listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil, err
		case err != nil:
			l.counts.failures.Add(1)
			if now := time.Now(); now.Sub(logged) >= logEvery {
				logged = now
				l.log.Error("no ICE-TCP connection can be accepted, trying again", "address", l.Addr(), "error", err)
			}
			select {
			case <-l.closed:
				return nil, net.ErrClosed
			case <-time.After(again):
			}
			continue
		}
		if !logged.IsZero() {
			l.log.Info("ICE-TCP connections are accepted again", "address", l.Addr())
			logged = time.Time{}
		}
		if counted, ok := l.count(conn); ok {
			return counted, nil
		}
		l.counts.refused.Add(1)
		_ = conn.Close() // nothing was sent on it
	}
}

// Close implements net.Listener. It ends an Accept that waits.
func (l *listener) Close() error {
	l.closeOnce.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// count takes conn in, unless it is one too many.
func (l *listener) count(conn net.Conn) (net.Conn, bool) {
	var from netip.Addr
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		from = a.AddrPort().Addr().Unmap()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= l.most || l.open[from] >= l.perAddress {
		return nil, false
	}
	l.all++
	l.open[from]++
	l.counts.open.Add(1)
	return &countedConn{Conn: conn, done: sync.OnceFunc(func() { l.forget(from) })}, true
}

func (l *listener) forget(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.open.Add(-1)
	l.all--
	if l.open[from]--; l.open[from] <= 0 {
		delete(l.open, from)
	}
}

// countedConn is a connection that its listener counts until it is closed.
type countedConn struct {
	net.Conn
	done func()
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	c.done()
	return c.Conn.Close()
}
