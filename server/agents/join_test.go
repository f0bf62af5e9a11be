package agents_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"parlor/media"
	"parlor/rooms"
	"parlor/server/signal"
)

// TestTheTokenOfAJobLetsItsAgentIn: into the job's room, while the job runs, and not into
// a new room of that name.
func TestTheTokenOfAJobLetsItsAgentIn(t *testing.T) {
	h := newHouse(t)
	log := slog.New(slog.DiscardHandler)
	engine, err := media.NewEngine(media.Config{BindAddresses: []string{"127.0.0.1"}, LoopbackCandidate: true, Log: log})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, engine.Close()) })
	signals := signal.New(signal.Config{Rooms: h.Rooms, Media: engine, Verifier: h.verifier, Log: log})
	base, cancel := context.WithCancel(context.Background())
	server := httptest.NewServer(h.verifier.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		signals.RTC().ServeHTTP(w, r)
	})))
	t.Cleanup(func() {
		h.Stop() // every client is disconnected
		cancel()
		require.NoError(t, signals.Wait(context.Background()))
		server.Close()
	})
	join := func(token string) (*websocket.Conn, int, string) {
		t.Helper()
		q := url.Values{"access_token": {token}, "protocol": {"16"}, "auto_subscribe": {"1"}}
		conn, res, err := websocket.Dial(base, strings.Replace(server.URL, "http", "ws", 1)+"/rtc?"+q.Encode(), nil)
		if err == nil {
			t.Cleanup(func() { _ = conn.CloseNow() }) // it may be closed already
			return conn, 0, ""
		}
		require.NotNil(t, res, err)
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return nil, res.StatusCode, string(b)
	}
	next := func(conn *websocket.Conn) *livekit.SignalResponse {
		t.Helper()
		_, b, err := conn.Read(base)
		require.NoError(t, err)
		m := &livekit.SignalResponse{}
		require.NoError(t, proto.Unmarshal(b, m))
		return m
	}

	w := h.worker(named("n"))
	d := want(t, h, "r", "n")
	a := w.job(1)
	conn, status, why := join(a.Token)
	require.Zero(t, status, why)
	welcome := next(conn).GetJoin()
	require.Equal(t, "r", welcome.GetRoom().GetName())
	require.Equal(t, livekit.ParticipantInfo_AGENT, welcome.Participant.Kind)
	require.Equal(t, a.Job.State.ParticipantIdentity, welcome.Participant.Identity)
	require.Equal(t, "n", welcome.Participant.Attributes["lk.agent_name"])

	_, err = h.DeleteDispatch(t.Context(), &livekit.DeleteAgentDispatchRequest{Room: "r", DispatchId: d.Id})
	require.NoError(t, err)
	var leave *livekit.LeaveRequest
	for leave == nil { // it does not leave by itself
		leave = next(conn).GetLeave()
	}
	require.Equal(t, livekit.DisconnectReason_PARTICIPANT_REMOVED, leave.Reason)
	_, status, why = join(a.Token)
	require.Equal(t, http.StatusUnauthorized, status)
	require.Contains(t, why, "the job of this agent is over")

	require.NoError(t, h.Delete(t.Context(), "r", nil))
	_, status, _ = join(a.Token)
	require.Equal(t, http.StatusNotFound, status)
	_, err = h.store.FindOpen(t.Context(), "r")
	require.Equal(t, rooms.ErrNoRoom, err, "no room is opened for it")
}
