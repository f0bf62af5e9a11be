package media

import (
	"encoding/binary"
	"io"
	"iter"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/transport/v5/packetio"
	"golang.org/x/time/rate"

	"parlor/media/forward"
)

// Bounds on packets whose layer is not known yet. A stream parks about a second of
// high-definition video, so that its first keyframe is not lost.
const (
	parkedPackets = 256
	parkedBytes   = 4 << 20 // of all streams of a transport
)

// rtpSink takes the packets of one stream. The bytes are valid only during the call.
type rtpSink func(packet []byte, arrival time.Time)

// ingress is where a transport's decrypted packets arrive. The first packets of a stream
// arrive on pion's reading goroutines: one for RTP, one for RTCP. Pion asks the ingress
// for a buffer per SSRC (webrtc.SettingEngine.BufferFactory) and reads the buffer only to
// learn to which section a stream belongs. From then on packets go straight to the
// stream's sink, and the transport's intake decrypts them without pion.
type ingress struct {
	// feedback takes raw transport-wide feedback; nil drops it. It is set before the
	// first packet arrives.
	feedback func(raw []byte)
	// excess counts the feedback that is dropped because the client sends too much. It is set before
	// the first packet arrives.
	excess *atomic.Uint64
	// affords is how much feedback may come that srtpin does not take by itself.
	affords *rate.Limiter
	// unparked counts the packets that are dropped because too many are parked. It is set
	// before the first packet arrives.
	unparked *atomic.Uint64

	parked atomic.Int64 // bytes
	facts  atomic.Pointer[ingressFacts]

	// mu guards the following.
	mu      sync.Mutex
	streams map[uint32]*rtpStream
	sources map[uint32]*source // SSRCs of authentic packets; never removed
	rtcp    map[uint32]func([]rtcp.Packet)
	// credit is how many more streams pion may begin. Pion keeps some state of each
	// stream for as long as the transport lives.
	credit   int
	creditAt time.Time
	flooded  func() // called once, when no credit is left or there are too many sources; then nil
}

// A client may begin streamBurst streams at once, and one more each streamInterval. A
// client that toggles a simulcast camera begins six.
const (
	streamBurst    = 1024
	streamInterval = 200 * time.Millisecond
)

// ingressFacts is what the negotiation says about packets that have no sink. It does not
// change once stored.
type ingressFacts struct {
	ext    forward.Extensions
	twcc   *forward.TWCC // nil: no transport-wide feedback
	remb   *forward.REMB // nil: no estimate for the client
	repair func(ssrc uint32, mid, rid string)
}

// newIngress makes an ingress. It calls flooded on a reading goroutine, so flooded must
// do no more than post to the loop.
func newIngress(flooded func()) *ingress {
	return &ingress{
		streams: map[uint32]*rtpStream{}, sources: map[uint32]*source{}, rtcp: map[uint32]func([]rtcp.Packet){},
		credit: streamBurst, creditAt: time.Now(), flooded: flooded, unparked: new(atomic.Uint64),
		excess: new(atomic.Uint64), affords: rate.NewLimiter(feedbackRate, feedbackBurst),
	}
}

// began takes one stream off the credit.
func (in *ingress) began(now time.Time) {
	in.mu.Lock()
	if n := int(now.Sub(in.creditAt) / streamInterval); n > 0 {
		in.credit = min(in.credit+n, streamBurst)
		in.creditAt = now
	}
	in.credit--
	var flooded func()
	if in.credit < 0 {
		flooded, in.flooded = in.flooded, nil
	}
	in.mu.Unlock()
	if flooded != nil {
		flooded()
	}
}

// buffer implements webrtc.SettingEngine.BufferFactory.
func (in *ingress) buffer(kind packetio.BufferPacketType, ssrc uint32) io.ReadWriteCloser {
	in.began(time.Now())
	if kind == packetio.RTCPBufferPacket {
		return &rtcpStream{in: in, ssrc: ssrc, closed: make(chan struct{})}
	}
	s := in.stream(ssrc)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = true
	return s
}

// stream returns the stream of an SSRC, and makes it if it is new.
func (in *ingress) stream(ssrc uint32) *rtpStream {
	in.mu.Lock()
	defer in.mu.Unlock()
	s := in.streams[ssrc]
	if s == nil {
		s = &rtpStream{in: in, ssrc: ssrc, source: in.sources[ssrc]}
		s.wake.L = &s.mu
		in.streams[ssrc] = s
		if s.source != nil {
			s.source.stream.Store(s)
		}
	}
	return s
}

