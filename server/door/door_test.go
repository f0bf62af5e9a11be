package door

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const patience = time.Minute

// house is a door and the readers behind it. Each reader answers with the name of its way and
// the first bytes that it got.
type house struct {
	door *Door
	addr string
	root *x509.CertPool
}

func selfSigned(t *testing.T, names ...string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: names, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	root := x509.NewCertPool()
	root.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, root
}

func answers(name string, length int) func(net.Conn) {
	return func(conn net.Conn) {
		go func() { // ends with the connection, which the test ends
			defer conn.Close()
			b := make([]byte, length)
			if _, err := io.ReadFull(conn, b); err == nil {
				_, _ = fmt.Fprintf(conn, "%s %x", name, b) // the client may be gone
			}
		}()
	}
}

func build(t *testing.T, change func(*Config)) *house {
	t.Helper()
	cert, root := selfSigned(t, "calls.example", "turn.example")
	cfg := Config{
		TLS: &tls.Config{
			MinVersion: tls.VersionTLS12,
			GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
				if err := h.SupportsCertificate(&cert); err != nil {
					return nil, err
				}
				return &cert, nil
			},
		},
		TURNName: "turn.example", TURN: answers("TURN", 20), ICE: answers("ICE", 22), HTTP: true, Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	d := New(cfg)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, d.Listen(l))
	if cfg.HTTP {
		asIs, decrypted := d.HTTP()
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, "%s %v", r.Proto, r.TLS != nil) // the client may be gone
		})
		plain, encrypted := &http.Server{Handler: handler, ReadHeaderTimeout: patience}, &http.Server{Handler: handler, TLSConfig: cfg.TLS, ReadHeaderTimeout: patience}
		t.Cleanup(func() { _, _ = plain.Close(), encrypted.Close() })
		go func() { _ = plain.Serve(decrypted[0]) }() // both end with the test
		go func() { _ = encrypted.ServeTLS(asIs[0], "", "") }()
	}
	return &house{d, l.Addr().String(), root}
}

func (h *house) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", h.addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	return conn
}

func (h *house) dialTLS(t *testing.T, name string, protocols ...string) *tls.Conn {
	t.Helper()
	c := tls.Client(h.dial(t), &tls.Config{ServerName: name, NextProtos: protocols, RootCAs: h.root})
	require.NoError(t, c.Handshake())
	return c
}

// stunRequest is what a TURN client sends first, and framed what one of ICE-TCP does.
func stunRequest() []byte {
	return append([]byte{0, 3, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...)
}

func framed() []byte {
	p := stunRequest()
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...)
}

// TestEverybodyFindsTheWay: on one port HTTP over TLS with either version, HTTP of clients that
// name no protocol, ICE-TCP, and TURN over TCP and over TLS, told by its protocol, its
// name, or its first bytes alone.
func TestEverybodyFindsTheWay(t *testing.T) {
	h := build(t, nil)
	says := func(conn net.Conn, first []byte, want string) {
		t.Helper()
		_, err := conn.Write(first)
		require.NoError(t, err)
		b := make([]byte, 200)
		n, err := conn.Read(b)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("%s %x", want, first), string(b[:n]))
	}
	says(h.dial(t), stunRequest(), "TURN")
	says(h.dial(t), framed(), "ICE")
	says(h.dialTLS(t, "calls.example", "stun.turn"), stunRequest(), "TURN")
	says(h.dialTLS(t, "turn.example"), stunRequest(), "TURN")
	says(h.dialTLS(t, "calls.example"), stunRequest(), "TURN") // by its first bytes

	for name, protocols := range map[string][]string{"HTTP/1.1 true": {"http/1.1"}, "HTTP/2.0 true": {"h2", "http/1.1"}} {
		transport := &http.Transport{
			TLSClientConfig: &tls.Config{ServerName: "calls.example", RootCAs: h.root, NextProtos: protocols}, ForceAttemptHTTP2: len(protocols) > 1,
		}
		defer transport.CloseIdleConnections()
		res, err := (&http.Client{Transport: transport, Timeout: patience}).Get("https://" + h.addr)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, name, string(body))
	}
	c := h.dialTLS(t, "calls.example")
	_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: calls.example\r\nConnection: close\r\n\r\n")
	require.NoError(t, err)
	answer, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Contains(t, string(answer), "HTTP/1.1 false")
	require.EqualValues(t, 4, h.door.Counters().TURN.Load())
	require.EqualValues(t, 1, h.door.Counters().ICE.Load())
	require.EqualValues(t, 3, h.door.Counters().HTTP.Load())
}

