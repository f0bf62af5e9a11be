package media

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"

	"parlor/media/forward"
)

// Where several addresses are advertised, packets are still taken in the order in
// which they came: pion reads a conn once for each address that shares it.
func TestPacketsKeepTheirOrder(t *testing.T) {
	e := newTestEngine(t, func(c *Config) { c.BindAddresses = []string{"0.0.0.0"} })
	require.Len(t, e.net.sockets[0].conns, len(e.net.addrs))
	if len(e.net.addrs) < 2 {
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
		// So that no buffer overflows. The first packets may come before the connection.
		for late := time.Now().Add(time.Second); layerStats(a).Packets < want && time.Now().Before(late); {
			runtime.Gosched()
		}
	}
	require.Zero(t, layerStats(a).Late)
}

// layerStats is what the server counted of the client's first stream.
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

func TestAddressesToBind(t *testing.T) {
	f := addressFilter{exclude: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	addrs, err := f.bindable([]string{"127.0.0.1", "::1", "127.0.0.1"}, false)
	require.NoError(t, err)
	require.Equal(t, []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}, addrs, "those named are bound as they are")
	all, err := (addressFilter{}).bindable(nil, true)
	require.NoError(t, err)
	require.Contains(t, all, netip.MustParseAddr("127.0.0.1"))
	if rest, err := f.bindable([]string{"0.0.0.0"}, true); err == nil {
		for _, a := range rest {
			require.True(t, a.Is4() && !a.IsLoopback(), "%v", a)
		}
	}
}

// The address on the way to the outside stands for the external one; others of its
// family lead clients nowhere.
func TestExternalAddress(t *testing.T) {
	parse := netip.MustParseAddr
	local := []netip.Addr{parse("127.0.0.1"), parse("198.51.100.1"), parse("198.51.100.2"), parse("2001:db8::1")}
	for _, c := range []struct {
		external           string
		internal, wantAddr string
	}{
		{"203.0.113.7", "198.51.100.1", "203.0.113.7"}, // no route leads from these: the first that is no loopback
		{"198.51.100.2", "198.51.100.2", ""},
		{"2001:db8::2", "2001:db8::1", "2001:db8::2"},
	} {
		n := &network{addrs: append([]netip.Addr(nil), local...)}
		require.NoError(t, n.findExternal(&Config{NodeIPs: []string{c.external}}))
		require.Contains(t, n.addrs, parse(c.internal))
		require.Contains(t, n.addrs, parse("127.0.0.1"))
		if c.wantAddr == "" {
			require.Empty(t, n.external, "it needs no mapping")
			require.NotContains(t, n.addrs, parse("198.51.100.1"))
			continue
		}
		require.Equal(t, map[netip.Addr]netip.Addr{parse(c.internal): parse(c.wantAddr)}, n.external)
	}
	n := &network{addrs: []netip.Addr{parse("127.0.0.1")}}
	require.Error(t, n.findExternal(&Config{NodeIPs: []string{"2001:db8::2"}}))
	require.Error(t, n.findExternal(&Config{NodeIPs: []string{"here"}}))
}

// What is advertised is what the configuration names, and nothing besides: of both
// families where it names both, of one where it names one.
func TestNothingIsAdvertisedThatIsNotNamed(t *testing.T) {
	parse := netip.MustParseAddr
	local := []netip.Addr{parse("127.0.0.1"), parse("198.51.100.1"), parse("2001:db8::1")}
	for _, c := range []struct {
		named, kept []string
		external    map[netip.Addr]netip.Addr
	}{
		{[]string{"203.0.113.7"}, []string{"127.0.0.1", "198.51.100.1"}, map[netip.Addr]netip.Addr{local[1]: parse("203.0.113.7")}},
		{[]string{"2001:db8::9"}, []string{"127.0.0.1", "2001:db8::1"}, map[netip.Addr]netip.Addr{local[2]: parse("2001:db8::9")}},
		{[]string{"203.0.113.7", "2001:db8::9"}, []string{"127.0.0.1", "198.51.100.1", "2001:db8::1"},
			map[netip.Addr]netip.Addr{local[1]: parse("203.0.113.7"), local[2]: parse("2001:db8::9")}},
	} {
		n := &network{addrs: append([]netip.Addr(nil), local...)}
		require.NoError(t, n.findExternal(&Config{NodeIPs: c.named}))
		var kept []string
		for _, a := range n.addrs {
			kept = append(kept, a.String())
		}
		require.Equal(t, c.kept, kept)
		require.Equal(t, c.external, n.external)
	}
}
