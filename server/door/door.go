package door

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// DefaultTime is how long it may take to tell a caller's kind, the TLS handshake
	// included.
	DefaultTime = 10 * time.Second
	// maxCallers bounds all callers, and maxCallersOfNetwork those of one IPv4 address or
	// IPv6 network of 64 bits: as many as HTTP allows connections without a request. A
	// further caller takes the place of the oldest: an honest client shows its kind
	// within two round trips, so others fill the places.
	maxCallers          = 4096
	maxCallersOfNetwork = 256
	// maxToldOf bounds the networks of which the log tells that they were refused.
	maxToldOf = 64
)

// Config configures a [Door]. Guests of a kind without a way are turned away.
type Config struct {
	// TLS is spoken with callers that begin with TLS; nil: they are turned away.
	TLS *tls.Config
	// TURNName is the server name (SNI) that only TURN clients ask for; "" if there is
	// none.
	TURNName string
	// TURN and ICE take connections. They must not block, and they close the connections.
	TURN, ICE func(net.Conn)
	// HTTP makes the listeners of [Door.HTTP].
	HTTP bool
	// Proxies are the networks of proxies that begin each connection with a header of the
	// PROXY protocol, which names the client. If there are any, others are turned away.
	Proxies []netip.Prefix
	// Trusted are the networks of proxies, whose connections serve many clients.
	Trusted []netip.Prefix
	// Time is how long it may take to tell a caller's kind; 0 is [DefaultTime].
	Time time.Duration
	// Log gets errors of listeners, and of connections that no proxy has named the client of:
	// once for each network, of at most 64. Required.
	Log *slog.Logger
}

// Counters count a door's connections since it opened; Callers is the present number.
type Counters struct {
	Callers atomic.Int64 // now
	// Guests, by kind.
	HTTP, TURN, ICE atomic.Uint64
	// Callers that were turned away: another took their place, they took too long, their
	// first bytes are of no known kind, the TLS handshake failed, no proxy named the client.
	Crowd, Late, Unknown, TLS, Unnamed atomic.Uint64
	// Failures counts errors of accepting a connection.
	Failures atomic.Uint64
}

// Door holds the listeners of one port. All methods may be called concurrently.
type Door struct {
	cfg      Config
	counters Counters
	work     sync.WaitGroup // acceptors and callers
	done     chan struct{}  // closed by Close
	ctx      context.Context
	cancel   context.CancelFunc

	// mu guards the following.
	mu        sync.Mutex
	closed    bool
	listeners []net.Listener
	inside    []*handed
	callers   map[net.Conn]netip.Prefix
	networks  map[netip.Prefix][]net.Conn // the callers of each, oldest first
	told      map[netip.Prefix]struct{}   // networks of which the log told that they were refused
}

// New makes a door without listeners. Close must be called.
func New(cfg Config) *Door {
	if cfg.Time == 0 {
		cfg.Time = DefaultTime
	}
	d := &Door{cfg: cfg, done: make(chan struct{}), callers: map[net.Conn]netip.Prefix{}, networks: map[netip.Prefix][]net.Conn{}, told: map[netip.Prefix]struct{}{}}
	if cfg.TLS != nil {
		// A caller that names another protocol is not decrypted by the door.
		d.cfg.TLS = cfg.TLS.Clone()
		d.cfg.TLS.NextProtos = []string{turnProtocol}
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// Counters returns the door's counters.
func (d *Door) Counters() *Counters { return &d.counters }

// Listen accepts l's connections. Close closes l.
func (d *Door) Listen(l net.Listener) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errors.Join(net.ErrClosed, l.Close())
	}
	d.listeners = append(d.listeners, l)
	var ways *ways
	if d.cfg.HTTP {
		ways = newWays(l.Addr())
		d.inside = append(d.inside, ways.asIs, ways.decrypted)
	}
	d.work.Go(func() { d.accept(l, ways) })
	return nil
}

