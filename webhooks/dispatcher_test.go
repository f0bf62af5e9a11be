package webhooks_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/rooms/guid"
	"parlor/rooms/log"
	"parlor/webhooks"
)

var errRefused = errors.New("connection refused")

var story = []string{
	log.ParticipantJoined, log.TrackPublished,
	log.TrackUnpublished, log.ParticipantLeft, log.RoomFinished,
}

func TestDeliversEachRoomInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := &receiver{t: t, behave: func(g received) answer { // some are slower than others
			return answer{status: 200, after: time.Duration(g.event.Seq%7) * time.Millisecond}
		}}
		w.start(webhooks.Config{Transport: r})
		var all []*room
		for i := range 20 {
			all = append(all, w.room(fmt.Sprint("room", i)))
		}
		for _, typ := range story {
			for _, room := range all {
				room.tell(typ)
			}
		}
		time.Sleep(time.Second)
		w.requireAll(r.took())
		require.Len(t, r.requests(), 120, "each once")
		require.LessOrEqual(t, r.highest, webhooks.DefaultConcurrency)
		s := w.stats()
		require.Zero(t, s.Pending)
		require.EqualValues(t, 120, s.Delivered)
	})
}

func TestWhatWasWrittenBeforeTheStartIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := &receiver{t: t}
		d := webhooks.New(w.config(webhooks.Config{Transport: r}))
		require.NoError(t, d.Start(context.Background()))
		d.Close()
		w.room("a", story...)
		w.start(webhooks.Config{Transport: r})
		time.Sleep(time.Second)
		w.requireAll(r.took())
	})
}

// outage makes a receiver fail for a while, and then recover.
func outage(t *testing.T, c webhooks.Config, length time.Duration, down answer) (w *world, r *receiver, back time.Time) {
	w = newWorld(t)
	begin := time.Now()
	back = begin.Add(length)
	r = &receiver{t: t, behave: func(received) answer {
		if time.Now().Before(back) {
			return down
		}
		return ok
	}}
	c.Transport = r
	w.start(c)
	var all []*room
	for i := range 30 {
		all = append(all, w.room(fmt.Sprint("room", i)))
	}
	for i, typ := range story { // the rooms continue meanwhile
		time.Sleep(length / 6)
		for _, room := range all[:len(all)-i] {
			room.tell(typ)
		}
	}
	time.Sleep(time.Until(back))
	return w, r, back
}

func TestOutagesLoseNothing(t *testing.T) {
	downs := map[string]answer{
		"refused": {err: errRefused},
		"hangs":   {status: 200, after: time.Hour},
		"500":     {status: 500},
		"503":     {status: 503},
		"404":     {status: 404},
		"429":     {status: 429, header: http.Header{"Retry-After": {"7"}}},
		"302":     {status: 302, header: http.Header{"Location": {"http://elsewhere.test/"}}},
	}
	for name, down := range downs {
		for _, ordering := range []webhooks.Ordering{webhooks.Strict, webhooks.Relaxed} {
			for _, length := range []time.Duration{3 * time.Second, 10 * time.Minute, 48 * time.Hour} {
				if length != 10*time.Minute && name != "refused" && name != "500" {
					continue
				}
				t.Run(fmt.Sprint(name, "/", ordering, "/", length), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						w, r, back := outage(t, webhooks.Config{Ordering: ordering}, length, down)
						during := len(r.requests())
						// A first burst at most, and then a probe a minute.
						require.Less(t, during, 40+int(length/(45*time.Second)), "it was hammered")
						answered := down.status == 500 || down.status == 404 || down.status == 302
						notice := 72 * time.Second
						if answered {
							notice *= 5
						}
						if name == "hangs" { // a probe may hang when the receiver recovers
							notice += webhooks.DefaultTimeout
						}
						time.Sleep(notice + time.Minute)
						took := r.took()
						if ordering == webhooks.Relaxed && answered {
							require.Len(t, took, len(w.log())) // the order may have been given up
						} else {
							w.requireAll(took)
						}
						for _, g := range took {
							require.Less(t, g.at.Sub(back), notice+5*time.Second, "the return was noticed late")
						}
						require.Zero(t, w.stats().Pending)
						require.Zero(t, w.stats().Dead)
					})
				})
			}
		}
	}
}

