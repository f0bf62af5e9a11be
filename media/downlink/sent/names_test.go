package sent

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/media/downlink/feedback"
)

// streamReport tells of consecutive packets of streams, made at a time of the receiver's
// clock.
func streamReport(at time.Duration, parts map[feedback.Stream][]int32) *feedback.StreamReport {
	r := &feedback.StreamReport{Timestamp: uint32(at * 1 << 16 / time.Second)}
	for s, arrivals := range parts {
		s.From, s.To = len(r.Arrivals), len(r.Arrivals)+len(arrivals)
		r.Streams, r.Arrivals = append(r.Streams, s), append(r.Arrivals, arrivals...)
	}
	return r
}

func TestNamedPacketsAreToldOfInTheOrderSent(t *testing.T) {
	r := New()
	for i, p := range []struct {
		ssrc uint32
		seq  uint16
	}{{7, 65535}, {8, 10}, {7, 0}, {8, 11}, {7, 1}} {
		r.Add(int64(i)*ms, 100, Video, 0)
		r.Name(p.ssrc, p.seq)
	}
	got := r.MatchStreams(streamReport(time.Minute, map[feedback.Stream][]int32{
		{SSRC: 7, Begin: 65535}: {512, feedback.NotReceived, feedback.Untimed},
		{SSRC: 8, Begin: 9}:     {3, 256, 128},
		{SSRC: 9, Begin: 9}:     {3},
	}), nil)
	require.Len(t, got, 4, "the last came at a time that is not told")
	for i, r := range got {
		require.EqualValues(t, i+1, r.Number)
		require.Equal(t, int64(i)*ms, r.Sent)
	}
	require.Equal(t, []bool{true, true, false, true}, []bool{got[0].Received, got[1].Received, got[2].Received, got[3].Received})
	require.Equal(t, 250*ms, got[1].Arrived-got[0].Arrived)
	require.Equal(t, 125*ms, got[3].Arrived-got[1].Arrived)
	require.Zero(t, r.InFlight())
	require.EqualValues(t, 2, r.Unknown())

	late := r.MatchStreams(streamReport(time.Minute+time.Second, map[feedback.Stream][]int32{{SSRC: 7, Begin: 0}: {1024}}), nil)
	require.Len(t, late, 1)
	require.True(t, late[0].Revised)
	require.Equal(t, 500*ms, late[0].Arrived-got[0].Arrived)
	r.Forget(7)
	require.Empty(t, r.MatchStreams(streamReport(time.Minute, map[feedback.Stream][]int32{{SSRC: 7, Begin: 1}: {1}}), nil))
}

// Names wrap, as do the times of reports, and what is as old as may be told of is known.
func TestNamesAndTimesOfReportsWrap(t *testing.T) {
	r := New()
	var last int64
	const clock = 18*time.Hour + 12*time.Minute // it is about to wrap
	for i := range int64(100_000) {
		r.Add(i*ms, 100, Video, 0)
		r.Name(7, uint16(i))
		back := min(i, 2500)
		got := r.MatchStreams(streamReport(clock+time.Duration(i*ms), map[feedback.Stream][]int32{{SSRC: 7, Begin: uint16(i - back)}: {0}}), nil)
		require.Len(t, got, map[bool]int{true: 1}[i == 0 || i > 2500], "%d", i) // the first is told of before
		if i > 2500 {
			require.Equal(t, i-back+1, got[0].Number)
			require.InDelta(t, ms, got[0].Arrived-last, 20_000)
			last = got[0].Arrived
		} else if i == 0 {
			last = got[0].Arrived + 2500*ms
		}
	}
	require.Len(t, r.names.streams[7], 4096)
}

// A name that is used again is the later packet's.
func TestANameThatIsUsedAgain(t *testing.T) {
	r := New()
	r.Add(0, 100, Video, 0)
	r.Name(7, 1)
	r.Add(5*ms, 100, Repeat, 0)
	r.Name(7, 1)
	got := r.MatchStreams(streamReport(time.Second, map[feedback.Stream][]int32{{SSRC: 7, Begin: 1}: {0}}), nil)
	require.Len(t, got, 1)
	require.Equal(t, Repeat, got[0].Kind)
	require.Empty(t, r.MatchStreams(streamReport(time.Second, map[feedback.Stream][]int32{{SSRC: 7, Begin: 1}: {0}}), nil))
}
