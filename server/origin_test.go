package server_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"parlor/server"
)

// TestOtherSitesDoNotActWithARememberedSecret: what a browser sends by itself.
func TestOtherSitesDoNotActWithARememberedSecret(t *testing.T) {
	c := complete(quiet())
	done := 0
	c.REST = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { done++ })
	c.CORSOrigins = []string{"*", "https://admin.example"}
	h := server.New(c).Handler()
	const basic, bearer = "Basic QVBJa2V5OmEtc2VjcmV0LW9mLXRoaXJ0eS10d28tY2hhcmFjdGVycw==", "Bearer x"
	for _, tc := range []struct {
		header map[string]string
		status int
	}{
		{map[string]string{"Authorization": basic}, 200}, // no browser
		{map[string]string{"Authorization": basic, "Origin": "http://server"}, 200},
		{map[string]string{"Authorization": basic, "Origin": "https://admin.example", "Sec-Fetch-Site": "cross-site"}, 200},
		{map[string]string{"Authorization": basic, "Origin": "https://evil.example"}, 403},
		{map[string]string{"Authorization": basic, "Sec-Fetch-Site": "cross-site"}, 403},
		{map[string]string{"Authorization": basic, "Origin": "null", "Content-Type": "text/plain"}, 403},
		{map[string]string{"Authorization": bearer, "Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}, 200},
	} {
		before := done
		w := ask(t, h, request{method: "POST", path: "/v1/webhooks/WH_x/pause", header: tc.header})
		require.Equal(t, tc.status, w.Code, tc.header)
		require.Equal(t, tc.status == 200, done > before)
	}
}

func TestQueriesHaveAFewParameters(t *testing.T) {
	h := server.New(complete(quiet())).Handler()
	require.Equal(t, 200, ask(t, h, request{path: "/rtc?" + strings.Repeat("a=b&", 200)}).Code)
	require.Equal(t, 400, ask(t, h, request{path: "/rtc?" + strings.Repeat("a&", 100_000)}).Code)
}
