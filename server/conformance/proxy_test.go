package conformance

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// proxy is a proxy in front of a server, by the configuration in deploy.
type proxy struct {
	folder      string // for everything that it writes
	plain, port int    // of HTTP and of HTTPS
	certificate string
	output      logBuffer
}

// configured reads a configuration in deploy, and replaces what each operator does.
func (p *proxy) configured(t *testing.T, name string, replace ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", name))
	require.NoError(t, err)
	for i := 0; i < len(replace); i += 2 {
		require.Contains(t, string(text), replace[i])
		text = []byte(strings.ReplaceAll(string(text), replace[i], replace[i+1]))
	}
	path := filepath.Join(p.folder, name)
	require.NoError(t, os.WriteFile(path, text, 0o600))
	return path
}

func (p *proxy) nginx(t *testing.T, server string) []string {
	site := p.configured(t, "nginx.conf", "127.0.0.1:7880", server, "/var/log/nginx", p.folder,
		"/etc/ssl/calls.example.com/fullchain.pem", p.certificate, "/etc/ssl/calls.example.com/privkey.pem", p.certificate,
		"    listen [::]:443 ssl http2;\n", fmt.Sprintf("    listen 127.0.0.1:%d;\n", p.plain),
		"listen 443 ", fmt.Sprintf("listen 127.0.0.1:%d ", p.port))
	whole := filepath.Join(p.folder, "whole.conf")
	temporary := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temporary += fmt.Sprintf("%s_temp_path %s;\n", kind, filepath.Join(p.folder, kind))
	}
	require.NoError(t, os.WriteFile(whole, fmt.Appendf(nil, `
		daemon off; master_process off; pid %s/pid; error_log stderr;
		events {}
		http { %s access_log off; include %s; }`, p.folder, temporary, site), 0o600))
	return []string{"nginx", "-c", whole, "-e", "stderr"}
}

func (p *proxy) caddy(t *testing.T, server string) []string {
	site := p.configured(t, "Caddyfile", "127.0.0.1:7880", server, "/var/log/caddy", p.folder,
		"\n{\n", "\n{\n\tadmin off\n\tdefault_bind 127.0.0.1\n\tauto_https disable_redirects\n\tservers {\n\t\tprotocols h1 h2\n\t}\n",
		"calls.example.com {", fmt.Sprintf("https://localhost:%d {\n\ttls %s %[2]s\n\timport both\n}\n\nhttp://127.0.0.1:%[3]d {\n\timport both\n}\n\n(both) {", p.port, p.certificate, p.plain))
	// A snippet stands before its use.
	text, err := os.ReadFile(site)
	require.NoError(t, err)
	sites, snippet, _ := strings.Cut(string(text), "(both) {")
	head, sites, _ := strings.Cut(sites, "https://localhost")
	require.NoError(t, os.WriteFile(site, []byte(head+"(both) {"+snippet+"\nhttps://localhost"+sites), 0o600))
	return []string{"caddy", "run", "--adapter", "caddyfile", "--config", site}
}

// start starts the proxy, which ends with the test.
func (p *proxy) start(t *testing.T, command []string) {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "HOME="+p.folder, "XDG_DATA_HOME="+p.folder, "XDG_CONFIG_HOME="+p.folder)
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", command[0], p.output.tail(40))
		}
	})
	eventually(t, command[0]+" answers", func() bool {
		status, _, err := fetch(t.Context(), fmt.Sprintf("http://127.0.0.1:%d/", p.plain))
		return err == nil && status == http.StatusOK
	})
}

// logs are everything that the proxy has written.
func (p *proxy) logs(t *testing.T) string {
	t.Helper()
	all := p.output.String()
	written, err := filepath.Glob(filepath.Join(p.folder, "*.log"))
	require.NoError(t, err)
	require.NotEmpty(t, written)
	for _, name := range written {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		all += string(text)
	}
	return all
}

// certificateFile makes a certificate for localhost, in one file with its key.
func certificateFile(t *testing.T) (string, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	file := filepath.Join(t.TempDir(), "both.pem")
	require.NoError(t, os.WriteFile(file, append(chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...), 0o600))
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(chain))
	return file, roots
}

