package icemux

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// tcpSession carries the packets of one ufrag at one local address.
type tcpSession struct {
	mux     *TCPMux
	ufrag   string
	local   netip.AddrPort
	of      *TCPTransport
	conns   int         // not closed yet; the mux's mu guards it
	size    int         // how many members there are; likewise
	lingers *time.Timer // ends a former session; nil: it does not end yet; likewise
	in      chan tcpPacket
	retired chan struct{} // closed when it becomes a former session; the mux's mu is held then
	done    chan struct{} // closed by end

	mu      sync.Mutex // guards the following
	ended   bool
	members []*tcpConn // in the order in which they became what they are
	media   *Media     // nil: nobody
}

type tcpPacket struct {
	from  netip.AddrPort
	bytes []byte
}

func newTCPSession(m *TCPMux, ufrag string, local netip.AddrPort, of *TCPTransport) *tcpSession {
	return &tcpSession{
		mux: m, ufrag: ufrag, local: local, of: of,
		in: make(chan tcpPacket, maxTCPPackets), retired: make(chan struct{}), done: make(chan struct{}),
	}
}

// former reports whether ICE has restarted, so that the agent does not use the session any
// more.
func (s *tcpSession) former() bool {
	select {
	case <-s.retired:
		return true
	default:
		return false
	}
}

// add makes c a member. If there are too many members, c replaces one that is not proven;
// c never replaces a proven member.
func (s *tcpSession) add(c *tcpConn) (displaced *tcpConn, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.memberLocked(c.remote) != nil {
		return nil, false
	}
	var unproven []*tcpConn
	for _, other := range s.members {
		if !other.proven.Load() {
			unproven = append(unproven, other)
		}
	}
	if len(unproven) >= maxUnproven {
		displaced = unproven[0]
	}
	s.members = append(s.members, c)
	c.watched.Store(s.media)
	return displaced, true
}

// watch sets the Media of all connections of the session.
func (s *tcpSession) watch(media *Media) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.media = media
	for _, c := range s.members {
		c.watched.Store(media)
	}
}

func (s *tcpSession) remove(c *tcpConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members = slices.DeleteFunc(s.members, func(other *tcpConn) bool { return other == c })
}

// expendable returns the member that the session loses first: the oldest that is not
// proven, else the one from which the last packet is oldest. It returns c if there is no
// other.
func (s *tcpSession) expendable(c *tcpConn) *tcpConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	silent := c
	for _, other := range s.members {
		switch {
		case other == c:
		case !other.proven.Load():
			return other
		case silent == c || other.heard.Load() < silent.heard.Load():
			silent = other
		}
	}
	return silent
}

func (s *tcpSession) memberLocked(remote netip.AddrPort) *tcpConn {
	for _, c := range s.members {
		if c.remote == remote {
			return c
		}
	}
	return nil
}

func (s *tcpSession) member(remote netip.AddrPort) *tcpConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.memberLocked(remote)
}

// prove makes c proven: the agent has answered a request over c, so the request had the
// right MESSAGE-INTEGRITY. Beyond maxProven, the member from which the last packet is
// oldest is closed: clients leave connections behind whose end neither side has seen.
func (s *tcpSession) prove(c *tcpConn) {
	if c.proven.Swap(true) {
		return
	}
	c.timer.Stop()
	s.mu.Lock()
	var proven []*tcpConn
	for _, other := range s.members {
		if other.proven.Load() && other != c {
			proven = append(proven, other)
		}
	}
	s.mu.Unlock()
	if len(proven) < maxProven {
		return
	}
	silent := slices.MinFunc(proven, func(a, b *tcpConn) int { return int(a.heard.Load() - b.heard.Load()) })
	s.mux.mu.Lock()
	s.mux.refuseLocked(silent)
	s.mux.mu.Unlock()
}

// endAll ends sessions, which the mux does not have any more.
func endAll(sessions []*tcpSession) {
	for _, s := range sessions {
		s.end()
	}
}

// end closes the session's connections and ends its reads.
func (s *tcpSession) end() {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.ended = true
	members := slices.Clone(s.members)
	s.mu.Unlock()
	close(s.done)
	for _, c := range members {
		c.finish()
	}
}

// tcpPacketConn is the net.PacketConn through which an ICE agent uses a session.
type tcpPacketConn struct {
	s      *tcpSession
	once   sync.Once
	closed chan struct{}
}

// ReadFrom waits for a packet. It fails with io.EOF when the conn or the session is
// closed, but not when one of the connections is.
func (p *tcpPacketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case packet := <-p.s.in:
		n := copy(b, packet.bytes)
		if n < len(packet.bytes) {
			return 0, nil, io.ErrShortBuffer
		}
		return n, net.TCPAddrFromAddrPort(packet.from), nil
	case <-p.closed:
	case <-p.s.retired:
	case <-p.s.done:
	}
	return 0, nil, io.EOF
}

// errNoConnection means that the receiver is not connected, or is not proven.
var errNoConnection = errors.New("no TCP connection leads there")

// WriteTo sends a packet over the connection from that address. A connection that is not
// proven is sent only STUN.
func (p *tcpPacketConn) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-p.closed:
		return 0, io.ErrClosedPipe
	case <-p.s.retired:
		return 0, io.ErrClosedPipe
	case <-p.s.done:
		return 0, io.ErrClosedPipe
	default:
	}
	t, ok := to.(*net.TCPAddr)
	if !ok {
		return 0, &net.OpError{Op: "write", Net: "tcp", Addr: to, Err: net.InvalidAddrError("not an address of TCP")}
	}
	c := p.s.member(canonical(t.AddrPort()))
	if c == nil {
		return 0, errNoConnection
	}
	if m, ok := parseSTUN(b); ok && m.class == classSuccess {
		p.s.prove(c)
	} else if ok && m.class == classRequest && m.controls() && c.hold(b) {
		return len(b), nil
	} else if !ok && !c.proven.Load() {
		return 0, errNoConnection
	}
	return c.send(b)
}

// Close ends the conn's reads, and the session with the last of its conns, unless it is a
// former one.
func (p *tcpPacketConn) Close() error {
	p.once.Do(func() {
		close(p.closed)
		m := p.s.mux
		m.mu.Lock()
		p.s.conns--
		last := p.s.conns == 0 && !p.s.former()
		if last {
			of := slices.DeleteFunc(slices.Clone(m.sessions[p.s.ufrag]), func(s *tcpSession) bool { return s == p.s })
			if m.sessions[p.s.ufrag] = of; len(of) == 0 {
				delete(m.sessions, p.s.ufrag)
			}
		}
		m.mu.Unlock()
		if last {
			p.s.end()
		}
	})
	return nil
}

// LocalAddr returns the address to which clients connect.
func (p *tcpPacketConn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(p.s.local) }

// SetDeadline does nothing: pion closes the conn after it, which ends reads.
func (p *tcpPacketConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing, like SetDeadline.
func (p *tcpPacketConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing, like SetDeadline.
func (p *tcpPacketConn) SetWriteDeadline(time.Time) error { return nil }
