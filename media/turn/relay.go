package turn

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	pionturn "github.com/pion/turn/v5"
)

// The addresses of relays that lead only to our own media. They belong to no network: the
// dummy address of IPv4 (RFC 7600, section 4.8), and one of IPv6's discard-only prefix
// (RFC 6666). An address of this machine could be confused with that of a client at the
// same port.
func virtualIPv4() netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 0, 8}) }
func virtualIPv6() netip.Addr { return netip.AddrFrom16([16]byte{0: 1, 15: 8}) }

const (
	// maxWaiting is how many packets may wait for a client: half a second of
	// high-definition video. Further packets are dropped, as on any network.
	maxWaiting = 512
	// portTries is how many ports are tried to find a free one.
	portTries = 64
)

// packet is a waiting packet.
type packet struct {
	from netip.AddrPort
	n    int
	buf  [maxPacket]byte
}

var packets = sync.Pool{New: func() any { return new(packet) }} // a pool has no state

// relay is an allocation. To pion it is the packet conn to the client's peers.
type relay struct {
	server *Server
	one    *Session
	addr   netip.AddrPort // the relayed address
	socket *net.UDPConn   // for peers other than our own media; nil if those are not allowed
	in     chan *packet   // for the client
	done   chan struct{}  // closed by Close
	once   sync.Once

	// The server's mu guards the following.
	network netip.Prefix // of the client, for which the relay counts; zero for none
	stream  *stream      // over which it was made; nil over UDP
	peers   int          // permissions and channels, in all its life
}

var errNoRelay = errors.New("no relay of that kind")

// generator makes relays for pion.
type generator struct{ s *Server }

// Validate implements pion's RelayAddressGenerator.
func (generator) Validate() error { return nil }

// AllocateListener implements pion's RelayAddressGenerator. There are no relays over TCP.
func (generator) AllocateListener(pionturn.AllocateListenerConfig) (net.Listener, net.Addr, error) {
	return nil, nil, errNoRelay
}

// AllocateConn implements pion's RelayAddressGenerator.
func (generator) AllocateConn(pionturn.AllocateConnConfig) (net.Conn, error) { return nil, errNoRelay }

// AllocatePacketConn implements pion's RelayAddressGenerator.
func (g generator) AllocatePacketConn(c pionturn.AllocateListenerConfig) (net.PacketConn, net.Addr, error) {
	if c.UserID == "" || c.RequestedPort != 0 {
		return nil, nil, errNoRelay // a port of an even pair, which no client needs
	}
	ipv4 := c.Network == "udp4"
	bind, known, ok := g.s.cfg.Media.Outside(ipv4)
	if !ok {
		return nil, nil, errNoRelay // no media of that family
	}
	r := &relay{server: g.s, in: make(chan *packet, maxWaiting), done: make(chan struct{})}
	if len(g.s.cfg.Allow) > 0 {
		if err := r.bind(bind, known); err != nil {
			return nil, nil, err
		}
	}
	if err := g.s.add(r, c.UserID, ipv4); err != nil {
		if r.socket != nil {
			_ = r.socket.Close() // no packet was sent on it
		}
		return nil, nil, err
	}
	if r.socket != nil {
		g.s.work.Go(r.receiveFromOutside)
	}
	return r, net.UDPAddrFromAddrPort(r.addr), nil
}

// bind opens the socket for peers other than our own media.
func (r *relay) bind(ip, known netip.Addr) error {
	first, last := r.server.cfg.FirstPort, r.server.cfg.LastPort
	var err error
	for range portTries {
		port := uint16(0)
		if first > 0 && last >= first {
			port = first + uint16(rand.N(uint32(last-first)+1)) // the sum fits 16 bits
		}
		r.socket, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, port)))
		if err == nil {
			r.addr = netip.AddrPortFrom(known, addrPort(r.socket.LocalAddr()).Port())
			return nil
		}
	}
	return err
}

