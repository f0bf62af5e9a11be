package icemux

import (
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v3"
	"github.com/stretchr/testify/require"

	"parlor/media/udp"
)

// rig is a Mux on one socket, and remote sockets.
type rig struct {
	t        *testing.T
	mux      *Mux
	counters Counters
	local    *net.UDPAddr
	relayed  atomic.Pointer[netip.AddrPort] // an address that the server relays; nil: there is none
}

func newRig(t *testing.T, own func(netip.AddrPort) bool) *rig {
	t.Helper()
	r := &rig{t: t}
	log := slog.New(slog.DiscardHandler)
	c, err := udp.Listen(udp.Config{Addr: "127.0.0.1:0", Log: log})
	require.NoError(t, err)
	relayed := func(a netip.AddrPort) bool {
		known := r.relayed.Load()
		return known != nil && a == *known
	}
	r.mux = New(Config{Own: own, Relayed: relayed, Counters: &r.counters, Log: log})
	require.NoError(t, r.mux.Add(c))
	r.local = c.LocalAddr().(*net.UDPAddr)
	t.Cleanup(func() { require.NoError(t, r.mux.Close()) })
	return r
}

func (r *rig) session(ufrag string) net.PacketConn {
	r.t.Helper()
	c, err := r.mux.GetConn(ufrag, r.local)
	require.NoError(r.t, err)
	return c
}

// handled is a session whose RTP and RTCP h sees first.
func (r *rig) handled(ufrag string, h Handler) net.PacketConn {
	r.t.Helper()
	c, err := r.mux.For(h, nil, nil).GetConn(ufrag, r.local)
	require.NoError(r.t, err)
	return c
}

func (r *rig) remote() *net.UDPConn {
	r.t.Helper()
	c, err := net.DialUDP("udp4", nil, r.local)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

func send(t *testing.T, c *net.UDPConn, b []byte) {
	t.Helper()
	_, err := c.Write(b)
	require.NoError(t, err)
}

func request(t *testing.T, ufrag string) *stun.Message {
	t.Helper()
	m, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.NewUsername(ufrag+":remote"))
	require.NoError(t, err)
	return m
}

func success(t *testing.T, id [12]byte) []byte {
	t.Helper()
	m, err := stun.Build(stun.NewTransactionIDSetter(id), stun.BindingSuccess)
	require.NoError(t, err)
	return m.Raw
}

func next(t *testing.T, c net.PacketConn) ([]byte, net.Addr) {
	t.Helper()
	type result struct {
		b    []byte
		from net.Addr
	}
	got := make(chan result, 1)
	go func() {
		b := make([]byte, maxPacket)
		n, from, err := c.ReadFrom(b)
		if err == nil {
			got <- result{b[:n], from}
		}
	}()
	select {
	case r := <-got:
		return r.b, r.from
	case <-time.After(time.Minute):
		require.FailNow(t, "no packet came")
		return nil, nil
	}
}

// authenticate has an agent behind the session answer a request of the remote's.
func (r *rig) authenticate(s net.PacketConn, ufrag string, remote *net.UDPConn) {
	r.t.Helper()
	m := request(r.t, ufrag)
	send(r.t, remote, m.Raw)
	_, from := next(r.t, s)
	_, err := s.WriteTo(success(r.t, m.TransactionID), from)
	require.NoError(r.t, err)
}

var dtls = []byte{22, 0xfe, 0xfd, 1, 2, 3}

func TestOwnerIsWhoAuthenticated(t *testing.T) {
	r := newRig(t, nil)
	victim, attacker := r.session("victim"), r.session("attacker")
	remote := r.remote()
	send(t, remote, dtls) // nobody's yet
	require.Eventually(t, func() bool { return r.counters.Unknown.Load() == 1 }, time.Minute, time.Millisecond)
	r.authenticate(victim, "victim", remote)

	// Writing to the address changes nothing, requests and forged ones included.
	check := request(t, "remote")
	_, err := attacker.WriteTo(check.Raw, remote.LocalAddr())
	require.NoError(t, err)
	r.authenticate(attacker, "attacker", remote)
	send(t, remote, dtls)
	b, _ := next(t, victim)
	require.Equal(t, dtls, b)

	// An agent that moreover receives there takes the address over: a NAT gave it away.
	send(t, remote, success(t, check.TransactionID))
	b, _ = next(t, attacker)
	require.Equal(t, success(t, check.TransactionID), b, "a response goes to the agent that asked")
	send(t, remote, dtls)
	b, _ = next(t, attacker)
	require.Equal(t, dtls, b)

	// Once it has gone, nobody is the owner.
	require.NoError(t, attacker.Close())
	before := r.counters.Unknown.Load()
	send(t, remote, dtls)
	require.Eventually(t, func() bool { return r.counters.Unknown.Load() == before+1 }, time.Minute, time.Millisecond)
	require.False(t, r.mux.Has("attacker"))
	require.True(t, r.mux.Has("victim"))
}

