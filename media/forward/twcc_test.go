package forward

import (
	"slices"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"
)

// decode returns the content of feedback: the arrival of each packet in µs, or -1.
func decode(t *testing.T, packets []rtcp.Packet) (seqs []uint16, arrivals []int64) {
	for _, p := range packets {
		raw, err := p.Marshal()
		require.NoError(t, err)
		parsed, err := rtcp.Unmarshal(raw)
		require.NoError(t, err)
		require.Len(t, parsed, 1)
		fb, ok := parsed[0].(*rtcp.TransportLayerCC)
		require.True(t, ok)
		seq, at, next := fb.BaseSequenceNumber, int64(fb.ReferenceTime)*64000, 0
		note := func(symbol uint16) {
			if len(seqs) > 0 && seq == fb.BaseSequenceNumber+fb.PacketStatusCount {
				return // padding of the last chunk
			}
			seqs = append(seqs, seq)
			seq++
			if symbol == rtcp.TypeTCCPacketNotReceived {
				arrivals = append(arrivals, -1)
				return
			}
			at += fb.RecvDeltas[next].Delta
			next++
			arrivals = append(arrivals, at)
		}
		for _, chunk := range fb.PacketChunks {
			switch c := chunk.(type) {
			case *rtcp.RunLengthChunk:
				for range c.RunLength {
					note(c.PacketStatusSymbol)
				}
			case *rtcp.StatusVectorChunk:
				for _, s := range c.SymbolList {
					note(s)
				}
			}
		}
		require.Equal(t, len(fb.RecvDeltas), next)
	}
	return seqs, arrivals
}

