package icemux

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"parlor/media/tcp"
)

// maxFrame is the size of the longest packet that is accepted over TCP, in bytes. Agents
// do not read longer packets.
const maxFrame = 8192

// tcpConn is one TCP connection, a stranger or a member of a session.
type tcpConn struct {
	conn    net.Conn
	out     net.Conn // the connection beneath conn: one write of it takes many packets
	mux     *TCPMux
	remote  netip.AddrPort
	local   netip.Addr
	network netip.Prefix  // its strangers are counted together
	joined  chan struct{} // closed when it becomes a member
	gone    chan struct{} // closed by close
	once    sync.Once

	// The mux's mu guards the following.
	counted bool        // it is counted as open
	session *tcpSession // the session it is, or was, a member of; nil = of none
	member  bool        // it is a member of session
	ufrag   string      // the ufrag of the session that a stranger waits for
	timer   *time.Timer // ends a stranger that does not become a member, and a member that is not proven

	proven  atomic.Bool // the agent has answered a request over it
	watched atomic.Pointer[Media]
	heard   atomic.Int64 // when a packet came last, in ns of the Unix epoch

	wake chan struct{} // has one element if there may be packets to send

	// mu guards the following. What the session's Media does is done while it is held.
	mu sync.Mutex
	// media is the queue of RTP packets, which are dropped when they are too old; others
	// is the queue of all else.
	media, others tcpQueue
	queued        int // bytes of both queues and of what is being written
	// broken are streams of which packets were dropped on which later ones depend. Media
	// has not been told of that yet.
	broken []brokenStream
	waits  bool   // checks of an agent that chooses the pair wait
	check  []byte // the last check that waits; nil: none
}

// tcpFrame is a packet with its length in front (RFC 4571, 2).
type tcpFrame struct {
	bytes []byte
	at    time.Time // when it was queued
}

// Sizes of frames that are taken from pools and given back. Nearly all packets fit.
const (
	smallFrame = 512
	largeFrame = 2 + maxPacket
)

// The pools are shared by all connections, and have no state.
var (
	smallFrames = sync.Pool{New: func() any { return new([smallFrame]byte) }}
	largeFrames = sync.Pool{New: func() any { return new([largeFrame]byte) }}
)

// newFrame copies a packet and puts its length in front.
func newFrame(b []byte) []byte {
	var frame []byte
	switch n := 2 + len(b); {
	case n <= smallFrame:
		frame = smallFrames.Get().(*[smallFrame]byte)[:0] // the pool holds no other type
	case n <= largeFrame:
		frame = largeFrames.Get().(*[largeFrame]byte)[:0] // the pool holds no other type
	default:
		frame = make([]byte, 0, n)
	}
	return append(binary.BigEndian.AppendUint16(frame, uint16(len(b))), b...)
}

// release gives the bytes back. Nothing may use them any more.
func (f *tcpFrame) release() {
	switch cap(f.bytes) {
	case smallFrame:
		smallFrames.Put((*[smallFrame]byte)(f.bytes[:smallFrame]))
	case largeFrame:
		largeFrames.Put((*[largeFrame]byte)(f.bytes[:largeFrame]))
	}
	f.bytes = nil
}

// restingFrames is up to how many frames a queue keeps room for while it is empty, and how
// many places of sent frames it has at most before the waiting ones move to its start.
const restingFrames = 64

// tcpQueue is a queue of frames. Its memory is used again once it was empty, unless it had
// grown beyond restingFrames: then it is given back.
type tcpQueue struct {
	frames []tcpFrame
	first  int // index of the oldest frame
}

func (q *tcpQueue) waiting() []tcpFrame { return q.frames[q.first:] }

func (q *tcpQueue) push(f tcpFrame) { q.frames = append(q.frames, f) }

// pop removes and returns the oldest frame. There must be one.
func (q *tcpQueue) pop() tcpFrame {
	f := q.frames[q.first]
	q.frames[q.first] = tcpFrame{}
	q.first++
	q.settle()
	return f
}

