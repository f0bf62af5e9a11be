package probe

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A probe may find that the path carries no more than the estimate, and what it sent above
// that is the queue that sound waits in. Jitter makes a probe longer, and not that queue.
func TestAProbeMakesAShortQueue(t *testing.T) {
	for _, jitter := range []time.Duration{0, 15 * time.Millisecond, 50 * time.Millisecond} {
		for _, estimate := range []float64{240e3, 600e3, 3e6} {
			var c Controller
			now := int64(time.Hour)
			s := Situation{Estimate: estimate, Need: 1.2 * estimate, Goal: 5 * estimate, Jitter: jitter}
			require.True(t, c.Decide(now, s))
			c.Moved(false) // the first probe, which knows nothing, is another matter
			require.True(t, c.Decide(now, s))
			var last int64
			sent := 0
			for at := now; c.Cluster() != 0; {
				bytes, size, again := c.Due(at)
				if bytes == 0 {
					at = max(again, at+1)
					continue
				}
				last = at
				sent += min(bytes, size)
				c.Sent(at, min(bytes, size))
			}
			excess := float64(sent*8) - estimate*time.Duration(last-now).Seconds()
			queue := time.Duration(excess / estimate * float64(time.Second))
			require.LessOrEqual(t, queue, 75*time.Millisecond, "%.0f, %s", estimate, jitter)
			require.Greater(t, queue, 15*time.Millisecond, "%.0f, %s: it is shown", estimate, jitter)
		}
	}
}
