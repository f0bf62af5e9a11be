package forward

import (
	"parlor/media/forward/dd"
	"parlor/media/forward/packet"
)

// anyLayer as a bound means no bound.
const anyLayer = 255

// frameWindow is how many frames back it is known what was forwarded. Chains
// reach back 255 frames at most.
const frameWindow = 256

// selector chooses among the spatial and temporal layers that one stream
// carries. It is part of a forwarder's state.
//
// Going down is possible where a picture begins; going up only where the stream
// says that nothing after depends on what was left out: at key frames, and for
// temporal layers at what VP8 calls layer sync, VP9 switching up points, and the
// dependency descriptor switch indications.
type selector struct {
	wantSpatial, wantTemporal uint8 // bounds
	spatial, temporal         uint8 // forwarded now
	timestamp                 uint32
	started                   bool

	// With dependency descriptors.
	structure *dd.Structure
	active    uint32                 // decode targets that the sender sends
	target    int                    // decode target that is forwarded
	frame     uint16                 // number of the frame that was judged last
	passed    bool                   // it is forwarded
	judged    bool                   // there is one
	reduced   bool                   // the receiver was told of fewer targets since the last structure
	frames    [frameWindow]judgement // by frame number modulo frameWindow

	// Without: the bounds before the last changes of them, the newest first.
	former [formerBounds]bounds
}

// judgement is what was decided of a frame: its number plus one, 0 = nothing was
// decided; from bit judgedTarget on the decode target plus one; frameForwarded.
type judgement uint32

const (
	judgedNumber   = 1<<17 - 1
	judgedTarget   = 17
	frameForwarded = 1 << 31
)

func judged(number uint16, target int, forwarded bool) judgement {
	j := judgement(number) + 1 | judgement(target+1)<<judgedTarget
	if forwarded {
		j |= frameForwarded
	}
	return j
}

// of reports whether j is of the frame with that number.
func (j judgement) of(number uint16) bool { return j&judgedNumber == judgement(number)+1 }

func (j judgement) forwarded() bool { return j&frameForwarded != 0 }

func (j judgement) target() int { return int(j&^frameForwarded>>judgedTarget) - 1 }

// formerBounds is how many changes of the bounds are remembered for packets that
// come late.
const formerBounds = 4

// bounds held until the picture with the timestamp until.
type bounds struct {
	valid             bool
	until             uint32
	spatial, temporal uint8
}

func (s *selector) reset() {
	*s = selector{wantSpatial: anyLayer, wantTemporal: anyLayer, spatial: anyLayer, temporal: anyLayer, target: -1}
}

// begin: a key frame comes next, perhaps of another stream.
func (s *selector) begin() {
	s.spatial, s.temporal, s.started = s.wantSpatial, s.wantTemporal, false
	s.structure, s.judged, s.reduced, s.target = nil, false, false, -1
	s.former = [formerBounds]bounds{}
}

// want sets the bounds; they are reached when the stream allows it.
func (s *selector) want(spatial, temporal uint8) {
	s.wantSpatial, s.wantTemporal = spatial, temporal
}

// pass reports whether p, which follows all others, is forwarded, and its marker.
func (s *selector) pass(p *packet.Packet) (pass, marker bool) {
	switch {
	case p.HasDD:
		return s.passDescribed(p)
	case s.unreadable(p):
		return false, false
	case p.Frame.Layered:
		return s.passLayered(p)
	}
	return true, p.Marker
}

// unreadable reports whether the descriptor of p cannot be read although the stream
// has descriptors: the structure that it needs was lost. A receiver cannot read it
// either, and nobody can tell which layers the packet belongs to.
func (s *selector) unreadable(p *packet.Packet) bool {
	return s.structure != nil && !p.HasDD && p.Extension(packet.ExtDependencyDescriptor) != nil
}

