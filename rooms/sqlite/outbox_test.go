package sqlite

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"parlor/rooms"
	"parlor/rooms/guid"
	"parlor/rooms/log"

	"github.com/stretchr/testify/require"
)

// endpoints configures one endpoint for each element.
func endpoints(t testing.TB, s *Store, configured ...log.Endpoint) []log.Endpoint {
	t.Helper()
	out, err := s.SyncEndpoints(t.Context(), configured, 1)
	require.NoError(t, err)
	return out
}

func due(t testing.TB, s *Store, q log.DueQuery) (seqs []int64) {
	t.Helper()
	if q.Limit == 0 {
		q.Limit = 100
	}
	heads, err := s.DueHeads(t.Context(), q)
	require.NoError(t, err)
	for _, d := range heads {
		require.Equal(t, d.Seq, d.Event.Seq)
		require.NotEmpty(t, d.Event.Body)
		seqs = append(seqs, d.Seq)
	}
	return seqs
}

func finish(t testing.TB, s *Store, r ...log.DeliveryResult) {
	t.Helper()
	require.NoError(t, s.FinishDeliveries(t.Context(), r))
}

func stats(t testing.TB, s *Store, id int64) log.EndpointStats {
	t.Helper()
	all, err := s.EndpointStats(t.Context())
	require.NoError(t, err)
	for _, v := range all {
		if v.Endpoint.ID == id {
			return v
		}
	}
	t.Fatalf("no endpoint %d", id)
	return log.EndpointStats{}
}

func TestDeliveriesAreWrittenWithEvents(t *testing.T) {
	s := openNew(t)
	e := endpoints(t, s,
		log.Endpoint{URL: "http://all", KeyID: "k"},
		log.Endpoint{URL: "http://starts", Include: []string{log.RoomStarted}},
		log.Endpoint{URL: "http://noends", Exclude: []string{log.RoomFinished}},
		log.Endpoint{URL: "http://paused"},
		log.Endpoint{URL: "http://off"})
	require.NoError(t, s.SetEndpointState(t.Context(), e[3].ID, log.EndpointPaused, "by hand"))
	require.NoError(t, s.SetEndpointState(t.Context(), e[4].ID, log.EndpointDisabled, "410"))
	r := tell(t, s, create(t, s, "lobby", 1000), 1001, 1)
	end(t, s, r, 1002)
	for i, want := range []int64{3, 1, 2, 3, 0} {
		require.Equal(t, want, stats(t, s, e[i].ID).Pending, e[i].URL)
	}
	require.Equal(t, []int64{1}, due(t, s, log.DueQuery{EndpointID: e[0].ID, NowMs: 5000}))
	requireSound(t, s)

	require.ErrorIs(t, s.SetEndpointState(t.Context(), 99, log.EndpointOn, ""), log.ErrNoEndpoint)
	require.Equal(t, rooms.Invalid, rooms.ErrorCode(s.SetEndpointState(t.Context(), e[0].ID, "asleep", "")))
}

