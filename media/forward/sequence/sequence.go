// Package sequence renumbers the packets of a forwarded stream. Sources may change and
// packets may be left out, yet the receiver sees numbers without a gap, except for
// packets that were lost before the forwarder and may still arrive.
package sequence

import "parlor/media/forward/vp8"

// history is how many changes of the offset are remembered for late packets. A map begins
// with room for leastSpans, because most streams have no changes.
const (
	history    = 128
	leastSpans = 4
)

// span is the offsets that apply from the incoming number first on.
type span struct {
	first   int64
	offset  int64
	picture vp8.Values
}

// Map maps incoming extended sequence numbers to outgoing ones, and VP8's picture numbers
// with them. The zero Map is ready for use. It is not safe for concurrent use.
type Map struct {
	spans []span
	count int // spans in use
	head  int // index of the newest

	last    int64 // newest incoming number
	lastOut int64 // newest outgoing number, used or reserved for a lost packet
	given   int64 // newest outgoing number that a packet got
	started bool

	lastPicture    vp8.Values // newest outgoing
	droppedPicture int32      // incoming picture id of the last frame that was left out; -1 for none
}

// Start sets the outgoing number before the first one.
func (m *Map) Start(before uint16) {
	m.lastOut = 1<<16 + int64(before)
	m.given = m.lastOut
}

// Insert returns the number for a packet that corresponds to no incoming one. It may be
// called at any time before Begin.
func (m *Map) Insert() int64 {
	m.lastOut++
	m.given = m.lastOut
	return m.lastOut
}

// NextPicture returns the numbers for a VP8 keyframe that corresponds to no incoming one.
func (m *Map) NextPicture() vp8.Values {
	m.lastPicture = vp8.Values{
		PictureID: (m.lastPicture.PictureID + 1) & 0x7fff,
		TL0PicIdx: m.lastPicture.TL0PicIdx + 1,
		KeyIdx:    (m.lastPicture.KeyIdx + 1) & 0x1f,
	}
	m.started = true
	return m.lastPicture
}

// Begin takes the next packet of a new source, or of the same source after a pause.
// Earlier packets are over, late ones included, so the last numbers that were reserved
// for them are free.
func (m *Map) Begin(in int64, picture vp8.Values) {
	m.lastOut = m.given
	s := span{first: in, offset: in - (m.lastOut + 1)}
	if m.started {
		next := vp8.Values{
			PictureID: m.lastPicture.PictureID + 1,
			TL0PicIdx: m.lastPicture.TL0PicIdx + 1,
			KeyIdx:    m.lastPicture.KeyIdx + 1,
		}
		s.picture = picture.Sub(next)
	}
	m.started, m.droppedPicture = true, -1
	if m.spans == nil {
		m.spans = make([]span, leastSpans)
	}
	m.count, m.head = 1, 0
	m.spans[0] = s
	m.last = in - 1
}

// Pass maps a packet that follows all others. off is to be subtracted from its VP8
// numbers. Begin must have been called.
func (m *Map) Pass(in int64, picture vp8.Values) (out int64, off vp8.Values) {
	s := &m.spans[m.head]
	m.last, m.lastOut = in, in-s.offset
	m.given = m.lastOut
	m.lastPicture = picture.Sub(s.picture)
	return m.lastOut, s.picture
}

// Drop leaves out a packet that follows all others. picture is the VP8 picture id of the
// frame that is left out; -1 if there is none.
func (m *Map) Drop(in int64, picture int32) {
	s := m.spans[m.head]
	// Packets lost just before keep their numbers, whatever comes next.
	m.lastOut = in - 1 - s.offset
	s.offset++
	if picture >= 0 && picture != m.droppedPicture {
		m.droppedPicture = picture
		s.picture.PictureID = (s.picture.PictureID + 1) & 0x7fff
	}
	s.first, m.last = in+1, in
	if m.spans[m.head].first == in {
		m.spans[m.head] = s // the former span has mapped no packet
		return
	}
	if m.count == len(m.spans) && m.count < history {
		m.grow()
	}
	m.head = (m.head + 1) % len(m.spans)
	m.spans[m.head] = s
	m.count = min(m.count+1, len(m.spans))
}

func (m *Map) grow() {
	grown := make([]span, 2*len(m.spans))
	for i := range m.count {
		grown[i] = m.spans[(m.head+1+i)%len(m.spans)] // the oldest first
	}
	m.spans, m.head = grown, m.count-1
}

// Late maps a packet that arrives after packets that follow it. It returns false if the
// packet is too old, or of the time before Begin.
func (m *Map) Late(in int64) (out int64, off vp8.Values, ok bool) {
	for i := range m.count {
		s := &m.spans[(m.head-i+len(m.spans))%len(m.spans)]
		if s.first <= in {
			m.given = max(m.given, in-s.offset)
			return in - s.offset, s.picture, true
		}
	}
	return 0, off, false
}

// Follow notes the numbers of a picture that is forwarded late: a later source must count
// on from them too.
func (m *Map) Follow(picture vp8.Values) {
	if ahead := (picture.PictureID - m.lastPicture.PictureID) & 0x7fff; ahead != 0 && ahead < 0x4000 {
		m.lastPicture = picture
	}
}

// Last is the newest incoming number.
func (m *Map) Last() int64 { return m.last }

// LastOut is the newest outgoing number, used or reserved for a lost packet.
func (m *Map) LastOut() int64 { return m.lastOut }