// TestDropByDrop: a client that sends its first bytes one at a time is understood as well.
func TestDropByDrop(t *testing.T) {
	h := build(t, nil)
	for want, first := range map[string][]byte{"TURN": stunRequest(), "ICE": framed()} {
		conn := h.dial(t)
		for _, b := range first {
			_, err := conn.Write([]byte{b})
			require.NoError(t, err)
		}
		answer, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(answer, []byte(want)), "%q", answer)
	}
}

// TestClientsOfAProxy: they are known by the address that the proxy names, over TCP and over
// TLS. Who names none, is no proxy, or says something else, is turned away.
func TestClientsOfAProxy(t *testing.T) {
	who := func(conn net.Conn) {
		go func() { // ends with the connection, which the test ends
			defer conn.Close()
			b := make([]byte, len(stunRequest()))
			if _, err := io.ReadFull(conn, b); err == nil && bytes.Equal(b, stunRequest()) {
				_, _ = fmt.Fprint(conn, conn.RemoteAddr()) // the client may be gone
			}
		}()
	}
	of := func(networks ...string) *house {
		return build(t, func(c *Config) {
			c.HTTP, c.ICE, c.TURN = false, nil, who
			for _, n := range networks {
				c.Proxies = append(c.Proxies, netip.MustParsePrefix(n))
			}
		})
	}
	h := of("10.0.0.0/8", "127.0.0.0/8")
	v2 := func(command, family byte, addresses ...byte) string {
		head := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), command, family)
		return string(append(binary.BigEndian.AppendUint16(head, uint16(len(addresses))), addresses...))
	}
	four := []byte{192, 0, 2, 1, 192, 0, 2, 2, 0x04, 0x00, 1, 187}
	six := slices.Concat(netip.MustParseAddr("2001:db8::1").AsSlice(), netip.MustParseAddr("2001:db8::2").AsSlice(), []byte{0x04, 0x00, 1, 187})
	for header, want := range map[string]string{
		"PROXY TCP4 192.0.2.1 192.0.2.2 1024 443\r\n":             "192.0.2.1:1024",
		"PROXY TCP6 2001:db8::1 2001:db8::2 1024 443\r\n":         "[2001:db8::1]:1024",
		"PROXY UNKNOWN\r\n":                                       "127.0.0.1:",
		v2(0x21, 0x11, four...):                                   "192.0.2.1:1024",
		v2(0x21, 0x11, append(slices.Clone(four), 4, 0, 1, 0)...): "192.0.2.1:1024",
		v2(0x21, 0x21, six...):                                    "[2001:db8::1]:1024",
		v2(0x20, 0x00):                                            "127.0.0.1:",
		v2(0x21, 0x00, 1, 2, 3):                                   "127.0.0.1:",
	} {
		conn := h.dial(t)
		for _, b := range []byte(header) {
			_, err := conn.Write([]byte{b})
			require.NoError(t, err)
		}
		_, err := conn.Write(stunRequest())
		require.NoError(t, err)
		answer, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(answer), want), "%q: %s", header, answer)

		conn = h.dial(t)
		_, err = io.WriteString(conn, header)
		require.NoError(t, err)
		encrypted := tls.Client(conn, &tls.Config{ServerName: "turn.example", RootCAs: h.root})
		_, err = encrypted.Write(stunRequest())
		require.NoError(t, err, header)
		answer, _ = io.ReadAll(encrypted) // the other side ends without a word
		require.True(t, strings.HasPrefix(string(answer), want), "%q: %s", header, answer)
	}
	refuses := func(h *house, header string) {
		t.Helper()
		conn := h.dial(t)
		_, err := conn.Write(append([]byte(header), stunRequest()...))
		require.NoError(t, err)
		answer, _ := io.ReadAll(conn) // it may be reset
		require.Empty(t, answer, header)
	}
	for _, header := range []string{
		"", "GET / HTTP/1.1\r\n\r\n", "PROXY TCP4 192.0.2.1 192.0.2.2 1024\r\n", "PROXY TCP4 2001:db8::1 ::1 1024 443\r\n",
		"PROXY TCP4 name 192.0.2.2 1024 443\r\n", "PROXY TCP4 192.0.2.1 192.0.2.2 70000 443\r\n", "PROXY UDP4 192.0.2.1 192.0.2.2 1024 443\r\n",
		"PROXY TCP6 fe80::1%eth0 ::1 1024 443\r\n", "PROXY " + strings.Repeat("x", longestPROXY1), "PROXY\r\n\r\n\r\n\r\n",
		v2(0x11, 0x11, four...), v2(0x22, 0x11, four...), v2(0x21, 0x11, four[1:]...), v2(0x21, 0x21, four...),
		v2(0x21, 0x11, make([]byte, longestPROXY2+1)...),
	} {
		refuses(h, header)
	}
	refuses(of("10.0.0.0/8"), "PROXY TCP4 192.0.2.1 192.0.2.2 1024 443\r\n")
}

