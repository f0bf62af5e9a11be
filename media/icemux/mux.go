package icemux

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v4"
)

// Socket is what a Mux reads and writes. Its sources are never IPv4-mapped IPv6
// addresses.
type Socket interface {
	net.PacketConn
	ice.AddrPortReaderWriter
}

// Queued is a Socket with several queues, each of which needs a reader of its own. Packets
// from one address come in one queue.
type Queued interface {
	Socket
	Queues() int
	ReadQueue(i int, p []byte) (n int, src netip.AddrPort, err error)
}

// Config says how a [Mux] works.
type Config struct {
	// Own tells whether an address is one of the server's own, bound or advertised.
	// Nil: none is known. It must not block.
	Own func(netip.AddrPort) bool
	// Relayed tells whether an address is one that this server relays: its packets are
	// brought by [Mux.Deliver], and those that come from the network are forged. Nil: none
	// is. As Own otherwise.
	Relayed func(netip.AddrPort) bool
	// TURN is shown what comes from the network first, with the socket that received it.
	// What it takes, which it tells by true, goes no further. Nil: nobody is. It must not
	// block, and may use the packet during the call only.
	TURN func(packet []byte, from netip.AddrPort, s Socket) (taken bool)
	// Relay is shown what sessions send first, with the local address of their socket.
	// What it takes goes no further. Nil: nobody is. As TURN otherwise.
	Relay func(packet []byte, from, to netip.AddrPort) (taken bool)
	// Assured is for how long an authentic request of a client's shows the agent well enough
	// that the client is there: meanwhile the agent is not shown most of the responses to its
	// own requests, once it has selected a pair. Zero: it is shown all.
	Assured time.Duration
	// Counters counts what is dropped; several Muxes may share them. Required.
	Counters *Counters
	// Log receives errors of sockets, not packets. Required.
	Log *slog.Logger
}

// Counters are packets that were not passed on, by reason.
type Counters struct {
	// Unknown: from an address without an owner, STUN of no session, or what is neither RTP
	// nor RTCP and for a former session.
	Unknown atomic.Uint64
	// Sources: STUN from more addresses than a session may have.
	Sources atomic.Uint64
	// Overflow: of a session that does not read in time.
	Overflow atomic.Uint64
	// Own: from or to an address of the server's own, or from the network and one that it
	// relays.
	Own atomic.Uint64
}

// Mux shares one UDP port. All methods may be called concurrently.
type Mux struct {
	cfg     Config
	readers sync.WaitGroup // each ends when its socket is closed

	// mu guards the following.
	mu     sync.Mutex
	ports  []*port
	closed bool
}

var _ ice.UDPMux = (*Mux)(nil)

// New makes a Mux without sockets. Close must be called.
func New(cfg Config) *Mux { return &Mux{cfg: cfg} }

// Add begins to read a socket, which the Mux closes. The socket's local address is
// an address that ICE agents gather from now on.
func (m *Mux) Add(s Socket) error {
	local, ok := s.LocalAddr().(*net.UDPAddr)
	if !ok {
		return fmt.Errorf("local address %v is not of UDP", s.LocalAddr())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return net.ErrClosed
	}
	p := newPort(s, local, &m.cfg)
	m.ports = append(m.ports, p)
	if q, ok := s.(Queued); ok {
		for i := range q.Queues() {
			m.readers.Go(func() {
				p.read(func(b []byte) (int, netip.AddrPort, error) { return q.ReadQueue(i, b) })
			})
		}
		return nil
	}
	m.readers.Go(func() { p.read(s.ReadFromAddrPort) })
	return nil
}

// Remove closes a socket and ends its sessions.
func (m *Mux) Remove(s Socket) error {
	m.mu.Lock()
	var gone *port
	m.ports = slices.DeleteFunc(m.ports, func(p *port) bool {
		if p.socket == s {
			gone = p
		}
		return p.socket == s
	})
	m.mu.Unlock()
	if gone == nil {
		return nil
	}
	return gone.close()
}

