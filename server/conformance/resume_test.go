package conformance

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/stretchr/testify/require"
)

// wire is a TCP proxy in front of the server's HTTP port that a test can cut. Media does
// not pass through it.
type wire struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup // the accept loop and the copies of each connection

	mu    sync.Mutex // guards the following
	conns map[net.Conn]struct{}
	gate  chan struct{} // closed while new connections go through
	tried []time.Time   // times at which the client's connections reached the server
	ended bool
}

func newWire(t *testing.T, s *server) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &wire{
		listener: l, target: strings.TrimPrefix(s.http(), "http://"),
		conns: map[net.Conn]struct{}{}, gate: make(chan struct{}),
	}
	close(w.gate)
	w.wg.Go(w.accept)
	t.Cleanup(func() {
		l.Close()
		w.mu.Lock()
		w.ended = true
		w.mu.Unlock()
		w.release()
		w.cut()
		w.wg.Wait()
	})
	return w
}

func (w *wire) ws() string   { return "ws://" + w.listener.Addr().String() }
func (w *wire) http() string { return "http://" + w.listener.Addr().String() }

func (w *wire) accept() {
	for {
		from, err := w.listener.Accept()
		if err != nil {
			return // closed
		}
		w.wg.Go(func() { w.serve(from) })
	}
}

func (w *wire) serve(from net.Conn) {
	defer from.Close()
	w.mu.Lock()
	gate := w.gate
	w.mu.Unlock()
	<-gate
	to, err := net.Dial("tcp", w.target)
	if err != nil {
		return // the client sees its connection closed
	}
	defer to.Close()
	w.mu.Lock()
	w.tried = append(w.tried, time.Now())
	w.mu.Unlock()
	if !w.add(from, to) {
		return
	}
	defer w.forget(from, to)
	w.wg.Go(func() {
		_, _ = io.Copy(to, from) // the end of either side ends both
		to.Close()
		from.Close()
	})
	_, _ = io.Copy(from, to)
}

// triedAfter is when the client first reached a server after a moment; zero if it did
// not.
func (w *wire) triedAfter(t time.Time) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range w.tried {
		if at.After(t) {
			return at
		}
	}
	return time.Time{}
}

// add registers connections for cut, unless the wire is closed.
func (w *wire) add(conns ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		w.conns[c] = struct{}{}
	}
	return !w.ended
}

func (w *wire) forget(conns ...net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		delete(w.conns, c)
	}
}

// cut closes all connections.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.Close()
	}
}

// hold closes all connections and makes new ones wait until release.
func (w *wire) hold() {
	w.mu.Lock()
	w.gate = make(chan struct{})
	w.mu.Unlock()
	w.cut()
}

func (w *wire) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.gate:
	default:
		close(w.gate)
	}
}

// TestResume: after a lost WebSocket the client resumes. Media is not interrupted, ids
// stay, and the others are not told.
func TestResume(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		w := newWire(t, env.server)
		bob := m.join(t, room, "bob")
		alice := m.joinAt(t, w.ws(), token(t, "alice", join(room)))
		sid := alice.LocalParticipant.SID()
		audio := alice.publishMicrophone(t)
		answer := bob.publishMicrophone(t)
		bob.awaitMedia(t, audio.SID(), 10)
		alice.awaitMedia(t, answer.SID(), 10)

		for round := 1; round <= 2; round++ {
			w.hold()
			bob.awaitMedia(t, audio.SID(), 10) // media continues without signalling
			alice.awaitMedia(t, answer.SID(), 10)
			w.release()
			alice.awaitCount(t, "reconnected", round)
			eventually(t, "alice is connected", func() bool { return alice.ConnectionState() == lksdk.ConnectionStateConnected })
			bob.awaitMedia(t, audio.SID(), 10)
			alice.awaitMedia(t, answer.SID(), 10)
		}
		require.Equal(t, sid, alice.LocalParticipant.SID())
		bob.inbound(audio.SID()).checkAudio(t, 960)
		require.Equal(t, 0, bob.count("left alice"))
		require.Equal(t, 1, bob.count("subscribed alice MICROPHONE"))

		// Signalling works as before: a new track passes both ways.
		bob.awaitMedia(t, alice.publishCamera(t).SID(), 10)
		alice.awaitMedia(t, bob.publishCamera(t).SID(), 10)
		require.Equal(t, 1, strings.Count(strings.Join(env.hooks.lines(room), "\n"), "participant_joined alice"))
	})
}

// TestResumeAfterPause: the client learns of changes during its absence.
func TestResumeAfterPause(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		w := newWire(t, env.server)
		bob, dave := m.join(t, room, "bob"), m.join(t, room, "dave")
		alice := m.joinAt(t, w.ws(), token(t, "alice", join(room)))
		audio := alice.publishMicrophone(t)
		bob.awaitMedia(t, audio.SID(), 10)
		alice.sees(t, "dave")

		w.hold()
		alice.await(t, "reconnecting")
		dave.Disconnect()
		carol := m.join(t, room, "carol")
		video := bob.publishCamera(t)
		_, err := roomService(env.server).UpdateRoomMetadata(t.Context(),
			&livekit.UpdateRoomMetadataRequest{Room: room, Metadata: "meanwhile"})
		require.NoError(t, err)
		carol.awaitMedia(t, audio.SID(), 10)
		w.release()

		alice.await(t, "reconnected")
		alice.sees(t, "carol")
		alice.await(t, "room metadata meanwhile")
		alice.await(t, "left dave")
		if !env.reference { // stock sometimes loses the offer that it made meanwhile
			alice.awaitMedia(t, video.SID(), 10)
		}
		bob.awaitMedia(t, audio.SID(), 10)
	})
}