func TestRoomsAreQueuesOfTheirOwn(t *testing.T) {
	s := openNew(t)
	e := endpoints(t, s, log.Endpoint{URL: "http://a"})[0]
	a := tell(t, s, create(t, s, "a", 1000), 1000, 2) // 1 2 3
	b := tell(t, s, create(t, s, "b", 1100), 1100, 1) // 4 5
	q := log.DueQuery{EndpointID: e.ID, NowMs: 1100}  // heads: 1, 4
	require.Equal(t, []int64{1, 4}, due(t, s, q))
	q.Exclude = []int64{1}
	require.Equal(t, []int64{4}, due(t, s, q), "what is in flight is left out")
	q.Exclude, q.Limit = []int64{1}, 1
	require.Equal(t, []int64{4}, due(t, s, q), "and does not use up the limit")
	q = log.DueQuery{EndpointID: e.ID, NowMs: 1099}
	require.Equal(t, []int64{1}, due(t, s, q))
	q = log.DueQuery{EndpointID: e.ID, NowMs: 9999, MaxSeq: 3}
	require.Equal(t, []int64{1}, due(t, s, q))
	next, err := s.NextDue(t.Context(), e.ID, 1000)
	require.NoError(t, err)
	require.EqualValues(t, 1100, next)

	// A failure delays only its own room.
	finish(t, s, log.DeliveryResult{EndpointID: e.ID, Seq: 1, State: log.DeliveryPending, NextMs: 6000, AtMs: 1200, Status: 500, Error: "oops"},
		log.DeliveryResult{EndpointID: e.ID, Seq: 4, State: log.DeliveryDelivered, AtMs: 1201, Status: 200})
	q = log.DueQuery{EndpointID: e.ID, NowMs: 2000}
	require.Equal(t, []int64{5}, due(t, s, q))
	q.NowMs = 6000
	require.Equal(t, []int64{5, 1}, due(t, s, q), "longest due first")
	next, err = s.NextDue(t.Context(), e.ID, 2000)
	require.NoError(t, err)
	require.EqualValues(t, 6000, next)
	st := stats(t, s, e.ID)
	require.Equal(t, []int64{4, 0, 1, 1, 1, 1000}, []int64{st.Pending, st.Dead, st.Delivered, st.Failures, st.OldestSeq, st.OldestPendingMs})
	require.Equal(t, "oops", st.LastError)
	require.Equal(t, 200, st.LastStatus)
	require.EqualValues(t, 1201, st.LastSuccessMs)
	require.Zero(t, st.Endpoint.FailSinceMs, "the last attempt succeeded")

	// After a dead letter the next event is due.
	finish(t, s, log.DeliveryResult{EndpointID: e.ID, Seq: 1, State: log.DeliveryDead, AtMs: 7000, Error: strings.Repeat("é", 400)})
	require.Equal(t, []int64{5, 2}, due(t, s, log.DueQuery{EndpointID: e.ID, NowMs: 7000}))
	require.EqualValues(t, 7000, stats(t, s, e.ID).Endpoint.FailSinceMs)
	dead, err := s.ListDeliveries(t.Context(), log.DeliveryQuery{EndpointID: e.ID, State: log.DeliveryDead, Limit: 10})
	require.NoError(t, err)
	require.Len(t, dead, 1)
	require.Equal(t, strings.Repeat("é", 250), dead[0].LastError)
	require.Equal(t, 2, dead[0].Attempts)
	require.Equal(t, "a", dead[0].Event.RoomName)
	require.Empty(t, dead[0].Event.Body)

	// The delivery succeeded after all.
	finish(t, s, log.DeliveryResult{EndpointID: e.ID, Seq: 1, State: log.DeliveryDelivered, AtMs: 7100, Status: 204})
	finish(t, s, log.DeliveryResult{EndpointID: e.ID, Seq: 1, State: log.DeliveryDead, AtMs: 7101})
	finish(t, s, log.DeliveryResult{EndpointID: e.ID, Seq: 777, State: log.DeliveryDelivered, AtMs: 7101})
	finish(t, s, log.DeliveryResult{EndpointID: 55, Seq: 1, State: log.DeliveryDelivered, AtMs: 7101})
	require.Zero(t, stats(t, s, e.ID).Dead)
	for _, seq := range []int64{2, 5} {
		finish(t, s, log.DeliveryResult{EndpointID: e.ID, Seq: seq, State: log.DeliveryDelivered, AtMs: 7200})
	}
	require.Equal(t, []int64{3}, due(t, s, log.DueQuery{EndpointID: e.ID, NowMs: 7200}))
	page, err := s.ListDeliveries(t.Context(), log.DeliveryQuery{EndpointID: e.ID, State: log.DeliveryDelivered, Limit: 2})
	require.NoError(t, err)
	require.EqualValues(t, []int64{5, 4}, []int64{page[0].Seq, page[1].Seq})
	page, err = s.ListDeliveries(t.Context(), log.DeliveryQuery{EndpointID: e.ID, State: log.DeliveryDelivered, BeforeSeq: 4, Limit: 5})
	require.NoError(t, err)
	require.EqualValues(t, []int64{2, 1}, []int64{page[0].Seq, page[1].Seq})
	_, _ = a, b
	requireSound(t, s)
}

