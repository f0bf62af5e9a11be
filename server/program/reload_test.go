package program

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// writeCertificate writes a certificate for name and its key as certbot does: it replaces
// each file.
func writeCertificate(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	for file, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		path := filepath.Join(dir, file)
		require.NoError(t, os.WriteFile(path+".new", pem.EncodeToMemory(block), 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
}

// TestHangup: SIGHUP reloads certificate and configuration, and never ends the server.
// Invalid files change nothing. A changed certificate is loaded without a signal too.
func TestHangup(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeCertificate(t, dir, "one.example")
	configuration := func(rest string) string {
		return fmt.Sprintf(`{"tls": {"cert_file": %q, "key_file": %q}, %s}`, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), rest)
	}
	p := spawn(t, machine(t), configuration(`"logging": {"level": "info"}`))
	require.NotEmpty(t, p.url, p.log)
	file := ""
	for i, a := range p.cmd.Args {
		if a == "--config" {
			file = p.cmd.Args[i+1]
		}
	}
	serves := func(name string) bool {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(p.url, "https://"), &tls.Config{InsecureSkipVerify: true})
		require.NoError(t, err, "it serves on")
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].DNSNames[0] == name
	}
	hangup := func(config, says string) {
		t.Helper()
		before := strings.Count(p.log.String(), says)
		require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
		require.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
		require.Eventually(t, func() bool { return strings.Count(p.log.String(), says) > before }, time.Minute, 20*time.Millisecond, says)
	}
	require.True(t, serves("one.example"))
	writeCertificate(t, dir, "two.example")
	hangup(configuration(`"logging": {"level": "debug"}, "room": {"empty_timeout": 77}`), "take a restart")
	require.Eventually(t, func() bool { return serves("two.example") }, time.Minute, 20*time.Millisecond)
	require.Contains(t, p.log.String(), "key=logging.level from=info to=debug")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	resp, err := client.Get(p.url + "/healthz")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Eventually(t, func() bool {
		return strings.Contains(p.log.String(), "level=DEBUG msg=request method=GET path=/healthz")
	}, time.Minute, 20*time.Millisecond, "the level holds")

	require.NoError(t, os.WriteFile(filepath.Join(dir, "cert.pem"), []byte("no certificate"), 0o600))
	hangup(`{"no_such_key": 1}`, "the one before stays")
	require.Eventually(t, func() bool { return strings.Contains(p.log.String(), "the TLS certificate cannot be read again") }, time.Minute, 20*time.Millisecond)
	require.True(t, serves("two.example"))

	writeCertificate(t, dir, "three.example") // without a signal
	require.Eventually(t, func() bool { return serves("three.example") }, time.Minute, 100*time.Millisecond)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.Zero(t, p.exit(2*stopBound), p.log)
}
