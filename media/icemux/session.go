package icemux

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"parlor/media/udp"
)

// maxPacket is the longest packet that sockets hand out, in bytes.
const maxPacket = udp.MaxPacket

// Bounds of a session.
const (
	// maxSources is how many addresses a client may send STUN from at a time. A
	// client has one per network interface, and one more per NAT that changes its
	// mind.
	maxSources = 16
	// maxSourcesEver bounds them over the time of one ufrag: the agent keeps a
	// candidate of each.
	maxSourcesEver = 128
	// sourceUnproven is how long an address counts that the agent has not answered,
	// and sourceIdle how long one counts that sends no STUN any more.
	sourceUnproven = time.Second
	sourceIdle     = time.Minute
	// showEvery is how often the agent is shown a response that tells it nothing new.
	showEvery = 10 * time.Second
	// shorterTrip and a quarter: a round trip that is shorter by more tells the agent something.
	shorterTrip = 10 * time.Millisecond
	// requestAge is how long a response to a request is waited for.
	requestAge = 10 * time.Second
	// maxRequests bounds the requests that wait at a time.
	maxRequests = 512
	// enoughToMove is how many packets in a row tell that a client talks from another
	// address: late ones from the former may be among its first.
	enoughToMove = 3
	// betweenChecks tells two checks from two copies, or quick repetitions, of one.
	betweenChecks = 250 * time.Millisecond
	// betweenMoves is the shortest time between two moves of a client.
	betweenMoves = 250 * time.Millisecond
	// maxQueued bounds the packets that a session's reader has not read: a second
	// of high-definition video.
	maxQueued = 1024
)

// takes shows a packet to the handler, if it is one for it.
func (h Handler) takes(packet []byte) bool {
	return h != nil && len(packet) > 0 && packet[0]&0xc0 == 0x80 && h(packet)
}

// session is what one ufrag has on one socket.
type session struct {
	port  *port
	ufrag string
	of    *Transport
	since time.Time
	// lingers ends a former session; nil: it does not end yet. The transport's mu guards it.
	lingers *time.Timer

	// The port's mu guards the following.
	conns    int  // open connections of the agent
	former   bool // ICE has restarted: sources has only what the session owned, and the rest is unused
	sources  map[netip.AddrPort]*source
	ever     int           // number of sources that the agent has answered
	requests []sentRequest // requests without a response yet, oldest first

	// Where the client is:
	talks     netip.AddrPort // address from which its packets other than STUN come
	rival     netip.AddrPort // another address, from which the last packet came
	rivals    int            // number of packets from rival since the last from talks
	checks    int            // number of requests among these
	checkedAt time.Time      // time of the first of these requests
	movedAt   time.Time      // time of the last move

	// mu guards the queue; the port's mu may be held when it is taken.
	mu         sync.Mutex
	head, tail *datagram
	queued     int
	closed     bool

	wake chan struct{} // has one element if there may be packets
	done chan struct{} // closed by close
}

// source is a remote address that sent STUN to a session.
type source struct {
	seen     time.Time
	answered bool          // the agent has answered a request: its integrity was right
	reached  bool          // a request of ours to there was answered from there
	assured  time.Time     // when the agent answered last
	shown    time.Time     // when the agent was shown a response last
	trip     time.Duration // round trip of that response
	// nominating is its last request that nominates the pair.
	nominating transaction
}

type sentRequest struct {
	id transaction
	at time.Time
}

// asked is a request of a session's that waits for a response.
type asked struct {
	by        *session
	to        netip.AddrPort
	nominates bool
	at        time.Time
}

// datagram is a packet that waits.
type datagram struct {
	next *datagram
	from netip.AddrPort
	n    int
	buf  [maxPacket]byte
}

// datagrams is shared by all sessions.
var datagrams = sync.Pool{New: func() any { return new(datagram) }} // a pool has no state

