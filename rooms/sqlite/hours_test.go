package sqlite

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"parlor/rooms"
	"parlor/rooms/log"

	"github.com/stretchr/testify/require"
)

const minuteMs = int64(time.Minute / time.Millisecond)

// populated writes a room with n participants, after another joined participants have come.
func populated(t *testing.T, s *Store, r rooms.Record, n uint32, joined int) rooms.Record {
	t.Helper()
	r.NumParticipants = n
	if n > 0 {
		r.SetOccupied()
	} else {
		r.SetEmpty(rooms.NowMs(time.Now()))
	}
	c := rooms.Change{Kind: rooms.ChangeUpdate, Room: r}
	for range joined {
		c.Events = append(c.Events, event(log.ParticipantJoined, &r, rooms.NowMs(time.Now())))
	}
	out, err := submit(t, s, c)
	require.NoError(t, err)
	return out.Room
}

// Each hour has what happened in it, once, over restarts; time without a process is
// nobody's.
func TestHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which begins with an hour of UTC
		path := filepath.Join(t.TempDir(), "parlor.db")
		ctx := context.Background()
		began := time.Now()
		first := rooms.NowMs(began)
		require.Zero(t, first%rooms.HourMs)
		s, err := Open(ctx, Config{Path: path})
		require.NoError(t, err)
		hours := func() []rooms.Hour {
			t.Helper()
			all, err := s.Hours(ctx, 0, 1<<60, 100)
			require.NoError(t, err)
			requireSound(t, s)
			return all
		}
		require.Empty(t, hours())

		tea, coffee := create(t, s, "tea", first), create(t, s, "coffee", first)
		time.Sleep(10 * time.Minute)
		tea = populated(t, s, tea, 2, 2)
		coffee = populated(t, s, coffee, 3, 3)
		time.Sleep(10 * time.Minute)
		coffee = populated(t, s, coffee, 1, 0)
		require.NoError(t, s.AddMeasured(ctx, rooms.NowMs(time.Now().Add(-5*time.Minute)), rooms.Measured{}), "it waited for the store meanwhile")
		time.Sleep(10 * time.Minute)
		measured := rooms.Measured{Refused: 4, BytesIn: 5, BytesOut: 6, PacketsOut: 100, LostOut: 7, Scores: 2, ScoreSum: 9}
		require.NoError(t, s.AddMeasured(ctx, rooms.NowMs(time.Now()), measured))
		require.NoError(t, s.AddMeasured(ctx, rooms.NowMs(time.Now()), measured))
		now := hours()
		require.Len(t, now, 1)
		require.Equal(t, (5*10+3*10)*minuteMs, now[0].ParticipantMs)
		require.EqualValues(t, 5, now[0].Peak)
		require.EqualValues(t, 5, now[0].Joined)

		// The rest of the hour, a whole one, and the beginning of the third, without a change.
		time.Sleep(100 * time.Minute)
		end(t, s, coffee, rooms.NowMs(time.Now())) // with somebody in it
		double := rooms.Measured{Refused: 8, BytesIn: 10, BytesOut: 12, PacketsOut: 200, LostOut: 14, Scores: 4, ScoreSum: 18}
		want := []rooms.Hour{
			{FromMs: first, Opened: 2, Joined: 5, Peak: 5, ParticipantMs: (50 + 30 + 3*30) * minuteMs, Measured: double},
			{FromMs: first + rooms.HourMs, Peak: 3, ParticipantMs: 3 * 60 * minuteMs},
			{FromMs: first + 2*rooms.HourMs, Peak: 3, Ended: 1, ParticipantMs: 3 * 10 * minuteMs},
		}
		require.Equal(t, want, hours())

		// The two are in the room when no process runs.
		require.NoError(t, s.Close(ctx))
		time.Sleep(5 * time.Hour)
		s, err = Open(ctx, Config{Path: path})
		require.NoError(t, err)
		require.Equal(t, want, hours())
		time.Sleep(time.Minute)
		require.NoError(t, s.AddMeasured(ctx, rooms.NowMs(time.Now()), rooms.Measured{}))
		tea = populated(t, s, tea, 0, 0)
		time.Sleep(time.Hour)
		_, err = s.EndDue(ctx, rooms.InstantOf(rooms.NowMs(time.Now())), 10)
		require.NoError(t, err)
		want = append(want, rooms.Hour{FromMs: first + 7*rooms.HourMs, Peak: 2, ParticipantMs: 2 * minuteMs},
			rooms.Hour{FromMs: first + 8*rooms.HourMs, Ended: 1})
		require.Equal(t, want, hours())

		// What a room refuses that has ended counts for nothing.
		_, err = submit(t, s, rooms.Change{Kind: rooms.ChangeUpdate, Room: tea, Events: []log.Event{event(log.ParticipantJoined, &tea, 1)}})
		require.ErrorIs(t, err, rooms.ErrEnded)
		_, err = submit(t, s, rooms.Change{Kind: 99, Room: newRoom("broken", 1)})
		require.Error(t, err)
		require.Equal(t, want, hours())

		n, err := s.PruneHours(ctx, first+2*rooms.HourMs, 1)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Equal(t, want[1:], hours())
		some, err := s.Hours(ctx, first+2*rooms.HourMs, first+8*rooms.HourMs, 1)
		require.NoError(t, err)
		require.Equal(t, want[2:3], some)

		// A clock that is set forward by years makes no row for each of their hours.
		r := create(t, s, "later", rooms.NowMs(time.Now()))
		r = populated(t, s, r, 1, 1)
		require.NoError(t, s.AddMeasured(ctx, rooms.NowMs(time.Now().AddDate(10, 0, 0)), rooms.Measured{}))
		require.Less(t, len(hours()), 60)
		require.NoError(t, s.AddMeasured(ctx, rooms.NowMs(time.Now()), rooms.Measured{}))
		populated(t, s, r, 0, 0)
		require.NoError(t, s.Close(ctx))
	})
}
