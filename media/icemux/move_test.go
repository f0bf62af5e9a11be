package icemux

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/pion/stun/v3"
	"github.com/stretchr/testify/require"
)

// A client has moved when its checks, or other packets of its, come from another address
// and no more from the former. Nothing is believed before a check from there has been
// authenticated, and of another host nothing before that has answered one of ours.
func TestAClientMoves(t *testing.T) {
	r := newRig(t, nil)
	moved := make(chan netip.AddrPort, 10)
	local := r.local.AddrPort()
	conn, err := r.mux.For(nil, func(to, at netip.AddrPort) {
		require.Equal(t, local, at)
		moved <- to
	}, func(response []byte) bool {
		m := stun.Message{Raw: slices.Clone(response)}
		return m.Decode() == nil && stun.NewShortTermIntegrity("client's password").Check(&m) == nil
	}).GetConn("here", r.local)
	require.NoError(t, err)
	at := func(c *net.UDPConn) net.Addr { return c.LocalAddr() }
	// check is a request of the client's, which the agent answers if it is authentic.
	check := func(c *net.UDPConn, authentic bool, more ...stun.Setter) {
		t.Helper()
		m, err := stun.Build(append([]stun.Setter{stun.TransactionID, stun.BindingRequest, stun.NewUsername("here:there")}, more...)...)
		require.NoError(t, err)
		send(t, c, m.Raw)
		got, _ := next(t, conn)
		require.Equal(t, m.Raw, got)
		if authentic {
			_, err = conn.WriteTo(success(t, m.TransactionID), at(c))
			require.NoError(t, err)
		}
	}
	nominate := stun.RawAttribute{Type: stun.AttrUseCandidate}
	media := func(c *net.UDPConn, n int, comes bool) {
		t.Helper()
		for range n {
			send(t, c, []byte{0x80, 1, 2, 3})
			if comes {
				got, _ := next(t, conn)
				require.Equal(t, []byte{0x80, 1, 2, 3}, got)
			}
		}
	}
	stays := func(why string) {
		t.Helper()
		select {
		case to := <-moved:
			require.FailNow(t, why, "it moved to %v", to)
		default:
		}
	}
	moves := func(c *net.UDPConn, why string) {
		t.Helper()
		select {
		case to := <-moved:
			require.Equal(t, c.LocalAddr().(*net.UDPAddr).AddrPort(), to, why)
		case <-time.After(time.Minute):
			require.FailNow(t, why)
		}
	}
	// rested has the last move be long ago, so that it is no reason to stay.
	rested := func() {
		p := r.mux.ports[0]
		p.mu.Lock()
		defer p.mu.Unlock()
		p.sessions["here"].movedAt = time.Time{}
	}
	first, second, third := r.remote(), r.remote(), r.remote()
	check(first, true)
	media(first, 5, true)
	before := r.counters.Unknown.Load()
	media(second, 5, false)
	require.Eventually(t, func() bool { return r.counters.Unknown.Load() == before+5 }, time.Minute, time.Millisecond)
	check(second, false, nominate)
	stays("nothing was authenticated")
	check(second, true)
	stays("it may be one of two addresses")
	check(first, true)
	check(second, true)
	stays("it still checks from the former")
	for deadline := time.Now().Add(time.Minute); len(moved) == 0 && time.Now().Before(deadline); {
		check(second, true)
	}
	moves(second, "it checks from there alone")
	rested()
	check(third, true, nominate)
	moves(third, "it nominates that pair")
	rested()
	check(first, true)
	media(first, 1, true)
	media(third, 1, true)
	media(first, 2, true)
	stays("late packets")
	media(first, 1, true)
	moves(first, "it sends from there alone")

	other, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)}, r.local)
	require.NoError(t, err)
	defer func() { _ = other.Close() }()
	check(third, true, nominate)
	stays("it has just moved")
	check(first, true)
	rested()
	check(other, true, nominate)
	media(other, 5, true)
	stays("another host has answered nothing")
	// respond has the agent ask an address, and answers from another one.
	respond := func(asked, from *net.UDPConn, password string) {
		t.Helper()
		ours := request(t, "there")
		_, err := conn.WriteTo(ours.Raw, at(asked))
		require.NoError(t, err)
		m, err := stun.Build(stun.NewTransactionIDSetter(ours.TransactionID), stun.BindingSuccess, stun.NewShortTermIntegrity(password))
		require.NoError(t, err)
		send(t, from, m.Raw)
		_, _ = next(t, conn)
	}
	respond(first, other, "client's password")
	check(other, true, nominate)
	stays("it has answered what was asked of another address, so it may be another that bears its name")
	respond(other, other, "another password")
	check(other, true, nominate)
	stays("somebody else has answered, perhaps with a request of the client's that was recorded")
	respond(other, other, "client's password")
	check(other, true, nominate)
	moves(other, "it has")
}
