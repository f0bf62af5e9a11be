package forward

import (
	"parlor/media/forward/dd"
	"parlor/media/forward/packet"
)

// descriptors makes one series of the dependency descriptors of all sources that
// are forwarded one after the other. It is part of a forwarder's state.
//
// A receiver that is told descriptors orders and relates frames by nothing else.
// Each source counts its frames by itself (Chromium has one series for all layers
// of a simulcast, of which each layer shows a part), and gives its templates
// ids of its own choice. So what begins after a change of source counts on from
// what was forwarded before, and its templates get ids that the structure before
// does not use: a straggler of the source before cannot be taken for one of the
// new.
type descriptors struct {
	shift dd.Shift
	// told: the receiver has the structure of what is forwarded. Without one a
	// receiver drops all that has a descriptor, so none is sent.
	told    bool
	counted bool   // last is valid
	last    uint16 // newest outgoing frame number
	nextID  uint8  // outgoing template id after those of the last structure
	numbers bool   // nextID is valid
	since   int64  // number of the packet that brought the last structure
}

// begin takes in p as the first packet of a new source, or of the same source
// after a pause.
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

// after makes what begins next count on from a frame without a descriptor, which
// receivers order by the number n: libwebrtc compares the two.
func (d *descriptors) after(n uint16) { d.last, d.counted = n, true }

// follow takes in a packet that is forwarded. It may come late.
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

// descriptor is the dependency descriptor that the subscriber is to get with p,
// nil for none. It stands in x.
func (x *extScratch) descriptor(p *packet.Packet, s *sent) []byte {
	raw := p.Extension(packet.ExtDependencyDescriptor)
	if len(raw) == 0 {
		return nil
	}
	if p.HasDD && s.mask != 0 {
		raw = p.DD.AppendActive(x.dd[:0], raw, s.mask)
	} else {
		raw = append(x.dd[:0], raw...)
	}
	s.described.Apply(raw)
	return raw
}
