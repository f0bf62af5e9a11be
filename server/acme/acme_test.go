package acme

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestWords: a problem is told with what mends it.
func TestWords(t *testing.T) {
	here, elsewhere := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for name, c := range map[string]struct {
		found []netip.Addr
		err   error
		heard string
		want  string
	}{
		"no record":     {nil, &net.DNSError{Err: "no such host", IsNotFound: true}, "", "calls.example.com has no address in the DNS"},
		"elsewhere":     {[]netip.Addr{elsewhere}, nil, "", "leads to [192.0.2.2], and this machine has [192.0.2.1]"},
		"closed":        {[]netip.Addr{here}, nil, "connection refused", "open the TCP ports 443 and 80 to the Internet; the certificate authority says: connection refused"},
		"out of reach":  {[]netip.Addr{here}, nil, "", "cannot be asked: no route"},
		"closed by NAT": {[]netip.Addr{here}, nil, "timeout", "as calls.example.com: open the TCP ports"},
	} {
		t.Run(name, func(t *testing.T) {
			k := New(Config{
				Names: []string{"calls.example.com"}, Folder: t.TempDir(), Log: slog.New(slog.DiscardHandler),
				Addresses: func() []netip.Addr { return []netip.Addr{here} },
				Lookup:    func(context.Context, string) ([]netip.Addr, error) { return c.found, c.err },
			})
			k.heard.said[""] = said{text: c.heard}
			require.Contains(t, k.words(t.Context(), "calls.example.com", errors.New("no route")), c.want)
		})
	}
}

// TestNobodyIsAskedForWhatIsNotThere: before its name is in the DNS a server asks no
// authority, and says why; handshakes never make it ask.
func TestNobodyIsAskedForWhatIsNotThere(t *testing.T) {
	var asked atomic.Int64
	authority := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer authority.Close()
	k := New(Config{
		Names: []string{"calls.example.com"}, Folder: t.TempDir(), Log: slog.New(slog.DiscardHandler),
		Lookup: func(context.Context, string) ([]netip.Addr, error) {
			return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
		},
	})
	k.manager.Client.DirectoryURL = authority.URL
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); k.Run(ctx) }()
	require.Eventually(t, func() bool { return k.Problem() != "" }, time.Minute, 10*time.Millisecond)
	require.Contains(t, k.Problem(), "no address in the DNS")
	for _, name := range []string{"calls.example.com", "", "other.example.com"} {
		_, err := k.TLS().GetCertificate(&tls.ClientHelloInfo{ServerName: name})
		require.ErrorContains(t, err, "there is no certificate")
	}
	require.True(t, k.Until().IsZero())
	cancel()
	<-done
	require.Zero(t, asked.Load())
}

// TestWhatTheAuthorityComplainsOf is found in problem documents and in challenges that failed,
// and in no other answer.
func TestWhatTheAuthorityComplainsOf(t *testing.T) {
	for body, want := range map[string][2]string{
		`{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many"}`:                                         {"", "too many"},
		`{"type":"urn:ietf:params:acme:error:badNonce","detail":"again"}`:                                               {},
		`{"status":"invalid","challenges":[{"type":"http-01"},{"error":{"detail":"refused there"}}]}`:                   {"", "refused there"},
		`{"status":"invalid","identifier":{"type":"dns","value":"A.example"},"challenges":[{"error":{"detail":"no"}}]}`: {"a.example", "no"},
		`{"status":"valid","challenges":[{"type":"http-01"}]}`:                                                          {},
		`-----BEGIN CERTIFICATE-----`: {},
	} {
		name, text := complaint([]byte(body))
		require.Equal(t, want, [2]string{name, text}, body)
	}
}

// TestAComplaintIsAboutOneNameAndOneTry: it is told of no other name, and not of a later
// failure.
func TestAComplaintIsAboutOneNameAndOneTry(t *testing.T) {
	var complains atomic.Bool
	complains.Store(true)
	authority := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if complains.Load() {
			_, _ = w.Write([]byte(`{"status":"invalid","identifier":{"type":"dns","value":"a.example"},"challenges":[{"error":{"detail":"refused there"}}]}`)) // the client reads it
		}
	}))
	defer authority.Close()
	k := New(Config{
		Names: []string{"a.example", "b.example"}, Folder: t.TempDir(), Log: slog.New(slog.DiscardHandler), Directory: authority.URL,
		Lookup: func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{netip.IPv4Unspecified()}, nil },
	})
	res, err := k.manager.Client.HTTPClient.Get(authority.URL)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	failure := errors.New("the order failed")
	require.Contains(t, k.words(t.Context(), "a.example", failure), "refused there")
	require.NotContains(t, k.words(t.Context(), "b.example", failure), "refused there")
	complains.Store(false)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); k.Run(ctx) }()
	require.Eventually(t, func() bool { return strings.Contains(k.Problem(), "cannot be asked") }, time.Minute, 10*time.Millisecond)
	require.NotContains(t, k.Problem(), "refused there")
	cancel()
	<-done
}
