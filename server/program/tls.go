package program

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parlor/server/acme"
	"parlor/server/config"
)

// openTLS chooses the certificate of the main port: from the configured files, by ACME
// for the domain, or signed by the server itself.
func (p *program) openTLS() (err error) {
	certFile, keyFile := p.cfg.TLS.CertFile, p.cfg.TLS.KeyFile
	switch {
	case certFile != "":
	case p.cfg.Domain != "":
		p.openKeeper()
		return nil
	case p.cfg.TLS.SelfSigned:
		if certFile, keyFile, err = selfSigned(p.certificates(), p.cfg.BindAddresses); err != nil {
			return fmt.Errorf("tls.self_signed: %w", err)
		}
	default:
		return nil
	}
	if p.certificate, err = newCertificate(certFile, keyFile, p.log); err != nil {
		return err
	}
	p.tls = p.certificate.config()
	if p.cfg.TLS.SelfSigned {
		p.log.Info("TLS is with a certificate that this server has signed itself", "sha256", p.fingerprint(), "file", certFile)
	}
	return nil
}

// certificates is the folder of certificates that the server gets or makes.
func (p *program) certificates() string { return certificatesOf(p.cfg) }

func certificatesOf(cfg *config.Config) string {
	return filepath.Join(filepath.Dir(cfg.Database), "certificates")
}

// acmeNames are the names that get certificates by ACME.
func acmeNames(cfg *config.Config) []string {
	names := []string{cfg.Domain}
	if t := &cfg.TURN; t.Enabled && t.TLSPort != 0 && !t.ExternalTLS && t.CertFile == "" && t.Domain != cfg.Domain {
		names = append(names, t.Domain)
	}
	return names
}

// directoryOf is the URL of the certificate authority's directory.
func directoryOf(cfg *config.Config) string {
	switch {
	case cfg.TLS.ACME.Staging:
		return acme.Staging
	case cfg.TLS.ACME.Directory != "":
		return cfg.TLS.ACME.Directory
	}
	return acme.LetsEncrypt
}

func (p *program) openKeeper() {
	c := acme.Config{
		Names: acmeNames(p.cfg), Folder: p.certificates(), Directory: directoryOf(p.cfg), Email: p.cfg.TLS.ACME.Email,
		Addresses: p.addresses, Log: p.log,
	}
	p.keeper = acme.New(c)
	p.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "parlor_tls_certificate_seconds", Help: "How long the TLS certificate holds; 0 while there is none.",
	}, func() float64 {
		until := p.keeper.Until()
		if until.IsZero() {
			return 0
		}
		return max(0, time.Until(until).Seconds())
	}))
	p.tls = p.keeper.TLS()
}

// addresses are the public addresses of media, as far as they are known.
func (p *program) addresses() []netip.Addr {
	var all []netip.Addr
	for _, a := range p.media.Advertised() {
		if !a.IsPrivate() && !a.IsLoopback() { // behind a NAT the DNS has another address
			all = append(all, a)
		}
	}
	return all
}

// fingerprint is the SHA-256 of the certificate, in the form of browsers.
func (p *program) fingerprint() string {
	sum := sha256.Sum256(p.certificate.current.Load().Certificate[0])
	var parts []string
	for _, b := range sum {
		parts = append(parts, fmt.Sprintf("%02X", b))
	}
	return strings.Join(parts, ":")
}

const (
	// signedFor is how long a self-signed certificate is valid, and signedAgain how long
	// before its end a start makes another.
	signedFor   = 365 * 24 * time.Hour
	signedAgain = 30 * 24 * time.Hour
)

func selfSignedFiles(folder string) (certFile, keyFile string) {
	return filepath.Join(folder, "self-signed.pem"), filepath.Join(folder, "self-signed.key")
}

// selfSigned returns the files of a self-signed certificate for localhost and the hosts.
// It makes a new one if there is none that is still good.
func selfSigned(folder string, hosts []string) (certFile, keyFile string, err error) {
	certFile, keyFile = selfSignedFiles(folder)
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Parlor"}, DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(signedFor), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if name, err := os.Hostname(); err == nil {
		template.DNSNames = append(template.DNSNames, name)
	}
	template.IPAddresses = addressesFor(hosts)
	if pair, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil && holds(pair.Leaf, template) {
		return certFile, keyFile, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return "", "", err
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", "", err
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return "", "", err
	}
	return certFile, keyFile, errors.Join(
		os.MkdirAll(folder, 0o700),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}), 0o600),
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
	)
}

// holds reports whether c has the names and addresses of wanted and does not end soon.
func holds(c, wanted *x509.Certificate) bool {
	if time.Until(c.NotAfter) < signedAgain || !slices.Equal(c.DNSNames, wanted.DNSNames) {
		return false
	}
	return slices.EqualFunc(c.IPAddresses, wanted.IPAddresses, net.IP.Equal)
}

// addressesFor are the hosts' addresses, and this machine's if a host stands for all.
func addressesFor(hosts []string) []net.IP {
	var all []net.IP
	everything := len(hosts) == 0
	for _, h := range hosts {
		ip := net.ParseIP(h)
		everything = everything || ip == nil || ip.IsUnspecified()
		if ip != nil && !ip.IsUnspecified() {
			all = append(all, ip)
		}
	}
	if everything {
		addrs, _ := net.InterfaceAddrs() // without them the certificate is for localhost
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
				all = append(all, n.IP)
			}
		}
	}
	return all
}

// toTLS redirects requests to the same path over TLS.
func toTLS(domain string, port int) http.Handler {
	host := domain
	if port != 443 {
		host = net.JoinHostPort(domain, strconv.Itoa(port))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://"+host+r.URL.RequestURI(), http.StatusPermanentRedirect)
	})
}
