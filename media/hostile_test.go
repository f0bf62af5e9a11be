package media

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink/feedback"
	"parlor/rooms"
)

// witness is two clients in a call, which a third must not affect.
type witness struct {
	t *testing.T
	r remoteTrack
}

func newWitness(t *testing.T, e *Engine) *witness {
	t.Helper()
	a := newClient(t, e, clientConfig{sid: "PA_w"})
	a.join()
	pump(t, a.publish("TR_w", opus, nil))
	b := newClient(t, e, clientConfig{sid: "PA_x", single: true})
	b.join()
	b.subscribe("PA_w", a.published("TR_w"))
	return &witness{t, b.receives("PA_w", "TR_w")}
}

func (w *witness) isWell() {
	w.t.Helper()
	require.NoError(w.t, w.r.SetReadDeadline(time.Now().Add(patience)))
	for range 20 {
		_, _, err := w.r.ReadRTP()
		require.NoError(w.t, err)
	}
}

// Descriptions whose parsing would take disproportionate effort are refused.
func TestHugeDescriptions(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		w := newWitness(t, e)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		const audio = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:%d\r\na=sendonly\r\na=rtpmap:111 opus/48000/2\r\n"
		many := func(n int, line string) string {
			var b strings.Builder
			for i := range n {
				fmt.Fprintf(&b, line, i)
			}
			return b.String()
		}
		one := offerHead + fmt.Sprintf(audio, 0)
		for _, text := range []string{
			offerHead + many(maxSections+1, audio),
			one + many(maxAttributes, "a=x:%d\r\n"),
			one + many(maxCandidates+1, "a=candidate:1 1 udp 1 192.0.2.1 %d typ host\r\n"),
			offerHead + "m=audio 9 UDP/TLS/RTP/SAVPF" + strings.Repeat(" 111", maxFormats+1) + "\r\na=mid:0\r\n",
		} {
			before := e.Stats().BadDescriptions
			a.peer.HandleOffer(Description{SDP: text})
			require.Eventually(t, func() bool { return e.Stats().BadDescriptions == before+1 }, patience, time.Millisecond)
		}
		s, err := parseOffer(one+many(maxAttributes/2, "a=ssrc:%d cname:x\r\n")+many(maxRIDs+1, "a=rid:%d send\r\n"), nil)
		require.NoError(t, err)
		require.LessOrEqual(t, len(s[0].ssrcs), maxSSRCs)
		require.Len(t, s[0].rids, maxRIDs)
		pump(t, a.publish("TR_a", opus, nil)) // no state of it was kept
		a.published("TR_a")
		w.isWell()
	})
}

// A client that trickles endless candidates makes us check no more addresses than
// another, until ICE restarts.
func TestTrickleFlood(t *testing.T) {
	e := newTestEngine(t, nil)
	w := newWitness(t, e)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()
	flood := func(n int) {
		for i := range n {
			a.peer.HandleCandidate(host("192.0.2.1", uint16(1+i)))
		}
	}
	flood(1000)
	require.Eventually(t, func() bool { return e.Stats().BadCandidates >= 1000-maxCandidates }, patience, time.Millisecond)
	before := e.Stats().BadCandidates
	a.offer(true)
	require.Eventually(t, func() bool { return a.answered() == 2 }, patience, time.Millisecond)
	flood(10)
	a.peer.SendData(nil, livekit.DataPacket_RELIABLE, []byte("well"))
	require.Equal(t, "well", string(a.message().data))
	require.Less(t, e.Stats().BadCandidates, before+10, "the client's own may have come late")
	require.Zero(t, e.Stats().NeedsReconnect)
	w.isWell()
}

// A client that sends long descriptions faster than they can be applied must reconnect
// before they fill the memory.
func TestDescriptionFlood(t *testing.T) {
	e := newTestEngine(t, nil)
	w := newWitness(t, e)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()
	busy := make(chan struct{})
	a.peer.post(func() { <-busy })
	long := Description{SDP: strings.Repeat("x", maxDescription)}
	for range 100 {
		a.peer.HandleOffer(long)
	}
	require.LessOrEqual(t, a.peer.describing.Load(), int64(maxDescriptionsWaiting))
	close(busy)
	require.Eventually(t, func() bool { return e.Stats().NeedsReconnect == 1 }, patience, time.Millisecond)
	w.isWell()
}

