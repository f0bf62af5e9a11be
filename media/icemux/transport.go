package icemux

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v4"
)

const (
	// maxFormer bounds the former sessions of a transport: one for each of its local
	// addresses, and again where ICE restarts before it has selected a pair.
	maxFormer = 8
	// linger is how long a former session lasts after ICE has selected a pair: packets of the
	// former path may be under way in the queues of a slow network, and the client may select
	// its pair a round trip later.
	linger = 5 * time.Second
)

// A Handler sees RTP and RTCP (first byte 128 to 191, RFC 7983) from the addresses that
// sessions own, first. What it takes, which it tells by true, goes no further, and it may
// change that; all else goes to the sessions' conns. It runs on the readers of sockets and
// connections, several at a time, must not block, and may use the packet during the call
// only.
type Handler func(packet []byte) (taken bool)

// Moved is called when a client's packets come to a local address from another address
// than before, from which a request was authenticated. It runs as a Handler does, or on a
// goroutine of the agent.
type Moved func(to, local netip.AddrPort)

// Authentic reports whether a STUN response bears the integrity that the client's password
// gives it (RFC 8445, section 7.2.5.2). It runs on the readers of sockets, and may use the
// message during the call only.
type Authentic func(response []byte) bool

// Transport is the Mux for the agent of one transport. Its methods may be called
// concurrently.
//
// When the agent restarts ICE (RFC 8445, section 2.4), its sessions become former ones: the
// Handler still gets RTP and RTCP from the addresses that they own, because the client
// sends there until a new pair is selected.
type Transport struct {
	*Mux
	handler   Handler   // sees RTP and RTCP first; nil: nobody does
	moved     Moved     // nil: nobody needs to know
	authentic Authentic // nil: see For
	linger    time.Duration

	selectedAt atomic.Pointer[time.Time] // nil: the agent has selected no pair

	// mu guards the following. A port's mu may be taken while it is held.
	mu     sync.Mutex
	former []*session // oldest first
	ended  bool
}

var _ ice.UDPMux = (*Transport)(nil)

// For makes the Mux for the agent of one transport, whose sessions have that Handler. moved
// may be nil. Without authentic, a response counts as the client's if it bears the
// request's transaction id, which nobody knows but the receiver of the request. End must be
// called.
func (m *Mux) For(h Handler, moved Moved, authentic Authentic) *Transport {
	return &Transport{Mux: m, handler: h, moved: moved, authentic: authentic, linger: linger}
}

// GetConn implements ice.UDPMux.
func (t *Transport) GetConn(ufrag string, local net.Addr) (net.PacketConn, error) {
	return t.getConn(ufrag, local, t)
}

// RemoveConnByUfrag implements ice.UDPMux: ICE restarts, or the agent ends. The sessions of
// ufrag that own an address become former ones.
func (t *Transport) RemoveConnByUfrag(ufrag string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.snapshot() {
		if s := p.retire(ufrag); s != nil {
			t.former = append(t.former, s)
		}
	}
	for len(t.former) > maxFormer || t.ended && len(t.former) > 0 {
		t.forgetLocked(t.former[0])
	}
}

// Selected tells that ICE has selected a pair. The former sessions end soon.
func (t *Transport) Selected() {
	now := time.Now()
	t.selectedAt.Store(&now)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.former {
		if s.lingers == nil {
			s.lingers = time.AfterFunc(t.linger, func() {
				t.mu.Lock()
				defer t.mu.Unlock()
				t.forgetLocked(s)
			})
		}
	}
}

// End ends the former sessions. It is called when the agent has ended.
func (t *Transport) End() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	for len(t.former) > 0 {
		t.forgetLocked(t.former[0])
	}
}

// forgetLocked ends a former session.
func (t *Transport) forgetLocked(s *session) {
	i := slices.Index(t.former, s)
	if i < 0 {
		return // it has ended
	}
	t.former = slices.Delete(t.former, i, i+1)
	if s.lingers != nil {
		s.lingers.Stop()
	}
	s.port.mu.Lock()
	defer s.port.mu.Unlock()
	s.disownLocked()
}

