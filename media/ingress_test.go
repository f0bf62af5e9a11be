package media

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/transport/v5/packetio"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink/feedback"
	"parlor/media/forward"
)

func rtpPacket(t testing.TB, ssrc uint32, seq uint16, ext map[uint8]string, payload ...byte) []byte {
	p := &rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 96, SequenceNumber: seq, SSRC: ssrc}, Payload: payload}
	for id, v := range ext {
		require.NoError(t, p.SetExtension(id, []byte(v)))
	}
	b, err := p.Marshal()
	require.NoError(t, err)
	return b
}

func seqOf(b []byte) uint16 { return binary.BigEndian.Uint16(b[2:]) }

// What comes beside the media of a client whose sound alone is numbered, as repeats and padding do,
// counts for the estimate of its pictures, and not for feedback by those numbers.
func TestIngressCountsForTheEstimateBesideNumberedSound(t *testing.T) {
	told := func(beside int) float64 {
		twcc := forward.NewTWCC(func([]rtcp.Packet) error { t.Error("feedback"); return nil })
		defer twcc.Close()
		remb := forward.NewREMB(func([]rtcp.Packet) error { return nil })
		defer remb.Close()
		in := newIngress(func() {})
		in.facts.Store(&ingressFacts{ext: forward.Extensions{AbsSendTime: 5}, twcc: twcc, remb: remb})
		in.attach(8, taker{}) // they have no layer
		stream := in.stream(8)
		start := time.Now()
		for i := range 3000 { // half a minute, 100 kbit/s of pictures
			now := start.Add(time.Duration(i) * 10 * time.Millisecond)
			clock := uint32(i) * (1 << 18) / 100
			sentAt := string([]byte{byte(clock >> 16), byte(clock >> 8), byte(clock)})
			remb.Record(forward.Received{SSRC: 7, SendTime: []byte(sentAt), Size: 125, Media: true}, now)
			if beside > 0 {
				stream.take(rtpPacket(t, 8, uint16(i), map[uint8]string{5: sentAt}, make([]byte, beside)...), now)
			}
		}
		return remb.Told()
	}
	alone, beside := told(0), told(1000)
	require.NotZero(t, alone)
	require.Greater(t, beside, 2*alone)
}

// Packets that come before the sink is known reach it first, in order, though pion has
// read them too. After detach none comes.
func TestIngressParks(t *testing.T) {
	in := newIngress(func() {})
	var pt uint8
	in.whenFirst(7, func(first uint8) { pt = first })
	stream := in.buffer(packetio.RTPBufferPacket, 7)
	for seq := range uint16(3) {
		_, err := stream.Write(rtpPacket(t, 7, seq, nil, 1))
		require.NoError(t, err)
	}
	require.EqualValues(t, 96, pt)
	b := make([]byte, 1500)
	n, err := stream.Read(b)
	require.NoError(t, err)
	require.EqualValues(t, 0, seqOf(b[:n]))
	in.skipFirst(7)

	var got []uint16
	in.attach(7, taker{sink: func(p []byte, _ time.Time) { got = append(got, seqOf(p)) }})
	_, err = stream.Write(rtpPacket(t, 7, 3, nil, 1))
	require.NoError(t, err)
	require.Equal(t, []uint16{1, 2, 3}, got)
	require.Zero(t, in.parked.Load())

	in.detach(7)
	_, err = stream.Write(rtpPacket(t, 7, 4, nil, 1))
	require.NoError(t, err)
	require.Len(t, got, 3)

	// Another track takes over the stream.
	pt = 0
	in.whenFirst(7, func(first uint8) { pt = first })
	_, err = stream.Write(rtpPacket(t, 7, 5, nil, 1))
	require.NoError(t, err)
	require.EqualValues(t, 96, pt)

	reading := make(chan error)
	go func() {
		for {
			if _, err := stream.Read(b); err != nil {
				reading <- err
				return
			}
		}
	}()
	require.NoError(t, stream.Close())
	require.ErrorIs(t, <-reading, io.EOF)
	_, err = stream.Write(rtpPacket(t, 7, 6, nil, 1))
	require.ErrorIs(t, err, io.ErrClosedPipe)
	require.Zero(t, in.parked.Load())
	require.Empty(t, in.streams)
}