// HTTP returns two listeners for each that Listen got: one for HTTP connections as they
// came, which still speak TLS if they began with it, and one for connections that the
// door has decrypted. Their user closes them, or the door does.
func (d *Door) HTTP() (asIs, decrypted []net.Listener) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, l := range d.inside {
		if i%2 == 0 {
			asIs = append(asIs, l)
		} else {
			decrypted = append(decrypted, l)
		}
	}
	return asIs, decrypted
}

// Addrs returns the addresses of the listeners.
func (d *Door) Addrs() []net.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []net.Addr
	for _, l := range d.listeners {
		all = append(all, l.Addr())
	}
	return all
}

// Close closes the listeners and the callers, and waits for their goroutines. Guests
// belong to their parts.
func (d *Door) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	close(d.done)
	d.cancel()
	var errs []error
	for _, l := range d.listeners {
		errs = append(errs, l.Close())
	}
	for _, l := range d.inside {
		errs = append(errs, l.Close())
	}
	for conn := range d.callers {
		_ = conn.Close() // nothing was said on it
	}
	d.mu.Unlock()
	d.work.Wait()
	return errors.Join(errs...)
}

// accept accepts a listener's connections until it is closed. After an error it goes on,
// because a process that has no file descriptor left gets some back.
func (d *Door) accept(l net.Listener, ways *ways) {
	const (
		again    = 100 * time.Millisecond
		logEvery = time.Minute
	)
	var logged time.Time
	for {
		conn, err := l.Accept()
		if err == nil {
			d.admit(conn, ways)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		d.counters.Failures.Add(1)
		if now := time.Now(); now.Sub(logged) >= logEvery {
			logged = now
			d.cfg.Log.Error("no connection can be accepted, trying again", "address", l.Addr(), "error", err)
		}
		select {
		case <-d.done:
			return
		case <-time.After(again):
		}
	}
}

// admit makes a connection a caller. If there are too many, it takes the place of the
// oldest caller of its own network, or of the network with the most callers.
func (d *Door) admit(conn net.Conn, ways *ways) {
	network := network(conn.RemoteAddr(), d.cfg.Trusted, d.cfg.Proxies)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		_ = conn.Close() // nothing was said on it
		return
	}
	d.placeLocked(conn, network)
	d.counters.Callers.Add(1)
	d.work.Go(func() { d.meet(conn, ways) })
}

// placeLocked gives a caller a place among those of a network.
func (d *Door) placeLocked(conn net.Conn, network netip.Prefix) {
	of := d.networks[network]
	full := network.IsValid() && len(of) >= maxCallersOfNetwork
	if !full && len(d.callers) >= maxCallers {
		of, full = d.fullestLocked(), true
	}
	if full {
		displaced := of[0]
		d.forgetLocked(displaced)
		d.counters.Crowd.Add(1)
		_ = displaced.Close() // it is of no known kind so far
	}
	d.callers[conn] = network
	d.networks[network] = append(d.networks[network], conn)
}

// named counts a caller among those of the client that its proxy has named. Otherwise one
// client of a proxy could take the places of all others.
func (d *Door) named(conn net.Conn, client net.Addr) {
	network := network(client, d.cfg.Trusted)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.forgetLocked(conn) { // else another has its place, and it is closed
		d.placeLocked(conn, network)
		d.counters.Callers.Add(1)
	}
}

// fullestLocked returns the callers of the network with the most.
func (d *Door) fullestLocked() (fullest []net.Conn) {
	for _, of := range d.networks {
		if len(of) > len(fullest) {
			fullest = of
		}
	}
	return fullest
}

// network identifies a client for the bounds; it is zero in one of the shared networks, whose
// connections serve many clients.
func network(client net.Addr, shared ...[]netip.Prefix) netip.Prefix {
	ip := address(client)
	if !ip.IsValid() || slices.ContainsFunc(shared, func(of []netip.Prefix) bool { return within(of, client) }) {
		return netip.Prefix{}
	}
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.Prefix(bits) // cannot fail for those bits
	return p
}