// Close closes the sockets, ends all sessions and waits for the readers.
func (m *Mux) Close() error {
	m.mu.Lock()
	m.closed = true
	ports := m.ports
	m.ports = nil
	m.mu.Unlock()
	var errs []error
	for _, p := range ports {
		errs = append(errs, p.close())
	}
	m.readers.Wait()
	return errors.Join(errs...)
}

// GetListenAddresses implements ice.UDPMux.
func (m *Mux) GetListenAddresses() []net.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]net.Addr, len(m.ports))
	for i, p := range m.ports {
		out[i] = p.local
	}
	return out
}

// GetConn implements ice.UDPMux: the session of ufrag on the socket with that local
// address. It is made if there is none. The conn must be closed; the session ends
// with the last of its conns.
func (m *Mux) GetConn(ufrag string, local net.Addr) (net.PacketConn, error) {
	return m.getConn(ufrag, local, &Transport{})
}

func (m *Mux) getConn(ufrag string, local net.Addr, of *Transport) (net.PacketConn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, io.ErrClosedPipe
	}
	for _, p := range m.ports {
		if p.local.String() == local.String() {
			return p.open(ufrag, of)
		}
	}
	return nil, fmt.Errorf("no socket has the local address %v", local)
}

// Deliver passes on a packet that did not come from the network, as if the socket with
// that local address had received it. It reports false if there is no such socket.
func (m *Mux) Deliver(packet []byte, from, local netip.AddrPort) bool {
	m.mu.Lock()
	i := slices.IndexFunc(m.ports, func(p *port) bool { return canonical(p.local.AddrPort()) == local })
	var p *port
	if i >= 0 {
		p = m.ports[i]
	}
	m.mu.Unlock()
	if p == nil {
		return false
	}
	p.take(packet, from, time.Now)
	return true
}

// RemoveConnByUfrag implements ice.UDPMux: nothing is passed on to the sessions of
// ufrag any more, and they own nothing. See [Transport] for those of a transport.
func (m *Mux) RemoveConnByUfrag(ufrag string) {
	for _, p := range m.snapshot() {
		p.forget(ufrag)
	}
}

// Has reports whether ufrag is one of a session.
func (m *Mux) Has(ufrag string) bool {
	return slices.ContainsFunc(m.snapshot(), func(p *port) bool { return p.session(ufrag) != nil })
}

func (m *Mux) snapshot() []*port {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.ports)
}

// readRetry is how long a reader waits after an error that may pass.
const readRetry = 50 * time.Millisecond

// port is one socket.
type port struct {
	cfg    *Config
	socket Socket
	local  *net.UDPAddr
	done   chan struct{} // closed by close

	// mu guards the following and what sessions say that it guards.
	mu       sync.Mutex
	closed   bool
	sessions map[string]*session
	owners   map[netip.AddrPort]*session
	asked    map[transaction]asked // requests of sessions that wait for a response
	// inquiries are requests of the Mux itself that wait for a response.
	inquiries map[transaction]chan inquiry
	bindings  bindings
}

func newPort(s Socket, local *net.UDPAddr, cfg *Config) *port {
	return &port{
		cfg: cfg, socket: s, local: local, done: make(chan struct{}),
		sessions: map[string]*session{}, owners: map[netip.AddrPort]*session{}, asked: map[transaction]asked{},
		inquiries: map[transaction]chan inquiry{},
	}
}

func (p *port) close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	sessions := p.sessions
	p.sessions, p.owners, p.asked = map[string]*session{}, map[netip.AddrPort]*session{}, map[transaction]asked{}
	p.mu.Unlock()
	close(p.done)
	for _, s := range sessions {
		s.close()
	}
	return p.socket.Close()
}

func (p *port) session(ufrag string) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sessions[ufrag]
}

func (p *port) open(ufrag string, of *Transport) (net.PacketConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, io.ErrClosedPipe
	}
	s := p.sessions[ufrag]
	if s == nil {
		s = newSession(p, ufrag, of)
		p.sessions[ufrag] = s
	}
	s.conns++
	return &conn{s: s, closed: make(chan struct{})}, nil
}

func (p *port) forget(ufrag string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.sessions[ufrag]; s != nil {
		p.forgetLocked(s)
	}
}

