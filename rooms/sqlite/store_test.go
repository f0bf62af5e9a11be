package sqlite

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"parlor/rooms"
	"parlor/rooms/guid"
	"parlor/rooms/log"
	"parlor/rooms/sqlite/sqlitetest"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
)

// openAt opens the database at path and closes it when the test ends.
func openAt(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Path: path, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	return s
}

func openNew(t testing.TB) *Store {
	t.Helper()
	return openAt(t, sqlitetest.Path(t))
}

// submit is Submit with a wait for the outcome.
func submit(t testing.TB, s *Store, c rooms.Change) (rooms.Outcome, error) {
	t.Helper()
	type answer struct {
		out rooms.Outcome
		err error
	}
	done := make(chan answer, 1)
	s.Submit(&c, func(out rooms.Outcome, err error) { done <- answer{out, err} })
	a := <-done
	return a.out, a.err
}

// newRoom is an empty open room with a deadline, as it is created.
func newRoom(name string, nowMs int64) rooms.Record {
	r := rooms.Record{
		SID: guid.New("RM_"), Name: name, CreatedMs: nowMs,
		EmptyTimeout: rooms.DefaultEmptyTimeout, DepartureTimeout: rooms.DefaultDepartureTimeout,
	}
	r.SetEmpty(nowMs)
	return r
}

func event(eventType string, r *rooms.Record, nowMs int64) log.Event {
	return log.New(&livekit.WebhookEvent{Event: eventType, Room: r.Info()}, time.UnixMilli(nowMs))
}

// create makes a room with its first event.
func create(t testing.TB, s *Store, name string, nowMs int64) rooms.Record {
	t.Helper()
	r := newRoom(name, nowMs)
	out, err := submit(t, s, rooms.Change{
		Kind: rooms.ChangeCreate, Room: r,
		Events: []log.Event{event(log.RoomStarted, &r, nowMs)},
	})
	require.NoError(t, err)
	require.True(t, out.Created)
	return out.Room
}

// tell writes n more events of a room.
func tell(t testing.TB, s *Store, r rooms.Record, nowMs int64, n int) rooms.Record {
	t.Helper()
	c := rooms.Change{Kind: rooms.ChangeUpdate, Room: r}
	for range n {
		c.Events = append(c.Events, event(log.TrackPublished, &r, nowMs))
	}
	out, err := submit(t, s, c)
	require.NoError(t, err)
	return out.Room
}

func end(t testing.TB, s *Store, r rooms.Record, nowMs int64) rooms.Record {
	t.Helper()
	r.EndedMs, r.EndReason = nowMs, rooms.EndClosed
	out, err := submit(t, s, rooms.Change{
		Kind: rooms.ChangeEnd, Room: r,
		Events: []log.Event{rooms.RoomFinished(&r, time.UnixMilli(nowMs))},
	})
	require.NoError(t, err)
	return out.Room
}

// requireSound checks the invariants of every database.
func requireSound(t testing.TB, s *Store) {
	t.Helper()
	ctx := context.Background()
	get := func(query string) (v string) {
		t.Helper()
		require.NoError(t, s.read.QueryRowContext(ctx, query).Scan(&v), query)
		return v
	}
	require.Equal(t, "ok", get("PRAGMA integrity_check"))
	require.Equal(t, get("SELECT event_seq FROM meta"), get("SELECT coalesce(max(seq), (SELECT event_seq FROM meta)) FROM event"))
	require.Equal(t, get("SELECT count(*) FROM event"), get("SELECT coalesce(max(seq) - min(seq) + 1, 0) FROM event"), "event seqs have gaps")
	require.Equal(t, get("SELECT count(*) || ' ' || (SELECT count(*) FROM room WHERE ended_ms > 0) FROM room WHERE ended_ms = 0"),
		get("SELECT open_rooms || ' ' || ended_rooms FROM meta"))
	require.Equal(t, get("SELECT coalesce(sum(num_participants), 0) FROM room WHERE ended_ms = 0"), get("SELECT people FROM meta"))
	require.Equal(t, "0", get(`SELECT count(*) FROM endpoint WHERE
		pending <> (SELECT count(*) FROM delivery WHERE endpoint_id = id AND state = 0) OR
		dead <> (SELECT count(*) FROM delivery WHERE endpoint_id = id AND state = 2)`), "endpoints' counters")
	require.Equal(t, "0", get(`SELECT count(*) FROM (SELECT room_sid, count(*) AS n, min(room_seq) AS low, max(room_seq) AS high
		FROM event WHERE room_sid <> '' GROUP BY room_sid) AS e
		WHERE n <> high - low + 1 OR high <> coalesce((SELECT seq FROM room WHERE sid = e.room_sid), high)`), "room seqs have gaps")
	// The rule in deliver.go, as a simple query:
	require.Equal(t, "0", get(`SELECT count(*) FROM delivery AS d JOIN endpoint AS p ON p.id = d.endpoint_id WHERE d.state = 0 AND
		(d.next_ms IS NOT NULL) = (d.room_sid <> '' AND EXISTS (SELECT 1 FROM delivery AS b WHERE b.endpoint_id = d.endpoint_id
			AND b.room_sid = d.room_sid AND b.event_seq < d.event_seq AND b.state = 0
			AND NOT (p.relax_after > 0 AND b.attempts >= p.relax_after)))`), "queues of deliveries")
}

