package forward

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pion/rtcp"
)

// Feedback is sent soon after the end of a frame, at the latest after twccMaxInterval,
// and before it grows large.
const (
	twccMinInterval = 40 * time.Millisecond
	twccMaxInterval = 100 * time.Millisecond
	twccMaxPackets  = 200
	twccWindow      = 1 << 12 // sequence numbers that can be told apart
)

// A packet that comes after feedback has called it lost is told of by the next one, which
// begins with it. libwebrtc does the same, and takes it from others: without that, reordering
// is loss to the sender.
const (
	twccBack    = 512 // numbers below the highest one, so that feedback stays small
	twccBackAge = 500 * time.Millisecond
)

// twccUnit is the unit of arrival times (transport-wide congestion control draft, section
// 3.1).
const (
	twccUnit      = 250 * time.Microsecond
	twccReference = 64 * time.Millisecond
)

// TWCC records the arrivals of the packets of one transport and sends feedback
// (draft-holmer-rmcat-transport-wide-cc-extensions-01). Its methods may be called
// concurrently. It has no goroutine: feedback is sent when packets arrive, and by the
// ticks of the layers that use it.
type TWCC struct {
	send func([]rtcp.Packet) error
	ssrc uint32

	mu       sync.Mutex // guards the following
	media    uint32
	epoch    time.Time
	arrivals [twccWindow]int64 // ns since epoch, of the numbers up to max; 0 = did not arrive
	started  bool
	next     int64 // first number of the next feedback; above max-twccWindow
	max      int64 // highest that arrived
	pending  int   // arrivals not yet reported
	lastSent int64
	count    uint8
	closed   bool
}

// NewTWCC makes a TWCC that sends feedback with send.
func NewTWCC(send func([]rtcp.Packet) error) *TWCC {
	return &TWCC{send: send, ssrc: rand.Uint32()}
}

// SetMediaSSRC names a stream of the transport to which feedback is addressed. Some
// senders route feedback by it.
func (t *TWCC) SetMediaSSRC(ssrc uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.media = ssrc
}

// Record records the arrival of a packet. marker: the packet ends a frame.
func (t *TWCC) Record(seq uint16, arrival time.Time, marker bool) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return
	}
	if !t.started {
		t.epoch = arrival.Add(-time.Second) // so that no arrival is 0
		t.next = 1<<16 + int64(seq)
		t.max = t.next - 1
		t.lastSent = int64(time.Second)
		t.started = true
	}
	now := max(int64(arrival.Sub(t.epoch)), 1)
	t.note(seq, now)
	elapsed := time.Duration(now - t.lastSent)
	due := elapsed >= twccMaxInterval || marker && elapsed >= twccMinInterval || t.pending >= twccMaxPackets
	var feedback []rtcp.Packet
	if due {
		feedback = t.feedback(now)
	}
	t.mu.Unlock()
	t.emit(feedback)
}

// note stores an arrival. mu is held.
func (t *TWCC) note(seq uint16, now int64) {
	ext := t.max + int64(int16(seq-uint16(t.max)))
	switch {
	case ext >= t.next+twccWindow:
		// After a jump, the numbers in between are ambiguous.
		t.arrivals = [twccWindow]int64{}
		t.next, t.pending = ext, 0
	case ext > t.max:
		for n := t.max + 1; n <= ext; n++ {
			t.arrivals[n%twccWindow] = 0 // of a number twccWindow lower
		}
	case ext < 0 || ext <= t.max-twccWindow:
		return // too old to matter
	case t.arrivals[ext%twccWindow] != 0:
		return // duplicate
	case ext < t.next && !t.correctable(ext, now):
		return
	}
	t.arrivals[ext%twccWindow] = now
	t.pending++
	t.next, t.max = min(t.next, ext), max(t.max, ext)
}

// correctable reports whether a number that was reported as lost may be reported again. Its
// age is that of the next one that arrived. mu is held.
func (t *TWCC) correctable(ext, now int64) bool {
	if ext <= t.max-twccBack {
		return false
	}
	for ext++; ext < t.max && t.arrivals[ext%twccWindow] == 0; ext++ {
	}
	return time.Duration(now-t.arrivals[ext%twccWindow]) < twccBackAge
}

// flush sends feedback that has waited for twccMaxInterval.
func (t *TWCC) flush(at time.Time) {
	t.mu.Lock()
	var feedback []rtcp.Packet
	if now := int64(at.Sub(t.epoch)); t.started && !t.closed && time.Duration(now-t.lastSent) >= twccMaxInterval {
		feedback = t.feedback(now)
	}
	t.mu.Unlock()
	t.emit(feedback)
}

