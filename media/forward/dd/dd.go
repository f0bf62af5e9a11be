// Package dd parses the dependency descriptor, the RTP header extension that shows a
// forwarder which frames it may leave out (RTP payload format for AV1, appendix A).
package dd

import "errors"

// Limits of the format.
const (
	MaxTargets   = 32
	maxTemplates = 64
	maxSpatial   = 3
	maxTemporal  = 7
)

// AllTargets is the mask of all decode targets of any structure.
const AllTargets = 1<<MaxTargets - 1

// Errors of [Frame.Parse].
var (
	ErrShort       = errors.New("dependency descriptor ends early")
	ErrInvalid     = errors.New("invalid dependency descriptor")
	ErrNoStructure = errors.New("dependency descriptor before its structure")
)

// Indication is the role of a frame in a decode target.
type Indication uint8

// The decode target indications.
const (
	NotPresent  Indication = iota // not in the target
	Discardable                   // no frame of the target depends on it
	Switch                        // no later frame of the target depends on a frame before it
	Required                      // needed
)

// Target is a decode target: a set of layers that a receiver can decode.
type Target struct {
	Spatial, Temporal uint8
	// Chain is the index of the chain that protects the target; -1 for none.
	Chain int8
}

// Resolution is a spatial layer's largest size in pixels.
type Resolution struct{ Width, Height uint32 }

type template struct{ spatial, temporal uint8 }

// Structure is the template structure, which a keyframe carries for the frames that
// follow. It does not change once parsed.
type Structure struct {
	Targets     []Target
	Chains      int
	Resolutions []Resolution // by spatial id; empty when not told
	MaxSpatial  uint8
	MaxTemporal uint8

	idOffset    uint8
	templates   []template
	indications []Indication // by template and target
	chainDiffs  []uint8      // by template and chain
}

// template is the indications and the chain diffs of the template with that index.
func (s *Structure) template(i int) (indications []Indication, chainDiffs []uint8) {
	return s.indications[i*len(s.Targets) : (i+1)*len(s.Targets)], s.chainDiffs[i*s.Chains : (i+1)*s.Chains]
}

// Frame is the descriptor of one packet, completed from the structure.
type Frame struct {
	Start, End bool
	// Number is the frame number, modulo 2^16.
	Number            uint16
	Spatial, Temporal uint8
	// Indications are by decode target. ChainDiffs are by chain: how many frames ago the
	// chain's previous frame was; 0 = the chain begins here.
	Indications [MaxTargets]Indication
	ChainDiffs  [MaxTargets]uint8
	// Structure is the one with which the descriptor was parsed. NewStructure: this
	// packet carried it, so it belongs to a keyframe.
	Structure    *Structure
	NewStructure bool
	// Active is the mask of active decode targets. Without HasActive the packet does not
	// carry the mask, and Parse sets all of them.
	Active    uint32
	HasActive bool

	extended bool // five flags follow the mandatory fields
	maskAt   int  // bit position at which the mask is, or would be
}

// Parse parses the descriptor in b with the structure in force (nil: there is none yet).
// It allocates only if b carries a new structure.
func (f *Frame) Parse(b []byte, s *Structure) error {
	if len(b) < 3 {
		return ErrShort
	}
	r := reader{buf: b}
	*f = Frame{Structure: s}
	f.Start, f.End = r.flag(), r.flag()
	id := uint8(r.bits(6))
	f.Number = uint16(r.bits(16))
	var customDTIs, customDiffs, customChains bool
	if f.maskAt = 24; len(b) > 3 {
		f.extended = true
		f.NewStructure, f.HasActive = r.flag(), r.flag()
		customDTIs, customDiffs, customChains = r.flag(), r.flag(), r.flag()
		if f.NewStructure {
			fresh := &Structure{}
			if err := fresh.parse(&r); err != nil {
				return err
			}
			f.Structure = fresh
		}
		f.maskAt = r.pos
	}
	if f.Structure == nil {
		return ErrNoStructure
	}
	if f.HasActive {
		f.Active = r.bits(len(f.Structure.Targets))
	} else {
		f.Active = f.Structure.all()
	}
	index := int((id + 64 - f.Structure.idOffset) & 63)
	if r.failed {
		return ErrShort
	}
	if index >= len(f.Structure.templates) {
		return ErrInvalid
	}
	f.complete(&r, index, customDTIs, customDiffs, customChains)
	if r.failed {
		return ErrShort
	}
	return nil
}

