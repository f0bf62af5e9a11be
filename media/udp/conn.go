package udp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	// DefaultBuffer is the requested size of the kernel's queue in each direction. A
	// keyframe to a hundred subscribers is about 10 MB in a few milliseconds, most of
	// which the network takes meanwhile.
	DefaultBuffer = 4 << 20
	// DefaultFlushAfter is the interval at which the backstop looks at batches that are
	// not flushed. A packet usually waits two intervals, and five if further packets keep
	// coming.
	DefaultFlushAfter = 5 * time.Millisecond
	// maxShards bounds the shards: with more of them, each batch is shorter.
	maxShards = 8
)

// Config configures a [Conn].
type Config struct {
	// Addr is host:port as for net.ListenPacket; port 0 lets the system choose. An empty
	// host is all addresses of both families.
	Addr string
	// Log receives messages about the opening. Nothing is logged per packet. Required.
	Log *slog.Logger
	// Queues is how many queues the kernel keeps for what comes in; 0 means 1. Each is a
	// socket of its own on the same port (SO_REUSEPORT). The kernel chooses the queue by the
	// two addresses of a packet. A program that wants the port for itself alone is refused;
	// one of the same user that offers to share it is not, and gets a part of the packets, as
	// the kernel does not tell the two apart. Systems other than Linux keep one.
	Queues int
	// Buffer is the requested size of each of the socket's buffers, in bytes; 0 means
	// DefaultBuffer. The kernel may grant less (net.core.rmem_max), which is logged.
	Buffer int
	// FlushAfter is how often the backstop looks at a batch; 0 means DefaultFlushAfter.
	// It sends a batch that has not grown since its last look.
	FlushAfter time.Duration
	// NoOffload sends without UDP_SEGMENT. Plain also sends packet by packet, as on
	// systems that can do no better. Both are for tests, and for networks with faulty
	// drivers.
	NoOffload, Plain bool
}

// Conn is one UDP port on one address. All methods may be called concurrently.
type Conn struct {
	queues     []*queue // at least one
	log        *slog.Logger
	flushAfter time.Duration
	local      netip.AddrPort

	shards  []shard
	batches sync.Pool // of *sendBatch
	singles sync.Pool // of *single, see send_linux.go
	count   counters
	path    path // capabilities of the system, see send_linux.go

	// backstopMu guards the following. It is taken after no lock of a shard.
	backstopMu sync.Mutex
	armed      bool // the timer runs
	timer      *time.Timer

	closeOnce sync.Once
	closeErr  error
	done      chan struct{}
	// backstop ends when done is closed; Close waits for it.
	backstop sync.WaitGroup
}

var _ net.PacketConn = (*Conn)(nil)

// queue is one of the sockets of a Conn.
type queue struct {
	socket socket
	descriptor
	receive receiver
}

// socket is what a Conn needs of a socket beside its descriptor.
type socket interface {
	LocalAddr() net.Addr
	Close() error
	SetDeadline(t time.Time) error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
	WriteToUDPAddrPort(p []byte, dst netip.AddrPort) (int, error)
}

// Enough is a number of queues with which no single core bounds what a port carries: one for
// each two cores. With one for each, two cores read no more, and woke more often.
func Enough() int { return max(shardCount()/2, 1) }

// Listen opens a port. Close must be called.
func Listen(cfg Config) (*Conn, error) {
	c := &Conn{
		log:        cfg.Log,
		flushAfter: cfg.FlushAfter,
		shards:     make([]shard, shardCount()),
		done:       make(chan struct{}),
	}
	if c.flushAfter <= 0 {
		c.flushAfter = DefaultFlushAfter
	}
	if cfg.Buffer <= 0 {
		cfg.Buffer = DefaultBuffer
	}
	c.batches.New = func() any { return newSendBatch() }
	if err := c.open(cfg); err != nil {
		for _, q := range c.queues {
			_ = q.socket.Close() // the socket was never used
		}
		return nil, err
	}
	for i := range c.shards {
		c.shards[i].queue = c.queues[i%len(c.queues)]
	}
	c.timer = time.NewTimer(time.Hour)
	c.timer.Stop()
	c.backstop.Go(c.runBackstop)
	return c, nil
}