// TestFullReconnect: a client that cannot resume joins and publishes again, without help
// from the application.
func TestFullReconnect(t *testing.T) {
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		w := newWire(t, env.server)
		bob := m.join(t, room, "bob")
		alice := m.joinAt(t, w.ws(), token(t, "alice", join(room)))
		sid, roomSID := alice.LocalParticipant.SID(), alice.SID()
		audio := alice.publishMicrophone(t)
		bob.awaitMedia(t, audio.SID(), 10)

		w.hold()
		_, err := roomService(env.server).RemoveParticipant(t.Context(),
			&livekit.RoomParticipantIdentity{Room: room, Identity: "alice"})
		require.NoError(t, err)
		bob.await(t, "left alice")
		w.release()

		alice.await(t, "reconnected")
		eventually(t, "alice has a new session", func() bool { return alice.LocalParticipant.SID() != sid })
		require.Equal(t, roomSID, alice.SID())
		again := bob.remote(t, "alice", mic)
		require.NotEqual(t, audio.SID(), again.SID())
		bob.awaitMedia(t, again.SID(), 10)
		alice.awaitMedia(t, bob.publishMicrophone(t).SID(), 10)
	})
}

// TestWhoWasReplacedStaysReplaced: a client that another replaced during its absence is
// told so when its network is back, and ends. Its successor is not affected.
func TestWhoWasReplacedStaysReplaced(t *testing.T) {
	parlorOnly(t) // stock gives it the call of its successor
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		w := newWire(t, env.server)
		bob := m.join(t, room, "bob")
		first := m.joinAt(t, w.ws(), token(t, "alice", join(room)))
		bob.awaitMedia(t, first.publishMicrophone(t).SID(), 10)
		w.hold()
		first.await(t, "reconnecting")
		second := m.join(t, room, "alice")
		audio := second.publishMicrophone(t)
		bob.awaitMedia(t, audio.SID(), 10)
		w.release()
		first.await(t, "disconnected DUPLICATE_IDENTITY")
		bob.awaitMedia(t, audio.SID(), 20)
		second.awaitMedia(t, bob.publishMicrophone(t).SID(), 10)
		require.Zero(t, second.count("reconnecting"))
		require.Equal(t, second.LocalParticipant.SID(), bob.GetParticipantByIdentity("alice").SID())
		require.Equal(t, 2, strings.Count(strings.Join(env.hooks.lines(room), "\n"), "participant_joined alice"))
	})
}

// TestAResumeNamesItsSession by the client's sid or by its token: it does not take over
// another session. A client with neither is known by its identity.
func TestAResumeNamesItsSession(t *testing.T) {
	parlorOnly(t) // in stock the identity decides
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		bob := m.join(t, room, "bob")
		c := newCaller(t, m, room, "alice")
		replaced := c.ws.joined(t).Participant.Sid
		refreshed := func(ws *signaller) string {
			return *await(t, ws, "a fresh token", func(m *livekit.SignalResponse) *string {
				if jwt := m.GetRefreshToken(); jwt != "" {
					return &jwt
				}
				return nil
			})
		}
		old := refreshed(c.ws)
		c = newCaller(t, m, room, "alice")
		present := c.ws.joined(t).Participant.Sid
		sid := c.publish()
		bob.awaitMedia(t, sid, 10)
		resume := func(said, jwt string) *signaller { return dial(t, env.server, c.path(true, said), jwt) }
		for _, try := range []struct {
			said, jwt string
			reason    livekit.DisconnectReason
			action    livekit.LeaveRequest_Action
		}{
			{replaced, c.jwt, livekit.DisconnectReason_DUPLICATE_IDENTITY, livekit.LeaveRequest_DISCONNECT},
			{"", old, livekit.DisconnectReason_DUPLICATE_IDENTITY, livekit.LeaveRequest_DISCONNECT},
			{replaced, old, livekit.DisconnectReason_DUPLICATE_IDENTITY, livekit.LeaveRequest_DISCONNECT},
			{"PA_somebody", c.jwt, livekit.DisconnectReason_STATE_MISMATCH, livekit.LeaveRequest_RECONNECT},
		} {
			ws := resume(try.said, try.jwt)
			leave := ws.awaitLeave(t)
			require.Equal(t, []string{"Leave"}, ws.kinds())
			require.Equal(t, try.reason, leave.Reason, "%+v", try)
			require.Equal(t, try.action, leave.Action, "%+v", try)
		}
		c.ws.alive(t) // the WebSocket of the present session is not affected
		require.NotContains(t, c.ws.kinds(), "Leave")
		bob.awaitMedia(t, sid, 20)

		for _, is := range [][2]string{{present, old}, {"PA_somebody", refreshed(c.ws)}, {"", c.jwt}} {
			ws := resume(is[0], is[1])
			require.Equal(t, present, await(t, ws, "the state", func(m *livekit.SignalResponse) *livekit.ParticipantUpdate {
				return m.GetUpdate()
			}).Participants[0].Sid)
		}
	})
}
