package webhooks_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/webhooks"
)

func TestStreamBringsEverythingOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		l := &webhooks.Log{Store: w.store}
		for range 3 {
			w.room(rooms.NewID("room"), story...)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var got []int64
		caught := int64(-1)
		ended := make(chan error)
		go func() {
			ended <- l.Stream(ctx, rooms.EventQuery{After: 2, Limit: 4}, webhooks.Sink{
				Event:    func(e rooms.Event) error { got = append(got, e.Seq); return nil },
				CaughtUp: func(at webhooks.Cursor) error { caught = at.Seq; return nil },
			})
		}()
		settle := func() { time.Sleep(time.Second); synctest.Wait() }
		settle()
		require.EqualValues(t, 18, caught)
		for range 3 {
			w.room(rooms.NewID("room"), story...)
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

func TestStreamEndsWhenItFallsBehindThePruning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		l := &webhooks.Log{Store: w.store}
		for range 3 {
			w.room(rooms.NewID("room"), story...)
		}
		n := 0
		err := l.Stream(t.Context(), rooms.EventQuery{Limit: 4}, webhooks.Sink{Event: func(rooms.Event) error {
			if n++; n == 4 { // while it is at its first page
				_, err := w.store.PruneEvents(t.Context(), 0, 10, 1000)
				require.NoError(t, err)
			}
			return nil
		}})
		pruned, is := errors.AsType[*webhooks.PrunedError](err)
		require.True(t, is, "%v", err)
		require.Equal(t, webhooks.PrunedError{After: 4, Oldest: 9}, *pruned)
		require.Equal(t, 4, n)
	})
}

func TestStreamEndsWithItsReader(t *testing.T) {
	w := newWorld(t)
	w.room("a")
	enough := errors.New("enough")
	err := (&webhooks.Log{Store: w.store}).Stream(t.Context(), rooms.EventQuery{}, webhooks.Sink{
		Event: func(rooms.Event) error { return enough },
	})
	require.ErrorIs(t, err, enough)
}

func TestRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for range 4 {
			w.room(rooms.NewID("old"), story...)
		}
		time.Sleep(2 * time.Hour)
		for range 4 {
			w.room(rooms.NewID("young"), story...)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		r := &webhooks.Retention{
			Store: w.store, MaxAge: 3 * time.Hour, MaxEvents: -1, Logger: slog.New(slog.DiscardHandler),
		}
		go func() { defer close(ended); r.Run(ctx) }()
		time.Sleep(50 * time.Minute)
		require.Equal(t, 48, len(w.log()))
		time.Sleep(20 * time.Minute)
		require.Equal(t, 24, len(w.log()))
		time.Sleep(2*time.Hour + 5*time.Minute)
		require.Equal(t, 0, len(w.log()))
		cancel()
		<-ended

		for range 4 {
			w.room(rooms.NewID("more"), story...)
		}
		n, err := (&webhooks.Retention{Store: w.store, MaxAge: -1, MaxEvents: 10}).Prune(t.Context())
		require.NoError(t, err)
		require.Equal(t, 14, n)
		require.Equal(t, 10, len(w.log()))
	})
}
