package rooms_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/log"
	"parlor/rooms/sqlite"
)

// TestAJoinBehindTheEndOpensANewRoom: a participant that joins while the end of the room
// is being written, by a close or a deadline, is in a new room, and is not removed.
func TestAJoinBehindTheEndOpensANewRoom(t *testing.T) {
	for name, end := range map[string]func(*house){
		"closed":   func(h *house) { go func() { _ = h.Delete(context.Background(), "tea") }() }, // ends before the bubble does
		"deadline": func(*house) { time.Sleep(11 * time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &slowDisk{free: make(chan struct{})}
				h := &house{t: t, path: t.TempDir() + "/parlor.db", allow: d.allow}
				h.open()
				t.Cleanup(h.close)
				old, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "tea", EmptyTimeout: 10})
				require.NoError(t, err)
				synctest.Wait()
				d.held.Store(true)
				end(h)
				synctest.Wait()
				joined := make([]*client, 3)
				for i := range joined {
					go func() { joined[i], _ = h.try("tea", fmt.Sprint("p", i)) }() // ends before the bubble does
				}
				synctest.Wait()
				d.release()
				synctest.Wait()
				for _, c := range joined {
					require.NotNil(t, c)
					require.NotEqual(t, old.Sid, c.snap.Room.Sid)
					require.Equal(t, joined[0].snap.Room.Sid, c.snap.Room.Sid)
					require.Nil(t, c.leave())
				}
				require.EqualValues(t, 3, h.one("tea").NumParticipants)
				h.checkLog()
			})
		})
	}
}

// TestADiskThatFailsWhenARoomIsDue: the room ends once, within about a second of the
// disk's recovery.
func TestADiskThatFailsWhenARoomIsDue(t *testing.T) {
	for name, agent := range map[string]bool{"nobody in it": false, "an agent in it": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var full atomic.Bool
				h := &house{t: t, path: t.TempDir() + "/parlor.db", allow: func() error {
					if full.Load() {
						return errors.New("the disk is full")
					}
					return nil
				}}
				h.open()
				t.Cleanup(h.close)
				_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "tea", EmptyTimeout: 10})
				require.NoError(t, err)
				if agent {
					h.join("tea", "agent", func(r *rooms.JoinRequest) { r.Info.Kind = livekit.ParticipantInfo_AGENT })
				}
				synctest.Wait()
				full.Store(true)
				time.Sleep(30 * time.Second)
				h.one("tea")
				full.Store(false)
				time.Sleep(1100 * time.Millisecond)
				h.none("tea")
				time.Sleep(time.Minute)
				require.Len(t, h.log(log.RoomFinished), 1)
				h.everybodyLeftOnce()
			})
		})
	}
}

// TestARoomEndsAtItsDeadline: it ends less than a tenth of a second late, however it is
// watched.
func TestARoomEndsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		for _, name := range []string{"idle", "agent"} {
			_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: name, EmptyTimeout: 10})
			require.NoError(t, err)
		}
		h.join("agent", "agent", func(r *rooms.JoinRequest) { r.Info.Kind = livekit.ParticipantInfo_AGENT })
		time.Sleep(9950 * time.Millisecond)
		h.one("idle")
		h.one("agent")
		time.Sleep(100 * time.Millisecond)
		h.none("idle")
		h.none("agent")
	})
}

// banBetween bans a joining client after its admission was checked.
type banBetween struct {
	*sqlite.Store
	once sync.Once
}

func (m *banBetween) Admission(ctx context.Context, room, identity string) (bool, int64, error) {
	banned, revoked, err := m.Store.Admission(ctx, room, identity)
	m.once.Do(func() { err = errors.Join(err, m.SetBan(ctx, rooms.Ban{RoomName: room, Identity: identity})) })
	return banned, revoked, err
}

func TestABanThatComesWithTheJoin(t *testing.T) {
	h := newHouse(t, func(c *rooms.Config) { c.Moderation = &banBetween{Store: c.Store.(*sqlite.Store)} })
	_, err := h.try("tea", "ann")
	require.Equal(t, rooms.Denied, rooms.ErrorCode(err))
	_, err = h.UpdateMetadata(t.Context(), &livekit.UpdateRoomMetadataRequest{Room: "tea"})
	require.NoError(t, err)
	require.Zero(t, h.one("tea").NumParticipants)
	list, err := h.Participants(t.Context(), "tea")
	require.NoError(t, err)
	require.Empty(t, list)
}

// counting compares the counts in every change with its rows.
type counting struct {
	*sqlite.Store
	t *testing.T

	mu   sync.Mutex                          // guards open
	open map[string]map[string]rooms.Session // by room SID and session SID
}

func (s *counting) Submit(c *rooms.Change, done func(rooms.Outcome, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	open := s.open[c.Room.SID]
	if open == nil {
		open = make(map[string]rooms.Session)
		s.open[c.Room.SID] = open
	}
	for _, v := range c.Sessions {
		open[v.SID] = v
		if v.LeftMs != 0 {
			delete(open, v.SID)
		}
	}
	var participants, publishers uint32
	for _, v := range open {
		if v.Info.Kind != livekit.ParticipantInfo_AGENT {
			participants++
		}
		if len(v.Info.Tracks) > 0 {
			publishers++
		}
	}
	if c.Room.NumParticipants != participants || c.Room.NumPublishers != publishers {
		s.t.Errorf("the room says %d participants and %d publishers, its rows %d and %d",
			c.Room.NumParticipants, c.Room.NumPublishers, participants, publishers)
	}
	for _, e := range c.Events[max(0, len(c.Events)-1):] { // the rows are as of the last event of a change
		if w := webhook(s.t, e); w.Room.CreationTimeMs != 0 &&
			(w.Room.NumParticipants != participants || w.Room.NumPublishers != publishers) {
			s.t.Errorf("%s says %d/%d, the rows %d/%d", e.Type, w.Room.NumParticipants, w.Room.NumPublishers, participants, publishers)
		}
	}
	s.Store.Submit(c, done)
}

func TestCountsAreTheRowsAtEveryEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var store *counting
		count := func(c *rooms.Config) {
			if store == nil {
				store = &counting{t: t, open: make(map[string]map[string]rooms.Session)}
			}
			store.Store = c.Store.(*sqlite.Store)
			c.Store = store
		}
		h := newHouse(t, count)
		rnd := rand.New(rand.NewPCG(1, 2))
		here := make(map[string]*client)
		for step := range 300 {
			id := fmt.Sprint("p", rnd.IntN(5))
			c := here[id]
			switch n := rnd.IntN(10); {
			case c == nil || n == 0:
				here[id] = h.join("tea", id, func(r *rooms.JoinRequest) {
					if id == "p4" {
						r.Info.Kind = livekit.ParticipantInfo_AGENT
					}
				})
			case n < 5:
				c.publish(t, fmt.Sprint("cid", step), livekit.TrackSource_CAMERA)
			case n == 5:
				require.NoError(t, h.Remove(t.Context(), &livekit.RoomParticipantIdentity{Room: "tea", Identity: id}))
				delete(here, id)
			case n == 6:
				h.restart(count)
				clear(here)
			case n == 7:
				time.Sleep(time.Duration(rnd.IntN(70)) * time.Second)
			default:
				c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
				c.Sync()
				delete(here, id)
			}
			if t.Failed() {
				return
			}
		}
		h.checkLog()
	})
}
