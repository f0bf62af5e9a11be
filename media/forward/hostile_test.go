package forward

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"

	"parlor/media/forward/dd/ddtest"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// testCodecs are codecs of all families that packets are parsed for.
func testCodecs() []Codec {
	return []Codec{
		vp8Config(), av1Config(), opusConfig(), redConfig(),
		{MimeType: "video/VP9", ClockRate: 90000, PayloadType: 98},
		{MimeType: "video/H264", ClockRate: 90000, PayloadType: 102},
		{MimeType: "video/H265", ClockRate: 90000, PayloadType: 116},
		{MimeType: "audio/PCMU", ClockRate: 8000},
	}
}

// Any packets in any codec: there is no panic, and forwarded packets can be marshalled
// and are in order.
func FuzzWriteRTP(f *testing.F) {
	f.Add(uint8(0), []byte{20, 0x80, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0x90, 0x80, 0x11, 0x00, 1, 2, 3, 4, 5})
	s := ddtest.L2T2Key()
	key := s.Encode(ddtest.Frame{Start: true, Structure: true, Active: -1})
	p := rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 35, SSRC: 1}, Payload: []byte{0x18, 1, 2}}
	p.Extension, p.ExtensionProfile = true, rtp.ExtensionProfileTwoByte
	if err := p.SetExtension(12, key); err != nil {
		f.Fatal(err)
	}
	raw, err := p.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(1), append([]byte{byte(len(raw))}, raw...))
	f.Add(uint8(3), append([]byte{28}, append([]byte{0x80, 63, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3}, redOf("abc", "de", "f")...)...))
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		codecs := testCodecs()
		codec := codecs[int(which)%len(codecs)]
		kind := livekit.TrackType_VIDEO
		if codec.MimeType[0] == 'a' {
			kind = livekit.TrackType_AUDIO
		}
		track := NewTrack(TrackConfig{Kind: kind, Codec: codec, Log: quiet()})
		track.timer.Stop()
		defer track.Close()
		var layers []*Layer
		for q := range livekit.VideoQuality(2) {
			layers = append(layers, track.AddLayer(LayerConfig{
				Codec: codec, Quality: q, WriteRTCP: func([]rtcp.Packet) error { return nil },
				Ext:  Extensions{AudioLevel: 1, DependencyDescriptor: 12, TransportCC: 3, AbsCaptureTime: 4, PlayoutDelay: 5},
				TWCC: NewTWCC(func([]rtcp.Packet) error { return nil }),
			}))
		}
		buf := make([]byte, 2000)
		var wrong []error
		check := func(h *rtp.Header, payload []byte) error {
			n, err := h.MarshalTo(buf)
			if err == nil {
				var back rtp.Header
				_, err = back.Unmarshal(buf[:n])
			}
			if err == nil && len(payload) == 0 {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				wrong = append(wrong, err)
			}
			return nil
		}
		to := codec
		if codec.family() == redundant {
			to = opusConfig()
		}
		f := track.AddForwarder(ForwarderConfig{
			SSRC: 5000, RTXSSRC: 5001, Codec: to, Output: writes(check), Downlink: connected(),
			Ext: Extensions{AudioLevel: 1, DependencyDescriptor: 12, TransportCC: 3, AbsCaptureTime: 4, PlayoutDelay: 5},
		})
		at := track.epoch
		for i := 0; len(data) > 1; i++ {
			n := min(int(data[0]), len(data)-1)
			layers[i&1].WriteRTP(data[1:1+n], at)
			data = data[1+n:]
			at = at.Add(time.Duration(n) * time.Millisecond)
			f.SetSettings(Settings{Quality: livekit.VideoQuality(n % 3), FPS: uint32(n % 20)})
			track.tick(at)
		}
		require.Empty(t, wrong)
	})
}

