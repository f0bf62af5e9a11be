package srtpout

import "errors"

// window is how far behind the newest packet one may still be sent first.
const window = 2048

var (
	// errStale: the sequence number is too far behind to know whether it was used.
	errStale = errors.New("sequence number too old for SRTP")
	// errUsed: the index was used for another packet.
	errUsed = errors.New("SRTP index already used")
)

// indices is which packet indices (48 bits: rollover counter and sequence number)
// of an SSRC were used, so that none is used twice.
type indices struct {
	started bool
	newest  uint64
	used    [window / 64]uint64 // by index modulo window
	// digests are of the newest packets and their indices, by index; nil where none is
	// sent again. There are a power of two, at most window.
	digests []uint64
}

// resume goes on after a stream whose last index is known.
func (x *indices) resume(last uint64) {
	x.started, x.newest = true, last
	for i := range x.used {
		x.used[i] = ^uint64(0)
	}
}

// index is the index that a sequence number means: the one nearest to the newest
// (RFC 3711 3.3.1).
func (x *indices) index(seq uint16) (uint64, error) {
	if !x.started {
		return uint64(seq), nil
	}
	delta := int64(int16(seq - uint16(x.newest)))
	i := int64(x.newest) + delta
	if i < 0 {
		return 0, errStale // before the first; its rollover counter would be negative
	}
	return uint64(i), nil
}

// take marks an index as used for a packet with that digest.
func (x *indices) take(i, digest uint64) error {
	switch {
	case !x.started:
		x.started, x.newest = true, i
	case i > x.newest:
		for j := x.newest + 1; j < i && j <= x.newest+window; j++ {
			x.clear(j)
		}
		x.newest = i
	case x.newest-i >= window:
		return errStale
	case x.used[i%window/64]&(1<<(i%64)) != 0:
		if d := x.digest(i); d != nil && *d == digest {
			return nil
		}
		return errUsed
	}
	x.used[i%window/64] |= 1 << (i % 64)
	if d := x.digest(i); d != nil {
		*d = digest
	}
	return nil
}

// digest is where the digest of an index stands, nil if none is kept.
func (x *indices) digest(i uint64) *uint64 {
	if len(x.digests) == 0 {
		return nil
	}
	return &x.digests[i&uint64(len(x.digests)-1)]
}

func (x *indices) clear(i uint64) { x.used[i%window/64] &^= 1 << (i % 64) }
