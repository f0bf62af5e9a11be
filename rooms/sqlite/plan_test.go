package sqlite

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"parlor/rooms"
	"parlor/rooms/log"

	"github.com/stretchr/testify/require"
)

// exercise makes every statement of the package be prepared at least once.
func exercise(t *testing.T, s *Store) {
	t.Helper()
	ctx := t.Context()
	e := endpoints(t, s, log.Endpoint{URL: "http://a"}, log.Endpoint{URL: "http://b"})
	e[0].RelaxAfter = 1
	e = endpoints(t, s, e[0])
	r := create(t, s, "a", 1000)
	create(t, s, "b", 1000)
	require.NoError(t, s.SetEpoch(ctx, 2))
	_, err := submit(t, s, rooms.Change{Kind: rooms.ChangeCreate, Room: newRoom("a", 1)})
	require.NoError(t, err)
	_, err = submit(t, s, rooms.Change{Kind: rooms.ChangeUpdate, Room: r, Sessions: []rooms.Session{{SID: "PA_1", RoomSID: r.SID}},
		Blobs: []rooms.DataBlob{{Session: "PA_1", Key: []byte("a"), Contents: []byte("a")}, {Session: "PA_1", Key: []byte("b")}},
		Hosts: []rooms.HostDecision{{Identity: "a", Host: true}}, NoChat: true, Chat: []rooms.ChatChange{
			{Message: rooms.ChatMessage{ID: "a", Text: "a"}}, {Message: rooms.ChatMessage{ID: "a", Text: "b"}, Edit: true}, {Message: rooms.ChatMessage{ID: "a"}, Edit: true},
		}})
	require.NoError(t, err)
	r = tell(t, s, r, 1000, 3)
	for seq, state := range []log.DeliveryState{log.DeliveryDelivered, log.DeliveryDead, log.DeliveryPending} {
		finish(t, s, log.DeliveryResult{EndpointID: e[0].ID, Seq: int64(seq + 1), State: state})
		finish(t, s, log.DeliveryResult{EndpointID: e[0].ID, Seq: int64(seq + 1), State: log.DeliveryDelivered})
	}
	must := func(_ any, err error) {
		t.Helper()
		require.NoError(t, err)
	}
	must(s.SendTest(ctx, e[0].ID, event("test", &r, 1)))
	must(s.BoundPending(ctx, e[0].ID, 0, 1, ""))
	for _, p := range []log.Replay{{EventID: "EV", State: 1}, {State: log.DeliveryDead}, {AnyState: true}} {
		if _, err := s.Replay(ctx, e[0].ID, p, 1); rooms.ErrorCode(err) != rooms.NotFound {
			require.NoError(t, err)
		}
	}
	must(s.DueHeads(ctx, log.DueQuery{EndpointID: 1, Limit: 1}))
	must(s.DueHeads(ctx, log.DueQuery{EndpointID: 1, Limit: 1, MaxSeq: 1}))
	must(s.NextDue(ctx, 1, 1))
	must(s.PullIn(ctx, 1, 1, 1))
	must(s.ListDeliveries(ctx, log.DeliveryQuery{BeforeSeq: 1}))
	must(s.ListDeliveries(ctx, log.DeliveryQuery{}))
	must(s.EndpointStats(ctx))
	must(s.ListJobs(ctx, rooms.JobCursor{}, 1))
	must(s.ListDispatches(ctx, rooms.DispatchCursor{}, 1))
	for _, q := range []log.Query{{}, {Room: "a"}, {Room: r.SID}, {Types: []string{"x"}}, {Room: r.SID, Types: []string{"x"}}} {
		must(s.Events(ctx, q))
	}
	noted := make(chan error, 1)
	s.NoteDeed(log.Deed{Room: "a"}, func(err error) { noted <- err })
	require.NoError(t, <-noted)
	for _, q := range []log.DeedQuery{{}, {Room: "a"}, {Dashboard: true}, {Room: "a", Dashboard: true}} {
		must(s.Deeds(ctx, q))
	}
	require.NoError(t, s.SaveReply(ctx, log.Reply{}))
	_, _, err = s.FindReply(ctx, [32]byte{}, 1)
	require.NoError(t, err)
	_, _, err = s.SeqRange(ctx)
	require.NoError(t, err)
	end(t, s, r, 1001)
	must(s.BoundPending(ctx, e[0].ID, 0, 1, ""))
	must(s.PruneEvents(ctx, 1<<60, 1, 1))
	must(s.EndDue(ctx, rooms.InstantOf(1<<60), 5))
	must(s.PruneHistory(ctx, 1<<60, 1))
	_, _, err = s.PruneSessions(ctx, 1<<60, rooms.RoomCursor{}, 1)
	require.NoError(t, err)
	_, err = s.pruneSessions(ctx, "", 1, 1)
	require.NoError(t, err)
	_, _, err = s.PruneAgents(ctx, rooms.RoomCursor{}, 1)
	require.NoError(t, err)
	_, err = s.pruneAgents(ctx, "", 1)
	require.NoError(t, err)
	for _, ns := range []string{"a", "b"} {
		require.NoError(t, s.SetAgentKind(ctx, rooms.AgentKind{Namespace: ns}, true))
	}
	must(s.AgentKinds(ctx, 1))
	require.NoError(t, s.SetAgentKind(ctx, rooms.AgentKind{Namespace: "a"}, false))
	must(s.NextDeadline(ctx, rooms.InstantOf(0)))
	must(s.CountDue(ctx, rooms.InstantOf(1)))
	apart := rooms.Instant{Ms: 5000, OldMs: 1 << 60, SinceMs: 1}
	must(s.NextDeadline(ctx, apart))
	must(s.CountDue(ctx, apart))
	must(s.EndDue(ctx, apart, 5))
	_, _, err = s.Clock(ctx)
	require.NoError(t, err)
	require.NoError(t, s.SetClock(ctx, rooms.ClockState{}, &rooms.ClockJump{ByMs: 1, BeforeMs: 1}))
	must(s.Occupied(ctx))
	must(s.ListOpen(ctx, nil))
	must(s.ListOpen(ctx, []string{"a"}))
	must(s.Present(ctx, r.SID))
	must(s.HostDecisions(ctx, r.SID))
	_, _, err = s.HostDecided(ctx, "a", "a")
	require.NoError(t, err)
	must(s.Chat(ctx, r.SID))
	must(s.ListSessions(ctx, rooms.SessionQuery{}))
	must(s.ListPresent(ctx, rooms.PresenceQuery{}))
	_, _, err = s.CountRooms(ctx)
	require.NoError(t, err)
	for _, state := range []rooms.RoomState{rooms.RoomsOpen, rooms.RoomsEnded} {
		for _, q := range []rooms.RoomQuery{{}, {Name: "a"}, {NamePrefix: "a"}} {
			for _, descending := range []bool{false, true} {
				for _, after := range []rooms.RoomCursor{{}, {Name: "a", CreatedMs: 1, SID: "x"}} {
					q.State, q.Descending, q.After = state, descending, after
					must(s.ListRooms(ctx, q))
					q.CreatedFromMs, q.CreatedBeforeMs = 1, 5
					must(s.ListRooms(ctx, q))
				}
			}
		}
	}
	must(s.Meta(ctx))
	require.NoError(t, s.SetBan(ctx, rooms.Ban{}))
	must(s.ClearBan(ctx, "", ""))
	must(s.Bans(ctx, "", "", 1))
	require.NoError(t, s.SetRevocation(ctx, "", "", 1))
	must(s.Revocations(ctx, "", "", 1))
	must(s.ClearRevocation(ctx, "", ""))
	_, _, err = s.Admission(ctx, "", "")
	require.NoError(t, err)
	must(s.PruneModeration(ctx, 1, 1))
	require.NoError(t, s.AddInvitation(ctx, rooms.Invitation{ID: "IN_1", RoomName: "a"}, 10))
	must(s.FindInvitation(ctx, "IN_1"))
	must(s.ListInvitations(ctx, "", "", 1))
	must(s.ListInvitations(ctx, "a", "", 1))
	must(s.UseInvitation(ctx, "IN_1", 1))
	require.NoError(t, s.RevokeInvitation(ctx, "IN_1", 1))
	must(s.PruneInvitations(ctx, 1))
	id, err := s.NoteStart(ctx, log.Start{})
	require.NoError(t, err)
	require.NoError(t, s.NoteStop(ctx, id, 1, 1))
	must(s.Starts(ctx, 0, 1))
	must(s.Hours(ctx, 0, 1<<60, 10))
	must(s.PruneHours(ctx, 1, 1))
}