func TestRelaxedOrder(t *testing.T) {
	s := openNew(t)
	e := endpoints(t, s, log.Endpoint{URL: "http://a", RelaxAfter: 2})[0]
	r := tell(t, s, create(t, s, "a", 1000), 1000, 2) // 1 2 3
	fail := func(seq int64) {
		finish(t, s, log.DeliveryResult{EndpointID: e.ID, Seq: seq, State: log.DeliveryPending, NextMs: 90_000, AtMs: 2000})
	}
	q := log.DueQuery{EndpointID: e.ID, NowMs: 3000}
	fail(1)
	require.Empty(t, due(t, s, q))
	fail(1)
	require.Equal(t, []int64{2}, due(t, s, q))
	fail(2)
	fail(2)
	require.Equal(t, []int64{3}, due(t, s, q))
	r = tell(t, s, r, 2500, 1) // 4 waits for 3
	require.Equal(t, []int64{3}, due(t, s, q))
	fail(3)
	fail(3)
	require.Equal(t, []int64{4}, due(t, s, q))
	fail(4)
	fail(4)
	tell(t, s, r, 2600, 1) // all before 5 have failed often
	require.Equal(t, []int64{5}, due(t, s, q))
	requireSound(t, s)

	// In strict order again, all but the first wait.
	e.RelaxAfter = 0
	endpoints(t, s, e)
	requireSound(t, s)
	q.NowMs = 100_000
	require.Equal(t, []int64{1}, due(t, s, q))
	e.RelaxAfter = 1
	endpoints(t, s, e)
	requireSound(t, s)
	require.ElementsMatch(t, []int64{1, 2, 3, 4, 5}, due(t, s, q))
}

func TestSyncEndpoints(t *testing.T) {
	s := openNew(t)
	e := endpoints(t, s, log.Endpoint{URL: "http://a", KeyID: "k1", Include: []string{"x", "y"}}, log.Endpoint{URL: "http://b"})
	require.Equal(t, []string{"x", "y"}, e[0].Include)
	require.Equal(t, log.EndpointOn, e[0].State)
	create(t, s, "lobby", 1000)
	require.NoError(t, s.SetEndpointState(t.Context(), e[0].ID, log.EndpointPaused, "by hand"))

	again := endpoints(t, s, log.Endpoint{URL: "http://c"}, log.Endpoint{URL: "http://a", KeyID: "k2"})
	require.Equal(t, e[0].ID, again[1].ID)
	require.Equal(t, "k2", again[1].KeyID)
	require.Empty(t, again[1].Include)
	require.Equal(t, log.EndpointPaused, again[1].State, "what an operator did stays")
	require.NotEqual(t, e[1].ID, again[0].ID)
	b := stats(t, s, e[1].ID)
	require.Equal(t, log.EndpointDisabled, b.Endpoint.State)
	require.Equal(t, log.ReasonRemoved, b.Endpoint.Reason)
	require.Equal(t, []int64{0, 1}, []int64{b.Pending, b.Dead}, "dead-lettered, to be seen")
	requireSound(t, s)

	back := endpoints(t, s, log.Endpoint{URL: "http://b"})
	require.Equal(t, e[1].ID, back[0].ID)
	require.Equal(t, log.EndpointOn, back[0].State)
	require.Empty(t, back[0].Reason)

	_, err := s.SyncEndpoints(t.Context(), []log.Endpoint{{URL: "http://z"}, {URL: "http://z"}}, 1)
	require.Equal(t, rooms.Invalid, rooms.ErrorCode(err))
}