// add gives r to the session, with its own address.
func (s *Server) add(r *relay, sid string, ipv4 bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.one = s.sessions[sid]
	if s.closed || r.one == nil || !s.roomLocked(r.one) {
		return errNoRelay
	}
	if r.socket != nil {
		s.relaysMu.Lock()
		s.relays[r.addr] = r
		s.relaysMu.Unlock()
	} else if !s.nameLocked(r, ipv4) {
		return errNoRelay
	}
	r.one.relays[r] = struct{}{}
	s.all++
	s.work.Add(1)
	s.counters.Relays.Add(1)
	s.counters.Made.Add(1)
	return nil
}

// nameLocked gives r an address that no other relay has.
func (s *Server) nameLocked(r *relay, ipv4 bool) bool {
	ip := virtualIPv6()
	if ipv4 {
		ip = virtualIPv4()
	}
	const first = 1024
	s.relaysMu.Lock()
	defer s.relaysMu.Unlock()
	for range portTries {
		r.addr = netip.AddrPortFrom(ip, first+uint16(rand.N(1<<16-first))) // the sum fits 16 bits
		if s.relays[r.addr] == nil {
			s.relays[r.addr] = r
			return true
		}
	}
	return false
}

// made is called by pion after it made a relay, when the client's address is known.
func (s *Server) made(src, dst, relayed net.Addr) {
	r := s.find(addrPort(relayed))
	if r == nil {
		return
	}
	network := networkOf(addrPort(src))
	s.mu.Lock()
	over := s.cfg.PerNetwork > 0 && s.networks[network] >= s.cfg.PerNetwork // other relays came in between
	if _, there := r.one.relays[r]; there && !over {
		r.network = network
		s.networks[network]++
	}
	if c := s.open[streamKey{addrPort(src), addrPort(dst)}]; c != nil && isTCP(src) {
		r.stream = c
		s.provenLocked(c)
	}
	ended := r.one.over
	s.mu.Unlock()
	if over {
		s.counters.NetworkQuota.Add(1)
	}
	if over || ended {
		_ = r.Close() // it never fails
	}
}

// ended is called by pion after the end of a relay. Its stream is not needed any more.
func (s *Server) ended(src, dst net.Addr) {
	if !isTCP(src) {
		return
	}
	s.mu.Lock()
	c := s.open[streamKey{addrPort(src), addrPort(dst)}]
	s.mu.Unlock()
	if c != nil {
		_ = c.Close() // waiting packets are lost, as on any network
	}
}

func isTCP(a net.Addr) bool {
	_, ok := a.(*net.TCPAddr)
	return ok
}

// another counts a permission or a channel of a relay, and ends a relay with too many,
// because pion keeps state for each.
func (s *Server) another(relayed net.Addr) {
	r := s.find(addrPort(relayed))
	if r == nil {
		return
	}
	s.mu.Lock()
	r.peers++
	tooMany := r.peers > 2*maxPeers
	s.mu.Unlock()
	if tooMany {
		s.counters.Peers.Add(1)
		_ = r.Close() // it never fails
	}
}

func (s *Server) find(addr netip.AddrPort) *relay {
	if s.counters.Relays.Load() == 0 {
		return nil
	}
	s.relaysMu.RLock()
	defer s.relaysMu.RUnlock()
	return s.relays[addr]
}

// Relays reports whether an address is a relay's, or one that only relays have. No other
// host has such an address.
func (s *Server) Relays(addr netip.AddrPort) bool {
	if ip := addr.Addr(); ip == virtualIPv4() || ip == virtualIPv6() {
		return true
	}
	return len(s.cfg.Allow) > 0 && s.find(addr) != nil // other relays only have virtual addresses
}

// Path is a path from one of our own media's addresses to the client behind a relay; nil
// if to is not a relay's address.
func (s *Server) Path(from, to netip.AddrPort) *Path {
	if r := s.find(to); r != nil {
		return &Path{r, from}
	}
	return nil
}

// Send gives a packet of our own media to the client behind a relay; false if to is not a
// relay's address.
func (s *Server) Send(b []byte, from, to netip.AddrPort) bool {
	r := s.find(to)
	if r == nil {
		return false
	}
	r.toClient(b, from)
	return true
}

