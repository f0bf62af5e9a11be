package forward

import (
	"parlor/media/forward/dd"
	"parlor/media/forward/keyframe"
	"parlor/media/forward/packet"
	"parlor/media/forward/red"
	"parlor/media/forward/vp8"
	"parlor/media/forward/vp9"
)

// inspector reads from a layer's packets where they stand in its frames. It is
// part of the layer's reception state.
type inspector struct {
	family family

	structure   *dd.Structure // the newest one
	since       int64         // number of the packet that brought it
	former      *dd.Structure // the one before, for packets that come late
	active      uint32        // decode targets that the sender sends
	activeSince int64         // number of the packet that told them
	vp9         vp9.Descriptor
	red         red.Payload
	plain       int // payload type of what RED wraps, -1 when unknown

	last int64 // number of the newest packet

	// Of the frame that is coming in: its timestamp, whether nothing of it was lost so
	// far, whether it was seen to be a key frame, whether its end came.
	timestamp uint32
	began     bool
	whole     bool
	keySeen   bool
	ended     bool

	maxSpatial, maxTemporal uint8 // seen since the last key frame

	pictured bool   // a picture id was seen
	picture  uint16 // the newest, in 15 bits
}

// reset forgets the source.
func (in *inspector) reset() {
	*in = inspector{family: in.family, plain: in.plain}
}

// inspect fills p.Frame and the codec's descriptor. It reports false when the
// payload is not what the codec says.
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
	if !p.Late {
		in.ended = p.Marker
		if f.Key && f.Start {
			in.maxSpatial, in.maxTemporal = 0, 0
		}
		in.maxSpatial = max(in.maxSpatial, f.Spatial)
		in.maxTemporal = max(in.maxTemporal, f.Temporal)
	}
	return true
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

// longPicture is a picture id in 15 bits. One of 7 bits counts on from the newest before
// it; in a packet that comes late it is the nearest to that, since only padding may have
// come before the packet.
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

// firstOfKey judges where a key frame of H.264 or H.265 begins: at its parameter
// sets, or at the picture when the frame brings none. A picture before which
// something was lost may have had some.
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

// inspectDD lets the dependency descriptor overrule what the payload told: it
// is not encrypted, and says more. A descriptor that cannot be read is as none.
func (in *inspector) inspectDD(p *packet.Packet, raw []byte) {
	structure := in.structure
	if p.Ext < in.since {
		structure = in.former
	}
	if p.DD.Parse(raw, structure) != nil {
		return
	}
	p.HasDD = true
	// The packet that brings a structure may be lost and come again, after packets
	// that follow it.
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

// spatialLayers is how many spatial layers the stream has, as far as known.
func (in *inspector) spatialLayers() int {
	if in.structure != nil {
		return int(in.structure.MaxSpatial) + 1
	}
	return int(in.maxSpatial) + 1
}
