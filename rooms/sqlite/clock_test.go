package sqlite

import (
	"testing"

	"parlor/rooms"

	"github.com/stretchr/testify/require"
)

// TestRoomsOfTwoClocksAreDueEachByItsOwn: those that count from before the boot by the one, and
// the others by the other.
func TestRoomsOfTwoClocksAreDueEachByItsOwn(t *testing.T) {
	const timeout = int64(rooms.DefaultEmptyTimeout)
	s := openNew(t)
	for name, since := range map[string]int64{"old": 1000, "older": 900, "new": 2000, "newer": 2100} {
		_, err := submit(t, s, rooms.Change{Kind: rooms.ChangeCreate, Room: newRoom(name, since)})
		require.NoError(t, err)
	}
	due := func(ms, oldMs int64) (names []string, next int64) {
		now := rooms.Instant{WallMs: 7, Ms: ms, OldMs: oldMs, SinceMs: 2000}
		n, err := s.CountDue(t.Context(), now)
		require.NoError(t, err)
		ended, err := s.EndDue(t.Context(), now, 100)
		require.NoError(t, err)
		require.Len(t, ended, int(n))
		for _, r := range ended {
			require.EqualValues(t, 7, r.EndedMs)
			names = append(names, r.Name)
		}
		next, err = s.NextDeadline(t.Context(), now)
		require.NoError(t, err)
		return names, next
	}
	names, next := due(2000, 900+timeout-1)
	require.Empty(t, names)
	require.EqualValues(t, 2001, next)
	names, next = due(2000, 900+timeout)
	require.Equal(t, []string{"older"}, names)
	require.EqualValues(t, 2100, next)
	names, next = due(2000+timeout, 900)
	require.Equal(t, []string{"new"}, names)
	require.EqualValues(t, 2100+timeout, next)
	names, next = due(2100+timeout, 2100+timeout)
	require.Equal(t, []string{"old", "newer"}, names)
	require.Zero(t, next)
}

// TestAJumpMovesWhatCountsFromBefore and nothing else.
func TestAJumpMovesWhatCountsFromBefore(t *testing.T) {
	s := openNew(t)
	put := func(name string, since, from int64, edit func(*rooms.Record)) {
		r := newRoom(name, since)
		if from != 0 {
			r.Config.Division = &rooms.Division{Breakouts: []rooms.Breakout{{Name: "x", Title: `"quoted" <&>`}}, OpenMs: 5, FromMs: from, UntilMs: from + 50}
		}
		if edit != nil {
			edit(&r)
		}
		_, err := submit(t, s, rooms.Change{Kind: rooms.ChangeCreate, Room: r})
		require.NoError(t, err)
	}
	put("old", 1000, 0, nil)
	put("new", 2000, 0, nil)
	put("never", 1000, 0, func(r *rooms.Record) { r.EmptyTimeout, r.ExpiresMs = rooms.Never, 0 })
	put("occupied", 1000, 0, (*rooms.Record).SetOccupied)
	put("divided", 1000, 1500, nil)
	put("divided later", 1000, 2500, nil)
	put("divided by an earlier version", 1000, 1500, func(r *rooms.Record) { r.Config.Division.FromMs = 0 })
	put("damaged", 1000, 0, func(r *rooms.Record) { r.Config = rooms.UnreadableConfig(`{"division":{"until_ms":9`) })
	_, latest, err := s.Clock(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2500, latest)
	before := func(name string) rooms.Record {
		r, err := s.FindOpen(t.Context(), name)
		require.NoError(t, err)
		return r
	}
	want := map[string]rooms.Record{}
	for _, name := range []string{"old", "new", "never", "occupied", "divided", "divided later", "divided by an earlier version", "damaged"} {
		r := before(name)
		if r.EmptySinceMs == 1000 {
			r.EmptySinceMs = 900
			if r.ExpiresMs != 0 {
				r.ExpiresMs -= 100
			}
		}
		if d := r.Config.Division; d != nil && d.FromMs < 2000 {
			d.FromMs, d.UntilMs = d.FromMs-100, d.UntilMs-100
		}
		want[name] = r
	}
	state := rooms.ClockState{Boot: "b", Elapsed: 1, Base: 2, Ahead: 3, SinceMs: 4, OldAhead: 5}
	require.NoError(t, s.SetClock(t.Context(), state, &rooms.ClockJump{BeforeMs: 2000, ByMs: -100}))
	for name, r := range want {
		require.Equal(t, r, before(name), name)
	}
	got, _, err := s.Clock(t.Context())
	require.NoError(t, err)
	require.Equal(t, state, got)
	requireSound(t, s)
}
