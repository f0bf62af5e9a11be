package ratelimit_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"parlor/server/access"
	"parlor/server/ratelimit"
)

var (
	ok     = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	refuse = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) })
)

// from asks as a client at that address, with that API key unless it is "".
func from(h http.Handler, address, key string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = address
	if key != "" {
		r = r.WithContext(access.WithClaims(r.Context(), &access.Claims{APIKey: key, Grants: &auth.ClaimGrants{}}))
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestABurstAndThenTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ratelimit.New(ratelimit.Config{What: "joins", PerAddress: 2, Burst: 5 * time.Second})
		h := l.Addresses(ok, refuse)
		for i := range 10 {
			require.Equal(t, 200, from(h, "192.0.2.1:1000", "").Code, "%d", i)
		}
		w := from(h, "192.0.2.1:1001", "")
		require.Equal(t, 429, w.Code)
		require.Equal(t, "1", w.Header().Get("Retry-After"))
		require.Equal(t, 200, from(h, "192.0.2.2:1000", "").Code, "another address")
		time.Sleep(time.Second)
		require.Equal(t, 200, from(h, "192.0.2.1:1000", "").Code)
		require.Equal(t, 200, from(h, "192.0.2.1:1000", "").Code)
		require.Equal(t, 429, from(h, "192.0.2.1:1000", "").Code)

		registry := prometheus.NewRegistry()
		registry.MustRegister(l, ratelimit.New(ratelimit.Config{What: "requests"}))
		families, err := registry.Gather()
		require.NoError(t, err)
		require.Equal(t, 2.0, families[0].Metric[0].GetCounter().GetValue())
	})
}

func TestASlowRateSaysHowLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := ratelimit.New(ratelimit.Config{PerKey: 1, Burst: time.Second}).Keys(ok, refuse)
		require.Equal(t, 200, from(h, "192.0.2.1:1", "a").Code)
		require.Equal(t, 429, from(h, "192.0.2.2:1", "a").Code, "a key is one, wherever it comes from")
		require.Equal(t, 200, from(h, "192.0.2.1:1", "b").Code)
		require.Equal(t, 200, from(h, "192.0.2.1:1", "").Code)
		require.Equal(t, 200, from(h, "192.0.2.1:1", "").Code, "who has no key is not bound by one")
	})
}

func TestWhatIsOneClient(t *testing.T) {
	h := ratelimit.New(ratelimit.Config{PerAddress: 1, Burst: time.Second}).Addresses(ok, refuse)
	for _, tc := range []struct {
		address string
		status  int
	}{
		{"[2001:db8:0:1::1]:1", 200},
		{"[2001:db8:0:1:ffff::2]:1", 429},
		{"[2001:db8:0:2::1]:1", 200},
		{"192.0.2.7:1", 200},
		{"[::ffff:192.0.2.7]:1", 429},
		{"[fe80::1%eth0]:1", 200},
		{"[fe80::2%eth1]:1", 429},
		{"no address", 200},
		{"no address", 429},
	} {
		require.Equal(t, tc.status, from(h, tc.address, "").Code, tc.address)
	}
}

func TestNoBound(t *testing.T) {
	var none *ratelimit.Limits
	for _, h := range []http.Handler{
		none.Addresses(ok, refuse), none.Keys(ok, refuse),
		ratelimit.New(ratelimit.Config{Burst: time.Second}).Addresses(ok, refuse),
		ratelimit.New(ratelimit.Config{Burst: time.Second}).Keys(ok, refuse),
	} {
		for range 100 {
			require.Equal(t, 200, from(h, "192.0.2.1:1", "a").Code)
		}
	}
}

// TestAFloodOfAddressesFillsNoMemory, and takes from nobody what is its due.
func TestAFloodOfAddressesFillsNoMemory(t *testing.T) {
	h := ratelimit.New(ratelimit.Config{PerAddress: 1, Burst: time.Hour}).Addresses(ok, refuse)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 30_000 {
				if from(h, fmt.Sprintf("10.%d.%d.%d:1", i, j>>8, j&255), "").Code != 200 {
					t.Error("a new address was refused")
					return
				}
			}
		})
	}
	wg.Wait()
}

func FuzzAddress(f *testing.F) {
	f.Add("192.0.2.1:1")
	f.Add("[fe80::1%eth0]:1")
	f.Fuzz(func(t *testing.T, address string) {
		if strings.ContainsRune(address, 0) {
			return
		}
		h := ratelimit.New(ratelimit.Config{PerAddress: 1, Burst: time.Second}).Addresses(ok, refuse)
		require.Equal(t, 200, from(h, address, "").Code)
		require.Equal(t, 429, from(h, address, "").Code)
	})
}
