//go:build unix

package webhooks_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/log"
	"parlor/webhooks"
)

// BenchmarkOutbox sends 10,000 rooms × 6 events to one endpoint over loopback. It reports
// events per second, CPU time per event (with the receiver's), and the growth of the
// database.
func BenchmarkOutbox(b *testing.B) {
	const roomCount = 10_000
	for b.Loop() {
		w := newWorld(b)
		var taken atomic.Int64
		done := make(chan struct{})
		s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			if taken.Add(1) == 6*roomCount {
				close(done)
			}
		}))
		c := w.config(webhooks.Config{Endpoints: []webhooks.Endpoint{{URL: s.URL}}})
		c.Keys[apiKey] = apiSecret
		d := webhooks.New(c)
		cpu, begin := cpuTime(b), time.Now()
		require.NoError(b, d.Start(b.Context()))
		write(w, roomCount)
		wrote := time.Since(begin)
		<-done
		require.NoError(b, d.Drain(b.Context()))
		took := time.Since(begin)
		used := cpuTime(b) - cpu
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		d.Close()
		s.Close()
		require.EqualValues(b, 6*roomCount, w.stats().Delivered)
		require.EqualValues(b, 6*roomCount, taken.Load())
		fi, err := os.Stat(w.store.Path())
		require.NoError(b, err)
		b.ReportMetric(6*roomCount/took.Seconds(), "events/s")
		b.ReportMetric(6*roomCount/wrote.Seconds(), "written/s")
		b.ReportMetric(float64(used.Microseconds())/(6*roomCount), "cpu-µs/event")
		b.ReportMetric(float64(fi.Size())/(6*roomCount), "db-B/event")
		b.ReportMetric(float64(mem.HeapInuse)/(1<<20), "heap-MiB")
	}
}

// write opens the rooms and writes their events, from 64 goroutines, so that they share
// commits.
func write(w *world, n int) {
	var next atomic.Int64
	var writers sync.WaitGroup
	for range 64 {
		writers.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(n) {
					return
				}
				r := w.room(fmt.Sprint("room", i))
				for _, typ := range story {
					r.tell(typ)
				}
			}
		})
	}
	writers.Wait()
}

// BenchmarkBacklog measures an endpoint that recovers while the events of very many rooms
// are pending: the cost of a query for the next ones, which must not grow with their
// number, and the rate of deliveries.
func BenchmarkBacklog(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				w := newWorld(b)
				s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
				}))
				d := webhooks.New(w.config(webhooks.Config{Endpoints: []webhooks.Endpoint{{URL: s.URL}}}))
				require.NoError(b, d.Start(b.Context()))
				require.NoError(b, d.Pause(b.Context(), 1, "to pile up"))
				write(w, n)

				begin := time.Now()
				const asked = 100
				for range asked {
					found, err := w.store.DueHeads(b.Context(), log.DueQuery{
						EndpointID: 1, NowMs: rooms.NowMs(time.Now()), Limit: 64,
					})
					require.NoError(b, err)
					require.Len(b, found, 64)
				}
				b.ReportMetric(float64(time.Since(begin).Microseconds())/asked, "µs/query")

				cpu, begin := cpuTime(b), time.Now()
				require.NoError(b, d.Resume(b.Context(), 1))
				require.NoError(b, d.Drain(b.Context()))
				took, used := time.Since(begin), cpuTime(b)-cpu
				require.EqualValues(b, 6*n, w.stats().Delivered)
				b.ReportMetric(float64(6*n)/took.Seconds(), "events/s")
				b.ReportMetric(float64(used.Microseconds())/float64(6*n), "cpu-µs/event")
				d.Close()
				s.Close()
			}
		})
	}
}

// cpuTime is the CPU time of this process.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
