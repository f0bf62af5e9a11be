package program

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"parlor/server/api"
)

// certificateEvery is how often the certificate's files are checked for a change.
const certificateEvery = 10 * time.Second

// certificate is a TLS certificate from two files, which are read again when they change.
// If they cannot be used, the present certificate stays in use.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	current           atomic.Pointer[tls.Certificate]
	failure           atomic.Pointer[string] // why the files could not be read again; nil = they could
	ask               chan struct{}          // capacity 1; see readAgain
	seen              [2]stamp               // of the files as last read; belongs to watch once that runs
}

// stamp tells two contents of a file apart.
type stamp struct {
	changed time.Time
	size    int64
}

// newCertificate reads the files.
func newCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log, ask: make(chan struct{}, 1)}
	c.seen = c.stamps()
	if err := c.read(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *certificate) stamps() (all [2]stamp) {
	for i, name := range []string{c.certFile, c.keyFile} {
		if fi, err := os.Stat(name); err == nil { // else reading it fails
			all[i] = stamp{fi.ModTime(), fi.Size()}
		}
	}
	return all
}

func (c *certificate) read() error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	c.current.Store(&pair)
	return nil
}

// config is the TLS configuration of a server that uses the present certificate at each
// handshake.
func (c *certificate) config() *tls.Config {
	return &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
		MinVersion:     tls.VersionTLS12,
	}
}

// readAgain makes watch read the files now.
func (c *certificate) readAgain() {
	select {
	case c.ask <- struct{}{}:
	default: // it is about to
	}
}

// watch reads the files when they have changed and when asked, until ctx ends. The two
// files are seldom replaced at the same moment, so a pair that does not match is read
// again.
func (c *certificate) watch(ctx context.Context) {
	tick := time.NewTicker(certificateEvery)
	defer tick.Stop()
	failed := false
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-c.ask:
			asked = true
		case <-tick.C:
		}
		now := c.stamps()
		if now == c.seen && !asked && !failed {
			continue
		}
		changed := now != c.seen
		c.seen = now
		err := c.read()
		c.failure.Store(nil)
		if err != nil {
			why := err.Error()
			c.failure.Store(&why)
		}
		switch {
		case err == nil && (changed || asked || failed):
			leaf := c.current.Load().Leaf
			c.log.Info("the TLS certificate was read again", "subjects", leaf.DNSNames, "until", leaf.NotAfter)
		case err != nil && (!failed || asked):
			c.log.Error("the TLS certificate cannot be read again: the one before stays in use", "error", err)
		}
		failed = err != nil
	}
}

// readChain reads the certificates in a PEM file, the server's own first.
func readChain(file string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	var chain []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("tls: %s: %w", file, err)
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, fmt.Errorf("tls: there is no certificate in %s", file)
	}
	return chain, nil
}

// certificateStatus is the certificate of the main port; nil without TLS.
func (p *program) certificateStatus() *api.Certificate {
	switch {
	case p.keeper != nil:
		return &api.Certificate{Names: acmeNames(p.cfg), Until: p.keeper.Until(), LastError: p.keeper.Problem()}
	case p.certificate == nil:
		return nil
	}
	leaf := p.certificate.current.Load().Leaf
	out := &api.Certificate{Names: slices.Clone(leaf.DNSNames), Until: leaf.NotAfter}
	for _, ip := range leaf.IPAddresses {
		out.Names = append(out.Names, ip.String())
	}
	if why := p.certificate.failure.Load(); why != nil {
		out.LastError = *why
	}
	return out
}