// TestWhyAProxyIsRefused is told in the log, once for a network.
func TestWhyAProxyIsRefused(t *testing.T) {
	for proxies, c := range map[string]struct{ header, why string }{
		"10.0.0.0/8":  {"PROXY TCP4 192.0.2.1 192.0.2.2 1024 443\r\n", "it does not come from a proxy that may name its client"},
		"127.0.0.0/8": {"", "it does not begin with a header of the PROXY protocol"},
	} {
		var log bytes.Buffer // written by the door's goroutines, one at a time
		h := build(t, func(cfg *Config) {
			cfg.Proxies, cfg.Log = []netip.Prefix{netip.MustParsePrefix(proxies)}, slog.New(slog.NewTextHandler(&log, nil))
		})
		for range 3 {
			conn := h.dial(t)
			_, err := conn.Write(append([]byte(c.header), stunRequest()...))
			require.NoError(t, err)
			closed(t, conn)
		}
		require.NoError(t, h.door.Close()) // it writes no more
		require.EqualValues(t, 3, h.door.Counters().Unnamed.Load())
		require.Zero(t, h.door.Counters().Unknown.Load())
		require.Equal(t, 1, strings.Count(log.String(), c.why), log.String())
		require.Contains(t, log.String(), "network=127.0.0.1/32")
	}
}

// TestACrowdBehindAProxy: the silent connections of one client have a bound there, too, and take
// no place of others that come from the same proxy.
func TestACrowdBehindAProxy(t *testing.T) {
	h := build(t, func(c *Config) { c.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	from := func(client string) net.Conn {
		conn := h.dial(t)
		_, err := io.WriteString(conn, "PROXY TCP4 "+client+" 192.0.2.100 1024 443\r\n")
		require.NoError(t, err)
		return conn
	}
	slow := from("192.0.2.9")
	for range maxCallersOfNetwork + 10 {
		from("192.0.2.1")
	}
	require.Eventually(t, func() bool {
		c := h.door.Counters()
		return c.Crowd.Load() == 10 && c.Callers.Load() == maxCallersOfNetwork+1
	}, patience, 10*time.Millisecond)
	_, err := slow.Write(stunRequest())
	require.NoError(t, err)
	answer, err := io.ReadAll(slow)
	require.NoError(t, err)
	require.Contains(t, string(answer), "TURN")
}

// closed waits until the other side has closed.
func closed(t *testing.T, conn net.Conn) {
	t.Helper()
	_, err := io.ReadAll(conn)
	var timeout net.Error
	require.False(t, errors.As(err, &timeout) && timeout.Timeout(), "it is open still")
}

// TestNobodyWaitsAtTheDoor: a client that says nothing, or something unknown, or does not end its
// TLS handshake, is sent away in time. Others come in meanwhile.
func TestNobodyWaitsAtTheDoor(t *testing.T) {
	h := build(t, func(c *Config) { c.Time = 300 * time.Millisecond })
	silent, slow, hello, encrypted := h.dial(t), h.dial(t), h.dial(t), h.dialTLS(t, "calls.example")
	_, err := slow.Write([]byte{0, 3})
	require.NoError(t, err)
	_, err = hello.Write([]byte{0x16, 3, 1, 0x40, 0, 1, 0, 0x3f}) // the head of a long handshake
	require.NoError(t, err)
	// What trickles in buys no time: a handshake of which a byte comes at a time.
	trickle := h.dial(t)
	var trickling sync.WaitGroup
	trickling.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for _, err := trickle.Write([]byte{0x16, 3, 1, 0x40, 0, 1, 0, 0x3f}); err == nil; _, err = trickle.Write([]byte{0}) {
			<-tick.C
		}
	})
	for _, conn := range []net.Conn{silent, slow, hello, encrypted, trickle} {
		closed(t, conn)
	}
	trickling.Wait()
	require.EqualValues(t, 5, h.door.Counters().Late.Load())

	h = build(t, nil)
	for _, nonsense := range []string{"nonsense of any kind", "\x00\x03\x00\x00nonsense of any kind", "\x16\x03\x01\x00\x05nonsense of any kind", "\x80nonsense of any kind"} {
		conn := h.dial(t)
		_, err := io.WriteString(conn, nonsense)
		require.NoError(t, err)
		closed(t, conn)
	}
	require.Error(t, tls.Client(h.dial(t), &tls.Config{ServerName: "other.example", RootCAs: h.root}).Handshake(), "a name without a certificate")
	require.Error(t, tls.Client(h.dial(t), &tls.Config{ServerName: "calls.example", RootCAs: h.root, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}).Handshake())
	require.Eventually(t, func() bool {
		c := h.door.Counters()
		return c.Unknown.Load() == 3 && c.TLS.Load() == 3 && c.Callers.Load() == 0
	}, patience, 10*time.Millisecond)
}