func newSession(p *port, ufrag string, of *Transport) *session {
	return &session{
		port: p, ufrag: ufrag, of: of, since: time.Now(), sources: map[netip.AddrPort]*source{},
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

// sourceLocked is the source of that address. It is made if the session may have
// another, else it is nil.
func (s *session) sourceLocked(addr netip.AddrPort, now time.Time) *source {
	if known := s.sources[addr]; known != nil {
		known.seen = now
		return known
	}
	if s.sources == nil || s.ever >= maxSourcesEver {
		return nil
	}
	if len(s.sources) >= maxSources && !s.dropSourceLocked(now) {
		return nil
	}
	made := &source{seen: now}
	s.sources[addr] = made
	return made
}

// dropSourceLocked forgets the sources that no longer count, and tells whether there
// were any.
func (s *session) dropSourceLocked(now time.Time) (dropped bool) {
	for addr, src := range s.sources {
		bound := sourceUnproven
		if src.answered {
			bound = sourceIdle
		}
		if now.Sub(src.seen) > bound {
			delete(s.sources, addr)
			if s.port.owners[addr] == s {
				delete(s.port.owners, addr)
			}
			dropped = true
		}
	}
	return dropped
}

// disownLocked gives up all addresses.
func (s *session) disownLocked() {
	for addr := range s.sources {
		if s.port.owners[addr] == s {
			delete(s.port.owners, addr)
		}
	}
	s.sources = nil
}

// answeredLocked follows the agent's answer to a request from addr, and reports whether
// the client has moved there.
func (s *session) answeredLocked(addr netip.AddrPort, id transaction, now time.Time) (moved bool) {
	src := s.sources[addr]
	if src == nil || s.former {
		return false
	}
	if !src.answered {
		src.answered = true
		s.ever++
	}
	src.assured = now
	s.ownLocked(addr, src)
	return s.port.owners[addr] == s && s.checkedLocked(addr, src.nominating == id, now)
}

// reachedLocked follows the client's response from addr to a request that was sent there.
func (s *session) reachedLocked(addr netip.AddrPort, now time.Time) {
	if src := s.sourceLocked(addr, now); src != nil {
		src.reached = true
		s.ownLocked(addr, src)
	}
}

// tellsNothingLocked reports whether the agent need not be shown the client's response from
// addr: it has selected a pair, has been shown a response from there since, and has just
// heard from there that the client is there. Each packet that it is shown wakes three
// goroutines one after the other, and of each client one comes every two seconds. The agent
// measures the round trip by what it is shown. So it is shown a clearly shorter one: a queue
// stood when it measured.
func (s *session) tellsNothingLocked(addr netip.AddrPort, a asked, now time.Time) bool {
	src, selected := s.sources[addr], s.of.selectedAt.Load()
	if src == nil {
		return false
	}
	trip := now.Sub(a.at)
	if !a.nominates && selected != nil && selected.After(s.since) && src.shown.After(*selected) &&
		now.Sub(src.shown) < showEvery && now.Sub(src.assured) < s.port.cfg.Assured &&
		src.trip-trip <= max(src.trip/4, shorterTrip) {
		return true
	}
	src.shown, src.trip = now, trip
	return false
}

// ownLocked makes the session the owner of addr, if it may be.
func (s *session) ownLocked(addr netip.AddrPort, src *source) {
	owner := s.port.owners[addr]
	if src.answered && (owner == nil || src.reached || owner.former && owner.of == s.of) {
		s.port.owners[addr] = s
	}
}

// askedLocked takes note of a request, whose response is the session's.
func (s *session) askedLocked(m *stunMessage, to netip.AddrPort, now time.Time) {
	if s.port.sessions[s.ufrag] != s {
		return
	}
	over := 0
	for over < len(s.requests) && (now.Sub(s.requests[over].at) > requestAge || len(s.requests)-over >= maxRequests) {
		delete(s.port.asked, s.requests[over].id)
		over++
	}
	s.requests = append(s.requests[:0], s.requests[over:]...)
	s.requests = append(s.requests, sentRequest{m.id, now})
	s.port.asked[m.id] = asked{s, to, m.nominates(), now}
}

// heardLocked follows a packet other than STUN from a source that the session owns, and
// reports whether the client has moved there. A client talks from one address at a time,
// and a NAT or a network may change that without the client's notice.
func (s *session) heardLocked(src netip.AddrPort, now func() time.Time) (moved bool) {
	if !s.talks.IsValid() {
		s.talks = src
	}
	return s.rivalsLocked(src) && s.rivals >= enoughToMove && s.moveLocked(src, now())
}

// checkedLocked follows a request of the client's that the agent has answered, so that its
// integrity was right, and reports whether the client has moved there. A client checks the
// pair on which it talks at least as often as others, and nominates no other. Where it
// receives nothing any more, nothing but checks may come from it.
func (s *session) checkedLocked(src netip.AddrPort, nominated bool, now time.Time) (moved bool) {
	if !s.talks.IsValid() || !s.rivalsLocked(src) {
		return false
	}
	s.checks++
	if s.checks == 1 {
		s.checkedAt = now
	}
	return (nominated || s.checks > 1 && now.Sub(s.checkedAt) >= betweenChecks) && s.moveLocked(src, now)
}

// rivalsLocked counts a packet that does not come from where the client talks; false if it
// does.
func (s *session) rivalsLocked(src netip.AddrPort) bool {
	switch {
	case src == s.talks:
		s.rivals, s.checks = 0, 0
		return false
	case src != s.rival || s.rivals == 0:
		s.rival, s.rivals, s.checks = src, 0, 0
	}
	s.rivals++
	return true
}

// moveLocked has the client talk from src. An address of another host must have answered a
// request, or a client could have media sent to somebody else. A client that sends from two
// addresses in turns does not move with each turn.
func (s *session) moveLocked(src netip.AddrPort, now time.Time) bool {
	if known := s.sources[src]; src.Addr() != s.talks.Addr() && (known == nil || !known.reached) {
		return false
	}
	if now.Sub(s.movedAt) < betweenMoves {
		return false
	}
	s.talks, s.rivals, s.checks, s.movedAt = src, 0, 0, now
	return true
}

// push queues a packet for the session's reader.
func (s *session) push(packet []byte, from netip.AddrPort) {
	d := datagrams.Get().(*datagram) // the pool has nothing else
	d.n, d.from = copy(d.buf[:], packet), from
	s.mu.Lock()
	if s.closed || s.queued == maxQueued {
		if !s.closed {
			s.port.cfg.Counters.Overflow.Add(1)
		}
		s.mu.Unlock()
		datagrams.Put(d)
		return
	}
	if s.tail == nil {
		s.head = d
	} else {
		s.tail.next = d
	}
	s.tail = d
	s.queued++
	s.mu.Unlock()
	s.signal()
}

func (s *session) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// pop takes the oldest packet, nil if there is none. more tells that there are
// others.
func (s *session) pop() (d *datagram, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d = s.head
	if d == nil {
		return nil, false
	}
	if s.head = d.next; s.head == nil {
		s.tail = nil
	}
	d.next = nil
	s.queued--
	return d, s.head != nil
}

// close ends the session's reads. What waits is dropped.
func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	s.head, s.tail, s.queued = nil, nil, 0
	close(s.done)
}

// conn is a reader and writer of a session.
type conn struct {
	s      *session
	once   sync.Once
	closed chan struct{}
}

// ReadFromAddrPort waits for a packet. It fails with io.EOF when the conn or the
// session is closed.
func (c *conn) ReadFromAddrPort(b []byte) (int, netip.AddrPort, error) {
	for {
		select {
		case <-c.closed:
			return 0, netip.AddrPort{}, io.EOF
		default:
		}
		if d, more := c.s.pop(); d != nil {
			if more {
				c.s.signal() // there may be another reader
			}
			n, from, short := copy(b, d.buf[:d.n]), d.from, d.n > len(b)
			datagrams.Put(d)
			if short {
				return 0, netip.AddrPort{}, io.ErrShortBuffer
			}
			return n, from, nil
		}
		select {
		case <-c.s.wake:
		case <-c.closed:
		case <-c.s.done:
			return 0, netip.AddrPort{}, io.EOF
		}
	}
}

// ReadFrom is ReadFromAddrPort with a *net.UDPAddr.
func (c *conn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromAddrPort(b)
	if err != nil {
		return n, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// WriteToAddrPort sends a packet. STUN among them tells who owns what.
func (c *conn) WriteToAddrPort(b []byte, to netip.AddrPort) (int, error) {
	select {
	case <-c.closed:
		return 0, io.ErrClosedPipe
	case <-c.s.done:
		return 0, io.ErrClosedPipe
	default:
	}
	if m, ok := parseSTUN(b); ok && !c.s.note(&m, canonical(to)) {
		return len(b), nil // as if it were lost
	}
	if p := c.s.port; p.cfg.Relay != nil && p.cfg.Relay(b, canonical(p.local.AddrPort()), canonical(to)) {
		return len(b), nil
	}
	return c.s.port.socket.WriteToAddrPort(b, to)
}

// note takes note of a STUN message that is about to be sent; false: it must not be.
func (s *session) note(m *stunMessage, to netip.AddrPort) bool {
	p := s.port
	if p.cfg.Own != nil && p.cfg.Own(to) {
		p.cfg.Counters.Own.Add(1)
		return false
	}
	now, moved := time.Now(), false
	p.mu.Lock()
	switch m.class {
	case classSuccess:
		moved = s.answeredLocked(to, m.id, now)
	case classRequest:
		s.askedLocked(m, to, now)
	default:
	}
	p.mu.Unlock()
	if moved && s.of.moved != nil {
		s.of.moved(to, canonical(p.local.AddrPort()))
	}
	return true
}

// WriteTo is WriteToAddrPort for a *net.UDPAddr.
func (c *conn) WriteTo(b []byte, to net.Addr) (int, error) {
	u, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, &net.OpError{Op: "write", Net: "udp", Addr: to, Err: net.InvalidAddrError("not an address of UDP")}
	}
	return c.WriteToAddrPort(b, u.AddrPort())
}

// Close ends the conn's reads, and the session with the last of its conns.
func (c *conn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		p := c.s.port
		p.mu.Lock()
		c.s.conns--
		last := c.s.conns == 0
		if last {
			p.forgetLocked(c.s)
		}
		p.mu.Unlock()
		if last {
			c.s.close()
		}
	})
	return nil
}

// LocalAddr is the socket's.
func (c *conn) LocalAddr() net.Addr { return c.s.port.local }

// SetDeadline does nothing: pion closes the conn after it, which ends reads.
func (c *conn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing, as SetDeadline.
func (c *conn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing, as SetDeadline.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
