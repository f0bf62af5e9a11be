// Package acme gets the server's TLS certificates from a certificate authority by ACME
// (RFC 8555), and renews them.
//
// The noun: a [Keeper] keeps a certificate for each of its names. It orders them when it
// starts, and again in time before they expire. A handshake gets a certificate that is
// there and never makes the keeper order one, so that strangers cannot use up the
// authority's rate limits.
//
// The protocol is golang.org/x/crypto's autocert. caddyserver/certmagic does more:
// storage that machines share, DNS challenges, certificates for names that are not known
// before. A server with one name on one machine needs none of this, and certmagic brings
// some twenty modules where autocert brings no new one. This package adds what autocert
// lacks: waits between failures, explanations of them, and an end.
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
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

const (
	// look is the time between two looks for a renewed certificate, which need no
	// request.
	look = time.Minute
	// firstAgain and lastAgain bound the time from a failure to the next order; it
	// doubles from the one to the other. Let's Encrypt allows five failures an hour.
	firstAgain = 5 * time.Minute
	lastAgain  = 4 * time.Hour
	// longestRetry bounds the wait before a request is repeated within an order.
	longestRetry = 10 * time.Second
	// longestPause bounds what an authority may ask to wait before the next order.
	longestPause = 24 * time.Hour
	// leaving is how long a stop waits for an order under way.
	leaving = time.Second
)

// Config says what a [Keeper] keeps.
type Config struct {
	// Names are the names that get certificates. At least one.
	Names []string
	// Folder stores the certificates and their keys. It is created, closed to other users.
	Folder string
	// Directory is the authority's URL; "" is Let's Encrypt.
	Directory string
	// Email is the contact for the authority; "" gives none.
	Email string
	// Addresses are this server's public addresses, for explanations about DNS. May be
	// nil.
	Addresses func() []netip.Addr
	// Lookup finds the addresses of a name; nil asks the system.
	Lookup func(ctx context.Context, name string) ([]netip.Addr, error)
	// Log gets what operators should know. Required.
	Log *slog.Logger
}

// LetsEncrypt is Let's Encrypt's directory.
const LetsEncrypt = acme.LetsEncryptURL

// Staging is Let's Encrypt's directory for tests: nobody trusts its certificates, and it
// allows more failures.
const Staging = "https://acme-staging-v02.api.letsencrypt.org/directory"

// Keeper keeps certificates. All methods may be called concurrently.
type Keeper struct {
	cfg     Config
	manager *autocert.Manager
	heard   *ear

	// mu guards the following.
	mu       sync.Mutex
	current  map[string]*tls.Certificate
	problems map[string]string
}

// New makes a keeper. Run loads the certificates in its folder, and orders those that are
// missing.
func New(cfg Config) *Keeper {
	if cfg.Lookup == nil {
		cfg.Lookup = func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		}
	}
	if cfg.Directory == "" {
		cfg.Directory = acme.LetsEncryptURL
	}
	k := &Keeper{cfg: cfg, heard: &ear{said: map[string]said{}, since: map[string]time.Time{}}, current: map[string]*tls.Certificate{}, problems: map[string]string{}}
	k.manager = &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(cfg.Folder), Email: cfg.Email,
		HostPolicy: k.mine,
		Client: &acme.Client{
			DirectoryURL: cfg.Directory, UserAgent: "parlor", HTTPClient: &http.Client{Transport: k.heard, Timeout: time.Minute},
			RetryBackoff: k.heard.retry,
		},
	}
	return k
}

// mine tells autocert for which names there are certificates. host may be an HTTP Host
// with a port.
func (k *Keeper) mine(_ context.Context, host string) error {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if slices.Contains(k.cfg.Names, strings.ToLower(host)) {
		return nil
	}
	return errors.New("no certificate is for that name")
}

// TLS is the configuration of a server with the newest certificates, which also answers
// the challenges of port 443.
func (k *Keeper) TLS() *tls.Config {
	return &tls.Config{
		GetCertificate: k.certificate,
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1", acme.ALPNProto},
	}
}

