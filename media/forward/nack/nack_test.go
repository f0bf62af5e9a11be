package nack

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const ms = int64(time.Millisecond)

// A packet is asked for while it can still be useful, at the distance of the round trip and
// longer each time, however many packets come meanwhile.
func TestAsksForASecondWithBackOff(t *testing.T) {
	for rtt, want := range map[time.Duration][]int64{
		5 * time.Millisecond:   {0, 20, 45, 77, 117, 166, 228, 305, 401, 521, 671, 858},
		100 * time.Millisecond: {0, 100, 225, 382, 578, 823},
		150 * time.Millisecond: {0, 150, 338, 573, 866},
		600 * time.Millisecond: {0, 600},
	} {
		n := New()
		n.SetRTT(rtt)
		n.Advance(10, 13, 0)
		require.Equal(t, []uint16{11, 12}, n.Due(0, nil))
		require.True(t, n.Arrived(11, 0))
		require.False(t, n.Arrived(11, 0), "it came already")
		times := []int64{0}
		for now := ms; now < 3000*ms; now += ms {
			if n.Advance(12+now/ms, 13+now/ms, now); now < 1000*ms {
				require.True(t, now > 950*ms || n.Waiting())
			}
			if due := n.Due(now, nil); len(due) > 0 {
				require.Equal(t, []uint16{12}, due)
				times = append(times, now/ms)
			}
		}
		require.Equal(t, want, times, "%v", rtt)
		require.False(t, n.Waiting(), "given up")
	}
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

// A round trip that has become longer than the distance of the requests is learnt too, though then
// several are made before the first answer: a queue on the publisher's way is not made longer by
// packets that are sent several times.
func TestLearnsALongerRoundTrip(t *testing.T) {
	const rtt = 340 * ms
	n := New()
	answers := map[int64][]int64{} // packets by the time at which they come
	asked := 0
	for now := int64(0); now < 30_000*ms; now += ms {
		for _, m := range answers[now] {
			n.Arrived(m, now)
		}
		delete(answers, now)
		if now%(100*ms) == 0 {
			n.Advance(2*now/(100*ms), 2*now/(100*ms)+2, now)
		}
		for _, number := range n.Due(now, nil) {
			answers[now+rtt] = append(answers[now+rtt], int64(number))
			if now >= 20_000*ms {
				asked++
			}
		}
	}
	require.InDelta(t, float64(rtt), float64(n.RTT()), float64(30*time.Millisecond))
	require.LessOrEqual(t, asked, 110, "a hundred are missing")
}

// By the round trip no packet is asked for again before its answer can have come, also if the path
// was shorter before.
func TestIsToldALongRoundTrip(t *testing.T) {
	n := New()
	require.Zero(t, n.RTT(), "nothing is known")
	n.Advance(0, 2, -5000*ms)
	require.Len(t, n.Due(-5000*ms, nil), 1)
	require.True(t, n.Arrived(1, -4990*ms))
	require.NotZero(t, n.RTT())
	n.SetRTT(300 * time.Millisecond)
	asked := 0
	for now := int64(0); now < 10_000*ms; now += 10 * ms {
		if now%(1000*ms) == 0 {
			n.Advance(2+now/(500*ms), 4+now/(500*ms), now)
		}
		asked += len(n.Due(now, nil))
		if now%(1000*ms) == 300*ms {
			require.True(t, n.Arrived(now/(1000*ms)*2+3, now))
		}
	}
	require.LessOrEqual(t, asked, 20)
	require.Equal(t, 300*time.Millisecond, n.RTT())
}

// A client that takes longer to answer than the round trip is given that time.
func TestRemembersHowLongAnswersTake(t *testing.T) {
	n := New()
	n.SetRTT(20 * time.Millisecond)
	for i := range int64(100) {
		n.SetRTT(20 * time.Millisecond)
		n.Advance(2*i, 2*i+2, i*1000*ms)
		require.Len(t, n.Due(i*1000*ms, nil), 1)
		if i > 30 {
			require.Empty(t, n.Due(i*1000*ms+45*ms, nil))
		}
		require.True(t, n.Arrived(2*i+1, i*1000*ms+50*ms))
	}
	require.Equal(t, 20*time.Millisecond, n.RTT())
}

// A jump of the numbers, packets that are left out for ever, and a network that was away cost
// neither memory nor many requests.
func TestRequestsAndMemoryAreBounded(t *testing.T) {
	n := New()
	n.Advance(0, 3000, 0)
	due := n.Due(0, nil)
	require.Len(t, due, mostOfAJump)
	require.EqualValues(t, 3000-mostOfAJump, due[0], "the newest of a jump")
	n.Advance(3000, 3000+window-20, 0)
	require.Len(t, n.missing, mostOfAJump+20, "what is further behind is given up")
	requests := map[uint16]int{}
	newest := int64(10_000)
	n.Reset()
	for now := int64(0); now < 3000*ms; now += ms { // every second packet, two a millisecond
		n.Advance(newest, newest+2, now)
		newest += 2
		for _, number := range n.Due(now, nil) {
			requests[number]++
		}
		require.LessOrEqual(t, len(n.missing), window)
	}
	require.LessOrEqual(t, cap(n.missing), 2*window)
	most := 0
	for _, k := range requests {
		most = max(most, k)
	}
	require.LessOrEqual(t, most, maxTries)
	require.Greater(t, most, 3)
	for now := 3000 * ms; n.Waiting(); now += 10 * ms {
		require.Less(t, now, 5000*ms)
		n.Due(now, nil)
	}
	require.Zero(t, cap(n.missing), "the memory is given up")
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
				before := len(n.missing)
				n.Advance(newest, next, now)
				newest = next
				require.LessOrEqual(t, len(n.missing), before+mostOfAJump)
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
