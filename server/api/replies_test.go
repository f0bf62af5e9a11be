package api

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/livekit/protocol/auth"
	"github.com/stretchr/testify/require"

	"parlor/server/access"
)

func TestRepliesAreBounded(t *testing.T) {
	rs := newReplies(nil)
	big := strings.Repeat("x", maxKept/4)
	ask := func(key string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		require.NoError(t, rs.once(w, httptest.NewRequest("POST", "/", nil), key, false, slog.New(slog.DiscardHandler),
			func(w http.ResponseWriter, _ *http.Request) error {
				_, err := io.WriteString(w, big)
				return err
			}))
		return w
	}
	for i := range 10 {
		ask(fmt.Sprint(i))
		require.LessOrEqual(t, rs.bytes, maxKept)
	}
	require.Equal(t, "true", ask("9").Header().Get("Idempotency-Replayed"))
	require.Empty(t, ask("0").Header().Get("Idempotency-Replayed"), "the oldest is forgotten first")
	big = ""
	for i := range maxReplies + 10 {
		ask(fmt.Sprint("n", i))
	}
	require.LessOrEqual(t, len(rs.byKey), maxReplies)
	require.Equal(t, len(rs.byKey), rs.kept[""].order.Len())
	require.Zero(t, rs.bytes)
}

// TestOneKeyDoesNotCrowdOutAnother: the key with the most replies loses its oldest first,
// by number and by size.
func TestOneKeyDoesNotCrowdOutAnother(t *testing.T) {
	rs := newReplies(nil)
	ask := func(apiKey, key, body string) bool {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/", nil)
		r = r.WithContext(access.WithClaims(r.Context(), &access.Claims{APIKey: apiKey, Grants: &auth.ClaimGrants{}}))
		require.NoError(t, rs.once(w, r, key, false, slog.New(slog.DiscardHandler),
			func(w http.ResponseWriter, _ *http.Request) error {
				_, err := io.WriteString(w, body)
				return err
			}))
		return w.Header().Get("Idempotency-Replayed") == "true"
	}
	ask("modest", "first", "x")
	for i := range maxReplies + 10 {
		ask("greedy", fmt.Sprint(i), "")
	}
	require.LessOrEqual(t, len(rs.byKey), maxReplies)
	require.True(t, ask("modest", "first", "x"))
	for i := range 10 {
		ask("greedy", fmt.Sprint("big", i), strings.Repeat("x", maxKept/4))
		require.LessOrEqual(t, rs.bytes, maxKept)
	}
	require.True(t, ask("modest", "first", "x"))
	require.True(t, ask("greedy", "big9", ""), "the newest is kept")
	require.False(t, ask("greedy", "0", ""), "the oldest is not")
}
