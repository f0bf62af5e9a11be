package media

import (
	"bytes"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/srtp/v3"
	"github.com/pion/transport/v5/packetio"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink/feedback"
	"parlor/media/srtpin"
	"parlor/media/srtpout"
)

// inbound is a client that seals what it sends, our intake, and what pion does with the
// packets that it is shown.
type inbound struct {
	t      *testing.T
	client *srtp.Context
	in     *ingress
	intake *intake
	counts counters

	pion    *srtp.Context
	shown   [][]byte // that pion has not opened yet
	streams map[uint32]io.ReadWriteCloser
}

func newInbound(t *testing.T) *inbound {
	keys := srtpout.Keys{Profile: srtp.ProtectionProfileAeadAes128Gcm, Key: bytes.Repeat([]byte{7}, 16), Salt: make([]byte, 12)}
	b := &inbound{t: t, in: newIngress(func() {}), streams: map[uint32]io.ReadWriteCloser{}}
	var err error
	b.client, err = srtp.CreateContext(keys.Key, keys.Salt, keys.Profile)
	require.NoError(t, err)
	b.pion, err = srtp.CreateContext(keys.Key, keys.Salt, keys.Profile, srtp.SRTPReplayProtection(srtpin.ReplayWindow))
	require.NoError(t, err)
	w := newWorkers()
	t.Cleanup(w.end)
	b.intake = newIntake(b.in, new(sync.Pool), w, &b.counts)
	require.False(t, b.intake.take(b.sealed(1, 0)), "the keys are not known yet")
	require.NoError(t, b.intake.open(keys))
	t.Cleanup(b.intake.close)
	return b
}

func (b *inbound) sealed(ssrc uint32, seq uint16) []byte {
	sealed, err := b.client.EncryptRTP(nil, rtpPacket(b.t, ssrc, seq, nil, byte(seq), byte(seq>>8)), nil)
	require.NoError(b.t, err)
	return sealed
}

// receive is what the socket's reader does.
func (b *inbound) receive(packet []byte) {
	if packet = bytes.Clone(packet); !b.intake.take(packet) {
		b.shown = append(b.shown, packet)
	}
}

// open has pion open what it was shown.
func (b *inbound) open() {
	for _, packet := range b.shown {
		plain, err := b.pion.DecryptRTP(nil, packet, nil)
		if err != nil {
			continue
		}
		ssrc := srtpin.SSRC(plain)
		if b.streams[ssrc] == nil {
			b.streams[ssrc] = b.in.buffer(packetio.RTPBufferPacket, ssrc)
		}
		_, err = b.streams[ssrc].Write(plain)
		require.NoError(b.t, err)
	}
	b.shown = nil
}

// A stream begins by way of pion and goes on past it: no packet is lost, none comes twice
// or before another, whatever waits in pion when it changes, and for as long as it lasts.
func TestAStreamGoesOnPastPion(t *testing.T) {
	b := newInbound(t)
	var got []uint16
	var kept [][]byte
	send := func(seq uint16) {
		kept = append(kept, b.sealed(9, seq))
		b.receive(kept[len(kept)-1])
	}
	for seq := range uint16(5) {
		send(seq)
	}
	require.Len(t, b.shown, 5, "nobody knows the stream")
	waiting := b.shown[3:]
	b.shown = b.shown[:3]
	b.open()
	b.in.attach(9, taker{sink: func(p []byte, _ time.Time) {
		got = append(got, seqOf(p))
		require.Equal(t, []byte{byte(seqOf(p)), byte(seqOf(p) >> 8)}, p[12:])
	}})
	b.shown = waiting
	send(5)
	require.Len(t, b.shown, 3, "what waits in pion comes first")
	b.open()
	send(6)
	require.Empty(t, b.shown)
	require.Equal(t, []uint16{0, 1, 2, 3, 4, 5, 6}, got)

	// Replays, on either way.
	for _, packet := range kept {
		b.receive(packet)
	}
	require.Len(t, got, 7)
	_, err := b.streams[9].Write(rtpPacket(t, 9, 6, nil, 1))
	require.NoError(t, err)
	require.Len(t, got, 7)

	forged := b.sealed(9, 7)
	forged[14] ^= 1
	b.receive(forged)
	b.receive(forged[:13])
	b.receive(append([]byte{0x9f}, forged[1:]...)) // CSRCs that are not there
	require.EqualValues(t, 3, b.counts.badSRTP.Load())
	require.Len(t, got, 7)

	// Over rollovers, and in disorder.
	n := len(got)
	for i := range 200_000 {
		send(uint16(7 + i))
	}
	require.Len(t, got, n+200_000)
	late, later := b.sealed(9, got[len(got)-1]+1), b.sealed(9, got[len(got)-1]+2)
	b.receive(later)
	b.receive(late)
	b.receive(late)
	b.receive(kept[len(kept)-1000])
	require.Len(t, got, n+200_002)
	require.Empty(t, b.shown, "pion sees nothing of it")
}

