package program

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/replica/s3test"
	"parlor/server/config"
)

// outage is a replica that can be made unreachable.
type outage struct {
	url string
	set func(away bool)
}

// everyReplica runs a test with both kinds of replica.
func everyReplica(t *testing.T, f func(t *testing.T, o outage)) {
	t.Run("s3", func(t *testing.T) {
		proxy := s3test.NewProxy(t, s3Server.Address(t))
		f(t, outage{s3test.URL(t, proxy.Address()), proxy.Cut})
	})
	t.Run("file", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "replica")
		f(t, outage{"file://" + dir, func(away bool) {
			if away { // below a file even root cannot write
				require.NoError(t, os.Rename(dir, dir+".away"))
				require.NoError(t, os.WriteFile(dir, nil, 0o600))
				return
			}
			require.NoError(t, os.Remove(dir))
			require.NoError(t, os.Rename(dir+".away", dir))
		}})
	})
}

// TestWebhooksWaitForTheReplica: while the replica cannot be reached, rooms continue, and
// events that it lacks are not delivered. When it is back, all are delivered in order.
func TestWebhooksWaitForTheReplica(t *testing.T) {
	everyReplica(t, func(t *testing.T, o outage) {
		hooks := newInbox(t)
		h := start(t, filepath.Join(t.TempDir(), "parlor.db"),
			config.Setting{Path: "replica", Value: o.url, From: "test"},
			config.Setting{Path: "webhook.urls", Value: hooks.URL + "/", From: "test"},
			config.Setting{Path: "webhook.filter_params.include_events", Value: "*", From: "test"},
			config.Setting{Path: "webhook.api_key", Value: "devkey", From: "test"},
			config.Setting{Path: "webhook.after_replication", Value: "true", From: "test"})
		c, ctx := h.roomService()
		_, err := c.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: "a", EmptyTimeout: rooms.WireNever})
		require.NoError(t, err)
		hooks.await(t, "/", 1)

		o.set(true)
		for n := range 10 {
			_, err := c.UpdateRoomMetadata(as(ctx, "a"), &livekit.UpdateRoomMetadataRequest{Room: "a", Metadata: strconv.Itoa(n)})
			require.NoError(t, err, "rooms do not wait")
		}
		_, err = c.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: "b", EmptyTimeout: rooms.WireNever})
		require.NoError(t, err)
		_, err = c.DeleteRoom(ctx, &livekit.DeleteRoomRequest{Room: "b"})
		require.NoError(t, err)
		// Deliveries that do not wait for the replica have been sent by then.
		require.Eventually(t, func() bool { return h.replication.Status().LagSeconds > 1 }, time.Minute, 5*time.Millisecond)
		require.Equal(t, []string{"room_started"}, hooks.types("/"))
		all, err := h.hooks.Endpoints(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 12, all[0].Pending)
		require.False(t, all[0].Down, "it is not the receiver that is missing")

		o.set(false)
		letters := hooks.await(t, "/", 13)
		order := map[string][]string{}
		for _, l := range letters {
			room := l.request.Header.Get("parlor-room-seq")
			order[l.room(t).Name] = append(order[l.room(t).Name], room)
		}
		require.Equal(t, map[string][]string{
			"a": {"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"}, "b": {"1", "2"},
		}, order)
	})
}

// TestNoReceiverSawWhatARestoreForgets loses machine and disk repeatedly while rooms
// change: every delivered event is on the next machine.
func TestNoReceiverSawWhatARestoreForgets(t *testing.T) {
	hooks := newInbox(t)
	replica := "file://" + filepath.Join(t.TempDir(), "replica")
	configuration := fmt.Sprintf(`{"replica": %q, "webhook": {"api_key": "devkey", "urls": [%q], "after_replication": true}}`, replica, hooks.URL+"/")
	p := spawn(t, machine(t), configuration)
	require.NotEmpty(t, p.url)
	var forgotten int
	for n := range 4 {
		before := len(hooks.letters("/"))
		ctx, stop := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		for i := range 4 {
			clients.Go(func() { churn(ctx, p.roomService(), fmt.Sprintf("%d-%d", n, i)) })
		}
		hooks.await(t, "/", before+100)
		time.Sleep(rand.N(time.Second)) // losses come at random moments
		acknowledged := p.newest()
		p.kill()
		stop()
		clients.Wait()
		require.NoError(t, os.RemoveAll(p.cmd.Dir))

		p = spawn(t, machine(t), configuration, "--expect-replica")
		require.NotEmpty(t, p.url, p.log)
		forgotten += int(max(0, acknowledged-p.newest()))
		log := p.events()
		for _, l := range hooks.letters("/") {
			kept, ok := log[l.event.Id]
			require.True(t, ok, "a receiver was told of %s, %s, which the restored machine does not know", l.event.Event, l.event.Id)
			require.JSONEq(t, string(kept.Event), string(withoutPassword(t, l.body)))
			require.Equal(t, strconv.FormatInt(kept.Seq, 10), l.request.Header.Get("parlor-seq"))
		}
	}
	t.Logf("4 machines lost: %d acknowledged events forgotten, none of which anybody was told of; %d deliveries", forgotten, len(hooks.letters("/")))

	log := p.events()
	require.Eventually(t, func() bool { return len(hooks.firsts("/")) == len(log) }, time.Minute, 20*time.Millisecond)
	for room, seqs := range hooks.firsts("/").byRoom(t) {
		require.True(t, slices.IsSorted(seqs), "room %s was told in the order %v", room, seqs)
	}
}