// complete is frame_dependency_definition() of the specification.
func (f *Frame) complete(r *reader, index int, dtis, diffs, chains bool) {
	t := f.Structure.templates[index]
	f.Spatial, f.Temporal = t.spatial, t.temporal
	f.Indications, f.ChainDiffs = [MaxTargets]Indication{}, [MaxTargets]uint8{}
	indications, chainDiffs := f.Structure.template(index)
	copy(f.Indications[:], indications)
	copy(f.ChainDiffs[:], chainDiffs)
	if dtis {
		for i := range f.Structure.Targets {
			f.Indications[i] = Indication(r.bits(2))
		}
	}
	if diffs {
		for size := r.bits(2); size != 0 && !r.failed; size = r.bits(2) {
			r.bits(4 * int(size))
		}
	}
	if chains {
		for i := range f.Structure.Chains {
			f.ChainDiffs[i] = uint8(r.bits(8))
		}
	}
}

// all is the mask of all decode targets.
func (s *Structure) all() uint32 { return uint32(1<<len(s.Targets) - 1) }

// parse is template_dependency_structure() of the specification.
func (s *Structure) parse(r *reader) error {
	s.idOffset = uint8(r.bits(6))
	targets := int(r.bits(5)) + 1
	if err := s.parseLayers(r, targets); err != nil {
		return err
	}
	s.indications = make([]Indication, len(s.templates)*targets)
	for i := range s.indications {
		s.indications[i] = Indication(r.bits(2))
	}
	for range s.templates {
		for r.flag() {
			r.bits(4)
		}
	}
	s.Targets = make([]Target, targets)
	s.parseChains(r)
	s.nameTargets()
	if r.flag() {
		s.Resolutions = make([]Resolution, int(s.MaxSpatial)+1)
		for i := range s.Resolutions {
			s.Resolutions[i] = Resolution{r.bits(16) + 1, r.bits(16) + 1}
		}
	}
	if r.failed {
		return ErrShort
	}
	return nil
}

// parseLayers is template_layers(). It makes the templates once it knows that b is long
// enough for all of them.
func (s *Structure) parseLayers(r *reader, targets int) error {
	n, err := r.countTemplates()
	if err != nil {
		return err
	}
	if n*(2+2*targets+1) > len(r.buf)*8-r.pos { // for each: its layer, its indications, and no dependency
		return ErrShort
	}
	s.templates = make([]template, 0, n)
	var spatial, temporal uint8
	for {
		if spatial > maxSpatial || temporal > maxTemporal {
			return ErrInvalid
		}
		s.templates = append(s.templates, template{spatial: spatial, temporal: temporal})
		s.MaxSpatial, s.MaxTemporal = max(s.MaxSpatial, spatial), max(s.MaxTemporal, temporal)
		switch r.bits(2) {
		case 1:
			temporal++
		case 2:
			temporal = 0
			spatial++
		case 3:
			return nil
		}
		if r.failed {
			return ErrShort
		}
	}
}

// countTemplates counts the templates that follow. It does not move r.
func (r reader) countTemplates() (int, error) {
	for n := 1; n <= maxTemplates; n++ {
		last := r.bits(2) == 3
		switch {
		case r.failed:
			return 0, ErrShort
		case last:
			return n, nil
		}
	}
	return 0, ErrInvalid
}

// parseChains is template_chains().
func (s *Structure) parseChains(r *reader) {
	s.Chains = int(r.nonSymmetric(uint32(len(s.Targets)) + 1))
	for i := range s.Targets {
		s.Targets[i].Chain = -1
	}
	if s.Chains == 0 {
		return
	}
	for i := range s.Targets {
		s.Targets[i].Chain = int8(r.nonSymmetric(uint32(s.Chains)))
	}
	s.chainDiffs = make([]uint8, len(s.templates)*s.Chains)
	for i := range s.chainDiffs {
		s.chainDiffs[i] = uint8(r.bits(4))
	}
}

