package udp

import (
	"net/netip"
)

// Limits of a batch.
const (
	// arenaSize bounds a batch's bytes: about 15 destinations with a video frame
	// each, past which a longer sendmmsg gains nothing, and well within the
	// second-level cache.
	arenaSize = 128 << 10
	// maxSegments bounds a batch's packets. It matters for audio.
	maxSegments = 512
	// MaxPacket is the longest packet that is batched, in bytes. Longer ones
	// leave at once; RTP over the Internet stays below 1500.
	MaxPacket = 2048

	// runSegments is UDP_MAX_SEGMENTS of the kernels up to 6.8; later ones take 128.
	runSegments = 64
	// runBytes keeps a run below the 65507 bytes of a UDP datagram over IPv4.
	runBytes = 65000
)

// segment is one packet in the arena.
type segment struct {
	off, len int32
	next     int32 // the run's next segment, or -1
}

// run is consecutive packets to one destination that may leave as one message.
type run struct {
	dst         netip.AddrPort
	size        int32 // of every packet but the last
	first, last int32 // segments
	count       int32
	bytes       int32
	closed      bool // the last is shorter: nothing may follow
}

// sendBatch collects packets into runs. It is not safe for concurrent use.
type sendBatch struct {
	arena []byte
	used  int
	segs  []segment
	runs  []run
	// newest is each destination's newest run.
	newest map[netip.AddrPort]int32
	// lastDst and lastRun save the map where packets come destination by destination.
	lastDst netip.AddrPort
	lastRun int32

	out scratch // what the system call needs, see send_linux.go
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

// reserve gives n bytes at the end of the arena, or nil when the batch is full.
// They count only when committed.
func (b *sendBatch) reserve(n int) []byte {
	if n > len(b.arena)-b.used || len(b.segs) == maxSegments {
		return nil
	}
	return b.arena[b.used : b.used+n : b.used+n]
}

// commit makes the n bytes that follow what is used a packet to dst.
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

// runTo is the newest run to dst, or -1.
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

// takes tells whether a packet of n bytes may follow in the run.
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

// Batch is a batch in the making that belongs to one goroutine, which writes packets
// in place and calls [Batch.Flush] after the last one. It holds memory only while it
// holds packets. It is not safe for concurrent use and has no backstop: packets that
// are not flushed stay.
type Batch struct {
	conn *Conn
	b    *sendBatch
}

// NewBatch makes an empty batch that sends over c. Any number may exist.
func (c *Conn) NewBatch() *Batch { return &Batch{conn: c} }

// Reserve gives room for a packet of at most n bytes; what the batch holds leaves
// first if there is no room. The slice is valid until the next call; [Batch.Commit]
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
		t.conn.send(t.b)
		t.b.reset()
		p = t.b.reserve(n)
	}
	return p
}

// Commit makes the first n bytes of what Reserve gave the next packet to dst. n
// must not exceed what was reserved.
func (t *Batch) Commit(dst netip.AddrPort, n int) {
	if t.b == nil || n <= 0 || n > MaxPacket || n > len(t.b.arena)-t.b.used {
		return
	}
	t.b.commit(dst, n)
}

// Flush sends what the batch holds. What cannot be sent is dropped and counted
// in the Conn's [Stats].
func (t *Batch) Flush() {
	if t.b == nil {
		return
	}
	if !t.b.empty() {
		t.conn.send(t.b)
	}
	t.conn.giveBatch(t.b)
	t.b = nil
}
