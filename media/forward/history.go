package forward

// history are the last packets of a forwarder, as they are remembered for retransmission.
// A packet is retransmitted if the history knows its number and the layer's cache, which
// has an age of its own, still has its payload. The history begins small and grows while it
// would forget packets that are not old yet: most subscriptions are silent, or of a small
// picture.
type history struct {
	slots []sent // by outgoing number modulo their count, a power of two
	most  int    // bound of that count
	last  int64  // newest number
	floor int64  // no older number is known for sure: there were fewer slots
	asked int64  // newest of the forgotten packets that the receiver had asked for; 0: none
}

// Sizes of a history at its beginning, and the age up to which it remembers packets if
// its bound permits, in units of abs-send-time.
const (
	firstVideo = 64
	firstAudio = 8
	historyAge = 2 << 18 // 2 s
)

func (h *history) begin(video bool) {
	h.most = Repeatable(video)
	if h.slots = make([]sent, firstAudio); video {
		h.slots = make([]sent, firstVideo)
	}
}

// reaches reports whether get tells if the packet with a number was sent. last is the newest
// number that any packet has.
func (h *history) reaches(out, last int64) bool {
	return out <= last && last-out < int64(len(h.slots)) && out >= h.floor
}

// get is what is remembered of the packet of that number, nil if nothing is. It is valid
// until the next put.
func (h *history) get(number uint16) *sent {
	if s := h.slot(number); s.is(sentUsed) && s.out == number {
		return s
	}
	return nil
}

// forgot reports whether the packet of a number was sent, and gave way to a newer one.
func (h *history) forgot(number uint16) bool {
	s := h.slot(number)
	return s.is(sentUsed) && int16(s.out-number) > 0
}

// put remembers the packet that is sent with a number.
func (h *history) put(out int64, s sent) *sent {
	s.out, s.flags = uint16(out), s.flags|sentUsed
	slot := h.slot(s.out)
	for slot.is(sentUsed) && slot.out != s.out && len(h.slots) < h.most && age(slot.sendTime, s.sendTime) < historyAge {
		h.grow()
		slot = h.slot(s.out)
	}
	if slot.is(sentUsed) && slot.answers > 0 {
		h.asked = max(h.asked, out-int64(uint16(out)-slot.out))
	}
	*slot = s
	h.last = max(h.last, out)
	return slot
}

func (h *history) slot(number uint16) *sent { return &h.slots[number&uint16(len(h.slots)-1)] }

func (h *history) grow() {
	former := h.slots
	h.floor = max(h.floor, h.last-int64(len(former))+1)
	h.slots = make([]sent, 2*len(former))
	for i := range former {
		if s := &former[i]; s.is(sentUsed) {
			*h.slot(s.out) = *s
		}
	}
}

// age is the time from one abs-send-time to another, which wraps after 64 s.
func age(from, to [3]byte) uint32 {
	return (absolute(to) - absolute(from)) & (1<<24 - 1)
}

func absolute(t [3]byte) uint32 { return uint32(t[0])<<16 | uint32(t[1])<<8 | uint32(t[2]) }
