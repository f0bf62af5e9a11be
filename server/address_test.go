package server_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/stretchr/testify/require"

	"parlor/server"
	"parlor/server/ratelimit"
)

// TestWhoseAddressCounts: a proxy is believed only if it is trusted, and of what
// it says only what it saw itself.
func TestWhoseAddressCounts(t *testing.T) {
	c := complete(quiet())
	c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	c.RTC = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) })
	h := server.New(c).Handler()
	for _, tc := range []struct {
		peer      string
		forwarded []string
		want      string
	}{
		{"192.0.2.1:5", []string{"198.51.100.1"}, "192.0.2.1:5"},
		{"127.0.0.1:5", nil, "127.0.0.1:5"},
		{"127.0.0.1:5", []string{"198.51.100.1"}, "198.51.100.1:0"},
		{"[::1]:5", []string{"2001:db8::1"}, "[2001:db8::1]:0"},
		{"127.0.0.1:5", []string{"6.6.6.6, 198.51.100.1"}, "198.51.100.1:0"},
		{"127.0.0.1:5", []string{"6.6.6.6", "198.51.100.1, 10.0.0.3"}, "198.51.100.1:0"},
		{"127.0.0.1:5", []string{"10.0.0.2"}, "10.0.0.2:0"},
		{"127.0.0.1:5", []string{"198.51.100.1:4711"}, "198.51.100.1:0"},
		{"127.0.0.1:5", []string{"[2001:db8::1]:4711"}, "[2001:db8::1]:0"},
		{"127.0.0.1:5", []string{"6.6.6.6, nonsense"}, "127.0.0.1:5"},
		{"127.0.0.1:5", []string{"6.6.6.6, nonsense, 10.0.0.3"}, "10.0.0.3:0"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/rtc", nil)
		r.RemoteAddr = tc.peer
		r.Header["X-Forwarded-For"] = tc.forwarded
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, tc.want, w.Body.String(), "%s for %v", tc.peer, tc.forwarded)
	}

	// So with what else proxies say.
	trusted := c.TrustedProxies
	c = complete(quiet())
	c.TrustedProxies = trusted
	c.RTC = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Forwarded-Proto")+r.Header.Get("X-Forwarded-Prefix")+r.Header.Get("Accept"))
	})
	h = server.New(c).Handler()
	for peer, want := range map[string]string{"127.0.0.1:5": "https/calls*/*", "192.0.2.1:5": "*/*"} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/rtc", nil)
		r.RemoteAddr = peer
		r.Header = http.Header{"X-Forwarded-Proto": {"https"}, "X-Forwarded-Prefix": {"/calls"}, "Accept": {"*/*"}}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, want, w.Body.String(), peer)
	}
}

// TestTooOften: each door refuses in its own words; those of others stay open.
func TestTooOften(t *testing.T) {
	limits := func(address, key int) *ratelimit.Limits {
		return ratelimit.New(ratelimit.Config{PerAddress: address, PerKey: key, Burst: time.Second})
	}
	for name, one := range map[string]*ratelimit.Limits{"address": limits(1, 0), "key": limits(0, 1)} {
		t.Run(name, func(t *testing.T) {
			c := complete(quiet())
			c.Joins = one
			c.Requests = limits(1, 1)
			h := server.New(c).Handler()
			token, err := c.Verifier.Mint(key, &auth.ClaimGrants{Identity: "ada"}, time.Hour)
			require.NoError(t, err)
			bearer := map[string]string{"Authorization": "Bearer " + token, "Origin": "https://app.example"}
			require.Equal(t, 200, ask(t, h, request{path: "/rtc", header: bearer}).Code)
			w := ask(t, h, request{path: "/rtc/validate", header: bearer})
			require.Equal(t, 503, w.Code)
			require.Equal(t, "too many connects, try again later\n", w.Body.String())
			require.Equal(t, "1", w.Header().Get("Retry-After"))
			require.Equal(t, "*", w.Header().Get("Access-Control-Allow-Origin"), "a page may read why")

			const twirp = "/twirp/livekit.RoomService/ListRooms"
			require.Equal(t, 200, ask(t, h, request{method: "POST", path: twirp, header: bearer}).Code)
			w = ask(t, h, request{method: "POST", path: twirp, header: bearer})
			require.Equal(t, 429, w.Code)
			require.JSONEq(t, `{"code":"resource_exhausted","msg":"too many requests, try again later"}`, w.Body.String())
			require.NotEmpty(t, w.Header().Get("Retry-After"))
			require.Equal(t, 200, ask(t, h, request{path: "/healthz"}).Code)
		})
	}
}