func TestCreateUpdateEnd(t *testing.T) {
	s := openNew(t)
	r := newRoom("lobby", 1000)
	r.MaxParticipants, r.Metadata, r.TurnPassword = 7, `{"a":1}`, "secret"
	r.Config = rooms.RoomConfig{SyncStreams: true, EnabledCodecs: []string{"video/VP8"}, Tags: map[string]string{"k": "v"}, Locked: true}
	out, err := submit(t, s, rooms.Change{Kind: rooms.ChangeCreate, Room: r, Events: []log.Event{event(log.RoomStarted, &r, 1000)}})
	require.NoError(t, err)
	require.True(t, out.Created)
	want := r
	want.Version, want.Seq = 1, 1
	require.Equal(t, want, out.Room)

	got, err := s.FindOpen(t.Context(), "lobby")
	require.NoError(t, err)
	require.Equal(t, want, got)

	// A stale copy of counters that the store assigns does no harm.
	r.SetOccupied()
	r.NumParticipants, r.NumPublishers, r.ActiveRecording, r.EmptyTimeout = 1, 1, true, rooms.Never
	r.Seq, r.Version = 0, 0
	ev := event(log.ParticipantJoined, &r, 2000)
	out, err = submit(t, s, rooms.Change{Kind: rooms.ChangeUpdate, Room: r, Events: []log.Event{ev, event(log.TrackPublished, &r, 2001)}})
	require.NoError(t, err)
	require.False(t, out.Created)
	want = r
	want.Version, want.Seq = 2, 3
	want.NumJoined, want.PeakParticipants = 1, 1
	require.Equal(t, want, out.Room)
	got, err = s.GetBySID(t.Context(), r.SID)
	require.NoError(t, err)
	require.Equal(t, want, got)

	ended := end(t, s, got, 3000)
	_, err = s.FindOpen(t.Context(), "lobby")
	require.ErrorIs(t, err, rooms.ErrNoRoom)
	got, err = s.GetBySID(t.Context(), r.SID)
	require.NoError(t, err)
	require.Equal(t, ended, got)
	require.Equal(t, rooms.EndClosed, got.EndReason)

	for _, kind := range []rooms.ChangeKind{rooms.ChangeUpdate, rooms.ChangeEnd} {
		late := ended
		if kind == rooms.ChangeUpdate {
			late.EndedMs, late.EndReason = 0, ""
		}
		_, err = submit(t, s, rooms.Change{Kind: kind, Room: late, Events: []log.Event{event(log.TrackPublished, &late, 1)}})
		require.ErrorIs(t, err, rooms.ErrEnded)
	}

	again := create(t, s, "lobby", 4000)
	require.NotEqual(t, r.SID, again.SID)

	events, err := s.Events(t.Context(), log.Query{Limit: 10})
	require.NoError(t, err)
	require.Len(t, events, 5)
	for i, e := range events {
		require.EqualValues(t, i+1, e.Seq)
		require.EqualValues(t, 1, e.Epoch)
		require.Equal(t, "lobby", e.RoomName)
	}
	require.Equal(t, []int64{1, 2, 3, 4, 1}, []int64{events[0].RoomSeq, events[1].RoomSeq, events[2].RoomSeq, events[3].RoomSeq, events[4].RoomSeq})
	require.Equal(t, ev.Body, events[1].Body)
	require.Equal(t, ev.ID, events[1].ID)
	requireSound(t, s)
}

