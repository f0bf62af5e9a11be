package rooms_test

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// mine is an outlet in which the room's goroutine panics once it is armed.
type mine struct {
	*client
	mu    sync.Mutex // guards the following
	armed bool
}

func (m *mine) arm() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.armed = true
}

func (m *mine) Send(msg *rooms.Message) bool {
	m.mu.Lock()
	armed := m.armed
	m.armed = false
	m.mu.Unlock()
	if armed {
		panic("a fault of ours")
	}
	return m.client.Send(msg)
}

// logged collects log lines.
type logged struct {
	mu  sync.Mutex // guards the following
	buf strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logged) lines(of string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), of)
}

// TestAPanicTakesDownItsRoomAlone: its clients return to the written state, other rooms
// are not affected, and a name that fails twice in a minute is refused for a minute.
func TestAPanicTakesDownItsRoomAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := &logged{}
		log := func(c *rooms.Config) { c.Log = slog.New(slog.NewTextHandler(lines, nil)) }
		h := newHouse(t, log)
		eve := h.join("coffee", "eve")
		var trap *mine
		lay := func(identity string) *client {
			t.Helper()
			return h.join("tea", identity, func(req *rooms.JoinRequest) {
				trap = &mine{client: req.Outlet.(*client)}
				req.Outlet = trap
			})
		}
		ann, bob := lay("ann"), h.join("tea", "bob")
		mic := bob.publish(t, "mic", microphone)
		h.flush("tea")
		first := h.one("tea")

		fail := func() error {
			trap.arm()
			_, err := h.UpdateMetadata(t.Context(), &livekit.UpdateRoomMetadataRequest{Room: "tea", Metadata: "told to everybody"})
			return err
		}
		require.ErrorIs(t, fail(), rooms.ErrFailed)
		synctest.Wait()
		for _, c := range []*client{ann, bob} {
			require.Equal(t, livekit.LeaveRequest_RECONNECT, c.leave().GetAction())
			require.True(t, c.closed)
		}
		require.Nil(t, eve.leave())
		require.EqualValues(t, 1, h.Stats().Failures)
		require.Equal(t, 1, lines.lines("level=ERROR"))
		require.Positive(t, lines.lines("rooms_test.(*mine).Send"), "the stack is in the line")

		back := h.join("tea", "bob")
		require.Equal(t, bob.SID(), back.SID(), "the session goes on")
		require.True(t, back.snap.Resumed)
		require.Equal(t, first.Sid, h.one("tea").Sid)
		require.Contains(t, h.events("tea"), "track_unpublished bob")
		require.NotEqual(t, mic, back.publish(t, "mic", microphone))

		lay("ann")
		require.ErrorIs(t, fail(), rooms.ErrFailed)
		synctest.Wait()
		_, err := h.try("tea", "bob")
		require.ErrorIs(t, err, rooms.ErrFailed, "it is refused now")
		eve.publish(t, "mic", microphone)
		time.Sleep(61 * time.Second)
		require.Equal(t, bob.SID(), h.join("tea", "bob").SID())
		time.Sleep(61 * time.Second)
		require.EqualValues(t, 1, h.one("tea").NumParticipants, "ann did not come back")
		require.Equal(t, "participant_left ann", h.events("tea")[len(h.events("tea"))-1])
		require.Nil(t, eve.leave())

		lay("ann")
		require.ErrorIs(t, fail(), rooms.ErrFailed)
		synctest.Wait()
		h.join("tea", "bob") // failures of long ago do not count
	})
}

// TestWhatHappenedIsWrittenThoughTheRoomFails: changes that the database could not take
// when a room failed are written once that is possible, before the room is read again.
func TestWhatHappenedIsWrittenThoughTheRoomFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(1)
		h := &house{t: t, path: t.TempDir() + "/parlor.db", allow: d.allow}
		h.open()
		t.Cleanup(h.close)
		var trap *mine
		ann := h.join("tea", "ann", func(req *rooms.JoinRequest) {
			trap = &mine{client: req.Outlet.(*client)}
			req.Outlet = trap
		})
		bob, cid := h.join("tea", "bob"), h.join("tea", "cid")
		bob.publish(t, "mic", microphone)
		h.flush("tea")

		d.fails.Store(100)
		bob.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
		bob.Sync()
		cid.publish(t, "mic", microphone)
		cid.Sync()
		synctest.Wait()
		trap.arm()
		cid.publish(t, "cam", camera)
		synctest.Wait()
		require.EqualValues(t, 1, h.Stats().Failures)
		time.Sleep(5 * time.Second)
		require.NotContains(t, h.events("tea"), "participant_left bob", "the disk takes nothing")
		_, err := h.try("tea", "dan")
		require.ErrorIs(t, err, rooms.ErrFailed)

		d.fails.Store(0)
		time.Sleep(5 * time.Second)
		require.Contains(t, h.events("tea"), "track_unpublished bob")
		require.Contains(t, h.events("tea"), "participant_left bob")
		require.Contains(t, h.events("tea"), "track_published cid")
		require.Equal(t, ann.SID(), h.join("tea", "ann").SID(), "those who were in it are expected back")
		require.Equal(t, cid.SID(), h.join("tea", "cid").SID())
		require.NotEqual(t, bob.SID(), h.join("tea", "bob").SID(), "and who left is not")
		require.EqualValues(t, 3, h.one("tea").NumParticipants)
		h.checkLog()
	})
}

// TestAStopWhileAFailedRoomCannotBeWritten: the stop ends in time.
func TestAStopWhileAFailedRoomCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(1)
		h := &house{t: t, path: t.TempDir() + "/parlor.db", allow: d.allow}
		h.open()
		t.Cleanup(h.close)
		var trap *mine
		h.join("tea", "ann", func(req *rooms.JoinRequest) {
			trap = &mine{client: req.Outlet.(*client)}
			req.Outlet = trap
		})
		bob, cid := h.join("tea", "bob"), h.join("tea", "cid")
		h.flush("tea")
		d.fails.Store(100)
		bob.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
		bob.Sync()
		synctest.Wait()
		trap.arm()
		cid.publish(t, "mic", microphone)
		synctest.Wait()
		require.EqualValues(t, 1, h.Stats().Failures)
		time.Sleep(15 * time.Second)
		require.Zero(t, h.Stats().Stuck, "it waits for the disk, and does not hang")
		h.close() // the disk still fails
	})
}

// TestRemovingASession does not remove a newer session of the identity.
func TestRemovingASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.join("tea", "ann")
		old := h.join("tea", "bob")
		old.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
		old.Sync()
		bob := h.join("tea", "bob")
		require.NotEqual(t, old.SID(), bob.SID())
		require.ErrorIs(t, h.RemoveSession(t.Context(), "tea", "bob", old.SID()), rooms.ErrNoParticipant)
		require.ErrorIs(t, h.RemoveSession(t.Context(), "tea", "bob", ""), rooms.ErrNoParticipant, "a token without an id names no session")
		require.Nil(t, bob.leave())
		require.NoError(t, h.RemoveSession(t.Context(), "tea", "bob", bob.SID()))
		require.Equal(t, livekit.LeaveRequest_DISCONNECT, bob.leave().GetAction())

		cid := h.join("tea", "cid")
		h.flush("tea")
		h.restart() // a participant that is expected back is found by its SID too
		require.ErrorIs(t, h.RemoveSession(t.Context(), "tea", "cid", bob.SID()), rooms.ErrNoParticipant)
		require.NoError(t, h.RemoveSession(t.Context(), "tea", "cid", cid.SID()))
		require.Equal(t, "participant_left cid", h.events("tea")[len(h.events("tea"))-1])
	})
}
