package turn

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"parlor/media/tcp"
)

// Bounds of connections.
const (
	// maxStrangers is how many connections may have no relay yet, and
	// maxStrangersOfNetwork how many of one network. One more takes the place of the
	// oldest: a client's connection has a relay after two round trips, so the oldest ones
	// are probably not clients.
	maxStrangers          = 512
	maxStrangersOfNetwork = 64
	// strangerTime is how long a connection may have no relay.
	strangerTime = 10 * time.Second
	// writeTime is how long a client may take to accept a packet. Older media is useless
	// to it.
	writeTime = 5 * time.Second
	// writeBuffer is how many bytes may wait in the kernel for a client: a second of 2
	// Mbit/s.
	writeBuffer = 256 << 10
)

// streamKey identifies a stream as pion does.
type streamKey struct{ remote, local netip.AddrPort }

// stream is a client's connection over TCP or TLS.
type stream struct {
	net.Conn
	server  *Server
	key     streamKey
	network netip.Prefix
	in      *bufio.Reader // reads from Conn; used by Read alone
	once    sync.Once
	timer   *time.Timer // ends the stream if it has no relay in time

	// The server's mu guards the following.
	proven bool // it has or had a relay
}

// ServeConn serves a client's connection, from which nothing has been read, and closes it
// in the end. It does not block. If there are too many connections without a relay, it
// takes the place of the oldest one of its own network, or of the network with the most.
func (s *Server) ServeConn(conn net.Conn) {
	c := &stream{
		Conn: conn, server: s, key: streamKey{addrPort(conn.RemoteAddr()), addrPort(conn.LocalAddr())},
		in: bufio.NewReaderSize(conn, maxPacket),
	}
	c.network = networkOf(c.key.remote)
	if t, ok := tcp.Innermost(conn).(*net.TCPConn); ok {
		_ = t.SetWriteBuffer(writeBuffer) // if this fails, more may wait
	}
	s.mu.Lock()
	_, twice := s.open[c.key]
	if s.closed || twice || (s.cfg.All > 0 && len(s.open) >= s.cfg.All+maxStrangers+1) { // one of them may be about to be displaced
		s.mu.Unlock()
		s.counters.StreamsRefused.Add(1)
		_ = conn.Close() // no data was sent on it
		return
	}
	displaced := s.displaceLocked(c.network)
	s.open[c.key] = c
	s.strangers = append(s.strangers, c)
	s.counters.Streams.Add(1)
	s.work.Add(1) // until it is closed
	c.timer = time.AfterFunc(strangerTime, c.late)
	s.mu.Unlock()
	if displaced != nil {
		s.counters.StreamsRefused.Add(1)
		_ = displaced.Close() // it has no relay
	}
	if !s.streams.hand(c) {
		_ = c.Close() // no data was sent on it
	}
}

// late ends a connection without a relay.
func (c *stream) late() {
	c.server.mu.Lock()
	proven := c.proven
	c.server.mu.Unlock()
	if !proven {
		c.server.counters.StreamsRefused.Add(1)
		_ = c.Close() // it has no relay
	}
}

// provenLocked notes that a stream has a relay.
func (s *Server) provenLocked(c *stream) {
	if c.proven {
		return
	}
	c.proven = true
	s.strangerGoneLocked(c)
}

func (s *Server) strangerGoneLocked(c *stream) {
	if i := slices.Index(s.strangers, c); i >= 0 {
		s.strangers = slices.Delete(s.strangers, i, i+1)
	}
}

// displaceLocked makes room for a connection of a network, and returns the connection to
// close for it; nil if there is room.
func (s *Server) displaceLocked(network netip.Prefix) *stream {
	counts := map[netip.Prefix]int{}
	fullest := network
	for _, c := range s.strangers {
		if counts[c.network]++; counts[c.network] > counts[fullest] {
			fullest = c.network
		}
	}
	switch {
	case s.cfg.PerNetwork > 0 && counts[network] >= maxStrangersOfNetwork: // with PerNetwork < 0 many clients may share a network
		fullest = network
	case len(s.strangers) < maxStrangers:
		return nil
	}
	oldest := s.strangers[slices.IndexFunc(s.strangers, func(c *stream) bool { return c.network == fullest })]
	s.strangerGoneLocked(oldest)
	return oldest
}

var errFrame = errors.New("neither a TURN message nor channel data of a length that is taken")

// Read implements net.Conn. It returns one whole message, or the channel data of one
// packet with its padding (RFC 8656, section 12.5), and fails if that is longer than b.
// Pion calls Read recursively until it has a whole frame, and checks the frame's length
// last. Given pieces of a long frame, it would recurse as deeply as the client likes.
func (c *stream) Read(b []byte) (int, error) {
	n, err := readFrame(c.in, b)
	if errors.Is(err, errFrame) {
		c.server.counters.StreamsRefused.Add(1)
	}
	return n, err
}

// readFrame reads a message or channel data. Pion must find the same length: a frame that
// pion takes for one kind must not be read as the other.
func readFrame(r io.Reader, b []byte) (int, error) {
	const (
		head, header, cookie = 4, 20, 0x2112a442
		align                = 4 // of channel data over TCP
	)
	if len(b) < header {
		return 0, io.ErrShortBuffer
	}
	if _, err := io.ReadFull(r, b[:head]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	message := b[0] < 4
	switch {
	case message:
		n += header
	case b[0]>>6 == 1: // a channel's number
		n = head + (n+align-1)/align*align
	default:
		return 0, errFrame
	}
	if n > len(b) {
		return 0, errFrame
	}
	if _, err := io.ReadFull(r, b[head:n]); err != nil {
		return 0, err
	}
	if message != (n >= 8 && binary.BigEndian.Uint32(b[head:]) == cookie) {
		return 0, errFrame
	}
	return n, nil
}

// Write implements net.Conn. If the client does not accept the packet in time, the
// connection is closed.
func (c *stream) Write(b []byte) (int, error) {
	_ = c.Conn.SetWriteDeadline(time.Now().Add(writeTime)) // if this fails, the write fails too
	n, err := c.Conn.Write(b)
	if err != nil {
		_ = c.Close() // it cannot be used any more
	}
	return n, err
}

// Close implements net.Conn.
func (c *stream) Close() error {
	var err error
	c.once.Do(func() {
		s := c.server
		s.mu.Lock()
		c.timer.Stop()
		s.strangerGoneLocked(c)
		if s.open[c.key] == c {
			delete(s.open, c.key)
		}
		s.counters.Streams.Add(-1)
		s.mu.Unlock()
		// Close of a TLS connection would wait to send its close_notify.
		err = tcp.Innermost(c.Conn).Close()
		s.work.Done()
	})
	return err
}

// streamListener gives streams to pion.
type streamListener struct {
	conns chan net.Conn
	done  chan struct{} // closed by Close
	once  sync.Once
}

func newStreamListener() *streamListener {
	return &streamListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

// hand gives pion a connection, which pion accepts at once; false if the listener is
// closed.
func (l *streamListener) hand(c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.done:
		return false
	}
}

// Accept implements net.Listener.
func (l *streamListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *streamListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements net.Listener.
func (l *streamListener) Addr() net.Addr { return &net.TCPAddr{} }
