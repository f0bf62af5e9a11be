package rooms_test

import (
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
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
	"parlor/rooms/log"
)

// disk can be made to fail some transactions of a hundred. Only the store's writer calls
// it.
type disk struct {
	fails atomic.Int64 // in a hundred
	rnd   *rand.Rand
}

func newDisk(seed uint64) *disk { return &disk{rnd: rand.New(rand.NewPCG(seed, 11))} }

func (d *disk) allow() error {
	if int64(d.rnd.IntN(100)) < d.fails.Load() {
		return errors.New("the disk is full")
	}
	return nil
}

// party performs random operations in one room, one after another. It does not wait for
// the disk where a client would not.
type party struct {
	t    *testing.T
	h    *house
	rnd  *rand.Rand
	room string
	here map[string]*client
	// tracks are the published tracks, by identity.
	tracks   map[string][]string
	metadata string // the last acknowledged value
}

func (p *party) step() {
	t, id := p.t, fmt.Sprint("p", p.rnd.IntN(4))
	c := p.here[id]
	if c == nil {
		c, err := p.h.try(p.room, id)
		if err != nil {
			unwritten(t, err)
			return
		}
		c.Connected()
		p.here[id] = c
		return
	}
	switch n := p.rnd.IntN(12); {
	case n == 0:
		c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
		p.gone(id)
	case n == 1:
		p.gone(id) // replaced by the next join
	case n == 2:
		p.tracks[id] = append(p.tracks[id], c.publish(t, fmt.Sprint("cid", p.rnd.Int()), livekit.TrackSource_CAMERA))
	case n == 3 && len(p.tracks[id]) > 0:
		c.TrackUnpublished(p.tracks[id][0])
		p.tracks[id] = p.tracks[id][1:]
	case n == 4:
		m := fmt.Sprint("m", p.rnd.Int())
		_, err := p.h.UpdateMetadata(t.Context(), &livekit.UpdateRoomMetadataRequest{Room: p.room, Metadata: m})
		if err == nil {
			p.metadata = m
		}
		unwritten(t, err)
	case n == 5:
		_, err := p.h.UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{
			Room: p.room, Identity: id, Name: fmt.Sprint("n", p.rnd.Int()),
		})
		unwritten(t, err)
	case n == 6:
		err := p.h.Remove(t.Context(), &livekit.RoomParticipantIdentity{Room: p.room, Identity: id})
		unwritten(t, err)
		p.gone(id)
	case n == 7:
		time.Sleep(time.Duration(p.rnd.IntN(700)) * time.Millisecond)
	default:
		for _, sid := range p.tracks[id] {
			for i := range 1 + p.rnd.IntN(6) {
				c.Mute(&livekit.MuteTrackRequest{Sid: sid, Muted: i%2 == 0})
			}
		}
	}
}

func (p *party) gone(id string) {
	delete(p.here, id)
	delete(p.tracks, id)
}

// unwritten checks that an error is the one that a failing disk may cause.
func unwritten(t *testing.T, err error) {
	if err != nil && rooms.ErrorCode(err) != rooms.Unavailable {
		t.Errorf("got %v", err)
	}
}

// TestADiskThatFailsNowAndThen: whatever transactions fail, calls continue, and
// acknowledged changes are kept. When the disk has recovered, the rows agree with the
// rooms, and the log has all events once and in order.
func TestADiskThatFailsNowAndThen(t *testing.T) {
	games := 12
	if testing.Short() {
		games = 3
	}
	for seed := range games {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { playFailingDisk(t, uint64(seed)) })
		})
	}
}

