package forward

import (
	"parlor/media/forward/dd"
	"parlor/media/forward/keyframe"
	"parlor/media/forward/packet"
	"parlor/media/forward/red"
	"parlor/media/forward/vp8"
	"parlor/media/forward/vp9"
)

// inspector finds the position of a layer's packets in their frames. It is part of the
// layer's reception state.
type inspector struct {
	family family

	structure   *dd.Structure // the newest one
	since       int64         // number of the packet with the structure
	former      *dd.Structure // the structure before, for late packets
	active      uint32        // decode targets that the sender sends
	activeSince int64         // number of the packet that named them
	vp9         vp9.Descriptor
	red         red.Payload
	plain       int // payload type of the codec in RED; -1 if unknown

	last int64 // number of the newest packet

	// State of the incoming frame: its timestamp, whether no packet of it was lost so
	// far, whether it is known to be a keyframe, and whether it has ended.
	timestamp uint32
	began     bool
	whole     bool
	keySeen   bool
	ended     bool

	maxSpatial, maxTemporal uint8 // highest since the last whole keyframe
	// newSpatial and newTemporal are the highest since a keyframe that is not whole yet.
	newSpatial, newTemporal uint8
	lastTemporal            uint8 // highest between the last two keyframes
	renewing                bool  // there is such a keyframe
	spatials                spatials

	pictured bool   // a picture id has come
	picture  uint16 // newest picture id, in 15 bits
}

// reset drops the state of the former source.
func (in *inspector) reset() {
	*in = inspector{family: in.family, plain: in.plain}
}

// inspect fills in p.Frame and the codec's descriptor. It returns false if the payload is
// malformed for its codec.
func (in *inspector) inspect(p *packet.Packet) bool {
	payload := p.Payload()
	next := p.Ext == in.last+1 // nothing is missing just before p
	in.last = max(in.last, p.Ext)
	if len(payload) == 0 {
		return true // padding only
	}
	f := &p.Frame
	f.Start = !in.began || in.ended || p.Timestamp != in.timestamp
	f.End = p.Marker
	if !p.Late {
		in.whole = next && in.began && (f.Start || in.whole)
	}
	if f.Start && !p.Late {
		in.timestamp, in.began, in.keySeen = p.Timestamp, true, false
	}
	if !in.inspectCodec(p, payload) {
		return false
	}
	if raw := p.Extension(packet.ExtDependencyDescriptor); raw != nil {
		in.inspectDD(p, raw)
	}
	if f.Layered {
		in.spatials.add(p)
	}
	if !p.Late {
		in.ended = p.Marker
		in.countLayers(f, p.Marker)
	}
	return true
}

// countLayers follows how many layers there are. A keyframe may begin fewer. Of spatial
// layers that is known when all of it has come: its packets come one layer after the other. Of
// temporal layers the next keyframe tells it: a keyframe itself is of the lowest.
func (in *inspector) countLayers(f *packet.Frame, ends bool) {
	if f.Key && f.Start && f.Spatial == 0 {
		if !in.renewing { // else it repeats one that was not whole
			in.lastTemporal = in.newTemporal
		}
		in.newSpatial, in.newTemporal, in.renewing = 0, 0, true
	}
	in.newSpatial, in.newTemporal = max(in.newSpatial, f.Spatial), max(in.newTemporal, f.Temporal)
	in.maxSpatial, in.maxTemporal = max(in.maxSpatial, f.Spatial), max(in.maxTemporal, f.Temporal)
	if ends && in.renewing {
		in.maxSpatial, in.maxTemporal, in.renewing = in.newSpatial, max(in.lastTemporal, in.newTemporal), false
	}
}

