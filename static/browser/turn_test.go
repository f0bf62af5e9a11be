package browser_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// TestCallByRelay: if the configuration makes clients use only the TURN server, two
// people see and hear each other through it, though it can be reached only over TLS.
func TestCallByRelay(t *testing.T) {
	if testing.Short() {
		t.Skip("drives a browser")
	}
	findChromium(t)
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	secret, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "EC PRIVATE KEY", Bytes: secret}} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
	}
	file := filepath.Join(dir, "parlor.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil,
		"turn: {enabled: true, tls_port: %[1]s, domain: localhost, cert_file: %[2]s/cert.pem, key_file: %[2]s/key.pem, force_relay: true}\n",
		freePort(t), dir), 0o600))
	f := &fixture{
		startServer(t, buildServer(t), "--dev", "--config", file),
		startBrowser(t, append(fakeDevices(t), chromedp.Flag("ignore-certificate-errors", true))...),
	}
	ann, ben := f.join(t, modes[0], "relayed", "Ann"), f.join(t, modes[1], "relayed", "Ben")
	ann.sees("Ben")
	ben.sees("Ann")
	ben.hears("Ann")
	const relayed = `await (async () => {
		const { publisher, subscriber } = parlor.room.engine.pcManager;
		for (const transport of [publisher, subscriber].filter(Boolean)) {
			const stats = [...(await transport.getStats()).values()];
			const local = stats.filter((s) => s.type === 'candidate-pair' && s.nominated && s.state === 'succeeded')
				.map((p) => stats.find((s) => s.id === p.localCandidateId));
			if (local.some((c) => c?.candidateType !== 'relay' || c.relayProtocol !== 'tls')) return false;
			if (transport === publisher && !local.length) return false;
		}
		return true;
	})()`
	ann.until("candidates relayed over TLS", relayed)
	ben.until("candidates relayed over TLS", relayed)
}