func playFailingDisk(t *testing.T, seed uint64) {
	d := newDisk(seed)
	h := &house{t: t, path: t.TempDir() + "/parlor.db", allow: d.allow}
	h.open()
	t.Cleanup(h.close)
	parties := make([]*party, 3)
	for i := range parties {
		parties[i] = &party{
			t: t, h: h, rnd: rand.New(rand.NewPCG(seed, uint64(i))), room: fmt.Sprint("room", i),
			here: make(map[string]*client), tracks: make(map[string][]string),
		}
	}
	for range 4 { // periods of failure
		for _, fails := range []int64{0, 40, 100, 15} {
			d.fails.Store(fails)
			var wg sync.WaitGroup
			for _, p := range parties {
				wg.Go(func() {
					for range 20 {
						p.step()
					}
				})
			}
			wg.Wait()
			for _, p := range parties {
				for id, c := range p.here {
					require.Nil(t, c.leave(), "%s in %s was sent away", id, p.room)
				}
			}
		}
		d.fails.Store(0)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		for _, p := range parties {
			h.rowsAreWhatTheRoomIs(p.room, p.metadata)
		}
	}
	h.checkLog()
	h.checkMutes()
	for _, p := range parties {
		here, err := h.Participants(t.Context(), p.room)
		require.NoError(t, err)
		for _, who := range here {
			require.NoError(t, h.Remove(t.Context(), &livekit.RoomParticipantIdentity{Room: p.room, Identity: who.Identity}))
		}
	}
	time.Sleep(time.Minute)
	h.everybodyLeftOnce()
}

// rowsAreWhatTheRoomIs compares the state of the live room with the rows on disk.
func (h *house) rowsAreWhatTheRoomIs(room, metadata string) {
	h.t.Helper()
	ctx := h.t.Context()
	live, err := h.Create(ctx, &livekit.CreateRoomRequest{Name: room}) // the room exists, so this only reads it
	require.NoError(h.t, err)
	row := h.one(room)
	require.Empty(h.t, diff(live, row))
	require.Equal(h.t, metadata, row.Metadata)
	here, err := h.Participants(ctx, room)
	require.NoError(h.t, err)
	present, err := h.store.Present(ctx, row.Sid)
	require.NoError(h.t, err)
	rows := make(map[string]*livekit.ParticipantInfo)
	publishers := 0
	for _, s := range present {
		rows[s.Identity] = s.Info
		if len(s.Info.Tracks) > 0 {
			publishers++
		}
	}
	require.Len(h.t, rows, len(here))
	for _, p := range here {
		require.Empty(h.t, diff(p, rows[p.Identity]))
	}
	require.EqualValues(h.t, len(here), row.NumParticipants)
	require.EqualValues(h.t, publishers, row.NumPublishers)
}

// diff describes the differences of a and b; "" if there are none.
func diff(a, b proto.Message) string {
	if proto.Equal(a, b) {
		return ""
	}
	return fmt.Sprintf("%v\nis not\n%v", a, b)
}

// checkMutes: mutes and unmutes of a track alternate in the log.
func (h *house) checkMutes() {
	h.t.Helper()
	evs := h.log(log.TrackMuted, log.TrackUnmuted)
	muted := make(map[string]bool)
	for _, e := range evs {
		sid := webhook(h.t, e).Track.Sid
		require.Equal(h.t, muted[sid], e.Type == log.TrackUnmuted, "%s of %s is out of turn", e.Type, sid)
		muted[sid] = !muted[sid]
	}
	require.NotEmpty(h.t, evs)
}

// everybodyLeftOnce: every session has one closing event and a closed row, and every room
// has ended.
func (h *house) everybodyLeftOnce() {
	h.t.Helper()
	ctx := h.t.Context()
	h.checkLog()
	evs := h.log()
	open := make(map[string]bool)
	sids := make(map[string]bool)
	for _, e := range evs {
		p := webhook(h.t, e).GetParticipant().GetSid()
		sids[e.RoomSID] = true
		switch e.Type {
		case log.ParticipantJoined:
			open[p] = true
		case log.ParticipantLeft:
			delete(open, p)
		}
	}
	require.Empty(h.t, open, "they joined and never left")
	for sid := range sids {
		rec, err := h.store.GetBySID(ctx, sid)
		require.NoError(h.t, err)
		require.False(h.t, rec.Open(), "room %s is open", rec.Name)
		present, err := h.store.Present(ctx, sid)
		require.NoError(h.t, err)
		require.Empty(h.t, present)
	}
}