// churn opens and closes rooms until ctx ends or the server does not answer.
func churn(ctx context.Context, api livekit.RoomService, name string) {
	ctx = as(ctx, name)
	for {
		if _, err := api.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: name}); err != nil {
			return
		}
		if _, err := api.DeleteRoom(ctx, &livekit.DeleteRoomRequest{Room: name}); err != nil {
			return
		}
	}
}

// withoutPassword is a webhook's body in the form of the log.
func withoutPassword(t *testing.T, body []byte) []byte {
	t.Helper()
	var e map[string]any
	require.NoError(t, json.Unmarshal(body, &e))
	if room, ok := e["room"].(map[string]any); ok {
		delete(room, "turnPassword")
	}
	b, err := json.Marshal(e)
	require.NoError(t, err)
	return b
}

// loggedEvent is an event in GET /v1/events.
type loggedEvent struct {
	Seq   int64
	ID    string
	Event json.RawMessage
}

// events is the whole log, by id.
func (p *process) events() map[string]loggedEvent {
	p.t.Helper()
	all := map[string]loggedEvent{}
	for next := int64(0); ; {
		var page struct {
			Events []loggedEvent
			Next   int64
		}
		require.Equal(p.t, 200, p.get(fmt.Sprint("/v1/events?limit=1000&after=", next), &page))
		for _, e := range page.Events {
			all[e.ID] = e
		}
		if len(page.Events) == 0 {
			return all
		}
		next = page.Next
	}
}

// newest is the seq of the newest event.
func (p *process) newest() int64 {
	p.t.Helper()
	var page struct{ Newest int64 }
	require.Equal(p.t, 200, p.get("/v1/events?limit=1", &page))
	return page.Newest
}

// TestReplicationThatCannotStage is reported everywhere that an operator may look, while
// rooms continue. Then it heals, the events that waited for the replica are delivered,
// and the program ends cleanly.
func TestReplicationThatCannotStage(t *testing.T) {
	t.Parallel()
	hooks := newInbox(t)
	place := filepath.Join(t.TempDir(), "replica")
	home := machine(t)
	configuration := fmt.Sprintf(`{"replica": "file://%s", "webhook": {"api_key": "devkey", "urls": [%q], "after_replication": true}}`, place, hooks.URL+"/")
	p := spawn(t, home, configuration)
	require.NotEmpty(t, p.url, p.log)
	ctx := as(t.Context(), "before")
	_, err := p.roomService().CreateRoom(ctx, &livekit.CreateRoomRequest{Name: "before", EmptyTimeout: rooms.WireNever})
	require.NoError(t, err)
	hooks.await(t, "/", 1)

	folder := filepath.Join(home, ".parlor.db-litestream")
	require.NoError(t, os.RemoveAll(folder))
	require.NoError(t, os.WriteFile(folder, nil, 0o600)) // below a file even root cannot write
	_, err = p.roomService().CreateRoom(as(t.Context(), "during"), &livekit.CreateRoomRequest{Name: "during", EmptyTimeout: rooms.WireNever})
	require.NoError(t, err, "rooms go on")
	var status struct {
		Replication struct {
			Stage      string
			LagSeconds float64 `json:"lag_seconds"`
			LastError  string  `json:"last_error"`
			Failures   uint64
		}
	}
	require.Eventually(t, func() bool {
		require.Equal(t, 200, p.get("/v1/status", &status))
		return status.Replication.Stage == "local" && status.Replication.LagSeconds > 1
	}, time.Minute, 50*time.Millisecond)
	require.Contains(t, status.Replication.LastError, "make "+folder+" a folder that the server can write")
	require.NotZero(t, status.Replication.Failures)
	require.Greater(t, p.metric("parlor_replica_lag_seconds"), 1.0)
	require.Equal(t, 1.0, p.metric(`parlor_replica_failing{stage="local"}`))
	require.NotZero(t, p.metric(`parlor_replica_failures_total{stage="local"}`))
	resp, err := http.Get(p.url + "/readyz")
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, errors.Join(err, resp.Body.Close()))
	require.Equal(t, 200, resp.StatusCode, "calls go on")
	require.Regexp(t, `^ready, but the replica is \d+ s behind: local fails: `, string(body))
	require.Len(t, hooks.letters("/"), 1, "a receiver was told what a restore forgets")

	require.NoError(t, os.Remove(folder))
	hooks.await(t, "/", 2)
	require.Eventually(t, func() bool { return p.metric("parlor_replica_lag_seconds") == 0 }, time.Minute, 50*time.Millisecond)
	require.Equal(t, 1.0, p.metric("parlor_replica_generations_total"))
	require.NoError(t, os.RemoveAll(filepath.Join(folder, "ltx", "0"))) // again right before the end
	_, err = p.roomService().CreateRoom(as(t.Context(), "after"), &livekit.CreateRoomRequest{Name: "after", EmptyTimeout: rooms.WireNever})
	require.NoError(t, err)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.Zero(t, p.exit(2*stopBound), p.log)
	p = spawn(t, machine(t), configuration, "--expect-replica")
	require.NotEmpty(t, p.url, p.log)
	list, err := p.roomService().ListRooms(as(t.Context(), ""), &livekit.ListRoomsRequest{})
	require.NoError(t, err)
	require.Len(t, list.Rooms, 3)
}