// whenFirst calls f once with the payload type of the stream's next packet, or at once if
// a packet is parked. f runs on a reading goroutine and must do no more than post to the
// loop. Packets are parked until attach.
func (in *ingress) whenFirst(ssrc uint32, f func(pt uint8)) {
	s := in.stream(ssrc)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sink, s.attached = nil, false
	if len(s.queue) > 0 {
		f(s.queue[0].bytes[1] & 0x7f)
		return
	}
	s.first = f
}

// firstType is the payload type of the oldest parked packet; false if none is parked.
func (in *ingress) firstType(ssrc uint32) (pt uint8, ok bool) {
	s := in.stream(ssrc)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return 0, false
	}
	return s.queue[0].bytes[1] & 0x7f, true
}

// skipFirst drops the oldest parked packet.
func (in *ingress) skipFirst(ssrc uint32) {
	s := in.stream(ssrc)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) > 0 {
		in.parked.Add(-int64(len(s.queue[0].bytes)))
		s.queue = s.queue[1:]
		s.next = max(0, s.next-1)
	}
}

// taker takes the packets of a stream.
type taker struct {
	sink rtpSink
	// wide reports whether each packet causes much work, because it goes to many.
	wide func() bool
	// again is called at most once per second when packets arrive after pion has closed
	// the stream. It runs on a reading goroutine and must do no more than post to the loop.
	again func()
}

// attach gives the packets of ssrc to a taker, the parked packets first.
func (in *ingress) attach(ssrc uint32, t taker) {
	s := in.stream(ssrc)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.queue {
		t.sink(p.bytes, p.arrival)
	}
	s.dropQueueLocked()
	s.sink, s.taker, s.attached, s.first = t.sink, t, true, nil
	if s.source != nil {
		s.source.attach(t)
	}
}

// detach drops the packets of ssrc from now on. When it returns, the stream's former sink
// is not running and will not run.
func (in *ingress) detach(ssrc uint32) {
	s := in.stream(ssrc)
	s.mu.Lock()
	s.dropQueueLocked()
	s.sink, s.attached, s.first = nil, true, nil
	live := s.live
	s.mu.Unlock()
	if !live {
		in.forget(s)
	}
}

// onRTCP gives the RTCP packets that concern ssrc to f; nil removes the function.
func (in *ingress) onRTCP(ssrc uint32, f func([]rtcp.Packet)) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if f == nil {
		delete(in.rtcp, ssrc)
		return
	}
	in.rtcp[ssrc] = f
}

func (in *ingress) rtcpHandler(ssrc uint32) func([]rtcp.Packet) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.rtcp[ssrc]
}

func (in *ingress) forget(s *rtpStream) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.streams[s.ssrc] == s {
		delete(in.streams, s.ssrc)
		if src := in.sources[s.ssrc]; src != nil {
			src.stream.Store(nil)
		}
	}
}

// rtpStream is the packets of one SSRC. They are parked until a sink is attached, and
// then passed to it.
type rtpStream struct {
	in   *ingress
	ssrc uint32

	// mu guards the following. It is held while the sink runs, so that parked packets and
	// arriving packets reach the sink one after the other, and so that the former sink is
	// not running when detach returns.
	mu       sync.Mutex
	wake     sync.Cond
	source   *source // nil before the first packet
	live     bool    // pion uses it
	closed   bool
	attached bool
	sink     rtpSink // nil while attached: packets are dropped
	taker    taker   // the taker of sink
	first    func(pt uint8)
	queue    []parkedPacket
	next     int // index in queue of the packet that pion reads next
	deadline time.Time
}

type parkedPacket struct {
	bytes   []byte
	arrival time.Time
}

// Write takes a decrypted packet from pion.
func (s *rtpStream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, io.ErrClosedPipe
	}
	if len(p) < rtpHeader {
		return len(p), nil
	}
	if s.source == nil {
		if s.source = s.in.source(s.ssrc); s.sink != nil {
			s.source.attach(s.taker)
		}
	}
	if !s.source.came(p) {
		return len(p), nil // the intake has taken it
	}
	s.takeLocked(p, time.Now())
	s.source.passed(p)
	return len(p), nil
}

const rtpHeader = 12 // bytes of an RTP header without CSRCs and extensions

