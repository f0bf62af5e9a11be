package turn

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	pionturn "github.com/pion/turn/v5"
)

// Socket is a UDP socket that another part of the program reads.
type Socket interface {
	LocalAddr() net.Addr
	WriteToAddrPort(p []byte, dst netip.AddrPort) (int, error)
}

// For reports whether a UDP packet is for a TURN server: a TURN message, channel data
// (RFC 8656, section 12), or a STUN message that does not belong to ICE.
func For(p []byte) bool {
	const (
		header, cookie = 20, 0x2112a442
		methods        = 0x3eef // the bits of a message type that are not its class
		binding        = 0x0001
		request        = 0x0001 // type of a Binding request
	)
	switch {
	case len(p) < 4 || p[0] > 0x4f:
		return false
	case p[0] >= 0x40:
		return true
	case p[0] > 3 || len(p) < header || binary.BigEndian.Uint32(p[4:]) != cookie:
		return false
	}
	kind := binary.BigEndian.Uint16(p)
	if kind&methods != binding {
		return true
	}
	return kind == request && !named(p[header:])
}

// named reports whether the attributes have a user name, as those of ICE's requests do.
func named(attrs []byte) bool {
	const username = 0x0006
	for len(attrs) >= 4 {
		if binary.BigEndian.Uint16(attrs) == username {
			return true
		}
		n := 4 + (int(binary.BigEndian.Uint16(attrs[2:]))+3)&^3
		if n > len(attrs) {
			return false
		}
		attrs = attrs[n:]
	}
	return false
}

// feed presents a Socket to pion as a net.PacketConn.
type feed struct {
	owner  *Server
	socket Socket
	server *pionturn.Server // set by AddSocket
	in     chan *packet
	done   chan struct{} // closed by Close
	once   sync.Once
	ended  sync.Once // pion's reader has seen the end
}

// AddSocket makes the server answer the packets that [Server.Take] brings from a socket.
func (s *Server) AddSocket(socket Socket) error {
	f := &feed{owner: s, socket: socket, in: make(chan *packet, maxWaiting), done: make(chan struct{})}
	s.feedsMu.Lock()
	defer s.feedsMu.Unlock()
	s.work.Add(1) // until pion's reader ends
	var err error
	f.server, err = s.serve(func(c *pionturn.ServerConfig) {
		c.PacketConnConfigs = []pionturn.PacketConnConfig{{
			PacketConn: f, RelayAddressGenerator: generator{s}, PermissionHandler: s.permits,
		}}
	})
	if err != nil {
		s.work.Done()
		return fmt.Errorf("serve TURN on %v: %w", socket.LocalAddr(), err)
	}
	s.feeds[socket] = f
	return nil
}

// RemoveSocket ends the relays that were made over a socket.
func (s *Server) RemoveSocket(socket Socket) {
	s.feedsMu.Lock()
	f := s.feeds[socket]
	delete(s.feeds, socket)
	s.feedsMu.Unlock()
	if f != nil {
		_ = f.server.Close() // closing a feed never fails
	}
}

// Take brings a packet that a socket received. It does not block.
func (s *Server) Take(socket Socket, b []byte, from netip.AddrPort) {
	s.feedsMu.RLock()
	f := s.feeds[socket]
	s.feedsMu.RUnlock()
	if f == nil {
		return
	}
	p := packets.Get().(*packet) // the pool holds no other type
	p.from, p.n = from, copy(p.buf[:], b)
	select {
	case f.in <- p:
	default:
		packets.Put(p)
		s.counters.Overflow.Add(1)
	}
}

// ReadFrom implements net.PacketConn.
func (f *feed) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case p := <-f.in:
		n, from := copy(b, p.buf[:p.n]), p.from
		packets.Put(p)
		return n, net.UDPAddrFromAddrPort(from), nil
	case <-f.done:
		f.ended.Do(f.owner.work.Done)
		return 0, nil, net.ErrClosed
	}
}

// WriteTo implements net.PacketConn.
func (f *feed) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-f.done:
		return 0, net.ErrClosed
	default:
	}
	return f.socket.WriteToAddrPort(b, addrPort(to))
}

// Close implements net.PacketConn. It does not close the socket, which belongs to another
// part of the program.
func (f *feed) Close() error {
	f.once.Do(func() { close(f.done) })
	return nil
}

// LocalAddr implements net.PacketConn.
func (f *feed) LocalAddr() net.Addr { return f.socket.LocalAddr() }

// SetDeadline implements net.PacketConn. It does nothing: pion sets none.
func (f *feed) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.PacketConn, as SetDeadline.
func (f *feed) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.PacketConn, as SetDeadline.
func (f *feed) SetWriteDeadline(time.Time) error { return nil }
