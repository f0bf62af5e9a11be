package forward

import (
	"parlor/media/forward/dd"
	"parlor/media/forward/packet"
)

// anyLayer as a bound means that there is no bound.
const anyLayer = 255

// frameWindow is the number of last frames whose judgement is remembered. Chains reach
// back 255 frames at most.
const frameWindow = 256

// selector chooses among the spatial and temporal layers of one stream. It is part of a
// forwarder's state.
//
// It may go down where a picture begins. It may go up only where the stream says that no
// later frame depends on the frames that were left out: at keyframes, and for temporal
// layers at layer syncs of VP8, at switching up points of VP9, and at switch indications
// of dependency descriptors. Some encoders mark no such frames, so that only a keyframe
// brings the higher layers.
type selector struct {
	wantSpatial, wantTemporal uint8 // bounds
	spatial, temporal         uint8 // forwarded now
	timestamp                 uint32
	started                   bool

	// With dependency descriptors:
	structure *dd.Structure
	active    uint32                  // decode targets that the sender sends
	target    int                     // decode target that is forwarded
	frame     uint16                  // number of the last judged frame
	passed    bool                    // the last judged frame is forwarded
	judged    bool                    // some frame was judged
	reduced   bool                    // since the last structure the receiver was told of fewer targets
	frames    *[frameWindow]judgement // by frame number modulo frameWindow; nil before the first structure

	// Without: the former bounds, the newest first, and how many wanted frames of higher
	// temporal layers were left out since the layers changed, because the stream does not say
	// where it is allowed to go up.
	former  [formerBounds]bounds
	leftOut int
}

// judgement is the decision about a frame. It has the frame's number plus one (0 = no
// decision), from bit judgedTarget on the decode target plus one, and frameForwarded.
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

// of reports whether j is about the frame with that number.
func (j judgement) of(number uint16) bool { return j&judgedNumber == judgement(number)+1 }

func (j judgement) forwarded() bool { return j&frameForwarded != 0 }

func (j judgement) target() int { return int(j&^frameForwarded>>judgedTarget) - 1 }

// mostLeftOut is how many wanted frames may be left out before a keyframe is requested for
// them. Encoders that mark where a layer may be added do so more often.
const mostLeftOut = 45 // 3 s of the highest of three temporal layers, at 30 frames a second

// formerBounds is how many changes of the bounds are remembered, for late packets.
const formerBounds = 4

// bounds held up to the picture with the timestamp until.
type bounds struct {
	valid             bool
	until             uint32
	spatial, temporal uint8
}

func (s *selector) reset() {
	*s = selector{wantSpatial: anyLayer, wantTemporal: anyLayer, spatial: anyLayer, temporal: anyLayer, target: -1}
}

// begin prepares for a keyframe, perhaps of another stream.
func (s *selector) begin() {
	s.spatial, s.temporal, s.started = s.wantSpatial, s.wantTemporal, false
	s.structure, s.judged, s.reduced, s.target = nil, false, false, -1
	s.former, s.leftOut = [formerBounds]bounds{}, 0
}

// want sets the bounds. They take effect as soon as the stream allows it.
func (s *selector) want(spatial, temporal uint8) {
	s.wantSpatial, s.wantTemporal = spatial, temporal
}

// pass reports whether p, which follows all others, is forwarded, and with which marker
// bit.
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

// unreadable reports whether the stream has descriptors but that of p cannot be parsed,
// because the structure for it was lost. The receiver cannot parse it either, and the
// layers of the packet are unknown.
func (s *selector) unreadable(p *packet.Packet) bool {
	return s.structure != nil && !p.HasDD && p.Extension(packet.ExtDependencyDescriptor) != nil
}

// passLate is pass for a late packet. A late packet does not change which layers are
// forwarded. It is judged by the layers that were forwarded at its place: there may be
// more now, which depend on frames that were left out.
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

// boundsAt are the bounds that held for the picture with that timestamp.
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

