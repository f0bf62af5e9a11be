package keyframe_test

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"parlor/media/forward/keyframe"
)

// sps is a sequence parameter set of a picture of so many macroblocks.
func sps(profile byte, order, columns, rows int, frames bool) []byte {
	var bits strings.Builder
	golomb := func(v int) {
		code := fmt.Sprintf("%b", v+1)
		bits.WriteString(strings.Repeat("0", len(code)-1) + code)
	}
	golomb(0) // its number
	if profile == 100 {
		golomb(1)
		golomb(0)
		golomb(0)
		bits.WriteString("00")
	}
	golomb(4)
	golomb(order)
	switch order {
	case 0:
		golomb(6)
	case 1:
		bits.WriteString("0")
		golomb(0)
		golomb(0)
		golomb(2)
		golomb(1)
		golomb(3)
	}
	golomb(1)
	bits.WriteString("0")
	golomb(columns - 1)
	if frames {
		golomb(rows - 1)
		bits.WriteString("1")
	} else {
		golomb(rows/2 - 1)
		bits.WriteString("0")
	}
	bits.WriteString("1001")
	b := []byte{0x67, profile, 0xc0, 0x1f}
	for s := bits.String(); s != ""; s = s[min(8, len(s)):] {
		var v byte
		_, err := fmt.Sscanf((s + "0000000")[:8], "%b", &v)
		if err != nil {
			panic(err)
		}
		if n := len(b); v <= 3 && b[n-1] == 0 && b[n-2] == 0 {
			b = append(b, 3)
		}
		b = append(b, v)
	}
	return b
}

func TestSizeOfH264(t *testing.T) {
	for name, nal := range map[string][]byte{
		"baseline":                  sps(66, 2, 40, 24, true),
		"main, orders as a list":    sps(77, 1, 40, 24, true),
		"high":                      sps(100, 0, 40, 24, true),
		"fields":                    sps(77, 0, 40, 24, false),
		"after emulation of zeroes": append([]byte{0x67, 66, 0, 0, 3}, sps(66, 2, 40, 24, true)[4:]...),
	} {
		t.Run(name, func(t *testing.T) {
			width, height := keyframe.H264Size(nal)
			require.Equal(t, [2]uint32{640, 384}, [2]uint32{width, height})
			pack := []byte{24}
			for _, unit := range [][]byte{{9, 0x10}, nal, {0x68, 1}} {
				pack = append(binary.BigEndian.AppendUint16(pack, uint16(len(unit))), unit...)
			}
			width, height = keyframe.H264Size(pack)
			require.Equal(t, [2]uint32{640, 384}, [2]uint32{width, height}, "among others in a packet")
			for n := range len(nal) - 1 {
				width, _ := keyframe.H264Size(nal[:n])
				require.Zero(t, width, "%d bytes of it", n)
			}
		})
	}
	width, height := keyframe.H264Size([]byte{
		0x67, 0x42, 0xc0, 0x0a, 0xd9, 0x1e, 0xc0, 0x44, 0x00, 0x00, 0x03, 0x00, 0x04, 0x00, 0x00, 0x03,
		0x00, 0x08, 0x3c, 0x48, 0x99, 0x20,
	})
	require.Equal(t, [2]uint32{16, 16}, [2]uint32{width, height}, "of an encoder")
	for _, none := range [][]byte{nil, {0x65, 1, 2}, {24}, {24, 0, 0, 1}, {24, 0, 9, 0x67}, sps(66, 2, 5000, 24, true)} {
		width, height = keyframe.H264Size(none)
		require.Zero(t, width+height)
	}
}
