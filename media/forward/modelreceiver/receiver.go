// Package modelreceiver is a model of a video receiver, for tests. It reads the packets
// of a subscriber, orders and relates the frames as browsers with libwebrtc do, and says
// of each frame when it could be decoded, or why not.
//
// Frames are ordered by their dependency descriptors if they have any, else by picture id
// and TL0PICIDX (VP8 and VP9), else by RTP sequence number. A frame that is older than
// the newest decoded one is dropped. A frame waits for its missing references. If no
// frame was decoded for a while, the receiver asks for a keyframe.
//
// The model is stricter than browsers: they may take a keyframe with a lower number for a
// new beginning, and the model drops it.
package modelreceiver

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"

	"parlor/media/downlink/sent"
)

// How long a receiver waits before it asks for a keyframe: before the first decoded
// frame, and later.
const (
	firstKeyWait = 200 * time.Millisecond
	laterKeyWait = 3 * time.Second
)

// hold is how long after the time at which a frame would have come without a queue it waits
// for missing packets before it, if it is decodable. Browsers show a frame at the time that
// its timestamp says, plus a delay that depends on the jitter, and wait no longer: a frame
// that comes later than that is shown at once.
const hold = 150 * time.Millisecond

// clockRate is that of the timestamps of video, in Hz.
const clockRate = 90_000

// forgetEarly: the distance to the earliest frames is forgotten by one part in so many with
// each frame, because the timestamps may jump, and the path may become longer.
const forgetEarly = 64

// Config is what a receiver negotiated.
type Config struct {
	SSRC uint32
	// Codecs are MIME types by payload type, as "video/VP8".
	Codecs map[uint8]string
	// RTX maps payload types of retransmissions to those of the original packets.
	RTX map[uint8]uint8
	// DescriptorID is the id of the dependency descriptor's header extension; 0 = none.
	DescriptorID uint8
	// Now is the clock.
	Now func() time.Time
	// AskForKey is called when a browser would send a PLI; may be nil.
	AskForKey func()
}

// Frame is what became of a frame. Each spatial layer of a picture is one frame.
type Frame struct {
	Timestamp         uint32
	First, Last       int64 // RTP sequence numbers, unwrapped
	Codec             string
	Key               bool
	Spatial, Temporal int
	Complete          time.Time // arrival of its last packet
	Decoded           time.Time // zero: it was not decoded
	// Why it was not decoded:
	Why string

	late time.Duration // how much later than the earliest recent ones it came, by its timestamp
	id   int64
	refs []int64
	// chained: it depends on the frame whose last packet is just before its first packet,
	// whichever frame that is.
	chained bool
	base    int64
	payload [][]byte
	first   *packet

	// picture and period are its picture id and TL0PICIDX, if they are unwrapped.
	picture, period int64
	unwrapped       bool
}

// Receiver receives one SSRC. It is not safe for concurrent use.
type Receiver struct {
	cfg      Config
	packets  map[int64]*packet
	newest   int64 // sequence number
	lowest   int64
	started  bool
	frames   []*Frame
	waiting  []*Frame // complete but not decoded
	early    early
	stash    []*Frame // complete, but with unknown dependencies
	decoded  map[int64]bool
	lastID   int64  // of the newest decoded frame
	related  uint32 // newest timestamp of a complete frame
	any      bool   // some frame was decoded
	askedAt  time.Time
	since    time.Time // time of the last decoded frame, or of the first packet
	asked    int
	dropped  []string // packets that could not be related to a frame
	codec    string
	base     int64 // added to the ids of the present codec
	finder   string
	numbers  unwrapper // of descriptors
	pictures unwrapper
	tl0      unwrapper
	current  *structure
	strucID  int64
	vp8      map[int64]map[int]int64 // TL0PICIDX to temporal layer to id of the newest frame
	vp9      vp9State
}

type packet struct {
	seq         int64
	timestamp   uint32
	codec       string
	marker      bool
	first, last bool
	padding     bool
	dd          *descriptor
	id          int64 // of dd
	payload     []byte
	done        bool // part of a complete frame
}

// New makes a receiver.
func New(cfg Config) *Receiver {
	return &Receiver{
		cfg: cfg, packets: map[int64]*packet{}, decoded: map[int64]bool{}, vp8: map[int64]map[int]int64{},
		numbers: unwrapper{bits: 16}, pictures: unwrapper{bits: 15}, tl0: unwrapper{bits: 8},
	}
}

