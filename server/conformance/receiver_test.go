package conformance

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/livekit/protocol/webhook"
	"github.com/stretchr/testify/require"
)

// receiver receives webhooks and verifies them with LiveKit's SDK.
type receiver struct {
	*httptest.Server

	mu       sync.Mutex // guards the following
	events   []*livekit.WebhookEvent
	refused  []error
	ids      map[string]int
	mimeType map[string]int
}

func newReceiver() *receiver {
	r := &receiver{ids: map[string]int{}, mimeType: map[string]int{}}
	r.Server = httptest.NewServer(r)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	event, err := webhook.ReceiveWebhookEvent(req, auth.NewSimpleKeyProvider(apiKey, apiSecret))
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.refused = append(r.refused, err)
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	r.mimeType[req.Header.Get("Content-Type")]++
	if r.ids[event.Id]++; r.ids[event.Id] == 1 {
		r.events = append(r.events, event)
	}
}

// of returns the events of a room in the order of their first arrival.
func (r *receiver) of(room string) []*livekit.WebhookEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	var events []*livekit.WebhookEvent
	for _, e := range r.events {
		if e.GetRoom().GetName() == room {
			events = append(events, e)
		}
	}
	return events
}

// lines are the room's events in the short form "event identity source".
func (r *receiver) lines(room string) []string {
	var lines []string
	for _, e := range r.of(room) {
		line := e.Event
		if id := e.GetParticipant().GetIdentity(); id != "" {
			line += " " + id
		}
		if e.Track != nil {
			line += " " + e.Track.GetSource().String()
		}
		lines = append(lines, line)
	}
	return lines
}

// await waits until the room's events include the given line.
func (r *receiver) await(t *testing.T, room, line string) {
	t.Helper()
	eventually(t, fmt.Sprintf("webhook %q of %s", line, room), func() bool {
		return slices.Contains(r.lines(room), line)
	})
}

// check fails the test if any delivery was not signed correctly.
func (r *receiver) check(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	require.Empty(t, r.refused, "deliveries that LiveKit's receiver does not verify")
	for mime := range r.mimeType {
		require.Equal(t, "application/webhook+json", mime)
	}
}
