package program

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/livekit/protocol/webhook"
	"github.com/stretchr/testify/require"

	"parlor/server/config"
)

// inbox receives webhooks and keeps all of them, by path.
type inbox struct {
	*httptest.Server

	mu     sync.Mutex // guards the following
	status map[string]int
	mail   map[string][]letter
}

// letter is one delivery.
type letter struct {
	request *http.Request // its body can be read once
	body    []byte
	event   *livekit.WebhookEvent
}

func newInbox(t *testing.T) *inbox {
	i := &inbox{status: map[string]int{}, mail: map[string][]letter{}}
	i.Server = httptest.NewServer(i)
	t.Cleanup(i.Close)
	return i
}

func (i *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender was killed
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var told struct{ ID, Event string }
	_ = json.Unmarshal(body, &told) // other requests have no event type
	i.mu.Lock()
	defer i.mu.Unlock()
	if status := i.status[r.URL.Path]; status != 0 {
		w.WriteHeader(status)
		return
	}
	i.mail[r.URL.Path] = append(i.mail[r.URL.Path], letter{r, body, &livekit.WebhookEvent{Id: told.ID, Event: told.Event}})
}

// answer makes a path answer with that status from now on; 0 accepts all.
func (i *inbox) answer(path string, status int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.status[path] = status
}

func (i *inbox) letters(path string) []letter {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.mail[path]
}

// types are the types of the events that arrived at a path.
func (i *inbox) types(path string) []string {
	var all []string
	for _, l := range i.letters(path) {
		all = append(all, l.event.Event)
	}
	return all
}

// await waits until that many have arrived at a path.
func (i *inbox) await(t *testing.T, path string, n int) []letter {
	t.Helper()
	require.Eventually(t, func() bool { return len(i.letters(path)) >= n }, time.Minute, 5*time.Millisecond,
		"%d webhooks at %s: %v", n, path, i.types(path))
	return i.letters(path)
}

// room is the room in a letter.
func (l letter) room(t *testing.T) (r struct{ Sid, Name string }) {
	t.Helper()
	var told struct{ Room *struct{ Sid, Name string } }
	told.Room = &r
	require.NoError(t, json.Unmarshal(l.body, &told))
	return r
}

// arrivals is letters without repetitions.
type arrivals []letter

// firsts is the letters that arrived at a path, each at its first arrival.
func (i *inbox) firsts(path string) arrivals {
	seen := map[string]bool{}
	var all arrivals
	for _, l := range i.letters(path) {
		if !seen[l.event.Id] {
			all = append(all, l)
		}
		seen[l.event.Id] = true
	}
	return all
}

// byRoom is the room seqs of the arrivals, by the room's SID.
func (a arrivals) byRoom(t *testing.T) map[string][]int {
	t.Helper()
	all := map[string][]int{}
	for _, l := range a {
		n, err := strconv.Atoi(l.request.Header.Get("parlor-room-seq"))
		require.NoError(t, err)
		sid := l.room(t).Sid
		all[sid] = append(all[sid], n)
	}
	return all
}

// standard is the signature of Standard Webhooks 1.0 with a secret.
func standard(t *testing.T, secret string, l letter) string {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	require.NoError(t, err)
	m := hmac.New(sha256.New, key)
	h := l.request.Header
	_, err = m.Write([]byte(h.Get("webhook-id") + "." + h.Get("webhook-timestamp") + "." + string(l.body)))
	require.NoError(t, err)
	return "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// TestEndpointsAsConfigured: each endpoint of the configuration gets its events, signed
// with its own key and secrets.
func TestEndpointsAsConfigured(t *testing.T) {
	hooks := newInbox(t)
	const (
		fresh  = "whsec_bmV3LW5ldy1uZXctbmV3LW5ldy1uZXctbmV3LW5ldw=="
		old    = "whsec_b2xkLW9sZC1vbGQtb2xkLW9sZC1vbGQtb2xkLW9sZA=="
		key    = "billing"
		secret = "0123456789abcdef0123456789abcdef"
	)
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"),
		config.Setting{Path: "keys", Value: "devkey:secret," + key + ":" + secret, From: "test"},
		config.Setting{Path: "webhook.api_key", Value: "devkey", From: "test"},
		config.Setting{Path: "webhook.urls", Value: hooks.URL + "/plain", From: "test"},
		config.Setting{Path: "webhook.filter_params.exclude_events", Value: "room_finished", From: "test"},
		config.Setting{Path: "webhook.endpoints", From: "test", Value: `
- {url: ` + hooks.URL + `/like-all}
- url: ` + hooks.URL + `/own
  name: billing
  api_key: ` + key + `
  filter_params: {include_events: [room_updated, room_finished]}
  ordering: strict
  secrets: [` + fresh + `, ` + old + `]
  retry_for: 7d
  concurrency: 1`})
	c, ctx := h.roomService()
	_, err := c.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: "r"})
	require.NoError(t, err)
	_, err = c.UpdateRoomMetadata(as(ctx, "r"), &livekit.UpdateRoomMetadataRequest{Room: "r", Metadata: "m"})
	require.NoError(t, err)
	_, err = c.DeleteRoom(ctx, &livekit.DeleteRoomRequest{Room: "r"})
	require.NoError(t, err)

	own := hooks.await(t, "/own", 2)
	hooks.await(t, "/plain", 1)
	hooks.await(t, "/like-all", 1)
	require.Equal(t, []string{"room_updated", "room_finished"}, hooks.types("/own"))
	require.Equal(t, []string{"room_started"}, hooks.types("/plain"))
	require.Equal(t, []string{"room_started"}, hooks.types("/like-all"))

	for _, l := range own {
		signed := strings.Split(l.request.Header.Get("webhook-signature"), " ")
		require.Equal(t, []string{standard(t, fresh, l), standard(t, old, l)}, signed, "both secrets sign")
		_, err := webhook.ReceiveWebhookEvent(l.request, auth.NewSimpleKeyProvider(key, secret))
		require.NoError(t, err, "LiveKit's receiver, with the endpoint's own key")
	}
	plain := hooks.letters("/plain")[0]
	require.NotContains(t, plain.request.Header.Get("webhook-signature"), " ")
	_, err = webhook.ReceiveWebhookEvent(plain.request, auth.NewSimpleKeyProvider("devkey", "secret"))
	require.NoError(t, err)

	all, err := h.hooks.Endpoints(ctx)
	require.NoError(t, err)
	require.Len(t, all, 3)
	for _, e := range all {
		if strings.HasSuffix(e.URL, "/own") {
			require.Equal(t, "billing", e.Name)
			require.Equal(t, key, e.Key)
			require.EqualValues(t, "strict", e.Ordering)
		} else {
			require.Empty(t, e.Name)
			require.EqualValues(t, "relaxed", e.Ordering)
		}
	}
}