// take takes a packet that the intake has decrypted.
func (s *rtpStream) take(p []byte, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takeLocked(p, now)
}

func (s *rtpStream) takeLocked(p []byte, now time.Time) {
	switch {
	case s.sink != nil:
		s.sink(p, now)
	case !s.closed:
		s.withoutSinkLocked(p, now)
	}
}

// withoutSinkLocked parks or drops a packet, after it has read what concerns the whole
// transport.
func (s *rtpStream) withoutSinkLocked(p []byte, now time.Time) {
	var h rtp.Header
	if _, err := h.Unmarshal(p); err != nil || len(p) < 12 {
		return
	}
	s.in.note(&h, len(p), now)
	s.recogniseLocked(&h)
	if s.attached {
		return
	}
	if len(s.queue) >= parkedPackets || s.in.parked.Load() > parkedBytes {
		s.in.unparked.Add(1)
		return
	}
	s.in.parked.Add(int64(len(p)))
	s.queue = append(s.queue, parkedPacket{append([]byte(nil), p...), now})
	if first := s.first; first != nil {
		s.first = nil
		first(h.PayloadType)
	}
	s.wake.Broadcast()
}

// note records an arrival for congestion control, which counts all packets of a
// transport. Layers record their own packets. size is the length of the whole packet.
func (in *ingress) note(h *rtp.Header, size int, now time.Time) {
	facts := in.facts.Load()
	if facts == nil {
		return
	}
	if facts.twcc == nil || facts.ext.TransportCC == 0 { // it may be there for sound alone
		if facts.remb != nil {
			facts.remb.Record(forward.Received{SendTime: h.GetExtension(facts.ext.AbsSendTime), Size: size}, now)
		}
		return
	}
	if v := h.GetExtension(facts.ext.TransportCC); len(v) == 2 {
		facts.twcc.Record(uint16(v[0])<<8|uint16(v[1]), now, h.Marker)
	}
}

// noteArrival is note for a packet that is dropped afterwards.
func (in *ingress) noteArrival(packet []byte, now time.Time) {
	var h rtp.Header
	if _, err := h.Unmarshal(packet); err == nil {
		in.note(&h, len(packet), now)
	}
}

// recogniseLocked reports a stream that repairs another one (RFC 8852).
func (s *rtpStream) recogniseLocked(h *rtp.Header) {
	facts := s.in.facts.Load()
	if s.attached || facts == nil || facts.ext.RepairedRID == 0 || facts.ext.MID == 0 {
		return
	}
	rid, mid := h.GetExtension(facts.ext.RepairedRID), h.GetExtension(facts.ext.MID)
	if len(rid) > 0 && len(mid) > 0 {
		facts.repair(s.ssrc, string(mid), string(rid))
	}
}

// Read gives pion the parked packets while pion looks for the stream's mid and rid. The
// packets stay parked.
func (s *rtpStream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.closed:
			return 0, io.EOF
		case s.next < len(s.queue):
			packet := s.queue[s.next].bytes
			s.next++
			if len(packet) > len(p) {
				return 0, io.ErrShortBuffer
			}
			return copy(p, packet), nil
		case !s.deadline.IsZero() && !time.Now().Before(s.deadline):
			return 0, os.ErrDeadlineExceeded
		}
		s.wake.Wait()
	}
}

// SetReadDeadline sets the time at which Read fails. Pion uses it only to end reads at
// once.
func (s *rtpStream) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	s.wake.Broadcast()
	return nil
}

func (s *rtpStream) dropQueueLocked() {
	for _, p := range s.queue {
		s.in.parked.Add(-int64(len(p.bytes)))
	}
	s.queue, s.next = nil, 0
}

