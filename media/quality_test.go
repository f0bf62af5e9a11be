package media

import (
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
)

func TestOpinion(t *testing.T) {
	for _, c := range []struct {
		loss float64
		rtt  time.Duration
		want livekit.ConnectionQuality
	}{
		{0, 0, livekit.ConnectionQuality_EXCELLENT},
		{0, 150 * time.Millisecond, livekit.ConnectionQuality_EXCELLENT},
		{0.02, 50 * time.Millisecond, livekit.ConnectionQuality_EXCELLENT},
		{0.06, 50 * time.Millisecond, livekit.ConnectionQuality_GOOD},
		{0, 700 * time.Millisecond, livekit.ConnectionQuality_GOOD},
		{0.2, 50 * time.Millisecond, livekit.ConnectionQuality_POOR},
		{0, 2 * time.Second, livekit.ConnectionQuality_POOR},
	} {
		score := opinion(c.loss, c.rtt, 5*time.Millisecond)
		require.Equal(t, c.want, rate(score), "loss %v, round trip %v: %v", c.loss, c.rtt, score)
	}
	// More loss is never better, nor is more delay.
	for i := range 100 {
		loss := float64(i) / 100
		require.LessOrEqual(t, opinion(loss+0.01, 0, 0), opinion(loss, 0, 0))
		rtt := time.Duration(i) * 20 * time.Millisecond
		require.LessOrEqual(t, opinion(0, rtt+time.Millisecond, 0), opinion(0, rtt, 0))
	}
	require.InDelta(t, 5, opinion(0, 0, 0), 0.1)
	require.GreaterOrEqual(t, opinion(1, time.Hour, time.Hour), float32(1))
}

func TestLossOf(t *testing.T) {
	require.Zero(t, lossOf(received{}, received{}))
	require.InDelta(t, 0.1, lossOf(received{100, 0}, received{190, 10}), 1e-9)
	require.Zero(t, lossOf(received{100, 10}, received{5, 0}), "a stream that began anew")
}