// No statement scans a table, or sorts rows that an index has in order: a million rooms
// cost no more than a few. And none is parsed again each time it runs.
func TestNoStatementScans(t *testing.T) {
	s := openNew(t)
	exercise(t, s)
	queries := make(map[string]bool)
	s.mu.Lock()
	for q := range s.statements {
		queries[q] = true
	}
	s.mu.Unlock()
	require.NoError(t, s.Between(t.Context(), func(context.Context) error {
		for q := range s.writer.conn.statements {
			queries[q] = true
		}
		return nil
	}))
	require.Greater(t, len(queries), 80)
	// Allowed scans: small tables; rooms in order until a page is full; the participants
	// that are present in any room.
	allowed := regexp.MustCompile(`SCAN (meta|endpoint|agent_kind|p|json_each|CONSTANT ROW|room USING INDEX room_(open|ended)|session USING COVERING INDEX session_present|job USING COVERING INDEX job_running|room USING (COVERING )?INDEX room_divided|job USING (COVERING )?INDEX job_due)\b|SCAN \(subquery-\d+\)$`)
	// Allowed sorts: the few participants in a room, the few named rooms, and the
	// endpoints.
	sorted := regexp.MustCompile(`session INDEXED BY session_present|json_each\(\?\)\) ORDER BY created_ms, sid$|FROM endpoint\)|DISTINCT`)
	for q := range queries {
		if !regexp.MustCompile(`^\s*(SELECT|INSERT|UPDATE|DELETE)`).MatchString(q) {
			continue
		}
		// SQLite plans a statement by the value of a bare parameter there, and so parses it
		// again for each new value. It does not look into an expression.
		require.NotRegexp(t, `(LIMIT|OFFSET) \?`, q)
		rs, err := s.read.Query("EXPLAIN QUERY PLAN "+q, make([]any, 30)...) // the values have no effect
		require.NoError(t, err, q)
		var plan []string
		for rs.Next() {
			var id, parent, unused int
			var detail string
			require.NoError(t, rs.Scan(&id, &parent, &unused, &detail))
			plan = append(plan, detail)
		}
		require.NoError(t, rs.Err())
		for _, line := range plan {
			if strings.HasPrefix(line, "SCAN") {
				require.Regexp(t, allowed, line, "%s\n%s", q, strings.Join(plan, "\n"))
			}
			if strings.Contains(line, "TEMP B-TREE") {
				require.Regexp(t, sorted, q, strings.Join(plan, "\n"))
			}
		}
	}
}

// Every time is a Unix time in milliseconds: the driver must not write a time as text.
func TestTimesAreIntegers(t *testing.T) {
	s := openNew(t)
	create(t, s, "a", time.Now().UnixMilli())
	m, err := s.Meta(t.Context())
	require.NoError(t, err)
	require.InDelta(t, time.Now().UnixMilli(), m.CreatedMs, 60_000)
}
