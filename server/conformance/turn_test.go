package conformance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/stun/v3"
	"github.com/stretchr/testify/require"
)

// selfSigned writes a self-signed certificate for a name, and its key.
func selfSigned(t *testing.T, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	secret, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	write := func(file, kind string, bytes []byte) string {
		file = filepath.Join(t.TempDir(), file)
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}), 0o600))
		return file
	}
	return write("cert.pem", "CERTIFICATE", cert), write("key.pem", "EC PRIVATE KEY", secret)
}

// TestCallByTURN: LiveKit's configuration keys start a TURN server, and clients get its
// credentials. Stock clients that must use only TURN hear each other, and one that asks
// for TLS is told of no other server.
func TestCallByTURN(t *testing.T) {
	parlorOnly(t)
	t.Parallel()
	ports, err := freePorts(2)
	require.NoError(t, err)
	cert, key := selfSigned(t, "turn.example.test")
	s := startServer(t, settings{"turn": map[string]any{
		"enabled": true, "udp_port": ports[0], "tls_port": ports[1], "domain": "turn.example.test",
		"cert_file": cert, "key_file": key, "relay_range_start": 30000, "relay_range_end": 30010, "force_relay": true,
	}})
	for _, m := range []mode{dual, single} {
		room := roomName(t)
		alice := m.joinAt(t, s.ws(), token(t, "alice", join(room)))
		bob := m.joinAt(t, s.ws(), token(t, "bob", join(room)))
		bob.awaitMedia(t, alice.publishMicrophone(t).SID(), 5)
	}
	c := dial(t, s, "/rtc?"+legacyQuery(), token(t, "carol", join(roomName(t))))
	joined := c.joined(t)
	require.Equal(t, livekit.ClientConfigSetting_ENABLED, joined.ClientConfiguration.ForceRelay)
	require.Len(t, joined.IceServers, 1)
	urls := strings.Join(joined.IceServers[0].Urls, " ")
	require.Contains(t, urls, "turn:127.0.0.1:")
	require.Contains(t, urls, "turns:turn.example.test:443?transport=tcp")
	c.request(t, &livekit.SignalRequest{Message: &livekit.SignalRequest_Simulate{Simulate: &livekit.SimulateScenario{
		Scenario: &livekit.SimulateScenario_SwitchCandidateProtocol{SwitchCandidateProtocol: livekit.CandidateProtocol_TLS},
	}}})
	require.Equal(t, livekit.LeaveRequest_RECONNECT, c.awaitLeave(t).Action)
	again := dial(t, s, "/rtc?"+legacyQuery(), token(t, "carol", join(joined.Room.Name))).joined(t)
	require.Equal(t, livekit.ClientConfigSetting_ENABLED, again.ClientConfiguration.ForceRelay)
	for _, url := range again.IceServers[0].Urls {
		require.True(t, strings.HasPrefix(url, "turns:"), url)
	}
}

// TestTURNBehindAProxy: a proxy that speaks TLS names its client in a header of the PROXY
// protocol, and TURN tells the client its own address. Without the header nothing is
// answered.
func TestTURNBehindAProxy(t *testing.T) {
	parlorOnly(t)
	t.Parallel()
	ports, err := freePorts(2)
	require.NoError(t, err)
	startServer(t, settings{"turn": map[string]any{
		"enabled": true, "udp_port": ports[0], "tls_port": ports[1], "domain": "turn.example.test", "external_tls": true,
		"proxy_protocol": true,
	}})
	request := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
	ask := func(header string) (answer []byte) {
		t.Helper()
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[1])))
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		_, err = conn.Write(append([]byte(header), request.Raw...))
		require.NoError(t, err)
		b := make([]byte, 1500)
		n, _ := conn.Read(b) // it is closed without an answer if the header is missing
		return b[:n]
	}
	require.Empty(t, ask(""))
	answer := &stun.Message{Raw: ask("PROXY TCP4 192.0.2.1 192.0.2.2 1024 443\r\n")}
	require.NoError(t, answer.Decode())
	var own stun.XORMappedAddress
	require.NoError(t, own.GetFrom(answer))
	require.Equal(t, "192.0.2.1:1024", own.String())
}