func TestPoisonIsRetriedOnScheduleThenDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var poison string
		r := &receiver{t: t, behave: func(g received) answer {
			if g.event.RoomName == "poisoned" && g.event.Type == poison {
				return answer{status: 500}
			}
			return ok
		}}
		poison = log.ParticipantJoined
		w.start(webhooks.Config{Transport: r, Ordering: webhooks.Strict})
		bad := w.room("poisoned", story...)
		var stop atomic.Bool
		defer stop.Store(true)
		go func() { // other rooms have events
			for !stop.Load() {
				time.Sleep(5 * time.Minute)
				w.room(guid.New("room"))
			}
		}()
		count := func() (n int, others int) {
			for _, g := range r.requests() {
				if g.event.RoomName != "poisoned" {
					others++
				} else if g.event.Type == poison {
					n++
				}
			}
			return n, others
		}
		time.Sleep(24 * time.Hour)
		n, others := count()
		require.GreaterOrEqual(t, others, 24*12-1, "other rooms wait for nothing")
		require.LessOrEqual(t, n, 20, "attempts and a few probes")
		require.GreaterOrEqual(t, n, 6, "attempts")
		require.Zero(t, w.stats().Dead)
		for _, g := range r.took() {
			require.False(t, g.event.RoomSID == bad.record.SID && g.event.RoomSeq > 2, "strict order was broken")
		}
		time.Sleep(80 * time.Hour)
		stop.Store(true)
		time.Sleep(time.Minute)
		n, _ = count()
		require.EqualValues(t, 1, w.stats().Dead)
		require.LessOrEqual(t, n, 24, "attempts and a few probes")
		var after []string
		for _, g := range r.took() {
			if g.event.RoomSID == bad.record.SID {
				after = append(after, g.event.Type)
			}
		}
		require.Equal(t, append([]string{log.RoomStarted}, story[1:]...), after)
	})
}

func TestRelaxedOrderPassesAPoison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := &receiver{t: t, behave: func(g received) answer {
			if g.event.Type == log.ParticipantJoined {
				return answer{status: 400}
			}
			return ok
		}}
		w.start(webhooks.Config{Transport: r})
		w.room("a", story...)
		time.Sleep(time.Minute)
		require.Len(t, r.took(), 1, "order holds for the first attempts")
		time.Sleep(10 * time.Minute)
		require.Len(t, r.took(), 5, "then the others pass")
		require.EqualValues(t, 1, w.stats().Pending)
	})
}

func TestDeadEndpointIsGivenUpAfterThreeDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := &receiver{t: t, behave: func(received) answer { return answer{err: errRefused} }}
		d := w.start(webhooks.Config{Transport: r})
		for i := range 60 {
			w.room(fmt.Sprint("room", i), story...)
		}
		time.Sleep(60 * time.Hour)
		require.Zero(t, w.stats().Dead)
		fresh := w.room("fresh", story...)
		time.Sleep(20 * time.Hour)
		s := w.stats()
		require.EqualValues(t, 360, s.Dead)
		require.EqualValues(t, 6, s.Pending, "what is young is still tried")
		require.Less(t, len(r.requests()), 2*80*60)
		list, err := d.Deliveries(context.Background(), s.Endpoint.ID, log.DeliveryDead, 0, 5)
		require.NoError(t, err)
		require.Contains(t, list[0].LastError, "connection refused")
		// The log can be pruned up to what is pending.
		n, err := (&log.Retention{Store: w.store, MaxAge: time.Hour}).Prune(context.Background())
		require.NoError(t, err)
		require.Equal(t, 360, n)
		require.Equal(t, fresh.record.SID, w.log()[0].RoomSID)
	})
}

