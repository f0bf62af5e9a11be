package sequence

import (
	"testing"

	"github.com/stretchr/testify/require"

	"parlor/media/forward/vp8"
)

func TestDropsLeaveNoGap(t *testing.T) {
	var m Map
	m.Start(99)
	m.Begin(1000, vp8.Values{})
	pass := func(in, want int64) {
		t.Helper()
		out, _ := m.Pass(in, vp8.Values{})
		require.Equal(t, want, out&0xffff)
	}
	late := func(in, want int64) {
		t.Helper()
		out, _, ok := m.Late(in)
		require.True(t, ok)
		require.Equal(t, want, out&0xffff)
	}
	pass(1000, 100)
	pass(1002, 102) // 1001 was lost and may come
	m.Drop(1003, -1)
	m.Drop(1004, -1)
	pass(1005, 103)
	m.Drop(1007, -1) // 1006 was lost
	pass(1008, 105)
	late(1001, 101)
	late(1006, 104)
	_, _, ok := m.Late(999)
	require.False(t, ok)
	m.Begin(5, vp8.Values{})
	pass(5, 106)
	_, _, ok = m.Late(4)
	require.False(t, ok, "of before the new source")
}

// Numbers that were reserved for lost packets become free once late packets are refused:
// otherwise receivers would request them repeatedly.
func TestNothingIsMissingBeforeANewSource(t *testing.T) {
	var m Map
	m.Start(99)
	m.Begin(1000, vp8.Values{})
	out, _ := m.Pass(1000, vp8.Values{})
	require.EqualValues(t, 100, out&0xffff)
	m.Drop(1004, -1) // 1001 to 1003 were lost
	m.Begin(5, vp8.Values{})
	out, _ = m.Pass(5, vp8.Values{})
	require.EqualValues(t, 101, out&0xffff)
}

// A picture that is forwarded late counts for the pictures after it.
func TestPicturesThatComeLate(t *testing.T) {
	var m Map
	v := func(picture uint16, tl0 uint8) vp8.Values { return vp8.Values{PictureID: picture, TL0PicIdx: tl0} }
	m.Begin(1, v(0x7fff, 255))
	m.Pass(1, v(0x7fff, 255))
	m.Drop(3, 1)
	_, off, ok := m.Late(2)
	require.True(t, ok)
	m.Follow(v(0, 0).Sub(off))
	m.Begin(50, v(300, 9))
	_, off = m.Pass(50, v(300, 9))
	require.Equal(t, v(1, 1), vp8.Values{PictureID: v(300, 9).Sub(off).PictureID, TL0PicIdx: v(300, 9).Sub(off).TL0PicIdx})
}

func TestVP8Numbers(t *testing.T) {
	var m Map
	v := func(picture uint16, tl0, key uint8) vp8.Values {
		return vp8.Values{PictureID: picture, TL0PicIdx: tl0, KeyIdx: key}
	}
	out := func(in int64, values vp8.Values) vp8.Values {
		_, off := m.Pass(in, values)
		return values.Sub(off)
	}
	m.Begin(1, v(0x7ffe, 254, 30))
	require.Equal(t, v(0x7ffe, 254, 30), out(1, v(0x7ffe, 254, 30)), "the first source keeps its numbers")
	m.Drop(2, 0x7fff)
	m.Drop(3, 0x7fff) // the same frame
	require.Equal(t, v(0x7fff, 255, 30), out(4, v(0, 255, 30)))
	m.Begin(70000, v(500, 7, 2))
	require.Equal(t, v(0, 0, 31), out(70000, v(500, 7, 2)), "a new source counts on, over the wraps")
	require.Equal(t, v(1, 0, 31), out(70001, v(501, 7, 2)))
}

// model numbers packets by remembering every number.
type model struct {
	out      int64
	last     int64
	assigned map[int64]int64
}

func (m *model) begin(in int64) { m.last, m.assigned = in-1, map[int64]int64{} }

// process numbers the packets lost before in, and in itself if it passes.
func (m *model) process(in int64, pass bool) int64 {
	for lost := m.last + 1; lost < in; lost++ {
		m.out++
		m.assigned[lost] = m.out
	}
	m.last = in
	if pass {
		m.out++
		m.assigned[in] = m.out
	}
	return m.out
}

func FuzzMap(f *testing.F) {
	f.Add([]byte{0, 1, 1, 130, 7, 200, 255, 64, 1})
	f.Fuzz(func(t *testing.T, ops []byte) {
		var m Map
		m.Start(10)
		want := model{out: 1<<16 + 10}
		in := int64(1000)
		m.Begin(in, vp8.Values{})
		want.begin(in)
		var changes int
		for _, op := range ops {
			arg := int64(op & 0x0f)
			switch op >> 4 {
			default: // pass, after some losses
				in += 1 + arg/4
				got, _ := m.Pass(in, vp8.Values{})
				require.Equal(t, want.process(in, true), got)
			case 4, 5, 6, 7:
				in += 1 + arg/8
				m.Drop(in, -1)
				want.process(in, false)
				changes++
			case 8, 9, 10:
				got, _, ok := m.Late(in - arg)
				number, known := want.assigned[in-arg]
				if known && changes < history {
					require.True(t, ok)
					require.Equal(t, number, got)
				}
			case 11:
				in += 1000 * arg
				m.Begin(in+1, vp8.Values{})
				want.begin(in + 1)
				changes = 0
			}
			require.Equal(t, want.out, m.LastOut(), "op %x", op)
		}
	})
}
