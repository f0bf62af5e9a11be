package conformance

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
	"github.com/pion/stun/v3"
	"github.com/stretchr/testify/require"
)

const domain = "calls.example.test"

// authority is the test's own certificate authority, Let's Encrypt's Pebble: it speaks
// ACME, and validates on the ports that it is given.
type authority struct {
	directory string // URL
	trust     string // file with the certificate of its own HTTPS server
	roots     *x509.CertPool
	server    *httptest.Server
}

// startAuthority starts an authority that finds the domain on this machine.
// Its certificates hold for so long.
func startAuthority(t *testing.T, httpPort, tlsPort int, valid time.Duration) *authority {
	t.Helper()
	names, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	answerNames(t, &dns.Server{Listener: names}, map[string]net.IP{domain: net.IPv4(127, 0, 0, 1)})
	front, root := newPebble(t, httpPort, tlsPort, names.Addr().String(), valid)
	a := &authority{server: httptest.NewTLSServer(front), roots: x509.NewCertPool(), trust: filepath.Join(t.TempDir(), "trust.pem")}
	t.Cleanup(a.server.Close)
	a.directory = a.server.URL + wfe.DirectoryPath
	require.NoError(t, os.WriteFile(a.trust, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.server.Certificate().Raw}), 0o600))
	a.roots.AppendCertsFromPEM(root)
	return a
}

// answerNames makes a DNS server answer with these addresses, until the test ends.
func answerNames(t *testing.T, s *dns.Server, names map[string]net.IP) {
	s.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		for _, question := range q.Question {
			if ip := names[strings.TrimSuffix(question.Name, ".")]; ip != nil && question.Qtype == dns.TypeA {
				m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: ip})
			}
		}
		_ = w.WriteMsg(m) // the asking client may be gone
	})
	answering := make(chan struct{})
	go func() { defer close(answering); _ = s.ActivateAndServe() }() // until it is shut down
	t.Cleanup(func() { _ = s.Shutdown(); <-answering })
}

// quarter is how long Let's Encrypt's certificates hold.
const quarter = 90 * 24 * time.Hour

// withoutSleep has Pebble validate at once.
var withoutSleep = sync.OnceValue(func() error { return os.Setenv("PEBBLE_VA_NOSLEEP", "1") })

// newPebble is an authority, and its root certificate as PEM.
func newPebble(t *testing.T, httpPort, tlsPort int, resolver string, valid time.Duration) (front http.Handler, root []byte) {
	t.Helper()
	require.NoError(t, withoutSleep())
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	issuer := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {ValidityPeriod: uint64(valid.Seconds())}})
	w := wfe.New(quiet, store, va.New(quiet, httpPort, tlsPort, false, resolver, store), issuer, nil, false, false, 1, 1)
	return w.Handler(), issuer.GetRootCert(0).PEM()
}

// served is the server's certificate for the domain; nil if it has none.
func (a *authority) served(port int) *x509.Certificate {
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: &tls.Config{ServerName: domain, RootCAs: a.roots, NextProtos: []string{"http/1.1"}}}
	conn, err := dialer.DialContext(context.Background(), "tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		return nil
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
}

// startForDomain starts a server that gets its certificate from a. stop stops it in order,
// as the end of the test does.
func startForDomain(t *testing.T, a *authority, dir string, httpPort, tlsPort int) (stop func()) {
	t.Helper()
	parlorOnly(t)
	cmd := exec.Command(env.binary, "--domain", domain, "--port", strconv.Itoa(tlsPort), "--udp-port", "0",
		"--database", filepath.Join(dir, "parlor.db"), "--keys", apiKey+":"+apiSecret, "--bind", "127.0.0.1")
	cmd.Dir = dir
	output := &logBuffer{}
	cmd.Stdout, cmd.Stderr = output, output
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+a.trust, "PARLOR_TLS_ACME_DIRECTORY="+a.directory, "PARLOR_TLS_HTTP_PORT="+strconv.Itoa(httpPort))
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }() // its exit status is in ProcessState
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // the process may have ended
		select {
		case <-ended:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			<-ended
			t.Error("the server did not stop")
		}
	}
	t.Cleanup(func() {
		stop()
		if err := output.verdict(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("last of the server's log:\n%s", output.tail(40))
		}
	})
	return stop
}

