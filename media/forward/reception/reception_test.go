package reception

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAccept(t *testing.T) {
	s := New(90000)
	ext := func(seq uint16, want Verdict) int64 {
		t.Helper()
		e, v := s.Accept(seq)
		require.Equal(t, want, v)
		return e
	}
	first := ext(65534, Restart)
	require.Equal(t, first+1, ext(65535, Next))
	require.Equal(t, first+3, ext(1, Next), "over the wrap, one lost")
	require.Equal(t, first+2, ext(0, Late))
	ext(1, Duplicate)
	require.Equal(t, first+10, ext(8, Next))
	ext(8+1<<15, Suspect)
	require.Equal(t, first+11, ext(9, Next), "one stray packet changes nothing")
	ext(20000, Suspect)
	again := ext(20001, Restart)
	require.Greater(t, again, first+1<<16)
	require.Equal(t, again-2, ext(19999, Late), "overtaken by the first")
	ext(10000, Suspect)
	require.Equal(t, again+1, ext(20002, Next))
	s.Reset()
	require.Greater(t, ext(5, Restart), again)
}

// RFC 3550, appendix A.3: the fraction of the interval, and the total.
func TestReport(t *testing.T) {
	s := New(8000)
	_, ok := s.Report()
	require.False(t, ok)
	for i := range 100 {
		if i%4 == 3 {
			continue
		}
		_, v := s.Accept(uint16(i))
		require.NotEqual(t, Late, v)
		s.Count(uint32(i*160), int64(i)*20_000_000, true)
	}
	r, ok := s.Report()
	require.True(t, ok)
	require.Equal(t, uint32(98), r.LastSequence&0xffff)
	require.Equal(t, uint32(24), r.TotalLost)
	require.Equal(t, uint8(24*256/99), r.FractionLost)
	require.Zero(t, r.Jitter, "packets came as they were sent")
	_, v := s.Accept(97 - 2)
	require.Equal(t, Late, v)
	s.Count(95*160, 0, false)
	r, _ = s.Report()
	require.Equal(t, uint32(23), r.TotalLost)
	require.Zero(t, r.FractionLost)
}

func TestJitter(t *testing.T) {
	s := New(90000)
	for i := range 1000 {
		_, _ = s.Accept(uint16(i))
		// Every other packet is 10 ms late: the mean deviation is 10 ms.
		s.Count(uint32(i*1800), int64(i)*20_000_000+int64(i%2)*10_000_000, true)
	}
	require.InDelta(t, 0.010, s.Jitter(), 0.001)
}

func FuzzAccept(f *testing.F) {
	f.Add([]byte{0, 1, 0, 2, 0xff, 0xff, 0x80, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := New(0)
		var last int64
		for ; len(b) >= 2; b = b[2:] {
			seq := uint16(b[0])<<8 | uint16(b[1])
			ext, v := s.Accept(seq)
			switch v {
			case Next, Restart:
				require.Greater(t, ext, last)
				require.Equal(t, seq, uint16(ext))
				last = ext
				s.Count(uint32(ext)<<16, int64(seq)<<40, true)
			case Late:
				require.Less(t, ext, last)
				require.Equal(t, seq, uint16(ext))
				s.Count(0, 0, false)
			}
			s.Report()
		}
	})
}
