package media

import (
	"net"
	"sync"
	"testing"
	"time"

	piontransport "github.com/pion/transport/v5"
	"github.com/pion/transport/v5/stdnet"
	"github.com/stretchr/testify/require"
)

// muteNet is the real network until gone is closed. Then all packets are lost.
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

// lateNet is the real network, but UDP packets arrive with a delay: media is slower than
// signalling.
type lateNet struct {
	piontransport.Net
	by time.Duration
}

func newLateNet(t *testing.T, by time.Duration) piontransport.Net {
	t.Helper()
	n, err := stdnet.NewNet()
	require.NoError(t, err)
	return &lateNet{n, by}
}

func (n *lateNet) ListenUDP(network string, a *net.UDPAddr) (piontransport.UDPConn, error) {
	c, err := n.Net.ListenUDP(network, a)
	if err != nil {
		return nil, err
	}
	return &lateConn{UDPConn: c, by: n.by, queue: make(chan latePacket, 4096)}, nil
}

type lateConn struct {
	piontransport.UDPConn
	by      time.Duration
	queue   chan latePacket
	started sync.Once
	reading sync.WaitGroup
}

type latePacket struct {
	bytes []byte
	from  net.Addr
	due   time.Time
}

func (c *lateConn) read() {
	defer close(c.queue)
	for {
		b := make([]byte, 1500)
		n, from, err := c.UDPConn.ReadFrom(b)
		if err != nil {
			return
		}
		select {
		case c.queue <- latePacket{b[:n], from, time.Now().Add(c.by)}:
		default: // like a full socket buffer
		}
	}
}

func (c *lateConn) ReadFrom(p []byte) (int, net.Addr, error) {
	c.started.Do(func() { c.reading.Go(c.read) })
	packet, ok := <-c.queue
	if !ok {
		return 0, nil, net.ErrClosed
	}
	time.Sleep(time.Until(packet.due))
	return copy(p, packet.bytes), packet.from, nil
}

func (c *lateConn) Close() error {
	err := c.UDPConn.Close()
	c.reading.Wait()
	return err
}