func TestMediaGoesToItsHandler(t *testing.T) {
	r := newRig(t, nil)
	got := make(chan []byte, 1)
	rtcp := []byte{0x80, 200, 0, 1}
	s, remote := r.handled("s", func(p []byte) bool {
		if p[1] == rtcp[1] {
			return false
		}
		got <- append([]byte(nil), p...)
		return true
	}), r.remote()
	r.authenticate(s, "s", remote)
	rtp := []byte{0x80, 111, 0, 1}
	send(t, r.remote(), rtp) // of a stranger
	send(t, remote, rtp)
	require.Equal(t, rtp, <-got)
	send(t, remote, dtls)
	b, _ := next(t, s)
	require.Equal(t, dtls, b, "all else goes on to the agent")
	send(t, remote, rtcp)
	b, _ = next(t, s)
	require.Equal(t, rtcp, b, "and so does what the handler does not take")
	require.Empty(t, got)
}

func TestSourcesAreBounded(t *testing.T) {
	r := newRig(t, nil)
	s := r.session("s")
	for range maxSources {
		r.authenticate(s, "s", r.remote())
	}
	send(t, r.remote(), request(t, "s").Raw)
	require.Eventually(t, func() bool { return r.counters.Sources.Load() == 1 }, time.Minute, time.Millisecond)
	// Those that fell silent make room, but not for ever.
	p := r.mux.ports[0]
	later := func(d time.Duration, port uint16) *source {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.sessions["s"].sourceLocked(netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port), time.Now().Add(d))
	}
	require.Nil(t, later(0, 1))
	require.NotNil(t, later(2*sourceIdle, 1))
	p.mu.Lock()
	p.sessions["s"].ever = maxSourcesEver
	p.mu.Unlock()
	require.Nil(t, later(10*sourceIdle, 2))
}

func TestOwnAddresses(t *testing.T) {
	var mine atomic.Pointer[netip.AddrPort]
	r := newRig(t, func(a netip.AddrPort) bool { m := mine.Load(); return m != nil && a == *m })
	s, remote := r.session("s"), r.remote()
	addr := remote.LocalAddr().(*net.UDPAddr).AddrPort()
	mine.Store(&addr)
	send(t, remote, request(t, "s").Raw)
	require.Eventually(t, func() bool { return r.counters.Own.Load() == 1 }, time.Minute, time.Millisecond)
	_, err := s.WriteTo(request(t, "x").Raw, remote.LocalAddr())
	require.NoError(t, err)
	require.EqualValues(t, 2, r.counters.Own.Load())
}

// A session that does not read holds a bounded number of packets.
func TestQueueIsBounded(t *testing.T) {
	r := newRig(t, nil)
	r.session("s")
	s := r.mux.ports[0].session("s")
	for range maxQueued + 7 {
		s.push(dtls, netip.AddrPort{})
	}
	require.EqualValues(t, 7, r.counters.Overflow.Load())
	require.Equal(t, maxQueued, s.queued)
}

// Requests that nobody answers are forgotten.
func TestRequestsAreForgotten(t *testing.T) {
	r := newRig(t, nil)
	s := r.session("s")
	for range 2 * maxRequests {
		_, err := s.WriteTo(request(t, "x").Raw, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9})
		require.NoError(t, err)
	}
	p := r.mux.ports[0]
	p.mu.Lock()
	require.Len(t, p.asked, maxRequests)
	p.sessions["s"].askedLocked(&stunMessage{}, netip.AddrPort{}, time.Now().Add(2*requestAge))
	require.Len(t, p.asked, 1)
	p.mu.Unlock()
	require.NoError(t, s.Close())
	require.Empty(t, p.asked)
}

func FuzzSTUN(f *testing.F) {
	m, _ := stun.Build(stun.TransactionID, stun.BindingRequest, stun.NewUsername("a:b"))
	f.Add(m.Raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, ok := parseSTUN(b)
		if !ok {
			return
		}
		ours.ufrag()
	})
}

// TestForgedAddressesOfRelays: what the server delivers of a relay's client goes where it should,
// and what the network brings from the same address goes nowhere.
func TestForgedAddressesOfRelays(t *testing.T) {
	r := newRig(t, nil)
	var handled atomic.Int64
	s, remote := r.handled("relayed", func([]byte) bool { handled.Add(1); return true }), r.remote()
	at := canonical(remote.LocalAddr().(*net.UDPAddr).AddrPort())
	r.relayed.Store(&at)
	ask := request(t, "relayed")
	require.True(t, r.mux.Deliver(ask.Raw, at, canonical(r.local.AddrPort())))
	_, from := next(t, s)
	_, err := s.WriteTo(success(t, ask.TransactionID), from)
	require.NoError(t, err)
	rtp := append([]byte{0x80, 96}, make([]byte, 20)...)
	for _, forged := range [][]byte{dtls, rtp, request(t, "relayed").Raw} {
		send(t, remote, forged)
	}
	require.Eventually(t, func() bool { return r.counters.Own.Load() == 3 }, time.Minute, time.Millisecond)
	require.Zero(t, handled.Load())
	require.True(t, r.mux.Deliver(rtp, at, canonical(r.local.AddrPort())))
	require.EqualValues(t, 1, handled.Load())
	last := append(dtls, 4)
	require.True(t, r.mux.Deliver(last, at, canonical(r.local.AddrPort())))
	got, _ := next(t, s)
	require.Equal(t, last, got, "nothing came between")
}
