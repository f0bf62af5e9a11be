package estimate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// On a path of 250 kbit/s a packet of 1000 bytes arrives each 32 ms. When its queue grows,
// the last few of them tell, and not those of a quarter of a second ago.
func TestTheQueueOfANarrowPathIsSeenSoon(t *testing.T) {
	const ms = int64(time.Millisecond)
	var q queue
	now := ms
	for range 100 {
		now += 32 * ms
		q.add(now, 20*ms, now)
	}
	require.Zero(t, q.current)
	for i := range int64(6) {
		now += 32 * ms
		q.add(now, (20+30*(i+1))*ms, now)
	}
	require.GreaterOrEqual(t, q.current, 120*ms, "the last packet waited 180 ms")
}

// One packet more or less in the window must not change the bitrate by a third.
func TestTheBitrateOfFewPacketsIsExact(t *testing.T) {
	const ms = int64(time.Millisecond)
	var s spaced
	for i := range int64(20) {
		s.add(1000*ms+i*32*ms, 1000, 33*ms)
	}
	for back := 70 * ms; back < 300*ms; back += 7 * ms {
		v, ok := s.over(s.newest - back)
		require.True(t, ok)
		require.InDelta(t, 250_000, v, 1)
	}
	_, ok := s.over(s.newest - 40*ms)
	require.False(t, ok, "two packets tell little")
	for range 3 { // the path has nothing to do for a while, then one more follows
		s.add(s.newest+100*ms, 1000, 32*ms)
		s.add(s.newest+32*ms, 1000, 60*ms)
	}
	v, ok := s.over(s.newest - 350*ms)
	require.True(t, ok)
	require.InDelta(t, 250_000, v, 1, "while it was busy")
	s.add(s.newest-resetArrivals-ms, 1000, 33*ms)
	require.Equal(t, 1, s.count, "the receiver's clock has begun again")
}
