package red

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// two older blocks of 3 and 2 bytes, 1920 and 960 ticks ago, and the primary.
func example() []byte {
	return []byte{
		0x80 | 111, 1920 >> 6, 1920 & 0x3f << 2, 3,
		0x80 | 111, 960 >> 6, 960 & 0x3f << 2, 2,
		111, 'a', 'b', 'c', 'd', 'e', 'f', 'g',
	}
}

func TestParse(t *testing.T) {
	var p Payload
	require.True(t, p.Parse(example()))
	require.Equal(t, uint8(111), p.PayloadType)
	require.Equal(t, []byte("fg"), p.Primary)
	require.Equal(t, 2, p.N)
	require.Equal(t, Block{111, 1920, []byte("abc")}, p.Redundant[0])
	require.Equal(t, Block{111, 960, []byte("de")}, p.Redundant[1])

	for n := range 14 { // up to the last byte of the redundant blocks
		require.False(t, p.Parse(example()[:n]), "%d bytes", n)
	}
	require.True(t, p.Parse([]byte{111, 1, 2}))
	require.Equal(t, []byte{1, 2}, p.Primary)
}

func TestSetPayloadType(t *testing.T) {
	b := example()
	SetPayloadType(b, 96)
	var p Payload
	require.True(t, p.Parse(b))
	require.Equal(t, uint8(96), p.PayloadType)
	require.Equal(t, uint8(96), p.Redundant[1].PayloadType)
	require.Equal(t, []byte("fg"), p.Primary)
}

func FuzzParse(f *testing.F) {
	f.Add(example())
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Payload
		if !p.Parse(b) {
			return
		}
		size := 1 + len(p.Primary)
		for i := range p.N {
			size += 4 + len(p.Redundant[i].Payload)
		}
		require.Equal(t, len(b), size)
		renamed := bytes.Clone(b)
		SetPayloadType(renamed, 7)
		primary := bytes.Clone(p.Primary)
		require.True(t, p.Parse(renamed))
		require.Equal(t, primary, append([]byte{}, p.Primary...))
	})
}