// certificate answers a handshake with a certificate that is there.
func (k *Keeper) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acme.ALPNProto {
		return k.manager.GetCertificate(hello) // it has the challenge's certificate or not, and makes no request
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

// HTTP answers the challenges of port 80, and passes all other requests to others.
func (k *Keeper) HTTP(others http.Handler) http.Handler { return k.manager.HTTPHandler(others) }

// Problem is why a certificate is missing or cannot be renewed; "" if there is no
// problem.
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

// Until is when the first of the certificates expires; zero if one is missing.
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

// Kept is when the first of the certificates in a keeper's folder expires; the keeper may
// be another process's. It fails with an error that wraps [autocert.ErrCacheMiss] if one
// is missing.
func Kept(ctx context.Context, folder string, names []string) (first time.Time, err error) {
	for _, name := range names {
		kept, err := autocert.DirCache(folder).Get(ctx, name)
		switch {
		case errors.Is(err, autocert.ErrCacheMiss):
			return time.Time{}, noneYet{name}
		case err != nil:
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

// noneYet is the name that there is no certificate for.
type noneYet struct{ name string }

func (n noneYet) Error() string { return "there is none for " + n.name + " yet" }

func (noneYet) Unwrap() error { return autocert.ErrCacheMiss }

// Run gets the certificates and renews them, until ctx ends. The server must answer
// challenges by then.
func (k *Keeper) Run(ctx context.Context) {
	k.heard.until(ctx)
	var keeping sync.WaitGroup
	for _, name := range k.cfg.Names {
		keeping.Go(func() { k.keep(ctx, name) })
	}
	keeping.Wait()
}

// keep gets and renews the certificate of one name.
func (k *Keeper) keep(ctx context.Context, name string) {
	again := firstAgain
	k.heard.forget(name)
	for {
		wait := look
		var c *tls.Certificate
		err := k.findable(ctx, name)
		if err == nil {
			c, err = k.order(ctx, name)
		} else {
			again = look // the authority was not asked
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = max(again, limit(err))
			again = min(2*again, lastAgain)
			why := k.words(ctx, name, err)
			k.heard.forget(name) // what is said of the next try is of that alone
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

// order has autocert find the certificate of a name, or order it. autocert's requests end
// with ctx, but its waits between them do not. A stop must not wait for those, so the
// goroutine may outlive ctx: until its wait ends, or five minutes at most, which is
// autocert's own bound. All that it may do then is to find that it can ask nobody.
func (k *Keeper) order(ctx context.Context, name string) (*tls.Certificate, error) {
	type answer struct {
		c   *tls.Certificate
		err error
	}
	answered := make(chan answer, 1)
	go func() {
		c, err := k.manager.GetCertificate(ask(name))
		answered <- answer{c, err}
	}()
	select {
	case a := <-answered:
		return a.c, a.err
	case <-ctx.Done():
	}
	select {
	case <-answered:
	case <-time.After(leaving):
	}
	return nil, ctx.Err()
}

// findable fails if a missing certificate cannot be had because the name has no address
// yet. It passes every name for an authority other than Let's Encrypt, which may use
// another DNS.
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
		// autocert has tried to renew it since a third of its life was left.
		k.problems[name] = fmt.Sprintf("the certificate of %s is not renewed, and ends in %v: %s", name, left.Round(time.Hour), k.heard.last(name))
	}
	k.mu.Unlock()
	if before == nil || !bytes.Equal(before.Certificate[0], c.Certificate[0]) {
		k.heard.forget(name)
		k.cfg.Log.Info("a TLS certificate is in use", "name", name, "issuer", c.Leaf.Issuer.String(), "until", c.Leaf.NotAfter)
	}
}

// ask is the handshake of a client that accepts ECDSA certificates.
func ask(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{
		ServerName: name, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		SupportedCurves: []tls.CurveID{tls.CurveP256}, SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
	}
}

// limit is how long the authority asks to wait after an error, whatever its status, up to
// longestPause; 0 = it does not say.
func limit(err error) time.Duration {
	var refused *acme.Error
	if !errors.As(err, &refused) {
		return 0
	}
	after := refused.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(after); err == nil {
		return time.Duration(min(max(seconds, 0), int(longestPause/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(after); err == nil {
		return min(max(time.Until(at), 0), longestPause)
	}
	return 0
}

// words explains what went wrong and what to do about it.
func (k *Keeper) words(ctx context.Context, name string, err error) string {
	said := ""
	if heard := k.heard.last(name); heard != "" {
		said = "; the certificate authority says: " + heard
	}
	if _, limited := acme.RateLimit(err); limited {
		wait := limit(err)
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

// ear is the transport to the authority. It records what autocert does not pass on: why a
// challenge failed. Its requests end with a context, which autocert does not have.
type ear struct {
	mu   sync.Mutex // guards the following
	ctx  context.Context
	said map[string]said // the last one about each name; "" = about none in particular
	// since is when the present try of each name began.
	since map[string]time.Time
}

type said struct {
	text string
	at   time.Time
}

// maxHeard bounds the answers that are read for a complaint, in bytes.
const maxHeard = 64 << 10

func (e *ear) until(ctx context.Context) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ctx = ctx
}

// last is the authority's last complaint about a name, or else about none in particular; ""
// if there was none since forget.
func (e *ear) last(name string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if text := e.said[name].text; text != "" {
		return text
	}
	if c := e.said[""]; !c.at.Before(e.since[name]) {
		return c.text
	}
	return ""
}

// forget begins another try of a name, for which earlier complaints do not count.
func (e *ear) forget(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.said, name)
	e.since[name] = time.Now()
}

// retry is how long to wait before a refused request is repeated, for
// [acme.Client.RetryBackoff]; 0 = the order fails. An authority that wants a longer pause, or
// has had too many requests and does not say how long a pause it wants, is asked again after
// the wait for the next order, of which people are told.
func (e *ear) retry(n int, _ *http.Request, res *http.Response) time.Duration {
	e.mu.Lock()
	ended := e.ctx != nil && e.ctx.Err() != nil
	e.mu.Unlock()
	after := res.Header.Get("Retry-After")
	if ended || after == "" && res.StatusCode == http.StatusTooManyRequests {
		return 0
	}
	wait := min(time.Second<<min(n-1, 4), longestRetry)
	if after != "" {
		seconds, err := strconv.Atoi(after)
		if err != nil || seconds > int(longestRetry/time.Second) {
			return 0
		}
		wait = max(time.Duration(seconds)*time.Second, wait) // one that says 1 s each time is not asked all the time
	}
	return wait
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
	if name, text := complaint(body); text != "" {
		e.mu.Lock()
		e.said[name] = said{text, time.Now()}
		e.mu.Unlock()
	}
	return res, nil
}

// complaint is the failure that an answer reports: a problem document (RFC 7807), or an
// authorization whose challenge failed (RFC 8555, 7.5), which tells the name that it is for.
func complaint(body []byte) (name, text string) {
	if len(body) > maxHeard {
		return "", ""
	}
	type problem struct {
		Type, Detail string
	}
	var answer struct {
		problem
		Status     any
		Identifier struct{ Value string }
		Challenges []struct{ Error *problem }
	}
	if json.Unmarshal(body, &answer) != nil {
		return "", ""
	}
	for _, c := range answer.Challenges {
		if c.Error != nil && c.Error.Detail != "" {
			return strings.ToLower(answer.Identifier.Value), c.Error.Detail
		}
	}
	if strings.HasPrefix(answer.Type, "urn:ietf:params:acme:error:") && !strings.HasSuffix(answer.Type, ":badNonce") {
		return "", answer.Detail
	}
	return "", ""
}
