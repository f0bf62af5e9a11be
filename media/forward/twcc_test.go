package forward

import (
	"testing"
	"time"

	"github.com/pion/rtcp"
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
	w.Record(0, at(201), true)
	w.Record(5, at(400), true)
	seqs, _ = decode(t, log.take())
	require.Equal(t, []uint16{4, 5}, seqs, "goes on where the last one ended")
	w.flush(at(900))
	require.Empty(t, log.take())
	w.Record(6, at(901), false)
	w.Record(7, at(902), false)
	require.Empty(t, log.take())
	w.flush(at(1002))
	seqs, _ = decode(t, log.take())
	require.Equal(t, []uint16{6, 7}, seqs, "what nothing follows is told by the tick")
	w.Close()
	w.Record(8, at(9000), true)
	require.Empty(t, log.take())
}

func less(values []int64, base int64) []int64 {
	for i := range values {
		values[i] -= base
	}
	return values
}

// Every packet is reported once, with its arrival accurate to a quarter of a millisecond.
func FuzzTWCC(f *testing.F) {
	f.Add([]byte{1, 1, 1, 200, 2, 0, 0, 9, 130, 255, 7, 7})
	f.Fuzz(func(t *testing.T, b []byte) {
		log := &rtcpLog{}
		w := NewTWCC(log.write)
		start := time.Unix(100, 0)
		now, seq := start, uint16(65000)
		arrived := map[uint16]int64{}
		for i := 0; len(b) >= 2 && i < 2000; b, i = b[2:], i+1 {
			now = now.Add(time.Duration(b[1]) * time.Duration(b[1]) * 300 * time.Microsecond)
			if b[0] < 128 {
				seq += 1 + uint16(b[0])/8
				arrived[seq] = now.Sub(start).Microseconds()
				w.Record(seq, now, b[0]&1 == 0)
			} else {
				w.flush(now)
			}
		}
		w.flush(now.Add(time.Hour))
		seqs, arrivals := decode(t, log.take())
		told := 0
		var base int64
		for i, s := range seqs {
			want, came := arrived[s]
			require.Equal(t, came, arrivals[i] >= 0, "%d", s)
			if !came {
				continue
			}
			if told == 0 {
				base = arrivals[i] - want
			}
			told++
			require.InDelta(t, want+base, arrivals[i], 500, "%d", s)
			if i > 0 {
				require.Equal(t, seqs[i-1]+1, s)
			}
		}
		require.Equal(t, len(arrived), told)
	})
}