// retire makes the session of ufrag a former one, and returns it; nil if there is none, or
// it owns nothing.
func (p *port) retire(ufrag string) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sessions[ufrag]
	if s == nil {
		return nil
	}
	p.unnameLocked(s)
	maps.DeleteFunc(s.sources, func(addr netip.AddrPort, _ *source) bool { return p.owners[addr] != s })
	s.former = len(s.sources) > 0
	if !s.former {
		return nil
	}
	return s
}

// TCPTransport is the TCPMux for the agent of one transport. Its methods may be called
// concurrently.
//
// As with a [Transport], sessions become former ones when the agent restarts ICE: their
// proven members go on, but carry RTP and RTCP alone.
type TCPTransport struct {
	*TCPMux
	handler Handler       // sees RTP and RTCP first; nil: nobody does
	wait    time.Duration // how long a new member's checks wait
	linger  time.Duration

	// The mux's mu guards the following.
	former []*tcpSession // oldest first; TCPMux.former has them, too
	ended  bool
}

var _ ice.TCPMux = (*TCPTransport)(nil)

// For is as [Mux.For]. An agent that chooses the pair of ICE finds no pair of a connection
// valid before the connection has been a member for that long: the agent's checks are sent
// only then, so that a pair over UDP can be chosen first. If the client chooses, nothing
// waits.
func (m *TCPMux) For(h Handler, wait time.Duration) *TCPTransport {
	return &TCPTransport{TCPMux: m, handler: h, wait: wait, linger: linger}
}

// GetConnByUfrag implements ice.TCPMux.
func (t *TCPTransport) GetConnByUfrag(ufrag string, _ bool, local net.IP) (net.PacketConn, error) {
	return t.getConn(ufrag, local, t)
}

// RemoveConnByUfrag implements ice.TCPMux: ICE restarts, or the agent ends. The sessions of
// ufrag that have proven members become former ones.
func (t *TCPTransport) RemoveConnByUfrag(ufrag string) {
	m := t.TCPMux
	m.mu.Lock()
	var ending []*tcpSession
	for _, s := range m.sessions[ufrag] {
		if t.ended || !s.retireLocked() {
			ending = append(ending, s)
			continue
		}
		t.former = append(t.former, s)
		m.former[s] = struct{}{}
	}
	delete(m.sessions, ufrag)
	ending = append(ending, t.takeLocked(len(t.former)-maxFormer)...)
	m.mu.Unlock()
	endAll(ending)
}

// Selected is as [Transport.Selected]. What the former sessions have not sent yet and drop
// concerns nobody any more.
func (t *TCPTransport) Selected() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.former {
		if s.lingers != nil {
			continue
		}
		s.watch(nil)
		s.lingers = time.AfterFunc(t.linger, func() {
			t.mu.Lock()
			ending := t.takeLocked(slices.Index(t.former, s) + 1) // those before it were due before
			t.mu.Unlock()
			endAll(ending)
		})
	}
}

// End is as [Transport.End].
func (t *TCPTransport) End() {
	t.mu.Lock()
	t.ended = true
	ending := t.takeLocked(len(t.former))
	t.mu.Unlock()
	endAll(ending)
}

// takeLocked removes the n oldest former sessions, which are then to be ended.
func (t *TCPTransport) takeLocked(n int) (ending []*tcpSession) {
	if n <= 0 {
		return nil
	}
	ending = slices.Clone(t.former[:n])
	t.former = slices.Delete(t.former, 0, n)
	for _, s := range ending {
		delete(t.TCPMux.former, s)
		if s.lingers != nil {
			s.lingers.Stop()
		}
	}
	return ending
}

// retireLocked makes a session a former one; false if it has no proven member. Other
// members can do nothing more, and are closed. The mux's mu is held.
func (s *tcpSession) retireLocked() bool {
	s.mu.Lock()
	members := slices.Clone(s.members)
	s.mu.Unlock()
	proven := false
	for _, c := range members {
		if c.proven.Load() {
			proven = true
		} else {
			s.mux.forgetLocked(c)
		}
	}
	if proven {
		close(s.retired)
	}
	return proven
}