// Close ends the stream: pion stopped the receiver, or the transport ended.
func (s *rtpStream) Close() error {
	s.in.forget(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.sink, s.first = true, nil, nil
	s.dropQueueLocked()
	s.wake.Broadcast()
	return nil
}

// rtcpStream is the RTCP that concerns one SSRC and that pion has decrypted. It goes to the
// function set by onRTCP.
type rtcpStream struct {
	in     *ingress
	ssrc   uint32
	once   sync.Once
	closed chan struct{}
}

// Write takes decrypted RTCP from pion: a compound of one packet or several. Each SSRC that
// a compound concerns gets a copy of it, so only the stream that the feedback names passes
// it on.
func (s *rtcpStream) Write(p []byte) (int, error) {
	handle := s.in.rtcpHandler(s.ssrc)
	for one := range reports(p) {
		switch {
		case isFeedback(one):
			if len(one) >= 12 && binary.BigEndian.Uint32(one[8:]) == s.ssrc {
				s.in.takeFeedback(one)
			}
		case handle != nil && reads(one):
			if packets, err := rtcp.Unmarshal(one); err == nil {
				handle(packets)
			}
		}
	}
	return len(p), nil
}

// takeRTCP takes RTCP that the intake has decrypted: a compound of one packet or several.
// Each SSRC that it concerns gets all of it.
func (in *ingress) takeRTCP(p []byte) {
	var all []rtcp.Packet
	for one := range reports(p) {
		if isFeedback(one) {
			in.takeFeedback(one)
		} else if reads(one) {
			if packets, err := rtcp.Unmarshal(one); err == nil {
				all = append(all, packets...)
			}
		}
	}
	var told []uint32
	for _, packet := range all {
		for _, ssrc := range packet.DestinationSSRC() {
			if slices.Contains(told, ssrc) {
				continue
			}
			if handle := in.rtcpHandler(ssrc); handle != nil {
				told = append(told, ssrc)
				handle(all)
			}
		}
	}
}

// reports are the packets of a compound. It ends where the compound is malformed: the
// client alone is to blame, and is the only one harmed.
func reports(p []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(p) >= rtcpHeader {
			size := 4 * (int(binary.BigEndian.Uint16(p[2:])) + 1)
			if size > len(p) || !yield(p[:size]) {
				return
			}
			p = p[size:]
		}
	}
}

const rtcpHeader = 4 // bytes

// reads reports whether an RTCP packet is of a kind that the server uses, and whose
// unpacked form is not much larger than its bytes. Forty bytes of transport-wide feedback
// may claim to cover 65535 packets, so it is not unpacked here.
func reads(packet []byte) bool {
	format := packet[0] & 0x1f
	switch rtcp.PacketType(packet[1]) {
	case rtcp.TypeSenderReport, rtcp.TypeReceiverReport, rtcp.TypeGoodbye:
		return true
	case rtcp.TypeTransportSpecificFeedback:
		return format == rtcp.FormatTLN
	case rtcp.TypePayloadSpecificFeedback:
		return format == rtcp.FormatPLI || format == rtcp.FormatFIR || format == rtcp.FormatREMB
	}
	return false
}

// onlyReports reports whether all that the server uses of a compound says what was sent and
// what arrived. Nothing is sent in answer to it.
func onlyReports(p []byte) bool {
	fed := false
	for one := range reports(p) {
		switch rtcp.PacketType(one[1]) {
		case rtcp.TypeSenderReport, rtcp.TypeReceiverReport:
		default:
			// The budget counts compounds, so one has congestion control feedback once at most.
			if again := isFeedback(one) && fed; again || reads(one) && !isEstimate(one) {
				return false
			}
			fed = fed || isFeedback(one)
		}
	}
	return true
}

// isEstimate reports whether an RTCP packet is a REMB.
func isEstimate(packet []byte) bool {
	return rtcp.PacketType(packet[1]) == rtcp.TypePayloadSpecificFeedback && packet[0]&0x1f == rtcp.FormatREMB
}

// isFeedback reports whether an RTCP packet is congestion control feedback, transport-wide
// or by stream (RFC 8888).
func isFeedback(packet []byte) bool {
	format := packet[0] & 0x1f
	return rtcp.PacketType(packet[1]) == rtcp.TypeTransportSpecificFeedback && (format == rtcp.FormatTCC || format == rtcp.FormatCCFB)
}

// A client may send so many reports a second, and so many at once, in compounds with others: clients
// send ten to twenty a second. The downlink is locked while one is taken.
const (
	feedbackRate  = 100
	feedbackBurst = 200
)

// takeFeedback gives congestion control feedback to the downlink that estimates the path.
func (in *ingress) takeFeedback(packet []byte) {
	switch {
	case in.feedback == nil:
	case in.affords.Allow():
		in.feedback(packet)
	default:
		in.excess.Add(1)
	}
}

// Read blocks until Close: pion reads here, but the packets went to the handler.
func (s *rtcpStream) Read([]byte) (int, error) {
	<-s.closed
	return 0, io.EOF
}

// Close implements io.Closer.
func (s *rtcpStream) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}
