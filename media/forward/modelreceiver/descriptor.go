package modelreceiver

import "errors"

var errDescriptor = errors.New("dependency descriptor that cannot be read")

// descriptor is a dependency descriptor with the fields that a receiver needs (RTP
// payload format for AV1, appendix A). It is parsed independently of package dd, so that
// the tests do not share the mistakes of the forwarder.
type descriptor struct {
	first, last       bool
	number            uint16
	spatial, temporal int
	diffs             []int
	attached          *structure
}

type structure struct {
	offset    int
	targets   int
	chains    int
	templates []template
}

type template struct {
	spatial, temporal int
	diffs             []int
}

// bits reads bits, the most significant first. Past the end it reads zeros and sets
// failed.
type bits struct {
	b      []byte
	at     int
	failed bool
}

func (r *bits) read(n int) (v int) {
	for range n {
		if r.at >= 8*len(r.b) {
			r.failed = true
			return 0
		}
		v = v<<1 | int(r.b[r.at/8]>>(7-r.at%8)&1)
		r.at++
	}
	return v
}

// nonSymmetric is ns(n) of the AV1 specification, section 4.10.7.
func (r *bits) nonSymmetric(n int) int {
	w := 0
	for x := n; x != 0; x >>= 1 {
		w++
	}
	m := 1<<w - n
	v := r.read(w - 1)
	if v < m {
		return v
	}
	return v<<1 - m + r.read(1)
}

// parseDescriptor parses b with the structure in force, or with the one in b.
func parseDescriptor(b []byte, s *structure) (d descriptor, err error) {
	r := &bits{b: b}
	d.first, d.last = r.read(1) == 1, r.read(1) == 1
	id := r.read(6)
	d.number = uint16(r.read(16))
	var active, targets, diffs, chains bool
	if len(b) > 3 {
		attached := r.read(1) == 1
		active, targets, diffs, chains = r.read(1) == 1, r.read(1) == 1, r.read(1) == 1, r.read(1) == 1
		if attached {
			s = parseStructure(r)
			d.attached = s
		}
	}
	if s == nil || r.failed {
		return d, errDescriptor
	}
	if active {
		r.read(s.targets)
	}
	index := (id + 64 - s.offset) % 64
	if index >= len(s.templates) {
		return d, errDescriptor
	}
	t := s.templates[index]
	d.spatial, d.temporal, d.diffs = t.spatial, t.temporal, t.diffs
	if targets {
		r.read(2 * s.targets)
	}
	if diffs {
		d.diffs = nil
		for size := r.read(2); size != 0 && !r.failed; size = r.read(2) {
			d.diffs = append(d.diffs, r.read(4*size)+1)
		}
	}
	if chains {
		r.read(8 * s.chains)
	}
	if r.failed {
		return d, errDescriptor
	}
	return d, nil
}

func parseStructure(r *bits) *structure {
	s := &structure{offset: r.read(6), targets: r.read(5) + 1}
	var spatial, temporal int
	for next := 0; next != 3 && !r.failed && len(s.templates) < 64; {
		s.templates = append(s.templates, template{spatial: spatial, temporal: temporal})
		switch next = r.read(2); next {
		case 1:
			temporal++
		case 2:
			spatial, temporal = spatial+1, 0
		}
	}
	r.read(2 * s.targets * len(s.templates))
	for i := range s.templates {
		for r.read(1) == 1 {
			s.templates[i].diffs = append(s.templates[i].diffs, r.read(4)+1)
		}
	}
	if s.chains = r.nonSymmetric(s.targets + 1); s.chains > 0 {
		for range s.targets {
			r.nonSymmetric(s.chains)
		}
		r.read(4 * s.chains * len(s.templates))
	}
	if r.read(1) == 1 {
		layers := s.templates[len(s.templates)-1].spatial + 1
		r.read(32 * layers)
	}
	return s
}