func (t *TWCC) emit(feedback []rtcp.Packet) {
	if len(feedback) > 0 {
		// A transport that cannot send is ending, and its owner knows.
		_ = t.send(feedback)
	}
}

// Close ends the feedback.
func (t *TWCC) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// feedback makes packets of all pending arrivals. mu is held.
func (t *TWCC) feedback(now int64) (packets []rtcp.Packet) {
	t.lastSent = now
	if t.pending == 0 {
		return nil
	}
	t.pending = 0
	for t.next <= t.max {
		packets = append(packets, t.one())
	}
	return packets
}

// one makes a packet of arrivals from t.next on, as far as deltas can express. mu is
// held.
func (t *TWCC) one() *rtcp.TransportLayerCC {
	first := t.next
	came := first
	for t.arrivals[came%twccWindow] == 0 {
		came++ // max arrived
	}
	reference := t.arrivals[came%twccWindow] / int64(twccReference)
	fb := &rtcp.TransportLayerCC{
		SenderSSRC: t.ssrc, MediaSSRC: t.media,
		BaseSequenceNumber: uint16(first),
		ReferenceTime:      uint32(reference) & 0xffffff,
		FbPktCount:         t.count,
	}
	t.count++
	var chunks twccChunks
	last := reference * int64(twccReference/twccUnit)
	n := 0
	for ; t.next <= t.max && n < twccMaxPackets*2; t.next++ {
		slot := &t.arrivals[t.next%twccWindow]
		if *slot == 0 {
			chunks.add(rtcp.TypeTCCPacketNotReceived)
			n++
			continue
		}
		units := *slot / int64(twccUnit)
		delta := units - last
		if delta > 32767 || delta < -32768 {
			break // the next packet has its own reference time
		}
		last = units
		symbol := rtcp.TypeTCCPacketReceivedSmallDelta
		if delta < 0 || delta > 255 {
			symbol = rtcp.TypeTCCPacketReceivedLargeDelta
		}
		chunks.add(symbol)
		fb.RecvDeltas = append(fb.RecvDeltas, &rtcp.RecvDelta{Type: symbol, Delta: delta * int64(twccUnit/time.Microsecond)})
		n++
	}
	fb.PacketStatusCount = uint16(n)
	fb.PacketChunks = chunks.done()
	size := 20 + 2*len(fb.PacketChunks)
	for _, d := range fb.RecvDeltas {
		size++
		if d.Type == rtcp.TypeTCCPacketReceivedLargeDelta {
			size++
		}
	}
	padded := (size + 3) &^ 3
	fb.Header = rtcp.Header{
		Padding: padded != size,
		Count:   rtcp.FormatTCC,
		Type:    rtcp.TypeTransportSpecificFeedback,
		Length:  uint16(padded/4 - 1),
	}
	return fb
}

// twccChunks encodes packet statuses (section 3.1.2 of the draft).
type twccChunks struct{ symbols []uint16 }

func (c *twccChunks) add(symbol uint16) { c.symbols = append(c.symbols, symbol) }

func (c *twccChunks) done() (chunks []rtcp.PacketStatusChunk) {
	const maxRun = 1<<13 - 1
	for s := c.symbols; len(s) > 0; {
		run := 1
		for run < len(s) && run < maxRun && s[run] == s[0] {
			run++
		}
		if run >= 7 || run == len(s) {
			chunks = append(chunks, &rtcp.RunLengthChunk{
				Type: rtcp.TypeTCCRunLengthChunk, PacketStatusSymbol: s[0], RunLength: uint16(run),
			})
			s = s[run:]
			continue
		}
		size, n := uint16(rtcp.TypeTCCSymbolSizeTwoBit), 7
		if !hasLarge(s, 14) {
			size, n = rtcp.TypeTCCSymbolSizeOneBit, 14
		}
		list := make([]uint16, n)
		used := copy(list, s)
		chunks = append(chunks, &rtcp.StatusVectorChunk{
			Type: rtcp.TypeTCCStatusVectorChunk, SymbolSize: size, SymbolList: list,
		})
		s = s[used:]
	}
	return chunks
}

// hasLarge reports whether a large delta is among the first n symbols.
func hasLarge(s []uint16, n int) bool {
	for _, v := range s[:min(n, len(s))] {
		if v == rtcp.TypeTCCPacketReceivedLargeDelta {
			return true
		}
	}
	return false
}
