package sqlite

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"parlor/rooms"
	"parlor/rooms/guid"
	"parlor/rooms/log"

	"github.com/stretchr/testify/require"
)

// hold keeps the writer between two transactions until release is called, so that all
// changes submitted meanwhile are in one transaction.
func hold(t *testing.T, s *Store) (release func()) {
	t.Helper()
	held, free := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := s.Between(context.Background(), func(context.Context) error {
			close(held)
			<-free
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-held
	return func() {
		close(free)
		wg.Wait()
	}
}

func TestGroupCommit(t *testing.T) {
	s := openNew(t)
	release := hold(t, s)
	before := s.Stats()
	const n = 100
	var order []int
	var wg sync.WaitGroup
	for i := range n {
		r := newRoom(fmt.Sprint("room", i), 1000)
		wg.Add(1)
		s.Submit(&rooms.Change{Kind: rooms.ChangeCreate, Room: r}, func(out rooms.Outcome, err error) {
			order = append(order, i) // on the writer's goroutine
			if err != nil || !out.Created {
				t.Errorf("room %d: %v", i, err)
			}
			wg.Done()
		})
	}
	require.Equal(t, n, s.Stats().Queue)
	release()
	wg.Wait()
	for i := range n {
		require.Equal(t, i, order[i], "answers come in the order of submission")
	}
	after := s.Stats()
	require.Equal(t, before.Commit.Count+1, after.Commit.Count)
	require.EqualValues(t, n, after.Batch.Sum-before.Batch.Sum)
	require.Positive(t, after.WALBytes)
	requireSound(t, s)
}

// A change that the database refuses half-way does not affect the others, and leaves
// nothing behind.
func TestBadChangeAmongGood(t *testing.T) {
	s := openNew(t)
	lobby := create(t, s, "lobby", 1000)
	release := hold(t, s)
	var wg sync.WaitGroup
	results := make([]error, 30)
	for i := range results {
		r := newRoom(fmt.Sprint("room", i), 1000)
		c := &rooms.Change{Kind: rooms.ChangeCreate, Room: r, Events: []log.Event{event(log.RoomStarted, &r, 1)}}
		switch i {
		case 7: // two sessions of one identity
			c.Sessions = []rooms.Session{{SID: "PA_a", RoomSID: r.SID, Identity: "x"}, {SID: "PA_b", RoomSID: r.SID, Identity: "x"}}
		case 13: // the same event twice
			c.Events = append(c.Events, c.Events[0])
		case 19: // a room's SID that exists
			c.Room.SID = lobby.SID
		case 23: // a refusal
			c.Kind = rooms.ChangeUpdate
		case 27: // an error of the caller
			c.Room.EndedMs = 5
		}
		wg.Add(1)
		s.Submit(c, func(_ rooms.Outcome, err error) {
			results[i] = err
			wg.Done()
		})
	}
	release()
	wg.Wait()
	for i, err := range results {
		switch i {
		case 7, 13, 19, 27:
			require.Equal(t, rooms.Internal, rooms.ErrorCode(err), "%d: %v", i, err)
		case 23:
			require.ErrorIs(t, err, rooms.ErrEnded)
		default:
			require.NoError(t, err, i)
			_, err := s.FindOpen(t.Context(), fmt.Sprint("room", i))
			require.NoError(t, err)
		}
	}
	for _, i := range []int{7, 13, 19, 27} {
		_, err := s.FindOpen(t.Context(), fmt.Sprint("room", i))
		require.ErrorIs(t, err, rooms.ErrNoRoom)
	}
	require.EqualValues(t, 1, s.Stats().Isolated)
	require.Zero(t, s.Stats().Failures)
	open, _, err := s.CountRooms(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 26, open)
	requireSound(t, s)
}

// At most one open room has a name, however many callers race for it.
func TestOneNameOneRoom(t *testing.T) {
	s := openNew(t)
	const callers, names, rounds = 16, 3, 40
	var wg sync.WaitGroup
	var created, ended atomic.Int64
	for range callers {
		wg.Go(func() {
			for i := range rounds {
				name := fmt.Sprint("name", i%names)
				r := newRoom(name, 1000)
				out, err := submit(t, s, rooms.Change{Kind: rooms.ChangeCreate, Room: r, Events: []log.Event{event(log.RoomStarted, &r, 1)}})
				if err != nil {
					t.Error(err)
					return
				}
				if out.Created != (out.Room.SID == r.SID) || out.Room.Name != name || !out.Room.Open() {
					t.Errorf("created %v: %+v", out.Created, out.Room)
				}
				if out.Created {
					created.Add(1)
				}
				last := out.Room
				last.EndedMs, last.EndReason = 2000, rooms.EndClosed
				_, err = submit(t, s, rooms.Change{Kind: rooms.ChangeEnd, Room: last, Events: []log.Event{rooms.RoomFinished(&last, time.UnixMilli(2000))}})
				switch {
				case err == nil:
					ended.Add(1)
				case !errors.Is(err, rooms.ErrEnded):
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, created.Load(), ended.Load(), "each room ends once")
	var twice int
	require.NoError(t, s.read.QueryRow(`SELECT count(*) FROM event AS a WHERE type = 'room_started'
		AND EXISTS (SELECT 1 FROM event AS b WHERE b.type = 'room_started' AND b.room_name = a.room_name AND b.seq > a.seq
			AND NOT EXISTS (SELECT 1 FROM event AS f WHERE f.type = 'room_finished' AND f.room_sid = a.room_sid AND f.seq < b.seq))`).Scan(&twice))
	require.Zero(t, twice, "two open rooms bore a name")
	requireSound(t, s)
}

// Changes of a room that are submitted without waiting are numbered in order.
func TestPipelinedChanges(t *testing.T) {
	s := openNew(t)
	r := create(t, s, "lobby", 1000)
	var wg sync.WaitGroup
	const n = 50
	for i := range n {
		wg.Add(1)
		c := &rooms.Change{Kind: rooms.ChangeUpdate, Room: r, Events: []log.Event{event(fmt.Sprint("e", i), &r, 1)}}
		c.Room.Metadata = fmt.Sprint(i)
		s.Submit(c, func(out rooms.Outcome, err error) {
			if err != nil || out.Room.Seq != int64(i+2) || out.Room.Version != int64(i+2) {
				t.Errorf("%d: %+v %v", i, out, err)
			}
			wg.Done()
		})
	}
	wg.Wait()
	events, err := s.Events(t.Context(), log.Query{After: 1, Limit: 100})
	require.NoError(t, err)
	require.Len(t, events, n)
	for i, e := range events {
		require.Equal(t, fmt.Sprint("e", i), e.Type)
		require.EqualValues(t, i+2, e.RoomSeq)
	}
	got, err := s.FindOpen(t.Context(), "lobby")
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(n-1), got.Metadata)
}

// A full database refuses writes with a reason, reads continue, and writes succeed again
// when there is space.
func TestDatabaseFull(t *testing.T) {
	s := openNew(t)
	create(t, s, "before", 1000)
	limit := func(pages string) {
		require.NoError(t, s.Between(t.Context(), func(context.Context) error {
			_, err := s.writer.conn.exec("PRAGMA max_page_count = " + pages)
			return err
		}))
	}
	limit("1") // for SQLite this means: no more pages than now
	release := hold(t, s)
	big := newRoom("big", 1000)
	big.Metadata = string(make([]byte, 100_000))
	var failed, innocent error
	var wg sync.WaitGroup
	wg.Add(2)
	s.Submit(&rooms.Change{Kind: rooms.ChangeCreate, Room: newRoom("innocent", 1)}, func(_ rooms.Outcome, err error) { innocent = err; wg.Done() })
	s.Submit(&rooms.Change{Kind: rooms.ChangeCreate, Room: big}, func(_ rooms.Outcome, err error) { failed = err; wg.Done() })
	release()
	wg.Wait()
	for _, err := range []error{failed, innocent} {
		require.Equal(t, rooms.Unavailable, rooms.ErrorCode(err))
		require.ErrorContains(t, err, "the disk is full")
		require.NotContains(t, err.Error(), s.Path(), "callers need not know")
	}
	require.NotEmpty(t, s.Stats().Failing)
	_, err := submit(t, s, rooms.Change{Kind: rooms.ChangeUpdate, Room: newRoom("unknown", 1)})
	require.ErrorIs(t, err, rooms.ErrEnded)
	require.NotEmpty(t, s.Stats().Failing, "what is refused for itself tells nothing of the disk")
	_, err = s.FindOpen(t.Context(), "before")
	require.NoError(t, err)
	_, err = s.FindOpen(t.Context(), "innocent")
	require.ErrorIs(t, err, rooms.ErrNoRoom)

	limit("1000000")
	out, err := submit(t, s, rooms.Change{Kind: rooms.ChangeCreate, Room: big, Events: []log.Event{event(log.RoomStarted, &big, 1)}})
	require.NoError(t, err)
	require.True(t, out.Created)
	require.Empty(t, s.Stats().Failing)
	requireSound(t, s)
}

// The store finds without a write that it can write again. Otherwise a load balancer that
// sends no work to a server that is not ready would wait for ever.
func TestRecoveryIsNoticedWhenNobodyWrites(t *testing.T) {
	s := openNew(t)
	limit := func(pages string) {
		require.NoError(t, s.Between(t.Context(), func(context.Context) error {
			_, err := s.writer.conn.exec("PRAGMA max_page_count = " + pages)
			return err
		}))
	}
	limit("1")
	big := newRoom("big", 1000)
	big.Metadata = string(make([]byte, 100_000))
	_, err := submit(t, s, rooms.Change{Kind: rooms.ChangeCreate, Room: big})
	require.Equal(t, rooms.Unavailable, rooms.ErrorCode(err))
	require.NotEmpty(t, s.Stats().Failing)
	limit("1000000")
	require.Eventually(t, func() bool { return s.Stats().Failing == "" }, time.Minute, 10*time.Millisecond)
	requireSound(t, s)
}

// So it does after a time in which nothing may be written, as while the lease is unsure.
func TestRecoveryIsNoticedAfterWritesWereRefused(t *testing.T) {
	var refuse atomic.Bool
	var refused atomic.Int64
	s, err := Open(t.Context(), Config{Path: filepath.Join(t.TempDir(), "parlor.db"), Allow: func() error {
		if refuse.Load() {
			refused.Add(1)
			return errors.New("the lease is unsure")
		}
		return nil
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	limit := func(pages string) {
		require.NoError(t, s.Between(t.Context(), func(context.Context) error {
			_, err := s.writer.conn.exec("PRAGMA max_page_count = " + pages)
			return err
		}))
	}
	limit("1")
	big := newRoom("big", 1000)
	big.Metadata = string(make([]byte, 100_000))
	_, err = submit(t, s, rooms.Change{Kind: rooms.ChangeCreate, Room: big})
	require.Equal(t, rooms.Unavailable, rooms.ErrorCode(err))
	refuse.Store(true)
	require.NotEmpty(t, s.Stats().Failing)
	require.Eventually(t, func() bool { return refused.Load() > 0 }, time.Minute, 10*time.Millisecond, "the probe is refused")
	limit("1000000")
	refuse.Store(false)
	require.Eventually(t, func() bool { return s.Stats().Failing == "" }, 20*time.Second, 10*time.Millisecond)
	requireSound(t, s)
}

// A connection that breaks during a transaction is replaced.
func TestBrokenConnection(t *testing.T) {
	s := openNew(t)
	require.NoError(t, s.Between(t.Context(), func(context.Context) error {
		_, err := s.writer.conn.exec("BEGIN") // as if a transaction was left open
		return err
	}))
	create(t, s, "lobby", 1000)
	requireSound(t, s)
}

func TestCancelledCallWritesNothingLate(t *testing.T) {
	s := openNew(t)
	release := hold(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	go func() { errs <- s.SetBan(ctx, rooms.Ban{RoomName: "lobby", Identity: "ann"}) }()
	require.Eventually(t, func() bool { return s.Stats().Queue == 1 }, time.Minute, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-errs, context.Canceled)
	release()
	require.NoError(t, s.Between(t.Context(), func(context.Context) error { return nil }))
	banned, _, err := s.Admission(t.Context(), "lobby", "ann")
	require.NoError(t, err)
	require.False(t, banned)
}

func TestCloseCommitsWhatWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "parlor.db")
	s, err := Open(t.Context(), Config{Path: path})
	require.NoError(t, err)
	release := hold(t, s)
	answers := make(chan error, 200)
	for i := range 200 {
		s.Submit(&rooms.Change{Kind: rooms.ChangeCreate, Room: newRoom(fmt.Sprint(i), 1)}, func(_ rooms.Outcome, err error) { answers <- err })
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close(context.Background()) }()
	release()
	require.NoError(t, <-closed)
	for range 200 {
		require.NoError(t, <-answers)
	}
	s = openAt(t, path)
	open, _, err := s.CountRooms(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 200, open)
}

// A writer that does not end is given up after the grace period, and the waiting callers
// get an error.
func TestCloseGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(context.Background(), Config{Path: filepath.Join(t.TempDir(), "parlor.db")})
		require.NoError(t, err)
		free := make(chan struct{})
		go s.Between(context.Background(), func(context.Context) error { <-free; return nil })
		synctest.Wait()
		var late error
		s.Submit(&rooms.Change{Kind: rooms.ChangeCreate, Room: newRoom("late", 1)}, func(_ rooms.Outcome, err error) { late = err })
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		began := time.Now()
		require.ErrorIs(t, s.Close(ctx), context.DeadlineExceeded)
		require.Equal(t, time.Second+closeGrace, time.Since(began))
		require.ErrorIs(t, late, rooms.ErrStopping)
		close(free)
		<-s.writer.ended
		require.NoError(t, errors.Join(s.read.Close(), s.writer.conn.close(), s.write.Close(), s.lock.Close()))
	})
}

func TestSyncIsCalledWhileDirty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls []time.Duration
		var fail error
		began := time.Now()
		s, err := Open(context.Background(), Config{
			Path: filepath.Join(t.TempDir(), "parlor.db"),
			Sync: func(context.Context) error { calls = append(calls, time.Since(began)); return fail },
		})
		require.NoError(t, err)
		var pages int
		require.NoError(t, s.Between(t.Context(), func(context.Context) error {
			return s.writer.conn.conn.QueryRowContext(context.Background(), "PRAGMA wal_autocheckpoint").Scan(&pages)
		}))
		require.Zero(t, pages, "replication checkpoints")
		time.Sleep(time.Minute)
		require.Empty(t, calls, "nothing to see")

		began = time.Now()
		for range 10 { // 100 ms apart
			create(t, s, guid.New(""), 1)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		ms := time.Millisecond
		require.Equal(t, []time.Duration{250 * ms, 550 * ms, 850 * ms, 1150 * ms}, calls)

		calls, began, fail = nil, time.Now(), errors.New("replica is away")
		create(t, s, "x", 1)
		time.Sleep(600 * ms)
		synctest.Wait()
		require.Equal(t, []time.Duration{250 * ms, 500 * ms}, calls, "tried again")
		require.Equal(t, "replica is away", s.Stats().Syncing)
		fail = nil
		require.NoError(t, s.Close(context.Background()))
		require.Len(t, calls, 3, "once more on closing")
		require.Empty(t, s.writer.stats.s.Syncing)
	})
}

func TestWatch(t *testing.T) {
	s := openNew(t)
	a, cancelA := s.Watch()
	b, cancelB := s.Watch()
	defer cancelB()
	create(t, s, "one", 1)
	create(t, s, "two", 1)
	<-a
	<-b
	require.Empty(t, a, "tokens coalesce")
	require.NoError(t, s.SetBan(t.Context(), rooms.Ban{RoomName: "x"}))
	_, err := submit(t, s, rooms.Change{Kind: rooms.ChangeCreate, Room: newRoom("silent", 1)})
	require.NoError(t, err)
	require.Empty(t, a, "nothing new to read")
	cancelA()
	create(t, s, "three", 1)
	<-b
	require.Empty(t, a)
	require.Len(t, s.watch.all, 1)
}

// The automatic checkpoint bounds the WAL if there is no replication.
func TestWALStaysBounded(t *testing.T) {
	s := openNew(t)
	for i := range 40 {
		r := newRoom(fmt.Sprint(i), 1)
		r.Metadata = string(make([]byte, 500_000))
		_, err := submit(t, s, rooms.Change{Kind: rooms.ChangeCreate, Room: r})
		require.NoError(t, err)
	}
	require.Less(t, s.Stats().WALBytes, int64(8<<20))
}

// A change of a line that follows one that was not written is not written either, in the
// same transaction or later. Other lines continue.
func TestPipeline(t *testing.T) {
	for name, spoil := range map[string]func(*rooms.Change){
		"refused by the database": func(c *rooms.Change) {
			c.Sessions = []rooms.Session{{SID: "PA_a", RoomSID: c.Room.SID, Identity: "x"}, {SID: "PA_b", RoomSID: c.Room.SID, Identity: "x"}}
		},
		"a caller's mistake": func(c *rooms.Change) { c.Room.EndedMs = 5 },
	} {
		t.Run(name, func(t *testing.T) {
			s := openNew(t)
			a, b := create(t, s, "a", 1000), create(t, s, "b", 1000)
			pipelineA, pipelineB := new(rooms.Pipeline), new(rooms.Pipeline)
			change := func(r rooms.Record, p *rooms.Pipeline, metadata string) *rooms.Change {
				r.Metadata = metadata
				return &rooms.Change{Kind: rooms.ChangeUpdate, Pipeline: p, Room: r}
			}
			bad := change(a, pipelineA, "bad")
			spoil(bad)
			release := hold(t, s)
			var wg sync.WaitGroup
			errs := make([]error, 4)
			for i, c := range []*rooms.Change{change(a, pipelineA, "1"), bad, change(b, pipelineB, "1"), change(a, pipelineA, "2")} {
				wg.Add(1)
				s.Submit(c, func(_ rooms.Outcome, err error) {
					errs[i] = err
					wg.Done()
				})
			}
			release()
			wg.Wait()
			require.NoError(t, errs[0])
			require.Equal(t, rooms.Internal, rooms.ErrorCode(errs[1]))
			require.NoError(t, errs[2])
			require.ErrorIs(t, errs[3], rooms.ErrHeld)
			_, err := submit(t, s, *change(a, pipelineA, "3"))
			require.ErrorIs(t, err, rooms.ErrHeld)
			got, err := s.FindOpen(t.Context(), "a")
			require.NoError(t, err)
			require.Equal(t, "1", got.Metadata)
			_, err = submit(t, s, *change(a, new(rooms.Pipeline), "4"))
			require.NoError(t, err)
			requireSound(t, s)
		})
	}
}

// A transaction that fails aborts the lines of all its changes.
func TestPipelineAbortsWithItsTransaction(t *testing.T) {
	var fail atomic.Bool
	s, err := Open(t.Context(), Config{Path: filepath.Join(t.TempDir(), "parlor.db"), Allow: func() error {
		if fail.CompareAndSwap(true, false) {
			return errors.New("the disk is full")
		}
		return nil
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	r, pipeline := create(t, s, "a", 1000), new(rooms.Pipeline)
	fail.Store(true)
	_, err = submit(t, s, rooms.Change{Kind: rooms.ChangeUpdate, Pipeline: pipeline, Room: r})
	require.Equal(t, rooms.Unavailable, rooms.ErrorCode(err))
	require.True(t, pipeline.Aborted())
	_, err = submit(t, s, rooms.Change{Kind: rooms.ChangeUpdate, Pipeline: pipeline, Room: r})
	require.ErrorIs(t, err, rooms.ErrHeld)
	_, err = submit(t, s, rooms.Change{Kind: rooms.ChangeUpdate, Room: r})
	require.NoError(t, err, "a change in no pipeline depends on none")
}