func TestEndpointsOutliveTheProcess(t *testing.T) {
	path := t.TempDir() + "/parlor.db"
	s, err := Open(t.Context(), Config{Path: path})
	require.NoError(t, err)
	e := endpoints(t, s, log.Endpoint{URL: "http://a", Exclude: []string{log.RoomFinished}})[0]
	require.NoError(t, s.SetEndpointState(t.Context(), e.ID, log.EndpointPaused, "by hand"))
	require.NoError(t, s.Close(t.Context()))
	s = openAt(t, path)
	end(t, s, create(t, s, "lobby", 1), 2) // before the configuration is loaded
	st := stats(t, s, e.ID)
	require.EqualValues(t, 1, st.Pending)
	require.Equal(t, log.EndpointPaused, st.Endpoint.State)
}

func TestSendTest(t *testing.T) {
	s := openNew(t)
	e := endpoints(t, s, log.Endpoint{URL: "http://a", Include: []string{"x"}}, log.Endpoint{URL: "http://b"})
	r := newRoom("none", 1)
	first, err := s.SendTest(t.Context(), e[0].ID, event("test", &r, 1000))
	require.NoError(t, err)
	second, err := s.SendTest(t.Context(), e[0].ID, event("test", &r, 1000))
	require.NoError(t, err)
	require.Equal(t, []int64{first, second}, due(t, s, log.DueQuery{EndpointID: e[0].ID, NowMs: 1000}), "neither waits for the other")
	require.Empty(t, due(t, s, log.DueQuery{EndpointID: e[1].ID, NowMs: 1000}))
	finish(t, s, log.DeliveryResult{EndpointID: e[0].ID, Seq: first, State: log.DeliveryDelivered, AtMs: 1001})
	requireSound(t, s)
	_, err = s.SendTest(t.Context(), 99, event("test", &r, 1000))
	require.ErrorIs(t, err, log.ErrNoEndpoint)
	require.NoError(t, s.SetEndpointState(t.Context(), e[0].ID, log.EndpointDisabled, "410"))
	_, err = s.SendTest(t.Context(), e[0].ID, event("test", &r, 1000))
	require.Equal(t, rooms.Precondition, rooms.ErrorCode(err))
}

func TestBoundPending(t *testing.T) {
	s := openNew(t)
	e := endpoints(t, s, log.Endpoint{URL: "http://a"})[0]
	a := tell(t, s, create(t, s, "a", 1000), 1000, 3) // 1-4
	tell(t, s, create(t, s, "b", 1000), 1000, 3)      // 5-8
	tell(t, s, a, 1000, 1200)                         // 9-1208
	require.Equal(t, []int64{1, 5}, due(t, s, log.DueQuery{EndpointID: e.ID, NowMs: 1000}))
	n, err := s.BoundPending(t.Context(), e.ID, 1202, 2000, "too many pend")
	require.NoError(t, err)
	require.Equal(t, 6, n)
	requireSound(t, s)
	require.ElementsMatch(t, []int64{7, 9}, due(t, s, log.DueQuery{EndpointID: e.ID, NowMs: 2000}))
	n, err = s.BoundPending(t.Context(), e.ID, 1, 3000, "too many pend")
	require.NoError(t, err)
	require.Equal(t, 1201, n)
	requireSound(t, s)
	st := stats(t, s, e.ID)
	require.Equal(t, []int64{1, 1207, 1208}, []int64{st.Pending, st.Dead, st.OldestSeq})
	dead, err := s.ListDeliveries(t.Context(), log.DeliveryQuery{EndpointID: e.ID, State: log.DeliveryDead, Limit: 1})
	require.NoError(t, err)
	require.Equal(t, "too many pend", dead[0].LastError)
	n, err = s.BoundPending(t.Context(), e.ID, 1, 3000, "too many pend")
	require.NoError(t, err)
	require.Zero(t, n)
}