// Write takes a packet as it comes from the wire. It keeps neither h nor payload. With
// the next three methods a receiver is a forwarder's output.
func (r *Receiver) Write(h *rtp.Header, payload []byte, _ sent.Kind) error {
	now := r.cfg.Now()
	seq, pt := h.SequenceNumber, h.PayloadType
	if original, ok := r.cfg.RTX[pt]; ok {
		if len(payload) < 2 {
			return nil
		}
		seq, pt, payload = uint16(payload[0])<<8|uint16(payload[1]), original, payload[2:]
	} else if h.SSRC != r.cfg.SSRC {
		return nil
	}
	codec, ok := r.cfg.Codecs[pt]
	if !ok {
		r.drop("packet %d of an unknown payload type %d", seq, pt)
		return nil
	}
	p := &packet{
		seq: r.unwrapSequence(seq), timestamp: h.Timestamp, codec: strings.ToLower(codec), marker: h.Marker,
		padding: len(payload) == 0, payload: slices.Clone(payload),
	}
	if r.packets[p.seq] != nil {
		return nil
	}
	if r.since.IsZero() {
		r.since = now
	}
	if !p.padding && !r.describe(p, h) {
		r.Tick()
		return nil
	}
	r.packets[p.seq] = p
	r.assemble(p, now)
	r.Tick()
	return nil
}

// Flush does nothing: a browser does not see the ends of bursts.
func (r *Receiver) Flush() {}

// WriteRTCP does nothing: the model needs no reports.
func (r *Receiver) WriteRTCP([]rtcp.Packet) error { return nil }

// End does nothing.
func (r *Receiver) End() {}

func (r *Receiver) drop(format string, args ...any) {
	r.dropped = append(r.dropped, fmt.Sprintf(format, args...))
}

func (r *Receiver) unwrapSequence(n uint16) int64 {
	if !r.started {
		r.started, r.newest, r.lowest = true, int64(n), int64(n)
		return r.newest
	}
	seq := r.newest + int64(int16(n-uint16(r.newest)))
	r.newest, r.lowest = max(r.newest, seq), min(r.lowest, seq)
	return seq
}

// describe finds the position of p in its frame; false if p cannot be used.
func (r *Receiver) describe(p *packet, h *rtp.Header) bool {
	p.last = p.marker
	var raw []byte
	if r.cfg.DescriptorID != 0 {
		raw = h.GetExtension(r.cfg.DescriptorID)
	}
	if len(raw) > 0 {
		d, err := parseDescriptor(raw, r.current)
		if err != nil {
			r.drop("packet %d: its descriptor cannot be read with the structure in force", p.seq)
			return false
		}
		if d.attached != nil && !d.first {
			r.drop("packet %d: a structure in the middle of a frame", p.seq)
			return false
		}
		p.dd, p.id, p.first, p.last = &d, r.numbers.unwrap(int64(d.number)), d.first, d.last
		if d.attached != nil {
			if r.current != nil && r.strucID > p.id {
				r.drop("packet %d: key frame %d is older than the last one, %d", p.seq, p.id, r.strucID)
				return false
			}
			r.current, r.strucID = d.attached, p.id
		}
		return true
	}
	switch p.codec {
	case "video/vp8":
		p.first = len(p.payload) > 0 && p.payload[0]&0x10 != 0 && p.payload[0]&0x07 == 0
	case "video/vp9":
		p.first = len(p.payload) > 0 && p.payload[0]&0x08 != 0
		p.last = len(p.payload) > 0 && p.payload[0]&0x04 != 0
	}
	return true
}

// begins reports whether a frame begins with p. For codecs that do not mark it, a frame
// begins where the timestamp changes.
func (r *Receiver) begins(p *packet) bool {
	if p.first || p.dd != nil || p.codec == "video/vp8" || p.codec == "video/vp9" {
		return p.first
	}
	before := r.packets[p.seq-1]
	if before == nil {
		return p.seq == r.lowest || startsKey(p.codec, p.payload)
	}
	return before.padding || before.timestamp != p.timestamp
}

