package api_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/log"
	"parlor/server/api"
)

func TestStatus(t *testing.T) {
	h := open(t)
	h.mustJoin("r", "ada")
	h.server("POST", "/v1/rooms", `{"name":"idle"}`)
	h.config.Replica = replica{}
	h.serve(h.config)
	type answer struct {
		Version string
		Rooms   struct {
			Open, Live, Participants, Overdue int
			ExpectedBack                      int       `json:"expected_back"`
			OldestCreatedAt                   time.Time `json:"oldest_created_at"`
		}
		Database struct {
			WALBytes int `json:"wal_bytes"`
		}
		Replication struct {
			State string
			Epoch int
		}
		Webhooks struct{ Endpoints, Pending int }
	}
	resp, body := h.server("GET", "/v1/status", "")
	require.Equal(t, 200, resp.StatusCode, body)
	got := read[answer](t, body)
	require.Equal(t, "1.2.3", got.Version)
	require.Equal(t, 2, got.Rooms.Open)
	require.Equal(t, 1, got.Rooms.Participants)
	require.Zero(t, got.Rooms.Overdue)
	require.WithinDuration(t, time.Now(), got.Rooms.OldestCreatedAt, time.Minute)
	require.Equal(t, 7, got.Database.WALBytes)
	require.Equal(t, api.LeaseHeld, got.Replication.State)
	require.Equal(t, 3, got.Replication.Epoch)
	require.Equal(t, 1, got.Webhooks.Endpoints)
	require.NotZero(t, got.Webhooks.Pending)
	h.config.Replica = nil
	h.serve(h.config)
	_, body = h.server("GET", "/v1/status", "")
	require.Contains(t, body, `"replication":null`)
}

// unreadable is a database whose reads fail.
type unreadable struct{ api.Records }

func (unreadable) CountRooms(context.Context) (int64, int64, error) {
	return 0, 0, rooms.Errorf(rooms.Unavailable, "the database cannot be read: the disk failed")
}

// TestStatusOfAFailingDatabase: the status is needed just then.
func TestStatusOfAFailingDatabase(t *testing.T) {
	h := open(t)
	h.mustJoin("r", "ada")
	h.config.Records = unreadable{h.store}
	for _, writer := range []func() api.Writer{h.config.Writer, nil} {
		h.config.Writer = writer
		h.serve(h.config)
		resp, body := h.server("GET", "/v1/status", "")
		require.Equal(t, 200, resp.StatusCode, body)
		got := read[struct {
			Version string
			Rooms   struct {
				Open, Overdue      *int
				Live, Participants int
			}
			Database struct{ Failing string }
		}](t, body)
		require.Equal(t, "the database cannot be read: the disk failed", got.Database.Failing)
		require.Equal(t, "1.2.3", got.Version)
		require.Equal(t, 1, got.Rooms.Live)
		require.Equal(t, 1, got.Rooms.Participants)
		require.Nil(t, got.Rooms.Open, "what is not known is not called 0")
		require.Nil(t, got.Rooms.Overdue)
		require.Contains(t, body, `"webhooks":null`)
	}
}

type replica struct{}

func (replica) Status() api.ReplicaStatus { return api.ReplicaStatus{State: api.LeaseHeld, Epoch: 3} }

