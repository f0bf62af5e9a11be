package forward

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// sentAt is abs-send-time after a number of milliseconds.
func sentAt(ms int) [3]byte {
	v := uint32(ms) << 18 / 1000
	return [3]byte{byte(v >> 16), byte(v >> 8), byte(v)}
}

func TestAHistoryIsAsLargeAsTwoSecondsNeed(t *testing.T) {
	put := func(h *history, packets, apart int) {
		for i := range packets {
			h.put(int64(65_500+i), sent{sendTime: sentAt(60_000 + i*apart)}) // both wrap
		}
		last := 65_500 + packets - 1
		for i := range min(packets, 2000/apart, h.most) {
			require.NotNil(t, h.get(uint16(last-i)), "%d packets back", i)
		}
		require.Nil(t, h.get(uint16(last+1)))
	}
	for _, c := range []struct {
		name  string
		video bool
		apart int // ms
		want  int
	}{
		{"a small picture", true, 40, 64},
		{"a picture", true, 10, 256},
		{"a large picture", true, 1, 512},
		{"speech", false, 20, 64},
		{"silence", false, 400, 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			var h history
			h.begin(c.video)
			put(&h, 2000, c.apart)
			require.Len(t, h.slots, c.want)
		})
	}
}

// A packet whose number a history has forgotten counts as sent: another one with that
// number must not be.
func TestAHistoryThatHasGrownDoesNotReachBackPastWhatItForgot(t *testing.T) {
	var h history
	h.begin(false)
	last, ms := int64(70_000), 0
	send := func(packets, apart int) {
		for range packets {
			last, ms = last+1, ms+apart
			h.put(last, sent{sendTime: sentAt(ms)})
		}
	}
	first := last + 1
	send(firstAudio+1, 1000)
	require.False(t, h.reaches(first, last), "it is forgotten")
	require.True(t, h.reaches(first+1, last))
	send(2*firstAudio, 20)
	require.Greater(t, len(h.slots), 2*firstAudio)
	require.Nil(t, h.get(uint16(first)))
	require.False(t, h.reaches(first, last), "it is forgotten still")
	for out := first; out <= last; out++ {
		require.Equal(t, h.get(uint16(out)) != nil, h.reaches(out, last), "%d", out-first)
	}
	require.False(t, h.reaches(last+1, last))
}

// A listener's memory of a voice is 64 remembered packets. With one byte more in them it
// would take a quarter more, since memory comes in sizes of 3.1 and 4 KB. A forwarder takes
// 1.5 KB, of which 8 bytes are the allocator's.
func TestWhatAListenerCosts(t *testing.T) {
	require.LessOrEqual(t, unsafe.Sizeof(sent{}), uintptr(48))
	require.LessOrEqual(t, unsafe.Sizeof(Forwarder{}), uintptr(1528))
}
