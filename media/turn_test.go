package media

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/jxskiss/base62"
	"github.com/pion/stun/v3"
	pionturn "github.com/pion/turn/v5"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

const (
	turnKey    = "key"
	turnSecret = "a secret of an API key's that is long"
)

func turnSecrets(key string) string {
	if key == turnKey {
		return turnSecret
	}
	return ""
}

// newRelayingEngine is an engine with a TURN server over UDP, and over TCP on the
// returned address.
func newRelayingEngine(t *testing.T, change func(*Config)) (e *Engine, tcp string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	tcp = l.Addr().String()
	e = newTestEngine(t, func(c *Config) {
		c.TURN = &TURNConfig{Secret: turnSecrets, UDPPort: UDPEphemeral, URLs: []string{"turn:" + tcp + "?transport=tcp"}}
		if change != nil {
			change(c)
		}
	})
	accepting := make(chan struct{})
	go func() { // ends with the listener
		defer close(accepting)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = e.ServeTURN(conn) // there is a TURN server
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-accepting })
	return e, tcp
}

// byRelay is a client that uses only the server's TURN server, over one transport.
func byRelay(sid string, e *Engine, transport string, single bool) clientConfig {
	user, password := credentials(turnKey, turnSecret, sid, time.Now().Add(time.Minute).Unix())
	server := webrtc.ICEServer{Username: user, Credential: password}
	for _, url := range e.net.turnURLs() {
		if strings.HasSuffix(url, "transport="+transport) {
			server.URLs = append(server.URLs, url)
		}
	}
	return clientConfig{sid: sid, single: single, configuration: webrtc.Configuration{
		ICEServers: []webrtc.ICEServer{server}, ICETransportPolicy: webrtc.ICETransportPolicyRelay,
	}}
}

// TestMediaOverTURN: clients that use only relays publish, subscribe and exchange data,
// over UDP and over TCP. Their packets use no socket of the server but the TURN server's,
// and their relays end with them.
func TestMediaOverTURN(t *testing.T) {
	for _, transport := range []string{"udp", "tcp"} {
		t.Run(transport, func(t *testing.T) {
			bothModes(t, func(t *testing.T, single bool) {
				e, _ := newRelayingEngine(t, nil)
				a := newClient(t, e, byRelay("PA_a", e, transport, single))
				a.join()
				pump(t, a.publish("TR_v", vp8, nil))
				published := a.published("TR_v")
				b := newClient(t, e, byRelay("PA_b", e, transport, single))
				b.join()
				b.subscribe("PA_a", published)
				b.receives("PA_a", "TR_v")
				require.True(t, b.way().Sealed(), "it leaves by our own encryption")
				echoes(b, "by relay")
				var pair *webrtc.ICECandidatePair
				require.Eventually(t, func() bool { // the client chooses here, and takes its time
					var err error
					pair, err = b.pub.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
					return err == nil && pair != nil
				}, patience, time.Millisecond)
				require.Equal(t, webrtc.ICECandidateTypeRelay, pair.Local.Typ)
				require.Positive(t, e.TURN().ToMedia.Load())
				require.Positive(t, e.TURN().ToClients.Load())
				require.Zero(t, e.TURN().OutsideOut.Load())
				require.Zero(t, e.Stats().BadCandidates)
				if transport == "tcp" {
					require.Zero(t, e.Stats().Sockets[0].PacketsReceived, "media's socket has seen none of it")
				}
				a.peer.Close()
				b.peer.Close()
				require.Eventually(t, func() bool { return e.TURN().Relays.Load() == 0 && e.TURN().Streams.Load() == 0 }, time.Minute, 10*time.Millisecond)
			})
		})
	}
}

// turnClient is a TURN client of pion's.
type turnClient struct {
	*pionturn.Client
	t *testing.T
}

