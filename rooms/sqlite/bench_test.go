package sqlite

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"parlor/rooms"
	"parlor/rooms/log"

	"github.com/stretchr/testify/require"
)

// BenchmarkCreate measures durable creations with 64 concurrent callers, without a
// webhook endpoint and with one.
func BenchmarkCreate(b *testing.B) {
	for _, endpoints := range []int{0, 1} {
		b.Run(fmt.Sprintf("endpoints=%d", endpoints), func(b *testing.B) {
			s := openNew(b)
			if endpoints > 0 {
				_, err := s.SyncEndpoints(b.Context(), []log.Endpoint{{URL: "http://receiver"}}, 1)
				require.NoError(b, err)
			}
			b.ResetTimer()
			createMany(b, s, b.N, 64)
			b.StopTimer()
			st := s.Stats()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
			b.ReportMetric(st.Batch.Sum/float64(st.Batch.Count), "jobs/commit")
			b.ReportMetric(st.Commit.Sum/float64(st.Commit.Count)*1e3, "ms/commit")
		})
	}
}

// createMany creates n rooms from that many callers.
func createMany(b testing.TB, s *Store, n, callers int) {
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			done := make(chan error, 1)
			for i := c; i < n; i += callers {
				now := time.Now().UnixMilli()
				r := newRoom(fmt.Sprintf("room-%08x", uint32(i)*2654435761), now)
				s.Submit(&rooms.Change{
					Kind: rooms.ChangeCreate, Room: r,
					Events: []log.Event{event(log.RoomStarted, &r, now)},
				}, func(_ rooms.Outcome, err error) { done <- err })
				if err := <-done; err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkMillionIdleRooms fills a database with a million rooms and measures their
// cost. Run it with -benchtime=1x.
func BenchmarkMillionIdleRooms(b *testing.B) {
	const million = 1_000_000
	path := filepath.Join(b.TempDir(), "parlor.db")
	ctx := context.Background()
	for b.Loop() {
		s, err := Open(ctx, Config{Path: path})
		require.NoError(b, err)
		began := time.Now()
		createMany(b, s, million, 64)
		b.ReportMetric(million/time.Since(began).Seconds(), "creates/s")
		require.NoError(b, s.Close(ctx))

		before := heap()
		began = time.Now()
		s, err = Open(ctx, Config{Path: path})
		require.NoError(b, err)
		_, err = s.Occupied(ctx)
		require.NoError(b, err)
		_, err = s.NextDeadline(ctx, rooms.InstantOf(0))
		require.NoError(b, err)
		b.ReportMetric(time.Since(began).Seconds()*1e3, "ms-start")
		b.ReportMetric(float64(heap()-before)/million, "heap-B/room")

		took := func(name string, f func()) {
			began := time.Now()
			f()
			b.ReportMetric(float64(time.Since(began).Microseconds()), "us-"+name)
		}
		took("find", func() { _, err = s.FindOpen(ctx, "room-9e3779b1") })
		require.NoError(b, err)
		var page []rooms.Record
		took("page", func() { page, err = s.ListRooms(ctx, rooms.RoomQuery{Limit: 50}) })
		require.NoError(b, err)
		took("page2", func() { _, err = s.ListRooms(ctx, rooms.RoomQuery{Limit: 50, After: page[49].Cursor()}) })
		require.NoError(b, err)
		took("prefix", func() { _, err = s.ListRooms(ctx, rooms.RoomQuery{Limit: 50, NamePrefix: "room-77"}) })
		require.NoError(b, err)
		took("count", func() { _, _, err = s.CountRooms(ctx) })
		require.NoError(b, err)
		began = time.Now()
		ended := 0
		for ended < 10_000 {
			due, err := s.EndDue(ctx, rooms.InstantOf(time.Now().Add(time.Hour).UnixMilli()), 500)
			require.NoError(b, err)
			ended += len(due)
		}
		b.ReportMetric(time.Since(began).Seconds()*1e3, "ms-end-10k")
		require.NoError(b, s.Close(ctx))
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
