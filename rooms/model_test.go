package rooms_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/log"
)

// modelRoom is a room in a simple model of the life cycle.
type modelRoom struct {
	sid        string
	here       map[string]bool      // identities in the room
	expected   map[string]time.Time // identities expected back until a time
	emptySince time.Time            // zero while somebody is here or expected
	joinedOnce bool
	empty      time.Duration
	departure  time.Duration
}

func (m *modelRoom) due() time.Time {
	if m.emptySince.IsZero() {
		return time.Time{}
	}
	if m.joinedOnce {
		return m.emptySince.Add(m.departure)
	}
	return m.emptySince.Add(m.empty)
}

// model is the open rooms according to the rules.
type model map[string]*modelRoom

// pass advances the model to now.
func (m model) pass(now time.Time) {
	for name, r := range m {
		var last time.Time
		for id, until := range r.expected {
			if !until.After(now) {
				delete(r.expected, id)
				if until.After(last) {
					last = until
				}
			}
		}
		if !last.IsZero() && len(r.here)+len(r.expected) == 0 {
			r.emptySince = last
		}
		if d := r.due(); !d.IsZero() && !d.After(now) {
			delete(m, name)
		}
	}
}

// TestLifeCycleAgainstModel performs random calls and waits, one after another, and
// compares the open rooms with the model after each.
func TestLifeCycleAgainstModel(t *testing.T) {
	games, steps := 25, 60
	if testing.Short() {
		games = 5
	}
	for seed := range games {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { playLifeCycle(t, uint64(seed), steps) })
		})
	}
}

func playLifeCycle(t *testing.T, seed uint64, steps int) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	h := newHouse(t)
	m := make(model)
	clients := make(map[string]*client) // by room and identity
	seen := make(map[string]string)     // sid → name, of ended rooms too
	names, ids := []string{"a", "b"}, []string{"ann", "bob", "eve"}
	for step := range steps {
		name, id := names[rnd.IntN(len(names))], ids[rnd.IntN(len(ids))]
		var did string
		switch n := rnd.IntN(12); {
		case n < 4:
			did = "join " + name + " " + id
			c := h.join(name, id)
			r := m[name]
			if r == nil {
				require.NotContains(t, seen, c.snap.Room.Sid, "seed %d: a new room has a new sid", seed)
				r = &modelRoom{sid: c.snap.Room.Sid, here: map[string]bool{}, expected: map[string]time.Time{},
					empty: 300 * time.Second, departure: 20 * time.Second}
				m[name], seen[r.sid] = r, name
			}
			delete(r.expected, id)
			r.here[id], r.joinedOnce, r.emptySince = true, true, time.Time{}
			clients[name+" "+id] = c
		case n < 6:
			did = "leave " + name + " " + id
			if c := clients[name+" "+id]; c != nil {
				c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
				c.Sync()
				delete(clients, name+" "+id)
				if r := m[name]; r != nil && r.here[id] {
					delete(r.here, id)
					if len(r.here)+len(r.expected) == 0 {
						r.emptySince = time.Now()
					}
				}
			}
		case n == 6:
			did = "delete " + name
			err := h.Delete(t.Context(), name)
			require.Equal(t, m[name] == nil, errors.Is(err, rooms.ErrNoRoom), "seed %d step %d: %v", seed, step, err)
			delete(m, name)
		case n == 7:
			did = "create " + name
			info, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: name, EmptyTimeout: 30, DepartureTimeout: 40})
			require.NoError(t, err)
			if m[name] == nil {
				m[name] = &modelRoom{sid: info.Sid, here: map[string]bool{}, expected: map[string]time.Time{},
					emptySince: time.Now(), empty: 30 * time.Second, departure: 40 * time.Second}
				seen[info.Sid] = name
			}
		case n == 8:
			did = "restart"
			down := time.Duration(rnd.IntN(30)) * time.Second
			h.close()
			time.Sleep(down)
			h.open()
			for _, r := range m {
				for id := range r.here {
					r.expected[id] = time.Now().Add(time.Minute)
				}
				for id := range r.expected { // the grace period begins again
					r.expected[id] = time.Now().Add(time.Minute)
				}
				r.here = map[string]bool{}
			}
			clear(clients)
		default:
			d := time.Duration(rnd.IntN(25_000)) * time.Millisecond
			did = "wait " + d.String()
			time.Sleep(d)
		}
		// Avoid the deadlines, which fall on whole steps of the waits above.
		time.Sleep(7 * time.Millisecond)
		synctest.Wait()
		m.pass(time.Now())
		got, err := h.List(t.Context(), nil)
		require.NoError(t, err)
		open := make(map[string]string)
		for _, r := range got {
			open[r.Name] = fmt.Sprint(r.Sid, " ", r.NumParticipants)
		}
		want := make(map[string]string)
		for name, r := range m {
			want[name] = fmt.Sprint(r.sid, " ", len(r.here)+len(r.expected))
		}
		require.Equal(t, want, open, "seed %d step %d: %s", seed, step, did)
	}
	h.checkLog()
}

