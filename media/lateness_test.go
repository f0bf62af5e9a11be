package media

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLateness: the wait of the oldest message that is not taken, less the shortest round
// trip that was seen lately.
func TestLateness(t *testing.T) {
	var l lateness
	start := time.Unix(1000, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	require.Zero(t, l.late(at(0)))
	l.handed(100, at(0))
	l.handed(200, at(10))
	require.Equal(t, 30*time.Millisecond, l.late(at(30)), "the round trip is not known")
	l.taken(100, at(40))
	require.Equal(t, -10*time.Millisecond, l.late(at(40)), "the second message is younger than a round trip")
	l.taken(199, at(90))
	require.Equal(t, 40*time.Millisecond, l.late(at(90)), "half of a message is none of it")
	l.taken(200, at(100))
	require.Zero(t, l.late(at(1000)), "nothing waits")

	// The path becomes longer: what was shortest counts for a while.
	l.handed(300, at(2000))
	l.taken(300, at(2200))
	l.handed(400, at(2300))
	require.Equal(t, 160*time.Millisecond, l.late(at(2500)))
	l.taken(400, at(2500))
	for n, ms := range []int{13000, 25000} {
		l.handed(int64(500+n), at(ms))
		l.taken(int64(500+n), at(ms+200))
	}
	l.handed(600, at(25300))
	require.Zero(t, l.late(at(25500)), "a round trip of now")
	l.taken(600, at(25500))

	for n := range maxLateMessages {
		require.False(t, l.full())
		l.handed(int64(601+n), at(26000))
	}
	require.True(t, l.full())
}
