package program

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/sqlite"
)

// What is measured is written once, whatever fails meanwhile; a server on which nothing
// happens writes nothing; and hours are forgotten after 400 days.
func TestWhatIsMeasuredIsCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var full, commits atomic.Int64
		committed := func() {}
		s, err := sqlite.Open(t.Context(), sqlite.Config{
			Path: filepath.Join(t.TempDir(), "parlor.db"), Committed: func() { commits.Add(1); committed() },
			Allow: func() error {
				if full.Load() != 0 {
					return errors.New("not now")
				}
				return nil
			},
		})
		require.NoError(t, err)
		defer func() { require.NoError(t, s.Close(context.Background())) }()
		var bytes, people atomic.Int64
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			measure(ctx, s, func() rooms.Measured { return rooms.Measured{BytesOut: bytes.Load()} }, func() int { return int(people.Load()) }, slog.New(slog.DiscardHandler))
		})
		running.Go(func() { pruneHours(ctx, s, slog.New(slog.DiscardHandler)) })
		total := func() (sum int64) {
			all, err := s.Hours(context.Background(), 0, 1<<60, 100)
			require.NoError(t, err)
			for i := range all {
				sum += all[i].BytesOut
			}
			return sum
		}
		time.Sleep(10 * time.Minute)
		idle := commits.Load()
		time.Sleep(30 * time.Minute)
		require.Equal(t, idle, commits.Load(), "nothing happens, nothing is written")
		bytes.Store(1000)
		time.Sleep(2 * time.Minute)
		require.EqualValues(t, 1000, total())
		full.Store(1)
		bytes.Store(1500)
		time.Sleep(10 * time.Minute)
		full.Store(0)
		bytes.Store(1700)
		time.Sleep(2 * time.Minute)
		require.EqualValues(t, 1700, total())
		bytes.Store(1800)
		time.Sleep(399 * 24 * time.Hour)
		require.EqualValues(t, 1800, total())
		bytes.Store(1801)
		time.Sleep(2 * 24 * time.Hour)
		require.EqualValues(t, 1, total())
		bytes.Store(1900)
		stop()
		running.Wait()
		require.EqualValues(t, 1+99, total(), "the last is written at the end")

		// The server is stopped while the commit is on its way.
		ctx, stop = context.WithCancel(t.Context())
		committed = func() { stop(); time.Sleep(time.Second) }
		measure(ctx, s, func() rooms.Measured { return rooms.Measured{BytesOut: 50} }, func() int { return 0 }, slog.New(slog.DiscardHandler))
		require.EqualValues(t, 1+99+50, total())
	})
}
