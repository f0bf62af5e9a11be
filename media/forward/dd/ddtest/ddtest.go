// Package ddtest writes dependency descriptors for tests.
package ddtest

// Template is a frame dependency template.
type Template struct {
	Spatial, Temporal uint8
	// Targets has a character per decode target: '-' not present, 'D'
	// discardable, 'S' switch, 'R' required.
	Targets string
	Diffs   []int
	Chains  []int
}

// Structure is a template dependency structure.
type Structure struct {
	IDOffset  uint8
	Templates []Template // ordered by spatial, then temporal layer
	// ChainOf is the chain that protects each decode target; empty = no chains.
	ChainOf     []int
	Resolutions [][2]int
}

// Frame is what a descriptor says.
type Frame struct {
	Start, End bool
	Template   int
	Number     uint16
	// Structure: attach it.
	Structure bool
	// Active is the mask of active decode targets, -1 = not told.
	Active int
	// Custom values instead of the template's; nil = as in the template.
	Targets string
	Diffs   []int
	Chains  []int
}

// Encode is the descriptor of f.
func (s *Structure) Encode(f Frame) []byte {
	w := &writer{}
	w.flag(f.Start)
	w.flag(f.End)
	w.bits((f.Template+int(s.IDOffset))&63, 6)
	w.bits(int(f.Number), 16)
	if !f.Structure && f.Active < 0 && f.Targets == "" && f.Diffs == nil && f.Chains == nil {
		return w.buf
	}
	w.flag(f.Structure)
	w.flag(f.Active >= 0)
	w.flag(f.Targets != "")
	w.flag(f.Diffs != nil)
	w.flag(f.Chains != nil)
	if f.Structure {
		s.encode(w)
	}
	if f.Active >= 0 {
		w.bits(f.Active, len(s.Templates[0].Targets))
	}
	w.targets(f.Targets)
	if f.Diffs != nil {
		for _, d := range f.Diffs {
			w.bits(3, 2)
			w.bits(d-1, 12)
		}
		w.bits(0, 2)
	}
	for _, c := range f.Chains {
		w.bits(c, 8)
	}
	return w.buf
}

func (s *Structure) encode(w *writer) {
	targets := len(s.Templates[0].Targets)
	w.bits(int(s.IDOffset), 6)
	w.bits(targets-1, 5)
	for i, t := range s.Templates {
		switch {
		case i+1 == len(s.Templates):
			w.bits(3, 2)
		case s.Templates[i+1].Spatial != t.Spatial:
			w.bits(2, 2)
		case s.Templates[i+1].Temporal != t.Temporal:
			w.bits(1, 2)
		default:
			w.bits(0, 2)
		}
	}
	for _, t := range s.Templates {
		w.targets(t.Targets)
	}
	for _, t := range s.Templates {
		for _, d := range t.Diffs {
			w.bits(1, 1)
			w.bits(d-1, 4)
		}
		w.bits(0, 1)
	}
	s.encodeChains(w, targets)
	w.flag(len(s.Resolutions) > 0)
	for _, r := range s.Resolutions {
		w.bits(r[0]-1, 16)
		w.bits(r[1]-1, 16)
	}
}

func (s *Structure) encodeChains(w *writer, targets int) {
	chains := len(s.Templates[0].Chains)
	w.nonSymmetric(chains, targets+1)
	if chains == 0 {
		return
	}
	for _, c := range s.ChainOf {
		w.nonSymmetric(c, chains)
	}
	for _, t := range s.Templates {
		for _, c := range t.Chains {
			w.bits(c, 4)
		}
	}
}

type writer struct {
	buf []byte
	pos int
}

func (w *writer) bits(v, n int) {
	for i := n - 1; i >= 0; i-- {
		if w.pos&7 == 0 {
			w.buf = append(w.buf, 0)
		}
		w.buf[len(w.buf)-1] |= byte(v>>i&1) << (7 - w.pos&7)
		w.pos++
	}
}

func (w *writer) flag(v bool) {
	if v {
		w.bits(1, 1)
		return
	}
	w.bits(0, 1)
}

func (w *writer) targets(s string) {
	for _, c := range s {
		switch c {
		case '-':
			w.bits(0, 2)
		case 'D':
			w.bits(1, 2)
		case 'S':
			w.bits(2, 2)
		default:
			w.bits(3, 2)
		}
	}
}

// nonSymmetric is ns(n) of the AV1 specification, 4.10.7.
func (w *writer) nonSymmetric(v, n int) {
	bits := 0
	for x := n; x != 0; x >>= 1 {
		bits++
	}
	m := 1<<bits - n
	if v < m {
		w.bits(v, bits-1)
		return
	}
	w.bits((v+m)>>1, bits-1)
	w.bits((v+m)&1, 1)
}

// L2T2Key is a structure with two spatial layers, where the upper one depends on
// the lower one at key frames only, and two temporal layers. Frames are numbered
// S0T0, S1T0, S0T1, S1T1 and so on. Decode targets: S0T0, S0T1, S1T0, S1T1.
func L2T2Key() *Structure {
	return &Structure{
		IDOffset: 60, // so that template ids wrap around
		Templates: []Template{
			{0, 0, "SSSS", nil, []int{0, 0}},      // key
			{0, 0, "SS--", []int{4}, []int{4, 3}}, // 4, 8, …
			{0, 1, "-D--", []int{2}, []int{2, 1}}, // 2, 6, …
			{1, 0, "--SS", []int{1}, []int{1, 1}}, // key
			{1, 0, "--SS", []int{4}, []int{1, 4}}, // 5, 9, …
			{1, 1, "---D", []int{2}, []int{3, 2}}, // 3, 7, …
		},
		ChainOf:     []int{0, 0, 1, 1},
		Resolutions: [][2]int{{320, 180}, {640, 360}},
	}
}