// passLate is pass for a packet that comes late. What is forwarded does not change by
// it, and it is judged by what was forwarded at its place: since then there may be
// more, which depends on what was left out.
func (s *selector) passLate(p *packet.Packet) (pass, marker bool) {
	switch {
	case p.HasDD:
		if s.structure == nil || s.target < 0 {
			return false, false
		}
		known := &s.frames[p.DD.Number%frameWindow]
		if !known.of(p.DD.Number) {
			target := s.targetBefore(p.DD.Number)
			*known = judged(p.DD.Number, target, p.DD.Indications[target] != dd.NotPresent)
		}
		return known.forwarded(), describedMarker(p, known.target())
	case s.unreadable(p):
		return false, false
	case p.Frame.Layered:
		spatial, temporal := s.boundsAt(p.Timestamp)
		return p.Frame.Spatial <= spatial && p.Frame.Temporal <= temporal, layeredMarker(p, spatial)
	}
	return true, p.Marker
}

// targetBefore is the decode target that was forwarded just before a frame.
func (s *selector) targetBefore(number uint16) int {
	for back := uint16(1); back < frameWindow; back++ {
		if j := s.frames[(number-back)%frameWindow]; j.of(number-back) && j.target() >= 0 {
			return j.target()
		}
	}
	return s.target
}

// boundsAt are the bounds that held for the picture with a timestamp.
func (s *selector) boundsAt(timestamp uint32) (spatial, temporal uint8) {
	spatial, temporal = s.spatial, s.temporal
	for _, b := range s.former {
		if !b.valid || int32(timestamp-b.until) >= 0 {
			break
		}
		spatial, temporal = b.spatial, b.temporal
	}
	return spatial, temporal
}

// passLayered judges by the layer ids of VP8 and VP9.
func (s *selector) passLayered(p *packet.Packet) (pass, marker bool) {
	f := &p.Frame
	picture := !s.started || p.Timestamp != s.timestamp
	s.started, s.timestamp = true, p.Timestamp
	before := bounds{true, p.Timestamp, s.spatial, s.temporal}
	switch {
	case f.Key && f.Start:
		s.spatial, s.temporal = s.wantSpatial, s.wantTemporal
	case picture:
		s.spatial = min(s.spatial, s.wantSpatial)
		s.temporal = min(s.temporal, s.wantTemporal)
	}
	// VP9: what follows in higher temporal layers depends on nothing before this.
	if f.Start && f.SwitchUp && f.Spatial == 0 && f.Temporal <= s.temporal {
		s.temporal = s.wantTemporal
	}
	// VP8: this frame needs the base layer only. One layer at a time, since the
	// layers between may still depend on frames that were left out.
	if f.Start && f.Sync && f.Temporal <= s.wantTemporal && f.Temporal == s.temporal+1 {
		s.temporal = f.Temporal
	}
	if s.spatial != before.spatial || s.temporal != before.temporal {
		copy(s.former[1:], s.former[:])
		s.former[0] = before
	}
	return f.Spatial <= s.spatial && f.Temporal <= s.temporal, layeredMarker(p, s.spatial)
}

// layeredMarker marks the last packet of a picture whose higher layers are left out.
func layeredMarker(p *packet.Packet, spatial uint8) bool {
	return p.Marker || p.Frame.End && p.Frame.Spatial == spatial && spatial != anyLayer
}

// passDescribed judges by the dependency descriptor (AV1 RTP payload format,
// appendix A).
func (s *selector) passDescribed(p *packet.Packet) (pass, marker bool) {
	d := &p.DD
	fresh := !s.judged || d.Number != s.frame
	picture := !s.started || p.Timestamp != s.timestamp
	s.started, s.timestamp = true, p.Timestamp
	switch {
	case d.Structure == s.structure:
	case s.structure == nil:
		s.structure, s.target, s.reduced = d.Structure, -1, false
		s.frames = [frameWindow]judgement{}
	case fresh && d.NewStructure:
		s.structure, s.target, s.reduced = d.Structure, -1, false
	default:
		s.follow(d)
	}
	s.active = d.Active
	if fresh {
		s.judge(d, picture)
	}
	return s.passed, describedMarker(p, s.target)
}