func TestReplay(t *testing.T) {
	s := openNew(t)
	e := endpoints(t, s, log.Endpoint{URL: "http://a"})[0]
	a := tell(t, s, create(t, s, "a", 1000), 1000, 2) // 1 2 3
	dead := func(seqs ...int64) {
		for _, seq := range seqs {
			finish(t, s, log.DeliveryResult{EndpointID: e.ID, Seq: seq, State: log.DeliveryDead, AtMs: 1500, Error: "gone"})
		}
	}
	dead(1, 2)
	q := log.DueQuery{EndpointID: e.ID, NowMs: 5000}
	require.Equal(t, []int64{3}, due(t, s, q))
	replay := func(r log.Replay) int {
		t.Helper()
		n, err := s.Replay(t.Context(), e.ID, r, 5000)
		require.NoError(t, err)
		requireSound(t, s)
		return n
	}
	// 3 is being delivered when 1 is replayed before it, and completes all the same.
	require.Equal(t, 1, replay(log.Replay{FromSeq: 1, ToSeq: 1, State: log.DeliveryDead}))
	require.Equal(t, []int64{1}, due(t, s, q))
	a = tell(t, s, a, 1600, 1) // 4
	finish(t, s, log.DeliveryResult{EndpointID: e.ID, Seq: 3, State: log.DeliveryDelivered, AtMs: 1700})
	requireSound(t, s)
	require.Equal(t, []int64{1}, due(t, s, q), "4 waits behind 1")
	require.Equal(t, 1, replay(log.Replay{State: log.DeliveryDead}))
	require.Zero(t, stats(t, s, e.ID).Dead)
	for _, seq := range []int64{1, 2, 4} {
		require.Equal(t, []int64{seq}, due(t, s, q))
		finish(t, s, log.DeliveryResult{EndpointID: e.ID, Seq: seq, State: log.DeliveryDelivered, AtMs: 1700})
	}
	require.Zero(t, replay(log.Replay{State: log.DeliveryDead}))

	// A delivered one, by its id. A replay of a pending one changes nothing.
	events, err := s.Events(t.Context(), log.Query{Limit: 10})
	require.NoError(t, err)
	byID := log.Replay{EventID: events[2].ID, State: log.DeliveryDelivered}
	require.Equal(t, 1, replay(byID))
	require.Zero(t, replay(byID))
	require.Equal(t, []int64{3}, due(t, s, q))
	_, err = s.Replay(t.Context(), e.ID, log.Replay{EventID: "EV_nil"}, 5000)
	require.Equal(t, rooms.NotFound, rooms.ErrorCode(err))

	// Events that the endpoint missed while it was disabled, and should get.
	require.NoError(t, s.SetEndpointState(t.Context(), e.ID, log.EndpointDisabled, "410"))
	a = tell(t, s, a, 2000, 700) // 5-704
	_, err = submit(t, s, rooms.Change{Kind: rooms.ChangeUpdate, Room: a, Events: []log.Event{event("participant_updated", &a, 2000)}})
	require.NoError(t, err)
	require.NoError(t, s.SetEndpointState(t.Context(), e.ID, log.EndpointOn, ""))
	require.Equal(t, 699, replay(log.Replay{Missing: true, SinceMs: 2000, FromSeq: 6, State: log.DeliveryDead}))
	require.Equal(t, 1+3, replay(log.Replay{Missing: true, AnyState: true}))
	require.Equal(t, []int64{1}, due(t, s, q))
	_, err = s.Replay(t.Context(), 99, log.Replay{}, 1)
	require.ErrorIs(t, err, log.ErrNoEndpoint)
}

