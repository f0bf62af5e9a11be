// Package acme has the server's TLS certificates from a certificate authority by ACME
// (RFC 8555), and keeps them new.
//
// The noun: a [Keeper] has a certificate for each of its names. It asks for them when it
// starts, and again in time before they run out. A handshake is answered by what is there,
// and never makes it ask: strangers cannot spend what the authority grants.
//
// The protocol is golang.org/x/crypto's autocert. caddyserver/certmagic does more: storage
// that machines share, DNS challenges, certificates for names that are not known before, none
// of which a server with one name on one machine needs, and it brings some twenty modules
// where autocert brings none that was not there. What autocert lacks is here: patience
// between failures, words for them, and an end.
//
// Challenges are answered on port 443 (TLS-ALPN-01, RFC 8737) and on port 80 (HTTP-01).
package acme

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

const (
	// look is how often it is looked whether a certificate was renewed, which takes no
	// request.
	look = time.Minute
	// firstAgain and lastAgain are how long after a failure the authority is asked again; it
	// doubles from one to the other. Let's Encrypt bears five failures an hour.
	firstAgain = 5 * time.Minute
	lastAgain  = 4 * time.Hour
)

// Config says what a [Keeper] keeps.
type Config struct {
	// Names are what the certificates are for. At least one.
	Names []string
	// Folder is where they are kept, with their keys. It is made, and others may not read it.
	Folder string
	// Directory is the authority's URL; "" is Let's Encrypt.
	Directory string
	// Email is told to the authority; "" is nobody.
	Email string
	// Addresses are those that clients reach this server at, for words about DNS. May be nil.
	Addresses func() []netip.Addr
	// Lookup finds the addresses of a name; nil asks the system.
	Lookup func(ctx context.Context, name string) ([]netip.Addr, error)
	// Log receives what operators should know. Required.
	Log *slog.Logger
}

// Staging is Let's Encrypt's directory for trying things out: what it signs nobody trusts,
// and it bears more failures.
const Staging = "https://acme-staging-v02.api.letsencrypt.org/directory"

// Keeper has certificates. All methods may be called concurrently.
type Keeper struct {
	cfg     Config
	manager *autocert.Manager
	heard   *ear

	// mu guards the following.
	mu       sync.Mutex
	current  map[string]*tls.Certificate
	problems map[string]string
}

// New makes a keeper, which has the certificates that are in its folder.
func New(cfg Config) *Keeper {
	if cfg.Lookup == nil {
		cfg.Lookup = func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		}
	}
	if cfg.Directory == "" {
		cfg.Directory = acme.LetsEncryptURL
	}
	k := &Keeper{cfg: cfg, heard: &ear{}, current: map[string]*tls.Certificate{}, problems: map[string]string{}}
	k.manager = &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(cfg.Folder), Email: cfg.Email,
		HostPolicy: k.mine,
		Client: &acme.Client{
			DirectoryURL: cfg.Directory, UserAgent: "parlor", HTTPClient: &http.Client{Transport: k.heard, Timeout: time.Minute},
		},
	}
	return k
}

// mine tells autocert which names certificates are for. A port after the name, as HTTP's Host
// may have it, is of no interest.
func (k *Keeper) mine(_ context.Context, host string) error {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if slices.Contains(k.cfg.Names, strings.ToLower(host)) {
		return nil
	}
	return errors.New("no certificate is for that name")
}

// TLS is of a server with the newest certificates, which answers the challenges of port 443.
func (k *Keeper) TLS() *tls.Config {
	return &tls.Config{
		GetCertificate: k.certificate,
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1", acme.ALPNProto},
	}
}

// certificate answers a handshake by what is there.
func (k *Keeper) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acme.ALPNProto {
		return k.manager.GetCertificate(hello) // which has it, or not, and asks nobody
	}
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if name == "" {
		name = k.cfg.Names[0]
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if c := k.current[name]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("there is no certificate for %q", name)
}

// HTTP answers the challenges of port 80, and gives all else to others.
func (k *Keeper) HTTP(others http.Handler) http.Handler { return k.manager.HTTPHandler(others) }

