package authorize_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/livekit/protocol/webhook"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/server/authorize"
	"parlor/webhooks"
)

const (
	key    = "APIkey"
	secret = "a-secret-of-thirty-two-characters"
)

type trip func(*http.Request) (*http.Response, error)

func (t trip) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

func says(status int, body string) (*http.Response, error) {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
}

func open(t *testing.T, edit func(*authorize.Config)) *authorize.Hook {
	t.Helper()
	signer, err := webhooks.NewSigner(key, secret)
	require.NoError(t, err)
	c := authorize.Config{
		URL: "http://app.example/authorize", Timeout: time.Second, Cache: 10 * time.Second,
		Signer: signer, UserAgent: "Parlor/test", Log: slog.New(slog.DiscardHandler),
	}
	edit(&c)
	h := authorize.New(c)
	t.Cleanup(h.Close)
	return h
}

func digest(token string) [sha256.Size]byte { return sha256.Sum256([]byte(token)) }

func question(create bool) *authorize.Question {
	return &authorize.Question{
		Room: "tea", Create: create, APIKey: key, TokenID: "t1", Grants: json.RawMessage(`{"roomJoin":true}`),
		Participant: authorize.Participant{Identity: "ann"},
	}
}

// TestTheQuestionIsSignedAsWebhooksAre: LiveKit's receiver takes it.
func TestTheQuestionIsSignedAsWebhooksAre(t *testing.T) {
	var got authorize.Question
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := webhook.Receive(r, auth.NewSimpleKeyProvider(key, secret))
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		ok := r.Header.Get("Webhook-Id") != "" && r.Header.Get("Webhook-Timestamp") != "" &&
			strings.HasPrefix(r.Header.Get("Webhook-Signature"), "v1,") && r.Header.Get("Content-Type") == "application/json"
		if !ok || json.Unmarshal(body, &got) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(w, `{"allow":true,"participant":{"name":"Ann"}}`)
	}))
	defer app.Close()
	h := open(t, func(c *authorize.Config) { c.URL = app.URL })
	a, err := h.Ask(t.Context(), digest("token"), question(true))
	require.NoError(t, err)
	require.True(t, *a.Allow)
	require.Equal(t, "Ann", *a.Participant.Name)
	require.Equal(t, *question(true), got)
}

func TestAnswers(t *testing.T) {
	const unanswered = "none"
	for name, tc := range map[string]struct {
		status int
		body   string
		want   string // "yes", the message of a no, or none
	}{
		"yes":             {200, `{"allow":true}`, "yes"},
		"plain yes":       {204, ``, "yes"},
		"no":              {200, `{"allow":false,"message":"members only"}`, "members only"},
		"no, as status":   {403, `{"message":"members only"}`, "members only"},
		"bare 403":        {403, `<html>`, "you are not let into this room"},
		"one line":        {200, "{\"allow\":false,\"message\":\"a\\r\\nb\"}", "a  b"},
		"long message":    {200, `{"allow":false,"message":"` + strings.Repeat("x", 600) + `"}`, strings.Repeat("x", 500) + "…"},
		"empty":           {200, ``, unanswered},
		"says nothing":    {200, `{}`, unanswered},
		"not JSON":        {200, `yes`, unanswered},
		"two answers":     {200, `{"allow":true}{"allow":false}`, unanswered},
		"misspelt":        {200, `{"allow":true,"participant":{"permisions":{}}}`, unanswered},
		"unknown source":  {200, `{"allow":true,"participant":{"permissions":{"can_publish_sources":["nose"]}}}`, unanswered},
		"zero timeout":    {200, `{"allow":true,"room":{"empty_timeout":0}}`, unanswered},
		"too long":        {200, `{"allow":true,"message":"` + strings.Repeat("x", 2<<20) + `"}`, unanswered},
		"a redirect":      {302, ``, unanswered},
		"unauthenticated": {401, ``, unanswered},
		"broken":          {500, `{"allow":true}`, unanswered},
	} {
		t.Run(name, func(t *testing.T) {
			hook := func(allow bool) *authorize.Hook {
				return open(t, func(c *authorize.Config) {
					c.AllowOnFailure = allow
					c.Transport = trip(func(*http.Request) (*http.Response, error) { return says(tc.status, tc.body) })
				})
			}
			a, err := hook(false).Ask(t.Context(), digest("token"), question(false))
			lenient, lenientErr := hook(true).Ask(t.Context(), digest("token"), question(false))
			require.NoError(t, lenientErr)
			switch tc.want {
			case unanswered:
				_, unavailable := errors.AsType[*authorize.Unavailable](err)
				require.True(t, unavailable, "%v", err)
				require.NotContains(t, err.Error(), "app.example")
				require.True(t, *lenient.Allow)
			case "yes":
				require.NoError(t, err)
				require.True(t, *a.Allow && *lenient.Allow)
			default:
				require.NoError(t, err)
				require.Equal(t, tc.want, a.Message)
				require.False(t, *a.Allow || *lenient.Allow)
			}
		})
	}
}

