package forward

import "slices"

// history are the last packets of a forwarder, as they are remembered for retransmission.
// A packet is retransmitted if the history knows its number and the layer's cache, which
// has an age of its own, still has its payload. The history begins small and grows while it
// would forget packets that are not old yet: most subscriptions are silent, or of a small
// picture.
type history struct {
	slots   []slot   // by outgoing number modulo their count, a power of two
	origins []origin // of the slots' packets
	more    *details // nil before there are some: most sound has none
	last    int64    // newest number
	floor   int64    // no older number is known for sure: there were fewer slots
	most    uint16   // bound of the count of slots
	newest  uint8    // the newest slot's origin
}

// slot is what is remembered of every packet. A listener has 64 of them for a voice and a
// viewer up to 1024 for a picture, so that each byte of them counts: what most of the last packets
// have in common is in their origin. There is no pointer in it, so that the garbage
// collector does not look at them.
type slot struct {
	out      uint16
	ext      uint16 // the lowest bits
	sendTime [3]byte
	flags    sentFlags
	origin   uint8 // index in the history's origins, and one more; 0: none, or one that was forgotten
}

func (s *slot) is(f sentFlags) bool { return s.flags&f != 0 }

// origin is what packets in a row have in common.
type origin struct {
	layer      *Layer
	offset     uint32
	generation uint16
	ext        uint16 // the upper bits
}

// mostOrigins is what the index of an origin tells apart.
const mostOrigins = 255

// details are what few packets have.
type details struct {
	framings []framing // as the history's slots; nil before the first that says something
	repeated []repeats // as the history's slots; nil before the first retransmission
	// transports are the transport-wide numbers in packets that may be repeated with them, as
	// the history's slots; nil before the first.
	transports [][2]byte
	asked      int64 // newest of the forgotten packets that the receiver had asked for; 0: none
}

// detail is what few packets have, to be written to.
func (h *history) detail() *details {
	if h.more == nil {
		h.more = new(details)
	}
	return h.more
}

// declined notes that a packet will not be repeated, although the receiver may ask for it, and
// that no picture waits for it.
func (h *history) declined(out int64) {
	d := h.detail()
	d.asked = max(d.asked, out)
}

// asked is the newest of the forgotten packets that the receiver had asked for; 0: none.
func (h *history) asked() int64 {
	if h.more == nil {
		return 0
	}
	return h.more.asked
}

// Sizes of a history at its beginning, and the age up to which it remembers packets if
// its bound permits, in units of abs-send-time.
const (
	firstVideo = 64
	firstAudio = 8
	historyAge = 2 << 18 // 2 s
)

func (h *history) begin(video bool) {
	h.most = uint16(Repeatable(video))
	if h.slots = make([]slot, firstAudio); video {
		h.slots = make([]slot, firstVideo)
	}
}

// reaches reports whether get tells if the packet with a number was sent. last is the newest
// number that any packet has.
func (h *history) reaches(out, last int64) bool {
	return out <= last && last-out < int64(len(h.slots)) && out >= h.floor
}

// has reports whether the packet of a number is remembered.
func (h *history) has(number uint16) bool {
	s := &h.slots[h.slot(number)]
	return s.is(sentUsed) && s.out == number
}

// get is what is remembered of the packet of a number.
func (h *history) get(number uint16) (s sent, ok bool) {
	if !h.has(number) {
		return s, false
	}
	i := h.slot(number)
	if s.kept = h.kept(&h.slots[i]); h.more != nil && h.more.framings != nil {
		s.framing = h.more.framings[i]
	}
	return s, true
}

// kept is what is remembered of a slot's packet.
func (h *history) kept(s *slot) kept {
	k := kept{out: s.out, ext: uint32(s.ext), sendTime: s.sendTime, flags: s.flags}
	if s.origin != 0 {
		o := &h.origins[s.origin-1]
		k.layer, k.offset, k.generation = o.layer, o.offset, o.generation
		k.ext |= uint32(o.ext) << 16
	}
	return k
}

// originOf is the origin of a packet that is to be remembered.
func (h *history) originOf(k *kept) uint8 {
	o := origin{k.layer, k.offset, k.generation, uint16(k.ext >> 16)}
	if o.layer == nil && o.offset == 0 {
		return 0 // it is never sent again
	}
	if h.newest != 0 && h.origins[h.newest-1] == o {
		return h.newest
	}
	i := slices.Index(h.origins, o)
	if i < 0 {
		i = h.newOrigin()
		h.origins[i] = o
	}
	h.newest = uint8(i + 1)
	return h.newest
}

