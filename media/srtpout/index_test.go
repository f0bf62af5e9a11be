package srtpout

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzIndices compares with a model that remembers everything: an index is given
// out once, unless for the same packet, and never when it cannot be known.
func FuzzIndices(f *testing.F) {
	f.Add([]byte{0, 1, 0, 2, 0, 2, 0, 0}, true)
	f.Add([]byte{255, 254, 255, 255, 0, 0, 0, 1, 255, 255, 255, 253}, false)
	f.Add([]byte{0, 0, 40, 0, 80, 0, 120, 0, 160, 0, 200, 0, 240, 0, 24, 0, 64, 0}, true)
	f.Add([]byte{1, 40, 0, 96}, true) // 200 later than the next
	f.Fuzz(func(t *testing.T, in []byte, repeats bool) {
		var x indices
		within := int64(window)
		if repeats {
			x.repeats(window / 4)
			within /= 2
		}
		used := map[uint64]uint64{} // index to digest
		newest := int64(-1)
		for ; len(in) >= 2; in = in[2:] {
			seq := binary.BigEndian.Uint16(in)
			// Around half of the numbers move on, as in a stream, so that the counter
			// wraps within a fuzzed input.
			if seq&4 != 0 && newest >= 0 {
				seq = uint16(newest) + seq%3000
			}
			packet := uint64(seq & 3)
			i, err := x.index(seq)
			digest := i<<2 | packet + 1<<60
			if err == nil {
				require.EqualValues(t, seq, uint16(i))
				if newest >= 0 {
					require.LessOrEqual(t, int64(i)-newest, int64(32767))
					require.GreaterOrEqual(t, int64(i)-newest, int64(-32768))
				}
				err = x.take(i, digest)
			}
			old, known := used[i]
			switch {
			case err == nil && known:
				require.True(t, repeats, "an index twice")
				require.Equal(t, old, digest, "another packet under a used index")
			case err == nil:
				used[i] = digest
				newest = max(newest, int64(i))
			case newest >= 0 && !known && int64(i) > newest-within && int64(uint16(newest))+int64(int16(seq-uint16(newest))) >= 0:
				t.Fatalf("%d refused after %d: %v", i, newest, err)
			}
		}
	})
}
