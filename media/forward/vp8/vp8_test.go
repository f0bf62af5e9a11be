package vp8

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name    string
		payload []byte
		want    Descriptor
		ok      bool
	}{
		{"empty", nil, Descriptor{}, false},
		{"descriptor alone", []byte{0x10}, Descriptor{}, false},
		{"short key frame", []byte{0x10, 0x00}, Descriptor{Size: 1, Start: true, Key: true}, true},
		{"short delta frame", []byte{0x10, 0x01}, Descriptor{Size: 1, Start: true}, true},
		{"not the first partition", []byte{0x11, 0x00}, Descriptor{Size: 1}, true},
		{"not a start", []byte{0x00, 0x00}, Descriptor{Size: 1}, true},
		{"7 bit picture id", []byte{0x90, 0x80, 0x11, 0x01}, Descriptor{Size: 3, Start: true, PictureIDOffset: 2, PictureID: 0x11}, true},
		{"picture id cut off", []byte{0x90, 0x80, 0x81}, Descriptor{}, false},
		{
			"everything", []byte{0xb0, 0xf0, 0x92, 0x34, 0x56, 0xa0 | 0x07, 0x00},
			Descriptor{
				Size: 6, Start: true, Key: true, NonReference: true, PictureIDOffset: 2, LongPictureID: true, PictureID: 0x1234,
				TL0PicIdxOffset: 4, TL0PicIdx: 0x56, HasTID: true, TID: 2, Sync: true, KeyIdxOffset: 5, KeyIdx: 7,
			}, true,
		},
		{"TID without KEYIDX", []byte{0x90, 0x20, 0x40, 0x01}, Descriptor{Size: 3, Start: true, HasTID: true, TID: 1}, true},
		{"nothing after the descriptor", []byte{0xb0, 0xf0, 0x92, 0x34, 0x56, 0x07}, Descriptor{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := Parse(tt.payload)
			require.Equal(t, tt.ok, ok)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestPutKeepsTheRest(t *testing.T) {
	in := []byte{0xb0, 0xf0, 0x92, 0x34, 0x56, 0xa7, 0x00, 0x99}
	d, ok := Parse(in)
	require.True(t, ok)
	out := bytes.Clone(in)
	require.Equal(t, []byte{0xb0, 0xf0, 0xff, 0xff, 0x01, 0xbf, 0x00, 0x99},
		d.Put(out, Values{PictureID: 0x7fff, TL0PicIdx: 1, KeyIdx: 0x1f}))

	short := []byte{0xb0, 0xf0, 0x12, 0x56, 0xa7, 0x00, 0x99}
	d, ok = Parse(short)
	require.True(t, ok)
	require.Equal(t, []byte{0xb0, 0xf0, 0xff, 0xff, 0x01, 0xbf, 0x00, 0x99},
		d.Put(short, Values{PictureID: 0x7fff, TL0PicIdx: 1, KeyIdx: 0x1f}), "of 7 bits")
}

// Parse reads what Put has written, and nothing else changes.
func FuzzPut(f *testing.F) {
	f.Add([]byte{0xb0, 0xf0, 0x92, 0x34, 0x56, 0xa7, 0x00, 0x99}, uint16(5), uint8(6), uint8(7))
	f.Add([]byte{0x90, 0x80, 0x11, 0x01}, uint16(5), uint8(6), uint8(7))
	f.Fuzz(func(t *testing.T, in []byte, picture uint16, tl0, key uint8) {
		d, ok := Parse(in)
		if !ok {
			return
		}
		want := d
		want.PictureID, want.TL0PicIdx, want.KeyIdx = picture&0x7fff, tl0, key&0x1f
		switch {
		case d.PictureIDOffset == 0:
			want.PictureID = 0
		case !d.LongPictureID:
			want.LongPictureID = true
			want.Size++
			if want.TL0PicIdxOffset != 0 {
				want.TL0PicIdxOffset++
			}
			if want.KeyIdxOffset != 0 {
				want.KeyIdxOffset++
			}
		}
		if d.TL0PicIdxOffset == 0 {
			want.TL0PicIdx = 0
		}
		if d.KeyIdxOffset == 0 {
			want.KeyIdx = 0
		}
		out := bytes.Clone(in)
		out = d.Put(out, Values{picture & 0x7fff, tl0, key & 0x1f})
		got, ok := Parse(out)
		require.True(t, ok)
		require.Equal(t, want, got)
		require.Equal(t, in[d.Size:], out[got.Size:])
	})
}