// address is a connection's address without its port; the zero value if it has none.
func address(a net.Addr) netip.Addr {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

// within reports whether a's address is of one of the networks.
func within(networks []netip.Prefix, a net.Addr) bool {
	ip := address(a)
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// forget frees a caller's place; false if another caller has taken it already.
func (d *Door) forget(conn net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.forgetLocked(conn)
}

func (d *Door) forgetLocked(conn net.Conn) bool {
	network, ok := d.callers[conn]
	if !ok {
		return false
	}
	delete(d.callers, conn)
	of := slices.DeleteFunc(d.networks[network], func(c net.Conn) bool { return c == conn })
	if d.networks[network] = of; len(of) == 0 {
		delete(d.networks, network)
	}
	d.counters.Callers.Add(-1)
	return true
}

// meet tells a caller's kind, and hands it to its part.
func (d *Door) meet(conn net.Conn, ways *ways) {
	_ = conn.SetDeadline(time.Now().Add(d.cfg.Time)) // if this fails, so does the read
	client, err := conn, error(nil)
	if len(d.cfg.Proxies) > 0 {
		if client, err = d.unwrap(conn); err == nil && client != conn {
			d.named(conn, client.RemoteAddr())
		}
	}
	var g guest
	if err == nil {
		g, err = d.ask(client)
	}
	if err == nil {
		// The part sets its own deadlines.
		err = g.conn.SetDeadline(time.Time{})
	}
	handed := err == nil && d.hand(g, ways)
	if !d.forget(conn) || handed {
		return // a part has it, or it was closed when another took its place
	}
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		d.counters.Late.Add(1)
	case errors.Is(err, errTLS):
		d.counters.TLS.Add(1)
	case errors.Is(err, errNoProxy), errors.Is(err, errPROXY):
		d.counters.Unnamed.Add(1)
		d.tell(conn, err)
	default:
		d.counters.Unknown.Add(1)
	}
	_ = conn.Close() // nothing more is to be said to it
}

// tell logs why the connections of a network are refused, once.
func (d *Door) tell(conn net.Conn, reason error) {
	network := network(conn.RemoteAddr())
	d.mu.Lock()
	_, before := d.told[network]
	before = before || len(d.told) >= maxToldOf
	if !before {
		d.told[network] = struct{}{}
	}
	d.mu.Unlock()
	if !before {
		d.cfg.Log.Warn("a connection is refused, as others of its network will be", "reason", reason, "network", network,
			"see", "turn.proxy_protocol and turn.proxy_protocol_trusted_cidrs")
	}
}

// hand gives a guest to its part; false if there is none.
func (d *Door) hand(g guest, ways *ways) bool {
	switch {
	case g.kind == turnGuest && d.cfg.TURN != nil:
		d.counters.TURN.Add(1)
		d.cfg.TURN(g.conn)
	case g.kind == iceGuest && d.cfg.ICE != nil:
		d.counters.ICE.Add(1)
		d.cfg.ICE(g.conn)
	case g.kind == httpGuest && ways != nil:
		l := ways.asIs
		if g.decrypted {
			l = ways.decrypted
		}
		d.counters.HTTP.Add(1)
		return l.put(g.conn)
	default:
		return false
	}
	return true
}

// ways are the two HTTP listeners behind one of the door's.
type ways struct{ asIs, decrypted *handed }

func newWays(addr net.Addr) *ways { return &ways{newHanded(addr), newHanded(addr)} }

// handed is a listener whose connections come from the door.
type handed struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{} // closed by Close
	once  sync.Once
}

func newHanded(addr net.Addr) *handed {
	return &handed{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// put hands a connection over; false if the listener is closed.
func (l *handed) put(conn net.Conn) bool {
	select {
	case l.conns <- conn:
		return true
	case <-l.done:
		return false
	}
}

// Accept implements net.Listener.
func (l *handed) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
	}
}

// Close implements net.Listener.
func (l *handed) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements net.Listener.
func (l *handed) Addr() net.Addr { return l.addr }