func TestEventsByRoomAndType(t *testing.T) {
	s := openNew(t)
	a := tell(t, s, create(t, s, "a", 1000), 1000, 2) // 1 2 3
	create(t, s, "b", 1000)                           // 4
	end(t, s, a, 2000)                                // 5
	a2 := create(t, s, "a", 3000)                     // 6
	seqs := func(q log.Query) (out []int64) {
		t.Helper()
		if q.Limit == 0 {
			q.Limit = 100
		}
		events, err := s.Events(t.Context(), q)
		require.NoError(t, err)
		for _, e := range events {
			out = append(out, e.Seq)
		}
		return out
	}
	require.Equal(t, []int64{1, 2, 3, 4, 5, 6}, seqs(log.Query{}))
	require.Equal(t, []int64{3, 4}, seqs(log.Query{After: 2, Limit: 2}))
	require.Equal(t, []int64{1, 2, 3, 5, 6}, seqs(log.Query{Room: "a"}))
	require.Equal(t, []int64{1, 2, 3, 5}, seqs(log.Query{Room: a.SID}))
	require.Equal(t, []int64{6}, seqs(log.Query{Room: a2.SID}))
	require.Equal(t, []int64{1, 4, 5, 6}, seqs(log.Query{Types: []string{log.RoomStarted, log.RoomFinished}}))
	require.Equal(t, []int64{5}, seqs(log.Query{Room: "a", After: 1, Types: []string{log.RoomFinished}}))
	require.Empty(t, seqs(log.Query{Room: "nobody"}))
}

func TestPruneEvents(t *testing.T) {
	s := openNew(t)
	rangeIs := func(oldest, newest int64) {
		t.Helper()
		o, n, err := s.SeqRange(t.Context())
		require.NoError(t, err)
		require.Equal(t, []int64{oldest, newest}, []int64{o, n})
	}
	prune := func(olderThan, maxRows int64, batch int) int {
		t.Helper()
		n, err := s.PruneEvents(t.Context(), olderThan, maxRows, batch)
		require.NoError(t, err)
		requireSound(t, s)
		return n
	}
	rangeIs(0, 0)
	e := endpoints(t, s, log.Endpoint{URL: "http://a"}, log.Endpoint{URL: "http://b", Include: []string{"none"}})[0]
	r := tell(t, s, create(t, s, "a", 1000), 1000, 9) // 1-10
	r = tell(t, s, r, 2000, 10)                       // 11-20
	require.Zero(t, prune(1500, 0, 100), "1 pends")
	for seq := range int64(15) {
		state := log.DeliveryDelivered
		if seq%2 == 0 {
			state = log.DeliveryDead
		}
		finish(t, s, log.DeliveryResult{EndpointID: e.ID, Seq: seq + 1, State: state, AtMs: 1400})
	}
	require.Equal(t, 4, prune(1500, 0, 4))
	rangeIs(5, 20)
	require.Equal(t, 6, prune(1500, 0, 100), "10 are old")
	require.Zero(t, prune(1500, 10, 100))
	require.Equal(t, 2, prune(0, 8, 100), "8 may stay")
	require.Equal(t, 3, prune(0, 2, 100), "16 pends")
	rangeIs(16, 20)
	for seq := range int64(5) {
		finish(t, s, log.DeliveryResult{EndpointID: e.ID, Seq: 16 + seq, State: log.DeliveryDelivered, AtMs: 2000})
	}
	require.Equal(t, 5, prune(9000, 0, 100))
	rangeIs(21, 20)
	tell(t, s, r, 3000, 1)
	rangeIs(21, 21)
	requireSound(t, s)
}

