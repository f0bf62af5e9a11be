package forward

import (
	"testing"

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
			h.put(sent{out: uint16(65_500 + i), used: true, sendTime: sentAt(60_000 + i*apart)}) // both wrap
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
			require.EqualValues(t, c.want, h.size())
		})
	}
}
