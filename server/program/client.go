package program

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"parlor/server/config"
)

const (
	callTime  = 30 * time.Second // for an answer
	maxAnswer = 64 << 20         // bytes of an answer
)

// clientFlags are the flags of commands that talk to a running server.
type clientFlags struct {
	keyFlags
	url  string
	json bool
}

func (c *clientFlags) register(f *flag.FlagSet) {
	f.StringVar(&c.url, "url", "", "`URL` of the server (this machine's, by the configuration)")
	f.BoolVar(&c.json, "json", false, "JSON as the REST API has it, one object a line")
	c.keyFlags.register(f)
}

// clientUsage ends the usage text of those commands.
const clientUsage = `
The server and its API key are found by --config, PARLOR_CONFIG or another variable of the
configuration, and in ` + installedConfig + ` without them. --dev is for parlor --dev.

`

// client calls a server's REST API as its operator.
type client struct {
	base        string // without a trailing slash
	key, secret string
	http        *http.Client
}

// connect finds the server and the key. It makes no request.
func (c *clientFlags) connect(env Environment) (*client, error) {
	keys, cfg, err := c.keys(env)
	if err != nil {
		return nil, err
	}
	secret, ok := keys[c.apiKey]
	if !ok {
		return nil, fmt.Errorf("the configuration has no API key %s", printable(c.apiKey, lineWidth))
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	out := &client{key: c.apiKey, secret: secret, http: &http.Client{
		Transport: transport,
		// The secret must not go to the target of a redirect.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if c.url != "" {
		out.base, err = remoteURL(c.url, env.Err)
		return out, err
	}
	if cfg == nil {
		if cfg, err = c.load(env); err != nil {
			return nil, errors.Join(errors.New("--url is missing, and the configuration does not tell the server either"), err)
		}
	}
	transport.Proxy = nil // the server is on this machine
	if out.base, err = localURL(cfg); err != nil {
		return nil, err
	}
	switch {
	case cfg.TLS.CertFile != "":
		transport.TLSClientConfig, err = pinned(cfg.TLS.CertFile, "tls.cert_file")
	case cfg.Domain != "": // a certificate authority vouches for the certificate
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cfg.Domain}
	case cfg.TLS.SelfSigned:
		certFile, _ := selfSignedFiles(certificatesOf(cfg))
		transport.TLSClientConfig, err = pinned(certFile, certFile)
	}
	return out, err
}

// remoteURL checks the URL of a flag.
func remoteURL(raw string, warn io.Writer) (string, error) {
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("--url must be as https://calls.example or http://localhost:7880")
	}
	if addr, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (err != nil || !addr.IsLoopback()) {
		fmt.Fprintf(warn, "parlor: the API secret goes to %s unencrypted: use https where the network is not your own\n", u.Host)
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// localURL is the server's URL on this machine, by its configuration.
func localURL(cfg *config.Config) (string, error) {
	if cfg.Port == 0 {
		return "", errors.New("the configuration has the server take any free port: name it with --url")
	}
	scheme := "http"
	if cfg.SpeaksTLS() {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(localHost(cfg.BindAddresses), strconv.Itoa(cfg.Port)), nil
}

// localHost is a local address at which a server bound to those addresses answers.
func localHost(bind []string) string {
	if len(bind) == 0 {
		return "127.0.0.1"
	}
	addr, err := netip.ParseAddr(bind[0])
	switch {
	case err != nil || !addr.IsUnspecified():
		return bind[0]
	case addr.Is4():
		return "127.0.0.1"
	}
	return "::1"
}

// pinned is the TLS configuration for the server on this machine, whose certificate is in
// certFile. That certificate is for another name than the address, and may be signed by
// nobody.
func pinned(certFile, name string) (*tls.Config, error) {
	leaf, err := readCertificate(certFile)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || !s.PeerCertificates[0].Equal(leaf) {
				return fmt.Errorf("it is not the one of %s", name)
			}
			return nil
		},
	}
	if len(leaf.DNSNames) > 0 {
		c.ServerName = strings.TrimPrefix(leaf.DNSNames[0], "*.")
	}
	return c, nil
}

// problemAnswer is an error of the REST API (RFC 9457).
type problemAnswer struct {
	Status       int
	Code, Detail string
}

func (p *problemAnswer) Error() string {
	detail := printable(p.Detail, 4*lineWidth)
	switch {
	case p.Status == http.StatusUnauthorized:
		return "the server does not take the API key: " + detail
	case p.Status == http.StatusForbidden:
		return "the API key may not do this: " + detail
	case p.Status >= http.StatusInternalServerError:
		return fmt.Sprintf("the server cannot do this now (%d): %s", p.Status, detail)
	}
	return detail
}

// request makes a request for a path below /v1; path begins with a slash.
func (c *client) request(ctx context.Context, method, path string, query url.Values, body any) (*http.Request, error) {
	var reader io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(b)
	}
	target := c.base + "/v1" + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, reader)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", "parlor/"+version())
	req.SetBasicAuth(c.key, c.secret)
	return req, nil
}

// send sends a request, and returns the answer if it is a success.
func (c *client) send(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreached(err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, c.unreached(err)
	}
	p := &problemAnswer{}
	if json.Unmarshal(body, p) != nil || p.Code == "" {
		return nil, fmt.Errorf("what answers at %s is not Parlor: %s", c.base, printable(resp.Status, lineWidth))
	}
	p.Status = resp.StatusCode
	return nil, p
}

// unreached says in a sentence why there is no answer.
func (c *client) unreached(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // its text does not repeat the address
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no server runs at %s: %w", c.base, err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the server at %s does not answer: %w", c.base, err)
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("the certificate of %s cannot be believed: %w", c.base, e.Err)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		return fmt.Errorf("the server at %s does not speak TLS: %w", c.base, err)
	}
	// TLS ended the connection, and net/http's own errors are none of these.
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "remote error" {
		return fmt.Errorf("the server at %s speaks no TLS with us; its log says why, such as that it has no certificate yet: %w", c.base, err)
	}
	return fmt.Errorf("the server at %s cannot be asked: %w", c.base, err)
}

// call makes a request, and decodes the answer into out unless that is nil. raw is the
// answer.
func (c *client) call(ctx context.Context, method, path string, query url.Values, body, out any) (raw []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	req, err := c.request(ctx, method, path, query, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.send(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if raw, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return nil, c.unreached(err)
	}
	if out != nil {
		if err := json.Unmarshal(raw, out); err != nil {
			return nil, fmt.Errorf("what answers at %s is not Parlor: %w", c.base, err)
		}
	}
	return raw, nil
}

func (c *client) get(ctx context.Context, path string, query url.Values, out any) ([]byte, error) {
	return c.call(ctx, http.MethodGet, path, query, nil, out)
}

// inPath is a name as one segment of a URL's path. "." and ".." are escaped, because they
// would mean folders.
func inPath(name string) string {
	if name == "." || name == ".." {
		return strings.ReplaceAll(name, ".", "%2E")
	}
	return url.PathEscape(name)
}

// readCertificate reads the first certificate of a PEM file.
func readCertificate(file string) (*x509.Certificate, error) {
	chain, err := readChain(file)
	if err != nil {
		return nil, err
	}
	return chain[0], nil
}
