package srtpout

import "errors"

// window is how many packets behind the newest one a packet may be sent for the first
// time. Where packets are repeated it may be fewer, down to leastWindow.
const (
	window      = 2048
	leastWindow = 128
)

var (
	// errStale: the sequence number is so old that it is unknown whether it was used.
	errStale = errors.New("sequence number too old for SRTP")
	// errUsed: the index was used for another packet.
	errUsed = errors.New("SRTP index already used")
)

// indices are the used packet indices of an SSRC (48 bits: rollover counter and sequence
// number), kept so that none is used twice.
type indices struct {
	started bool
	newest  uint64
	used    []uint64 // by index modulo its bits, a power of two; nil before the first
	// digests are digests of the newest packets with their indices, by index; nil if
	// packets are not repeated. Their number is a power of two, at most window.
	digests []uint64
}

// repeats has digests of that many packets remembered, and a window of twice as many: no
// packet comes later for the first time than it could be repeated.
func (x *indices) repeats(packets int) {
	x.digests = make([]uint64, min(packets, window))
	x.begin(min(max(2*packets, leastWindow), window))
}

// begin makes a window of so many packets. If there have been some, it knows none of them
// for unused.
func (x *indices) begin(packets int) {
	x.used = make([]uint64, packets/64)
	if x.started {
		for i := range x.used {
			x.used[i] = ^uint64(0)
		}
	}
}

// resume continues after a stream whose last index is known.
func (x *indices) resume(last uint64) {
	x.started, x.newest = true, last
	x.begin(window)
}

// index is the index for a sequence number: the one nearest to the newest (RFC 3711,
// section 3.3.1).
func (x *indices) index(seq uint16) (uint64, error) {
	if !x.started {
		return uint64(seq), nil
	}
	delta := int64(int16(seq - uint16(x.newest)))
	i := int64(x.newest) + delta
	if i < 0 {
		return 0, errStale // before the first packet, where the rollover counter would be negative
	}
	return uint64(i), nil
}

// take marks an index as used for a packet with that digest.
func (x *indices) take(i, digest uint64) error {
	if x.used == nil {
		x.begin(window)
	}
	bits := uint64(len(x.used)) * 64
	switch {
	case !x.started:
		x.started, x.newest = true, i
	case i > x.newest:
		for j := x.newest + 1; j < i && j <= x.newest+bits; j++ {
			x.clear(j)
		}
		x.newest = i
	case x.newest-i >= bits:
		return errStale
	case *x.word(i)&(1<<(i%64)) != 0:
		if d := x.digest(i); d != nil && *d == digest {
			return nil
		}
		return errUsed
	}
	*x.word(i) |= 1 << (i % 64)
	if d := x.digest(i); d != nil {
		*d = digest
	}
	return nil
}

// digest is the slot for the digest of an index; nil if none is kept.
func (x *indices) digest(i uint64) *uint64 {
	if len(x.digests) == 0 {
		return nil
	}
	return &x.digests[i&uint64(len(x.digests)-1)]
}

func (x *indices) clear(i uint64) { *x.word(i) &^= 1 << (i % 64) }

// word has the bit of an index, its lowest six bits.
func (x *indices) word(i uint64) *uint64 { return &x.used[i/64&uint64(len(x.used)-1)] }