// Path is a path to the client behind a relay. Its method may be called concurrently.
type Path struct {
	r    *relay
	from netip.AddrPort
}

// WriteToAddrPort sends a packet to the client. It ignores the address.
func (p *Path) WriteToAddrPort(b []byte, _ netip.AddrPort) (int, error) {
	select {
	case <-p.r.done:
		return 0, net.ErrClosed
	default:
	}
	p.r.toClient(b, p.from)
	return len(b), nil
}

// toClient queues a packet for the client.
func (r *relay) toClient(b []byte, from netip.AddrPort) {
	r.server.counters.ToClients.Add(uint64(len(b)))
	r.push(b, from)
}

func (r *relay) push(b []byte, from netip.AddrPort) {
	p := packets.Get().(*packet) // the pool holds no other type
	p.from, p.n = from, copy(p.buf[:], b)
	if p.n == len(b) {
		select {
		case r.in <- p:
			return
		default:
		}
	}
	packets.Put(p)
	r.server.counters.Overflow.Add(1)
}

// receiveFromOutside reads the packets of other peers until the relay ends.
func (r *relay) receiveFromOutside() {
	buf := make([]byte, maxPacket)
	for {
		n, from, err := r.socket.ReadFromUDPAddrPort(buf)
		if err != nil {
			select {
			case <-r.done:
				return
			default:
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue // the error is about an earlier packet
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if !r.server.outside(from.Addr()) {
			continue // not an allowed peer, or an address of our own media
		}
		r.server.counters.OutsideIn.Add(uint64(n))
		r.push(buf[:n], from)
	}
}

// ReadFrom implements net.PacketConn. It returns packets for the client.
func (r *relay) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		select {
		case p := <-r.in:
			n, from, fits := copy(b, p.buf[:p.n]), p.from, p.n <= len(b)
			packets.Put(p)
			if !fits {
				r.server.counters.Overflow.Add(1)
				continue
			}
			return n, net.UDPAddrFromAddrPort(from), nil
		case <-r.done:
			return 0, nil, net.ErrClosed
		}
	}
}

// WriteTo implements net.PacketConn. It takes packets of the client for a peer.
func (r *relay) WriteTo(b []byte, addr net.Addr) (int, error) {
	to := addrPort(addr)
	s := r.server
	switch {
	case s.cfg.Media.Deliver(b, r.addr, to):
		s.counters.ToMedia.Add(uint64(len(b)))
	case r.socket != nil && s.outside(to.Addr()):
		s.counters.OutsideOut.Add(uint64(len(b)))
		if _, err := r.socket.WriteToUDPAddrPort(b, to); err != nil {
			return 0, err
		}
	default:
		s.counters.Peers.Add(1) // another port of this machine
	}
	return len(b), nil
}

// Close implements net.PacketConn. It never fails.
func (r *relay) Close() error {
	r.once.Do(func() {
		close(r.done)
		if r.socket != nil {
			_ = r.socket.Close() // waiting packets are lost, as on any network
		}
		s := r.server
		s.mu.Lock()
		defer s.mu.Unlock()
		s.relaysMu.Lock()
		if s.relays[r.addr] == r {
			delete(s.relays, r.addr)
		}
		s.relaysMu.Unlock()
		delete(r.one.relays, r)
		s.all--
		if r.network.IsValid() {
			if s.networks[r.network]--; s.networks[r.network] == 0 {
				delete(s.networks, r.network)
			}
		}
		s.counters.Relays.Add(-1)
		s.work.Done()
	})
	return nil
}

// LocalAddr implements net.PacketConn.
func (r *relay) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(r.addr) }

// SetDeadline implements net.PacketConn. It does nothing: pion sets none.
func (r *relay) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.PacketConn, as SetDeadline.
func (r *relay) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.PacketConn, as SetDeadline.
func (r *relay) SetWriteDeadline(time.Time) error { return nil }
