package log_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/guid"
	"parlor/rooms/log"
	"parlor/rooms/sqlite"
	"parlor/rooms/sqlite/sqlitetest"
)

// world is a store with rooms in it.
type world struct {
	t     testing.TB
	store *sqlite.Store
}

func newWorld(t testing.TB) *world {
	s, err := sqlite.Open(context.Background(), sqlite.Config{Path: sqlitetest.Path(t)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	return &world{t, s}
}

// room opens a room that has six events.
func (w *world) room() {
	now := time.Now()
	r := rooms.Record{
		SID: guid.New("RM_"), Name: guid.New("room"), CreatedMs: now.UnixMilli(),
		EmptyTimeout: rooms.Never, DepartureTimeout: rooms.Never,
	}
	c := &rooms.Change{Kind: rooms.ChangeCreate, Room: r}
	for _, typ := range []string{
		log.RoomStarted, log.ParticipantJoined, log.TrackPublished, log.TrackUnpublished, log.ParticipantLeft, log.RoomFinished,
	} {
		c.Events = append(c.Events, log.New(&livekit.WebhookEvent{Event: typ, Room: r.Info()}, now))
	}
	done := make(chan error, 1)
	w.store.Submit(c, func(_ rooms.Outcome, err error) { done <- err })
	require.NoError(w.t, <-done)
}

// left is how many events are in the log.
func (w *world) left() int {
	all, err := w.store.Events(context.Background(), log.Query{Limit: 1000})
	require.NoError(w.t, err)
	return len(all)
}

func TestStreamBringsEverythingOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		l := &log.Reader{Store: w.store}
		for range 3 {
			w.room()
		}
		ctx, cancel := context.WithCancel(t.Context())
		var got []int64
		caught := int64(-1)
		ended := make(chan error)
		go func() {
			ended <- l.Stream(ctx, log.Query{After: 2, Limit: 4}, log.Sink{
				Event:    func(e log.Event) error { got = append(got, e.Seq); return nil },
				CaughtUp: func(at log.Cursor) error { caught = at.Seq; return nil },
			})
		}()
		settle := func() { time.Sleep(time.Second); synctest.Wait() }
		settle()
		require.EqualValues(t, 18, caught)
		for range 3 {
			w.room()
		}
		settle()
		require.EqualValues(t, 36, caught)
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
		require.Len(t, got, 34)
		for i, seq := range got {
			require.EqualValues(t, i+3, seq)
		}
	})
}

// looks counts how often the log was read.
type looks struct {
	log.Store
	n int
}

func (l *looks) Events(ctx context.Context, q log.Query) ([]log.Event, error) {
	if q.Limit > 1 { // else one event's epoch
		l.n++
	}
	return l.Store.Events(ctx, q)
}

// A look finds all that was written since the one before, so that there is no second one at
// once; a full page is followed by the next.
func TestStreamLooksOncePerCommitAndLessOftenIfItGathers(t *testing.T) {
	for _, tc := range []struct {
		name   string
		gather time.Duration
		most   int
	}{{"at once", 0, 101}, {"gathered", time.Second, 12}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				store := &looks{Store: w.store}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error)
				n := 0
				go func() {
					ended <- (&log.Reader{Store: store}).Stream(ctx, log.Query{Limit: 1000}, log.Sink{
						Event: func(e log.Event) error { n++; require.EqualValues(t, n, e.Seq); return nil }, Gather: tc.gather,
					})
				}()
				for range 100 {
					time.Sleep(100 * time.Millisecond)
					w.room()
				}
				time.Sleep(time.Minute)
				cancel()
				require.ErrorIs(t, <-ended, context.Canceled)
				require.Equal(t, 600, n)
				require.LessOrEqual(t, store.n, tc.most)
			})
		})
	}
}

func TestStreamEndsWhenItFallsBehindThePruning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		l := &log.Reader{Store: w.store}
		for range 3 {
			w.room()
		}
		n := 0
		err := l.Stream(t.Context(), log.Query{Limit: 4}, log.Sink{Event: func(log.Event) error {
			if n++; n == 4 { // while it is at its first page
				_, err := w.store.PruneEvents(t.Context(), 0, 10, 1000)
				require.NoError(t, err)
			}
			return nil
		}})
		pruned, is := errors.AsType[*log.PrunedError](err)
		require.True(t, is, "%v", err)
		require.Equal(t, log.PrunedError{After: 4, Oldest: 9}, *pruned)
		require.Equal(t, 4, n)
	})
}

func TestStreamEndsWithItsReader(t *testing.T) {
	w := newWorld(t)
	w.room()
	enough := errors.New("enough")
	err := (&log.Reader{Store: w.store}).Stream(t.Context(), log.Query{}, log.Sink{
		Event: func(log.Event) error { return enough },
	})
	require.ErrorIs(t, err, enough)
}

func TestRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for range 4 {
			w.room()
		}
		time.Sleep(2 * time.Hour)
		for range 4 {
			w.room()
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		r := &log.Retention{
			Store: w.store, MaxAge: 3 * time.Hour, MaxEvents: -1, Logger: slog.New(slog.DiscardHandler),
		}
		go func() { defer close(ended); r.Run(ctx) }()
		time.Sleep(50 * time.Minute)
		require.Equal(t, 48, w.left())
		time.Sleep(20 * time.Minute)
		require.Equal(t, 24, w.left())
		time.Sleep(2*time.Hour + 5*time.Minute)
		require.Equal(t, 0, w.left())
		cancel()
		<-ended

		for range 4 {
			w.room()
		}
		// A process that starts after a long time leaves those that pull events a moment to come
		// back.
		time.Sleep(4 * time.Hour)
		ctx, cancel = context.WithCancel(t.Context())
		ended = make(chan struct{})
		go func() { defer close(ended); r.Run(ctx) }()
		time.Sleep(9 * time.Minute)
		require.Equal(t, 24, w.left())
		time.Sleep(2 * time.Minute)
		require.Equal(t, 0, w.left())
		cancel()
		<-ended

		for range 4 {
			w.room()
		}
		n, err := (&log.Retention{Store: w.store, MaxAge: -1, MaxEvents: 10}).Prune(t.Context())
		require.NoError(t, err)
		require.Equal(t, 14, n)
		require.Equal(t, 10, w.left())
	})
}
