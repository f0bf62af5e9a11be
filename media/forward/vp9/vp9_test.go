package vp9

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	var d Descriptor
	require.False(t, d.Parse(nil))
	require.False(t, d.Parse([]byte{0x08}), "nothing after the descriptor")

	// I L B, not flexible, picture id 0x1234, T=1 U=1 S=2 D=1, TL0PICIDX 9.
	require.True(t, d.Parse([]byte{0xa8, 0x92, 0x34, 0x35, 9, 0xff}))
	require.Equal(t, Descriptor{
		Length: 5, Start: true, HasLayers: true, Temporal: 1, SwitchUp: true, Spatial: 2, InterLayer: true,
		HasPictureID: true, LongPictureID: true, PictureIDOffset: 1, PictureID: 0x1234,
		HasTL0PicIdx: true, TL0PicIdxOffset: 4, TL0PicIdx: 9,
	}, d)
	require.False(t, d.Key(), "spatial layer 2 depends on those below")

	// I P L F B E with two references.
	require.True(t, d.Parse([]byte{0xfc, 0x11, 0x20, 0x03, 0x04, 0xff}))
	require.True(t, d.InterPredicted)
	require.Equal(t, 5, d.Length)
	require.False(t, d.Parse([]byte{0xfc, 0x11, 0x20, 0x03, 0x03, 0x03, 0x03, 0xff}), "four references")

	// A keyframe with a scalability structure: two layers with sizes, two pictures.
	require.True(t, d.Parse([]byte{
		0x0a, 0x38, 0x01, 0x40, 0x00, 0xb4, 0x02, 0x80, 0x01, 0x68, 0x02, 0x14, 0x01, 0x20, 0xff,
	}))
	require.Equal(t, 2, d.SpatialLayers)
	require.Equal(t, Size{320, 180}, d.Sizes[0])
	require.Equal(t, Size{640, 360}, d.Sizes[1])
	require.Equal(t, 14, d.Length)
	require.True(t, d.Key())
	require.False(t, d.Parse([]byte{0x0a, 0x38, 0x01, 0x40, 0x00, 0xb4, 0x02}), "sizes cut off")
}

func TestPutKeepsTheRest(t *testing.T) {
	for _, in := range [][]byte{{0xa8, 0x92, 0x34, 0x35, 9, 0xff}, {0xa8, 0x12, 0x35, 9, 0xff}} {
		var d Descriptor
		require.True(t, d.Parse(in))
		n := d.Numbers()
		require.Equal(t, []byte{0xa8, 0xc3, 0x21, 0x35, 7, 0xff}, n.Put(in, 0x4321, 7))
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{0xa8, 0x92, 0x34, 0x35, 9, 0xff})
	f.Add([]byte{0x0a, 0x38, 0x01, 0x40, 0x00, 0xb4, 0x02, 0x80, 0x01, 0x68, 0x02, 0x14, 0x01, 0x20, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		var d Descriptor
		if d.Parse(b) {
			require.Less(t, d.Length, len(b))
			// Only the bytes of the descriptor matter.
			var again Descriptor
			require.True(t, again.Parse(b[:d.Length+1]))
			require.Equal(t, d, again)
		}
	})
}
