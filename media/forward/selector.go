package forward

import (
	"parlor/media/forward/packet"
)

// anyLayer as a bound means no bound.
const anyLayer = 255

// selector chooses among the spatial and temporal layers that one stream
// carries. It is part of a forwarder's state.
type selector struct {
	wantSpatial, wantTemporal uint8 // bounds
	spatial, temporal         uint8 // what is forwarded now
	timestamp                 uint32
	started                   bool
}

func (s *selector) reset() {
	*s = selector{wantSpatial: anyLayer, wantTemporal: anyLayer, spatial: anyLayer, temporal: anyLayer}
}

// begin: a key frame comes next.
func (s *selector) begin() {
	s.spatial, s.temporal, s.started = s.wantSpatial, s.wantTemporal, false
}

// want sets the bounds; they are reached when the stream allows it.
func (s *selector) want(spatial, temporal uint8) {
	s.wantSpatial, s.wantTemporal = spatial, temporal
}

// pass reports whether p, which follows all others, is forwarded, and its marker.
func (s *selector) pass(p *packet.Packet, video bool) (pass, marker bool) {
	return true, p.Marker
}

// passLate is pass for a packet that comes late.
func (s *selector) passLate(p *packet.Packet, video bool) (pass, marker bool) {
	return true, p.Marker
}

// mask is the active decode targets to tell with p, 0 for none.
func (s *selector) mask(p *packet.Packet) uint32 { return 0 }

// needsKey reports whether the bounds can only be reached with a key frame.
func (s *selector) needsKey() bool { return false }
