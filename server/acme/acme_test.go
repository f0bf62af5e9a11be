package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/acme"
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

// authority is a certificate authority that asks for no challenges. Its handler of new orders
// may refuse them.
type authority struct {
	*httptest.Server
	key   *ecdsa.PrivateKey
	root  *x509.Certificate
	chain atomic.Pointer[[]byte] // the last certificate, as PEM

	ordered atomic.Int64
	refuse  http.HandlerFunc // nil = orders are accepted
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the test's"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	a := &authority{key: key}
	a.root, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Replay-Nonce", "nonce")
	switch r.URL.Path {
	case "/":
		_, _ = fmt.Fprintf(w, `{"newNonce":"%[1]s/nonce","newAccount":"%[1]s/account","newOrder":"%[1]s/order"}`, a.URL) // the client reads it, here and below
	case "/account":
		w.Header().Set("Location", a.URL+"/account/1")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write([]byte(`{"status":"valid"}`))
	case "/order":
		a.ordered.Add(1)
		if a.refuse != nil {
			a.refuse(w, r)
			return
		}
		a.accept(w)
	case "/finalize":
		if err := a.issue(r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Location", a.URL+"/order/1")
		_, _ = fmt.Fprintf(w, `{"status":"valid","certificate":"%s/certificate"}`, a.URL)
	case "/certificate":
		_, _ = w.Write(*a.chain.Load())
	}
}

// accept answers a request for an order.
func (a *authority) accept(w http.ResponseWriter) {
	w.Header().Set("Location", a.URL+"/order/1")
	w.WriteHeader(http.StatusCreated)
	_, _ = fmt.Fprintf(w, `{"status":"ready","finalize":"%s/finalize"}`, a.URL) // the client reads it
}

// issue answers a signed request for a certificate.
func (a *authority) issue(body io.Reader) error {
	var signed struct{ Payload string }
	if err := json.NewDecoder(body).Decode(&signed); err != nil {
		return err
	}
	payload, err := base64.RawURLEncoding.DecodeString(signed.Payload)
	if err != nil {
		return err
	}
	var ask struct{ CSR string }
	if err := json.Unmarshal(payload, &ask); err != nil {
		return err
	}
	der, err := base64.RawURLEncoding.DecodeString(ask.CSR)
	if err != nil {
		return err
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return err
	}
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: request.DNSNames, Issuer: a.root.Subject,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(900 * time.Hour),
	}, a.root, request.PublicKey, a.key)
	if err != nil {
		return err
	}
	var chain []byte
	for _, der := range [][]byte{leaf, a.root.Raw} {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	a.chain.Store(&chain)
	return nil
}

// keeperOf keeps a certificate of that authority in that folder. Stop ends it and waits.
func keeperOf(a *authority, folder string) (k *Keeper, run func() (stop func())) {
	k = New(Config{
		Names: []string{"calls.example.com"}, Folder: folder, Log: slog.New(slog.DiscardHandler), Directory: a.URL,
		Lookup: func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{netip.IPv4Unspecified()}, nil },
	})
	return k, func() func() {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); k.Run(ctx) }()
		return func() { cancel(); <-done }
	}
}

// TestAPauseThatTheAuthorityWants is told at once, and never keeps the server from stopping.
func TestAPauseThatTheAuthorityWants(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		after  string
		told   bool
	}{
		"too many requests": {http.StatusTooManyRequests, "3600", true},
		"too many, no more": {http.StatusTooManyRequests, "", true},
		"too many for now":  {http.StatusTooManyRequests, "9", false},
		"down for an hour":  {http.StatusServiceUnavailable, "3600", true},
		"down until a date": {http.StatusServiceUnavailable, "Wed, 21 Oct 2065 07:28:00 GMT", true},
		"down for a moment": {http.StatusServiceUnavailable, "9", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAuthority(t)
			a.refuse = func(w http.ResponseWriter, _ *http.Request) {
				if c.after != "" {
					w.Header().Set("Retry-After", c.after)
				}
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(`{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many orders"}`)) // the client reads it
			}
			k, run := keeperOf(a, t.TempDir())
			stop := run()
			require.Eventually(t, func() bool { return a.ordered.Load() > 0 }, time.Minute, 10*time.Millisecond)
			if c.told {
				require.Eventually(t, func() bool { return k.Problem() != "" }, 20*time.Second, 10*time.Millisecond)
				require.Contains(t, k.Problem(), "too many orders")
			}
			stopped := make(chan struct{})
			go func() { defer close(stopped); stop() }()
			select {
			case <-stopped:
			case <-time.After(7 * time.Second): // shorter than the wait
				t.Fatal("it waits for the authority")
			}
		})
	}
}

// TestAShortPauseDoesNotEndTheOrder, whatever the status of the answer that asks for it.
func TestAShortPauseDoesNotEndTheOrder(t *testing.T) {
	a := newAuthority(t)
	a.refuse = func(w http.ResponseWriter, _ *http.Request) {
		if a.ordered.Load() == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		a.accept(w)
	}
	k, run := keeperOf(a, t.TempDir())
	stop := run()
	defer stop()
	require.Eventually(t, func() bool { return k.Problem() != "" || !k.Until().IsZero() }, time.Minute, 10*time.Millisecond)
	require.Empty(t, k.Problem())
}

// TestHowLongAPauseTheAuthorityMayWant before the next order.
func TestHowLongAPauseTheAuthorityMayWant(t *testing.T) {
	for after, want := range map[string]time.Duration{
		"": 0, "soon": 0, "-5": 0, "3600": time.Hour, "999999999": 24 * time.Hour, "Wed, 21 Oct 1965 07:28:00 GMT": 0,
		time.Now().Add(100 * time.Hour).UTC().Format(http.TimeFormat): 24 * time.Hour,
	} {
		for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
			err := fmt.Errorf("the order: %w", &acme.Error{StatusCode: status, Header: http.Header{"Retry-After": {after}}})
			require.Equal(t, want, limit(err), after)
		}
	}
	require.Zero(t, limit(&acme.Error{}))
	require.Zero(t, limit(errors.New("no answer")))
}