// TestTimeWithoutAProcessIsNoTimeOfFailing: a receiver that comes back a moment after this
// machine, which stood still for days, gets all events. Restarts do not keep events for ever.
func TestTimeWithoutAProcessIsNoTimeOfFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var up atomic.Bool
		r := &receiver{t: t, behave: func(received) answer {
			if up.Load() {
				return ok
			}
			return answer{err: errRefused}
		}}
		run := func(while func()) {
			d := webhooks.New(w.config(webhooks.Config{Transport: r, Schedule: []time.Duration{time.Minute, 2 * time.Hour}}))
			require.NoError(t, d.Start(context.Background()))
			while()
			require.NoError(t, d.Drain(context.Background()))
			d.Close()
		}
		run(func() {
			w.room("tea", story...)
			w.room("coffee", story...)
			time.Sleep(time.Second)
		})
		time.Sleep(400 * time.Hour)
		run(func() {
			time.Sleep(time.Second)
			require.Zero(t, w.stats().Dead)
			up.Store(true)
			time.Sleep(10 * time.Minute)
		})
		require.Zero(t, w.stats().Pending+w.stats().Dead)
		require.EqualValues(t, 12, w.stats().Delivered)

		up.Store(false)
		w.room("cocoa", story...)
		for range 18 { // hours
			run(func() { time.Sleep(time.Hour - time.Minute) })
			time.Sleep(time.Minute)
		}
		require.Zero(t, w.stats().Dead)
		for range 6 {
			run(func() { time.Sleep(time.Hour - time.Minute) })
			time.Sleep(time.Minute)
		}
		require.EqualValues(t, 6, w.stats().Dead)
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	for name, form := range map[string]func(until time.Time) string{
		"seconds": func(until time.Time) string { return strconv.Itoa(int(time.Until(until) / time.Second)) },
		"date":    func(until time.Time) string { return until.UTC().Format(http.TimeFormat) },
	} {
		for _, status := range []int{429, 503} {
			t.Run(fmt.Sprint(name, "/", status), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					until := time.Now().Add(100 * time.Second)
					r := &receiver{t: t, behave: func(g received) answer {
						if time.Now().Before(until) {
							return answer{status: status, header: http.Header{"Retry-After": {form(until)}}}
						}
						return ok
					}}
					w.start(webhooks.Config{Transport: r})
					w.room("a")
					time.Sleep(99 * time.Second)
					require.Len(t, r.requests(), 1)
					time.Sleep(time.Minute)
					require.Len(t, r.took(), 1)
				})
			})
		}
	}
}

func TestGoneDisablesAndReplayRevives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		var off atomic.Bool
		off.Store(true)
		r := &receiver{t: t, behave: func(g received) answer {
			if off.Load() {
				return answer{status: 410}
			}
			return ok
		}}
		d := w.start(webhooks.Config{Transport: r})
		a := w.room("a", story...)
		time.Sleep(time.Minute)
		s := w.stats()
		require.Equal(t, log.EndpointDisabled, s.Endpoint.State)
		require.Contains(t, s.Endpoint.Reason, "410")
		require.Zero(t, s.Pending)
		require.EqualValues(t, 6, s.Dead)
		n := len(r.requests())
		w.room("b") // no delivery is recorded for it
		time.Sleep(time.Hour)
		require.Len(t, r.requests(), n)

		off.Store(false)
		require.NoError(t, d.Resume(ctx, s.Endpoint.ID))
		k, err := d.Replay(ctx, s.Endpoint.ID, log.Replay{State: log.DeliveryDead})
		require.NoError(t, err)
		require.Equal(t, 6, k)
		time.Sleep(time.Second)
		var took []int64
		for _, g := range r.took() {
			require.Equal(t, a.record.SID, g.event.RoomSID)
			took = append(took, g.event.RoomSeq)
		}
		require.Equal(t, []int64{1, 2, 3, 4, 5, 6}, took)
		k, err = d.Replay(ctx, s.Endpoint.ID, log.Replay{State: log.DeliveryDead, Missing: true})
		require.NoError(t, err)
		require.Equal(t, 1, k)
		time.Sleep(time.Second)
		w.requireAll(r.took())
	})
}

