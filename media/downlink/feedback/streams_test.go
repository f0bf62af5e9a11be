package feedback

import (
	"testing"

	"github.com/pion/rtcp"
	"github.com/stretchr/testify/require"
)

func streams() rtcp.CCFeedbackReport {
	return rtcp.CCFeedbackReport{
		SenderSSRC: 1, ReportTimestamp: 0xfffe0001,
		ReportBlocks: []rtcp.CCFeedbackReportBlock{
			{MediaSSRC: 7, BeginSequence: 65534, MetricBlocks: []rtcp.CCFeedbackMetricBlock{
				{Received: true, ArrivalTimeOffset: 30}, {}, {Received: true, ECN: rtcp.ECNCE, ArrivalTimeOffset: 10},
			}},
			{MediaSSRC: 9, BeginSequence: 3},
			{MediaSSRC: 8, BeginSequence: 100, MetricBlocks: []rtcp.CCFeedbackMetricBlock{
				{Received: true, ArrivalTimeOffset: 0x1ffd}, {Received: true, ArrivalTimeOffset: 0x1ffe},
				{Received: true, ArrivalTimeOffset: 0x1fff}, {Received: true},
			}},
		},
	}
}

func TestStreamsAreReadAsWritten(t *testing.T) {
	written := streams()
	raw, err := written.Marshal()
	require.NoError(t, err)
	require.True(t, IsStreams(raw))
	var r StreamReport
	for range 2 {
		require.NoError(t, r.Parse(append(raw, 0xff))) // what follows is another packet
		require.EqualValues(t, 0xfffe0001, r.Timestamp)
		require.Equal(t, []Stream{{7, 65534, 0, 3}, {9, 3, 3, 3}, {8, 100, 3, 7}}, r.Streams)
		require.Equal(t, []int32{30, NotReceived, 10, 0x1ffd, Untimed, Untimed, 0}, r.Arrivals)
	}
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = r.Parse(raw) }))

	padded := append(append([]byte(nil), raw...), 0, 0, 0, 4)
	padded[0] |= 0x20
	padded[3]++
	require.NoError(t, r.Parse(padded))
	require.Len(t, r.Arrivals, 7)
	padded[len(padded)-1] = 3
	require.ErrorIs(t, r.Parse(padded), ErrMalformed)
}

func TestBadStreamsAreRefused(t *testing.T) {
	written := streams()
	raw, err := written.Marshal()
	require.NoError(t, err)
	var r StreamReport
	for n := range raw {
		require.Error(t, r.Parse(raw[:n]), "cut at %d", n)
		require.Empty(t, r.Arrivals)
		require.Empty(t, r.Streams)
	}
	wide := example()
	require.ErrorIs(t, r.Parse(wide.Append(nil, 1, 2)), ErrMalformed)
	more := append([]byte(nil), raw...)
	more[14], more[15] = 0xff, 0xff // more packets than there are bytes
	require.ErrorIs(t, r.Parse(more), ErrMalformed)
	long := rtcp.CCFeedbackReport{ReportBlocks: []rtcp.CCFeedbackReportBlock{{MetricBlocks: make([]rtcp.CCFeedbackMetricBlock, MaxStatuses+1)}}}
	raw, err = long.Marshal()
	require.NoError(t, err)
	require.ErrorIs(t, r.Parse(raw), ErrTooLong)
}

func FuzzParseStreams(f *testing.F) {
	written := streams()
	raw, err := written.Marshal()
	require.NoError(f, err)
	f.Add(raw)
	f.Add([]byte{0xab, 205, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r StreamReport
		if r.Parse(raw) != nil {
			require.Empty(t, r.Arrivals)
			return
		}
		require.LessOrEqual(t, 2*len(r.Arrivals)+8*len(r.Streams), len(raw))
		require.LessOrEqual(t, len(r.Arrivals), MaxStatuses)
		to := 0
		for _, s := range r.Streams {
			require.Equal(t, to, s.From)
			require.GreaterOrEqual(t, s.To, s.From)
			to = s.To
		}
		require.Equal(t, len(r.Arrivals), to)
		var pion rtcp.CCFeedbackReport
		size := 4 * (int(raw[2])<<8 + int(raw[3]) + 1)
		if raw[0]&0x20 == 0 && pion.Unmarshal(raw[:size]) == nil {
			require.Len(t, r.Streams, len(pion.ReportBlocks))
			for i, b := range pion.ReportBlocks {
				require.Equal(t, b.MediaSSRC, r.Streams[i].SSRC)
				for j, m := range b.MetricBlocks {
					require.Equal(t, m.Received, r.Arrivals[r.Streams[i].From+j] != NotReceived)
				}
			}
		}
	})
}
