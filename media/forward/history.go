package forward

// history are the last packets of a forwarder, as they are remembered for retransmission.
// It begins small and grows while it would forget packets that are not old yet: most
// subscriptions are silent, or of a small picture.
type history struct {
	slots []sent // by outgoing number modulo their count, a power of two
	most  int    // bound of that count
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

// size is how many numbers back a packet may be remembered.
func (h *history) size() int64 { return int64(len(h.slots)) }

// get is what is remembered of the packet of that number, nil if nothing is. It is valid
// until the next put.
func (h *history) get(number uint16) *sent {
	if s := h.slot(number); s.used && s.out == number {
		return s
	}
	return nil
}

// put remembers a packet.
func (h *history) put(s sent) *sent {
	slot := h.slot(s.out)
	for slot.used && slot.out != s.out && len(h.slots) < h.most && age(slot.sendTime, s.sendTime) < historyAge {
		h.grow()
		slot = h.slot(s.out)
	}
	*slot = s
	return slot
}

func (h *history) slot(number uint16) *sent { return &h.slots[number&uint16(len(h.slots)-1)] }

func (h *history) grow() {
	former := h.slots
	h.slots = make([]sent, 2*len(former))
	for i := range former {
		if s := &former[i]; s.used {
			*h.slot(s.out) = *s
		}
	}
}

// age is the time from one abs-send-time to another, which wraps after 64 s.
func age(from, to [3]byte) uint32 {
	return (absolute(to) - absolute(from)) & (1<<24 - 1)
}

func absolute(t [3]byte) uint32 { return uint32(t[0])<<16 | uint32(t[1])<<8 | uint32(t[2]) }