func dialTURN(t *testing.T, over net.PacketConn, server, username, password string) *turnClient {
	t.Helper()
	c, err := pionturn.NewClient(&pionturn.ClientConfig{
		STUNServerAddr: server, TURNServerAddr: server, Conn: over, Username: username, Password: password,
		LoggerFactory: pionLogs{testLog(t)}, RTO: 500 * time.Millisecond,
	})
	require.NoError(t, err)
	require.NoError(t, c.Listen())
	t.Cleanup(func() { c.Close(); _ = over.Close() })
	return &turnClient{c, t}
}

func overUDP(t *testing.T) net.PacketConn {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	return c
}

func (c *turnClient) allocate() (net.PacketConn, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	relay, err := c.AllocateWithContext(ctx)
	if err == nil {
		c.t.Cleanup(func() { _ = relay.Close() }) // its timers run until then; the server may have ended the relay
	}
	return relay, err
}

// credentials makes LiveKit's credentials with any content.
func credentials(key, secret, sid string, expiry int64) (username, password string) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s|%s|%d", secret, sid, expiry))
	return base62.EncodeToString(fmt.Appendf(nil, "%s|%s|%d", key, sid, expiry)), base62.EncodeToString(sum[:])
}

// TestTURNCredentials: they have LiveKit's form, and are valid only for their own
// session, for as long as it lasts.
func TestTURNCredentials(t *testing.T) {
	e, _ := newRelayingEngine(t, nil)
	server := e.TURNAddrs()[0].String()
	soon := time.Now().Add(time.Minute).Unix()
	alice := newClient(t, e, clientConfig{sid: "PA_alice"})
	newClient(t, e, clientConfig{sid: "PA_bob"})
	given := alice.peer.ICEServers(turnKey, false)[0]
	require.Equal(t, []string{"turn:" + server + "?transport=udp", e.cfg.TURN.URLs[0]}, given.Urls)
	_, bobs := credentials(turnKey, turnSecret, "PA_bob", soon)
	refused := map[string][2]string{
		"nonsense":               {"nonsense", "nonsense"},
		"a wrong password":       {given.Username, "wrong"},
		"another's password":     {given.Username, bobs},
		"of a stranger":          pair(credentials(turnKey, turnSecret, "PA_stranger", soon)),
		"of another server's":    pair(credentials(turnKey, "another secret", "PA_alice", soon)),
		"of an unknown key":      pair(credentials("other", "", "PA_alice", soon)),
		"expired":                pair(credentials(turnKey, turnSecret, "PA_alice", time.Now().Add(-time.Second).Unix())),
		"with a forged lifetime": {first(credentials(turnKey, turnSecret, "PA_alice", soon+1000)), second(credentials(turnKey, turnSecret, "PA_alice", soon))},
	}
	for name, c := range refused {
		_, err := dialTURN(t, overUDP(t), server, c[0], c[1]).allocate()
		require.Error(t, err, name)
	}
	require.Zero(t, e.TURN().Relays.Load())
	require.EqualValues(t, 1, e.TURN().Expired.Load())
	require.EqualValues(t, 1, e.TURN().Session.Load())
	require.GreaterOrEqual(t, e.TURN().Credentials.Load(), uint64(len(refused)-2))

	c := dialTURN(t, overUDP(t), server, given.Username, given.Credential)
	relay, err := c.allocate()
	require.NoError(t, err)
	require.EqualValues(t, 1, e.TURN().Relays.Load())
	alice.peer.Close()
	require.Eventually(t, func() bool { return e.TURN().Relays.Load() == 0 }, time.Minute, 10*time.Millisecond)
	media, _ := e.Addrs()
	require.Error(t, c.CreatePermission(net.UDPAddrFromAddrPort(media[0])), "of an ended session")
	_ = relay.Close() // the relay has ended already
	_, err = dialTURN(t, overUDP(t), server, given.Username, given.Credential).allocate()
	require.Error(t, err, "after the session ended")
}

