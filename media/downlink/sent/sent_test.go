package sent

import (
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"parlor/media/downlink/feedback"
)

const ms = int64(time.Millisecond)

func TestAPacketIsRememberedInSixteenBytes(t *testing.T) {
	require.LessOrEqual(t, unsafe.Sizeof(entry{}), uintptr(16))
}

func TestResultsTellSizeTimeAndKind(t *testing.T) {
	r := New()
	first := r.Add(10*ms, 100, Audio, 0)
	r.Add(11*ms, 1200, Video, 0)
	r.Add(12*ms, 300, Padding, 5)
	require.Equal(t, 1600, r.InFlight())
	require.NotZero(t, r.Oldest())
	got := r.Match(&feedback.Report{Base: first, Reference: 7, Arrivals: []int32{4, feedback.NotReceived, 8}}, nil)
	require.Len(t, got, 3)
	require.Equal(t, Result{Number: 1, Sent: 10 * ms, Arrived: got[0].Arrived, Size: 100, Kind: Audio, Received: true}, got[0])
	require.Equal(t, Result{Number: 2, Sent: 11 * ms, Size: 1200, Kind: Video}, got[1])
	require.Equal(t, uint8(5), got[2].Cluster)
	require.Equal(t, ms, got[2].Arrived-got[0].Arrived)
	require.Zero(t, r.InFlight())
}

func TestALatePacketIsRevisedAndNothingToldTwice(t *testing.T) {
	r := New()
	first := r.Add(0, 100, Video, 0)
	r.Add(0, 100, Video, 0)
	r.Match(&feedback.Report{Base: first, Arrivals: []int32{feedback.NotReceived, 3}}, nil)
	require.Empty(t, r.Match(&feedback.Report{Base: first, Arrivals: []int32{feedback.NotReceived, 3}}, nil))
	got := r.Match(&feedback.Report{Base: first, Arrivals: []int32{9, 3}}, nil)
	require.Len(t, got, 1)
	require.True(t, got[0].Revised && got[0].Received)
	require.Empty(t, r.Match(&feedback.Report{Base: first, Arrivals: []int32{feedback.NotReceived, 3}}, nil))
}

// The arrival of a packet that was sent twice under one number says nothing of the path. If the
// first was lost, it stays lost.
func TestARepeatUnderTheSameNumberIsNoNews(t *testing.T) {
	r := New()
	first := r.Add(0, 100, Video, 0)
	for range 3 {
		r.Add(0, 100, Video, 0)
	}
	got := r.Match(&feedback.Report{Base: first, Arrivals: []int32{feedback.NotReceived, 3}}, nil)
	require.Len(t, got, 2)
	r.Repeated(first)
	r.Repeated(first + 2)
	r.Repeated(first + 3)
	r.Repeated(first + 100)
	require.False(t, r.Arrived(first))
	got = r.Match(&feedback.Report{Base: first, Arrivals: []int32{900, 3, 901, feedback.NotReceived}}, nil)
	require.Len(t, got, 1, "%v", got)
	require.Equal(t, Result{Number: 4, Size: 100, Kind: Video}, got[0], "both were lost")
	require.True(t, r.Arrived(first) && r.Arrived(first+2))
	require.False(t, r.Arrived(first+3))
	require.Zero(t, r.InFlight())
	require.Empty(t, r.Match(&feedback.Report{Base: first, Arrivals: []int32{feedback.NotReceived, 3, 901, 902}}, nil))
	require.True(t, r.Arrived(first+3))
	require.EqualValues(t, 5, r.Next())
}

func TestNumbersAndReferenceTimesWrap(t *testing.T) {
	r := New()
	var last int64
	for i := range int64(200_000) {
		n := r.Add(i*ms, 100, Video, 0)
		arrival := i*ms/int64(250*time.Microsecond) + 1<<26 // the clock is about to wrap
		units := arrival % 256
		got := r.Match(&feedback.Report{Base: n, Reference: uint32(arrival/256+1<<24-1000) & 0xffffff, Arrivals: []int32{int32(units)}}, nil)
		require.Len(t, got, 1)
		require.Equal(t, i+1, got[0].Number)
		if i > 0 {
			require.Equal(t, ms, got[0].Arrived-last)
		}
		last = got[0].Arrived
	}
	require.Zero(t, r.InFlight())
}

func TestTheRecordGrowsWithWhatIsInFlight(t *testing.T) {
	r := New()
	for i := range int64(5000) {
		r.Add(i*ms/4, 100, Video, 0)
	}
	arrivals := make([]int32, 4000)
	got := r.Match(&feedback.Report{Base: 1001, Arrivals: arrivals}, nil)
	require.Len(t, got, 4000)
	for range 1 << 16 { // it does not grow without bound
		r.Add(6000*ms, 100, Video, 0)
	}
	require.Len(t, r.ring, mostEntries)
	require.Positive(t, r.InFlight())
	got = r.Match(&feedback.Report{Base: uint16(r.next - 1), Arrivals: []int32{1}}, nil)
	require.Len(t, got, 1)
	require.Zero(t, r.InFlight())
}

func TestStatusesOfPacketsThatWereNotSentAreCounted(t *testing.T) {
	r := New()
	require.Empty(t, r.Match(&feedback.Report{Base: 5, Arrivals: []int32{1}}, nil))
	r.Add(0, 100, Video, 0)
	require.Empty(t, r.Match(&feedback.Report{Base: 2, Arrivals: []int32{1, 2, 3}}, nil))
	require.Equal(t, uint64(3), r.Unknown())
}

func TestRecordDoesNotAllocate(t *testing.T) {
	r := New()
	now := int64(0)
	fb := feedback.Report{Arrivals: make([]int32, 20)}
	results := make([]Result, 0, 64)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		for i := range 20 {
			now += 20 * ms
			n := r.Add(now, 1000, Video, 0)
			if i == 0 {
				fb.Base = n
			}
			fb.Arrivals[i] = int32(i * 80)
		}
		results = r.Match(&fb, results[:0])
	}))
	require.Len(t, results, 20)
}