func TestTWCC(t *testing.T) {
	log := &rtcpLog{}
	w := NewTWCC(log.write)
	w.SetMediaSSRC(42)
	start := time.Unix(100, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	w.Record(65534, at(0), false)
	w.Record(65535, at(1), false)
	w.Record(2, at(3), false) // 0 and 1 are missing
	w.Record(1, at(4), false) // reordered: a negative delta
	w.Record(1, at(5), false) // duplicate
	require.Empty(t, log.take())
	w.Record(3, at(200), true)
	packets := log.take()
	require.Len(t, packets, 1)
	require.Equal(t, uint32(42), packets[0].(*rtcp.TransportLayerCC).MediaSSRC)
	seqs, arrivals := decode(t, packets)
	require.Equal(t, []uint16{65534, 65535, 0, 1, 2, 3}, seqs)
	base := arrivals[0]
	require.Equal(t, []int64{0, 1000, -1 - base, 4000, 3000, 200000}, less(arrivals, base))
	w.Record(5, at(400), true)
	seqs, _ = decode(t, log.take())
	require.Equal(t, []uint16{4, 5}, seqs, "goes on where the last one ended")
	w.Record(0, at(401), true)
	w.Record(1, at(401), true) // duplicate
	w.Record(6, at(500), true)
	seqs, arrivals = decode(t, log.take())
	require.Equal(t, []uint16{0, 1, 2, 3, 4, 5, 6}, seqs, "begins with what was called lost")
	require.Equal(t, []int64{401000, 4000, 3000, 200000, -1 - base, 400000, 500000}, less(arrivals, base), "the others have their time")
	w.Record(4, at(900), true) // too old
	w.flush(at(950))
	require.Empty(t, log.take())
	w.Record(6, at(951), false) // duplicate
	w.Record(8, at(951), false)
	w.Record(9, at(951), false)
	w.flush(at(1051))
	seqs, _ = decode(t, log.take())
	require.Equal(t, []uint16{7, 8, 9}, seqs)
	w.Close()
	w.Record(10, at(9000), true)
	require.Empty(t, log.take())
}

// What nothing follows is told by the tick.
func TestTheTickTellsTheLastArrivals(t *testing.T) {
	log := &rtcpLog{}
	w := NewTWCC(log.write)
	start := time.Unix(100, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	w.Record(5, at(900), true)
	w.flush(at(1000))
	log.take()
	w.Record(6, at(1001), false)
	w.Record(7, at(1002), false)
	require.Empty(t, log.take())
	w.flush(at(1102))
	seqs, _ := decode(t, log.take())
	require.Equal(t, []uint16{6, 7}, seqs)
	w.flush(at(2000))
	require.Empty(t, log.take())
}

// An uplink that lets some packets overtake others by 30 ms loses nothing in the eyes of the
// publisher, wherever the feedback ends.
func TestReorderingIsNoLoss(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	log := &rtcpLog{}
	s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
	s.layer = track.AddLayer(LayerConfig{
		SSRC: 7, Codec: vp8Config(), Quality: livekit.VideoQuality_HIGH, WriteRTCP: func([]rtcp.Packet) error { return nil },
		Ext: Extensions{TransportCC: 3}, TWCC: NewTWCC(log.write),
	})
	s.ssrc = 7
	type arrival struct {
		raw []byte
		at  time.Time
	}
	var uplink []arrival
	const frames, parts = 150, 6
	for i := range frames * parts {
		if i%parts == 0 {
			s.next()
		}
		p := rtp.Packet{Header: rtp.Header{
			Version: 2, Marker: i%parts == parts-1, PayloadType: s.pt, SequenceNumber: s.seq, Timestamp: s.ts, SSRC: s.ssrc,
		}, Payload: s.vp8Payload(i%parts == 0, i == 0, 0, 1000)}
		require.NoError(t, p.SetExtension(3, []byte{byte(i >> 8), byte(i)}))
		s.seq++
		raw, err := p.Marshal()
		require.NoError(t, err)
		at := s.at.Add(time.Duration(i%parts) * frame / parts)
		if i%7 == 3 {
			at = at.Add(30 * time.Millisecond)
		}
		uplink = append(uplink, arrival{raw, at})
	}
	slices.SortStableFunc(uplink, func(a, b arrival) int { return a.at.Compare(b.at) })
	for _, p := range uplink {
		s.layer.WriteRTP(p.raw, p.at)
	}
	s.layer.cfg.TWCC.flush(uplink[len(uplink)-1].at.Add(twccMaxInterval))
	seqs, arrivals := decode(t, log.take())
	lost := map[uint16]bool{}
	corrected := 0
	for i, seq := range seqs {
		if arrivals[i] < 0 {
			lost[seq] = true
		} else if lost[seq] {
			delete(lost, seq)
			corrected++
		}
	}
	require.Empty(t, lost)
	require.NotZero(t, corrected, "some were called lost first")
	require.Less(t, len(seqs), 2*frames*parts, "little is told twice")
}

// A publisher whose packets come in the worst order gets no more feedback than a few
// messages at each interval.
func TestFeedbackThatCorrectsIsBounded(t *testing.T) {
	log := &rtcpLog{}
	w := NewTWCC(log.write)
	at := time.Unix(100, 0)
	worst := 0
	record := func(seq uint16) {
		at = at.Add(500 * time.Microsecond)
		w.Record(seq, at, true)
		seqs, _ := decode(t, log.take())
		worst = max(worst, len(seqs))
	}
	for i := range uint16(1000) {
		record(2 * i)
	}
	for i := range uint16(1000) {
		record(1997 - 2*i)
	}
	require.Greater(t, worst, twccBack/2)
	require.LessOrEqual(t, worst, twccBack)
}

func less(values []int64, base int64) []int64 {
	for i := range values {
		values[i] -= base
	}
	return values
}

// Every packet is reported, with its arrival accurate to a quarter of a millisecond. One that
// comes late may be left out.
func FuzzTWCC(f *testing.F) {
	f.Add([]byte{1, 1, 1, 200, 2, 0, 0, 9, 130, 255, 7, 7})
	f.Add([]byte{64, 20, 64, 20, 192, 3, 64, 20, 195, 9, 130, 255, 200, 1, 7, 7})
	f.Fuzz(func(t *testing.T, b []byte) {
		log := &rtcpLog{}
		w := NewTWCC(log.write)
		start := time.Unix(100, 0)
		now, seq := start, uint16(65000)
		arrived, late, told := map[uint16]int64{}, map[uint16]bool{}, map[uint16]bool{}
		var base int64
		check := func() {
			seqs, arrivals := decode(t, log.take())
			for i, s := range seqs {
				want, came := arrived[s]
				if late[s] && arrivals[i] < 0 {
					continue
				}
				require.Equal(t, came, arrivals[i] >= 0, "%d", s)
				if !came {
					continue
				}
				if len(told) == 0 {
					base = arrivals[i] - want
				}
				told[s] = true
				require.InDelta(t, want+base, arrivals[i], 500, "%d", s)
			}
			require.LessOrEqual(t, len(seqs), twccWindow)
		}
		for i := 0; len(b) >= 2 && i < 2000; b, i = b[2:], i+1 {
			now = now.Add(time.Duration(b[1]) * time.Duration(b[1]) * 300 * time.Microsecond)
			switch {
			case b[0] < 128:
				seq += 1 + uint16(b[0])/8
				arrived[seq] = now.Sub(start).Microseconds()
				w.Record(seq, now, b[0]&1 == 0)
			case b[0] < 192:
				w.flush(now)
			case len(arrived) > 0:
				s := seq - uint16(b[0]-191)*uint16(1+b[1]%16)
				if _, came := arrived[s]; !came {
					arrived[s], late[s] = now.Sub(start).Microseconds(), true
				}
				w.Record(s, now, b[0]&1 == 0)
			}
			check()
		}
		w.flush(now.Add(time.Hour))
		check()
		for s := range arrived {
			require.True(t, told[s] || late[s], "%d", s)
		}
	})
}
