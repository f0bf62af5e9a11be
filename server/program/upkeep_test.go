package program

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/sqlite"
)

func TestBansThatRanOutAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "parlor.db")})
		require.NoError(t, err)
		defer func() { require.NoError(t, s.Close(context.Background())) }()
		until := rooms.NowMs(time.Now().Add(90 * time.Minute))
		require.NoError(t, s.SetBan(t.Context(), rooms.Ban{RoomName: "tea", Identity: "short", UntilMs: until}))
		require.NoError(t, s.SetBan(t.Context(), rooms.Ban{RoomName: "tea", Identity: "for good"}))
		require.NoError(t, s.SetRevocation(t.Context(), "tea", "ann", rooms.NowMs(time.Now())))
		ctx, stop := context.WithCancel(t.Context())
		go pruneModeration(ctx, s, slog.New(slog.DiscardHandler)) // ends with ctx, which synctest waits for
		defer stop()
		left := func() (ids []string) {
			bans, err := s.Bans(t.Context(), "tea", "", 10)
			require.NoError(t, err)
			for _, b := range bans {
				ids = append(ids, b.Identity)
			}
			return ids
		}
		time.Sleep(89 * time.Minute)
		require.Equal(t, []string{"for good", "short"}, left())
		time.Sleep(time.Hour)
		require.Equal(t, []string{"for good"}, left())
		_, revoked, err := s.Admission(t.Context(), "tea", "ann")
		require.NoError(t, err)
		require.NotZero(t, revoked)
	})
}

// TestSessionsOfARoomThatNeverEndsAreForgotten after the time for which ended rooms are
// kept, except for the newest, which the room still uses.
func TestSessionsOfARoomThatNeverEndsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "parlor.db")})
		require.NoError(t, err)
		defer func() { require.NoError(t, s.Close(context.Background())) }()
		now := rooms.NowMs(time.Now())
		r := rooms.Record{SID: "RM_x", Name: "office", CreatedMs: now, EmptyTimeout: rooms.Never, DepartureTimeout: rooms.Never}
		c := &rooms.Change{Kind: rooms.ChangeCreate, Room: r}
		const many = 3000 // several batches
		for i := range int64(many) {
			c.Sessions = append(c.Sessions, rooms.Session{
				SID: fmt.Sprintf("PA_%04d", i), RoomSID: r.SID, Identity: "ann", JoinedMs: now + i, LeftMs: now + i + 1,
			})
		}
		done := make(chan error, 1)
		s.Submit(c, func(_ rooms.Outcome, err error) { done <- err })
		require.NoError(t, <-done)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go pruneSessions(ctx, s, 24*time.Hour, slog.New(slog.DiscardHandler)) // ends with ctx, which synctest waits for
		left := func() int {
			all, err := s.Latest(t.Context(), r.SID, many)
			require.NoError(t, err)
			return len(all)
		}
		time.Sleep(23 * time.Hour)
		require.Equal(t, many, left())
		time.Sleep(3 * time.Hour)
		require.Equal(t, rooms.MostDeparted, left())
	})
}

// TestOldJobsOfARoomThatNeverEndsAreForgotten except for the newest, which the room still
// uses.
func TestOldJobsOfARoomThatNeverEndsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "parlor.db")})
		require.NoError(t, err)
		defer func() { require.NoError(t, s.Close(context.Background())) }()
		now := rooms.NowMs(time.Now())
		r := rooms.Record{SID: "RM_x", Name: "office", CreatedMs: now, EmptyTimeout: rooms.Never, DepartureTimeout: rooms.Never}
		c := &rooms.Change{Kind: rooms.ChangeCreate, Room: r}
		const many = rooms.MostJobs + 2*pruneBatch
		for i := range int64(many) {
			c.Jobs = append(c.Jobs, rooms.Job{ID: fmt.Sprintf("AJ_%04d", i), RoomSID: r.SID, CreatedMs: now + i, EndedMs: now + i, Info: &livekit.Job{}})
		}
		done := make(chan error, 1)
		s.Submit(c, func(_ rooms.Outcome, err error) { done <- err })
		require.NoError(t, <-done)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go pruneAgents(ctx, s, slog.New(slog.DiscardHandler)) // ends with ctx, which synctest waits for
		time.Sleep(time.Minute)
		left, err := s.Jobs(t.Context(), r.SID, many)
		require.NoError(t, err)
		require.Len(t, left, rooms.MostJobs)
		require.Equal(t, "AJ_1000", left[0].ID)
	})
}