// Problem is why a certificate is missing or cannot be renewed; "" if all is well.
func (k *Keeper) Problem() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range k.cfg.Names {
		if why := k.problems[name]; why != "" {
			return why
		}
	}
	return ""
}

// Until is when the first of the certificates runs out; the zero time if one is missing.
func (k *Keeper) Until() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	var first time.Time
	for _, name := range k.cfg.Names {
		c := k.current[name]
		if c == nil {
			return time.Time{}
		}
		if first.IsZero() || c.Leaf.NotAfter.Before(first) {
			first = c.Leaf.NotAfter
		}
	}
	return first
}

// Kept is when the first of the certificates runs out that a keeper has in its folder, which
// may be of another process; an error that wraps [autocert.ErrCacheMiss] if one is missing.
func Kept(ctx context.Context, folder string, names []string) (first time.Time, err error) {
	for _, name := range names {
		kept, err := autocert.DirCache(folder).Get(ctx, name)
		if err != nil {
			return time.Time{}, fmt.Errorf("the certificate for %s: %w", name, err)
		}
		var block *pem.Block
		for block, kept = pem.Decode(kept); block != nil && block.Type != "CERTIFICATE"; block, kept = pem.Decode(kept) {
		}
		if block == nil {
			return time.Time{}, fmt.Errorf("the certificate for %s is not in its file", name)
		}
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return time.Time{}, fmt.Errorf("the certificate for %s: %w", name, err)
		}
		if first.IsZero() || leaf.NotAfter.Before(first) {
			first = leaf.NotAfter
		}
	}
	return first, nil
}

// Run gets the certificates and keeps them new, until ctx ends. The server should answer
// challenges by then.
func (k *Keeper) Run(ctx context.Context) {
	k.heard.until(ctx)
	var keeping sync.WaitGroup
	for _, name := range k.cfg.Names {
		keeping.Go(func() { k.keep(ctx, name) })
	}
	keeping.Wait()
}

