package media

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"

	"parlor/media/forward"
)

// If several addresses are advertised, packets are still handled in order of arrival:
// pion reads a conn once for each address that shares it.
func TestPacketsKeepTheirOrder(t *testing.T) {
	e := newTestEngine(t, func(c *Config) { c.BindAddresses = []string{"0.0.0.0"} })
	require.Len(t, *e.net.sockets[0].conns.Load(), len(e.net.now.Load().local))
	if len(e.net.now.Load().local) < 2 {
		t.Skip("this machine has one address")
	}
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()
	local := a.publish("TR_1", vp8, nil)
	a.published("TR_1")
	const packets = 10000
	sent := 0
	for layerStats(a).Packets < packets {
		require.Less(t, sent, 2*packets, "too much is lost")
		const burst = 50
		want := layerStats(a).Packets + burst
		for range burst {
			require.NoError(t, local.WriteRTP(&rtp.Packet{
				Header:  rtp.Header{Version: 2, Marker: true, SequenceNumber: uint16(sent), Timestamp: uint32(sent * 900)},
				Payload: []byte{0x10, 0x00, 0x00, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00},
			}))
			sent++
		}
		// This keeps buffers from overflowing. The first packets may come before the
		// connection.
		for late := time.Now().Add(time.Second); layerStats(a).Packets < want && time.Now().Before(late); {
			runtime.Gosched()
		}
	}
	require.Zero(t, layerStats(a).Late)
}

// layerStats are the server's counts for the client's first stream.
func layerStats(a *client) forward.LayerStats {
	got := make(chan forward.LayerStats, 1)
	a.peer.post(func() {
		for _, s := range a.peer.sections {
			if len(s.streams) > 0 && s.streams[0].layer != nil {
				got <- s.streams[0].layer.Stats()
				return
			}
		}
		got <- forward.LayerStats{}
	})
	return <-got
}

// networkOf is the network of a configuration, not opened.
func networkOf(t *testing.T, cfg *Config) *network {
	t.Helper()
	cfg.setDefaults()
	filter, err := newAddressFilter(cfg)
	require.NoError(t, err)
	binds, err := parseBindAddresses(cfg.BindAddresses)
	require.NoError(t, err)
	return &network{cfg: cfg, filter: filter, binds: binds}
}