func TestCreateFindsTheOpenRoom(t *testing.T) {
	s := openNew(t)
	first := create(t, s, "lobby", 1000)
	r := newRoom("lobby", 2000)
	out, err := submit(t, s, rooms.Change{
		Kind: rooms.ChangeCreate, Room: r,
		Sessions: []rooms.Session{{SID: "PA_1", RoomSID: r.SID, Identity: "ann"}},
		Events:   []log.Event{event(log.RoomStarted, &r, 2000)},
	})
	require.NoError(t, err)
	require.False(t, out.Created)
	require.Equal(t, first, out.Room)
	present, err := s.Present(t.Context(), r.SID)
	require.NoError(t, err)
	require.Empty(t, present, "nothing of a create that finds a room is written")
	_, newest, err := s.SeqRange(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, newest)
}

func TestSessions(t *testing.T) {
	s := openNew(t)
	r := create(t, s, "lobby", 1000)
	ann := rooms.Session{SID: "PA_ann", RoomSID: r.SID, Identity: "ann", JoinedMs: 10, ActiveMs: 11, PermittedMs: 12, EditedMs: 13,
		Info: &livekit.ParticipantInfo{Sid: "PA_ann", Identity: "ann", Metadata: "m", Attributes: map[string]string{"a": "b"}}}
	bob := rooms.Session{SID: "PA_bob", RoomSID: r.SID, Identity: "bob", JoinedMs: 12, Info: &livekit.ParticipantInfo{Sid: "PA_bob"}}
	_, err := submit(t, s, rooms.Change{Kind: rooms.ChangeUpdate, Room: r, Sessions: []rooms.Session{bob, ann}})
	require.NoError(t, err)
	present, err := s.Present(t.Context(), r.SID)
	require.NoError(t, err)
	require.Len(t, present, 2)
	require.Equal(t, "PA_ann", present[0].SID)
	require.Equal(t, "b", present[0].Info.Attributes["a"])
	require.EqualValues(t, 12, present[0].PermittedMs)
	require.EqualValues(t, 13, present[0].EditedMs)
	require.EqualValues(t, 11, present[0].ActiveMs)

	occupied, err := s.Occupied(t.Context())
	require.NoError(t, err)
	require.Len(t, occupied, 1)
	require.Equal(t, r.SID, occupied[0].SID)

	// One change may end a session and begin another of the same identity, in any order.
	ann.LeftMs, ann.Reason = 20, livekit.DisconnectReason_DUPLICATE_IDENTITY
	ann2 := ann
	ann2.SID, ann2.LeftMs, ann2.Reason, ann2.JoinedMs = "PA_ann2", 0, 0, 20
	_, err = submit(t, s, rooms.Change{Kind: rooms.ChangeUpdate, Room: r, Sessions: []rooms.Session{ann2, ann}})
	require.NoError(t, err)

	// A change with two present sessions of an identity is refused as a whole.
	twin := ann2
	twin.SID = "PA_twin"
	_, err = submit(t, s, rooms.Change{Kind: rooms.ChangeUpdate, Room: r, Sessions: []rooms.Session{twin},
		Events: []log.Event{event(log.ParticipantJoined, &r, 1)}})
	require.Error(t, err)
	require.Equal(t, rooms.Internal, rooms.ErrorCode(err))

	bob.LeftMs, ann2.LeftMs = 30, 30
	_, err = submit(t, s, rooms.Change{Kind: rooms.ChangeUpdate, Room: r, Sessions: []rooms.Session{bob, ann2}})
	require.NoError(t, err)
	occupied, err = s.Occupied(t.Context())
	require.NoError(t, err)
	require.Empty(t, occupied)

	all, err := s.ListSessions(t.Context(), rooms.SessionQuery{RoomSID: r.SID, Limit: 2})
	require.NoError(t, err)
	require.Len(t, all, 2)
	rest, err := s.ListSessions(t.Context(), rooms.SessionQuery{RoomSID: r.SID, Limit: 2, AfterJoinedMs: all[1].JoinedMs, AfterSID: all[1].SID})
	require.NoError(t, err)
	require.Len(t, rest, 1)
	require.Equal(t, "PA_ann2", rest[0].SID)
	require.Equal(t, livekit.DisconnectReason_DUPLICATE_IDENTITY, all[0].Reason)
	requireSound(t, s)
}

