package packet

import "time"

// Ring remembers the last packets of one stream by their extended sequence numbers. It is
// bounded in number, and in time, so that a slow stream does not hold more memory than a
// fast one. It is not safe for concurrent use.
type Ring struct {
	slots []*Packet
	mask  int64
	keep  int64 // ns
	held  int
	// first is at most the lowest number that it holds. Numbers below oldest have been
	// released for their age, and are not taken any more.
	first, oldest int64
}

// NewRing makes a ring for at least size packets, none of which is kept for much longer
// than keep after it arrived.
func NewRing(size int, keep time.Duration) *Ring {
	n := 1
	for n < size {
		n <<= 1
	}
	return &Ring{slots: make([]*Packet, n), mask: int64(n - 1), keep: int64(keep)}
}

// Len is the number of packets that the ring can hold.
func (r *Ring) Len() int { return len(r.slots) }

// Held is the number of packets that the ring holds.
func (r *Ring) Held() int { return r.held }

// Put holds p in place of the packet Len numbers before it, and releases the packets that
// arrived too long before p. It returns false if the ring has p already, or p is too old
// for it.
func (r *Ring) Put(p *Packet) bool {
	if r.held == 0 {
		r.first, r.oldest = p.Ext, p.Ext-r.mask
	}
	slot := &r.slots[p.Ext&r.mask]
	if p.Ext < r.oldest || *slot != nil && (*slot).Ext >= p.Ext {
		return false
	}
	r.release(slot)
	r.held++
	p.Retain()
	*slot = p
	r.first = min(r.first, p.Ext)
	if p.Ext-r.first > 2*r.mask { // the numbers have jumped: what is held is looked for by its place
		r.releaseBefore(p.Ext - r.mask)
	}
	for ; r.first < p.Ext; r.first++ {
		old := &r.slots[r.first&r.mask]
		if *old == nil || (*old).Ext != r.first {
			continue
		}
		if p.Arrival-(*old).Arrival <= r.keep && p.Ext-r.first <= r.mask {
			break
		}
		r.release(old)
		r.oldest = r.first + 1
	}
	return true
}

// releaseBefore releases all packets below a number.
func (r *Ring) releaseBefore(ext int64) {
	for i := range r.slots {
		if p := r.slots[i]; p != nil && p.Ext < ext {
			r.release(&r.slots[i])
		}
	}
	r.first, r.oldest = ext, max(r.oldest, ext)
}

func (r *Ring) release(slot **Packet) {
	if *slot != nil {
		(*slot).Release()
		*slot = nil
		r.held--
	}
}

// Get returns the packet with that extended sequence number, retained for the caller; or
// nil. The number's lower 32 bits are enough to tell the packets that a ring holds.
func (r *Ring) Get(ext uint32) *Packet {
	p := r.slots[int64(ext)&r.mask]
	if p == nil || uint32(p.Ext) != ext {
		return nil
	}
	p.Retain()
	return p
}

// Replace puts p in place of the packet with the same number, which the ring must hold.
func (r *Ring) Replace(p *Packet) {
	slot := &r.slots[p.Ext&r.mask]
	p.Retain()
	(*slot).Release()
	*slot = p
}

// Clear releases every packet.
func (r *Ring) Clear() {
	if r.held == 0 {
		return
	}
	for i := range r.slots {
		r.release(&r.slots[i])
	}
}
