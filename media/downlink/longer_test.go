package downlink

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A path that becomes longer, as when packets take another way through the network, is no
// narrower: what it carries is not left out for good, and for a clear step not at all.
func TestAPathThatBecomesLonger(t *testing.T) {
	var tab table
	tab.head()
	for _, p := range []struct {
		by      time.Duration
		steps   int // that it takes, 50 ms apart
		reached time.Duration
	}{
		{20 * time.Millisecond, 1, 2 * time.Second},
		{30 * time.Millisecond, 1, 2 * time.Second},
		{38 * time.Millisecond, 1, 2 * time.Second},
		{50 * time.Millisecond, 1, 200 * time.Millisecond},
		{80 * time.Millisecond, 1, 200 * time.Millisecond},
		{150 * time.Millisecond, 1, 200 * time.Millisecond},
		{50 * time.Millisecond, 5, 3 * time.Second},
		{50 * time.Millisecond, 20, 5 * time.Second},
	} {
		for _, seed := range []uint64{1, 7, 11} {
			for _, rate := range []float64{1.2e6, 3e6, 20e6} {
				c := plain()
				c.Rate = rate
				s := newPathOf(seed, c, 1)
				s.phase(15*time.Second, rate)
				for range p.steps {
					c.Delay += p.by / time.Duration(p.steps)
					s.down.Set(c)
					back := s.up.Conditions()
					back.Delay = c.Delay
					s.up.Set(back)
					if p.steps > 1 {
						s.clock.Run(time.Duration(s.clock.Now()) + 50*time.Millisecond)
					}
				}
				m, oracle := s.phase(10*time.Second, rate), s.oracle(rate)
				name := fmt.Sprintf("%v in %d, %.1f M", p.by, p.steps, rate/1e6)
				tab.row(name, m, oracle)
				require.GreaterOrEqual(t, m.steady, 0.95*oracle, name)
				require.GreaterOrEqual(t, m.reached, time.Duration(0), name)
				require.LessOrEqual(t, m.reached, p.reached, name)
				require.LessOrEqual(t, m.frozen, 300*time.Millisecond, name)
			}
		}
	}
	t.Log(tab.String())
}

// On a very narrow path each packet of a keyframe waits for the one before as long as for a step
// of the way. That is a queue, and what makes it is left out at once.
func TestAVeryNarrowPathIsNotLonger(t *testing.T) {
	var tab table
	tab.head()
	for _, before := range []float64{1e6, 3e6, 20e6} {
		for _, then := range []float64{80e3, 100e3} {
			for _, seed := range []uint64{1, 7} {
				c := plain()
				c.Rate = before
				s := newPathOf(seed, c, 1)
				s.phase(15*time.Second, c.Rate)
				c.Rate = then
				s.down.Set(c)
				m := s.phase(20*time.Second, then)
				name := fmt.Sprintf("%.0f to %.0f k", before/1e3, then/1e3)
				tab.row(name, m, s.oracle(then))
				require.LessOrEqual(t, m.dropped, 60, name)
			}
		}
	}
	t.Log(tab.String())
}

// A path that becomes longer and narrower at once loses only what it does not carry any more.
func TestAPathThatBecomesLongerAndNarrower(t *testing.T) {
	var tab table
	tab.head()
	for _, seed := range []uint64{1, 7, 11} {
		for _, by := range []time.Duration{30 * time.Millisecond, 40 * time.Millisecond} {
			for _, then := range []float64{400e3, 600e3} {
				c := plain()
				s := newPathOf(seed, c, 1)
				s.phase(15*time.Second, c.Rate)
				c.Rate = then
				c.Delay += by
				s.down.Set(c)
				m, oracle := s.phase(20*time.Second, then), s.oracle(then)
				name := fmt.Sprintf("to %.0f k, %v longer", then/1e3, by)
				tab.row(name, m, oracle)
				require.GreaterOrEqual(t, m.steady, 0.95*oracle, name)
				require.LessOrEqual(t, m.p95, 120*time.Millisecond, name)
				require.LessOrEqual(t, m.frozen, time.Second, name)
			}
		}
	}
	t.Log(tab.String())
}