// TestGoneIsNotForgottenWhileTheDiskFails: the endpoint is disabled on disk, too, once it
// can be written.
func TestGoneIsNotForgottenWhileTheDiskFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := &faultyStore{Outbox: w.store}
		r := &receiver{t: t, behave: func(received) answer {
			s.fail.Store(true)
			return answer{status: 410}
		}}
		startOn(w, s, webhooks.Config{Transport: r})
		w.room("a", story...)
		time.Sleep(time.Minute)
		require.Len(t, r.requests(), 1)
		s.fail.Store(false)
		time.Sleep(time.Minute)
		got := w.stats()
		require.Equal(t, log.EndpointDisabled, got.Endpoint.State)
		require.Contains(t, got.Endpoint.Reason, "410")
		require.Zero(t, got.Pending)
		require.EqualValues(t, 6, got.Dead)
		require.Len(t, r.requests(), 1)
	})
}

func TestNobodyWaitsForASlowOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := &receiver{t: t, behave: func(g received) answer {
			if g.url == "http://slow.test/" || g.event.RoomName == "slow" {
				return answer{status: 200, after: 14 * time.Second}
			}
			return ok
		}}
		w.start(webhooks.Config{Transport: r, Endpoints: []webhooks.Endpoint{
			{URL: "http://slow.test/"}, {URL: "http://fast.test/"},
		}})
		w.room("slow", story...)
		for i := range 100 {
			w.room(fmt.Sprint("room", i))
		}
		time.Sleep(time.Second)
		n := 0
		for _, g := range r.took() {
			if g.url == "http://fast.test/" {
				n++
			}
		}
		require.Equal(t, 100, n)
		time.Sleep(5 * time.Minute)
		require.Len(t, r.took(), 212)
	})
}

func TestAnswerAfterTheTimeoutIsAFailureAndSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var n atomic.Int64
		r := &receiver{t: t, behave: func(received) answer {
			if n.Add(1) == 1 {
				return answer{status: 200, after: 16 * time.Second}
			}
			return ok
		}}
		w.start(webhooks.Config{Transport: r})
		w.room("a")
		time.Sleep(15*time.Second + time.Millisecond)
		require.Len(t, r.requests(), 1)
		time.Sleep(10 * time.Second)
		all := r.requests()
		require.Len(t, all, 2)
		require.Equal(t, all[0].event, all[1].event)
		require.Equal(t, w.stats().LastError, "no answer within 15s")
	})
}

// TestRestartSendsAgainWhatWasInFlight: the receiver accepted an event, but the process
// died before it knew.
func TestRestartSendsAgainWhatWasInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := &receiver{t: t, behave: func(received) answer { return answer{status: 200, after: 10 * time.Second} }}
		d := w.start(webhooks.Config{Transport: first})
		w.room("a", story...)
		w.room("b", story...)
		time.Sleep(time.Second)
		d.Close()
		require.Len(t, first.requests(), 2)
		require.Zero(t, w.stats().Failures, "that we stop is not the receiver's failure")
		second := &receiver{t: t}
		w.start(webhooks.Config{Transport: second})
		time.Sleep(time.Second)
		w.requireAll(second.took())
	})
}

func TestBarrierHoldsBackWhatTheReplicaDoesNotHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := &receiver{t: t}
		var replica, asked atomic.Int64
		w.start(webhooks.Config{Transport: r, Barrier: func(ctx context.Context, seq int64) error {
			asked.Add(1)
			if replica.Load() < seq {
				return errors.New("the replica cannot be reached")
			}
			return nil
		}})
		w.room("a", story...)
		time.Sleep(time.Hour)
		require.Empty(t, r.requests())
		require.Less(t, asked.Load(), int64(130), "tried at growing intervals")
		replica.Store(6)
		time.Sleep(time.Minute)
		require.Len(t, r.took(), 6)
		replica.Store(0)
		w.room("b")
		time.Sleep(time.Hour)
		require.Len(t, r.took(), 6)
		replica.Store(7)
		time.Sleep(time.Minute)
		w.requireAll(r.took())
	})
}

