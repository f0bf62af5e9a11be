package icemux

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v4"

	"parlor/media/tcp"
)

// Bounds of TCP connections. A participant has one or two for each transport, and many
// participants may share an address behind a NAT.
const (
	// maxStrangers is how many strangers there may be, and maxStrangersOfNetwork how
	// many of one IPv4 address or IPv6 network of 64 bits. A client's connection is one
	// for a round trip.
	maxStrangers          = 512
	maxStrangersOfNetwork = 64
	// strangerTime is how long a connection may be one: clients send a request at once
	// (RFC 6544, 5).
	strangerTime = 5 * time.Second
	// maxUnproven and maxProven are how many members of either kind a session may have,
	// and unprovenTime and maxUnprovenPackets bound what one may do until it is proven.
	maxUnproven        = 4
	maxProven          = 8
	unprovenTime       = 15 * time.Second
	maxUnprovenPackets = 128
	// maxMembers bounds the members of all sessions: each has two goroutines, a file
	// descriptor and a queue.
	maxMembers = 4096
	// maxTCPQueue bounds the bytes that wait for one receiver: what is a second of
	// 4 Mbit/s, and more than an SCTP association sends before it is acknowledged.
	maxTCPQueue = 512 << 10
	// maxTCPWrite is up to how many bytes are written at a time.
	maxTCPWrite = 16 << 10
	// maxTCPPackets is how many packets may wait for a session's reader. Those that come
	// later wait in the kernel.
	maxTCPPackets = 64
)

// MaxTCPWait is how long an RTP packet may wait to be written to a TCP connection. An
// older packet is dropped.
const MaxTCPWait = 250 * time.Millisecond

// Media learns what happened to the RTP packets in the queue of a session. Its methods
// are called under a lock of the session: they must neither block nor write to the
// session.
type Media interface {
	// Linked reports whether packets of a stream are of no use without those before them.
	Linked(ssrc uint32) bool
	// Dropped tells that packets of a stream were dropped, from one with that number on,
	// since their receiver is too slow for them: so long has the first of them waited. Of a
	// linked stream nothing leaves from there on that was sent before the call returns.
	Dropped(ssrc uint32, number uint16, waited time.Duration)
}

// nobody is the Media of a session without one.
type nobody struct{}

func (nobody) Linked(uint32) bool                    { return false }
func (nobody) Dropped(uint32, uint16, time.Duration) {}

// TCPConfig configures a [TCPMux].
type TCPConfig struct {
	// Counters counts connections; several muxes may share them. Required.
	Counters *TCPCounters
	// Log receives errors of listeners, not of connections. Required.
	Log *slog.Logger
}

// TCPCounters count the connections of a TCPMux.
type TCPCounters struct {
	Open      atomic.Int64 // now
	Strangers atomic.Int64 // of those, strangers
	// Failures: times that no connection could be accepted.
	Failures atomic.Uint64
	// Refused: connections that were closed since there were too many, or since they did
	// not show in time that they are a client's.
	Refused atomic.Uint64
	// Overflow: packets that were not sent, since too much waited for their receiver.
	Overflow atomic.Uint64
	// Overdue: RTP packets that were not sent, since they, or others that they depend on,
	// had waited longer than MaxTCPWait.
	Overdue atomic.Uint64
}

// TCPMux shares TCP ports, to which clients connect (RFC 6544). All methods may be
// called concurrently.
type TCPMux struct {
	cfg  TCPConfig
	work sync.WaitGroup // acceptors, and readers and writers of connections
	done chan struct{}  // closed by Close

	strangerTime, unprovenTime time.Duration    // never changed
	maxMembers                 int              // likewise
	now                        func() time.Time // likewise

	// mu guards the following, and what connections say that it guards. A session's mu
	// may be taken while it is held.
	mu        sync.Mutex
	closed    bool
	listeners []tcpListener
	sessions  map[string][]*tcpSession         // by ufrag, one for each local address
	strangers []*tcpConn                       // oldest first
	members   int                              // of all sessions
	former    map[*tcpSession]struct{}         // former sessions
	bySize    map[int]map[*tcpSession]struct{} // the sessions that have members, by how many
}

