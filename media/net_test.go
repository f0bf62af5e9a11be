package media

import (
	"net"
	"testing"

	piontransport "github.com/pion/transport/v5"
	"github.com/pion/transport/v5/stdnet"
	"github.com/stretchr/testify/require"
)

// muteNet is the real network until gone is closed; then what is sent is lost.
type muteNet struct {
	piontransport.Net
	gone <-chan struct{}
}

func mutableNet(t *testing.T, gone <-chan struct{}) piontransport.Net {
	t.Helper()
	n, err := stdnet.NewNet()
	require.NoError(t, err)
	return &muteNet{n, gone}
}

type muteConn struct {
	piontransport.UDPConn
	gone <-chan struct{}
}

func (n *muteNet) ListenUDP(network string, a *net.UDPAddr) (piontransport.UDPConn, error) {
	c, err := n.Net.ListenUDP(network, a)
	if err != nil {
		return nil, err
	}
	return &muteConn{c, n.gone}, nil
}

func (c *muteConn) WriteTo(p []byte, a net.Addr) (int, error) {
	select {
	case <-c.gone:
		return len(p), nil
	default:
		return c.UDPConn.WriteTo(p, a)
	}
}
