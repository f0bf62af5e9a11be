package packet

// Ring remembers the last packets of one stream by their extended sequence numbers. It is
// not safe for concurrent use.
type Ring struct {
	slots []*Packet
	mask  int64
	held  int
}

// NewRing makes a ring for at least size packets.
func NewRing(size int) *Ring {
	n := 1
	for n < size {
		n <<= 1
	}
	return &Ring{slots: make([]*Packet, n), mask: int64(n - 1)}
}

// Len is the number of packets that the ring can hold.
func (r *Ring) Len() int { return len(r.slots) }

// Put holds p in place of the packet Len numbers before it. It returns false if the ring
// has p already, or a newer packet in its place.
func (r *Ring) Put(p *Packet) bool {
	slot := &r.slots[p.Ext&r.mask]
	if old := *slot; old != nil {
		if old.Ext >= p.Ext {
			return false
		}
		old.Release()
		r.held--
	}
	r.held++
	p.Retain()
	*slot = p
	return true
}

// Get returns the packet with that extended sequence number, retained for the caller; or
// nil.
func (r *Ring) Get(ext int64) *Packet {
	p := r.slots[ext&r.mask]
	if p == nil || p.Ext != ext {
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
	r.held = 0
	for i, p := range r.slots {
		if p != nil {
			p.Release()
			r.slots[i] = nil
		}
	}
}