// answersSTUN asks a TURN server for the client's address.
func answersSTUN(t *testing.T, conn net.Conn) {
	t.Helper()
	defer conn.Close()
	request, err := stun.Build(stun.TransactionID, stun.BindingRequest)
	require.NoError(t, err)
	_, err = conn.Write(request.Raw)
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	b := make([]byte, 1500)
	n, err := conn.Read(b)
	require.NoError(t, err)
	answer := &stun.Message{Raw: b[:n]}
	require.NoError(t, answer.Decode())
	require.Equal(t, stun.BindingSuccess, answer.Type)
	require.Equal(t, request.TransactionID, answer.TransactionID)
}

// TestCertificateByACME: a server with only its name configured gets a certificate by
// either challenge, keeps it over a restart, and redirects plain HTTP to TLS.
func TestCertificateByACME(t *testing.T) {
	for name, closed := range map[string]struct{ http, tls bool }{"TLS-ALPN-01": {http: true}, "HTTP-01": {tls: true}} {
		t.Run(name, func(t *testing.T) {
			ports, err := freePorts(4)
			require.NoError(t, err)
			httpPort, tlsPort := ports[0], ports[1]
			asked := [2]int{httpPort, tlsPort}
			if closed.http {
				asked[0] = ports[2]
			}
			if closed.tls {
				asked[1] = ports[3]
			}
			a := startAuthority(t, asked[0], asked[1], quarter)
			dir := t.TempDir()
			stop := startForDomain(t, a, dir, httpPort, tlsPort)
			eventually(t, "a certificate", func() bool { return a.served(tlsPort) != nil })
			first := a.served(tlsPort)
			require.IsType(t, &ecdsa.PublicKey{}, first.PublicKey)
			require.Equal(t, []string{domain}, first.DNSNames)

			client := &http.Client{Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			req, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/a?b=c", httpPort), nil)
			require.NoError(t, err)
			req.Host = domain
			res, err := client.Do(req)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			require.Equal(t, http.StatusPermanentRedirect, res.StatusCode)
			require.Equal(t, fmt.Sprintf("https://%s:%d/a?b=c", domain, tlsPort), res.Header.Get("Location"))

			// All services are behind one door: HTTP, TURN over TLS, TURN over TCP.
			door := "127.0.0.1:" + strconv.Itoa(tlsPort)
			secure := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{ServerName: domain, RootCAs: a.roots}}}
			res, err = secure.Get("https://" + door + "/healthz")
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			require.Equal(t, http.StatusOK, res.StatusCode)
			plain, err := net.Dial("tcp", door)
			require.NoError(t, err)
			answersSTUN(t, plain)
			for _, protocols := range [][]string{nil, {"stun.turn"}} {
				conn, err := tls.Dial("tcp", door, &tls.Config{ServerName: domain, RootCAs: a.roots, NextProtos: protocols})
				require.NoError(t, err)
				answersSTUN(t, conn)
			}

			// It has no certificate for another name, and requests none.
			_, err = tls.Dial("tcp", "127.0.0.1:"+strconv.Itoa(tlsPort), &tls.Config{ServerName: "other.example.test", InsecureSkipVerify: true})
			require.Error(t, err)

			if closed.tls {
				return
			}
			a.server.Close() // the authority cannot be reached from now on
			stop()           // a second process would find the database in use
			startForDomain(t, a, dir, ports[2], ports[3])
			eventually(t, "the certificate after a restart", func() bool { return a.served(ports[3]) != nil })
			require.Equal(t, first.SerialNumber, a.served(ports[3]).SerialNumber)
			files, err := filepath.Glob(filepath.Join(dir, "certificates", "*"))
			require.NoError(t, err)
			for _, f := range files {
				info, err := os.Stat(f)
				require.NoError(t, err)
				require.Zero(t, info.Mode().Perm()&0o077, f)
			}
			require.NotEmpty(t, files)
		})
	}
}

// TestCertificatesAreRenewed in time before they end, and clients get the new ones without a
// restart.
func TestCertificatesAreRenewed(t *testing.T) {
	t.Parallel()
	ports, err := freePorts(2)
	require.NoError(t, err)
	a := startAuthority(t, ports[0], ports[1], time.Minute)
	startForDomain(t, a, t.TempDir(), ports[0], ports[1])
	eventually(t, "a certificate", func() bool { return a.served(ports[1]) != nil })
	first := a.served(ports[1])
	require.NotNil(t, first)
	eventuallyWithin(t, 3*patience, "another", func() bool {
		now := a.served(ports[1])
		return now != nil && now.SerialNumber.Cmp(first.SerialNumber) != 0
	})
}
