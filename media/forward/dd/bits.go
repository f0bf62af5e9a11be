package dd

// reader reads bits, the most significant first. After a read past the end failed is
// true, and every value is 0.
type reader struct {
	buf    []byte
	pos    int // in bits
	failed bool
}

// bits is f(n) of the specification, n <= 32.
func (r *reader) bits(n int) uint32 {
	if r.failed || r.pos+n > len(r.buf)*8 {
		r.failed = true
		return 0
	}
	var v uint32
	for range n {
		v = v<<1 | uint32(r.buf[r.pos>>3]>>(7-r.pos&7)&1)
		r.pos++
	}
	return v
}

func (r *reader) flag() bool { return r.bits(1) == 1 }

// nonSymmetric is ns(n) of the specification: a value below n.
func (r *reader) nonSymmetric(n uint32) uint32 {
	w := 0
	for x := n; x != 0; x >>= 1 {
		w++
	}
	m := uint32(1)<<w - n
	v := r.bits(w - 1)
	if v < m {
		return v
	}
	return v<<1 - m + r.bits(1)
}

// writer appends bits to buf, the most significant first.
type writer struct {
	buf []byte
	pos int // bits used of buf
}

func (w *writer) bits(v uint32, n int) {
	for i := n - 1; i >= 0; i-- {
		if w.pos&7 == 0 {
			w.buf = append(w.buf, 0)
		}
		w.buf[len(w.buf)-1] |= byte(v>>i&1) << (7 - w.pos&7)
		w.pos++
	}
}

// copy appends the bits [from, to) of src.
func (w *writer) copy(src []byte, from, to int) {
	for i := from; i < to; i++ {
		w.bits(uint32(src[i>>3]>>(7-i&7)&1), 1)
	}
}
