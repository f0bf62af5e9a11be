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

// TestCallByRelay: if the configuration makes clients use only the TURN server, people see
// and hear each other through it, over TLS, UDP and TCP.
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
	tcp, udp := freePort(t), freePort(t)
	file := filepath.Join(dir, "parlor.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil,
		"turn: {enabled: true, udp_port: %[3]s, tls_port: %[1]s, domain: localhost, cert_file: %[2]s/cert.pem, key_file: %[2]s/key.pem, force_relay: true}\n",
		tcp, dir, udp), 0o600))
	f := &fixture{
		startServer(t, buildServer(t), "--dev", "--config", file),
		startBrowser(t, append(fakeDevices(t), chromedp.Flag("ignore-certificate-errors", true))...),
	}
	ann := f.joinByRelay(t, modes[0], "Ann", fmt.Sprintf("turns:localhost:%s?transport=tcp", tcp))
	ben := f.joinByRelay(t, modes[1], "Ben", fmt.Sprintf("turn:127.0.0.1:%s?transport=udp", udp))
	cat := f.joinByRelay(t, modes[0], "Cat", fmt.Sprintf("turn:127.0.0.1:%s?transport=tcp", tcp))
	ann.sees("Ben")
	ben.sees("Cat")
	cat.sees("Ann")
	cat.hears("Ben")
	for protocol, p := range map[string]*page{"tls": ann, "udp": ben, "tcp": cat} {
		p.until("candidates relayed over "+protocol, fmt.Sprintf(`await (async () => {
			const { publisher, subscriber } = parlor.room.engine.pcManager;
			for (const transport of [publisher, subscriber].filter(Boolean)) {
				const stats = [...(await transport.getStats()).values()];
				const local = stats.filter((s) => s.type === 'candidate-pair' && s.nominated && s.state === 'succeeded')
					.map((p) => stats.find((s) => s.id === p.localCandidateId));
				if (local.some((c) => c?.candidateType !== 'relay' || c.relayProtocol !== %q)) return false;
				if (transport === publisher && !local.length) return false;
			}
			return true;
		})()`, protocol))
	}
}

// joinByRelay joins with the TURN server at that URL alone.
func (f *fixture) joinByRelay(t *testing.T, m mode, name, url string) *page {
	t.Helper()
	p := f.browser.open(t, name, f.server.page("room", "relayed", "name", name, "single", m.single, "resolution", "180", "simulcast", "0"))
	p.until("the lobby", fmt.Sprintf(`document.querySelector('#name').value === %q`, name))
	p.do(fmt.Sprintf(`{
		const only = (c) => ({ ...c, iceTransportPolicy: 'relay', iceServers: (c.iceServers ?? []).map((s) => ({ ...s, urls: [%q] })) });
		const Native = RTCPeerConnection;
		window.RTCPeerConnection = class extends Native {
			constructor(c) { super(only(c)); }
			setConfiguration(c) { super.setConfiguration(only(c)); }
		};
	}`, url))
	p.click("#join")
	p.until("the call", `parlor.screen === 'call' && parlor.room.state === 'connected'`)
	return p
}