func TestEvents(t *testing.T) {
	h := open(t)
	for _, name := range []string{"r", "other"} {
		_, err := h.rooms.Create(t.Context(), &livekit.CreateRoomRequest{Name: name})
		require.NoError(t, err)
	}
	resp, body := h.server("GET", "/v1/events?type=room_started&type=room_finished", "")
	require.Equal(t, 200, resp.StatusCode, body)
	require.Equal(t, 2, strings.Count(body, `"type":"room_started"`))
	require.Equal(t, 400, h.status("GET", "/v1/events?limit=x", ""))
	require.Equal(t, 400, h.status("GET", "/v1/events?room=a&room=b", ""))

	own := h.token(&auth.VideoGrant{RoomAdmin: true, Room: "r"})
	ask := func(path, token string) int {
		resp, _ := h.ask("GET", path, token, "", "")
		return resp.StatusCode
	}
	require.Equal(t, 401, ask("/v1/events", ""))
	require.Equal(t, 403, ask("/v1/events", own), "a room's admin has its own room's events alone")
	require.Equal(t, 403, ask("/v1/events?room=other", own))
	require.Equal(t, 200, ask("/v1/events?room=r", own))
	lister := h.token(&auth.VideoGrant{RoomList: true})
	require.Equal(t, 403, ask("/v1/events", lister), "events show participants, as a list of rooms does not")
	require.Equal(t, 403, ask("/v1/events?room=r", lister))
	require.Equal(t, 403, ask("/v1/events?room=RM_x", h.token(&auth.VideoGrant{RoomAdmin: true, Room: "RM_x"})),
		"a name that is like an id is taken for one")

	req, err := http.NewRequestWithContext(t.Context(), "GET", h.URL+"/v1/events?room=r&access_token="+own, nil)
	require.NoError(t, err)
	req.Header.Set("Accept", "text/event-stream")
	stream, err := h.Client().Do(req)
	require.NoError(t, err)
	defer stream.Body.Close()
	require.Equal(t, "text/event-stream", stream.Header.Get("Content-Type"))
	require.NoError(t, h.rooms.Delete(t.Context(), "r", nil))
	lines := bufio.NewScanner(stream.Body)
	for lines.Scan() && lines.Text() != "event: room_finished" {
	}
	require.Equal(t, "event: room_finished", lines.Text())
}

func TestWebhookOperations(t *testing.T) {
	h := open(t)
	_, err := h.rooms.Create(t.Context(), &livekit.CreateRoomRequest{Name: "r"})
	require.NoError(t, err)
	type endpoint struct {
		ID                 int64
		URL, State, Reason string
		Pending, Dead      int
	}
	_, body := h.server("GET", "/v1/webhooks", "")
	all := read[struct{ Webhooks []endpoint }](t, body).Webhooks
	require.Len(t, all, 1)
	require.NotContains(t, all[0].URL, "secret", "a URL's query may be a secret")
	path := fmt.Sprint("/v1/webhooks/", all[0].ID)

	resp, body := h.server("POST", path+"/pause", `{"reason":"moving"}`)
	require.Equal(t, 200, resp.StatusCode, body)
	require.Equal(t, "paused", read[endpoint](t, body).State)
	require.Equal(t, "moving", read[endpoint](t, body).Reason)
	resp, body = h.server("POST", path+"/test", "")
	require.Equal(t, 202, resp.StatusCode, body)
	sent := read[struct {
		ID  string
		Seq int64
	}](t, body)
	_, body = h.server("GET", path+"/deliveries?limit=1", "")
	page := read[struct {
		Deliveries []struct {
			Seq         int64
			State, Type string
		}
		NextCursor string `json:"next_cursor"`
	}](t, body)
	require.Equal(t, sent.Seq, page.Deliveries[0].Seq, "newest first")
	_, body = h.server("GET", path+"/deliveries?limit=1&cursor="+page.NextCursor, "")
	require.Contains(t, body, `"type":"room_started"`)

	n, err := h.store.BoundPending(t.Context(), all[0].ID, 0, time.Now().UnixMilli(), "a test")
	require.NoError(t, err)
	require.Equal(t, 2, n)
	_, body = h.server("GET", path, "")
	require.Equal(t, 2, read[endpoint](t, body).Dead)
	resp, body = h.server("POST", path+"/replay", `{"event_id":"`+sent.ID+`"}`)
	require.Equal(t, 200, resp.StatusCode, body)
	require.JSONEq(t, `{"replayed":1}`, body)
	_, body = h.server("POST", path+"/replay", `{"from_seq":1,"to_seq":1,"since":"2001-01-01T00:00:00Z","state":"any"}`)
	require.JSONEq(t, `{"replayed":1}`, body)
	_, body = h.server("POST", path+"/replay", "")
	require.JSONEq(t, `{"replayed":0}`, body, "nothing is dead any more")
	_, body = h.server("POST", path+"/resume", "")
	require.Equal(t, "on", read[endpoint](t, body).State)

	// A disabled endpoint gets no deliveries, so replayed ones would stay pending for
	// ever.
	require.NoError(t, h.store.SetEndpointState(t.Context(), all[0].ID, log.EndpointDisabled, "it said 410"))
	_, body = h.server("GET", path, "")
	pending := read[endpoint](t, body).Pending
	for _, what := range []string{"", `{"event_id":"` + sent.ID + `"}`, `{"missing":true,"state":"any"}`} {
		resp, body = h.server("POST", path+"/replay", what)
		require.Equal(t, 409, resp.StatusCode, body)
		require.Equal(t, "failed_precondition", read[problemJSON](t, body).Code)
		require.Contains(t, read[problemJSON](t, body).Detail, "resume it first")
	}
	_, body = h.server("GET", path, "")
	require.Equal(t, pending, read[endpoint](t, body).Pending)
	require.Equal(t, 200, h.status("POST", path+"/resume", ""))
	require.Equal(t, 200, h.status("POST", path+"/replay", ""))

	require.Equal(t, 404, h.status("POST", path+"/replay", `{"event_id":"EV_absent"}`))
	require.Equal(t, 400, h.status("POST", path+"/replay", `{"state":"x"}`))
	require.Equal(t, 400, h.status("POST", path+"/replay", `{"from_seq":0}`))
	require.Equal(t, 400, h.status("GET", path+"/deliveries?state=x", ""))
	require.Equal(t, 400, h.status("GET", path+"/deliveries?cursor=x", ""))
	for _, absent := range []string{"999", "x"} {
		require.Equal(t, 404, h.status("GET", "/v1/webhooks/"+absent, ""))
		require.Equal(t, 404, h.status("GET", "/v1/webhooks/"+absent+"/deliveries", ""))
		for _, verb := range []string{"pause", "resume", "test", "replay"} {
			require.Equal(t, 404, h.status("POST", "/v1/webhooks/"+absent+"/"+verb, ""))
		}
	}
	h.config.Webhooks = nil
	h.serve(h.config)
	_, body = h.server("GET", "/v1/webhooks", "")
	require.JSONEq(t, `{"webhooks":[]}`, body)
}