// open opens the queues. The first one is bound as if it were the only one, so that a port
// that another program has is refused. If the system permits no more, there is one.
func (c *Conn) open(cfg Config) error {
	first, err := c.openQueue(cfg.Addr, nil)
	if err != nil {
		return fmt.Errorf("listen for media: %w", err)
	}
	c.queues = []*queue{first}
	c.local = first.socket.LocalAddr().(*net.UDPAddr).AddrPort()
	if err := c.openPath(cfg); err != nil {
		return fmt.Errorf("set up media socket %s: %w", cfg.Addr, err)
	}
	if err := c.openMore(cfg); err != nil {
		c.log.Warn("media socket: it has fewer queues than wanted, which only matters under load", "address", c.local.String(), "queues", len(c.queues), "wanted", cfg.Queues, "error", err)
	}
	for _, q := range c.queues {
		q.openReceiver()
	}
	return nil
}

// bind binds a socket. control is called before that, if it is not nil.
func bind(addr string, control func(network, address string, c syscall.RawConn) error) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: control}
	pc, err := lc.ListenPacket(context.Background(), "udp", addr)
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

// shardCount is the power of two that gives each processor its own shard, up to
// maxShards.
func shardCount() int {
	n := 1
	for n < runtime.GOMAXPROCS(0) && n < maxShards {
		n *= 2
	}
	return n
}

// LocalAddr is the *net.UDPAddr that the sockets are bound to.
func (c *Conn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.local) }

// Port is the UDP port that the sockets are bound to.
func (c *Conn) Port() uint16 { return c.local.Port() }

// isMedia distinguishes RTP and RTCP from other packets by the first byte (RFC 7983).
func isMedia(p []byte) bool { return len(p) > 0 && p[0]&0xc0 == 0x80 }

// WriteToAddrPort sends p to dst: RTP and RTCP with the next flush, other packets at
// once. Errors of batched packets appear only in [Conn.Stats].
func (c *Conn) WriteToAddrPort(p []byte, dst netip.AddrPort) (int, error) {
	if !isMedia(p) {
		return c.writeNow(p, dst)
	}
	if !dst.IsValid() {
		return 0, &net.OpError{Op: "write", Net: "udp", Err: &net.AddrError{Err: "no destination"}}
	}
	s := &c.shards[shardOf(dst, len(c.shards))]
	if len(p) > MaxPacket {
		s.flush(c) // earlier packets are sent first
		return c.writeNow(p, dst)
	}
	begun, err := s.append(c, p, dst)
	if err != nil {
		return 0, &net.OpError{Op: "write", Net: "udp", Err: err}
	}
	if begun {
		c.arm()
	}
	return len(p), nil
}

// writeNow sends one packet and counts it.
func (c *Conn) writeNow(p []byte, dst netip.AddrPort) (int, error) {
	n, err := c.sendOne(p, dst)
	if err != nil {
		c.drop(err, 1)
		return n, err
	}
	c.count.packetsSent.Add(1)
	c.count.bytesSent.Add(uint64(n))
	c.count.sendCalls.Add(1)
	return n, nil
}

// WriteTo is WriteToAddrPort for a net.Addr. It parses addr unless that is a
// *net.UDPAddr.
func (c *Conn) WriteTo(p []byte, addr net.Addr) (int, error) {
	if u, ok := addr.(*net.UDPAddr); ok && u != nil {
		return c.WriteToAddrPort(p, u.AddrPort())
	}
	if addr == nil {
		return 0, &net.OpError{Op: "write", Net: "udp", Err: &net.AddrError{Err: "no destination"}}
	}
	dst, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return 0, &net.OpError{Op: "write", Net: "udp", Addr: addr, Err: err}
	}
	return c.WriteToAddrPort(p, dst)
}