type tcpListener struct {
	net.Listener // nil: others listen there
	addr         netip.AddrPort
	covers       func(netip.Addr) bool
}

var _ ice.TCPMux = (*TCPMux)(nil)

// NewTCP makes a TCPMux without listeners. Close must be called.
func NewTCP(cfg TCPConfig) *TCPMux {
	return &TCPMux{
		cfg: cfg, done: make(chan struct{}), sessions: map[string][]*tcpSession{},
		strangerTime: strangerTime, unprovenTime: unprovenTime, maxMembers: maxMembers, now: time.Now,
		bySize: map[int]map[*tcpSession]struct{}{}, former: map[*tcpSession]struct{}{},
	}
}

// Listen begins to accept the connections of l, which the TCPMux closes. covers reports
// whether clients reach l at a local address.
func (m *TCPMux) Listen(l net.Listener, covers func(local netip.Addr) bool) error {
	local, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return fmt.Errorf("local address %v is not of TCP", l.Addr())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return net.ErrClosed
	}
	m.listeners = append(m.listeners, tcpListener{l, local.AddrPort(), covers})
	m.work.Go(func() { m.accept(l) })
	return nil
}

// Expect announces that [TCPMux.Hand] will bring connections that another listener
// accepted at addr. covers is as in [TCPMux.Listen].
func (m *TCPMux) Expect(addr netip.AddrPort, covers func(local netip.Addr) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listeners = append(m.listeners, tcpListener{nil, addr, covers})
}

// Hand takes over a connection that another listener accepted. The connection begins as a
// stranger. Reads of conn must begin with its first byte: if the listener has read from the
// connection, conn wraps it, returns those bytes again, and has a NetConn method that
// returns the wrapped connection. The TCPMux writes to the wrapped connection, so a wrapper
// that encrypts does not work.
func (m *TCPMux) Hand(conn net.Conn) { m.take(conn) }

// Addrs returns the addresses of the listeners.
func (m *TCPMux) Addrs() []netip.AddrPort {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []netip.AddrPort
	for _, l := range m.listeners {
		out = append(out, l.addr)
	}
	return out
}

// Close closes the listeners, sessions and connections, and waits for their goroutines.
func (m *TCPMux) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	close(m.done)
	var errs []error
	for _, l := range m.listeners {
		if l.Listener != nil {
			errs = append(errs, l.Close())
		}
	}
	for _, c := range m.strangers {
		c.close()
	}
	ending := slices.Collect(maps.Keys(m.former))
	for _, of := range m.sessions {
		ending = append(ending, of...)
	}
	m.sessions = map[string][]*tcpSession{}
	m.mu.Unlock()
	endAll(ending)
	m.work.Wait()
	return errors.Join(errs...)
}

// GetConnByUfrag implements ice.TCPMux: it returns a conn of the session of ufrag at a
// local address. If there is no session, it makes one, and the connections that wait for
// the session become its members. The caller must close the conn; the session ends with
// the last of its conns.
func (m *TCPMux) GetConnByUfrag(ufrag string, _ bool, local net.IP) (net.PacketConn, error) {
	return m.getConn(ufrag, local, &TCPTransport{})
}

func (m *TCPMux) getConn(ufrag string, local net.IP, of *TCPTransport) (net.PacketConn, error) {
	addr, ok := netip.AddrFromSlice(local)
	if !ok {
		return nil, fmt.Errorf("%v is not an address", local)
	}
	addr = addr.Unmap()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, io.ErrClosedPipe
	}
	s := m.sessionLocked(ufrag, addr)
	if s == nil {
		i := slices.IndexFunc(m.listeners, func(l tcpListener) bool { return l.covers(addr) })
		if i < 0 {
			return nil, fmt.Errorf("no TCP listener has the local address %v", addr)
		}
		s = newTCPSession(m, ufrag, netip.AddrPortFrom(addr, m.listeners[i].addr.Port()), of)
		m.sessions[ufrag] = append(m.sessions[ufrag], s)
		for _, c := range slices.Clone(m.strangers) {
			if c.ufrag == ufrag && c.local == addr {
				m.admitLocked(c, s)
			}
		}
	}
	s.conns++
	return &tcpPacketConn{s: s, closed: make(chan struct{})}, nil
}