// assemble makes a frame if p completes one.
func (r *Receiver) assemble(p *packet, now time.Time) {
	if p.padding {
		if next := r.packets[p.seq+1]; next != nil && !next.padding {
			r.assemble(next, now)
		}
		return
	}
	first, last := p, p
	for !r.begins(first) {
		before := r.packets[first.seq-1]
		if before == nil || before.padding || before.timestamp != p.timestamp || before.done {
			return
		}
		first = before
	}
	for !last.last {
		next := r.packets[last.seq+1]
		if next == nil || next.padding || next.timestamp != p.timestamp {
			return
		}
		last = next
	}
	if first.done {
		return
	}
	var payload [][]byte
	for seq := first.seq; seq <= last.seq; seq++ {
		r.packets[seq].done = true
		payload = append(payload, r.packets[seq].payload)
	}
	f := &Frame{Timestamp: p.timestamp, First: first.seq, Last: last.seq, Codec: p.codec, Complete: now, payload: payload, first: first}
	f.late = r.early.late(f.Timestamp, now)
	r.frames = append(r.frames, f)
	for stash := append(r.stash, f); len(stash) > 0; {
		before := len(stash)
		r.stash = nil
		for _, f := range stash {
			if f.unwrapped && r.any && f.id+r.base < r.lastID {
				continue // it is too old to be decoded
			}
			r.relate(f)
		}
		if stash = r.stash; len(stash) == before {
			break // no more dependencies have become known
		}
	}
	// A frame of a codec without marked beginnings may follow.
	if next := r.packets[last.seq+1]; next != nil && !next.done {
		r.assemble(next, now)
	}
}

// relate finds the frames that f depends on.
func (r *Receiver) relate(f *Frame) {
	first, payload := f.first, f.payload
	newer := r.codec == "" || int32(f.Timestamp-r.related) > 0
	if f.Codec != r.codec {
		if !newer {
			f.Why = "of the codec before, or not later than it"
			return
		}
		// The ids of another codec begin above all former ids.
		r.codec = f.Codec
		r.rebase()
	}
	if newer {
		r.related = f.Timestamp
	}
	finder := "numbers"
	ok := true
	switch {
	case first.dd != nil:
		finder = "descriptor"
	case f.Codec == "video/vp8" && hasPictureID(payload[0]):
		finder = "vp8"
	case f.Codec == "video/vp9":
		finder = "vp9"
	}
	if r.finder != "" && r.finder != finder {
		// Its ids are still compared with the former ones, though they count something
		// else.
		r.vp8, r.vp9 = map[int64]map[int]int64{}, vp9State{}
	}
	r.finder = finder
	switch finder {
	case "descriptor":
		d := first.dd
		f.Key, f.Spatial, f.Temporal = d.attached != nil, d.spatial, d.temporal
		f.id = first.id
		for _, diff := range d.diffs {
			f.refs = append(f.refs, f.id-int64(diff))
		}
	case "vp8":
		ok = r.relateVP8(f, payload[0])
	case "vp9":
		ok = r.relateVP9(f, payload[0])
	default:
		r.relateNumbers(f, payload)
	}
	if !ok {
		r.stash = append(r.stash, f)
		return
	}
	f.Why, f.base = "", r.base
	f.id += r.base
	for i := range f.refs {
		f.refs[i] += r.base
	}
	r.waiting = append(r.waiting, f)
}

// rebase makes ids begin above all former ids, because they count something else.
func (r *Receiver) rebase() {
	r.base = r.lastID + 1<<20
	r.vp8, r.vp9 = map[int64]map[int]int64{}, vp9State{}
}

// relateNumbers is for codecs that do not describe their frames: each frame depends on
// the one before, and every packet between must have arrived.
func (r *Receiver) relateNumbers(f *Frame, payload [][]byte) {
	f.id = f.Last
	f.Key = slices.ContainsFunc(payload, func(b []byte) bool { return keyPayload(f.Codec, b) })
	f.chained = !f.Key
}

// Tick must be called when time has passed.
func (r *Receiver) Tick() {
	now := r.cfg.Now()
	for r.decodeNext(now) {
	}
	if r.since.IsZero() {
		return
	}
	wait := firstKeyWait
	if r.any {
		wait = laterKeyWait
	}
	if now.Sub(r.since) >= wait && now.Sub(r.askedAt) >= wait {
		r.askedAt = now
		r.asked++
		if r.cfg.AskForKey != nil {
			r.cfg.AskForKey()
		}
	}
}

