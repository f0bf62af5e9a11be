package program

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestElapsedCountsFromTheBoot, and tells which that is.
func TestElapsedCountsFromTheBoot(t *testing.T) {
	count, boot := elapsed()
	require.NotEmpty(t, boot)
	first := count()
	require.Positive(t, first)
	time.Sleep(time.Millisecond)
	require.Greater(t, count(), first)
	other, same := elapsed()
	require.Equal(t, boot, same)
	require.GreaterOrEqual(t, other(), first)
}
