package forward

import (
	"parlor/media/forward/dd"
	"parlor/media/forward/packet"
)

// descriptors makes one series of dependency descriptors out of those of all sources that
// are forwarded one after the other. It is part of a forwarder's state.
//
// A receiver with descriptors orders and relates frames by these alone. But each source
// counts its frames by itself (Chromium counts all layers of a simulcast in one series,
// of which each layer shows a part) and chooses its own template ids. So after a change
// of source the frame numbers continue from the last forwarded one, and the templates get
// ids that the former structure does not use: a late packet of the former source cannot
// be mistaken for one of the new.
type descriptors struct {
	shift dd.Shift
	// told: the receiver has the structure of the forwarded stream. Without the structure
	// it would drop every packet with a descriptor, so no descriptor is sent.
	told    bool
	counted bool   // last is valid
	last    uint16 // newest outgoing frame number
	nextID  uint8  // outgoing template id that follows those of the last structure
	numbers bool   // nextID is valid
	since   int64  // number of the packet with the last structure
}

// begin takes p as the first packet of a new source, or of the same source after a pause.
func (d *descriptors) begin(p *packet.Packet) {
	d.told, d.since = p.HasDD && p.DD.NewStructure, p.Ext
	if !d.told {
		return
	}
	if d.counted {
		d.shift.Number = d.last + 1 - p.DD.Number
	}
	if d.numbers {
		first, _ := p.DD.Structure.IDs()
		d.shift.Template = (d.nextID - first) & 63
	}
}

// after makes the next source count on from a frame without a descriptor, which receivers
// order by the number n: libwebrtc compares the two kinds of numbers.
func (d *descriptors) after(n uint16) { d.last, d.counted = n, true }

// follow notes a forwarded packet. The packet may be late.
func (d *descriptors) follow(p *packet.Packet) {
	n, ok := dd.Number(p.Extension(packet.ExtDependencyDescriptor))
	if !ok {
		return
	}
	if p.HasDD && p.DD.NewStructure && p.Ext >= d.since {
		d.told, d.since = true, p.Ext
		first, count := p.DD.Structure.IDs()
		d.nextID, d.numbers = (first+uint8(count)+d.shift.Template)&63, true
	}
	if n += d.shift.Number; d.told && (!d.counted || int16(n-d.last) > 0) {
		d.last, d.counted = n, true
	}
}

// descriptor is the dependency descriptor that the subscriber gets with p, written into
// x; nil for none.
func (x *extScratch) descriptor(p *packet.Packet, s *sent) []byte {
	raw := p.Extension(packet.ExtDependencyDescriptor)
	if len(raw) == 0 {
		return nil
	}
	if x.dd == nil { // audio has none
		x.dd = make([]byte, 0, 256)
	}
	if p.HasDD && s.mask != 0 {
		raw = p.DD.AppendActive(x.dd[:0], raw, s.mask)
	} else {
		raw = append(x.dd[:0], raw...)
	}
	s.described.Apply(raw)
	return raw
}
