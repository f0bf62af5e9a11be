package udp

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// modelRun is what a run must be, built the slow and obvious way.
type modelRun struct {
	dst     netip.AddrPort
	packets [][]byte
}

func (m *modelRun) takes(p []byte) bool {
	total := len(p)
	for _, q := range m.packets {
		total += len(q)
		if len(q) != len(m.packets[0]) {
			return false // it already ends with a shorter one
		}
	}
	return len(p) <= len(m.packets[0]) && len(m.packets) < 64 && total <= 65000
}

// model splits packets into runs.
func model(dsts []netip.AddrPort, packets [][]byte) []*modelRun {
	var runs []*modelRun
	for i, p := range packets {
		var newest *modelRun
		for _, r := range runs {
			if r.dst == dsts[i] {
				newest = r
			}
		}
		if newest == nil || !newest.takes(p) {
			newest = &modelRun{dst: dsts[i]}
			runs = append(runs, newest)
		}
		newest.packets = append(newest.packets, p)
	}
	return runs
}

func destination(i byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, i}), 4000)
}

func requireModel(t *testing.T, b *sendBatch, dsts []netip.AddrPort, packets [][]byte) {
	t.Helper()
	want := model(dsts, packets)
	require.Len(t, b.runs, len(want))
	for i, r := range b.runs {
		require.Equal(t, want[i].dst, r.dst)
		require.EqualValues(t, len(want[i].packets), r.count)
		require.EqualValues(t, len(want[i].packets[0]), r.size)
		j, bytes := r.first, 0
		for _, p := range want[i].packets {
			require.Equal(t, p, b.packet(j))
			bytes += len(p)
			j = b.segs[j].next
		}
		require.EqualValues(t, -1, j, "the run ends")
		require.EqualValues(t, bytes, r.bytes)
	}
}

// FuzzRuns feeds packets of fuzzed sizes and destinations and compares the runs
// with the model's.
func FuzzRuns(f *testing.F) {
	f.Add([]byte{0, 4, 0, 0, 4, 0, 0, 2, 0, 1, 4, 0, 0, 4, 0})
	f.Add([]byte{1, 0, 1, 1, 0, 2, 1, 0, 1, 2, 0, 1, 1, 0, 1})
	long := make([]byte, 0, 3*100)
	for range 100 {
		long = append(long, 7, 4, 176)
	}
	f.Add(long)
	f.Fuzz(func(t *testing.T, in []byte) {
		b := newSendBatch()
		var dsts []netip.AddrPort
		var packets [][]byte
		for ; len(in) >= 3; in = in[3:] {
			n := int(binary.BigEndian.Uint16(in[1:3])) % (MaxPacket + 1)
			if n == 0 {
				continue
			}
			room := b.reserve(n)
			if room == nil {
				require.True(t, len(b.segs) == maxSegments || b.used+n > arenaSize, "full only when full")
				break
			}
			require.Len(t, room, n)
			p := make([]byte, n)
			for k := range p {
				p[k] = byte(len(packets) + k)
			}
			copy(room, p)
			b.commit(destination(in[0]%5), n)
			dsts = append(dsts, destination(in[0]%5))
			packets = append(packets, p)
		}
		requireModel(t, b, dsts, packets)
		b.reset()
		require.True(t, b.empty())
	})
}

func TestRunLimits(t *testing.T) {
	t.Parallel()
	sizes := func(n, size int) []int {
		s := make([]int, n)
		for i := range s {
			s[i] = size
		}
		return s
	}
	for _, tc := range []struct {
		name  string
		sizes []int
		runs  []int // packets per run
	}{
		{"equal", sizes(7, 1150), []int{7}},
		{"shorter last", append(sizes(6, 1150), 300), []int{7}},
		{"nothing after the shorter", append(sizes(2, 1150), 300, 300, 1150), []int{3, 1, 1}},
		{"a longer one begins a run", []int{100, 200, 200}, []int{1, 2}},
		{"64 segments", sizes(100, 160), []int{64, 36}},
		{"65000 bytes", sizes(40, 2000), []int{32, 8}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := newSendBatch()
			for _, n := range tc.sizes {
				require.NotNil(t, b.reserve(n))
				b.commit(destination(1), n)
			}
			var got []int
			for _, r := range b.runs {
				got = append(got, int(r.count))
			}
			require.Equal(t, tc.runs, got)
		})
	}
}

func TestInterleavedDestinationsKeepTheirRuns(t *testing.T) {
	t.Parallel()
	b := newSendBatch()
	for range 5 {
		for d := range byte(3) {
			require.NotNil(t, b.reserve(1000))
			b.commit(destination(d), 1000)
		}
	}
	require.Len(t, b.runs, 3, "one run each, though the packets alternate")
	for _, r := range b.runs {
		require.EqualValues(t, 5, r.count)
	}
}