func TestIngressParksWithinBounds(t *testing.T) {
	in := newIngress(func() {})
	payload := make([]byte, 1400)
	for ssrc := range uint32(50) {
		s := in.buffer(packetio.RTPBufferPacket, ssrc)
		for seq := range uint16(300) {
			_, err := s.Write(rtpPacket(t, ssrc, seq, nil, payload...))
			require.NoError(t, err)
		}
	}
	require.LessOrEqual(t, in.parked.Load(), int64(parkedBytes+2000))
	require.Len(t, in.stream(0).queue, parkedPackets)
}

func TestIngressRecognisesRepairs(t *testing.T) {
	in := newIngress(func() {})
	type found struct {
		ssrc     uint32
		mid, rid string
	}
	var got []found
	sent := make(chan []rtcp.Packet, 10)
	twcc := forward.NewTWCC(func(p []rtcp.Packet) error { sent <- p; return nil })
	in.facts.Store(&ingressFacts{
		ext: forward.Extensions{MID: 1, RepairedRID: 2, TransportCC: 3}, twcc: twcc,
		repair: func(ssrc uint32, mid, rid string) { got = append(got, found{ssrc, mid, rid}) },
	})
	s := in.buffer(packetio.RTPBufferPacket, 9)
	_, err := s.Write(rtpPacket(t, 9, 1, map[uint8]string{1: "4"}, 1))
	require.NoError(t, err)
	require.Empty(t, got)
	_, err = s.Write(rtpPacket(t, 9, 2, map[uint8]string{1: "4", 2: "h", 3: "\x00\x01"}, 1))
	require.NoError(t, err)
	require.Equal(t, []found{{9, "4", "h"}}, got)
	// Arrivals count for congestion control even if no sink takes the packets.
	for seq := byte(2); ; seq++ {
		_, err := s.Write(rtpPacket(t, 9, uint16(seq), map[uint8]string{3: string([]byte{0, seq})}, 1))
		require.NoError(t, err)
		if len(sent) > 0 {
			break
		}
		require.Less(t, seq, byte(250))
	}
	_, err = s.Write([]byte("garbage"))
	require.NoError(t, err)
}

func TestIngressRTCP(t *testing.T) {
	in := newIngress(func() {})
	s := in.buffer(packetio.RTCPBufferPacket, 5)
	var got []rtcp.Packet
	in.onRTCP(5, func(p []rtcp.Packet) { got = p })
	raw, err := rtcp.Marshal([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: 5}})
	require.NoError(t, err)
	for _, b := range [][]byte{raw, []byte("garbage"), nil} {
		_, err = s.Write(b)
		require.NoError(t, err)
	}
	require.Len(t, got, 1)
	in.onRTCP(5, nil)
	got = nil
	_, err = s.Write(raw)
	require.NoError(t, err)
	require.Empty(t, got)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	_, err = s.Read(nil)
	require.ErrorIs(t, err, io.EOF)
}

func TestUnwrapRTX(t *testing.T) {
	original := rtpPacket(t, 1, 4711, map[uint8]string{3: "ab"}, 9, 8, 7)
	wrapped := &rtp.Packet{Header: rtp.Header{Version: 2, Marker: true, PayloadType: 97, SequenceNumber: 1, SSRC: 2}}
	require.NoError(t, wrapped.SetExtension(3, []byte("ab")))
	wrapped.Payload = append(binary.BigEndian.AppendUint16(nil, 4711), 9, 8, 7)
	raw, err := wrapped.Marshal()
	require.NoError(t, err)
	dst := make([]byte, maxPacket)
	n := unwrapRTX(dst, raw, 1, 96)
	original[1] |= 0x80
	require.Equal(t, original, dst[:n])

	padding := &rtp.Packet{Header: rtp.Header{Version: 2, Padding: true, PaddingSize: 200, PayloadType: 97, SSRC: 2}}
	raw, err = padding.Marshal()
	require.NoError(t, err)
	require.Zero(t, unwrapRTX(dst, raw, 1, 96), "padding repeats nothing")
}

func FuzzUnwrapRTX(f *testing.F) {
	f.Add([]byte{0x90, 97, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0xbe, 0xde, 0, 1, 0x10, 1, 0, 0, 0, 5, 1, 2})
	f.Add([]byte{0xb1, 97})
	f.Fuzz(func(t *testing.T, packet []byte) {
		dst := make([]byte, maxPacket)
		n := unwrapRTX(dst, packet, 7, 96)
		require.LessOrEqual(t, n, max(len(packet)-2, 0))
		if n > 0 {
			require.EqualValues(t, 7, binary.BigEndian.Uint32(dst[8:]))
			require.EqualValues(t, 96, dst[1]&0x7f)
		}
	})
}

