package media

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"github.com/pion/webrtc/v4"
)

// certificateYears is how long the DTLS certificate is valid, in years. It outlasts the
// process, because pion makes no peer connection with an expired certificate.
const certificateYears = 20

// newCertificate makes the self-signed certificate that all transports use. Clients know
// it by its fingerprint in our session descriptions (RFC 8122).
func newCertificate() (webrtc.Certificate, *x509.Certificate, error) {
	fail := func(err error) (webrtc.Certificate, *x509.Certificate, error) {
		return webrtc.Certificate{}, nil, fmt.Errorf("make a DTLS certificate: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		return fail(err)
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "WebRTC"},
		NotBefore:    now.AddDate(0, 0, -1), // a client's clock may be slow
		NotAfter:     now.AddDate(certificateYears, 0, 0),
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "WebRTC"}}, key.Public(), key)
	if err != nil {
		return fail(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return fail(err)
	}
	return webrtc.CertificateFromX509(key, parsed), parsed, nil
}