func TestEndDue(t *testing.T) {
	s := openNew(t)
	var want []string
	for i := range 10 {
		r := newRoom(fmt.Sprintf("r%d", i), int64(1000+i))
		if i == 3 {
			r.EmptyTimeout = rooms.Never
			r.SetDeadline()
		}
		if i == 4 {
			r.JoinedOnce = true
			r.SetDeadline()
		}
		if i != 3 && i != 9 {
			want = append(want, r.SID)
		}
		_, err := submit(t, s, rooms.Change{Kind: rooms.ChangeCreate, Room: r})
		require.NoError(t, err)
	}
	next, err := s.NextDeadline(t.Context(), rooms.InstantOf(0))
	require.NoError(t, err)
	require.EqualValues(t, 1004+20_000, next)
	none, err := s.EndDue(t.Context(), rooms.InstantOf(next-1), 100)
	require.NoError(t, err)
	require.Empty(t, none)

	now := int64(1008 + 300_000) // r9's deadline is a millisecond later
	n, err := s.CountDue(t.Context(), rooms.InstantOf(now))
	require.NoError(t, err)
	require.EqualValues(t, 8, n)
	first, err := s.EndDue(t.Context(), rooms.InstantOf(now), 3)
	require.NoError(t, err)
	require.Len(t, first, 3)
	require.Equal(t, rooms.EndDepartureTimeout, first[0].EndReason, "the earliest deadline first")
	rest, err := s.EndDue(t.Context(), rooms.InstantOf(now), 100)
	require.NoError(t, err)
	var got []string
	for _, r := range append(first, rest...) {
		got = append(got, r.SID)
		require.Equal(t, now, r.EndedMs)
		stored, err := s.GetBySID(t.Context(), r.SID)
		require.NoError(t, err)
		require.Equal(t, r, stored)
	}
	require.ElementsMatch(t, want, got)
	events, err := s.Events(t.Context(), log.Query{Limit: 100, Types: []string{log.RoomFinished}})
	require.NoError(t, err)
	require.Len(t, events, 8)
	require.Contains(t, string(events[1].Body), "ROOM_END_IDLE_TIMEOUT")
	open, ended, err := s.CountRooms(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, open)
	require.EqualValues(t, 8, ended)
	next, err = s.NextDeadline(t.Context(), rooms.InstantOf(0))
	require.NoError(t, err)
	require.Equal(t, now+1, next)
	requireSound(t, s)
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub #1?%41.db") // a name that must be escaped in a URI
	s, err := Open(t.Context(), Config{Path: path})
	require.NoError(t, err)
	r := create(t, s, "lobby", 1000)
	meta, err := s.Meta(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.SetEpoch(t.Context(), 5))
	require.Equal(t, rooms.Precondition, rooms.ErrorCode(s.SetEpoch(t.Context(), 4)))
	require.NoError(t, s.Close(t.Context()))
	require.NoError(t, s.Close(t.Context()))
	require.FileExists(t, path)
	require.NoFileExists(t, path+"-wal", "closing checkpoints")

	_, err = submit(t, s, rooms.Change{Kind: rooms.ChangeUpdate, Room: r})
	require.ErrorIs(t, err, rooms.ErrStopping)
	_, err = s.FindOpen(t.Context(), "lobby")
	require.ErrorIs(t, err, rooms.ErrStopping)

	s = openAt(t, path)
	got, err := s.FindOpen(t.Context(), "lobby")
	require.NoError(t, err)
	require.Equal(t, r, got)
	create(t, s, "other", 2000)
	events, err := s.Events(t.Context(), log.Query{After: 1, Limit: 10})
	require.NoError(t, err)
	require.Len(t, events, 1)
	require.EqualValues(t, 2, events[0].Seq)
	require.EqualValues(t, 5, events[0].Epoch)
	again, err := s.Meta(t.Context())
	require.NoError(t, err)
	require.Equal(t, meta.DatabaseID, again.DatabaseID)
	require.EqualValues(t, 5, again.Epoch)
}