// forgetLocked ends a session, but neither its conns nor what it is as a former one.
func (p *port) forgetLocked(s *session) {
	if p.sessions[s.ufrag] == s {
		p.unnameLocked(s)
		s.disownLocked()
	}
}

// unnameLocked ends the STUN of a session.
func (p *port) unnameLocked(s *session) {
	delete(p.sessions, s.ufrag)
	for _, r := range s.requests {
		delete(p.asked, r.id)
	}
	s.requests = nil
}

// read passes packets on until the socket is closed.
func (p *port) read(next func([]byte) (int, netip.AddrPort, error)) {
	buf := make([]byte, maxPacket)
	for {
		n, src, err := next(buf)
		if err == nil {
			p.receive(buf[:n], canonical(src))
			continue
		}
		select {
		case <-p.done:
			return
		default:
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		p.cfg.Log.Warn("media socket: cannot read; trying again", "address", p.local.String(), "error", err)
		select {
		case <-p.done:
			return
		case <-time.After(readRetry):
		}
	}
}

// receive passes one packet of the network's on.
func (p *port) receive(packet []byte, src netip.AddrPort) {
	switch {
	case p.cfg.Relayed != nil && p.cfg.Relayed(src):
		p.cfg.Counters.Own.Add(1)
	case p.cfg.TURN != nil && p.cfg.TURN(packet, src, p.socket):
	default:
		if m, ok := parseSTUN(packet); ok && m.isBinding(packet) {
			p.answerBinding(&m, src, time.Now())
			return
		}
		p.take(packet, src, time.Now)
	}
}

// take passes one packet on.
func (p *port) take(packet []byte, src netip.AddrPort, now func() time.Time) {
	if m, ok := parseSTUN(packet); ok {
		if s := p.sessionOfSTUN(&m, packet, src, now()); s != nil {
			s.push(packet, src)
		}
		return
	}
	p.mu.Lock()
	s := p.owners[src]
	former := s != nil && s.former
	moved := s != nil && !former && s.heardLocked(src, now)
	p.mu.Unlock()
	if moved && s.of.moved != nil {
		s.of.moved(src, canonical(p.local.AddrPort()))
	}
	switch {
	case s != nil && s.of.handler.takes(packet):
	case s == nil, former:
		p.cfg.Counters.Unknown.Add(1)
	default:
		s.push(packet, src)
	}
}

// sessionOfSTUN finds the session that a STUN message is for, nil if it is for none.
func (p *port) sessionOfSTUN(m *stunMessage, packet []byte, src netip.AddrPort, now time.Time) *session {
	if p.cfg.Own != nil && p.cfg.Own(src) {
		p.cfg.Counters.Own.Add(1)
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var s *session
	switch m.class {
	case classRequest:
		if s = p.sessions[string(m.ufrag())]; s != nil {
			from := s.sourceLocked(src, now)
			if from == nil {
				p.cfg.Counters.Sources.Add(1)
				return nil
			}
			if m.nominates() {
				from.nominating = m.id
			}
		}
	case classIndication:
		if s = p.owners[src]; s != nil && s.former {
			s = nil
		}
	case classSuccess, classError:
		if p.inquiredLocked(m, packet, src) {
			return nil
		}
		a := p.asked[m.id]
		if s = a.by; s == nil || m.class == classError || a.to != src {
			break // a response of another address says nothing of that address
		}
		if known := s.sources[src]; known == nil || !known.reached {
			p.mu.Unlock()
			ours := s.of.authentic == nil || s.of.authentic(packet)
			p.mu.Lock()
			if !ours || p.sessions[s.ufrag] != s {
				break
			}
		}
		s.reachedLocked(src, now)
		if s.tellsNothingLocked(src, a, now) {
			return nil
		}
	}
	if s == nil {
		p.cfg.Counters.Unknown.Add(1)
	}
	return s
}

// canonical is the form in which addresses are compared: an IPv4 address is never
// mapped to IPv6, and only link-local addresses have a zone.
func canonical(a netip.AddrPort) netip.AddrPort {
	ip := a.Addr().Unmap()
	if !ip.IsLinkLocalUnicast() && !ip.IsLinkLocalMulticast() {
		ip = ip.WithZone("")
	}
	return netip.AddrPortFrom(ip, a.Port())
}