// follow takes up the structure of d, whose key frame began with a packet that came
// late. What was left out of that key frame is missing, so no layer comes to those
// that are forwarded.
func (s *selector) follow(d *dd.Frame) {
	if s.target >= 0 && s.target < len(s.structure.Targets) {
		t := s.structure.Targets[s.target]
		if s.target = d.Structure.Choose(t.Spatial, t.Temporal, dd.AllTargets); s.target < 0 {
			s.target = d.Structure.Lowest(dd.AllTargets)
		}
	}
	s.structure = d.Structure
}

// judge decides about a frame when its first packet comes. picture: it is the
// first of its picture. In the middle of one the target stays, since the frame
// before may be marked as the picture's last.
func (s *selector) judge(d *dd.Frame, picture bool) {
	want := s.wantedTarget()
	switch {
	case want < 0:
	case s.target < 0 || s.target >= len(s.structure.Targets):
		s.target = want
	case picture && want != s.target && d.Indications[want] == dd.Switch && s.intact(want, d):
		s.target = want
	}
	s.frame, s.judged = d.Number, true
	s.passed = s.target >= 0 && d.Indications[s.target] != dd.NotPresent
	s.frames[d.Number%frameWindow] = judged(d.Number, s.target, s.passed)
}

// wantedTarget is the decode target of the bounds among those that are sent.
func (s *selector) wantedTarget() int {
	if want := s.structure.Choose(s.wantSpatial, s.wantTemporal, s.active); want >= 0 {
		return want
	}
	// Nothing is as low as that: the lowest there is.
	return s.structure.Lowest(s.active)
}

// intact reports whether the chain that protects a target was forwarded up to d.
func (s *selector) intact(target int, d *dd.Frame) bool {
	chain := s.structure.Targets[target].Chain
	if chain < 0 {
		return true
	}
	diff := d.ChainDiffs[chain]
	if diff == 0 {
		return true
	}
	before := d.Number - uint16(diff)
	j := s.frames[before%frameWindow]
	return j.of(before) && j.forwarded()
}

// describedMarker marks the last packet of a picture of which no more is in a target.
func describedMarker(p *packet.Packet, target int) bool {
	structure := p.DD.Structure
	if p.Marker || target < 0 || target >= len(structure.Targets) {
		return p.Marker
	}
	top := structure.Targets[target].Spatial
	return p.DD.End && p.DD.Spatial == top && top < structure.MaxSpatial
}

// mask is the active decode targets to tell with p, 0 for none: where a frame
// begins, while fewer targets are forwarded than the structure names, and until
// the next structure after that.
func (s *selector) mask(p *packet.Packet) uint32 {
	if !p.HasDD || !p.DD.Start || s.target < 0 || s.structure == nil {
		return 0
	}
	t := s.structure.Targets[s.target]
	mask := s.structure.Within(t.Spatial, t.Temporal) & s.active
	if mask != 1<<len(s.structure.Targets)-1 {
		s.reduced = true
	}
	if !s.reduced {
		return 0
	}
	return mask
}

// needsKey reports whether it takes a key frame to reach the bounds of a stream
// whose highest spatial layer is top. patient: a while has gone by in which they
// could have been reached without.
func (s *selector) needsKey(top uint8, patient bool) bool {
	if s.structure != nil && s.target >= 0 && s.target < len(s.structure.Targets) {
		want := s.wantedTarget()
		if want < 0 || want == s.target {
			return false
		}
		return patient || s.structure.Targets[want].Spatial > s.structure.Targets[s.target].Spatial
	}
	return min(s.wantSpatial, top) > min(s.spatial, top)
}

// quality is the spatial layer that is forwarded of a stream that has several.
func (s *selector) quality(top uint8) uint8 {
	if s.structure != nil && s.target >= 0 && s.target < len(s.structure.Targets) {
		return s.structure.Targets[s.target].Spatial
	}
	return min(s.spatial, top)
}