func (m *TCPMux) sessionLocked(ufrag string, local netip.Addr) *tcpSession {
	for _, s := range m.sessions[ufrag] {
		if s.local.Addr() == local {
			return s
		}
	}
	return nil
}

// RemoveConnByUfrag implements ice.TCPMux: the sessions of ufrag end. See [TCPTransport]
// for those of a transport.
func (m *TCPMux) RemoveConnByUfrag(ufrag string) {
	m.mu.Lock()
	sessions := m.sessions[ufrag]
	delete(m.sessions, ufrag)
	m.mu.Unlock()
	endAll(sessions)
}

// Watch sets the Media of the sessions of ufrag.
func (m *TCPMux) Watch(ufrag string, media Media) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.sessions[ufrag] {
		s.watch(&media)
	}
}

// TCPSocket writes packets to the connections of one session.
type TCPSocket struct{ s *tcpSession }

// Socket writes to the connections of the session of ufrag that has one from that address;
// false if none has.
func (m *TCPMux) Socket(ufrag string, remote netip.AddrPort) (TCPSocket, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.sessions[ufrag] {
		if s.member(canonical(remote)) != nil {
			return TCPSocket{s}, true
		}
	}
	return TCPSocket{}, false
}

// WriteToAddrPort sends a packet over the connection from that address, which the agent has
// answered over.
func (t TCPSocket) WriteToAddrPort(p []byte, to netip.AddrPort) (int, error) {
	c := t.s.member(canonical(to))
	if c == nil || !c.proven.Load() {
		return 0, errNoConnection
	}
	return c.send(p)
}

// Has reports whether a session has that ufrag.
func (m *TCPMux) Has(ufrag string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.sessions[ufrag]) > 0
}

