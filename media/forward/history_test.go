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
			h.put(int64(65_500+i), &sent{kept: kept{sendTime: sentAt(60_000 + i*apart)}}) // both wrap
		}
		last := 65_500 + packets - 1
		for i := range min(packets, 2000/apart, int(h.most)) {
			require.True(t, h.has(uint16(last-i)), "%d packets back", i)
		}
		require.False(t, h.has(uint16(last+1)))
	}
	for _, c := range []struct {
		name  string
		video bool
		apart int // ms
		want  int
	}{
		{"a small picture", true, 40, 64},
		{"a picture", true, 10, 256},
		{"a large picture", true, 2, 1024},
		{"a huge picture", true, 1, 1024},
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
			h.put(last, &sent{kept: kept{sendTime: sentAt(ms)}})
		}
	}
	first := last + 1
	send(firstAudio+1, 1000)
	require.False(t, h.reaches(first, last), "it is forgotten")
	require.True(t, h.reaches(first+1, last))
	send(2*firstAudio, 20)
	require.Greater(t, len(h.slots), 2*firstAudio)
	require.False(t, h.has(uint16(first)))
	require.False(t, h.reaches(first, last), "it is forgotten still")
	for out := first; out <= last; out++ {
		require.Equal(t, h.has(uint16(out)), h.reaches(out, last), "%d", out-first)
	}
	require.False(t, h.reaches(last+1, last))
}

// What is said of a frame, and how often a packet was repeated, stays with the packet while
// the history grows, and goes with it.
func TestAHistoryKeepsWhatBelongsToAPacket(t *testing.T) {
	var h history
	h.begin(true)
	const plain, framed, empty = 10, 11, 12
	h.put(plain, &sent{kept: kept{sendTime: sentAt(0)}})
	h.put(framed, &sent{kept: kept{sendTime: sentAt(1)}, framing: framing{mask: 7, playout: 9}})
	h.put(empty, &sent{kept: kept{sendTime: sentAt(2)}, framing: framing{empty: 96}})
	require.Nil(t, h.repeats(empty+1), "it was not sent")
	h.repeats(framed).count = 3
	for out := int64(empty + 1); len(h.slots) < 4*firstVideo; out++ {
		h.put(out, &sent{kept: kept{sendTime: sentAt(3)}})
	}
	for number, want := range map[uint16]framing{plain: {}, framed: {mask: 7, playout: 9}, empty: {empty: 96}} {
		s, ok := h.get(number)
		require.True(t, ok, "%d", number)
		require.Equal(t, want, s.framing, "%d", number)
	}
	require.EqualValues(t, 3, h.repeats(framed).count)
	require.Zero(t, h.repeats(plain).count)
	again := int64(framed + len(h.slots))
	h.most = uint16(len(h.slots))
	h.put(again, &sent{kept: kept{sendTime: sentAt(4)}})
	s, ok := h.get(uint16(again))
	require.True(t, ok)
	require.Zero(t, s.framing)
	require.Zero(t, h.repeats(uint16(again)).count)
	require.EqualValues(t, framed, h.asked(), "the receiver had asked for what was forgotten")
	h.forget(uint16(again))
	require.Nil(t, h.repeats(uint16(again)))
}

// What packets have in common is remembered once: their layer, the upper bits of their numbers
// and the distance of their timestamps.
func TestAHistoryKnowsWherePacketsAreFrom(t *testing.T) {
	var h history
	h.begin(true)
	layers, gone := []*Layer{{}, {}, {}, {}}, &Layer{}
	put := func(out int, k kept) {
		h.put(int64(out), &sent{kept: k})
	}
	for out := range 40 {
		put(out-1000, kept{layer: gone, offset: uint32(out), sendTime: sentAt(0)})
	}
	known := map[int]kept{}
	for out := range 3100 {
		k := kept{
			layer: layers[out/300%4], ext: uint32(65_000 + out), offset: uint32(out / 100), generation: uint16(out / 1000),
			sendTime: sentAt(out),
		}
		put(out, k)
		k.out, k.flags = uint16(out), sentUsed
		known[out] = k
		for back := 0; back < min(out, 200); back += 1 + out%50 {
			s, ok := h.get(uint16(out - back))
			require.True(t, ok)
			require.Equal(t, known[out-back], s.kept)
		}
	}
	for _, o := range h.origins {
		require.NotSame(t, gone, o.layer, "no packet is from it any more")
	}
}

// A stream whose packets have nothing in common is forgotten sooner, but not mistaken.
func TestAHistoryOfManyOrigins(t *testing.T) {
	var h history
	h.begin(true)
	l := &Layer{}
	for out := range 2000 {
		s := sent{kept: kept{layer: l, ext: uint32(out), offset: uint32(out + 1), sendTime: sentAt(out)}}
		if out%2 == 1 {
			s.layer, s.framing = nil, framing{empty: 96}
		}
		h.put(int64(out), &s)
		for back := 0; back < min(out, 400); back += 1 + out%50 {
			s, ok := h.get(uint16(out - back))
			require.True(t, ok, "it was sent")
			switch {
			case back < mostOrigins:
				require.EqualValues(t, out-back+1, s.offset)
				require.Equal(t, (out-back)%2 == 1, s.empty == 96)
			case s.layer != nil || s.empty != 0:
				require.EqualValues(t, out-back+1, s.offset)
			}
		}
	}
	require.Len(t, h.origins, mostOrigins)
}

// A listener's memory of a voice is 64 remembered packets of 10 bytes: nothing is said of
// their frames, and few of them are repeated. A forwarder takes 1.5 KB, of which 8 bytes are
// the allocator's.
func TestWhatAListenerCosts(t *testing.T) {
	require.LessOrEqual(t, unsafe.Sizeof(slot{}), uintptr(10))
	require.LessOrEqual(t, unsafe.Sizeof(origin{}), uintptr(16))
	var h history
	h.begin(false)
	for out := range int64(firstAudio) {
		h.put(out, &sent{kept: kept{flags: sentMarker}})
	}
	require.Nil(t, h.more)
	require.LessOrEqual(t, unsafe.Sizeof(Forwarder{}), uintptr(1528))
}