// TestNothingIsSentWhileAnotherMachineMaySend: neither new events nor older ones. A stop
// does not wait for it.
func TestNothingIsSentWhileAnotherMachineMaySend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := &receiver{t: t}
		var refused, asked atomic.Int64
		d := w.start(webhooks.Config{Transport: r, Allow: func() error {
			asked.Add(1)
			if refused.Load() > 0 {
				return errors.New("the lease is not sure")
			}
			return nil
		}})
		w.room("a", story...)
		time.Sleep(time.Second)
		require.Len(t, r.took(), 6)

		refused.Store(1)
		w.room("b", story...)
		asked.Store(0)
		time.Sleep(time.Minute)
		require.Len(t, r.requests(), 6)
		require.LessOrEqual(t, asked.Load(), int64(70), "asked about once a second")
		began := time.Now()
		require.NoError(t, d.Drain(t.Context()))
		require.Zero(t, time.Since(began), "it does not wait for what must not be sent")
		require.Len(t, r.requests(), 6)

		refused.Store(0)
		time.Sleep(2 * time.Second)
		w.requireAll(r.took())
	})
}

func TestTooMuchPendingIsGivenUpVisibly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := &receiver{t: t, behave: func(received) answer { return answer{status: 500} }}
		var text bytes.Buffer
		d := w.start(webhooks.Config{Transport: r, MaxPending: 10, Logger: slog.New(slog.NewTextHandler(&text, nil))})
		for i := range 30 {
			w.room(fmt.Sprint("room", i))
		}
		time.Sleep(2 * time.Minute)
		w.room("one more")
		time.Sleep(time.Minute + time.Second) // it is counted each minute
		s := w.stats()
		require.EqualValues(t, 10, s.Pending)
		require.EqualValues(t, 21, s.Dead)
		require.EqualValues(t, 22, s.OldestSeq, "the oldest go first")
		d.Close() // nothing is logged any more
		for _, given := range []string{"count=20", "count=1"} {
			require.Regexp(t, `level=WARN msg="webhooks: too much pends, gave up the oldest" endpoint=\S+ `+given+`\n`, text.String())
		}
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := &receiver{t: t, behave: func(g received) answer {
			if g.url == "http://down.test/" {
				return answer{err: errRefused}
			}
			return answer{status: 200, after: time.Second}
		}}
		d := w.start(webhooks.Config{Transport: r, Endpoints: []webhooks.Endpoint{
			{URL: "http://up.test/"}, {URL: "http://down.test/"}, {URL: "http://paused.test/"},
		}})
		require.NoError(t, d.Pause(context.Background(), 3, "a test"))
		w.room("a", story...)
		begin := time.Now()
		require.NoError(t, d.Drain(context.Background()))
		require.Equal(t, 6*time.Second, time.Since(begin).Round(time.Second))
		require.Len(t, r.took(), 6)

		w.room("b", story...)
		ctx, cancel := context.WithTimeout(context.Background(), 2500*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, d.Drain(ctx), context.DeadlineExceeded)
		d.Close()
		require.ErrorIs(t, d.Drain(context.Background()), webhooks.ErrClosed)
	})
}

// faultyStore is a store that counts its calls, and fails on demand.
type faultyStore struct {
	log.Outbox
	calls atomic.Int64
	fail  atomic.Bool
}

func (s *faultyStore) DueHeads(ctx context.Context, q log.DueQuery) ([]log.Delivery, error) {
	s.calls.Add(1)
	if s.fail.Load() {
		return nil, errors.New("disk full")
	}
	return s.Outbox.DueHeads(ctx, q)
}

func (s *faultyStore) NextDue(ctx context.Context, id, after int64) (int64, error) {
	s.calls.Add(1)
	if s.fail.Load() {
		return 0, errors.New("disk full")
	}
	return s.Outbox.NextDue(ctx, id, after)
}