// A client that begins too many streams must reconnect, because each leaves state behind.
func TestStreamFlood(t *testing.T) {
	e := newTestEngine(t, nil)
	w := newWitness(t, e)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()
	local := a.publishRaw("TR_a", webrtc.RTPCodecTypeAudio, opus, nil)
	a.published("TR_a")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := uint32(1); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			_, _ = local.WriteStream().WriteRTP(&rtp.Header{Version: 2, SSRC: i, PayloadType: 111}, []byte{1})
			if i%100 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	require.Contains(t, a.events.wait(t, "reconnect").label, "streams")
	close(stop)
	<-done
	require.EqualValues(t, 1, e.Stats().StreamFloods)
	w.isWell()
}

// A packet that a subscriber asks for is sent again four times at most, and keyframes
// are requested no more often than allowed.
func TestFeedbackFlood(t *testing.T) {
	e := newTestEngine(t, nil)
	w := newWitness(t, e)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	requests := make(chan rtcp.Packet, 10000)
	raw := a.publishRaw("TR_v", webrtc.RTPCodecTypeVideo, vp8, nil)
	pumpPackets(t, raw, func(i int) *rtp.Packet {
		return &rtp.Packet{
			Header:  rtp.Header{Marker: true, Timestamp: uint32(i * 900), PayloadType: 96},
			Payload: []byte{0x10, 0x00, 0x00, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00, 1},
		}
	})
	for _, s := range a.pub.GetSenders() {
		go func() { // ends with the connection
			for {
				packets, _, err := s.ReadRTCP()
				if err != nil {
					return
				}
				for _, p := range packets {
					if _, ok := p.(*rtcp.PictureLossIndication); ok {
						requests <- p
					}
				}
			}
		}()
	}
	b := newClient(t, e, clientConfig{sid: "PA_b"})
	b.join()
	b.subscribe("PA_a", a.published("TR_v"))
	r := b.receives("PA_a", "TR_v")
	ssrc := uint32(r.SSRC())
	all := &rtcp.TransportLayerNack{MediaSSRC: ssrc}
	for i := 0; i < 1<<16; i += 17 {
		all.Nacks = append(all.Nacks, rtcp.NackPair{PacketID: uint16(i), LostPackets: 0xffff})
	}
	began := time.Now()
	for range 50 {
		for part := range 20 {
			n := len(all.Nacks) / 20
			require.NoError(t, b.sub.WriteRTCP([]rtcp.Packet{
				&rtcp.TransportLayerNack{MediaSSRC: ssrc, Nacks: all.Nacks[part*n : (part+1)*n]},
				&rtcp.PictureLossIndication{MediaSSRC: ssrc},
				&rtcp.FullIntraRequest{MediaSSRC: ssrc, FIR: []rtcp.FIREntry{{SSRC: ssrc, SequenceNumber: uint8(part)}}},
				&rtcp.ReceiverEstimatedMaximumBitrate{Bitrate: 0, SSRCs: []uint32{ssrc}},
				&rtcp.ReceiverEstimatedMaximumBitrate{Bitrate: 1e38, SSRCs: []uint32{ssrc}},
			}))
		}
		_, _, err := r.ReadRTP() // packets still come
		require.NoError(t, err)
	}
	took := time.Since(began)
	require.LessOrEqual(t, len(requests), 3+int(took/(500*time.Millisecond)))
	stats := make(chan uint64, 2)
	b.peer.post(func() {
		s := b.peer.subs["TR_v"].forwarder.Stats()
		stats <- s.Retransmitted
		stats <- s.Packets - s.Retransmitted
	})
	again, once := <-stats, <-stats
	require.NotZero(t, again)
	require.LessOrEqual(t, again, 4*once)
	w.isWell()
}

