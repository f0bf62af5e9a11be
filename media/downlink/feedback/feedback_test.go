package feedback

import (
	"testing"

	"github.com/pion/rtcp"
	"github.com/stretchr/testify/require"
)

func example() Report {
	r := Report{Base: 65530, Reference: 0x00fffffe, Count: 9}
	for i := range int32(40) {
		switch {
		case i%9 == 4:
			r.Arrivals = append(r.Arrivals, NotReceived)
		case i == 20:
			r.Arrivals = append(r.Arrivals, r.Arrivals[19]-30) // overtaken
		case i == 25:
			r.Arrivals = append(r.Arrivals, 3000)
		case i > 25:
			r.Arrivals = append(r.Arrivals, 3000+4*i)
		default:
			r.Arrivals = append(r.Arrivals, 4*i)
		}
	}
	return r
}

func TestReportComesBackAsWritten(t *testing.T) {
	want := example()
	raw := want.Append(nil, 1, 2)
	var got Report
	require.NoError(t, got.Parse(raw))
	require.Equal(t, want, got)

	var parsed rtcp.TransportLayerCC
	require.NoError(t, parsed.Unmarshal(raw))
	var fromPion Report
	require.NoError(t, fromPion.From(&parsed))
	require.Equal(t, want, fromPion)
}

// Run-length and one-bit chunks as pion writes them.
func TestEachKindOfChunk(t *testing.T) {
	fb := rtcp.TransportLayerCC{
		BaseSequenceNumber: 7, PacketStatusCount: 17, ReferenceTime: 3,
		PacketChunks: []rtcp.PacketStatusChunk{
			&rtcp.RunLengthChunk{Type: rtcp.TypeTCCRunLengthChunk, PacketStatusSymbol: rtcp.TypeTCCPacketReceivedSmallDelta, RunLength: 3},
			&rtcp.StatusVectorChunk{
				Type: rtcp.TypeTCCStatusVectorChunk, SymbolSize: rtcp.TypeTCCSymbolSizeOneBit,
				SymbolList: []uint16{0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
			},
		},
	}
	for range 5 {
		fb.RecvDeltas = append(fb.RecvDeltas, &rtcp.RecvDelta{Type: rtcp.TypeTCCPacketReceivedSmallDelta, Delta: 1000})
	}
	fb.Header = rtcp.Header{Count: rtcp.FormatTCC, Type: rtcp.TypeTransportSpecificFeedback, Length: 7, Padding: true}
	raw, err := fb.Marshal()
	require.NoError(t, err)
	var r Report
	require.NoError(t, r.Parse(raw))
	require.Len(t, r.Arrivals, 17)
	require.Equal(t, []int32{4, 8, 12, NotReceived, 16}, r.Arrivals[:5])
	require.Equal(t, int32(20), r.Arrivals[16])
}

func TestBadFeedbackIsRefused(t *testing.T) {
	good := example()
	raw := good.Append(nil, 1, 2)
	var r Report
	for n := range raw {
		require.Error(t, r.Parse(raw[:n]), "cut at %d", n)
		require.Empty(t, r.Arrivals)
	}
	long := append([]byte(nil), raw...)
	long[14], long[15] = 0xff, 0xff
	require.ErrorIs(t, r.Parse(long), ErrTooLong)
	empty := append([]byte(nil), raw...)
	empty[20], empty[21] = 0, 0 // a run of none
	require.ErrorIs(t, r.Parse(empty), ErrMalformed)
	reserved := append([]byte(nil), raw...)
	reserved[20], reserved[21] = 0x60, 40
	require.ErrorIs(t, r.Parse(reserved), ErrMalformed)
	require.ErrorIs(t, r.From(&rtcp.TransportLayerCC{PacketStatusCount: MaxStatuses + 1}), ErrTooLong)
	require.ErrorIs(t, r.From(&rtcp.TransportLayerCC{PacketStatusCount: 1, PacketChunks: []rtcp.PacketStatusChunk{
		&rtcp.RunLengthChunk{PacketStatusSymbol: 1, RunLength: 1},
	}}), ErrMalformed)
}

func FuzzParse(f *testing.F) {
	good := example()
	f.Add(good.Append(nil, 1, 2))
	f.Add([]byte{0x8f, 205, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x0f, 0xff, 0, 0, 0, 0, 0x1f, 0xff, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r, again Report
		if r.Parse(raw) != nil {
			return
		}
		require.LessOrEqual(t, len(r.Arrivals), MaxStatuses)
		require.NoError(t, again.Parse(r.Append(nil, 1, 2)))
		require.Equal(t, len(r.Arrivals), len(again.Arrivals))
		for i := range r.Arrivals {
			require.Equal(t, r.Arrivals[i], again.Arrivals[i])
		}
	})
}
