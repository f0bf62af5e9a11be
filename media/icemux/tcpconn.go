package icemux

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// maxFrame is the longest packet that is taken over TCP, in bytes. Agents read no longer
// ones.
const maxFrame = 8192

// tcpConn is one connection of a client's, or of a stranger's.
type tcpConn struct {
	conn    net.Conn
	mux     *TCPMux
	remote  netip.AddrPort
	local   netip.Addr
	network netip.Prefix  // of strangers that are counted together
	joined  chan struct{} // closed when it becomes a member
	gone    chan struct{} // closed by close
	once    sync.Once

	// The mux's mu guards the following.
	counted bool        // among those that are open
	session *tcpSession // nil: it never was a member
	member  bool        // it is one
	ufrag   string      // of the session that a stranger waits for
	timer   *time.Timer // until it has to have become a member, and then proven

	proven atomic.Bool  // the agent has answered a request over it
	heard  atomic.Int64 // when a packet came last, in ns of the Unix epoch

	wake chan struct{} // has one element if there may be packets to send

	mu     sync.Mutex // guards the following
	queue  net.Buffers
	queued int // bytes in the queue, and of those that are being written
}

func newTCPConn(m *TCPMux, conn net.Conn) (*tcpConn, bool) {
	remote, ok := conn.RemoteAddr().(*net.TCPAddr)
	local, ok2 := conn.LocalAddr().(*net.TCPAddr)
	if !ok || !ok2 {
		return nil, false
	}
	c := &tcpConn{
		conn: conn, mux: m, remote: canonical(remote.AddrPort()), local: canonical(local.AddrPort()).Addr(),
		joined: make(chan struct{}), gone: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	bits := 64
	if c.remote.Addr().Is4() {
		bits = 32
	}
	network, err := c.remote.Addr().WithZone("").Prefix(bits)
	c.network = network
	return c, err == nil
}

// close ends the connection's goroutines.
func (c *tcpConn) close() {
	c.once.Do(func() {
		close(c.gone)
		_ = c.conn.Close() // what waits is lost, as on any network
	})
}

// finish ends the connection and forgets it.
func (c *tcpConn) finish() {
	c.mux.mu.Lock()
	defer c.mux.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mux.forgetLocked(c)
}

// late ends a connection that has not become a member, or proven, in time.
func (c *tcpConn) late() {
	c.mux.mu.Lock()
	defer c.mux.mu.Unlock()
	select {
	case <-c.gone:
		return
	default:
	}
	if !c.proven.Load() {
		c.mux.refuseLocked(c)
	}
}

// read passes packets on until the connection ends.
func (c *tcpConn) read() {
	defer c.finish()
	r := bufio.NewReaderSize(c.conn, 2048)
	packet, err := readFrame(r)
	if err != nil {
		return
	}
	m, ok := parseSTUN(packet)
	if !ok || m.class != classRequest || len(m.ufrag()) == 0 {
		c.mux.cfg.Counters.Refused.Add(1)
		return
	}
	c.mux.join(c, string(m.ufrag()))
	select {
	case <-c.joined:
	case <-c.gone:
		return
	}
	c.mux.mu.Lock()
	s := c.session
	c.mux.mu.Unlock()
	for unproven := 0; ; {
		if !c.proven.Load() {
			if unproven++; unproven > maxUnprovenPackets {
				c.mux.cfg.Counters.Refused.Add(1)
				return
			}
			if _, ok := parseSTUN(packet); !ok {
				packet = nil // it is nobody's yet
			}
		}
		c.heard.Store(time.Now().UnixNano())
		if packet != nil {
			select {
			case s.in <- tcpPacket{c.remote, packet}:
			case <-s.done:
				return
			case <-c.gone:
				return
			}
		}
		if packet, err = readFrame(r); err != nil {
			return
		}
	}
}

var errFrame = errors.New("a packet is longer than is taken")

// readFrame reads a packet with its length before it (RFC 4571, 2).
func readFrame(r *bufio.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > maxFrame {
		return nil, errFrame
	}
	packet := make([]byte, n)
	_, err := io.ReadFull(r, packet)
	return packet, err
}

// send queues a packet. It fails if too much waits.
func (c *tcpConn) send(b []byte) (int, error) {
	frame := make([]byte, 2+len(b))
	binary.BigEndian.PutUint16(frame, uint16(len(b))) //nolint:gosec // packets are shorter
	copy(frame[2:], b)
	c.mu.Lock()
	if c.queued+len(frame) > maxTCPQueue {
		c.mu.Unlock()
		c.mux.cfg.Counters.Overflow.Add(1)
		return 0, errFull
	}
	c.queue = append(c.queue, frame)
	c.queued += len(frame)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return len(b), nil
}

var errFull = errors.New("too much waits for the receiver")

// write sends what is queued until the connection ends.
func (c *tcpConn) write() {
	for {
		select {
		case <-c.wake:
		case <-c.gone:
			return
		}
		c.mu.Lock()
		batch := c.queue
		c.queue = nil
		c.mu.Unlock()
		n, err := batch.WriteTo(c.conn)
		if err != nil {
			c.close() // which ends the reader, which forgets the connection
			return
		}
		c.mu.Lock()
		c.queued -= int(n)
		c.mu.Unlock()
	}
}