// A client that floods with authentic transport-wide feedback, which is read on the
// goroutine that all clients share, does not affect the others: the excess is not
// decrypted.
func TestAuthenticFeedbackFlood(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		w := newWitness(t, e)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		pc := a.pub
		if !single {
			pc = a.sub
		}
		require.Eventually(t, func() bool { return pc.ConnectionState() == webrtc.PeerConnectionStateConnected }, patience, time.Millisecond)
		report := feedback.Report{Arrivals: []int32{0, 4, feedback.NotReceived, 9}}
		const packets = 3000
		for i := range packets {
			report.Base = uint16(i)
			require.NoError(t, pc.WriteRTCP([]rtcp.Packet{rawRTCP(report.Append(nil, 7, 0))}))
			if i%100 == 0 {
				w.lacksNothing(2) // also lets the socket accept most of it
			}
		}
		require.Eventually(t, func() bool { return e.Stats().ExcessFeedback > packets/3 }, patience, time.Millisecond)
		w.lacksNothing(20)
		a.peer.SendData(nil, livekit.DataPacket_RELIABLE, []byte("well"))
		require.Equal(t, "well", string(a.message().data))
	})
}

// Feedback costs as much of the budget where it is hidden among other reports.
func TestFeedbackFloodInCompounds(t *testing.T) {
	e := newTestEngine(t, nil)
	w := newWitness(t, e)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	require.Eventually(t, func() bool { return a.sub.ConnectionState() == webrtc.PeerConnectionStateConnected }, patience, time.Millisecond)
	report := feedback.Report{Arrivals: []int32{0, 4, feedback.NotReceived, 9}}
	compound := []rtcp.Packet{&rtcp.ReceiverReport{}}
	for i := range 30 {
		report.Base = uint16(i)
		compound = append(compound, rawRTCP(report.Append(nil, 7, 0)))
	}
	for range 100 {
		require.NoError(t, a.sub.WriteRTCP(compound))
		w.lacksNothing(1)
	}
	require.Eventually(t, func() bool { return e.Stats().ExcessFeedback > 1000 }, patience, time.Millisecond)
	w.isWell()
}

// Layers that are announced with qualities that there are not, and sizes that no picture has, are
// those of their rids.
func TestLayersOfNoQuality(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.claims = []*livekit.VideoLayer{
		{Rid: "q", Quality: -5, Width: math.MaxUint32, Height: math.MaxUint32},
		{Rid: "h", Quality: math.MaxInt32, Width: math.MaxUint32, Height: math.MaxUint32},
		{Rid: "f", Quality: livekit.VideoQuality_OFF},
		{Quality: livekit.VideoQuality_HIGH, Width: math.MaxUint32, Height: math.MaxUint32},
	}
	a.join()
	a.publishSimulcast("TR_s")
	b := newClient(t, e, clientConfig{sid: "PA_b"})
	w := &watcher{t, make(chan byte, 100000)}
	b.onTrack = w.watch
	b.subscribe("PA_a", a.published("TR_s"))
	b.join()
	w.until("the highest layer", 2)
	b.peer.SetTrackSettings([]string{"TR_s"}, rooms.TrackSettings{Quality: livekit.VideoQuality_LOW})
	w.until("the lowest layer", 0)
}

// Packets with false headers are counted and dropped.
func TestLyingPackets(t *testing.T) {
	e := newTestEngine(t, nil)
	w := newWitness(t, e)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	raw := a.publishRaw("TR_a", webrtc.RTPCodecTypeAudio, opus, func(r *livekit.AddTrackRequest) { r.DisableRed = true })
	b := newClient(t, e, clientConfig{sid: "PA_b"})
	b.join()
	b.subscribe("PA_a", a.published("TR_a"))
	pumpPackets(t, raw, func(i int) *rtp.Packet {
		p := &rtp.Packet{Header: rtp.Header{Timestamp: uint32(i * 480), PayloadType: 111}, Payload: []byte{0xfc, 7}}
		switch i % 4 {
		case 1:
			p.Payload = nil
		case 2: // only padding
			p.Padding, p.PaddingSize, p.Payload = true, 0, []byte{0, 0, 0, 4}
		case 3: // more padding than the packet's length
			p.Padding, p.PaddingSize, p.Payload = true, 0, []byte{0, 0, 0, 200}
		}
		return p
	})
	r := b.receives("PA_a", "TR_a")
	last := uint16(0)
	for i := range 20 {
		p, _, err := r.ReadRTP()
		require.NoError(t, err)
		require.Equal(t, []byte{0xfc, 7}, p.Payload)
		if i > 0 && p.SequenceNumber != last+1 && p.SequenceNumber != last+2 {
			require.Fail(t, "a gap", "%d after %d", p.SequenceNumber, last) // a gap for the packet that could not be parsed
		}
		last = p.SequenceNumber
	}
	w.isWell()
}