func TestIdempotencyKey(t *testing.T) {
	h := open(t)
	const mint = `{"identity":"ada","room":"r"}`
	resp, first := h.server("POST", "/v1/tokens", mint, "Idempotency-Key", "k")
	require.Equal(t, 201, resp.StatusCode)
	time.Sleep(1100 * time.Millisecond) // a token's time is in seconds
	resp, again := h.server("POST", "/v1/tokens", mint, "Idempotency-Key", "k")
	require.Equal(t, 201, resp.StatusCode)
	require.Equal(t, first, again)
	require.Equal(t, "true", resp.Header.Get("Idempotency-Replayed"))
	require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
	_, other := h.server("POST", "/v1/tokens", mint, "Idempotency-Key", "k2")
	require.NotEqual(t, first, other)
	resp, body := h.server("POST", "/v1/tokens", `{"room_list":true}`, "Idempotency-Key", "k")
	require.Equal(t, 422, resp.StatusCode)
	require.Equal(t, "idempotency_key_reused", read[problemJSON](t, body).Code)
	require.Equal(t, 400, h.status("POST", "/v1/tokens", mint, "Idempotency-Key", strings.Repeat("k", 256)))

	// A retry gets the first answer, also that it created the room.
	require.Equal(t, 201, h.status("POST", "/v1/rooms", `{"name":"r"}`, "Idempotency-Key", "k"))
	require.Equal(t, 201, h.status("POST", "/v1/rooms", `{"name":"r"}`, "Idempotency-Key", "k"))
	resp, _ = h.ask("POST", "/v1/rooms", "", "application/json", `{"name":"r"}`)
	require.Equal(t, 401, resp.StatusCode)

	// Of many concurrent ones one is executed; the others are refused, or wait for its
	// answer.
	ada := h.mustJoin("r", "ada")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			status := h.status("POST", "/v1/rooms/r/data", `{"text":"once"}`, "Idempotency-Key", "k")
			if status != 204 && status != 409 {
				t.Errorf("status %d", status)
			}
		})
	}
	all.Wait()
	require.Eventually(t, func() bool { return ada.received() > 0 }, time.Minute, time.Millisecond)
	require.Equal(t, 1, ada.received())

	h.rooms.Stop()
	require.Equal(t, 503, h.status("POST", "/v1/rooms", `{"name":"x"}`, "Idempotency-Key", "later"))
	resp, _ = h.server("POST", "/v1/rooms", `{"name":"x"}`, "Idempotency-Key", "later")
	require.Empty(t, resp.Header.Get("Idempotency-Replayed"), "what may be tried again is tried again")
}