// keep has the certificate of one name.
func (k *Keeper) keep(ctx context.Context, name string) {
	again := firstAgain
	for {
		wait := look
		var c *tls.Certificate
		err := k.findable(ctx, name)
		if err == nil {
			c, err = k.manager.GetCertificate(ask(name))
		} else {
			again = look // nobody was asked
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = max(again, limit(err))
			again = min(2*again, lastAgain)
			why := k.words(ctx, name, err)
			k.mu.Lock()
			k.problems[name] = why
			k.mu.Unlock()
			k.cfg.Log.Error("there is no TLS certificate", "name", name, "why", why, "again_in", wait)
		default:
			again = firstAgain
			k.took(name, c)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// findable tells whether it makes sense to ask for a certificate that is not there: not
// before the name has an address. An authority that the configuration names may have a DNS of
// its own.
func (k *Keeper) findable(ctx context.Context, name string) error {
	if k.cfg.Directory != acme.LetsEncryptURL && k.cfg.Directory != Staging {
		return nil
	}
	if _, err := k.manager.Cache.Get(ctx, name); err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := k.cfg.Lookup(ctx, name)
	var missing *net.DNSError
	if errors.As(err, &missing) && missing.IsNotFound {
		return err
	}
	return nil
}

// took puts a certificate into use.
func (k *Keeper) took(name string, c *tls.Certificate) {
	k.mu.Lock()
	before := k.current[name]
	k.current[name] = c
	delete(k.problems, name)
	left := time.Until(c.Leaf.NotAfter)
	if whole := c.Leaf.NotAfter.Sub(c.Leaf.NotBefore); left < whole/6 {
		// autocert has tried since a third of its life was left.
		k.problems[name] = fmt.Sprintf("the certificate of %s is not renewed, and ends in %v: %s", name, left.Round(time.Hour), k.heard.last())
	}
	k.mu.Unlock()
	if before == nil || !bytes.Equal(before.Certificate[0], c.Certificate[0]) {
		k.cfg.Log.Info("a TLS certificate is in use", "name", name, "issuer", c.Leaf.Issuer.String(), "until", c.Leaf.NotAfter)
	}
}

// ask is a handshake of one who would be given an ECDSA certificate.
func ask(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{
		ServerName: name, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		SupportedCurves: []tls.CurveID{tls.CurveP256}, SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
	}
}

// limit is how long the authority wants to be left alone after an error.
func limit(err error) time.Duration {
	if wait, limited := acme.RateLimit(err); limited {
		return wait
	}
	return 0
}

// words say what went wrong, and what to do about it.
func (k *Keeper) words(ctx context.Context, name string, err error) string {
	said := ""
	if heard := k.heard.last(); heard != "" {
		said = "; the certificate authority says: " + heard
	}
	if wait, limited := acme.RateLimit(err); limited {
		return fmt.Sprintf("the certificate authority has had too many requests for %s, and wants to be left alone for %v%s", name, wait, said)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	found, lookupErr := k.cfg.Lookup(ctx, name)
	for i := range found {
		found[i] = found[i].Unmap()
	}
	var ours []netip.Addr
	if k.cfg.Addresses != nil {
		ours = k.cfg.Addresses()
	}
	switch here := slices.ContainsFunc(found, func(a netip.Addr) bool { return slices.Contains(ours, a) }); {
	case lookupErr != nil:
		return fmt.Sprintf("%s has no address in the DNS (%v): make an A or AAAA record that leads to this machine%s", name, lookupErr, said)
	case len(ours) > 0 && !here:
		return fmt.Sprintf("%s leads to %v, and this machine has %v: mend the DNS record, unless something in front passes ports 443 and 80 on%s",
			name, found, ours, said)
	case said != "":
		return fmt.Sprintf("the certificate authority does not reach this machine as %s: open the TCP ports 443 and 80 to the Internet%s", name, said)
	}
	return fmt.Sprintf("the certificate authority cannot be asked: %v", err)
}

// ear is the way to the authority. It hears what autocert does not pass on: why a challenge
// failed. It ends with a context, which autocert has none of.
type ear struct {
	mu   sync.Mutex // guards the following
	ctx  context.Context
	text string
}

// maxHeard bounds an answer that is listened to, in bytes.
const maxHeard = 64 << 10

func (e *ear) until(ctx context.Context) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ctx = ctx
}

// last is what the authority said last of what went wrong; "" if it said nothing.
func (e *ear) last() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.text
}

// RoundTrip implements http.RoundTripper.
func (e *ear) RoundTrip(r *http.Request) (*http.Response, error) {
	e.mu.Lock()
	ends := e.ctx
	e.mu.Unlock()
	ctx, cancel := context.WithCancelCause(r.Context())
	stop := func() bool { return true }
	if ends != nil {
		stop = context.AfterFunc(ends, func() { cancel(context.Cause(ends)) })
	}
	defer func() { stop(); cancel(nil) }()
	res, err := http.DefaultTransport.RoundTrip(r.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	// The whole answer is read here, since the context ends with this call.
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	_ = res.Body.Close() // it was read
	if err != nil {
		return nil, err
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	if text := complaint(body); text != "" {
		e.mu.Lock()
		e.text = text
		e.mu.Unlock()
	}
	return res, nil
}

// complaint is what an answer says went wrong: a problem (RFC 7807), or an authorization
// whose challenge failed (RFC 8555, 7.5).
func complaint(body []byte) string {
	if len(body) > maxHeard {
		return ""
	}
	type problem struct {
		Type, Detail string
	}
	var answer struct {
		problem
		Status     any
		Challenges []struct{ Error *problem }
	}
	if json.Unmarshal(body, &answer) != nil {
		return ""
	}
	for _, c := range answer.Challenges {
		if c.Error != nil && c.Error.Detail != "" {
			return c.Error.Detail
		}
	}
	if strings.HasPrefix(answer.Type, "urn:ietf:params:acme:error:") && !strings.HasSuffix(answer.Type, ":badNonce") {
		return answer.Detail
	}
	return ""
}
