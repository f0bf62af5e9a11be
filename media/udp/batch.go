package udp

import (
	"net/netip"
)

// Limits of a batch.
const (
	// arenaSize bounds a batch's bytes: about 15 destinations with a video frame each. A
	// longer sendmmsg gains nothing, and this size fits the second-level cache.
	arenaSize = 128 << 10
	// maxSegments bounds a batch's packets. It is reached only with audio.
	maxSegments = 512
	// MaxPacket is the length of the longest packet that is batched, in bytes. Longer
	// packets are sent at once. RTP over the Internet stays below 1500.
	MaxPacket = 2048

	// runSegments is UDP_MAX_SEGMENTS of kernels up to 6.8; later kernels allow 128.
	runSegments = 64
	// runBytes keeps a run below the 65507 bytes of a UDP datagram over IPv4.
	runBytes = 65000
)

// segment is one packet in the arena.
type segment struct {
	off, len int32
	next     int32 // the run's next segment, or -1
}

// run is consecutive packets to one destination that can be sent as one message.
type run struct {
	dst         netip.AddrPort
	size        int32 // of every packet but the last one
	first, last int32 // segments
	count       int32
	bytes       int32
	closed      bool // the last packet is shorter: no packet may follow
}

// sendBatch collects packets into runs. It is not safe for concurrent use.
type sendBatch struct {
	arena []byte
	used  int
	segs  []segment
	runs  []run
	// newest is each destination's newest run.
	newest map[netip.AddrPort]int32
	// lastDst and lastRun avoid a map look-up when packets come destination by
	// destination.
	lastDst netip.AddrPort
	lastRun int32

	out scratch // buffers for the system call, see send_linux.go
}

func newSendBatch() *sendBatch {
	return &sendBatch{
		arena:   make([]byte, arenaSize),
		segs:    make([]segment, 0, maxSegments),
		runs:    make([]run, 0, 64),
		newest:  make(map[netip.AddrPort]int32, 64),
		lastRun: -1,
	}
}

// reserve returns n bytes at the end of the arena, or nil if the batch is full. They are
// used only after commit.
func (b *sendBatch) reserve(n int) []byte {
	if n > len(b.arena)-b.used || len(b.segs) == maxSegments {
		return nil
	}
	return b.arena[b.used : b.used+n : b.used+n]
}

// commit makes the next n bytes of the arena a packet to dst.
func (b *sendBatch) commit(dst netip.AddrPort, n int) {
	i := int32(len(b.segs))
	b.segs = append(b.segs, segment{off: int32(b.used), len: int32(n), next: -1})
	b.used += n

	r := b.runTo(dst)
	if r >= 0 && b.runs[r].takes(int32(n)) {
		p := &b.runs[r]
		b.segs[p.last].next = i
		p.last = i
		p.count++
		p.bytes += int32(n)
		p.closed = int32(n) < p.size
		return
	}
	b.runs = append(b.runs, run{
		dst: dst, size: int32(n), first: i, last: i, count: 1, bytes: int32(n),
	})
	b.lastDst, b.lastRun = dst, int32(len(b.runs)-1)
	b.newest[dst] = b.lastRun
}

// runTo is the newest run to dst; -1 if there is none.
func (b *sendBatch) runTo(dst netip.AddrPort) int32 {
	if b.lastRun >= 0 && b.lastDst == dst {
		return b.lastRun
	}
	r, ok := b.newest[dst]
	if !ok {
		return -1
	}
	b.lastDst, b.lastRun = dst, r
	return r
}

// takes reports whether a packet of n bytes may be added to the run.
func (r *run) takes(n int32) bool {
	return !r.closed && n <= r.size && r.count < runSegments && r.bytes+n <= runBytes
}

func (b *sendBatch) packet(i int32) []byte {
	s := b.segs[i]
	return b.arena[s.off : s.off+s.len]
}

func (b *sendBatch) empty() bool { return len(b.segs) == 0 }

func (b *sendBatch) reset() {
	b.used = 0
	b.segs = b.segs[:0]
	b.runs = b.runs[:0]
	clear(b.newest)
	b.lastDst, b.lastRun = netip.AddrPort{}, -1
}

// Batch is a batch of one goroutine, which writes packets in place and calls
// [Batch.Flush] after the last one. It holds memory only while it holds packets. It is
// not safe for concurrent use, and has no backstop: packets wait until they are flushed.
type Batch struct {
	conn *Conn
	b    *sendBatch
}

// NewBatch makes an empty batch that sends over c. Any number may exist.
func (c *Conn) NewBatch() *Batch { return &Batch{conn: c} }

// Reserve returns room for a packet of at most n bytes. If there is no room, it first
// sends the packets of the batch. The slice is valid until the next call; [Batch.Commit]
// makes its beginning a packet. It returns nil if n is more than [MaxPacket].
func (t *Batch) Reserve(n int) []byte {
	if n > MaxPacket || n < 0 {
		return nil
	}
	if t.b == nil {
		t.b = t.conn.takeBatch()
	}
	p := t.b.reserve(n)
	if p == nil {
		t.conn.send(t.b, t.conn.queues[0])
		t.b.reset()
		p = t.b.reserve(n)
	}
	return p
}

// Commit makes the first n bytes of the reserved slice a packet to dst. n must not exceed
// the reserved length.
func (t *Batch) Commit(dst netip.AddrPort, n int) {
	if t.b == nil || n <= 0 || n > MaxPacket || n > len(t.b.arena)-t.b.used {
		return
	}
	t.b.commit(dst, n)
}

// Flush sends the packets of the batch. Packets that cannot be sent are dropped and
// counted in the Conn's [Stats].
func (t *Batch) Flush() {
	if t.b == nil {
		return
	}
	if !t.b.empty() {
		t.conn.send(t.b, t.conn.queues[0])
	}
	t.conn.giveBatch(t.b)
	t.b = nil
}
