package events_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/stretchr/testify/require"

	"parlor/server/access"
)

// TestOneKeyLeavesStreamsForOthers: it is told to slow down when it has its share,
// and gets a place again when it gives one up.
func TestOneKeyLeavesStreamsForOthers(t *testing.T) {
	f := newFixture(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &access.Claims{APIKey: r.URL.Query().Get("key"), Grants: &auth.ClaimGrants{}}
		f.handler.ServeHTTP(w, r.WithContext(access.WithClaims(r.Context(), c)))
	}))
	defer srv.Close()
	defer srv.CloseClientConnections()
	open := func(key string) (status int, header http.Header, stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, "GET", srv.URL+"/v1/events?after=latest&key="+key, nil)
		require.NoError(t, err)
		req.Header.Set("Accept", "text/event-stream")
		resp, err := srv.Client().Do(req)
		require.NoError(t, err)
		return resp.StatusCode, resp.Header, func() { cancel(); _ = resp.Body.Close() }
	}
	const share = 128
	var stops []func()
	defer func() {
		for _, stop := range stops {
			stop()
		}
	}()
	for range share {
		status, _, stop := open("greedy")
		stops = append(stops, stop)
		require.Equal(t, 200, status)
	}
	status, header, stop := open("greedy")
	stop()
	require.Equal(t, 429, status)
	require.NotEmpty(t, header.Get("Retry-After"))
	status, _, stop = open("modest")
	stops = append(stops, stop)
	require.Equal(t, 200, status)

	stops[0]()
	require.Eventually(t, func() bool {
		status, _, stop := open("greedy")
		stops = append(stops, stop)
		return status == 200
	}, 30*time.Second, 20*time.Millisecond)
}
