package udp

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// shard is the shared batch of the destinations that hash to it.
//
// It has two locks, because a writer that only appends must not wait while a batch is
// handed to the kernel. sendMu is taken before mu.
type shard struct {
	queue *queue // the one that its batches leave by

	// sendMu is held from the taking of the batch until the kernel has it, so that
	// batches are sent in the order in which they were filled.
	sendMu sync.Mutex

	// mu guards the following.
	mu     sync.Mutex
	cur    *sendBatch // nil while no packet waits
	closed bool
	seen   int // packets of cur at the backstop's last look
	looks  int // of the backstop at cur

	// pending is cur != nil, readable without the lock.
	pending atomic.Bool

	_ [64]byte // so that neighbours do not share a cache line
}

// append adds p to dst's run. begun reports whether the shard was empty.
func (s *shard) append(c *Conn, p []byte, dst netip.AddrPort) (begun bool, err error) {
	s.mu.Lock()
	for {
		if s.closed {
			s.mu.Unlock()
			return false, net.ErrClosed
		}
		if s.cur == nil {
			s.cur = c.takeBatch()
			s.pending.Store(true)
			s.seen, s.looks = 0, 0
			begun = true
		}
		if room := s.cur.reserve(len(p)); room != nil {
			copy(room, p)
			s.cur.commit(dst, len(p))
			s.mu.Unlock()
			return begun, nil
		}
		s.mu.Unlock()
		s.flush(c)
		s.mu.Lock()
	}
}

// flush sends the waiting packets.
func (s *shard) flush(c *Conn) {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	if b := s.take(); b != nil {
		c.send(b, s.queue)
		c.giveBatch(b)
	}
}

func (s *shard) take() *sendBatch {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.cur
	s.cur = nil
	s.pending.Store(false)
	return b
}

// maxLooks is how often the backstop may find a batch growing before it sends the batch
// all the same.
const maxLooks = 4

// growing reports whether the batch has grown since the last call. Then its writer is at
// work and should flush it, so that its runs are not cut short.
func (s *shard) growing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur == nil || s.looks == maxLooks || len(s.cur.segs) == s.seen {
		return false
	}
	s.seen = len(s.cur.segs)
	s.looks++
	return true
}

// close sends the waiting packets and refuses further ones.
func (s *shard) close(c *Conn) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.flush(c)
}

// shardOf spreads destinations over n shards. Clients differ in the low bytes of the
// address and in the port.
func shardOf(dst netip.AddrPort, n int) int {
	a := dst.Addr().As16()
	h := uint32(dst.Port()) * 0x9e3779b1
	h ^= (uint32(a[12])<<24 | uint32(a[13])<<16 | uint32(a[14])<<8 | uint32(a[15])) * 0x85ebca6b
	h ^= (uint32(a[4])<<24 | uint32(a[5])<<16 | uint32(a[6])<<8 | uint32(a[7])) * 0xc2b2ae35
	h ^= h >> 15
	return int(h) & (n - 1)
}