// TestAFailedWriteLetsNothingOvertake: later changes of a room are not on disk before the
// change whose write failed.
func TestAFailedWriteLetsNothingOvertake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, answer := make(chan struct{}), make(chan error)
		var stopped atomic.Bool // each transaction waits
		h := &house{t: t, path: t.TempDir() + "/parlor.db", allow: func() error {
			if !stopped.Load() {
				return nil
			}
			asked <- struct{}{}
			return <-answer
		}}
		h.open()
		t.Cleanup(h.close)
		ann := h.join("tea", "ann")
		sid := ann.publish(t, "mic", livekit.TrackSource_MICROPHONE)
		synctest.Wait()
		stopped.Store(true)
		ann.Mute(&livekit.MuteTrackRequest{Sid: sid, Muted: true})
		<-asked
		ann.Mute(&livekit.MuteTrackRequest{Sid: sid})
		synctest.Wait() // the write is queued
		answer <- errors.New("the disk is full")
		synctest.Wait()
		ann.Mute(&livekit.MuteTrackRequest{Sid: sid, Muted: true})
		stopped.Store(false)
		for { // until the disk works
			select {
			case <-asked:
				answer <- nil
				continue
			case <-time.After(3 * time.Second):
			}
			break
		}
		h.rowsAreWhatTheRoomIs("tea", "")
		h.checkMutes()
		info, err := h.Participant(t.Context(), "tea", "ann")
		require.NoError(t, err)
		require.True(t, info.Tracks[0].Muted)
	})
}

// TestAReplacementThatCannotBeWritten: the old participant has left and the others know
// it, the new one has not joined, and the next attempt succeeds.
func TestAReplacementThatCannotBeWritten(t *testing.T) {
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
		ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
		h.flush("tea")
		full.Store(true)
		_, err := h.try("tea", "ann")
		require.Equal(t, rooms.Unavailable, rooms.ErrorCode(err))
		require.Equal(t, livekit.DisconnectReason_DUPLICATE_IDENTITY, ann.leave().Reason)
		told := func() bool {
			return find(bob, func(m *livekit.SignalResponse) *livekit.ParticipantInfo {
				for _, p := range m.GetUpdate().GetParticipants() {
					if p.Sid == ann.SID() && p.State == livekit.ParticipantInfo_DISCONNECTED {
						return p
					}
				}
				return nil
			}) != nil
		}
		require.True(t, told(), "bob knows that ann has left")
		full.Store(false)
		time.Sleep(2 * time.Second)
		h.rowsAreWhatTheRoomIs("tea", "")
		h.join("tea", "ann")
		h.flush("tea")
		require.Equal(t, []string{
			"room_started", "participant_joined ann", "participant_joined bob", "participant_left ann", "participant_joined ann",
		}, h.events("tea"))
	})
}

func TestWhoIsExpectedBackCanBeModerated(t *testing.T) {
	h := newHouse(t)
	ann := h.join("tea", "ann")
	h.restart()
	info, err := h.UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{
		Room: "tea", Identity: "ann", Name: "Ann", Permission: &livekit.ParticipantPermission{CanSubscribe: true},
	})
	require.NoError(t, err)
	require.Equal(t, "Ann", info.Name)
	h.restart()
	back := h.join("tea", "ann")
	require.Equal(t, ann.SID(), back.SID())
	require.Equal(t, "Ann", back.snap.Self.Name)
	require.False(t, back.snap.Self.Permission.CanPublish)
	_, err = h.UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{Room: "tea", Identity: "bob", Name: "Bob"})
	require.ErrorIs(t, err, rooms.ErrNoParticipant)
}