// A stream that pion closes, as when the client stops to send in a section, goes on past
// pion when its packets come again.
func TestAStreamThatComesAgain(t *testing.T) {
	b := newInbound(t)
	var got []uint16
	again := 0
	takes := taker{sink: func(p []byte, _ time.Time) { got = append(got, seqOf(p)) }, again: func() { again++ }}
	b.receive(b.sealed(9, 0))
	b.open()
	b.in.attach(9, takes)
	b.receive(b.sealed(9, 1))
	b.open()
	for i := range 100_000 {
		b.receive(b.sealed(9, uint16(2+i)))
	}
	require.Len(t, got, 100_002)
	b.in.detach(9)
	require.NoError(t, b.streams[9].Close())
	next := uint16(len(got) & 0xffff)
	for range 100 {
		b.receive(b.sealed(9, next))
		next++
	}
	require.Len(t, got, 100_002)
	require.Equal(t, 1, again)
	require.Zero(t, b.in.parked.Load(), "nobody asked for them")

	var pt uint8
	b.in.whenFirst(9, func(first uint8) { pt = first })
	b.receive(b.sealed(9, next))
	require.EqualValues(t, 96, pt)
	b.in.attach(9, takes)
	b.receive(b.sealed(9, next+1))
	require.Len(t, got, 100_004)
	require.Empty(t, b.shown)
	require.Len(t, b.in.sources, 1)
}

// Packets that are much work are forwarded by another goroutine than the socket's, in
// their order, also where some are and some are not. Nothing comes after close.
func TestMuchWorkIsDoneElsewhere(t *testing.T) {
	b := newInbound(t)
	var wide atomic.Bool
	var mu sync.Mutex
	var got []uint16
	hold := make(chan struct{})
	b.receive(b.sealed(9, 0))
	b.open()
	b.in.attach(9, taker{wide: wide.Load, sink: func(p []byte, _ time.Time) {
		if wide.Load() {
			<-hold
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, seqOf(p))
	}})
	b.receive(b.sealed(9, 1))
	b.open()
	for seq := uint16(2); seq < 900; seq++ {
		wide.Store(seq%7 > 2)
		b.receive(b.sealed(9, seq)) // which does not wait
	}
	close(hold)
	require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(got) == 900 }, time.Minute, time.Millisecond)
	for i, seq := range got {
		require.EqualValues(t, i, seq)
	}
	b.intake.close()
	require.True(t, b.intake.take(b.sealed(9, 900)))
	require.Len(t, got, 900)
}

// A queue that is not emptied is bounded.
func TestTheIntakeIsBounded(t *testing.T) {
	b := newInbound(t)
	hold := make(chan struct{})
	b.receive(b.sealed(9, 0))
	b.open()
	b.in.attach(9, taker{wide: func() bool { return true }, sink: func(p []byte, _ time.Time) {
		if seqOf(p) > 1 {
			<-hold
		}
	}})
	b.receive(b.sealed(9, 1))
	b.open()
	for seq := range uint16(3000) {
		b.receive(b.sealed(9, 2+seq))
	}
	require.GreaterOrEqual(t, b.counts.intakeOverflow.Load(), uint64(3000-2*mostWaiting))
	close(hold)
}

// RTCP reaches those that it concerns, past pion.
func TestRTCPComesPastPion(t *testing.T) {
	b := newInbound(t)
	var reports atomic.Int64
	b.in.feedback = func([]byte) { reports.Add(1) }
	got := make(chan []rtcp.Packet, 10)
	b.in.onRTCP(5, func(p []rtcp.Packet) { got <- p })
	send := func(plain []byte) {
		sealed, err := b.client.EncryptRTCP(nil, plain, nil)
		require.NoError(t, err)
		require.True(t, b.intake.take(sealed))
	}
	pli := &rtcp.PictureLossIndication{SenderSSRC: 1, MediaSSRC: 5}
	raw, err := rtcp.Marshal([]rtcp.Packet{&rtcp.ReceiverReport{SSRC: 1}, pli})
	require.NoError(t, err)
	send(raw)
	both := <-got
	require.Len(t, both, 2)
	require.Equal(t, pli, both[1])
	twcc := (&feedback.Report{Base: 3, Arrivals: []int32{0, 4}}).Append(nil, 1, 5)
	send(twcc)
	require.EqualValues(t, 1, reports.Load())
	alone, err := pli.Marshal()
	require.NoError(t, err)
	send(append(bytes.Clone(twcc), alone...))
	require.Equal(t, []rtcp.Packet{pli}, <-got)
	require.EqualValues(t, 2, reports.Load())
	require.True(t, b.intake.take(append([]byte{0x81, 206, 0, 2, 0, 0, 0, 1}, make([]byte, 40)...)))
	require.Eventually(t, func() bool { return b.counts.badSRTP.Load() == 1 }, time.Minute, time.Millisecond, "a forged one")
	for _, n := range []int{0, 1, 7} {
		require.False(t, b.intake.take(raw[:n]))
	}
}