// TestACrowdAtTheDoor: the silent connections of one network have a bound, and give way to
// those that come later.
func TestACrowdAtTheDoor(t *testing.T) {
	h := build(t, nil)
	first := h.dial(t)
	for range 2*maxCallersOfNetwork - 1 {
		h.dial(t)
	}
	require.Eventually(t, func() bool { return h.door.Counters().Crowd.Load() == maxCallersOfNetwork }, patience, 10*time.Millisecond)
	require.EqualValues(t, maxCallersOfNetwork, h.door.Counters().Callers.Load())
	closed(t, first)
	for _, from := range []byte{1, 9} {
		conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, from)}}).Dial("tcp", h.addr)
		require.NoError(t, err)
		defer conn.Close()
		_, err = conn.Write(stunRequest())
		require.NoError(t, err)
		answer, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Contains(t, string(answer), "TURN")
	}
	require.Zero(t, h.door.Counters().Unknown.Load())
}

// silent is a connection that says nothing.
type silent struct {
	net.Conn
	remote net.TCPAddr
	gone   chan struct{}
	once   sync.Once
}

func (c *silent) Read([]byte) (int, error) {
	<-c.gone
	return 0, io.EOF
}

func (c *silent) Close() error {
	c.once.Do(func() { close(c.gone) })
	return nil
}

func (c *silent) RemoteAddr() net.Addr        { return &c.remote }
func (c *silent) SetDeadline(time.Time) error { return nil }

// TestACrowdOfManyNetworks: when all places are taken, the network with most connections gives
// one up. Many people share the network of a proxy, which has no bound of its own.
func TestACrowdOfManyNetworks(t *testing.T) {
	d := New(Config{Trusted: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}, Time: patience, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	l := newHanded(&net.TCPAddr{})
	require.NoError(t, d.Listen(l))
	dial := func(from byte, n int) (all []*silent) {
		for range n {
			c := &silent{remote: net.TCPAddr{IP: net.IPv4(192, 0, 2, from), Port: 1000}, gone: make(chan struct{})}
			require.True(t, l.put(c))
			all = append(all, c)
		}
		return all
	}
	const ofProxy = 2 * maxCallersOfNetwork
	proxy := dial(1, ofProxy)
	others := byte(2)
	for left := maxCallers - ofProxy; left > 0; left -= maxCallersOfNetwork {
		dial(others, maxCallersOfNetwork)
		others++
	}
	require.Eventually(t, func() bool { return d.Counters().Callers.Load() == maxCallers }, patience, time.Millisecond)
	require.Zero(t, d.Counters().Crowd.Load())
	late := dial(others, 1)[0]
	select {
	case <-proxy[0].gone: // it had the oldest place of the network with most
	case <-time.After(patience):
		require.FailNow(t, "nobody gave way")
	}
	require.Eventually(t, func() bool { return d.Counters().Callers.Load() == maxCallers }, patience, time.Millisecond)
	require.EqualValues(t, 1, d.Counters().Crowd.Load())
	select {
	case <-late.gone:
		require.Fail(t, "the late one was let in")
	default:
	}
}

// TestALongHello: the first message of a TLS handshake has a bound, which no client reaches.
func TestALongHello(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"with HTTP": nil, "TURN alone": func(c *Config) { c.HTTP, c.ICE = false, nil },
	} {
		h := build(t, change)
		hello := func(protocols int) error {
			names := []string{turnProtocol}
			for range protocols {
				names = append(names, strings.Repeat("x", 200))
			}
			return tls.Client(h.dial(t), &tls.Config{ServerName: "calls.example", NextProtos: names, RootCAs: h.root}).Handshake()
		}
		require.NoError(t, hello(40), name)
		require.Error(t, hello(250), name)
		require.EqualValues(t, 1, h.door.Counters().TLS.Load(), name)
	}
}

// TestWaysThatAreNot: a door for TURN alone turns others away.
func TestWaysThatAreNot(t *testing.T) {
	h := build(t, func(c *Config) { c.HTTP, c.ICE = false, nil })
	for _, first := range [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n"), framed()} {
		conn := h.dial(t)
		_, err := conn.Write(first)
		require.NoError(t, err)
		closed(t, conn)
	}
	c := h.dialTLS(t, "calls.example", "stun.turn")
	_, err := c.Write(stunRequest())
	require.NoError(t, err)
	b := make([]byte, 4)
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, "TURN", string(b))
}

func FuzzTell(f *testing.F) {
	for _, b := range [][]byte{stunRequest(), framed(), []byte("GET / HTTP/1.1"), {0x16, 3, 1, 0, 5}} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := tell(b)
		if len(b) >= firstBytes && k == unknown && err == nil {
			t.Fatal("it asks for more than is ever looked at")
		}
	})
}