// nameTargets is decode_target_layers(): the layers of a target are the highest ones that
// are present in it.
func (s *Structure) nameTargets() {
	for t := range s.Targets {
		for i := range s.templates {
			p := s.templates[i]
			if s.indications[i*len(s.Targets)+t] != NotPresent {
				s.Targets[t].Spatial = max(s.Targets[t].Spatial, p.spatial)
				s.Targets[t].Temporal = max(s.Targets[t].Temporal, p.temporal)
			}
		}
	}
}

// Choose is the decode target with the most layers within the bounds, among those in the
// mask active; -1 if there is none.
func (s *Structure) Choose(spatial, temporal uint8, active uint32) int {
	best := -1
	for i, t := range s.Targets {
		if active&(1<<i) == 0 || t.Spatial > spatial || t.Temporal > temporal {
			continue
		}
		if best < 0 || s.Targets[best].below(t) {
			best = i
		}
	}
	return best
}

// Lowest is the decode target with the fewest layers, among those in the mask active; -1
// if there is none.
func (s *Structure) Lowest(active uint32) int {
	best := -1
	for i, t := range s.Targets {
		if active&(1<<i) != 0 && (best < 0 || t.below(s.Targets[best])) {
			best = i
		}
	}
	return best
}

// below reports whether t has lower layers than o: first by spatial, then by temporal
// layer.
func (t Target) below(o Target) bool {
	return t.Spatial < o.Spatial || t.Spatial == o.Spatial && t.Temporal < o.Temporal
}

// Within is the mask of the decode targets within the bounds.
func (s *Structure) Within(spatial, temporal uint8) (mask uint32) {
	for i, t := range s.Targets {
		if t.Spatial <= spatial && t.Temporal <= temporal {
			mask |= 1 << i
		}
	}
	return mask
}

// IDs are the template ids of the structure: count ids from first, modulo 64.
func (s *Structure) IDs() (first uint8, count int) { return s.idOffset, len(s.templates) }

// Number is the frame number of a raw descriptor, which can be read without a structure;
// false if raw is too short.
func Number(raw []byte) (n uint16, ok bool) {
	if len(raw) < 3 {
		return 0, false
	}
	return uint16(raw[1])<<8 | uint16(raw[2]), true
}

// Shift is the difference between the numbers of a source and those that its receiver
// gets. Frame numbers count modulo 2^16, template ids modulo 64.
type Shift struct {
	Number   uint16
	Template uint8
}

// Apply adds the shift to the raw descriptor in place: to its frame number, its template
// id, and the id offset of a structure in it. A descriptor refers to other frames
// relative to its own number, so nothing else changes and no structure is needed.
func (s Shift) Apply(raw []byte) {
	n, ok := Number(raw)
	if !ok {
		return
	}
	n += s.Number
	raw[0] = raw[0]&0xc0 | (raw[0]+s.Template)&0x3f
	raw[1], raw[2] = byte(n>>8), byte(n)
	if len(raw) < 5 || raw[3]&0x80 == 0 {
		return
	}
	// Five flags, and then the six bits of the id offset, in two bytes.
	offset := (raw[3]&0x07<<3 | raw[4]>>5) + s.Template
	raw[3] = raw[3]&0xf8 | offset>>3&0x07
	raw[4] = raw[4]&0x1f | offset<<5
}

// AppendActive appends to dst the raw descriptor from which f was parsed, with mask as
// its active decode targets.
func (f *Frame) AppendActive(dst, raw []byte, mask uint32) []byte {
	w := writer{buf: dst}
	w.copy(raw, 0, 24)
	tail := f.maskAt
	if f.extended {
		w.copy(raw, 24, 25)
		w.bits(1, 1)
		w.copy(raw, 26, f.maskAt)
		if f.HasActive {
			tail += len(f.Structure.Targets)
		}
	} else {
		w.bits(0b01000, 5)
	}
	// In the specification, target 0 is the lowest bit of the mask.
	w.bits(mask, len(f.Structure.Targets))
	w.copy(raw, tail, len(raw)*8)
	return w.buf
}
