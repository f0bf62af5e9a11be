package program

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"github.com/twitchtv/twirp"

	"parlor/rooms"
	"parlor/rooms/replica/s3test"
)

// fenceBound is the time in which a server must end that reaches the replica again and
// finds that another took over: it tries every 2.5 s (more on a busy machine), and then
// stops within stopBound.
const fenceBound = 20*time.Second + stopBound

// caller is the signalling of a client in a call.
type caller struct {
	conn *websocket.Conn
	last chan *livekit.SignalResponse // the last message; closed with the connection
}

func (p *process) call(room, identity string) *caller {
	p.t.Helper()
	url := "ws" + strings.TrimPrefix(p.url, "http") + "/rtc?protocol=17&access_token=" + issue(p.t, "--room", room, "--identity", identity)
	conn, _, err := websocket.Dial(p.t.Context(), url, nil)
	require.NoError(p.t, err)
	conn.SetReadLimit(1 << 20)
	first, err := receive(p.t.Context(), conn)
	require.NoError(p.t, err)
	require.Equal(p.t, identity, first.GetJoin().GetParticipant().GetIdentity())
	c := &caller{conn, make(chan *livekit.SignalResponse, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	p.t.Cleanup(func() {
		cancel()
		conn.CloseNow()
	})
	go func() { // ends with the connection
		defer close(c.last)
		var last *livekit.SignalResponse
		for {
			m, err := receive(ctx, conn)
			if err != nil {
				c.last <- last
				return
			}
			last = m
		}
	}()
	go func() { // without pings the client counts as dead; ends with the connection
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(5 * time.Second):
			}
			ping := &livekit.SignalRequest_PingReq{PingReq: &livekit.Ping{Timestamp: time.Now().UnixMilli()}}
			if send(ctx, conn, &livekit.SignalRequest{Message: ping}) != nil {
				return
			}
		}
	}()
	return c
}

// TestStaleServerGivesWay: a server that cannot reach the replica refuses all changes
// once its lease may have expired. When it finds that another has taken over, it sends
// its clients there and ends. Started again, it does not serve beside the other. When the
// other has stopped, it continues from the other's state.
func TestStaleServerGivesWay(t *testing.T) {
	t.Parallel()
	proxy := s3test.NewProxy(t, s3Server.Address(t))
	hooks := newInbox(t)
	configuration := func(address, path string) string {
		return fmt.Sprintf(`{"replica": %q, "webhook": {"api_key": "devkey", "urls": [%q], "filter_params": {"include_events": ["*"]}}}`,
			s3test.URL(t, address), hooks.URL+path)
	}
	home := machine(t)
	a := spawn(t, home, configuration(proxy.Address(), "/a"))
	ctx := as(t.Context(), "lobby")
	room, err := a.roomService().CreateRoom(ctx, &livekit.CreateRoomRequest{Name: "lobby", EmptyTimeout: rooms.WireNever, Metadata: "of a"})
	require.NoError(t, err)
	ada := a.call("lobby", "ada")
	hooks.await(t, "/a", 1)
	require.Eventually(t, func() bool { return roomsOn(t, s3test.URL(t, s3Server.Address(t))) == 1 }, time.Minute, 100*time.Millisecond)

	proxy.Cut(true)
	// The other machine waits until the lease has expired, and takes over.
	b := spawn(t, machine(t), configuration(s3Server.Address(t), "/b"), "--expect-replica")
	require.NotEmpty(t, b.url, b.log)
	require.Greater(t, b.replication().Epoch, a.replication().Epoch)
	require.Equal(t, "unsure", a.replication().State)
	_, err = a.roomService().UpdateRoomMetadata(ctx, &livekit.UpdateRoomMetadataRequest{Room: "lobby", Metadata: "stale"})
	refused, ok := err.(twirp.Error)
	require.True(t, ok, "%v", err)
	require.Equal(t, twirp.Unavailable, refused.Code())
	require.Equal(t, "nothing may be written now, try again", refused.Msg())
	require.Equal(t, http.StatusServiceUnavailable, a.get("/readyz", nil), "balancers look elsewhere")
	select {
	case <-ada.last:
		require.Fail(t, "the call did not go on")
	default:
	}
	_, err = b.roomService().UpdateRoomMetadata(ctx, &livekit.UpdateRoomMetadataRequest{Room: "lobby", Metadata: "of b"})
	require.NoError(t, err)
	told := len(hooks.letters("/a"))

	proxy.Cut(false)
	found := time.Now()
	require.Equal(t, 1, a.exit(fenceBound))
	t.Logf("a stale server ended %v after it could reach the replica again", time.Since(found).Round(time.Millisecond))
	require.Contains(t, a.log.String(), "another machine may have the rooms")
	require.Contains(t, a.log.String(), "holds it with epoch 2")
	require.Equal(t, livekit.LeaveRequest_RECONNECT, (<-ada.last).GetLeave().GetAction())
	require.Len(t, hooks.letters("/a"), told, "a stale server told %v", hooks.types("/a"))

	a = spawn(t, home, configuration(s3Server.Address(t), "/a"))
	require.Equal(t, 1, a.exit(time.Minute), "two served the same rooms")
	require.Contains(t, a.log.String(), "the replica is in use by process")

	require.NoError(t, b.cmd.Process.Signal(syscall.SIGTERM))
	require.Zero(t, b.exit(2*stopBound), b.log)
	a = spawn(t, home, configuration(s3Server.Address(t), "/a"))
	require.NotEmpty(t, a.url, a.log)
	list, err := a.roomService().ListRooms(ctx, &livekit.ListRoomsRequest{})
	require.NoError(t, err)
	require.Len(t, list.Rooms, 1)
	require.Equal(t, room.Sid, list.Rooms[0].Sid)
	require.Equal(t, "of b", list.Rooms[0].Metadata, "it goes on from what the other left")
	aside, err := filepath.Glob(filepath.Join(home, "parlor.db.epoch-1-*"))
	require.NoError(t, err)
	require.NotEmpty(t, aside, "what the stale server had is kept")
}

// roomsOn is the number of rooms in a replica.
func roomsOn(t *testing.T, url string) (n int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "restored.db")
	status, _, errs := command(t, nil, "restore", "--replica", url, "--to", file)
	require.Zero(t, status, errs)
	db, err := sql.Open("sqlite", file)
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.QueryRow("SELECT count(*) FROM room").Scan(&n))
	return n
}

// replication is the state of the replica in GET /v1/status.
func (p *process) replication() (r struct {
	State      string
	Epoch      int64
	LagSeconds float64 `json:"lag_seconds"`
}) {
	p.t.Helper()
	var status struct{ Replication any }
	status.Replication = &r
	require.Equal(p.t, http.StatusOK, p.get("/v1/status", &status))
	return r
}
