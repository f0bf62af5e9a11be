//go:build unix

package replica

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"parlor/rooms/sqlite"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// BenchmarkReplication makes 50 rooms a second for a while. It measures the used share of
// a core, with and without a replica, and the largest lag of the replica, which is the
// data that would be lost with the machine.
func BenchmarkReplication(b *testing.B) {
	const rate = 50
	for _, c := range []struct{ name, url string }{
		{"none", ""},
		{"file", "file://" + filepath.Join(b.TempDir(), "replica")},
		{"s3", s3URL(b)},
	} {
		b.Run(c.name, func(b *testing.B) {
			n := benchNode(b, c.url)
			tick := time.NewTicker(time.Second / rate)
			defer tick.Stop()
			var worst time.Duration
			began, busy := time.Now(), cpu(b)
			made := 0
			for b.Loop() {
				for range rate {
					<-tick.C
					require.NoError(b, n.create(fmt.Sprint("room ", made)))
					made++
					if n.replica != nil {
						worst = max(worst, n.replica.Status().Lag)
					}
				}
			}
			b.ReportMetric(100*(cpu(b)-busy).Seconds()/time.Since(began).Seconds(), "%core")
			if n.replica != nil {
				b.ReportMetric(float64((worst + 100*time.Millisecond).Milliseconds()), "ms-lost-at-worst") // plus the writer's interval
				s := n.replica.Status()
				b.ReportMetric(float64(s.Files)/time.Since(began).Seconds(), "uploads/s")
				b.ReportMetric(float64(s.Bytes)/float64(made), "bytes/room")
				require.NoError(b, n.close(context.Background()))
				return
			}
			require.NoError(b, n.store.Close(context.Background()))
		})
	}
}

func benchNode(b *testing.B, url string) *node {
	b.Helper()
	dir := b.TempDir()
	if url == "" {
		s, err := sqlite.Open(b.Context(), sqlite.Config{Path: database(dir)})
		require.NoError(b, err)
		return &node{store: s}
	}
	n, err := openNode(b.Context(), dir, fmt.Sprint(time.Now().UnixNano()), Config{URL: url, Adopt: true, Log: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	return n
}

// cpu is the CPU time of this process so far.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkBarrier measures how long a caller waits until its write is on S3, and how
// many concurrent callers share an upload.
func BenchmarkBarrier(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			n := benchNode(b, s3URL(b))
			before := n.replica.Status().Files
			made := make(chan int, callers)
			for b.Loop() {
				for i := range callers {
					go func() { // ends with its barrier, for which the code below waits
						if n.create(fmt.Sprint(time.Now().UnixNano(), i)) == nil && n.replica.Barrier(b.Context()) == nil {
							made <- 1
						} else {
							made <- 0
						}
					}()
				}
				for range callers {
					require.Equal(b, 1, <-made)
				}
			}
			b.ReportMetric(float64(n.replica.Status().Files-before)/float64(b.N), "uploads/op")
			require.NoError(b, n.close(context.Background()))
		})
	}
}
