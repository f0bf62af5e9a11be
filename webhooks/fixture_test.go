package webhooks_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	lkwebhook "github.com/livekit/protocol/webhook"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/guid"
	"parlor/rooms/log"
	"parlor/rooms/sqlite"
	"parlor/rooms/sqlite/sqlitetest"
	"parlor/webhooks"
)

const (
	apiKey    = "APIkey"
	apiSecret = "a secret of at least thirty-two characters"
)

// world is a store with rooms in it.
type world struct {
	t     testing.TB
	store *sqlite.Store
}

func newWorld(t testing.TB) *world {
	s, err := sqlite.Open(context.Background(), sqlite.Config{Path: sqlitetest.Path(t)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	return &world{t: t, store: s}
}

func (w *world) submit(c *rooms.Change) rooms.Record {
	type result struct {
		out rooms.Outcome
		err error
	}
	done := make(chan result, 1)
	w.store.Submit(c, func(o rooms.Outcome, err error) { done <- result{o, err} })
	r := <-done
	require.NoError(w.t, r.err)
	return r.out.Room
}

// room opens a room, with room_started and more events in its transaction.
func (w *world) room(name string, more ...string) *room {
	now := time.Now()
	r := rooms.Record{
		SID: guid.New("RM_"), Name: name, CreatedMs: rooms.NowMs(now),
		EmptyTimeout: rooms.Never, DepartureTimeout: rooms.Never,
	}
	c := &rooms.Change{Kind: rooms.ChangeCreate, Room: r}
	for _, typ := range append([]string{log.RoomStarted}, more...) {
		c.Events = append(c.Events, newEvent(&r, typ))
	}
	return &room{world: w, record: w.submit(c)}
}

type room struct {
	world  *world
	record rooms.Record
}

// tell writes events of these types in one transaction.
func (r *room) tell(types ...string) {
	c := &rooms.Change{Kind: rooms.ChangeUpdate, Room: r.record}
	for _, typ := range types {
		c.Events = append(c.Events, newEvent(&r.record, typ))
	}
	r.record = r.world.submit(c)
}

func newEvent(r *rooms.Record, typ string) log.Event {
	return log.New(&livekit.WebhookEvent{Event: typ, Room: r.Info()}, time.Now())
}

// log is the whole event log.
func (w *world) log() []log.Event {
	var all []log.Event
	for {
		var after int64
		if n := len(all); n > 0 {
			after = all[n-1].Seq
		}
		page, err := w.store.Events(context.Background(), log.Query{After: after, Limit: 1000})
		require.NoError(w.t, err)
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
	}
}

func (w *world) stats() log.EndpointStats {
	all, err := w.store.EndpointStats(context.Background())
	require.NoError(w.t, err)
	require.NotEmpty(w.t, all)
	return all[0]
}

// start runs a dispatcher until the test ends.
func (w *world) start(c webhooks.Config) *webhooks.Dispatcher {
	d := webhooks.New(w.config(c))
	require.NoError(w.t, d.Start(context.Background()))
	w.t.Cleanup(d.Close)
	return d
}

func (w *world) config(c webhooks.Config) webhooks.Config {
	c.Store = w.store
	c.Key = apiKey
	c.Keys = map[string]string{apiKey: apiSecret, "other": "another secret of thirty-two characters"}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	if len(c.Endpoints) == 0 {
		c.Endpoints = []webhooks.Endpoint{{URL: "http://receiver.test/hook"}}
	}
	return c
}

// answer is a receiver's reaction to a request.
type answer struct {
	status int
	after  time.Duration
	err    error // in place of an answer
	header http.Header
	body   io.Reader
}

var ok = answer{status: http.StatusOK}

// received is a received request, verified.
type received struct {
	event  log.Event
	url    string
	at     time.Time
	status int // of the answer; 0 = none, or not in time
}

// receiver is a webhook receiver without a network, as an http.RoundTripper. It verifies
// each request by LiveKit's rules and by those of Standard Webhooks.
type receiver struct {
	t      testing.TB
	behave func(r received) answer // nil = ok

	mu      sync.Mutex // guards the following
	all     []received // in order of arrival
	active  int
	highest int // largest number of concurrent requests
}

func (r *receiver) RoundTrip(req *http.Request) (*http.Response, error) {
	got := verify(r.t, req, apiKey, apiSecret, webhooks.DeriveSecret(apiSecret))
	r.mu.Lock()
	i := len(r.all)
	r.all = append(r.all, got)
	r.active++
	r.highest = max(r.highest, r.active)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.active--
		r.mu.Unlock()
	}()
	a := ok
	if r.behave != nil {
		a = r.behave(got)
	}
	if a.after > 0 {
		select {
		case <-time.After(a.after):
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
	if a.err != nil {
		return nil, a.err
	}
	r.mu.Lock()
	r.all[i].status = a.status
	r.mu.Unlock()
	body := a.body
	if body == nil {
		body = strings.NewReader("")
	}
	h := a.header
	if h == nil {
		h = http.Header{}
	}
	return &http.Response{StatusCode: a.status, Header: h, Body: io.NopCloser(body), Request: req}, nil
}

func (r *receiver) requests() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// took is the acknowledged requests, in order of arrival.
func (r *receiver) took() []received {
	return slices.DeleteFunc(r.requests(), func(g received) bool { return g.status/100 != 2 })
}

// verify checks a request with LiveKit's own code and by the rules of Standard Webhooks,
// and returns its content.
func verify(t testing.TB, req *http.Request, key, secret, whsec string) received {
	body, err := io.ReadAll(req.Body)
	require.NoError(t, err)
	h := req.Header
	require.Equal(t, "application/webhook+json", h.Get("Content-Type"))
	require.False(t, strings.HasPrefix(h.Get("Authorization"), "Bearer"))

	req.Body = io.NopCloser(bytes.NewReader(body))
	ev, err := lkwebhook.ReceiveWebhookEvent(req, auth.NewSimpleKeyProvider(key, secret))
	require.NoError(t, err)
	require.Equal(t, ev.Id, h.Get("Webhook-Id"))
	require.NoError(t, checkStandard(h, body, whsec))

	number := func(name string) int64 {
		n, err := strconv.ParseInt(h.Get(name), 10, 64)
		require.NoError(t, err, name)
		return n
	}
	return received{
		event: log.Event{
			Seq: number("Parlor-Seq"), RoomSeq: number("Parlor-Room-Seq"), Epoch: number("Parlor-Epoch"),
			ID: ev.Id, Type: ev.Event, RoomSID: ev.Room.GetSid(), RoomName: ev.Room.GetName(), Body: body,
		},
		url: req.URL.String(), at: time.Now(),
	}
}

// checkStandard verifies a request according to the specification of Standard Webhooks.
func checkStandard(h http.Header, body []byte, whsec string) error {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(whsec, "whsec_"))
	if err != nil {
		return err
	}
	at, err := strconv.ParseInt(h.Get("webhook-timestamp"), 10, 64)
	if err != nil {
		return err
	}
	if age := time.Since(time.Unix(at, 0)); age > 5*time.Minute || age < -5*time.Minute {
		return fmt.Errorf("timestamp is off by %v", age)
	}
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "%s.%d.%s", h.Get("webhook-id"), at, body)
	for _, s := range strings.Fields(h.Get("webhook-signature")) {
		sum, found := strings.CutPrefix(s, "v1,")
		mac, err := base64.StdEncoding.DecodeString(sum)
		if found && err == nil && hmac.Equal(mac, m.Sum(nil)) {
			return nil
		}
	}
	return errors.New("no signature fits")
}

// requireAll checks the guarantee: the acknowledged requests agree with the log, each
// event with its own body, and each room's events in order.
func (w *world) requireAll(got []received) {
	w.t.Helper()
	want := w.log()
	byID := make(map[string]log.Event, len(want))
	for _, e := range want {
		byID[e.ID] = e
	}
	seen := map[string]bool{}
	last := map[string]int64{}
	for _, g := range got {
		e, known := byID[g.event.ID]
		require.True(w.t, known, "an event that is not in the log: %s", g.event.ID)
		require.Equal(w.t, e.Body, g.event.Body)
		require.Equal(w.t, [3]int64{e.Seq, e.RoomSeq, e.Epoch}, [3]int64{g.event.Seq, g.event.RoomSeq, g.event.Epoch})
		if !seen[e.ID] {
			require.Equal(w.t, last[e.RoomSID]+1, e.RoomSeq, "out of order in room %s", e.RoomName)
			last[e.RoomSID] = e.RoomSeq
		}
		seen[e.ID] = true
	}
	require.Len(w.t, seen, len(want), "events are missing")
}