// accept takes a listener's connections until the listener is closed. It goes on after an
// error. When the process is out of file descriptors, it closes the oldest stranger to
// free one.
func (m *TCPMux) accept(l net.Listener) {
	const (
		again    = 100 * time.Millisecond
		logEvery = time.Minute
	)
	var logged time.Time
	for {
		conn, err := l.Accept()
		if err == nil {
			if !logged.IsZero() {
				m.cfg.Log.Info("ICE-TCP connections are accepted again", "address", l.Addr())
				logged = time.Time{}
			}
			m.take(conn)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		m.cfg.Counters.Failures.Add(1)
		if now := time.Now(); now.Sub(logged) >= logEvery {
			logged = now
			m.cfg.Log.Error("no ICE-TCP connection can be accepted, trying again", "address", l.Addr(), "error", err)
		}
		m.mu.Lock()
		if len(m.strangers) > 0 {
			m.refuseLocked(m.strangers[0])
		}
		m.mu.Unlock()
		select {
		case <-m.done:
			return
		case <-time.After(again):
		}
	}
}

// take makes a connection a stranger. When there are too many strangers, the new one
// replaces the oldest of its own network, or of the network that has the most. A client is
// a stranger for one round trip only, so old strangers are probably not clients.
func (m *TCPMux) take(conn net.Conn) {
	c, ok := newTCPConn(m, conn)
	if err := tcp.LimitUnsent(tcp.Innermost(conn)); err != nil {
		m.cfg.Log.Debug("the kernel holds more of a connection than is wanted", "error", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || !ok {
		_ = conn.Close() // nothing was sent on it
		return
	}
	if of := m.ofNetworkLocked(c.network); len(of) >= maxStrangersOfNetwork {
		m.refuseLocked(of[0])
	} else if len(m.strangers) >= maxStrangers {
		m.refuseLocked(m.ofNetworkLocked(m.fullestLocked())[0])
	}
	m.strangers, c.counted = append(m.strangers, c), true
	m.cfg.Counters.Open.Add(1)
	m.cfg.Counters.Strangers.Add(1)
	c.timer = time.AfterFunc(m.strangerTime, c.late)
	m.work.Go(c.read)
}

func (m *TCPMux) ofNetworkLocked(network netip.Prefix) []*tcpConn {
	var out []*tcpConn
	for _, c := range m.strangers {
		if c.network == network {
			out = append(out, c)
		}
	}
	return out
}

// fullestLocked returns the network that has the most strangers.
func (m *TCPMux) fullestLocked() (fullest netip.Prefix) {
	counts := map[netip.Prefix]int{}
	for _, c := range m.strangers {
		if counts[c.network]++; counts[c.network] > counts[fullest] {
			fullest = c.network
		}
	}
	return fullest
}

// refuseLocked closes and counts a connection that is beyond a bound or too late.
func (m *TCPMux) refuseLocked(c *tcpConn) {
	m.cfg.Counters.Refused.Add(1)
	m.forgetLocked(c)
}

// forgetLocked closes a connection and removes it, whether stranger or member.
func (m *TCPMux) forgetLocked(c *tcpConn) {
	m.noStrangerLocked(c)
	if c.member {
		c.member = false
		c.session.remove(c)
		m.resizeLocked(c.session, -1)
	}
	if c.counted {
		c.counted = false
		m.cfg.Counters.Open.Add(-1)
	}
	c.close()
}

func (m *TCPMux) noStrangerLocked(c *tcpConn) {
	if i := slices.Index(m.strangers, c); i >= 0 {
		m.strangers = slices.Delete(m.strangers, i, i+1)
		m.cfg.Counters.Strangers.Add(-1)
	}
}

// join makes a stranger a member of the session that its first request names, or lets the
// stranger wait for that session.
func (m *TCPMux) join(c *tcpConn, ufrag string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.ufrag = ufrag
	if s := m.sessionLocked(ufrag, c.local); s != nil {
		m.admitLocked(c, s)
	}
}

// admitLocked makes a stranger a member. When there are too many members in all, the
// session that has the most loses one: a few participants with many connections cannot
// displace participants with one connection.
func (m *TCPMux) admitLocked(c *tcpConn, s *tcpSession) {
	if !slices.Contains(m.strangers, c) {
		return // it was refused meanwhile
	}
	c.mu.Lock()
	c.waits = s.of.wait > 0
	c.mu.Unlock()
	displaced, ok := s.add(c)
	if displaced != nil {
		m.refuseLocked(displaced)
	}
	if !ok {
		m.refuseLocked(c)
		return
	}
	m.noStrangerLocked(c)
	c.session, c.member = s, true
	c.timer.Reset(m.unprovenTime)
	m.work.Go(func() { c.write(s.of.wait) })
	close(c.joined)
	if m.resizeLocked(s, +1); m.members > m.maxMembers {
		m.refuseLocked(m.crowdedLocked(s).expendable(c))
	}
}

// resizeLocked counts a member that a session gained or lost.
func (m *TCPMux) resizeLocked(s *tcpSession, by int) {
	if same := m.bySize[s.size]; same != nil {
		if delete(same, s); len(same) == 0 {
			delete(m.bySize, s.size)
		}
	}
	s.size += by
	m.members += by
	if s.size == 0 {
		return
	}
	if m.bySize[s.size] == nil {
		m.bySize[s.size] = map[*tcpSession]struct{}{}
	}
	m.bySize[s.size][s] = struct{}{}
}

// crowdedLocked returns the session that has the most members: s unless another has more.
func (m *TCPMux) crowdedLocked(s *tcpSession) *tcpSession {
	most := s.size
	for size := range m.bySize {
		most = max(most, size)
	}
	if most > s.size {
		for other := range m.bySize[most] {
			return other
		}
	}
	return s
}