// decodeNext decodes the oldest decodable frame, and reports whether there was one.
func (r *Receiver) decodeNext(now time.Time) bool {
	var next *Frame
	for i := 0; i < len(r.waiting); {
		f := r.waiting[i]
		if r.any && f.id <= r.lastID {
			f.Why = fmt.Sprintf("frame %d is not newer than %d, which was decoded", f.id, r.lastID)
			r.waiting = slices.Delete(r.waiting, i, i+1)
			continue
		}
		i++
		if r.decodable(f) && (next == nil || f.id < next.id) {
			next = f
		}
	}
	if next == nil || !r.due(next, now) {
		return false
	}
	next.Decoded = now
	r.decoded[next.id] = true
	r.lastID, r.any = next.id, true
	r.since = now
	r.waiting = slices.DeleteFunc(r.waiting, func(f *Frame) bool { return f == next })
	return true
}

func (r *Receiver) decodable(f *Frame) bool {
	if !f.Key && !r.any {
		return false
	}
	if f.chained {
		before := f.First - 1
		for r.packets[before] != nil && r.packets[before].padding {
			before--
		}
		return r.decoded[before+f.base]
	}
	for _, ref := range f.refs {
		if !r.decoded[ref] {
			return false
		}
	}
	return true
}

// due reports whether f need not wait for packets before it.
func (r *Receiver) due(f *Frame, now time.Time) bool {
	if now.Sub(f.Complete) >= hold-f.late {
		return true
	}
	for seq := f.First - 1; ; seq-- {
		p := r.packets[seq]
		if p == nil {
			return seq < r.lowest
		}
		if p.done {
			return true
		}
	}
}

// early relates timestamps to the times at which the earliest of the recent frames came.
type early struct {
	at        time.Time // when a frame with timestamp would have come, if it were one of them
	timestamp uint32
}

// late is how much later than the earliest of the recent frames one came.
func (e *early) late(timestamp uint32, now time.Time) time.Duration {
	if e.at.IsZero() {
		e.at, e.timestamp = now, timestamp
		return 0
	}
	passed := time.Duration(int32(timestamp-e.timestamp)) * time.Second / clockRate
	late := max(now.Sub(e.at.Add(passed)), 0)
	e.at, e.timestamp = now.Add(late/forgetEarly-late), timestamp
	return late
}

// Frames are the complete frames in order of completion. Each one that was not decoded
// has the reason in Why.
func (r *Receiver) Frames() []Frame {
	frames := make([]Frame, 0, len(r.frames))
	for _, f := range r.frames {
		c := *f
		if c.Decoded.IsZero() && c.Why == "" {
			c.Why = fmt.Sprintf("frame %d needs %v", c.id, slices.DeleteFunc(slices.Clone(c.refs), func(id int64) bool { return r.decoded[id] }))
		}
		frames = append(frames, c)
	}
	return frames
}

// Dropped lists the packets that belong to no frame, with the reason.
func (r *Receiver) Dropped() []string { return r.dropped }

// Payloads are the payloads of the frame's packets.
func (f *Frame) Payloads() [][]byte { return f.payload }

// ID is the frame's number in the order of decoding.
func (f *Frame) ID() int64 { return f.id }

// Needs are the ids of the frames that f depends on. chained: it depends on the frame
// before it, whatever its id.
func (f *Frame) Needs() (ids []int64, chained bool) { return f.refs, f.chained }

// Fragments is the number of received packets that belong to no complete frame.
func (r *Receiver) Fragments() (n int) {
	for _, p := range r.packets {
		if !p.done && !p.padding {
			n++
		}
	}
	return n
}

// Asked is how often the receiver asked for a keyframe.
func (r *Receiver) Asked() int { return r.asked }

// unwrapper extends numbers that wrap around after so many bits.
type unwrapper struct {
	bits    int
	last    int64
	started bool
}

func (u *unwrapper) unwrap(n int64) int64 {
	if !u.started {
		u.started, u.last = true, n
		return n
	}
	size := int64(1) << u.bits
	diff := (n - u.last) & (size - 1)
	if diff >= size/2 {
		diff -= size
	}
	u.last += diff
	return u.last
}
