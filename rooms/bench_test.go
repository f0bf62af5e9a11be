package rooms_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/guid"
	"parlor/rooms/sqlite"
)

// BenchmarkJoinWhileRoomsEnd makes 10,000 rooms end at one instant, and measures joins
// into another room meanwhile and before. Run it with -benchtime=1x.
func BenchmarkJoinWhileRoomsEnd(b *testing.B) {
	const due = 10_000
	for b.Loop() {
		store, err := sqlite.Open(b.Context(), sqlite.Config{Path: filepath.Join(b.TempDir(), "parlor.db")})
		require.NoError(b, err)
		deadline := time.Now().Add(8 * time.Second)
		fill(b, store, due, deadline)
		rs := rooms.New(rooms.Config{Store: store, Log: slog.New(slog.DiscardHandler), AutoCreate: true})
		require.NoError(b, rs.Open(b.Context()))

		quiet := joins(b, rs, "quiet", func() bool { return time.Until(deadline) > 50*time.Millisecond })
		time.Sleep(time.Until(deadline))
		var last time.Time
		busy := joins(b, rs, "busy", func() bool {
			_, ended, err := store.CountRooms(b.Context())
			require.NoError(b, err)
			last = time.Now()
			return ended < due
		})
		report(b, "quiet", quiet)
		report(b, "ending", busy)
		b.ReportMetric(float64(last.Sub(deadline).Milliseconds()), "ms-to-end-all")
		require.NoError(b, rs.Close(context.Background()))
		require.NoError(b, store.Close(context.Background()))
	}
}

// fill makes n empty rooms that end at that time.
func fill(b *testing.B, store *sqlite.Store, n int, deadline time.Time) {
	var wg sync.WaitGroup
	for i := range n {
		r := rooms.Record{
			SID: guid.New("RM_"), Name: fmt.Sprintf("due-%05d", i),
			CreatedMs: rooms.NowMs(time.Now()), EmptyTimeout: 1000, DepartureTimeout: 1000,
			EmptySinceMs: rooms.NowMs(time.Now()), ExpiresMs: rooms.NowMs(deadline),
		}
		wg.Add(1)
		store.Submit(&rooms.Change{Kind: rooms.ChangeCreate, Room: r}, func(_ rooms.Outcome, err error) {
			if err != nil {
				b.Error(err)
			}
			wg.Done()
		})
	}
	wg.Wait()
}

// joins makes joins one after the other while f returns true, each by a new participant,
// and returns the durations.
func joins(b *testing.B, rs *rooms.Rooms, prefix string, f func() bool) (took []time.Duration) {
	for i := 0; f(); i++ {
		c := &client{subscribed: make(map[string]bool)}
		began := time.Now()
		p, _, err := rs.Join(b.Context(), rooms.JoinRequest{
			Room: fmt.Sprintf("%s-%d", prefix, i%8), Protocol: 17, Outlet: c,
			Info: &livekit.ParticipantInfo{Identity: fmt.Sprint("p", i), Permission: anyone()},
		})
		require.NoError(b, err)
		took = append(took, time.Since(began))
		p.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
	}
	return took
}

func report(b *testing.B, name string, took []time.Duration) {
	require.NotEmpty(b, took)
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(ms(took[len(took)/2]), "ms-p50-"+name)
	b.ReportMetric(ms(took[len(took)*99/100]), "ms-p99-"+name)
	b.ReportMetric(ms(took[len(took)-1]), "ms-max-"+name)
	b.ReportMetric(float64(len(took)), "joins-"+name)
}

// openRooms opens rooms over a new database.
func openRooms(b *testing.B) *rooms.Rooms {
	store, err := sqlite.Open(context.Background(), sqlite.Config{Path: filepath.Join(b.TempDir(), "parlor.db")})
	require.NoError(b, err)
	rs := rooms.New(rooms.Config{Store: store, Log: slog.New(slog.DiscardHandler), AutoCreate: true})
	require.NoError(b, rs.Open(context.Background()))
	b.Cleanup(func() {
		require.NoError(b, rs.Close(context.Background()))
		require.NoError(b, store.Close(context.Background()))
	})
	return rs
}
