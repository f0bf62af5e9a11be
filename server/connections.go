package server

import (
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// The bounds of connections whose next request head is awaited: no token was shown yet
// for what they hold. Connections with a running request, and WebSockets, are not
// counted.
const (
	maxWaiting        = 4096 // in all
	maxWaitingAddress = 256  // of one IPv4 address, or IPv6 network of 64 bits
	// A longer head, as of a join with a large offer, needs one of a few places until it
	// is complete, because it takes many times its length in memory.
	largeHead       = 64 << 10
	maxLarge        = 32
	maxLargeAddress = 8
)

// errHead ends a connection whose head is refused.
var errHead = errors.New("too many long request heads at one time")

// connections bounds what unfinished request heads take in memory. Its methods may be
// called concurrently.
type connections struct {
	trusted []netip.Prefix // of proxies, whose connections serve many clients
	refused *prometheus.CounterVec
	gauge   prometheus.Gauge

	mu    sync.Mutex // guards the following, and the conns' fields
	all   held
	byNet map[string]*held
	open  map[*countedConn]struct{} // those that wait
}

// held counts what connections have taken.
type held struct{ waiting, large int }

func newConnections(trusted []netip.Prefix, registry *prometheus.Registry) *connections {
	c := &connections{
		trusted: trusted, byNet: map[string]*held{}, open: map[*countedConn]struct{}{},
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parlor_http_connections_refused_total",
			Help: "HTTP connections closed before a request was answered, by why: waiting (too many without one), head (too many long heads at one time, or one with too many or too long fields).",
		}, []string{"why"}),
		gauge: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "parlor_http_connections_waiting", Help: "HTTP connections whose next request is awaited.",
		}),
	}
	if registry != nil {
		registry.MustRegister(c.refused, c.gauge)
		for _, why := range []string{"head", "waiting"} {
			c.refused.WithLabelValues(why) // shown from the start
		}
	}
	return c
}

// listen is l with counted connections.
func (c *connections) listen(l net.Listener) net.Listener { return &countedListener{l, c} }

type countedListener struct {
	net.Listener
	connections *connections
}

// Accept implements [net.Listener].
func (l *countedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countedConn{Conn: conn, connections: l.connections, network: l.connections.network(conn)}, nil
}

// network identifies a client for the bounds; "" for a trusted proxy.
func (c *connections) network(conn net.Conn) string {
	at, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return conn.RemoteAddr().String()
	}
	a := at.Addr().Unmap().WithZone("")
	switch {
	case contains(c.trusted, a):
		return ""
	case a.Is4():
		return a.String()
	}
	p, _ := a.Prefix(64) // cannot fail for IPv6
	return p.String()
}

// countedConn is an HTTP connection. connections.mu guards its counts.
type countedConn struct {
	net.Conn
	connections *connections
	network     string

	waiting, large bool
	head           int // bytes read of the next head
}

// Read implements [net.Conn]. A head that becomes long needs a place.
func (conn *countedConn) Read(b []byte) (int, error) {
	n, err := conn.Conn.Read(b)
	if n > 0 && !conn.connections.reads(conn, n) {
		conn.refuse()
		return 0, errHead
	}
	return n, err
}

// CloseWrite is for net/http, which ends connections with it.
func (conn *countedConn) CloseWrite() error {
	if w, ok := conn.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// refuse writes over a plain connection why it is closed. Nothing was written since the
// last request, so this does not block.
func (conn *countedConn) refuse() {
	_, _ = io.WriteString(conn.Conn, "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 2\r\n"+ // the client may be gone
		"Content-Type: text/plain; charset=utf-8\r\n\r\ntoo many connections without a complete request, try again later\n")
}

// reads reports whether conn may have read n bytes more.
func (c *connections) reads(conn *countedConn, n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !conn.waiting {
		return true
	}
	if conn.head += n; conn.head <= largeHead || conn.large {
		return true
	}
	h := c.of(conn)
	if c.all.large >= maxLarge || (conn.network != "" && h.large >= maxLargeAddress) {
		c.refused.WithLabelValues("head").Inc()
		return false
	}
	conn.large = true
	c.all.large++
	h.large++
	return true
}

// of is what conn's network holds.
func (c *connections) of(conn *countedConn) *held {
	h := c.byNet[conn.network]
	if h == nil {
		h = &held{}
		c.byNet[conn.network] = h
	}
	return h
}

// state follows a connection's state, as an [http.Server.ConnState].
func (c *connections) state(nc net.Conn, state http.ConnState) {
	overTLS := false
	if t, ok := nc.(*tls.Conn); ok {
		nc, overTLS = t.NetConn(), true
	}
	conn, ok := nc.(*countedConn)
	if !ok {
		return
	}
	if state != http.StateNew && state != http.StateIdle {
		c.leave(conn)
		return
	}
	if c.enter(conn) {
		return
	}
	if state == http.StateNew && !overTLS {
		conn.refuse()
	}
	_ = conn.Close() // its reader then fails
}

// enter reports whether conn may wait for a request.
func (c *connections) enter(conn *countedConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn.waiting {
		return true
	}
	h := c.of(conn)
	if c.all.waiting >= maxWaiting || (conn.network != "" && h.waiting >= maxWaitingAddress) {
		c.refused.WithLabelValues("waiting").Inc()
		if *h == (held{}) {
			delete(c.byNet, conn.network)
		}
		return false
	}
	conn.waiting, conn.head = true, 0
	c.open[conn] = struct{}{}
	c.all.waiting++
	h.waiting++
	c.gauge.Inc()
	return true
}

// dismiss closes the connections that have no complete request. net/http's Shutdown waits
// for those that never had one, such as browsers open in advance, for five seconds.
func (c *connections) dismiss() {
	c.mu.Lock()
	waiting := slices.Collect(maps.Keys(c.open))
	c.mu.Unlock()
	for _, conn := range waiting {
		c.mu.Lock()
		still := conn.waiting // its request may have come while others were closed
		c.mu.Unlock()
		if still {
			_ = conn.Close() // its reader then fails
		}
	}
}

// leave returns what conn holds: its request is complete, or it is closed.
func (c *connections) leave(conn *countedConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !conn.waiting {
		return
	}
	h := c.of(conn)
	conn.waiting = false
	delete(c.open, conn)
	c.all.waiting--
	h.waiting--
	c.gauge.Dec()
	if conn.large {
		conn.large = false
		c.all.large--
		h.large--
	}
	if *h == (held{}) {
		delete(c.byNet, conn.network)
	}
}
