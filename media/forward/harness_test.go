package forward

import (
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink"
	record "parlor/media/downlink/sent"
)

// The tests' clock stays at the track's epoch until it is moved.
const frame = time.Second / 30

func vp8Config() Codec {
	return Codec{MimeType: "video/VP8", ClockRate: 90000, PayloadType: 96, RTXPayloadType: 97}
}

func opusConfig() Codec {
	return Codec{MimeType: "audio/opus", ClockRate: 48000, Channels: 2, PayloadType: 111}
}

func newTestTrack(t testing.TB, kind livekit.TrackType, codec Codec) *Track {
	track := NewTrack(TrackConfig{SID: "TR_x", Kind: kind, Codec: codec})
	t.Cleanup(track.Close)
	return track
}

// sender makes the packets of one layer.
type sender struct {
	layer *Layer
	ssrc  uint32
	pt    uint8
	seq   uint16
	ts    uint32
	at    time.Time
	pic   uint16
	tl0   uint8
	key   uint8
	rtcp  *rtcpLog
	late  map[uint16]bool // numbers of packets that come late
	held  [][]byte        // late packets that have not come yet
}

// rtcpLog records written RTCP.
type rtcpLog struct {
	mu      sync.Mutex
	packets []rtcp.Packet
}

func (r *rtcpLog) write(p []rtcp.Packet) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.packets = append(r.packets, p...)
	return nil
}

func (r *rtcpLog) take() []rtcp.Packet {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.packets
	r.packets = nil
	return p
}

func count[T rtcp.Packet](packets []rtcp.Packet) (n int) {
	for _, p := range packets {
		if _, ok := p.(T); ok {
			n++
		}
	}
	return n
}

func newSender(t *Track, ssrc uint32, codec Codec, rid string, q livekit.VideoQuality) *sender {
	log := &rtcpLog{}
	l := t.AddLayer(LayerConfig{
		RID: rid, SSRC: ssrc, Codec: codec, Quality: q, WriteRTCP: log.write,
		Ext: Extensions{AudioLevel: 1, DependencyDescriptor: 12, TransportCC: 3},
	})
	return &sender{layer: l, ssrc: ssrc, pt: codec.PayloadType, at: t.epoch.Add(time.Millisecond), seq: uint16(ssrc * 1000), ts: ssrc * 100000, rtcp: log, pic: uint16(ssrc * 100)}
}

func (s *sender) packet(marker bool, payload []byte) []byte {
	p := rtp.Packet{Header: rtp.Header{
		Version: 2, Marker: marker, PayloadType: s.pt, SequenceNumber: s.seq, Timestamp: s.ts, SSRC: s.ssrc,
	}, Payload: payload}
	s.seq++
	b, err := p.Marshal()
	if err != nil {
		panic(err)
	}
	return b
}

// send sends a packet, unless it comes late.
func (s *sender) send(raw []byte) {
	if s.late[binary.BigEndian.Uint16(raw[2:])] {
		s.held = append(s.held, raw)
		return
	}
	s.layer.WriteRTP(raw, s.at)
}

// catchUp sends the late packets.
func (s *sender) catchUp() {
	for _, raw := range s.held {
		s.layer.WriteRTP(raw, s.at)
	}
	s.held = nil
}

// vp8Payload is a payload with a 15-bit picture id, TL0PICIDX, TID and KEYIDX.
func (s *sender) vp8Payload(start, key bool, tid uint8, size int) []byte {
	b := make([]byte, max(size, 12))
	b[0] = 0x80
	if start {
		b[0] |= 0x10
	}
	b[1] = 0xf0
	b[2], b[3] = 0x80|byte(s.pic>>8)&0x7f, byte(s.pic)
	b[4] = s.tl0
	b[5] = tid<<6 | s.key&0x1f
	if !key {
		b[6] = 1
	}
	return b
}

// frame sends a VP8 frame of n packets and moves the clock.
func (s *sender) frame(key bool, n int) {
	for _, raw := range s.makeFrame(key, 0, n) {
		s.layer.WriteRTP(raw, s.at)
	}
}

func (s *sender) makeFrame(key bool, tid uint8, n int) (packets [][]byte) {
	if key {
		s.key++
	}
	if tid == 0 {
		s.tl0++
	}
	for i := range n {
		packets = append(packets, s.packet(i == n-1, s.vp8Payload(i == 0, key, tid, 100)))
	}
	s.next()
	return packets
}

// next moves the clock to the next frame.
func (s *sender) next() {
	s.pic++
	s.ts += 3000
	s.at = s.at.Add(frame)
}

// receiver records the packets of a forwarder.
type receiver struct {
	mu      sync.Mutex
	packets []rtp.Packet
	flushes int
	ends    int
	rtcp    rtcpLog
	f       *Forwarder
	first   int
	states  []livekit.StreamState
}

func (r *receiver) Write(h *rtp.Header, payload []byte, _ record.Kind) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	clone := h.Clone()
	r.packets = append(r.packets, rtp.Packet{Header: clone, Payload: append([]byte(nil), payload...)})
	return nil
}

func (r *receiver) Flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flushes++
}

func (r *receiver) WriteRTCP(packets []rtcp.Packet) error { return r.rtcp.write(packets) }

func (r *receiver) End() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ends++
}

// writes is an Output made of a function.
type writes func(h *rtp.Header, payload []byte) error

func (w writes) Write(h *rtp.Header, payload []byte, _ record.Kind) error { return w(h, payload) }
func (writes) Flush()                                                     {}
func (writes) WriteRTCP([]rtcp.Packet) error                              { return nil }
func (writes) End()                                                       {}

// connected is a connected downlink without any measurements.
func connected() *downlink.Path {
	d := downlink.New(nil)
	d.Connected()
	return d
}

func (r *receiver) take() []rtp.Packet {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.packets
	r.packets = nil
	return p
}

func newReceiver(t *Track, codec Codec, change func(*ForwarderConfig)) *receiver {
	r := &receiver{}
	cfg := ForwarderConfig{
		SubscriberSID: "PA_s", SSRC: 5000, RTXSSRC: 5001, Codec: codec,
		Output: r, CNAME: "parlor", Downlink: connected(),
		OnFirstPacket: func() { r.first++ },
		OnStreamState: func(s livekit.StreamState) { r.states = append(r.states, s) },
	}
	if change != nil {
		change(&cfg)
	}
	r.f = t.AddForwarder(cfg)
	return r
}

// requireContiguous checks the numbers and timestamps of received packets.
func requireContiguous(t *testing.T, packets []rtp.Packet) {
	t.Helper()
	for i := 1; i < len(packets); i++ {
		require.Equal(t, packets[i-1].SequenceNumber+1, packets[i].SequenceNumber, "packet %d", i)
		require.GreaterOrEqual(t, int32(packets[i].Timestamp-packets[i-1].Timestamp), int32(0), "packet %d", i)
	}
}