// checkLog checks the guarantees of the event log.
func (h *house) checkLog() {
	h.t.Helper()
	evs := h.log()
	type life struct{ started, finished bool }
	open := make(map[string]string)   // name → sid
	lives := make(map[string]*life)   // by room sid
	sessions := make(map[string]int)  // participant sid → 1 joined, 2 left
	roomSeq := make(map[string]int64) // by room sid
	tracks := make(map[string]bool)   // published now
	for i, e := range evs {
		require.EqualValues(h.t, i+1, e.Seq, "seq is gapless")
		roomSeq[e.RoomSID]++
		require.Equal(h.t, roomSeq[e.RoomSID], e.RoomSeq, "room_seq is gapless")
		w := webhook(h.t, e)
		l := lives[e.RoomSID]
		if l == nil {
			require.Equal(h.t, log.RoomStarted, e.Type, "a room's first event")
			l = &life{}
			lives[e.RoomSID] = l
		}
		require.False(h.t, l.finished, "room_finished is a room's last event, then came %s", e.Type)
		p := w.GetParticipant().GetSid()
		switch e.Type {
		case log.RoomStarted:
			require.False(h.t, l.started)
			l.started = true
			require.Empty(h.t, open[e.RoomName], "two open rooms of one name")
			open[e.RoomName] = e.RoomSID
		case log.RoomFinished:
			l.finished = true
			delete(open, e.RoomName)
		case log.ParticipantJoined:
			require.Zero(h.t, sessions[p], "joined once")
			sessions[p] = 1
		case log.ParticipantLeft:
			require.Equal(h.t, 1, sessions[p], "left once, after it joined")
			sessions[p] = 2
		case log.ParticipantAborted:
			require.Zero(h.t, sessions[p])
			sessions[p] = 2
		case log.TrackPublished:
			require.False(h.t, tracks[w.Track.Sid])
			tracks[w.Track.Sid] = true
		case log.TrackUnpublished:
			require.True(h.t, tracks[w.Track.Sid])
			delete(tracks, w.Track.Sid)
		}
	}
}

// TestNoSplitUnderConcurrency performs joins, leaves, closes, creates and short timeouts
// concurrently, and then checks the log.
func TestNoSplitUnderConcurrency(t *testing.T) {
	h := newHouse(t, func(c *rooms.Config) { c.EmptyTimeout, c.DepartureTimeout = 3, 2 }) // ms
	const workers, steps = 16, 120
	names := []string{"a", "b", "c"}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 3))
			var mine *client
			for range steps {
				name := names[rnd.IntN(len(names))]
				switch n := rnd.IntN(10); {
				case n < 5:
					c, err := h.try(name, fmt.Sprint("p", rnd.IntN(6)))
					if err != nil {
						if !errors.Is(err, rooms.ErrNoParticipant) { // replaced before it was attached
							t.Errorf("join: %v", err)
						}
						continue
					}
					c.Connected()
					c.AddTrack(&livekit.AddTrackRequest{Cid: "c", Type: livekit.TrackType_VIDEO})
					mine = c
				case n < 8 && mine != nil:
					mine.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
				case n == 8:
					if err := h.Delete(context.Background(), name); err != nil && rooms.ErrorCode(err) != rooms.NotFound {
						t.Errorf("delete: %v", err)
					}
				default:
					if _, err := h.Create(context.Background(), &livekit.CreateRoomRequest{Name: name}); err != nil {
						t.Errorf("create: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
	for _, name := range names {
		if err := h.Delete(t.Context(), name); err != nil {
			require.ErrorIs(t, err, rooms.ErrNoRoom)
		}
	}
	h.checkLog()
	list, err := h.List(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, list)
}