func pair(a, b string) [2]string { return [2]string{a, b} }
func first(a, _ string) string   { return a }
func second(_, b string) string  { return b }

// TestTURNLeadsNowhereElse: relays reach only this server's media, and no other port of
// this machine, and no address of its network or its cloud.
func TestTURNLeadsNowhereElse(t *testing.T) {
	e, _ := newRelayingEngine(t, nil)
	victim := overUDP(t)
	defer victim.Close()
	newClient(t, e, clientConfig{sid: "PA_mallory"})
	user, password := credentials(turnKey, turnSecret, "PA_mallory", time.Now().Add(time.Minute).Unix())
	c := dialTURN(t, overUDP(t), e.TURNAddrs()[0].String(), user, password)
	relay, err := c.allocate()
	require.NoError(t, err)
	for _, ip := range []string{
		"169.254.169.254", "127.0.0.2", "0.0.0.0", "10.0.0.1", "192.168.0.1", "172.16.0.1", "100.100.100.200", "224.0.0.1",
		"255.255.255.255", "192.0.0.8", "8.8.8.8",
	} {
		require.Error(t, c.CreatePermission(&net.UDPAddr{IP: net.ParseIP(ip), Port: 80}), ip)
	}
	require.NoError(t, c.CreatePermission(victim.LocalAddr()), "media is at that address, though not at that port")
	before := e.TURN().Peers.Load()
	for range 3 {
		_, err := relay.WriteTo([]byte("attack"), victim.LocalAddr())
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return e.TURN().Peers.Load() >= before+3 }, time.Minute, 10*time.Millisecond)
	require.NoError(t, victim.SetReadDeadline(time.Now()))
	_, _, err = victim.ReadFrom(make([]byte, 100))
	require.Error(t, err, "it came to another port")
	// With another client: the library binds channels for the first one's relay meanwhile.
	_, err = dialTURN(t, overUDP(t), e.TURNAddrs()[0].String(), user, password).AllocateTCP()
	require.Error(t, err, "connections to peers")
}

// TestTURNToOthersWhereAllowed: addresses that the configuration allows are reached and
// can answer. Addresses that it denies, or does not list, are not.
func TestTURNToOthersWhereAllowed(t *testing.T) {
	e, _ := newRelayingEngine(t, func(c *Config) {
		c.TURN.Allow = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("127.0.0.2/31"), netip.MustParsePrefix("127.0.0.1/32")}
		c.TURN.Deny = []netip.Prefix{netip.MustParsePrefix("127.0.0.3/32")}
	})
	newClient(t, e, clientConfig{sid: "PA_carol"})
	peer, err := net.ListenPacket("udp4", "127.0.0.2:0")
	require.NoError(t, err)
	defer peer.Close()
	user, password := credentials(turnKey, turnSecret, "PA_carol", time.Now().Add(time.Minute).Unix())
	c := dialTURN(t, overUDP(t), e.TURNAddrs()[0].String(), user, password)
	relay, err := c.allocate()
	require.NoError(t, err)
	for _, ip := range []string{"127.0.0.3", "127.0.0.4", "169.254.169.254", "10.0.0.1"} {
		require.Error(t, c.CreatePermission(&net.UDPAddr{IP: net.ParseIP(ip), Port: 80}), ip)
	}
	_, err = relay.WriteTo([]byte("hello"), peer.LocalAddr())
	require.NoError(t, err)
	b := make([]byte, 100)
	require.NoError(t, peer.SetReadDeadline(time.Now().Add(patience)))
	n, from, err := peer.ReadFrom(b)
	require.NoError(t, err)
	require.Equal(t, "hello", string(b[:n]))
	require.Equal(t, relay.LocalAddr().String(), from.String())
	_, err = peer.WriteTo([]byte("and back"), from)
	require.NoError(t, err)
	n, from, err = relay.ReadFrom(b)
	require.NoError(t, err)
	require.Equal(t, "and back", string(b[:n]))
	require.Equal(t, peer.LocalAddr().String(), from.String())
	// On our own address only media is reached.
	other := overUDP(t)
	defer other.Close()
	before := e.TURN().Peers.Load()
	_, err = relay.WriteTo([]byte("attack"), other.LocalAddr())
	require.NoError(t, err)
	require.Eventually(t, func() bool { return e.TURN().Peers.Load() > before }, time.Minute, 10*time.Millisecond)
	require.NoError(t, other.SetReadDeadline(time.Now()))
	_, _, err = other.ReadFrom(b)
	require.Error(t, err)
}

