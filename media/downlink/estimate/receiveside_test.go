package estimate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A camera that is turned off while packets wait leaves nothing that shows whether they still
// do. Sound alone, which tells no times, must not be taken for all that the path carries.
func TestSoundAloneSaysNothingOfThePath(t *testing.T) {
	const ms = int64(time.Millisecond)
	r := NewReceiveSide()
	now, told := int64(0), 0.0
	judge := func() (fresh bool) {
		v, fresh := r.Judge(now)
		if fresh {
			told = v
		}
		return fresh
	}
	// 1.5 Mbit/s, of which each packet comes 20 ms after the one before.
	video := func(d time.Duration, late func(int64) int64) {
		for end := now + int64(d); now < end; now += 5 * ms {
			r.Arrived(now, now-30*ms-late(now), 940)
			judge()
		}
	}
	video(10*time.Second, func(int64) int64 { return 0 })
	require.Greater(t, told, 1.5e6)
	begun := now
	video(300*time.Millisecond, func(now int64) int64 { return (now - begun) / 3 }) // a queue of 100 ms
	before := told
	require.Greater(t, before, 200e3)
	off := now
	for end := now + int64(20*time.Second); now < end; now += 20 * ms {
		r.Counted(now, 100)
		if judge() {
			require.Less(t, now-off, int64(600*time.Millisecond), "sound alone says nothing")
		}
	}
	require.Greater(t, told, before/2)
	video(2*time.Second, func(int64) int64 { return 0 })
	require.Greater(t, told, 1e6, "it is back")
}