// cached is how many questions were answered without a request.
func cached(t *testing.T, h *authorize.Hook) float64 {
	registry := prometheus.NewRegistry()
	registry.MustRegister(h)
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == "parlor_authorize_cached_total" {
			return f.Metric[0].GetCounter().GetValue()
		}
	}
	return -1
}

// TestACrowdAsksOncePerToken: as after a restart, and while the answer holds.
func TestACrowdAsksOncePerToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		h := open(t, func(c *authorize.Config) {
			c.Transport = trip(func(*http.Request) (*http.Response, error) {
				asked.Add(1)
				time.Sleep(100 * time.Millisecond)
				return says(200, `{"allow":true}`)
			})
		})
		ask := func(token string, create bool) {
			a, err := h.Ask(context.Background(), digest(token), question(create))
			require.NoError(t, err)
			require.True(t, *a.Allow)
		}
		var crowd sync.WaitGroup
		for range 50 {
			crowd.Go(func() { ask("one", true) })
			crowd.Go(func() { ask("two", true) })
		}
		crowd.Wait()
		require.EqualValues(t, 2, asked.Load())
		ask("one", true)
		ask("one", false) // a client that may open the room may enter it
		require.EqualValues(t, 2, asked.Load())
		require.Equal(t, 100.0, cached(t, h))
		time.Sleep(10 * time.Second)
		ask("one", true)
		require.EqualValues(t, 3, asked.Load(), "the answer has run out")
		q := question(true)
		q.Participant.Metadata = "another wish"
		_, err := h.Ask(context.Background(), digest("one"), q)
		require.NoError(t, err)
		require.EqualValues(t, 4, asked.Load(), "it is another question")
	})
}

func TestANoToOpeningIsNoNoToEntering(t *testing.T) {
	h := open(t, func(c *authorize.Config) {
		c.Transport = trip(func(r *http.Request) (*http.Response, error) {
			var q authorize.Question
			if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
				return nil, err
			}
			if q.Create {
				return says(200, `{"allow":false}`)
			}
			return says(200, `{"allow":true}`)
		})
	})
	for range 2 {
		a, err := h.Ask(t.Context(), digest("t"), question(true))
		require.NoError(t, err)
		require.False(t, *a.Allow)
		a, err = h.Ask(t.Context(), digest("t"), question(false))
		require.NoError(t, err)
		require.True(t, *a.Allow)
	}
}

// TestAReconnectDoesNotAnswerForAJoin: a join is asked for by itself.
func TestAReconnectDoesNotAnswerForAJoin(t *testing.T) {
	h := open(t, func(c *authorize.Config) {
		c.Transport = trip(func(r *http.Request) (*http.Response, error) {
			var q authorize.Question
			if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
				return nil, err
			}
			if q.Reconnect {
				return says(204, "")
			}
			return says(200, `{"allow":true,"participant":{"permissions":{"can_publish":false}}}`)
		})
	})
	back := question(false)
	back.Reconnect = true
	for range 2 {
		a, err := h.Ask(t.Context(), digest("t"), back)
		require.NoError(t, err)
		require.Nil(t, a.Participant)
		a, err = h.Ask(t.Context(), digest("t"), question(false))
		require.NoError(t, err)
		require.NotNil(t, a.Participant)
	}
	require.Equal(t, 2.0, cached(t, h))
}

func TestAFailureIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		h := open(t, func(c *authorize.Config) {
			c.Transport = trip(func(r *http.Request) (*http.Response, error) {
				if asked.Add(1) > 1 {
					return says(204, "")
				}
				<-r.Context().Done() // no answer
				return nil, r.Context().Err()
			})
		})
		began := time.Now()
		_, err := h.Ask(context.Background(), digest("t"), question(false))
		require.ErrorContains(t, err, "no answer within 1s")
		require.Equal(t, time.Second, time.Since(began))
		_, err = h.Ask(context.Background(), digest("t"), question(false))
		require.NoError(t, err)

		// A client that gives up does not take the answer from the others.
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err = h.Ask(ctx, digest("u"), question(false))
		if err != nil {
			require.ErrorIs(t, err, context.Canceled)
		}
		_, err = h.Ask(context.Background(), digest("u"), question(false))
		require.NoError(t, err)
		require.EqualValues(t, 3, asked.Load())
	})
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var elsewhere atomic.Bool
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			elsewhere.Store(true)
			w.WriteHeader(http.StatusNoContent)
			return
		}
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer app.Close()
	h := open(t, func(c *authorize.Config) { c.URL = app.URL })
	_, err := h.Ask(t.Context(), digest("t"), question(false))
	require.Error(t, err)
	require.False(t, elsewhere.Load())
}