// TestTURNLeadsToNoAddressOfTheMachine: if other addresses are allowed, this machine's
// addresses without media are still not reached, from their appearance to their end.
func TestTURNLeadsToNoAddressOfTheMachine(t *testing.T) {
	m := &machine{}
	m.has("127.0.0.1", "127.0.0.5")
	e, _ := newRelayingEngine(t, func(c *Config) {
		c.interfaces, c.changes = m.interfaces, m.changes
		c.TURN.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.4/31")}
	})
	newClient(t, e, clientConfig{sid: "PA_eve"})
	user, password := credentials(turnKey, turnSecret, "PA_eve", time.Now().Add(time.Minute).Unix())
	c := dialTURN(t, overUDP(t), e.TURNAddrs()[0].String(), user, password)
	_, err := c.allocate()
	require.NoError(t, err)
	at := func(ip string) net.Addr { return &net.UDPAddr{IP: net.ParseIP(ip), Port: 80} }
	require.NoError(t, c.CreatePermission(at("127.0.0.4")))
	require.Error(t, c.CreatePermission(at("127.0.0.5")))
	m.has("127.0.0.1", "127.0.0.4")
	require.Eventually(t, func() bool { return e.net.Ours(netip.MustParseAddr("127.0.0.4")) }, patience, time.Millisecond)
	require.Error(t, c.CreatePermission(at("127.0.0.4")))
	require.NoError(t, c.CreatePermission(at("127.0.0.5")))
}

// TestTURNQuotas: the relays of a participant, of an address and of all clients are
// bounded. A relay that ended makes room.
func TestTURNQuotas(t *testing.T) {
	e, tcp := newRelayingEngine(t, func(c *Config) { c.TURN.PerSession, c.TURN.PerNetwork, c.TURN.All = 3, 5, 7 })
	server := e.TURNAddrs()[0].String()
	soon := time.Now().Add(time.Minute).Unix()
	for _, sid := range []string{"PA_a", "PA_b", "PA_c"} {
		newClient(t, e, clientConfig{sid: sid})
	}
	from := func(ip string) net.PacketConn {
		c, err := net.ListenPacket("udp4", ip+":0")
		require.NoError(t, err)
		return c
	}
	try := func(sid, ip string) (net.PacketConn, error) {
		user, password := credentials(turnKey, turnSecret, sid, soon)
		return dialTURN(t, from(ip), server, user, password).allocate()
	}
	var last net.PacketConn
	for range 3 {
		r, err := try("PA_a", "127.0.0.1")
		require.NoError(t, err)
		last = r
	}
	_, err := try("PA_a", "127.0.0.5")
	require.Error(t, err, "a fourth of one participant")
	require.EqualValues(t, 1, e.TURN().SessionQuota.Load())
	for range 2 {
		_, err := try("PA_b", "127.0.0.1")
		require.NoError(t, err)
	}
	_, err = try("PA_b", "127.0.0.1")
	require.Error(t, err, "a sixth of one address")
	require.EqualValues(t, 1, e.TURN().NetworkQuota.Load())
	for range 2 {
		_, err := try("PA_c", "127.0.0.6")
		require.NoError(t, err)
	}
	_, err = try("PA_c", "127.0.0.6")
	require.Error(t, err, "an eighth")
	require.EqualValues(t, 1, e.TURN().Quota.Load())
	require.NoError(t, last.Close())
	require.Eventually(t, func() bool { return e.TURN().Relays.Load() == 6 }, time.Minute, 10*time.Millisecond)
	// Relays over TCP count too, and the connection of a refused relay is closed.
	conn, err := net.Dial("tcp", tcp)
	require.NoError(t, err)
	user, password := credentials(turnKey, turnSecret, "PA_c", soon)
	_, err = dialTURN(t, pionturn.NewSTUNConn(conn), tcp, user, password).allocate()
	require.NoError(t, err)
	require.EqualValues(t, 7, e.TURN().Relays.Load())
}