// The reader of the socket takes what only says what was sent and what arrived. What may be
// answered by packets is taken elsewhere, and so is what a client sends beyond its budget, and
// what comes while packets wait.
func TestReportsWakeNobody(t *testing.T) {
	b := newInbound(t)
	const theirs, ours = 1, 5
	var here, elsewhere atomic.Int64
	hold := make(chan struct{})
	b.in.onRTCP(ours, func([]rtcp.Packet) {
		if bytes.Contains(debug.Stack(), []byte("(*intake).drain")) {
			<-hold
			elsewhere.Add(1)
		} else {
			here.Add(1)
		}
	})
	b.in.feedback = func([]byte) {}
	send := func(packets ...rtcp.Packet) {
		raw, err := rtcp.Marshal(packets)
		require.NoError(t, err)
		sealed, err := b.client.EncryptRTCP(nil, raw, nil)
		require.NoError(t, err)
		require.True(t, b.intake.take(sealed))
	}
	block := []rtcp.ReceptionReport{{SSRC: ours, LastSequenceNumber: 7}}
	report := &rtcp.ReceiverReport{SSRC: theirs, Reports: block}
	name := &rtcp.SourceDescription{Chunks: []rtcp.SourceDescriptionChunk{{Source: theirs, Items: []rtcp.SourceDescriptionItem{{Type: rtcp.SDESCNAME, Text: "x"}}}}}
	feedback := &rtcp.TransportLayerCC{Header: rtcp.Header{Count: rtcp.FormatTCC, Type: rtcp.TypeTransportSpecificFeedback, Length: 5}, MediaSSRC: ours, PacketStatusCount: 1, PacketChunks: []rtcp.PacketStatusChunk{&rtcp.RunLengthChunk{RunLength: 1}}}
	reports := [][]rtcp.Packet{
		{report}, {report, name}, {&rtcp.SenderReport{SSRC: theirs, Reports: block}, name},
		{&rtcp.ReceiverEstimatedMaximumBitrate{SenderSSRC: theirs, Bitrate: 1e6, SSRCs: []uint32{ours}}},
		{report, feedback},
	}
	for i, packets := range reports {
		send(packets...)
		require.EqualValues(t, i+1, here.Load(), "%v", packets)
	}
	others := [][]rtcp.Packet{{report, feedback, feedback}}
	for _, other := range []rtcp.Packet{
		&rtcp.TransportLayerNack{SenderSSRC: theirs, MediaSSRC: ours, Nacks: []rtcp.NackPair{{PacketID: 7}}},
		&rtcp.PictureLossIndication{SenderSSRC: theirs, MediaSSRC: ours},
		&rtcp.FullIntraRequest{SenderSSRC: theirs, MediaSSRC: ours, FIR: []rtcp.FIREntry{{SSRC: ours}}},
		&rtcp.Goodbye{Sources: []uint32{ours}},
	} {
		others = append(others, []rtcp.Packet{other}, []rtcp.Packet{report, other})
	}
	for _, packets := range others {
		before := elsewhere.Load()
		send(packets...) // does not wait
		send(report)     // not before it
		hold <- struct{}{}
		hold <- struct{}{}
		require.Eventually(t, func() bool {
			b.intake.mu.Lock()
			defer b.intake.mu.Unlock()
			return !b.intake.busy
		}, time.Minute, time.Millisecond)
		require.EqualValues(t, before+2, elsewhere.Load(), "%v", packets)
	}
	require.EqualValues(t, len(reports), here.Load())

	close(hold)
	for range 1000 {
		send(report)
	}
	require.Eventually(t, func() bool {
		return here.Load()+elsewhere.Load() == int64(len(reports)+2*len(others)+1000)
	}, time.Minute, time.Millisecond)
	require.Greater(t, elsewhere.Load(), int64(2*len(others)+100), "all clients share the reader")
}
