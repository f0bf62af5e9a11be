package srtpin

// ReplayWindow is how far behind the newest packet of a stream one may come and is still
// taken, once, in packets (RFC 3711 3.3.2). Package forward remembers as many. It is less
// than what package reception takes for a restart of the stream: old packets that are
// replayed do not look like one.
const ReplayWindow = 512

// Window tells which packets of one SSRC have come, by their indices of 48 bits: rollover
// counter and sequence number. The zero value has seen nothing. It is not safe for
// concurrent use.
type Window struct {
	started bool
	newest  uint64
	seen    [ReplayWindow / 64]uint64 // by index modulo ReplayWindow
}

// Index is the index that a sequence number means: the one nearest to the newest (RFC 3711
// 3.3.1), and never one below zero.
func (w *Window) Index(seq uint16) uint64 {
	if !w.started {
		return uint64(seq)
	}
	i := int64(w.newest) + int64(int16(seq-uint16(w.newest)))
	if i < 0 {
		i += 1 << 16
	}
	return uint64(i)
}

// Fresh reports whether the packet of an index may be taken: none with that index has come,
// and it is not too old for that to be known.
func (w *Window) Fresh(i uint64) bool {
	switch {
	case i >= 1<<48:
		return false // the keys are used up (RFC 3711 9.2)
	case !w.started || i > w.newest:
		return true
	case w.newest-i >= ReplayWindow:
		return false
	}
	return w.seen[i%ReplayWindow/64]&(1<<(i%64)) == 0
}

// Take notes an authentic packet. It reports false if the packet may not be taken (see
// Fresh).
func (w *Window) Take(i uint64) bool {
	if !w.Fresh(i) {
		return false
	}
	if !w.started {
		w.started, w.newest = true, i
	}
	if i > w.newest {
		if i-w.newest >= ReplayWindow {
			w.seen = [ReplayWindow / 64]uint64{}
		} else {
			for j := w.newest + 1; j < i; j++ {
				w.seen[j%ReplayWindow/64] &^= 1 << (j % 64)
			}
		}
		w.newest = i
	}
	w.seen[i%ReplayWindow/64] |= 1 << (i % 64)
	return true
}
