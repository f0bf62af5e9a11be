package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

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