func (s *faultyStore) FinishDeliveries(ctx context.Context, r []log.DeliveryResult) error {
	if s.fail.Load() {
		return errors.New("disk full")
	}
	return s.Outbox.FinishDeliveries(ctx, r)
}

func (s *faultyStore) SetEndpointState(ctx context.Context, id int64, state log.EndpointState, reason string) error {
	if s.fail.Load() {
		return errors.New("disk full")
	}
	return s.Outbox.SetEndpointState(ctx, id, state, reason)
}

func startOn(w *world, s log.Outbox, c webhooks.Config) *webhooks.Dispatcher {
	c = w.config(c)
	c.Store = s
	d := webhooks.New(c)
	require.NoError(w.t, d.Start(context.Background()))
	w.t.Cleanup(d.Close)
	return d
}

func TestNothingPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := &faultyStore{Outbox: w.store}
		r := &receiver{t: t}
		startOn(w, s, webhooks.Config{Transport: r})
		w.room("a", story...)
		time.Sleep(time.Minute)
		require.Len(t, r.took(), 6)
		before := s.calls.Load()
		time.Sleep(30 * 24 * time.Hour)
		require.Equal(t, before, s.calls.Load())
	})
}

// TestStoreThatFails: results that cannot be written are neither forgotten nor sent
// again, and the number of waiting ones is bounded.
func TestStoreThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := &faultyStore{Outbox: w.store}
		r := &receiver{t: t, behave: func(received) answer { return answer{status: 200, after: 10 * time.Millisecond} }}
		var log bytes.Buffer // read while no goroutine writes
		startOn(w, s, webhooks.Config{Transport: r, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		for i := range 1000 {
			w.room(fmt.Sprint("room", i), story[0])
			if i == 100 {
				s.fail.Store(true)
			}
		}
		time.Sleep(time.Minute)
		sent := len(r.requests())
		require.Less(t, sent, 700, "it goes on only so far")
		time.Sleep(time.Hour)
		require.Len(t, r.requests(), sent)
		require.Less(t, s.calls.Load(), int64(3800), "once a second")
		synctest.Wait()
		require.LessOrEqual(t, strings.Count(log.String(), "level=ERROR"), 2*61+2, "told once a minute")
		require.NotContains(t, log.String(), "again")
		s.fail.Store(false)
		time.Sleep(time.Minute)
		w.requireAll(r.took())
		require.Len(t, r.requests(), 2000, "each once")
		synctest.Wait()
		require.Contains(t, log.String(), "deliveries are recorded again")
	})
}

// TestResumeGivesTimeAnew: an endpoint that failed for long and was then paused and
// resumed is not given up at its next failure.
func TestResumeGivesTimeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var up atomic.Bool
		r := &receiver{t: t, behave: func(received) answer {
			if up.Load() {
				return ok
			}
			return answer{err: errRefused}
		}}
		d := w.start(webhooks.Config{Transport: r})
		w.room("a", story...)
		time.Sleep(time.Hour)
		require.NoError(t, d.Pause(context.Background(), 1, "it is broken"))
		time.Sleep(100 * time.Hour)
		require.NoError(t, d.Resume(context.Background(), 1))
		time.Sleep(time.Hour)
		require.Zero(t, w.stats().Dead)
		up.Store(true)
		time.Sleep(2 * time.Minute)
		w.requireAll(r.took())
	})
}

// TestRestartWhileDown: a process that starts while the endpoint is down sends the
// pending events as soon as the endpoint recovers, and not when their retries are due.
func TestRestartWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := &receiver{t: t, behave: func(received) answer { return answer{status: 500} }}
		c := webhooks.Config{Transport: r, Ordering: webhooks.Strict}
		d := w.start(c)
		w.room("a", story...)
		time.Sleep(20 * time.Hour)
		d.Close()
		r.behave = nil
		w.start(c)
		time.Sleep(time.Minute)
		w.requireAll(r.took())
	})
}
