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
)

// Bounds of connections.
const (
	// maxStrangers is how many connections may have no relay yet, and
	// maxStrangersOfNetwork how many of one network. One too many takes the place of the
	// oldest: a client's has a relay after two round trips, so those that fill the places
	// are others.
	maxStrangers          = 512
	maxStrangersOfNetwork = 64
	// strangerTime is how long one may have none.
	strangerTime = 10 * time.Second
	// writeTime is how long a client may take to take a packet. Media that is older is of
	// no use to it.
	writeTime = 5 * time.Second
	// writeBuffer is what may wait in the kernel for a client, in bytes: a second of
	// 2 Mbit/s.
	writeBuffer = 256 << 10
)

// streamKey names a stream as pion does.
type streamKey struct{ remote, local netip.AddrPort }

// stream is a client's connection over TCP or TLS.
type stream struct {
	net.Conn
	server  *Server
	key     streamKey
	network netip.Prefix
	in      *bufio.Reader // of Conn; Read alone uses it
	once    sync.Once
	timer   *time.Timer // until it has to have a relay

	// The server's mu guards the following.
	proven bool // it has a relay, or had one
}

// ServeConn serves a client's connection, from which nothing was read, and which the
// server closes. It does not wait. One that comes when there are too many strangers takes the
// place of another: of the oldest of its own network, or of the network that has most.
func (s *Server) ServeConn(conn net.Conn) {
	c := &stream{
		Conn: conn, server: s, key: streamKey{addrPort(conn.RemoteAddr()), addrPort(conn.LocalAddr())},
		in: bufio.NewReaderSize(conn, maxPacket),
	}
	c.network = networkOf(c.key.remote)
	if t, ok := underlying(conn).(*net.TCPConn); ok {
		_ = t.SetWriteBuffer(writeBuffer) // where this fails more may wait
	}
	s.mu.Lock()
	_, twice := s.open[c.key]
	if s.closed || twice || (s.cfg.All > 0 && len(s.open) >= s.cfg.All+maxStrangers+1) { // one is being displaced
		s.mu.Unlock()
		s.counters.StreamsRefused.Add(1)
		_ = conn.Close() // nothing was said on it
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
		_ = displaced.Close() // it is a stranger's
	}
	if !s.streams.hand(c) {
		_ = c.Close() // nothing was said on it
	}
}

// underlying is the connection beneath those that wrap it.
func underlying(conn net.Conn) net.Conn {
	for {
		w, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = w.NetConn()
	}
}

// late ends a connection that has made no relay in time.
func (c *stream) late() {
	c.server.mu.Lock()
	proven := c.proven
	c.server.mu.Unlock()
	if !proven {
		c.server.counters.StreamsRefused.Add(1)
		_ = c.Close() // it is a stranger's
	}
}

// provenLocked follows a stream's first relay.
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

// displaceLocked takes a stranger's place for another of a network, and returns it to be closed;
// nil: there is room.
func (s *Server) displaceLocked(network netip.Prefix) *stream {
	counts := map[netip.Prefix]int{}
	fullest := network
	for _, c := range s.strangers {
		if counts[c.network]++; counts[c.network] > counts[fullest] {
			fullest = c.network
		}
	}
	switch {
	case s.cfg.PerNetwork > 0 && counts[network] >= maxStrangersOfNetwork: // else many clients share one
		fullest = network
	case len(s.strangers) < maxStrangers:
		return nil
	}
	oldest := s.strangers[slices.IndexFunc(s.strangers, func(c *stream) bool { return c.network == fullest })]
	s.strangerGoneLocked(oldest)
	return oldest
}

var errFrame = errors.New("neither a TURN message nor channel data of a length that is taken")

// Read implements net.Conn: it gives one whole message, or the channel data of one packet with
// its padding (RFC 8656, 12.5), and fails where that is longer than b. pion reads so until
// it has such a frame, one call within the other, and looks at the frame's length last: from
// shorter pieces of a long one a client could build a stack of any depth.
func (c *stream) Read(b []byte) (int, error) {
	n, err := readFrame(c.in, b)
	if errors.Is(err, errFrame) {
		c.server.counters.StreamsRefused.Add(1)
	}
	return n, err
}

// readFrame reads a message or channel data, of which pion has to find the same length: what
// it takes for one kind must not be read as the other.
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

// Write implements net.Conn. A client that does not take in time what it is sent is given
// up.
func (c *stream) Write(b []byte) (int, error) {
	_ = c.Conn.SetWriteDeadline(time.Now().Add(writeTime)) // where this fails, so does the write
	n, err := c.Conn.Write(b)
	if err != nil {
		_ = c.Close() // it is of no use any more
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
		// A TLS connection says goodbye, for which it would wait.
		err = underlying(c.Conn).Close()
		s.work.Done()
	})
	return err
}

// streamListener hands streams to pion.
type streamListener struct {
	conns chan net.Conn
	done  chan struct{} // closed by Close
	once  sync.Once
}

func newStreamListener() *streamListener {
	return &streamListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

// hand gives pion a connection, which it takes at once; false: no more are taken.
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
