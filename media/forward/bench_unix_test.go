//go:build unix

package forward

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
)

// cpuTime is the CPU time of the process. On a busy machine the elapsed time says little.
func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	require.NoError(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkFanOut(b *testing.B) {
	for _, bm := range []struct {
		name          string
		kind          livekit.TrackType
		codec         Codec
		packets, size int
	}{
		{"video", livekit.TrackType_VIDEO, vp8Config(), 8, 1150},
		{"audio", livekit.TrackType_AUDIO, opusConfig(), 1, 120},
	} {
		for _, n := range []int{1, 60} {
			b.Run(fmt.Sprintf("%s/%d", bm.name, n), func(b *testing.B) {
				f := newFanOut(b, bm.codec, bm.kind, n, bm.packets, bm.size, nil)
				for range 300 {
					f.send()
				}
				b.ReportAllocs()
				before := cpuTime(b)
				for b.Loop() {
					f.send()
				}
				sent := float64(b.N * bm.packets * n)
				b.ReportMetric(float64(cpuTime(b)-before)/sent, "cpu-ns/forwarded")
			})
		}
	}
}