func TestAmendments(t *testing.T) {
	h := open(t, func(c *authorize.Config) {
		c.Transport = trip(func(*http.Request) (*http.Response, error) {
			return says(200, `{"allow":true,
				"participant":{"name":"Ann","metadata":"","attributes":{"role":"host","old":""},
					"permissions":{"can_publish":false,"can_publish_sources":["camera"],"hidden":true}},
				"room":{"empty_timeout":600,"departure_timeout":"never","max_participants":5,"metadata":"m","tags":{"a":"b"}}}`)
		})
	})
	a, err := h.Ask(t.Context(), digest("t"), question(true))
	require.NoError(t, err)
	earlier := &livekit.ParticipantInfo{
		Identity: "ann", Name: "A", Metadata: "secret", Attributes: map[string]string{"old": "x", "kept": "y"},
		Permission: &livekit.ParticipantPermission{CanPublish: true, CanSubscribe: true},
	}
	got := a.Amend(earlier)
	require.Equal(t, "Ann", got.Name)
	require.Empty(t, got.Metadata)
	require.Equal(t, map[string]string{"role": "host", "kept": "y"}, got.Attributes)
	require.False(t, got.Permission.CanPublish)
	require.True(t, got.Permission.CanSubscribe, "not in the answer")
	require.True(t, got.Permission.Hidden)
	require.Equal(t, []livekit.TrackSource{livekit.TrackSource_CAMERA}, got.Permission.CanPublishSources)
	require.Equal(t, "A", earlier.Name, "the token's own stays")
	require.Len(t, earlier.Attributes, 2)

	room := a.AmendRoom(&livekit.CreateRoomRequest{MaxParticipants: 2, SyncStreams: true})
	require.EqualValues(t, 600, room.EmptyTimeout)
	require.Equal(t, rooms.WireNever, room.DepartureTimeout)
	require.EqualValues(t, 5, room.MaxParticipants)
	require.Equal(t, "m", room.Metadata)
	require.Equal(t, map[string]string{"a": "b"}, room.Tags)
	require.True(t, room.SyncStreams)
	require.EqualValues(t, 600, a.AmendRoom(nil).EmptyTimeout)

	yes := true
	plain := &authorize.Answer{Allow: &yes}
	require.Same(t, earlier, plain.Amend(earlier))
	require.Nil(t, plain.AmendRoom(nil))
}

// FuzzAnswer holds that every answer is read or refused.
func FuzzAnswer(f *testing.F) {
	f.Add(200, `{"allow":true,"participant":{"permissions":{"can_publish_sources":["camera"]}},"room":{"empty_timeout":"never"}}`)
	f.Add(403, `{"message":"no"}`)
	signer, err := webhooks.NewSigner(key, secret)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, status int, body string) {
		h := authorize.New(authorize.Config{
			URL: "http://app.example/", Timeout: time.Second, Signer: signer, Log: slog.New(slog.DiscardHandler),
			Transport: trip(func(*http.Request) (*http.Response, error) { return says(status, body) }),
		})
		defer h.Close()
		a, err := h.Ask(t.Context(), digest("t"), question(true))
		if err != nil {
			return
		}
		require.NotNil(t, a.Allow)
		require.NotContains(t, a.Message, "\n")
		require.NotNil(t, a.Amend(&livekit.ParticipantInfo{}))
		a.AmendRoom(nil)
	})
}

// TestAskedWhileClosing: a question that comes during Close is answered or given up,
// and no request outlives Close.
func TestAskedWhileClosing(t *testing.T) {
	for range 50 {
		var under atomic.Int64
		h := open(t, func(c *authorize.Config) {
			c.Transport = trip(func(*http.Request) (*http.Response, error) {
				under.Add(1)
				defer under.Add(-1)
				return says(200, `{"allow":true}`)
			})
		})
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				_, err := h.Ask(t.Context(), digest(string(rune('a'+i))), question(false))
				var gone *authorize.Unavailable
				if err != nil && !errors.As(err, &gone) {
					t.Error(err)
				}
			})
		}
		h.Close()
		if under.Load() != 0 {
			t.Error("a request goes on after Close")
		}
		all.Wait()
	}
}