// Any RTCP of a peer.
func FuzzHandleRTCP(f *testing.F) {
	for _, p := range []rtcp.Packet{
		&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: []rtcp.NackPair{{PacketID: 3, LostPackets: 0xffff}}},
		&rtcp.ReceiverReport{Reports: []rtcp.ReceptionReport{{SSRC: 5000, LastSenderReport: 1, Delay: 9}}},
		&rtcp.SenderReport{SSRC: 1, NTPTime: 1 << 63, Reports: []rtcp.ReceptionReport{{SSRC: 5000}}},
		&rtcp.ReceiverEstimatedMaximumBitrate{Bitrate: 1e5, SSRCs: []uint32{5000}},
		&rtcp.FullIntraRequest{FIR: []rtcp.FIREntry{{SSRC: 5000}}},
	} {
		raw, err := p.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	track := NewTrack(TrackConfig{Kind: livekit.TrackType_VIDEO, Codec: vp8Config(), Log: quiet()})
	track.timer.Stop()
	s := newSender(track, 1, vp8Config(), "q", livekit.VideoQuality_LOW)
	other := newSender(track, 2, vp8Config(), "f", livekit.VideoQuality_HIGH)
	r := newReceiver(track, vp8Config(), func(c *ForwarderConfig) { c.Ext.TransportCC = 3 })
	f.Fuzz(func(_ *testing.T, raw []byte) {
		packets, err := rtcp.Unmarshal(raw)
		if err != nil {
			return
		}
		r.f.HandleRTCP(packets)
		s.layer.HandleRTCP(packets)
		s.frame(true, 1)
		other.frame(len(raw)%2 == 0, 1)
		track.tick(s.at)
		s.rtcp.take()
		other.rtcp.take()
		r.rtcp.take()
		r.take()
	})
}

// wire checks what a receiver must see, whatever the network and the settings do: numbers
// without gaps except for losses, no number twice, and timestamps that do not go back
// except in late packets. It is called with locks held, so it records errors and does not
// end the test.
type wire struct {
	seen    map[uint16]uint32
	newest  uint16
	ts      uint32
	started bool
	packets int
	lost    int // numbers that were skipped
	wrong   []string
}

func (w *wire) check(ok bool, format string, args ...any) {
	if !ok {
		w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
	}
}

func (w *wire) write(h *rtp.Header, _ []byte) error {
	if h.SSRC != 5000 {
		return nil // a retransmission
	}
	_, twice := w.seen[h.SequenceNumber]
	w.check(!twice, "number %d twice", h.SequenceNumber)
	ahead := int16(h.SequenceNumber - w.newest)
	if w.started && ahead > 0 {
		w.lost += int(ahead) - 1
		later := int32(h.Timestamp - w.ts)
		w.check(later >= 0, "number %d: timestamps went back by %d", h.SequenceNumber, -later)
	}
	w.check(!w.started || ahead > -1000, "number %d after %d", h.SequenceNumber, w.newest)
	if !w.started || ahead > 0 {
		w.newest, w.ts, w.started = h.SequenceNumber, h.Timestamp, true
		delete(w.seen, w.newest-1<<15)
	}
	w.seen[h.SequenceNumber] = h.Timestamp
	w.packets++
	return nil
}

func FuzzForward(f *testing.F) {
	f.Add(uint64(1), []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
	f.Fuzz(func(t *testing.T, seed uint64, ops []byte) { forwardRandomly(t, seed, ops) })
}

func TestForwardsInOrder(t *testing.T) {
	packets := 0
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		ops := make([]byte, 150)
		for i := range ops {
			ops[i] = byte(rnd.Uint32())
		}
		packets += forwardRandomly(t, seed, ops)
	}
	require.Greater(t, packets, 60*150)
}

