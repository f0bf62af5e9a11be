package icemux

import (
	"net"
	"testing"
	"time"

	"github.com/pion/stun/v3"
	"github.com/stretchr/testify/require"
)

// The agent is not shown responses that tell it nothing new: of a client that has just checked
// the pair, after the agent has selected one and has had a response on it. It is shown all else.
func TestResponsesThatTellNothing(t *testing.T) {
	r := newRig(t, nil)
	p := r.mux.ports[0]
	// locked changes what time and an agent would, under the lock.
	locked := func(f func()) {
		p.mu.Lock()
		defer p.mu.Unlock()
		f()
	}
	locked(func() { r.mux.cfg.Assured = time.Hour })
	transport := r.mux.For(nil, nil, nil)
	conn, err := transport.GetConn("a", r.local)
	require.NoError(t, err)
	first, second := r.remote(), r.remote()
	source := func(ufrag string, c *net.UDPConn) *source {
		return p.sessions[ufrag].sources[c.LocalAddr().(*net.UDPAddr).AddrPort()]
	}
	// shown has the agent ask a client, which answers.
	shown := func(s net.PacketConn, c *net.UDPConn, want bool, why string, more ...stun.Setter) {
		t.Helper()
		m, err := stun.Build(append([]stun.Setter{stun.TransactionID, stun.BindingRequest}, more...)...)
		require.NoError(t, err)
		_, err = s.WriteTo(m.Raw, c.LocalAddr())
		require.NoError(t, err)
		response := success(t, m.TransactionID)
		send(t, c, response)
		if !want {
			response = dtls
			send(t, c, response) // comes after it
		}
		got, _ := next(t, s)
		require.Equal(t, response, got, why)
	}

	r.authenticate(conn, "a", second)
	r.authenticate(conn, "a", first)
	for range 3 {
		shown(conn, first, true, "no pair is selected")
	}
	time.Sleep(time.Millisecond) // or clocks that tell no shorter time would show the same time
	transport.Selected()
	time.Sleep(time.Millisecond)
	shown(conn, first, true, "it is the first since")
	for range 3 {
		shown(conn, first, false, "it tells nothing")
	}
	shown(conn, second, true, "another pair")
	shown(conn, first, true, "it is asked for another reason", stun.RawAttribute{Type: stun.AttrUseCandidate})

	locked(func() { source("a", first).assured = time.Now().Add(-time.Hour) })
	for range 3 {
		shown(conn, first, true, "the client checks no more: nothing else tells that it is there")
	}
	send(t, first, request(t, "a").Raw)
	_, _ = next(t, conn)
	shown(conn, first, true, "a request that was not authentic tells nothing")
	r.authenticate(conn, "a", first)
	shown(conn, first, false, "it checks again")

	locked(func() { source("a", first).shown = time.Now().Add(-showEvery) })
	shown(conn, first, true, "now and then")
	shown(conn, first, false, "until then")

	locked(func() { source("a", first).trip = time.Second })
	shown(conn, first, true, "the round trip is no longer what the agent measured")
	shown(conn, first, false, "now it is")

	time.Sleep(time.Millisecond)
	transport.Selected()
	time.Sleep(time.Millisecond)
	shown(conn, first, true, "another pair may be selected")

	next, err := transport.GetConn("b", r.local)
	require.NoError(t, err)
	r.authenticate(next, "b", first)
	for range 3 {
		shown(next, first, true, "ICE has restarted")
	}
}