// newOrigin is the index for a new origin: one that no slot has any more. If all are in use
// and there may be no more, one is given up, and its packets are not sent again.
func (h *history) newOrigin() int {
	var used [mostOrigins + 1]bool
	for i := range h.slots {
		used[h.slots[i].origin] = true
	}
	free := -1
	for i := range h.origins {
		if !used[i+1] {
			h.origins[i] = origin{} // its layer may have ended
			free = i
		}
	}
	if n := len(h.origins); free < 0 && n < mostOrigins {
		h.origins = append(h.origins, origin{})
		return n
	}
	if free >= 0 {
		return free
	}
	given := int(h.newest) % mostOrigins
	for i := range h.slots {
		if int(h.slots[i].origin) == given+1 {
			h.slots[i].origin = 0
			if h.more != nil && h.more.framings != nil {
				h.more.framings[i].empty = 0
			}
		}
	}
	return given
}

// repeats are the retransmissions of the packet of a number, nil if it is not remembered.
// They are valid until the next put.
func (h *history) repeats(number uint16) *repeats {
	if !h.has(number) {
		return nil
	}
	d := h.detail()
	if d.repeated == nil {
		d.repeated = make([]repeats, len(h.slots))
	}
	return &d.repeated[h.slot(number)]
}

// left notes when a packet left that had waited.
func (h *history) left(number uint16, sendTime [3]byte) {
	if h.has(number) {
		h.slots[h.slot(number)].sendTime = sendTime
	}
}

// departed notes that a packet has left, and with what transport-wide number if numbered.
func (h *history) departed(number uint16, numbered bool, transport [2]byte) {
	if !h.has(number) {
		return
	}
	i := h.slot(number)
	h.slots[i].flags |= sentDeparted
	if !numbered {
		return
	}
	d := h.detail()
	if d.transports == nil {
		d.transports = make([][2]byte, len(h.slots))
	}
	d.transports[i] = transport
	h.slots[i].flags |= sentNumbered
}

// transport is the transport-wide number with which a packet left; false if it is not known.
func (h *history) transport(number uint16) (transport [2]byte, ok bool) {
	if !h.has(number) {
		return transport, false
	}
	i := h.slot(number)
	if !h.slots[i].is(sentNumbered) {
		return transport, false
	}
	return h.more.transports[i], true
}

// forget lets a packet not be repeated.
func (h *history) forget(number uint16) {
	if h.has(number) {
		h.slots[h.slot(number)].flags &^= sentUsed
	}
}

// forgot reports whether the packet of a number was sent, and gave way to a newer one.
func (h *history) forgot(number uint16) bool {
	s := &h.slots[h.slot(number)]
	return s.is(sentUsed) && int16(s.out-number) > 0
}

// put remembers the packet that is sent with a number, and notes the number in s.
func (h *history) put(out int64, s *sent) {
	s.out, s.flags = uint16(out), s.flags|sentUsed
	i := h.slot(s.out)
	for h.slots[i].is(sentUsed) && h.slots[i].out != s.out && len(h.slots) < int(h.most) && age(h.slots[i].sendTime, s.sendTime) < historyAge {
		h.grow()
		i = h.slot(s.out)
	}
	if h.more != nil || s.framing != (framing{}) {
		h.detail().put(i, h, out, s)
	}
	h.slots[i] = slot{out: s.out, ext: uint16(s.ext), sendTime: s.sendTime, flags: s.flags, origin: h.originOf(&s.kept)}
	h.last = max(h.last, out)
}

// put notes what a packet has that takes slot i of a history.
func (d *details) put(i int, h *history, out int64, s *sent) {
	if d.repeated != nil {
		if former := &h.slots[i]; former.is(sentUsed) && d.repeated[i].count > 0 {
			d.asked = max(d.asked, out-int64(uint16(out)-former.out))
		}
		d.repeated[i] = repeats{}
	}
	if d.framings == nil && s.framing != (framing{}) {
		d.framings = make([]framing, len(h.slots))
	}
	if d.framings != nil {
		d.framings[i] = s.framing
	}
}

func (h *history) slot(number uint16) int { return int(number) & (len(h.slots) - 1) }

func (h *history) grow() {
	former := h.slots
	h.floor = max(h.floor, h.last-int64(len(former))+1)
	h.slots = make([]slot, 2*len(former))
	if h.more != nil {
		h.more.framings = moved(h, former, h.more.framings)
		h.more.repeated = moved(h, former, h.more.repeated)
		h.more.transports = moved(h, former, h.more.transports)
	}
	for i := range former {
		if s := &former[i]; s.is(sentUsed) {
			h.slots[h.slot(s.out)] = *s
		}
	}
}

// moved is what belongs to the slots that a history had, at its present slots.
func moved[T any](h *history, former []slot, of []T) []T {
	if of == nil {
		return nil
	}
	to := make([]T, len(h.slots))
	for i := range former {
		if s := &former[i]; s.is(sentUsed) {
			to[h.slot(s.out)] = of[i]
		}
	}
	return to
}

// age is the time from one abs-send-time to another, which wraps after 64 s.
func age(from, to [3]byte) uint32 {
	return (absolute(to) - absolute(from)) & (1<<24 - 1)
}

func absolute(t [3]byte) uint32 { return uint32(t[0])<<16 | uint32(t[1])<<8 | uint32(t[2]) }