func parseAll(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

func TestAddressesToBind(t *testing.T) {
	list := []networkInterface{
		{"lo", true, parseAll("127.0.0.1", "::1")},
		{"eth0", false, parseAll("198.51.100.1", "2001:db8::1", "fe80::1")},
		{"docker0", false, parseAll("172.17.0.1")},
	}
	for name, c := range map[string]struct {
		cfg  Config
		want []netip.Addr
	}{
		"named, as they are": {Config{BindAddresses: []string{"127.0.0.1", "::1", "127.0.0.1"}, ExcludeIPs: []string{"127.0.0.0/8"}},
			parseAll("127.0.0.1", "::1")},
		"all":                 {Config{}, parseAll("172.17.0.1", "198.51.100.1", "2001:db8::1")},
		"all, with loopback":  {Config{LoopbackCandidate: true}, parseAll("127.0.0.1", "172.17.0.1", "198.51.100.1", "::1", "2001:db8::1")},
		"all in LiveKit's":    {Config{BindAddresses: []string{""}}, parseAll("172.17.0.1", "198.51.100.1", "2001:db8::1")},
		"of IPv4":             {Config{BindAddresses: []string{"0.0.0.0"}}, parseAll("172.17.0.1", "198.51.100.1")},
		"of IPv6, as Linux":   {Config{BindAddresses: []string{"::"}}, parseAll("172.17.0.1", "198.51.100.1", "2001:db8::1")},
		"of IPv6, beside one": {Config{BindAddresses: []string{"::", "127.0.0.1"}}, parseAll("127.0.0.1", "2001:db8::1")},
		"of an interface":     {Config{IncludeInterfaces: []string{"eth0"}}, parseAll("198.51.100.1", "2001:db8::1")},
		"not of an interface": {Config{ExcludeInterfaces: []string{"docker0"}}, parseAll("198.51.100.1", "2001:db8::1")},
		"of a network":        {Config{IncludeIPs: []string{"198.51.100.0/24"}}, parseAll("198.51.100.1")},
	} {
		require.Equal(t, c.want, networkOf(t, &c.cfg).bindable(list), name)
	}
}

// On a machine with no network but loopback, the error says how to have calls on that machine.
func TestNoAddressToBindSaysWhatToDo(t *testing.T) {
	onlyLoopback := func() ([]networkInterface, error) {
		return []networkInterface{{"lo", true, parseAll("127.0.0.1", "::1")}}, nil
	}
	_, err := openNetwork(networkOf(t, &Config{interfaces: onlyLoopback, Log: testLog(t)}).cfg)
	require.ErrorContains(t, err, "set rtc.enable_loopback_candidate, or start with --dev")
	_, err = openNetwork(networkOf(t, &Config{interfaces: onlyLoopback, Log: testLog(t), LoopbackCandidate: true, ExcludeInterfaces: []string{"lo"}}).cfg)
	require.ErrorContains(t, err, "see rtc.interfaces and rtc.ips")
}

// The local address with the route to the outside stands for the external one. Clients
// cannot use the other addresses of its family.
func TestExternalAddress(t *testing.T) {
	local := parseAll("127.0.0.1", "198.51.100.1", "198.51.100.2", "2001:db8::1")
	for _, c := range []struct {
		external           string
		internal, wantAddr string
	}{
		{"203.0.113.7", "198.51.100.1", "203.0.113.7"}, // no route leads from these: the first address that is not loopback
		{"198.51.100.2", "198.51.100.2", ""},
		{"2001:db8::2", "2001:db8::1", "2001:db8::2"},
	} {
		now, err := networkOf(t, &Config{NodeIPs: []string{c.external}}).advertised(local)
		require.NoError(t, err)
		require.Contains(t, now.local, netip.MustParseAddr(c.internal))
		require.Contains(t, now.local, netip.MustParseAddr("127.0.0.1"))
		if c.wantAddr == "" {
			require.Empty(t, now.external, "it needs no mapping")
			require.NotContains(t, now.local, netip.MustParseAddr("198.51.100.1"))
			continue
		}
		require.Equal(t, map[netip.Addr]netip.Addr{netip.MustParseAddr(c.internal): netip.MustParseAddr(c.wantAddr)}, now.external)
	}
	_, err := networkOf(t, &Config{NodeIPs: []string{"2001:db8::2"}}).advertised(parseAll("127.0.0.1"))
	require.Error(t, err)
	_, err = networkOf(t, &Config{NodeIPs: []string{"here"}}).advertised(local)
	require.Error(t, err)
}

// Only the addresses that the configuration names are advertised: of both families if it
// names both, of one if it names one. Packets to loopback may arrive at another address,
// so if loopback is named, the others of its family stay.
func TestNothingIsAdvertisedThatIsNotNamed(t *testing.T) {
	local := parseAll("127.0.0.1", "198.51.100.1", "2001:db8::1")
	four, six := netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8::9")
	for _, c := range []struct {
		named    []string
		kept     []netip.Addr
		external map[netip.Addr]netip.Addr
	}{
		{[]string{"203.0.113.7"}, parseAll("127.0.0.1", "198.51.100.1"), map[netip.Addr]netip.Addr{local[1]: four}},
		{[]string{"2001:db8::9"}, parseAll("127.0.0.1", "2001:db8::1"), map[netip.Addr]netip.Addr{local[2]: six}},
		{[]string{"127.0.0.1"}, parseAll("127.0.0.1", "198.51.100.1"), map[netip.Addr]netip.Addr{}},
		{[]string{"203.0.113.7", "2001:db8::9"}, local, map[netip.Addr]netip.Addr{local[1]: four, local[2]: six}},
	} {
		now, err := networkOf(t, &Config{NodeIPs: c.named}).advertised(local)
		require.NoError(t, err)
		require.Equal(t, c.kept, now.local)
		require.Equal(t, c.external, now.external)
	}
}

// A machine behind a NAT that passes everything on, as in most clouds, has the address to which
// its name leads.
func TestTheNameTellsTheAddressOfANAT(t *testing.T) {
	for _, c := range []struct {
		name              string
		named, local, why []netip.Addr
	}{
		{"a cloud", parseAll("203.0.113.7"), parseAll("10.1.2.3", "127.0.0.1"), parseAll("203.0.113.7")},
		{"a cloud with IPv6", parseAll("2001:db8::7", "203.0.113.7"), parseAll("10.1.2.3", "2001:db8::7"), parseAll("203.0.113.7")},
		{"the address of an access network", parseAll("203.0.113.7"), parseAll("100.64.0.9"), parseAll("203.0.113.7")},
		{"a public address of its own", parseAll("203.0.113.7"), parseAll("198.51.100.1", "10.1.2.3"), nil},
		{"an office", parseAll("10.1.2.3"), parseAll("10.1.2.3"), nil},
		{"another family", parseAll("203.0.113.7"), parseAll("fd00::1", "127.0.0.1"), nil},
		{"loopback alone", parseAll("203.0.113.7"), parseAll("127.0.0.1", "::1"), nil},
	} {
		require.Equal(t, c.why, NATAddresses(c.named, c.local), c.name)
	}

	local := parseAll("10.1.2.3", "10.1.2.4")
	var answer []netip.Addr
	var failure error
	asked := 0
	n := networkOf(t, &Config{ExternalName: "calls.example.com", lookup: func(_ context.Context, name string) ([]netip.Addr, error) {
		asked++
		require.Equal(t, "calls.example.com", name)
		return slices.Clone(answer), failure
	}})
	told := func() (out []netip.Addr) {
		t.Helper()
		n.discover(t.Context(), local)
		now, err := n.advertised(local)
		require.NoError(t, err)
		for _, a := range now.local {
			out = append(out, now.known(a))
		}
		return out
	}
	failure = errors.New("no resolver yet")
	require.Equal(t, local, told())
	require.True(t, n.due, "it is tried again")
	answer, failure = parseAll("::ffff:203.0.113.7"), nil
	require.Equal(t, parseAll("203.0.113.7"), told())
	require.False(t, n.due)
	failure = errors.New("no resolver any more")
	require.Equal(t, parseAll("203.0.113.7"), told(), "the last holds")
	answer, failure = parseAll("203.0.113.8"), nil
	require.Equal(t, parseAll("203.0.113.8"), told())
	behind := local
	local = parseAll("10.1.2.3", "198.51.100.1", "2001:db8::7", "127.0.0.1")
	before := asked
	require.Equal(t, local, told(), "no NAT hides this machine any more")
	require.Equal(t, before, asked, "a start waits for no answer that it does not need")
	local = behind
	n.cfg.NodeIPs = []string{"203.0.113.9"}
	require.Equal(t, parseAll("203.0.113.9"), told(), "what is configured goes before")
	require.Equal(t, before, asked)
}
