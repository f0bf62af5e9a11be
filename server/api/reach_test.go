package api

import (
	"net"
	"net/netip"
	"testing"

	"github.com/pion/stun/v3"
	"github.com/stretchr/testify/require"
)

// TestPortsAreReachedFromOutside: what listens and answers is reached, and what does not
// listen is not.
func TestPortsAreReachedFromOutside(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	answered := make(chan error, 1)
	go func() {
		answered <- func() error {
			b := make([]byte, 1500)
			var from net.Addr
			request := &stun.Message{}
			for range 2 { // the first is lost
				n, remote, err := socket.ReadFrom(b)
				if err != nil {
					return err
				}
				from, request.Raw = remote, b[:n]
			}
			if err := request.Decode(); err != nil {
				return err
			}
			answer, err := stun.Build(request, stun.BindingSuccess, &stun.XORMappedAddress{IP: net.IPv4(127, 0, 0, 1), Port: 1})
			if err != nil {
				return err
			}
			_, err = socket.WriteTo(answer.Raw, from)
			return err
		}()
	}()
	portOf := func(a net.Addr) int { return int(netip.MustParseAddrPort(a.String()).Port()) }
	open, answers := portOf(listener.Addr()), portOf(socket.LocalAddr())
	shut, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed := portOf(shut.Addr())
	require.NoError(t, shut.Close())
	found := reachAll(t.Context(), netip.MustParseAddr("127.0.0.1"), &ReachRequest{TCP: []uint32{uint32(open), uint32(closed)}, UDP: []uint32{uint32(answers), uint32(closed)}})
	require.Equal(t, []Reached{
		{"tcp", open, true, "it accepts connections"},
		{"tcp", closed, false, "nothing listens there"},
		{"udp", answers, true, "it answers"},
		{"udp", closed, false, "nothing listens there"},
	}, found)
	require.NoError(t, <-answered)
	require.NoError(t, listener.Close())
	require.NoError(t, socket.Close())
}