// TestTURNFlood: of ten thousand allocations that one participant requests, all beyond
// its quota are refused, and media still connects.
func TestTURNFlood(t *testing.T) {
	e, _ := newRelayingEngine(t, nil)
	newClient(t, e, clientConfig{sid: "PA_flood"})
	soon := time.Now().Add(time.Hour).Unix()
	user, password := credentials(turnKey, turnSecret, "PA_flood", soon)
	flood := newFlood(t, e.TURNAddrs()[0], user, password)
	const asked = 10000
	made := 0
	for range asked {
		if flood.allocate() {
			made++
		}
	}
	require.Equal(t, 32, made)
	require.EqualValues(t, 32, e.TURN().Relays.Load())
	require.EqualValues(t, asked-32, e.TURN().SessionQuota.Load())
	c := newClient(t, e, byRelay("PA_other", e, "udp", true))
	c.join()
	echoes(c, "all the same")
}

// flood requests relays, each from another port.
type flood struct {
	t              *testing.T
	server         netip.AddrPort
	user, password string
	realm          stun.Realm
	nonce          stun.Nonce
}

func newFlood(t *testing.T, server netip.AddrPort, user, password string) *flood {
	f := &flood{t: t, server: server, user: user, password: password}
	challenge := f.ask()
	require.NoError(t, f.realm.GetFrom(challenge))
	require.Equal(t, "livekit", f.realm.String())
	require.NoError(t, f.nonce.GetFrom(challenge))
	return f
}

// ask sends a request with further attributes from a new port, and returns the answer.
func (f *flood) ask(more ...stun.Setter) *stun.Message {
	f.t.Helper()
	conn, err := net.Dial("udp4", f.server.String())
	require.NoError(f.t, err)
	f.t.Cleanup(func() { _ = conn.Close() })
	m, err := stun.Build(append([]stun.Setter{
		stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassRequest),
		stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: []byte{17, 0, 0, 0}},
	}, more...)...)
	require.NoError(f.t, err)
	answer := &stun.Message{Raw: make([]byte, 1500)}
	for range 60 { // the answer may be lost
		_, err = conn.Write(m.Raw)
		require.NoError(f.t, err)
		require.NoError(f.t, conn.SetReadDeadline(time.Now().Add(time.Second)))
		n, err := conn.Read(answer.Raw[:1500])
		if err == nil {
			answer.Raw = answer.Raw[:n]
			require.NoError(f.t, answer.Decode())
			if answer.Type.Class != stun.ClassSuccessResponse {
				_ = conn.Close() // keeps its port from being used again
			}
			return answer
		}
	}
	require.FailNow(f.t, "no answer")
	return nil
}

// allocate reports whether a relay was made.
func (f *flood) allocate() bool {
	f.t.Helper()
	answer := f.ask(stun.NewUsername(f.user), f.realm, f.nonce, stun.NewLongTermIntegrity(f.user, f.realm.String(), f.password))
	if answer.Type.Class == stun.ClassSuccessResponse {
		return true
	}
	var code stun.ErrorCodeAttribute
	require.NoError(f.t, code.GetFrom(answer))
	require.Equal(f.t, stun.CodeAllocQuotaReached, code.Code)
	return false
}
