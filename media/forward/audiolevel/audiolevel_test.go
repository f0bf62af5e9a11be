package audiolevel

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// hear observes n packets of 20 ms, beginning at start.
func hear(l *Level, start int64, n int, level func(i int) uint8) (now int64) {
	for i := range n {
		l.Observe(level(i), start+int64(i)*20_000_000)
	}
	return start + int64(n)*20_000_000
}

func TestSpeaking(t *testing.T) {
	tests := []struct {
		name     string
		level    func(i int) uint8
		speaking bool
	}{
		{"loud", func(int) uint8 { return 20 }, true},
		{"at the threshold", func(int) uint8 { return 35 }, true},
		{"below it", func(int) uint8 { return 36 }, false},
		{"silence", func(int) uint8 { return 127 }, false},
		{"half of the time", func(i int) uint8 { return []uint8{20, 127}[i%2] }, true},
		{"a third of the time", func(i int) uint8 { return []uint8{20, 127, 127}[i%3] }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := New()
			hear(l, 0, 60, tt.level)
			_, speaking := l.Get()
			require.Equal(t, tt.speaking, speaking)
		})
	}
}

func TestLevel(t *testing.T) {
	l := New()
	now := hear(l, 0, 20, func(int) uint8 { return 20 })
	level, _ := l.Get()
	require.InDelta(t, 0.1*2/3, level, 0.001, "-20 dBov is a tenth; smoothed over two intervals")
	hear(l, now, 200, func(int) uint8 { return 20 })
	level, _ = l.Get()
	require.InDelta(t, math.Pow(10, -20./20), level, 0.001)
}

func TestExpire(t *testing.T) {
	l := New()
	now := hear(l, 0, 30, func(int) uint8 { return 10 })
	require.False(t, l.Expire(now))
	require.True(t, l.Expire(now+staleAfterNs))
	_, speaking := l.Get()
	require.False(t, speaking)
	require.False(t, l.Expire(now+2*staleAfterNs))
}