// TestBehindProxies puts nginx and Caddy in front of one server, with the configurations in
// deploy: calls at the root and below a path, HTTP/2, events as they happen, whose address
// counts, links, and logs without tokens, also while the server is away.
func TestBehindProxies(t *testing.T) {
	parlorOnly(t)
	t.Parallel()
	certificate, roots := certificateFile(t)
	// Only the proxies' address is trusted, and not the client's.
	s := startServer(t, settings{"trusted_proxies": []string{"127.0.0.1/32"}, "invitations": true})
	var proxies []*proxy
	for name, command := range map[string]func(*proxy, *testing.T, string) []string{"nginx": (*proxy).nginx, "caddy": (*proxy).caddy} {
		if _, err := exec.LookPath(name); err != nil {
			require.False(t, os.Getenv("CI") == "true" && os.Getenv("PARLOR_TEST_WITHOUT_PROXIES") == "", "%s is not installed", name)
			t.Logf("%s is not installed: it was not tried", name)
			continue
		}
		ports, err := freePorts(2)
		require.NoError(t, err)
		p := &proxy{folder: t.TempDir(), plain: ports[0], port: ports[1], certificate: certificate}
		proxies = append(proxies, p)
		p.start(t, command(p, t, strings.TrimPrefix(s.http(), "http://")))
		t.Run(name, func(t *testing.T) { behind(t, p, s, roots) })
	}
	s.kill()
	for _, p := range proxies {
		failures := func() int { // requests of a client that the proxy could not pass on
			n := 0
			for line := range strings.Lines(p.logs(t)) {
				if strings.Contains(line, "/rtc") && (strings.Contains(line, " 502 ") || strings.Contains(line, `"status":502`)) {
					n++
				}
			}
			return n
		}
		secret, before := token(t, "late", join("board")), failures()
		status, _, err := fetch(t.Context(), fmt.Sprintf("http://127.0.0.1:%d/rtc?access_token=%s", p.plain, secret))
		require.NoError(t, err)
		require.Equal(t, http.StatusBadGateway, status)
		eventually(t, "it logs", func() bool { return failures() > before })
		require.NotContains(t, p.logs(t), "access_token")
	}
}

// behind tries everything through a proxy.
func behind(t *testing.T, p *proxy, s *server, roots *x509.CertPool) {
	room := roomName(t)
	for _, path := range []string{"", "/calls"} {
		at := fmt.Sprintf("ws://127.0.0.1:%d%s", p.plain, path)
		ada := single.joinAt(t, at, token(t, "ada"+path, join(room)))
		bob := single.joinAt(t, at, token(t, "bob"+path, join(room)))
		bob.awaitMedia(t, ada.publishMicrophone(t).SID(), 10)
	}

	// The client has an address that is not the proxy's.
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost"},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", p.port))
		},
	}}
	defer client.CloseIdleConnections()
	ask := func(method, path, body string, headers ...string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, fmt.Sprintf("https://localhost:%d%s", p.port, path), strings.NewReader(body))
		require.NoError(t, err)
		r.SetBasicAuth(apiKey, apiSecret)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		resp, err := client.Do(r)
		require.NoError(t, err)
		t.Cleanup(func() { _ = resp.Body.Close() })
		require.Equal(t, 2, resp.ProtoMajor)
		return resp
	}
	for _, path := range []string{"/", "/calls/", "/calls/static/app.js"} {
		resp := ask("GET", path, "", "Accept", "text/html")
		require.Equal(t, http.StatusOK, resp.StatusCode, path)
		require.Contains(t, resp.Header.Get("Content-Type"), "text/", path)
	}

	// An event arrives though the answer goes on.
	stream := bufio.NewScanner(ask("GET", "/v1/events?room="+room, "", "Accept", "text/event-stream").Body)
	for stream.Scan() && stream.Text() != "event: track_published" {
	}
	require.NoError(t, stream.Err())
	require.Equal(t, "event: track_published", stream.Text())

	// The client cannot invent where it comes from, nor where the page is.
	forged := []string{"X-Forwarded-For", "192.0.2.66", "X-Forwarded-Proto", "http", "X-Forwarded-Prefix", "/forged", "Content-Type", "application/json"}
	for path, prefix := range map[string]string{"": "/", "/calls": "/calls/"} {
		resp := ask("POST", path+"/v1/rooms/"+room+"/invitations", "{}", forged...)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusCreated, resp.StatusCode, string(body))
		var made struct{ Link string }
		require.NoError(t, json.Unmarshal(body, &made))
		require.True(t, strings.HasPrefix(made.Link, fmt.Sprintf("https://localhost:%d%s#invite=", p.port, prefix)), made.Link)
	}
	resp := ask("GET", "/rtc/validate?access_token=nonsense-"+room, "", append(forged, "Authorization", "")...)
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	require.NotContains(t, s.log.String(), "192.0.2.66")
	require.Contains(t, s.log.String(), "address=127.0.0.2\n")
	eventually(t, "it logs", func() bool { return strings.Contains(p.logs(t), "/rtc/validate") })
	logs := p.logs(t)
	for _, secret := range []string{"access_token", "nonsense", "eyJ"} {
		require.NotContains(t, logs, secret)
	}
}