// remove removes the frames for which over is true.
func (q *tcpQueue) remove(over func(tcpFrame) bool) {
	left := slices.DeleteFunc(q.waiting(), over)
	q.frames = q.frames[:q.first+len(left)]
	q.settle()
}

// settle begins again at the start when the queue is empty, and moves a queue there that
// has not been empty for long.
func (q *tcpQueue) settle() {
	switch left := len(q.frames) - q.first; {
	case left == 0 && cap(q.frames) > restingFrames:
		*q = tcpQueue{}
	case left == 0:
		q.frames, q.first = q.frames[:0], 0
	case q.first > restingFrames && q.first > left:
		copy(q.frames, q.waiting())
		clear(q.frames[left:])
		q.frames, q.first = q.frames[:left], 0
	}
}

// brokenStream is an RTP stream and its first packet that was dropped.
type brokenStream struct {
	ssrc   uint32
	number uint16
}

func newTCPConn(m *TCPMux, conn net.Conn) (*tcpConn, bool) {
	remote, ok := conn.RemoteAddr().(*net.TCPAddr)
	local, ok2 := conn.LocalAddr().(*net.TCPAddr)
	if !ok || !ok2 {
		return nil, false
	}
	c := &tcpConn{
		conn: conn, out: tcp.Innermost(conn), mux: m, remote: canonical(remote.AddrPort()), local: canonical(local.AddrPort()).Addr(),
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

// finish closes the connection and removes it from the mux.
func (c *tcpConn) finish() {
	c.mux.mu.Lock()
	defer c.mux.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mux.forgetLocked(c)
}

// late closes a connection that has not become a member, or proven, in time.
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

// read reads and dispatches packets until the connection ends.
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
		if packet != nil && !s.of.handler.takes(packet) && !s.former() {
			select {
			case <-c.gone: // it was refused as it came
				return
			default:
			}
			select {
			case s.in <- tcpPacket{c.remote, packet}:
			case <-s.retired:
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

// readFrame reads a packet with its length in front (RFC 4571, 2).
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

// send queues a packet. It fails if the packet is too long or the queue is full.
func (c *tcpConn) send(b []byte) (int, error) {
	if len(b) > maxFrame {
		return 0, errLong
	}
	now, rtp := c.mux.now(), isRTP(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expireLocked(now)
	if rtp && c.refusedLocked(b) {
		return len(b), nil
	}
	if c.queued+2+len(b) > maxTCPQueue {
		c.mux.cfg.Counters.Overflow.Add(1)
		if rtp {
			c.mediaOf().Dropped(ssrcOf(b), numberOf(b), now.Sub(c.oldestLocked(now)))
		}
		return 0, errFull
	}
	frame := tcpFrame{newFrame(b), now}
	c.queued += len(frame.bytes)
	if rtp {
		c.media.push(frame)
	} else {
		c.others.push(frame)
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return len(b), nil
}

// hold keeps a check until checks no longer wait, in place of the check before: the agent
// accepts a response to its newest check the longest. It reports false if checks do not
// wait now.
func (c *tcpConn) hold(check []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waits {
		c.check = bytes.Clone(check)
	}
	return c.waits
}

// release lets checks go, and sends the last one that has waited.
func (c *tcpConn) release() {
	c.mu.Lock()
	check := c.check
	c.waits, c.check = false, nil
	c.mu.Unlock()
	if check != nil {
		_, _ = c.send(check) // the agent sends another one
	}
}

var (
	errFull = errors.New("too much waits for the receiver")
	errLong = errors.New("the packet is longer than receivers read")
)

// expireLocked drops the RTP packets that have waited for too long. Of a linked stream it
// drops all queued packets, and refusedLocked drops the next one and tells Media. Media
// learns of the gap only then, so that no packet of the stream that Media believes to be
// useful is still under way.
func (c *tcpConn) expireLocked(now time.Time) {
	for len(c.media.waiting()) > 0 && now.Sub(c.media.waiting()[0].at) > MaxTCPWait {
		first := c.media.pop()
		ssrc, number := ssrcOf(first.bytes[2:]), numberOf(first.bytes[2:])
		c.droppedLocked(&first)
		if !c.mediaOf().Linked(ssrc) {
			c.mediaOf().Dropped(ssrc, number, MaxTCPWait)
			continue
		}
		c.media.remove(func(f tcpFrame) bool {
			of := ssrcOf(f.bytes[2:]) == ssrc
			if of {
				c.droppedLocked(&f)
			}
			return of
		})
		c.broken = append(c.broken, brokenStream{ssrc, number})
	}
}

func (c *tcpConn) droppedLocked(f *tcpFrame) {
	c.mux.cfg.Counters.Overdue.Add(1)
	c.queued -= len(f.bytes)
	f.release()
}

// refusedLocked drops a packet that follows dropped packets of its stream, and reports
// whether it did.
func (c *tcpConn) refusedLocked(b []byte) bool {
	if len(c.broken) == 0 {
		return false
	}
	ssrc := ssrcOf(b)
	i := slices.IndexFunc(c.broken, func(s brokenStream) bool { return s.ssrc == ssrc })
	if i < 0 {
		return false
	}
	c.mux.cfg.Counters.Overdue.Add(1)
	c.mediaOf().Dropped(ssrc, c.broken[i].number, MaxTCPWait)
	c.broken = slices.Delete(c.broken, i, i+1)
	return true
}

// oldestLocked returns the time at which the oldest queued RTP packet was queued.
func (c *tcpConn) oldestLocked(now time.Time) time.Time {
	if len(c.media.waiting()) == 0 {
		return now
	}
	return c.media.waiting()[0].at
}

// mediaOf returns the Media that learns of dropped packets.
func (c *tcpConn) mediaOf() Media {
	if m := c.watched.Load(); m != nil {
		return *m
	}
	return nobody{}
}

// takeLocked removes the packets to write next, the oldest first, and appends them to
// batch. It takes few packets at a time, because a packet that is written can no longer be
// dropped.
func (c *tcpConn) takeLocked(batch []tcpFrame, now time.Time) []tcpFrame {
	c.expireLocked(now)
	for size := 0; size < maxTCPWrite; {
		from, media, others := &c.media, c.media.waiting(), c.others.waiting()
		if len(media) == 0 || len(others) > 0 && others[0].at.Before(media[0].at) {
			from = &c.others
		}
		if len(from.waiting()) == 0 {
			break
		}
		next := from.pop()
		batch = append(batch, next)
		size += len(next.bytes)
	}
	return batch
}

// write sends the queued packets until the connection ends. Checks wait for that long.
func (c *tcpConn) write(wait time.Duration) {
	released := time.NewTimer(wait)
	defer released.Stop()
	var batch []tcpFrame
	var pieces [][]byte
	out := new(net.Buffers) // made once, because WriteTo lets it escape
	for {
		select {
		case <-c.wake:
		case <-released.C:
			c.release()
		case <-c.gone:
			return
		}
		for {
			c.mu.Lock()
			batch = c.takeLocked(batch[:0], c.mux.now())
			c.mu.Unlock()
			if len(batch) == 0 {
				break
			}
			pieces = pieces[:0]
			for _, f := range batch {
				pieces = append(pieces, f.bytes)
			}
			*out = pieces // WriteTo uses it up
			n, err := out.WriteTo(c.out)
			for i := range batch {
				batch[i].release()
			}
			if err != nil {
				c.close() // which ends the reader, which forgets the connection
				return
			}
			c.mu.Lock()
			c.queued -= int(n)
			c.mu.Unlock()
		}
	}
}

// isRTP reports whether b is an RTP packet, and not RTCP or another protocol (RFC 7983,
// RFC 5761).
func isRTP(b []byte) bool {
	return len(b) >= 12 && b[0]>>6 == 2 && (b[1] < 192 || b[1] > 223)
}

func ssrcOf(rtp []byte) uint32 { return binary.BigEndian.Uint32(rtp[8:]) }

func numberOf(rtp []byte) uint16 { return binary.BigEndian.Uint16(rtp[2:]) }