// forwardRandomly sends two layers through a bad network while ops change all that can
// change. It returns the number of forwarded packets.
func forwardRandomly(t *testing.T, seed uint64, ops []byte) int {
	rnd := rand.New(rand.NewPCG(seed, 1))
	track := NewTrack(TrackConfig{Kind: livekit.TrackType_VIDEO, Codec: vp8Config(), Log: quiet()})
	track.timer.Stop()
	defer track.Close()
	senders := []*sender{
		newSender(track, 1, vp8Config(), "q", livekit.VideoQuality_LOW),
		newSender(track, 2, vp8Config(), "f", livekit.VideoQuality_HIGH),
	}
	w := &wire{seen: map[uint16]uint32{}}
	r := newReceiver(track, vp8Config(), func(c *ForwarderConfig) { c.Output = writes(w.write) })
	at := track.epoch
	var held [][]byte
	lost := 0
	for _, op := range ops[:min(len(ops), 400)] {
		at = at.Add(frame)
		for i, s := range senders {
			s.at = at
			for _, raw := range s.makeFrame(op&0x10 != 0 || rnd.IntN(20) == 0, uint8(rnd.IntN(3)), 1+rnd.IntN(4)) {
				switch n := rnd.IntN(40); {
				case n == 0:
					lost++
				case n < 3 && i == 0:
					lost++ // until it comes
					// Slightly longer than the stream remembers packets.
					held = append(held, raw)
					held = held[max(0, len(held)-8):]
				default:
					s.layer.WriteRTP(raw, at)
				}
			}
		}
		switch op & 0x0f {
		case 0:
			for _, raw := range held { // late, some of them by far
				senders[0].layer.WriteRTP(raw, at)
			}
			held = nil
		case 1, 2, 3:
			q := livekit.VideoQuality(op & 3)
			if q == livekit.VideoQuality_OFF && op>>4 != 0 {
				q = livekit.VideoQuality_MEDIUM
			}
			r.f.SetSettings(Settings{Quality: q, FPS: uint32(op >> 4)})
		case 4:
			track.SetMuted(op>>4 == 0)
		case 5: // the source restarts at other numbers
			held = nil
			s := senders[op>>5&1]
			s.seq, s.ts, s.ssrc = uint16(rnd.Uint32()), rnd.Uint32(), rnd.Uint32()
		case 6: // the timestamps jump
			senders[op>>5&1].ts += 90000 * 1000 * uint32(op>>4)
		case 7:
			s := senders[op>>5&1]
			s.layer.HandleRTCP([]rtcp.Packet{&rtcp.SenderReport{SSRC: s.ssrc, NTPTime: ntpTime(at) + rnd.Uint64()>>rnd.IntN(64), RTPTime: s.ts}})
		case 8:
			r.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: []rtcp.NackPair{{PacketID: w.newest - uint16(op), LostPackets: 0xffff}}}})
		}
		track.tick(at)
	}
	require.Empty(t, w.wrong)
	require.LessOrEqual(t, w.lost, lost, "gaps where nothing was lost")
	return w.packets
}

func TestConcurrentUse(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	codec := vp8Config()
	stop := make(chan struct{})
	var layers, others sync.WaitGroup
	var senders []*sender
	for q := range livekit.VideoQuality(3) {
		senders = append(senders, newSender(track, uint32(q)+1, codec, "", q))
	}
	for _, s := range senders {
		layers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					s.at = time.Now()
					s.frame(i%10 == 0, 3)
					s.rtcp.take()
					if i%50 == 0 {
						s.layer.HandleRTCP([]rtcp.Packet{&rtcp.SenderReport{SSRC: s.ssrc, NTPTime: ntpTime(s.at), RTPTime: s.ts}})
					}
				}
			}
		})
	}
	down := connected()
	for g := range 4 {
		others.Go(func() {
			for i := range 40 {
				var writing sync.Mutex // a concurrent writer fails the test
				var last uint16
				r := track.AddForwarder(ForwarderConfig{
					SSRC: 5000, RTXSSRC: 5001, Codec: codec, Downlink: down,
					Output: writes(func(h *rtp.Header, payload []byte) error {
						if !writing.TryLock() {
							t.Error("two writers at once")
							return nil
						}
						defer writing.Unlock()
						last = h.SequenceNumber
						_ = binary.BigEndian.Uint32(payload)
						return nil
					}),
				})
				for j := range 5 {
					r.SetSettings(Settings{Quality: livekit.VideoQuality((i + j) % 4)})
					r.HandleRTCP([]rtcp.Packet{
						&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: []rtcp.NackPair{{PacketID: uint16(i * j), LostPackets: 0xffff}}},
						&rtcp.PictureLossIndication{MediaSSRC: 5000},
						&rtcp.ReceiverEstimatedMaximumBitrate{Bitrate: float32(i) * 1000},
					})
					_ = r.Stats()
					_, _, _ = r.Quality()
				}
				track.SetMuted(i%20 == g)
				r.Close()
				writing.Lock()
				earlier := last
				writing.Unlock()
				_ = earlier
			}
		})
	}
	others.Go(func() {
		for range 60 {
			l := track.AddLayer(LayerConfig{Codec: codec, WriteRTCP: func([]rtcp.Packet) error { return nil }})
			l.RequestKeyFrame()
			l.SetRTT(time.Millisecond)
			_ = l.Stats()
			track.SetInfo(&livekit.TrackInfo{Width: 100, Height: 100})
			l.Close()
		}
	})
	others.Wait()
	close(stop)
	layers.Wait()
	require.Empty(t, *track.forwarders.Load())
}
