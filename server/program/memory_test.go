package program

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestQuietTimes: they begin after a few calm ticks, once, and end with the first burst.
func TestQuietTimes(t *testing.T) {
	const used = 40 << 20
	const calm, burst = used / 100, used / 2
	for _, c := range []struct {
		name  string
		used  uint64
		ticks []uint64 // bytes allocated
		quiet []bool
		begin []int // ticks at which a quiet time begins
	}{
		{"calm", used, []uint64{calm, calm, calm, calm, calm, calm}, []bool{false, false, true, true, true, true}, []int{2}},
		{
			"burst", used, []uint64{burst, calm, calm, calm, burst, calm, calm, calm},
			[]bool{false, false, false, true, false, false, false, true}, []int{3, 7},
		},
		{"pauses", used, []uint64{burst, calm, calm, burst, calm, calm, burst}, make([]bool, 7), nil},
		{"busy all the time", used, []uint64{used / 20, used / 20, used / 20, used / 20}, make([]bool, 4), nil},
		{"much in use", 100 * used, []uint64{burst, burst, burst}, []bool{false, false, true}, []int{2}},
		{"next to nothing in use", 1, []uint64{100_000, 100_000, 100_000}, []bool{false, false, true}, []int{2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var judge thrift
			var all uint64
			var quiet []bool
			var begin []int
			for i, made := range c.ticks {
				all += made
				is, begins := judge.look(all, c.used)
				if quiet = append(quiet, is); begins {
					begin = append(begin, i)
				}
			}
			require.Equal(t, c.quiet, quiet)
			require.Equal(t, c.begin, begin)
		})
	}
}

// TestGarbageInQuietTimes is a quarter of what is in use, but may be some megabytes in any case.
func TestGarbageInQuietTimes(t *testing.T) {
	require.Equal(t, 25, percentWith(400<<20))
	require.Equal(t, 25, percentWith(leastHeap))
	require.Equal(t, 50, percentWith(leastHeap/2))
	require.Equal(t, 100, percentWith(leastHeap/16), "never more than in other times")
	require.Equal(t, 100, percentWith(0))
}
