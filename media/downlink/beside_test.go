package downlink

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// besidePath is a path to a subscriber whose sound has no transport-wide numbers.
func besidePath(seed uint64, rate float64, voices int) *subscriber {
	c := plain()
	c.Rate = rate
	s := newPathOf(seed, c, 1)
	s.voices, s.unnumbered = voices, true
	return s
}

// What feedback shows of a path is what it carries beside the sound of which feedback tells
// nothing. The sound is not taken off it once more.
func TestSoundWithoutNumbersIsCountedOnce(t *testing.T) {
	for _, rate := range []float64{600e3, 1e6} {
		for _, voices := range []int{1, 3, 6, 9} {
			s := besidePath(3, rate, voices)
			s.phase(30*time.Second, rate)
			m := s.phase(60*time.Second, rate)
			require.GreaterOrEqual(t, m.steady, 0.95*s.oracle(rate), "%.0f bit/s, %d voices", rate, voices)
			require.Zero(t, m.pauses)
		}
	}
}

// A camera that was paused on a path which was too narrow comes back when the path is wide
// again, although nothing is reported of the path while it is paused.
func TestAPauseEndsThoughNothingIsReported(t *testing.T) {
	for _, narrow := range []float64{40e3, 60e3, 80e3, 100e3, 120e3} {
		for seed := range uint64(5) {
			s := besidePath(seed, 20e6, 1)
			s.phase(10*time.Second, 20e6)
			c := plain()
			c.Rate = narrow
			s.down.Set(c)
			s.phase(15*time.Second, c.Rate)
			c.Rate = 20e6
			s.down.Set(c)
			s.phase(20*time.Second, c.Rate)
			require.Zero(t, s.control.Summary().Paused, "%.0f bit/s, seed %d", narrow, seed)
			m := s.phase(5*time.Second, c.Rate)
			require.Greater(t, m.fps, 25.0)
			state := s.control.State()
			require.Zero(t, state.Queue.Truncate(10*time.Millisecond))
			require.False(t, state.Emptying)
		}
	}
}
