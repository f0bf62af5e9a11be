package nack

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const ms = int64(time.Millisecond)

func TestAsksFiveTimesWithBackOff(t *testing.T) {
	n := New()
	n.SetRTT(100 * time.Millisecond)
	n.Advance(10, 13, 0)
	require.Equal(t, []uint16{11, 12}, n.Due(0, nil))
	require.True(t, n.Arrived(11, 50*ms))
	require.False(t, n.Arrived(11, 50*ms), "it came already")
	var times []int64
	for now := int64(0); now < 2000*ms; now += ms {
		if due := n.Due(now, nil); len(due) > 0 {
			require.Equal(t, []uint16{12}, due)
			times = append(times, now/ms)
		}
	}
	// First at 0, then after 100, 125, 156 and 195 ms: each interval is 1.25 times the
	// one before.
	require.Equal(t, []int64{100, 225, 382, 578}, times)
	require.False(t, n.Waiting(), "given up")
}

func TestLearnsRoundTrip(t *testing.T) {
	n := New()
	for i := range int64(100) {
		n.Advance(2*i, 2*i+2, i*1000*ms)
		require.Len(t, n.Due(i*1000*ms, nil), 1)
		require.True(t, n.Arrived(2*i+1, i*1000*ms+30*ms))
	}
	require.InDelta(t, float64(30*time.Millisecond), float64(n.RTT()), float64(time.Millisecond))
}

func TestWindow(t *testing.T) {
	n := New()
	n.Advance(0, 5000, 0)
	due := n.Due(0, nil)
	require.Len(t, due, window)
	require.Equal(t, uint16(4900), due[0])
	n.Advance(5000, 5001, 0)
	n.Advance(5001, 5050, 0)
	due = n.Due(0, nil)
	require.Len(t, due, 48, "those between, asked for the first time")
	require.Len(t, n.missing, 50+48, "what is a hundred behind is given up")
	require.LessOrEqual(t, cap(n.missing), window)
}

func FuzzTracker(f *testing.F) {
	f.Add([]byte{5, 1, 200, 0, 7, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		n := New()
		newest, now := int64(1000), int64(0)
		for ; len(b) >= 2; b = b[2:] {
			now += int64(b[1]) * ms
			if b[0] < 128 {
				next := newest + 1 + int64(b[0])*4
				n.Advance(newest, next, now)
				newest = next
			} else {
				n.Arrived(newest-int64(b[0]-128), now)
			}
			for _, seq := range n.Due(now, nil) {
				require.LessOrEqual(t, int16(uint16(newest)-seq), int16(window))
				require.Positive(t, int16(uint16(newest)-seq))
			}
			require.LessOrEqual(t, len(n.missing), window)
		}
	})
}
