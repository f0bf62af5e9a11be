package sqlite

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"parlor/rooms"
	"parlor/rooms/guid"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
)

// populate makes rooms of a few names, most of them ended, some created at the same time.
func populate(t *testing.T, s *Store) (all []rooms.Record) {
	t.Helper()
	names := []string{"a", "ab", "abc", "b", "ba", "ä", "z\xff", "zz"}
	for i := range 60 {
		name := names[i%len(names)]
		now := int64(1000 + i/3)
		for j := range all {
			if all[j].Name == name && all[j].Open() {
				all[j] = end(t, s, all[j], now)
			}
		}
		all = append(all, create(t, s, name, now))
	}
	for i := range 20 {
		all = append(all, create(t, s, fmt.Sprint("ab-", i), int64(1100+i/4)))
	}
	return all
}

// slowList is a simple implementation of ListRooms.
func slowList(all []rooms.Record, q rooms.RoomQuery) (out []rooms.Record) {
	for _, r := range all {
		switch {
		case q.State == rooms.RoomsOpen && !r.Open(), q.State == rooms.RoomsEnded && r.Open(),
			q.Name != "" && r.Name != q.Name, !strings.HasPrefix(r.Name, q.NamePrefix),
			q.CreatedFromMs != 0 && r.CreatedMs < q.CreatedFromMs,
			q.CreatedBeforeMs != 0 && r.CreatedMs >= q.CreatedBeforeMs:
		default:
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b rooms.Record) int {
		byName := 0
		if q.NamePrefix != "" {
			byName = cmp.Compare(a.Name, b.Name)
		}
		c := cmp.Or(byName, cmp.Compare(a.CreatedMs, b.CreatedMs), cmp.Compare(a.SID, b.SID))
		if q.Descending {
			return -c
		}
		return c
	})
	return out
}

func TestListRooms(t *testing.T) {
	s := openNew(t)
	all := populate(t, s)
	for _, state := range []rooms.RoomState{rooms.RoomsOpen, rooms.RoomsEnded, rooms.RoomsAll} {
		for _, name := range []rooms.RoomQuery{{}, {Name: "ab"}, {NamePrefix: "ab"}, {NamePrefix: "z\xff"}, {NamePrefix: "a"}, {Name: "nobody"}} {
			for _, bounds := range [][2]int64{{}, {1005, 0}, {0, 1012}, {1005, 1102}} {
				for _, descending := range []bool{false, true} {
					q := name
					q.State, q.Descending, q.Limit = state, descending, 7
					q.CreatedFromMs, q.CreatedBeforeMs = bounds[0], bounds[1]
					want := slowList(all, q)
					what := fmt.Sprintf("%+v", q)
					var got []rooms.Record
					for {
						page, err := s.ListRooms(t.Context(), q)
						require.NoError(t, err, what)
						got = append(got, page...)
						if len(page) < q.Limit {
							break
						}
						q.After = page[len(page)-1].Cursor()
					}
					require.Equal(t, want, got, what)
				}
			}
		}
	}
	none, err := s.ListRooms(t.Context(), rooms.RoomQuery{})
	require.NoError(t, err)
	require.Empty(t, none, "no limit, no rooms")
}