// passLayered decides by the layer ids of VP8 and VP9.
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
	// VP9: later frames in higher temporal layers depend on no frame before this one.
	if f.Start && f.SwitchUp && f.Spatial == 0 && f.Temporal <= s.temporal {
		s.temporal = s.wantTemporal
	}
	// VP8: this frame depends only on the base layer. The selector goes up one layer at a
	// time, because the layers between may depend on frames that were left out.
	if f.Start && f.Sync && f.Temporal <= s.wantTemporal && f.Temporal == s.temporal+1 {
		s.temporal = f.Temporal
	}
	if s.spatial != before.spatial || s.temporal != before.temporal {
		copy(s.former[1:], s.former[:])
		s.former[0], s.leftOut = before, 0
	}
	switch {
	case s.temporal >= s.wantTemporal:
		s.leftOut = 0
	case f.Start && f.Spatial == 0 && f.Temporal > s.temporal && f.Temporal <= s.wantTemporal:
		s.leftOut++
	}
	return f.Spatial <= s.spatial && f.Temporal <= s.temporal, layeredMarker(p, s.spatial)
}

// layeredMarker sets the marker on the last packet of a picture whose higher layers are
// left out.
func layeredMarker(p *packet.Packet, spatial uint8) bool {
	return p.Marker || p.Frame.End && p.Frame.Spatial == spatial && spatial != anyLayer
}

// passDescribed decides by the dependency descriptor (RTP payload format for AV1,
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
		s.frames = new([frameWindow]judgement)
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

// follow takes over the structure of d, if the keyframe with it began with a late packet.
// Frames of that keyframe were left out, so no layers are added.
func (s *selector) follow(d *dd.Frame) {
	if s.target >= 0 && s.target < len(s.structure.Targets) {
		t := s.structure.Targets[s.target]
		if s.target = d.Structure.Choose(t.Spatial, t.Temporal, dd.AllTargets); s.target < 0 {
			s.target = d.Structure.Lowest(dd.AllTargets)
		}
	}
	s.structure = d.Structure
}

// judge decides about a frame when its first packet comes. picture: the frame is the
// first of its picture. Within a picture the target stays, because the frame before may
// have been marked as the picture's last.
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

// wantedTarget is the decode target for the bounds, among those that the sender sends.
func (s *selector) wantedTarget() int {
	if want := s.structure.Choose(s.wantSpatial, s.wantTemporal, s.active); want >= 0 {
		return want
	}
	// No target is that low: take the lowest one.
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

// describedMarker sets the marker on the last packet of a picture that the target
// includes.
func describedMarker(p *packet.Packet, target int) bool {
	structure := p.DD.Structure
	if p.Marker || target < 0 || target >= len(structure.Targets) {
		return p.Marker
	}
	top := structure.Targets[target].Spatial
	return p.DD.End && p.DD.Spatial == top && top < structure.MaxSpatial
}

// mask is the active decode targets to write into p's descriptor; 0 to leave it. It is
// written where a frame begins, while fewer targets are forwarded than the structure has,
// and from then on until the next structure.
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

// needsKey reports whether the bounds can be reached only by a keyframe, in a stream
// whose highest spatial layer is top. patient: some time has passed in which they could
// have been reached otherwise.
func (s *selector) needsKey(top uint8, patient bool) bool {
	if s.structure != nil && s.target >= 0 && s.target < len(s.structure.Targets) {
		want := s.wantedTarget()
		if want < 0 || want == s.target {
			return false
		}
		return patient || s.structure.Targets[want].Spatial > s.structure.Targets[s.target].Spatial
	}
	return min(s.wantSpatial, top) > min(s.spatial, top) || s.leftOut >= mostLeftOut
}

// quality is the spatial layer that is forwarded, of a stream with several.
func (s *selector) quality(top uint8) uint8 {
	if s.structure != nil && s.target >= 0 && s.target < len(s.structure.Targets) {
		return s.structure.Targets[s.target].Spatial
	}
	return min(s.spatial, top)
}
