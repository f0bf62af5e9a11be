package estimate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Losses are random while the receiver shows no bound. After a cut they may be those of a
// full path, where each packet that is sent twice would make it fuller.
func TestLossesOfABoundedPathAreNotTakenForRandom(t *testing.T) {
	const sending = 1e6
	var e Reported
	now := int64(0)
	pass := func(loss float64) (s State) {
		for range 5 {
			now += int64(time.Second)
			e.Lost(now, loss)
			s = e.State(now, sending, 2*sending)
		}
		return s
	}
	s := pass(0.05)
	require.False(t, s.Limited)
	require.InDelta(t, 0.05, s.Random, 1e-9)
	s = pass(0.3)
	require.True(t, s.Limited)
	s = pass(0.05)
	require.True(t, s.Limited)
	require.Equal(t, Loss, s.Cause)
	require.Positive(t, s.Loss)
	require.Zero(t, s.Random)
}
