package congestion

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// path runs an estimator second by second.
type path struct {
	Estimator
	now time.Time
}

func (p *path) second(sent, wanted, estimate, loss float64) float64 {
	p.now = p.now.Add(time.Second)
	if estimate > 0 {
		p.Estimated(estimate, p.now)
	}
	p.Lost(loss, p.now)
	return p.Budget(sent, wanted, p.now)
}

func newPath() *path { return &path{now: time.Unix(1000, 0)} }

func TestPlentyHasNoBudget(t *testing.T) {
	p := newPath()
	for range 60 {
		require.Zero(t, p.second(2e6, 2e6, 1.9e6, 0.02))
	}
}

func TestOneBadSecondChangesNothing(t *testing.T) {
	p := newPath()
	p.second(2e6, 2e6, 3e6, 0)
	require.Zero(t, p.second(2e6, 2e6, 3e5, 0))
	require.Zero(t, p.second(2e6, 2e6, 3e6, 0))
}

func TestCutsToEstimateAndComesBack(t *testing.T) {
	p := newPath()
	var budget float64
	for range 4 {
		budget = p.second(2e6, 2e6, 5e5, 0)
	}
	require.InDelta(t, 0.95*5e5, budget, 1)
	seconds := 0
	for ; budget != 0; seconds++ {
		require.Less(t, seconds, 60)
		budget = p.second(min(budget, 2e6), 2e6, 3e6, 0)
	}
	require.GreaterOrEqual(t, seconds, 8, "not before the first wait")
}

func TestLossCuts(t *testing.T) {
	p := newPath()
	var budget float64
	for range 6 {
		budget = p.second(1e6, 1e6, 0, 0.3)
	}
	require.Positive(t, budget)
	require.Less(t, budget, 0.75e6)
}

// A path that carries 700 kbit/s: tries to send more become rarer.
func TestFailedRaisesBackOff(t *testing.T) {
	p := newPath()
	const capacity = 7e5
	budget, over := 0.0, [2]int{}
	for i := range 600 {
		sent := 2e6
		if budget > 0 {
			sent = min(budget, 2e6)
		}
		budget = p.second(sent, 2e6, min(sent*1.5, capacity), max(0, 1-capacity/sent))
		if sent > capacity*1.2 {
			over[i/300]++
		}
	}
	require.Less(t, over[1], 60, "at most a fifth of the time above what it carries")
	require.LessOrEqual(t, over[1], over[0])
}

func TestAudioAloneIsNeverCongested(t *testing.T) {
	p := newPath()
	for range 20 {
		require.Zero(t, p.second(4e4, 4e4, 2e4, 0.2))
	}
}