// A dead letter is kept for the same time as other events, counted from when it was given
// up and not from its event, because the attempts may take longer than that time. Only
// the bound on the number removes it sooner.
func TestPruneKeepsNewDeadLetters(t *testing.T) {
	s := openNew(t)
	e := endpoints(t, s, log.Endpoint{URL: "http://a"})[0]
	tell(t, s, create(t, s, "a", 1000), 1000, 4) // 1-5
	for seq := range int64(5) {
		state := log.DeliveryDelivered
		if seq == 2 {
			state = log.DeliveryDead
		}
		finish(t, s, log.DeliveryResult{EndpointID: e.ID, Seq: seq + 1, State: state, AtMs: 9000})
	}
	prune := func(olderThan, maxRows int64) int {
		n, err := s.PruneEvents(t.Context(), olderThan, maxRows, 100)
		require.NoError(t, err)
		requireSound(t, s)
		return n
	}
	require.Equal(t, 2, prune(5000, 0))
	require.EqualValues(t, 1, stats(t, s, e.ID).Dead)
	n, err := s.Replay(t.Context(), e.ID, log.Replay{State: log.DeliveryDead}, 9001)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	finish(t, s, log.DeliveryResult{EndpointID: e.ID, Seq: 3, State: log.DeliveryDead, AtMs: 9002})
	require.Zero(t, prune(9002, 0))
	require.Equal(t, 1, prune(0, 2), "there may be 2")
	require.Zero(t, stats(t, s, e.ID).Dead)
	require.Equal(t, 2, prune(9003, 0))
}

// Operations in a random order: the rule in deliver.go holds, counters are exact, and the
// due deliveries agree with a slow query over all rows.
func TestOutboxAtRandom(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			s := openNew(t)
			es := endpoints(t, s, log.Endpoint{URL: "http://strict"}, log.Endpoint{URL: "http://relaxed", RelaxAfter: 2})
			var open []rooms.Record
			now := int64(1000)
			for step := range 250 {
				now += rnd.Int64N(50)
				e := es[rnd.IntN(len(es))]
				switch n := rnd.IntN(20); {
				case n < 2 || len(open) == 0:
					open = append(open, create(t, s, guid.New("n"), now))
				case n < 7:
					i := rnd.IntN(len(open))
					open[i] = tell(t, s, open[i], now, 1+rnd.IntN(3))
				case n < 8:
					i := rnd.IntN(len(open))
					end(t, s, open[i], now)
					open = append(open[:i], open[i+1:]...)
				case n < 16:
					deliverSome(t, s, rnd, e.ID, now)
				case n < 17:
					from := rnd.Int64N(40)
					_, err := s.Replay(t.Context(), e.ID, log.Replay{FromSeq: from, ToSeq: from + rnd.Int64N(60), AnyState: rnd.IntN(2) == 0, State: log.DeliveryDead, Missing: true}, now)
					if rooms.ErrorCode(err) != rooms.Precondition { // the endpoint is disabled
						require.NoError(t, err)
					}
				case n < 18:
					_, err := s.BoundPending(t.Context(), e.ID, rnd.Int64N(30), now, "bound")
					require.NoError(t, err)
				case n < 19:
					states := []log.EndpointState{log.EndpointOn, log.EndpointOn, log.EndpointPaused, log.EndpointDisabled}
					require.NoError(t, s.SetEndpointState(t.Context(), e.ID, states[rnd.IntN(4)], "at random"))
				default:
					_, err := s.PruneEvents(t.Context(), now-500, 60, 20)
					require.NoError(t, err)
				}
				if step%10 == 0 {
					requireSound(t, s)
				}
			}
			requireSound(t, s)
		})
	}
}

// deliverSome attempts some due deliveries, and reports random results.
func deliverSome(t *testing.T, s *Store, rnd *rand.Rand, endpointID, now int64) {
	t.Helper()
	heads, err := s.DueHeads(t.Context(), log.DueQuery{EndpointID: endpointID, NowMs: now, Limit: 1 + rnd.IntN(8)})
	require.NoError(t, err)
	var results []log.DeliveryResult
	for _, d := range heads {
		r := log.DeliveryResult{EndpointID: endpointID, Seq: d.Seq, AtMs: now, Status: 200, State: log.DeliveryDelivered}
		switch rnd.IntN(4) {
		case 0:
			r.State, r.NextMs, r.Status, r.Error = log.DeliveryPending, now+rnd.Int64N(100), 500, errors.ErrUnsupported.Error()
		case 1:
			r.State, r.Error = log.DeliveryDead, "gave up"
		}
		results = append(results, r)
	}
	finish(t, s, results...)
}