// Pages lack no room and show none twice while rooms are created and end.
func TestPagesUnderChange(t *testing.T) {
	s := openNew(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	var stay []string
	var passing []rooms.Record
	for i := range 60 {
		r := create(t, s, guid.New("n"), int64(1000+i))
		if i%2 == 0 {
			stay = append(stay, r.SID)
		} else {
			passing = append(passing, r)
		}
	}
	var got []string
	q := rooms.RoomQuery{Limit: 5}
	for {
		page, err := s.ListRooms(t.Context(), q)
		require.NoError(t, err)
		for _, r := range page {
			if slices.Contains(stay, r.SID) {
				got = append(got, r.SID)
			}
		}
		if len(page) < q.Limit {
			break
		}
		q.After = page[len(page)-1].Cursor()
		i := rnd.IntN(len(passing))
		end(t, s, passing[i], 2000)
		passing = slices.Delete(passing, i, i+1)
		passing = append(passing, create(t, s, guid.New("n"), 1000+rnd.Int64N(60)))
	}
	require.Equal(t, stay, got)
}

func TestListOpenByName(t *testing.T) {
	s := openNew(t)
	populate(t, s)
	all, err := s.ListOpen(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, all, 28)
	some, err := s.ListOpen(t.Context(), []string{"ab", "zz", "nobody", `q"uote`})
	require.NoError(t, err)
	require.Len(t, some, 2)
}

func TestPruneHistory(t *testing.T) {
	s := openNew(t)
	all := populate(t, s)
	_, ended, err := s.CountRooms(t.Context())
	require.NoError(t, err)
	gone := all[0]
	require.False(t, gone.Open())
	n, err := s.PruneHistory(t.Context(), gone.EndedMs, 100)
	require.NoError(t, err)
	require.Zero(t, n, "ended before, not at")
	total := 0
	for {
		n, err := s.PruneHistory(t.Context(), 1010, 4)
		require.NoError(t, err)
		total += n
		if n < 4 {
			break
		}
	}
	require.Positive(t, total)
	open, left, err := s.CountRooms(t.Context())
	require.NoError(t, err)
	require.Equal(t, ended, left+int64(total))
	require.EqualValues(t, 28, open)
	_, err = s.GetBySID(t.Context(), gone.SID)
	require.ErrorIs(t, err, rooms.ErrNoRoom)
	requireSound(t, s)
}

func TestPruneHistoryTakesSessions(t *testing.T) {
	s := openNew(t)
	r := create(t, s, "a", 1)
	r.EndedMs, r.EndReason = 5, rooms.EndClosed
	_, err := submit(t, s, rooms.Change{Kind: rooms.ChangeEnd, Room: r, Sessions: []rooms.Session{{SID: "PA_1", RoomSID: r.SID, Identity: "x", JoinedMs: 2, LeftMs: 5}}})
	require.NoError(t, err)
	q := rooms.SessionQuery{RoomSID: r.SID, Limit: 5}
	v, err := s.ListSessions(t.Context(), q)
	require.NoError(t, err)
	require.Len(t, v, 1)
	_, err = s.PruneHistory(t.Context(), 6, 10)
	require.NoError(t, err)
	v, err = s.ListSessions(t.Context(), q)
	require.NoError(t, err)
	require.Empty(t, v)
}

// TestPruneHistoryInBatches: a room with many sessions, jobs and dispatches is removed in
// several calls, and exists until the last of them is gone.
func TestPruneHistoryInBatches(t *testing.T) {
	s := openNew(t)
	big, small := create(t, s, "big", 1), create(t, s, "small", 1)
	const many = 25
	for _, r := range []*rooms.Record{&big, &small} {
		r.EndedMs, r.EndReason = 5, rooms.EndClosed
	}
	c := rooms.Change{Kind: rooms.ChangeEnd, Room: big}
	for i := range many {
		c.Sessions = append(c.Sessions, rooms.Session{SID: fmt.Sprint("PA_", i), RoomSID: big.SID, Identity: fmt.Sprint(i), JoinedMs: 2, LeftMs: 5})
		c.Jobs = append(c.Jobs, agentJob(big, i, 5))
		c.Dispatches = append(c.Dispatches, rooms.Dispatch{ID: fmt.Sprint("AD_", i), RoomSID: big.SID, Info: &livekit.AgentDispatch{}})
	}
	_, err := submit(t, s, c)
	require.NoError(t, err)
	_, err = submit(t, s, rooms.Change{Kind: rooms.ChangeEnd, Room: small})
	require.NoError(t, err)
	rows := func() (n int) {
		require.NoError(t, s.read.QueryRow(`SELECT (SELECT count(*) FROM session) + (SELECT count(*) FROM job) + (SELECT count(*) FROM dispatch)`).Scan(&n))
		return n
	}
	left := rows()
	require.Equal(t, 3*many, left)
	for {
		n, err := s.PruneHistory(t.Context(), 6, 10)
		require.NoError(t, err)
		require.LessOrEqual(t, n, 10)
		v := rows()
		require.LessOrEqual(t, left-v, 10)
		if left = v; left > 0 {
			_, err := s.GetBySID(t.Context(), big.SID)
			require.NoError(t, err)
		}
		if n < 10 {
			break
		}
	}
	require.Zero(t, left)
	_, ended, err := s.CountRooms(t.Context())
	require.NoError(t, err)
	require.Zero(t, ended)
	requireSound(t, s)
}

// agentJob is the nth job of a room; endedMs = 0 if it has not ended.
func agentJob(r rooms.Record, n int, endedMs int64) rooms.Job {
	return rooms.Job{ID: fmt.Sprintf("AJ_%s_%04d", r.Name, n), RoomSID: r.SID, CreatedMs: int64(10 + n), EndedMs: endedMs, Info: &livekit.Job{}}
}

// TestPruneAgents of rooms that never end: rows that are not used any more are deleted,
// and the results for the room and for clients stay the same.
func TestPruneAgents(t *testing.T) {
	s := openNew(t)
	ctx := t.Context()
	const over = 30
	all := []rooms.Record{create(t, s, "busy", 1), create(t, s, "quiet", 2)}
	for i, r := range all {
		c := rooms.Change{Kind: rooms.ChangeUpdate, Room: r}
		for n := range rooms.MostJobs + over*(1-i) {
			c.Jobs = append(c.Jobs, agentJob(r, n, 5000))
		}
		c.Jobs[3].EndedMs = 0 // it never ends
		for n := range over {
			d := rooms.Dispatch{ID: fmt.Sprint("AD_", r.Name, n), RoomSID: r.SID, CreatedMs: int64(n), DeletedMs: 7, Info: &livekit.AgentDispatch{}}
			if n%10 == 0 {
				d.DeletedMs = 0
			}
			c.Dispatches = append(c.Dispatches, d)
		}
		_, err := submit(t, s, c)
		require.NoError(t, err)
	}
	read := func() (ids []string) {
		for _, r := range all {
			jobs, err := s.Jobs(ctx, r.SID, rooms.MostJobs)
			require.NoError(t, err)
			for i := range jobs {
				ids = append(ids, jobs[i].ID)
			}
			dispatches, err := s.Dispatches(ctx, r.SID)
			require.NoError(t, err)
			require.Len(t, dispatches, over/10)
			for i := range dispatches {
				ids = append(ids, dispatches[i].ID)
			}
		}
		return ids
	}
	before := read()
	total, at := 0, rooms.RoomCursor{}
	for {
		n, next, err := s.PruneAgents(ctx, at, 10)
		require.NoError(t, err)
		require.LessOrEqual(t, n, 10)
		total, at = total+n, next
		if n < 10 && next == (rooms.RoomCursor{}) {
			break
		}
	}
	require.Equal(t, over-1+2*(over-over/10), total, "the jobs but for the newest and the one that runs, and the dispatches")
	require.Equal(t, before, read())
	var jobs, dispatches int
	require.NoError(t, s.read.QueryRow(`SELECT (SELECT count(*) FROM job), (SELECT count(*) FROM dispatch)`).Scan(&jobs, &dispatches))
	require.Equal(t, 2*rooms.MostJobs+1, jobs)
	require.Equal(t, 2*over/10, dispatches)
	requireSound(t, s)
}

// TestPruneSessions of a room that never ends: sessions that ended long ago are deleted,
// except for those that the room needs when a participant returns.
func TestPruneSessions(t *testing.T) {
	s := openNew(t)
	ctx := t.Context()
	busy, quiet := create(t, s, "busy", 1), create(t, s, "quiet", 2)
	const many, cutoff = 3 * rooms.MostDeparted, 1_000_000
	for _, r := range []rooms.Record{busy, quiet} {
		n := many
		if r.SID == quiet.SID {
			n = rooms.MostDeparted // all of them may still be needed
		}
		c := rooms.Change{Kind: rooms.ChangeUpdate, Room: r}
		for i := range n {
			v := rooms.Session{SID: fmt.Sprint("PA_", r.Name, i), RoomSID: r.SID, Identity: fmt.Sprint(i), JoinedMs: int64(1000 + i), LeftMs: int64(2000 + i)}
			switch i {
			case 3: // it never leaves
				v.LeftMs = 0
			case 5: // it left recently
				v.LeftMs = cutoff
			}
			c.Sessions = append(c.Sessions, v)
		}
		_, err := submit(t, s, c)
		require.NoError(t, err)
	}
	latest, err := s.Latest(ctx, busy.SID, rooms.MostDeparted)
	require.NoError(t, err)
	before, err := s.FindOpen(ctx, "busy")
	require.NoError(t, err)

	total, at := 0, rooms.RoomCursor{}
	for {
		n, next, err := s.PruneSessions(ctx, cutoff, at, 100)
		require.NoError(t, err)
		require.LessOrEqual(t, n, 100)
		total, at = total+n, next
		if n < 100 && next == (rooms.RoomCursor{}) {
			break
		}
	}
	require.Equal(t, many-rooms.MostDeparted-2, total)
	var left []string
	v, err := s.ListSessions(ctx, rooms.SessionQuery{RoomSID: busy.SID, Limit: 1000})
	require.NoError(t, err)
	for i := range v {
		left = append(left, v[i].Identity)
	}
	require.Equal(t, []string{"3", "5"}, left[:2], "who is there, or was until lately")
	require.Len(t, left, rooms.MostDeparted+2)
	still, err := s.Latest(ctx, busy.SID, rooms.MostDeparted)
	require.NoError(t, err)
	require.Equal(t, latest, still, "what the room reads when somebody comes is the same")
	after, err := s.FindOpen(ctx, "busy")
	require.NoError(t, err)
	require.Equal(t, before, after)
	v, err = s.ListSessions(ctx, rooms.SessionQuery{RoomSID: quiet.SID, Limit: 1000})
	require.NoError(t, err)
	require.Len(t, v, rooms.MostDeparted)
	requireSound(t, s)
}

// TestPruneSessionsOfManyRooms continues where it stopped.
func TestPruneSessionsOfManyRooms(t *testing.T) {
	s := openNew(t)
	const count = roomsLookedAt + 3
	var last rooms.Record
	for i := range count {
		last = create(t, s, fmt.Sprint("r", i), int64(i))
	}
	c := rooms.Change{Kind: rooms.ChangeUpdate, Room: last}
	for i := range rooms.MostDeparted + 7 {
		c.Sessions = append(c.Sessions, rooms.Session{SID: fmt.Sprint("PA_", i), RoomSID: last.SID, Identity: fmt.Sprint(i), JoinedMs: int64(10 + i), LeftMs: int64(20 + i)})
	}
	_, err := submit(t, s, c)
	require.NoError(t, err)
	n, next, err := s.PruneSessions(t.Context(), 1_000_000, rooms.RoomCursor{}, 100)
	require.NoError(t, err)
	require.Zero(t, n)
	require.NotZero(t, next)
	n, next, err = s.PruneSessions(t.Context(), 1_000_000, next, 100)
	require.NoError(t, err)
	require.Equal(t, 7, n)
	require.Zero(t, next)
}

func TestModeration(t *testing.T) {
	s := openNew(t)
	now := time.Now().UnixMilli()
	ctx := t.Context()
	admission := func(identity string) (bool, int64) {
		t.Helper()
		banned, before, err := s.Admission(ctx, "lobby", identity)
		require.NoError(t, err)
		return banned, before
	}
	banned, before := admission("ann")
	require.False(t, banned)
	require.Zero(t, before)
	require.NoError(t, s.SetBan(ctx, rooms.Ban{RoomName: "lobby", Identity: "ann", CreatedMs: 7, Reason: "noise"}))
	require.NoError(t, s.SetBan(ctx, rooms.Ban{RoomName: "lobby", Identity: "bob", UntilMs: now + 3_600_000}))
	require.NoError(t, s.SetBan(ctx, rooms.Ban{RoomName: "lobby", Identity: "cid", UntilMs: now - 1}))
	require.NoError(t, s.SetBan(ctx, rooms.Ban{RoomName: "other", Identity: "dan"}))
	for identity, want := range map[string]bool{"ann": true, "bob": true, "cid": false, "dan": false} {
		banned, _ := admission(identity)
		require.Equal(t, want, banned, identity)
	}
	bans, err := s.Bans(ctx, "lobby", "", 2)
	require.NoError(t, err)
	require.Equal(t, []rooms.Ban{{RoomName: "lobby", Identity: "ann", CreatedMs: 7, Reason: "noise"}, {RoomName: "lobby", Identity: "bob", UntilMs: now + 3_600_000}}, bans)
	bans, err = s.Bans(ctx, "lobby", "bob", 2)
	require.NoError(t, err)
	require.Len(t, bans, 1)
	require.NoError(t, s.SetBan(ctx, rooms.Ban{RoomName: "lobby", Identity: "ann", UntilMs: 5}))
	banned, _ = admission("ann")
	require.False(t, banned)
	existed, err := s.ClearBan(ctx, "lobby", "bob")
	require.NoError(t, err)
	require.True(t, existed)
	existed, err = s.ClearBan(ctx, "lobby", "bob")
	require.NoError(t, err)
	require.False(t, existed)

	require.NoError(t, s.SetRevocation(ctx, "lobby", "ann", 1000))
	require.NoError(t, s.SetRevocation(ctx, "lobby", "ann", 500))
	_, before = admission("ann")
	require.EqualValues(t, 1000, before, "it never falls")
	n, err := s.PruneModeration(ctx, now, 1001)
	require.NoError(t, err)
	require.Equal(t, 3, n, "two bans that ran out, and a revocation")
}
