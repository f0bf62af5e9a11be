package media

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

// machine is interfaces that change. It may be used concurrently.
type machine struct {
	mu      sync.Mutex // guards the following
	addrs   []netip.Addr
	changed func()
}

func (m *machine) interfaces() ([]networkInterface, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return []networkInterface{{"eth0", false, slices.Clone(m.addrs)}}, nil
}

func (m *machine) changes(ctx context.Context, _ *slog.Logger, changed func()) {
	m.mu.Lock()
	m.changed = changed
	m.mu.Unlock()
	changed()
	<-ctx.Done()
}

// has sets the machine's addresses and reports the change.
func (m *machine) has(addrs ...string) {
	m.mu.Lock()
	m.addrs = parseAll(addrs...)
	changed := m.changed
	m.mu.Unlock()
	if changed != nil {
		changed()
	}
}

// advertises waits until a new client is told of candidates on exactly these addresses,
// over UDP and TCP.
func advertises(t *testing.T, e *Engine, want ...string) {
	t.Helper()
	slices.Sort(want)
	var got []string
	require.Eventually(t, func() bool {
		got = candidatesOf(t, e)
		return slices.Equal(got, want)
	}, patience, 10*time.Millisecond, "wants %v", want)
}

// candidatesOf are the addresses that a client is told of: once if both UDP and TCP are
// offered there, otherwise with the one protocol.
func candidatesOf(t *testing.T, e *Engine) []string {
	t.Helper()
	sent := make(chan Candidate, 100)
	p, err := e.NewPeer(PeerConfig{SID: "PA_a", SubscriberPrimary: true, Protocol: 17, Events: &events{ch: make(chan occurrence, 10)},
		Signals: unheard{func(c Candidate) { sent <- c }}})
	require.NoError(t, err)
	defer func() { p.Close(); <-p.done }()
	p.Start()
	protocols := map[string][]string{}
	for {
		select {
		case c := <-sent:
			f := strings.Fields(c.Candidate)
			require.Greater(t, len(f), 5)
			protocols[f[4]] = append(protocols[f[4]], f[2])
			if c.Final {
				var out []string
				for addr, over := range protocols {
					slices.Sort(over)
					if !slices.Equal(over, []string{"tcp", "udp"}) {
						addr += " " + strings.Join(over, "+")
					}
					out = append(out, addr)
				}
				slices.Sort(out)
				return out
			}
		case <-time.After(time.Second): // there are no more
			return nil
		}
	}
}

// An address that an interface gets while the server runs is bound and advertised, and
// one that it loses is not advertised any more. A client on another address is not
// affected, and a client that uses the new one is served.
func TestAddressesAreFollowed(t *testing.T) {
	m := &machine{}
	m.has("127.0.0.1")
	e := newTestEngine(t, func(c *Config) {
		c.BindAddresses, c.TCPPort = nil, TCPEphemeral
		c.interfaces, c.changes = m.interfaces, m.changes
	})
	advertises(t, e, "127.0.0.1")
	stays := newClient(t, e, clientConfig{sid: "PA_s"})
	stays.join()
	port := e.net.sockets[0].port

	m.has("127.0.0.1", "127.0.0.2")
	advertises(t, e, "127.0.0.1", "127.0.0.2")
	require.True(t, e.net.own(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), port)))
	only := func(over webrtc.NetworkType) *client {
		c := newClient(t, e, clientConfig{sid: "PA_n", single: true, settings: func(s *webrtc.SettingEngine) {
			s.SetNetworkTypes([]webrtc.NetworkType{over})
		}})
		c.reroute = func(text string) string { return strings.ReplaceAll(text, " 127.0.0.1 ", " 127.0.0.2 ") }
		return c
	}
	for _, over := range []webrtc.NetworkType{webrtc.NetworkTypeUDP4, webrtc.NetworkTypeTCP4} {
		c := only(over)
		c.join()
		echoes(c, "over the new address")
		c.close()
	}

	sent := e.Stats().Sockets
	m.has("127.0.0.1")
	advertises(t, e, "127.0.0.1")
	require.Len(t, *e.net.sockets[0].conns.Load(), 1)
	require.Len(t, e.Stats().Sockets, len(sent), "what was counted is kept")
	require.False(t, e.net.own(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), port)))
	echoes(stays, "nothing happened")

	m.has() // the cable is out
	advertises(t, e)
	m.has("127.0.0.3")
	advertises(t, e, "127.0.0.3")
}

// An address that cannot be bound yet, such as an IPv6 address during duplicate address
// detection, is bound as soon as it can be.
func TestAnAddressThatCannotBeBoundYet(t *testing.T) {
	m := &machine{}
	m.has("127.0.0.1")
	e := newTestEngine(t, func(c *Config) {
		c.BindAddresses, c.interfaces, c.changes = nil, m.interfaces, m.changes
	})
	taken, err := e.net.sockets[0].bind(netip.MustParseAddr("127.0.0.2"))
	require.NoError(t, err)
	m.has("127.0.0.1", "127.0.0.2")
	require.Equal(t, []string{"127.0.0.1 udp"}, candidatesOf(t, e))
	require.NoError(t, taken.Close())
	advertises(t, e, "127.0.0.1 udp", "127.0.0.2 udp")
}

// The local address behind an external one is followed too.
func TestTheExternalAddressIsFollowed(t *testing.T) {
	m := &machine{}
	m.has("127.0.0.1")
	e := newTestEngine(t, func(c *Config) {
		c.BindAddresses, c.NodeIPs, c.TCPPort = []string{"0.0.0.0"}, []string{"203.0.113.7"}, TCPEphemeral
		c.interfaces, c.changes = m.interfaces, m.changes
	})
	advertises(t, e, "203.0.113.7")
	m.has("127.0.0.2")
	require.Eventually(t, func() bool {
		udp, _ := e.Addrs()
		return len(udp) == 1 && udp[0].Addr().String() == "127.0.0.2"
	}, patience, time.Millisecond)
	advertises(t, e, "203.0.113.7")
}

// A named address is bound as soon as the machine has it again.
func TestANamedAddressIsFollowed(t *testing.T) {
	f := networkOf(t, &Config{BindAddresses: []string{"198.51.100.1", "127.0.0.1"}})
	require.Equal(t, parseAll("127.0.0.1"), f.presentOf([]networkInterface{{"eth0", false, parseAll("198.51.100.2")}}))
	require.Equal(t, parseAll("127.0.0.1", "198.51.100.1"), f.presentOf([]networkInterface{{"eth0", false, parseAll("198.51.100.1")}}))
}
