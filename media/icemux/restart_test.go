package icemux

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// heard is a Handler that notes packets.
type heard chan string

func (h heard) take(packet []byte) bool {
	h <- string(packet)
	return true
}

func (h heard) next(t *testing.T) string {
	t.Helper()
	select {
	case packet := <-h:
		return packet
	case <-time.After(patience):
		require.FailNow(t, "nothing came")
		return ""
	}
}

var media = []byte{0x80, 111, 0, 1}

// What an address has proven before ICE restarts holds for media until a pair is selected,
// and a while longer; nothing else is believed of it.
func TestAFormerAddressIsHeardUntilAPairIsSelected(t *testing.T) {
	r := newRig(t, nil)
	h := make(heard, 100)
	transport := r.mux.For(h.take, nil, nil)
	transport.linger = 0
	session := func(ufrag string) net.PacketConn {
		c, err := transport.GetConn(ufrag, r.local)
		require.NoError(t, err)
		return c
	}
	unknown := func(c *net.UDPConn, packet []byte) {
		t.Helper()
		before := r.counters.Unknown.Load()
		send(t, c, packet)
		require.Eventually(t, func() bool { return r.counters.Unknown.Load() == before+1 }, patience, time.Millisecond)
		require.Empty(t, h)
	}
	proven, forged, late := r.remote(), r.remote(), r.remote()
	first := session("first")
	r.authenticate(first, "first", proven)
	send(t, forged, request(t, "first").Raw)
	_, _ = next(t, first)

	transport.RemoveConnByUfrag("first")
	require.NoError(t, first.Close())
	second := session("second")
	send(t, proven, media)
	require.Equal(t, string(media), h.next(t))
	unknown(proven, dtls)
	unknown(forged, media)
	unknown(late, request(t, "first").Raw)
	unknown(late, media)
	require.False(t, r.mux.Has("first"))

	// Another transport needs more than a check from there, as for any address.
	other := r.session("other")
	r.authenticate(other, "other", proven)
	send(t, proven, media)
	require.Equal(t, string(media), h.next(t))
	// The same transport goes on there, if the client does.
	r.authenticate(second, "second", proven)
	send(t, proven, dtls)
	b, _ := next(t, second)
	require.Equal(t, dtls, b)

	// ICE restarts again before anything was selected.
	r.authenticate(second, "second", late)
	transport.RemoveConnByUfrag("second")
	for _, c := range []*net.UDPConn{proven, late} {
		send(t, c, media)
		require.Equal(t, string(media), h.next(t))
	}
	third, fresh := session("third"), r.remote()
	r.authenticate(third, "third", fresh)
	transport.Selected()
	p := r.mux.ports[0]
	owners := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.owners)
	}
	require.Eventually(t, func() bool { return owners() == 1 }, patience, time.Millisecond)
	unknown(proven, media)
	unknown(late, media)
	send(t, fresh, media)
	require.Equal(t, string(media), h.next(t))
	require.Empty(t, transport.former)

	transport.RemoveConnByUfrag("third")
	send(t, fresh, media)
	require.Equal(t, string(media), h.next(t))
	transport.End()
	unknown(fresh, media)
	require.Zero(t, owners())
	r.authenticate(session("fourth"), "fourth", fresh)
	transport.RemoveConnByUfrag("fourth")
	require.Zero(t, owners(), "it has ended")
}

func TestFormerAddressesAreBounded(t *testing.T) {
	r := newRig(t, nil)
	transport := r.mux.For(make(heard, 100).take, nil, nil)
	defer transport.End()
	for i := range 3 * maxFormer {
		ufrag := fmt.Sprint("ufrag", i)
		c, err := transport.GetConn(ufrag, r.local)
		require.NoError(t, err)
		r.authenticate(c, ufrag, r.remote())
		transport.RemoveConnByUfrag(ufrag)
	}
	p := r.mux.ports[0]
	p.mu.Lock()
	defer p.mu.Unlock()
	require.Len(t, p.owners, maxFormer)
}

// As above, over TCP: the connections on which the agent has answered go on, in both
// directions, for media alone.
func TestFormerConnectionsGoOnUntilAPairIsSelected(t *testing.T) {
	r := newTCPRig(t, nil)
	h := make(heard, 100)
	transport := r.mux.For(h.take, 0)
	transport.linger = 0
	session := func(ufrag string) net.PacketConn {
		c, err := transport.GetConnByUfrag(ufrag, false, r.local.IP)
		require.NoError(t, err)
		return c
	}
	proven, unproven := r.dial("127.0.0.1"), r.dial("127.0.0.1")
	first := session("first")
	r.authenticate(first, "first", proven)
	sendFrame(t, unproven, request(t, "first").Raw)
	_, _ = next(t, first)
	to := proven.LocalAddr().(*net.TCPAddr).AddrPort()
	socket, ok := r.mux.Socket("first", to)
	require.True(t, ok)

	transport.RemoveConnByUfrag("first")
	require.NoError(t, first.Close())
	isClosed(t, unproven)
	for range 2 * maxTCPPackets { // more than may wait for a reader
		sendFrame(t, proven, dtls)
	}
	sendFrame(t, proven, media)
	require.Equal(t, string(media), h.next(t))
	_, err := socket.WriteToAddrPort(media, to)
	require.NoError(t, err)
	require.Equal(t, media, nextFrame(t, proven))
	require.False(t, r.mux.Has("first"))

	fresh := r.dial("127.0.0.1")
	second := session("second")
	r.authenticate(second, "second", fresh)
	sendFrame(t, proven, media)
	require.Equal(t, string(media), h.next(t))
	transport.Selected()
	isClosed(t, proven)
	_, err = socket.WriteToAddrPort(media, to)
	require.Error(t, err)
	sendFrame(t, fresh, media)
	require.Equal(t, string(media), h.next(t))

	transport.RemoveConnByUfrag("second")
	sendFrame(t, fresh, media)
	require.Equal(t, string(media), h.next(t))
	transport.End()
	isClosed(t, fresh)
	last := r.dial("127.0.0.1")
	r.authenticate(session("third"), "third", last)
	transport.RemoveConnByUfrag("third")
	isClosed(t, last) // the transport has ended
	r.mux.mu.Lock()
	defer r.mux.mu.Unlock()
	require.Empty(t, r.mux.former)
	require.Empty(t, transport.former)
}

// Former connections are bounded, and end with the mux.
func TestFormerConnectionsAreBounded(t *testing.T) {
	r := newTCPRig(t, nil) // its end checks that none is left open
	transport := r.mux.For(make(heard, 100).take, 0)
	defer transport.End()
	var conns []net.Conn
	for i := range maxFormer + 2 {
		ufrag := fmt.Sprint("ufrag", i)
		s, err := transport.GetConnByUfrag(ufrag, false, r.local.IP)
		require.NoError(t, err)
		c := r.dial("127.0.0.1")
		r.authenticate(s, ufrag, c)
		conns = append(conns, c)
		transport.RemoveConnByUfrag(ufrag)
	}
	isClosed(t, conns[0])
	isClosed(t, conns[1])
	require.EqualValues(t, maxFormer, r.counters.Open.Load())
	require.NoError(t, r.mux.Close())
	for _, c := range conns[2:] {
		isClosed(t, c)
	}
}
