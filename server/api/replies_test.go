package api

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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
	require.Equal(t, len(rs.byKey), rs.order.Len())
	require.Zero(t, rs.bytes)
}