// Flush sends the packets that writers have collected. A writer calls it at the end of
// its packets. It also sends the packets of other writers so far, and does not wait for a
// flush of another goroutine.
func (c *Conn) Flush() {
	flushed := false
	for i := range c.shards {
		if s := &c.shards[i]; s.pending.Load() {
			s.flush(c)
			flushed = true
		}
	}
	if flushed {
		c.disarm()
	}
}

// arm starts the timer of the backstop. A writer calls it after a batch has begun.
func (c *Conn) arm() {
	c.backstopMu.Lock()
	defer c.backstopMu.Unlock()
	if !c.armed {
		c.armed = true
		c.timer.Reset(c.flushAfter)
	}
}

// disarm stops the timer if nothing waits: each run of it wakes the process. A writer
// whose batch begins meanwhile arms it again.
func (c *Conn) disarm() {
	c.backstopMu.Lock()
	defer c.backstopMu.Unlock()
	if c.armed && !c.waits() {
		c.armed = false
		c.timer.Stop()
	}
}

// waits reports whether packets wait for a flush.
func (c *Conn) waits() bool {
	for i := range c.shards {
		if c.shards[i].pending.Load() {
			return true
		}
	}
	return false
}

// runBackstop flushes batches that nobody has flushed in time. The timer runs only after
// a batch has begun, so an idle socket causes no wake-ups.
func (c *Conn) runBackstop() {
	for {
		select {
		case <-c.done:
			return
		case <-c.timer.C:
			c.backstopMu.Lock()
			c.armed = false
			c.backstopMu.Unlock()
			if c.flushResting() {
				c.arm()
			}
		}
	}
}

// flushResting sends the batches that have stopped growing, and reports whether there are
// others.
func (c *Conn) flushResting() (others bool) {
	for i := range c.shards {
		s := &c.shards[i]
		switch {
		case !s.pending.Load():
		case s.growing():
			others = true
		default:
			s.flush(c)
		}
	}
	return others
}

// Queues is the number of queues. All must be read, each by a goroutine of its own, with
// [Conn.ReadQueue].
func (c *Conn) Queues() int { return len(c.queues) }

// ReadFromAddrPort reads a packet of the first queue, as [Conn.ReadQueue] does.
func (c *Conn) ReadFromAddrPort(p []byte) (int, netip.AddrPort, error) { return c.ReadQueue(0, p) }

// ReadFrom is ReadFromAddrPort with a *net.UDPAddr.
func (c *Conn) ReadFrom(p []byte) (int, net.Addr, error) {
	n, src, err := c.ReadFromAddrPort(p)
	if err != nil {
		return n, nil, err
	}
	return n, net.UDPAddrFromAddrPort(src), nil
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *Conn) SetDeadline(t time.Time) error {
	return c.each(func(q *queue) error { return q.socket.SetDeadline(t) })
}

// SetReadDeadline bounds reads, except of packets that were already received.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.each(func(q *queue) error { return q.socket.SetReadDeadline(t) })
}

// SetWriteDeadline bounds writes of unbatched packets; batches never wait long.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.each(func(q *queue) error { return q.socket.SetWriteDeadline(t) })
}

func (c *Conn) each(f func(*queue) error) error {
	errs := make([]error, len(c.queues))
	for i, q := range c.queues {
		errs[i] = f(q)
	}
	return errors.Join(errs...)
}

// Close sends waiting packets, ends the backstop and waits for it, and closes the sockets.
// Reads and writes then fail with net.ErrClosed.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() {
		close(c.done)
		c.backstop.Wait()
		c.timer.Stop()
		for i := range c.shards {
			c.shards[i].close(c)
		}
		c.closeErr = c.each(func(q *queue) error { return q.socket.Close() })
	})
	return c.closeErr
}

func (c *Conn) takeBatch() *sendBatch { return c.batches.Get().(*sendBatch) }

func (c *Conn) giveBatch(b *sendBatch) {
	b.reset()
	c.batches.Put(b)
}