func (in *inspector) inspectCodec(p *packet.Packet, payload []byte) bool {
	f := &p.Frame
	switch in.family {
	case redundant:
		p.PrimarySize = len(payload)
		if int(p.PayloadType) == in.plain {
			return true
		}
		if !in.red.Parse(payload) {
			return false
		}
		p.PrimarySize = len(in.red.Primary)
	case vp8Codec:
		d, ok := vp8.Parse(payload)
		if !ok {
			return false
		}
		p.VP8 = d
		if d.PictureIDOffset != 0 {
			p.VP8.PictureID = in.longPicture(d.PictureID, d.LongPictureID, p.Late)
		}
		f.Start, f.Key, f.Sync = d.Start, d.Key, d.Sync
		f.Temporal, f.Layered = d.TID, d.HasTID
	case vp9Codec:
		d := &in.vp9
		if !d.Parse(payload) {
			return false
		}
		p.VP9 = d.Numbers()
		if d.HasPictureID {
			p.VP9.PictureID = in.longPicture(d.PictureID, d.LongPictureID, p.Late)
		}
		f.Start, f.End, f.Key = d.Start, d.End, d.Key()
		f.Spatial, f.Temporal, f.SwitchUp, f.Layered = d.Spatial, d.Temporal, d.SwitchUp, d.HasLayers
	case h264Codec:
		f.Key = in.firstOfKey(keyframe.H264(payload), p.Late)
		f.Start = f.Start || f.Key
	case h265Codec:
		f.Key = in.firstOfKey(keyframe.H265(payload), p.Late)
		f.Start = f.Start || f.Key
	case av1Codec:
		f.Key = keyframe.AV1(payload)
	}
	return true
}

// longPicture is a picture id in 15 bits. An id of 7 bits counts on from the newest id
// before it. In a late packet it is the id nearest to the newest one, because packets
// before a late one may have been only padding.
func (in *inspector) longPicture(id uint16, long, late bool) uint16 {
	switch ahead := (id - in.picture) & 0x7f; {
	case long || !in.pictured:
	case late && ahead >= 0x40:
		id = in.picture + ahead - 0x80
	default:
		id = in.picture + ahead
	}
	id &= 0x7fff
	if ahead := (id - in.picture) & 0x7fff; !late || !in.pictured || ahead < 0x4000 {
		in.pictured, in.picture = true, id
	}
	return id
}

// firstOfKey reports whether a keyframe of H.264 or H.265 begins at this packet: at its
// parameter sets, or at the picture if the frame has none. If a packet was lost before
// the picture, that packet may have had the parameter sets.
func (in *inspector) firstOfKey(found keyframe.NAL, late bool) bool {
	if late {
		return found&keyframe.ParameterSets != 0
	}
	if in.keySeen || found&keyframe.ParameterSets == 0 && (found == 0 || !in.whole) {
		return false
	}
	in.keySeen = true
	return true
}

// inspectDD lets the dependency descriptor overrule the payload: the descriptor is not
// encrypted, and says more. A descriptor that cannot be parsed is ignored.
func (in *inspector) inspectDD(p *packet.Packet, raw []byte) {
	structure := in.structure
	if p.Ext < in.since {
		structure = in.former
	}
	if p.DD.Parse(raw, structure) != nil {
		return
	}
	p.HasDD = true
	// The packet with a structure may be lost and retransmitted, and then come after
	// packets that follow it.
	if p.DD.NewStructure && p.Ext >= in.since {
		in.former, in.structure, in.since = in.structure, p.DD.Structure, p.Ext
	}
	switch {
	case !p.DD.HasActive && !p.DD.NewStructure:
		if p.DD.Structure == in.structure {
			p.DD.Active = in.active
		}
	case p.Ext >= in.activeSince:
		in.active, in.activeSince = p.DD.Active, p.Ext
	}
	f := &p.Frame
	f.Start, f.End = p.DD.Start, p.DD.End
	f.Key = p.DD.NewStructure && p.DD.Start
	f.Spatial, f.Temporal, f.Layered = p.DD.Spatial, p.DD.Temporal, true
}

// spatialLayers is the number of spatial layers of the stream, as far as known.
func (in *inspector) spatialLayers() int {
	if in.structure != nil {
		return int(in.structure.MaxSpatial) + 1
	}
	return int(in.maxSpatial) + 1
}

// pixels is the size of the keyframe that begins with p, the packet that was inspected last; 0
// if it does not tell. Of spatial layers it is the largest one's.
func (in *inspector) pixels(p *packet.Packet) uint64 {
	if p.HasDD && p.DD.NewStructure {
		if sizes := p.DD.Structure.Resolutions; len(sizes) > 0 {
			largest := sizes[len(sizes)-1]
			return uint64(largest.Width) * uint64(largest.Height)
		}
	}
	switch in.family {
	case vp8Codec:
		width, height := vp8.KeySize(p.Payload()[p.VP8.Size:])
		return uint64(width) * uint64(height)
	case h264Codec:
		width, height := keyframe.H264Size(p.Payload())
		return uint64(width) * uint64(height)
	case vp9Codec:
		if d := &in.vp9; d.HasSizes {
			largest := d.Sizes[d.SpatialLayers-1]
			return uint64(largest.Width) * uint64(largest.Height)
		}
	}
	return 0
}