// TestRTCPCostsLittleMoreThanItsBytes, whatever the packet claims to cover.
func TestRTCPCostsLittleMoreThanItsBytes(t *testing.T) {
	in := newIngress(func() {})
	var got []rtcp.Packet
	in.onRTCP(7, func(p []rtcp.Packet) { got = append(got, p...) })
	var told []uint16
	in.feedback = func(raw []byte) {
		var r feedback.Report
		if r.Parse(raw) == nil {
			told = append(told, r.Base)
		}
	}
	w := in.buffer(packetio.RTCPBufferPacket, 7)
	read := func(packet []byte) {
		_, err := w.Write(packet)
		require.NoError(t, err)
	}

	claims := []byte{0x8f, 205, 0, 9, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0xff, 0xff, 0, 0, 0, 0}
	claims = append(claims, bytes.Repeat([]byte{0x3f, 0xff}, 10)...) // runs of 8191 received packets
	nobodyReads := append([]byte{0x81, 202, 0, 128, 0, 0, 0, 7}, bytes.Repeat([]byte{1, 0}, 254)...)
	nobodyReads = append(nobodyReads, 0, 0, 0, 0)
	for _, packet := range [][]byte{claims, nobodyReads} {
		require.Less(t, testing.AllocsPerRun(10, func() { read(packet) }), 10.0)
	}
	require.Empty(t, got)

	report := &feedback.Report{Base: 3, Arrivals: []int32{4, feedback.NotReceived, 8}}
	reports, err := rtcp.Marshal([]rtcp.Packet{
		&rtcp.ReceiverReport{SSRC: 1, Reports: []rtcp.ReceptionReport{{SSRC: 7}}},
		&rtcp.PictureLossIndication{MediaSSRC: 7},
	})
	require.NoError(t, err)
	read(append(reports, report.Append(nil, 1, 7)...))
	require.Len(t, got, 2, "each of a compound packet is read")
	require.Equal(t, []uint16{3}, told, "and its feedback goes to what judges the path")
}

// Packets that wait for their section are bounded, and what is dropped is counted.
func TestParkedPacketsAreBounded(t *testing.T) {
	in := newIngress(func() {})
	s := in.buffer(packetio.RTPBufferPacket, 7)
	for seq := range uint16(parkedPackets + 10) {
		_, err := s.Write(rtpPacket(t, 7, seq, nil, 1))
		require.NoError(t, err)
	}
	got := 0
	in.attach(7, taker{sink: func([]byte, time.Time) { got++ }})
	require.Equal(t, parkedPackets, got)
	require.EqualValues(t, 10, in.unparked.Load())
}

// A client that begins one stream after the other, however slowly, has to reconnect in the
// end, since something is kept of each.
func TestStreamsAreBoundedOverTime(t *testing.T) {
	floods := 0
	in := newIngress(func() { floods++ })
	for ssrc := range uint32(mostSources) {
		in.source(ssrc)
	}
	in.source(0)
	require.Zero(t, floods)
	in.source(mostSources)
	in.source(mostSources + 1)
	require.Equal(t, 1, floods)
}

func FuzzIngress(f *testing.F) {
	f.Add([]byte{0x90, 97, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0xbe, 0xde, 0, 1, 0x10, 1, 0, 0, 0, 5, 1, 2})
	f.Fuzz(func(t *testing.T, packet []byte) {
		in := newIngress(func() {})
		in.facts.Store(&ingressFacts{
			ext:    forward.Extensions{MID: 1, RepairedRID: 2, TransportCC: 3},
			twcc:   forward.NewTWCC(func([]rtcp.Packet) error { return nil }),
			repair: func(uint32, string, string) {},
		})
		in.whenFirst(1, func(uint8) {})
		in.onRTCP(1, func([]rtcp.Packet) {})
		_, _ = in.buffer(packetio.RTPBufferPacket, 1).Write(packet)
		_, _ = in.buffer(packetio.RTCPBufferPacket, 1).Write(packet)
		in.attach(1, taker{sink: func(p []byte, _ time.Time) { require.GreaterOrEqual(t, len(p), 12) }})
	})
}

func FuzzPacketSequence(f *testing.F) {
	f.Add([]byte{0x80, 0x01, 0x05})
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(_ *testing.T, b []byte) { packetSequence(b) })
}
