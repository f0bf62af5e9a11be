package server

import (
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// closing is a connection that tells of its end.
type closing struct {
	net.Conn
	remote net.TCPAddr
	closed func()
}

func (c *closing) RemoteAddr() net.Addr { return &c.remote }

func (c *closing) Close() error {
	c.closed()
	return nil
}

// TestARequestThatComesDuringTheStop is not cut: its connection waits no more when its turn to
// be closed comes.
func TestARequestThatComesDuringTheStop(t *testing.T) {
	c := newConnections(nil, nil)
	var all []net.Conn
	closed := 0
	for n := range 5 {
		conn := &countedConn{connections: c, network: "192.0.2.1", Conn: &closing{
			remote: net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1000 + n},
			closed: func() {
				closed++
				for _, other := range all {
					c.state(other, http.StateActive) // the requests of all are complete now
				}
			},
		}}
		all = append(all, conn)
		c.state(conn, http.StateNew)
	}
	c.dismiss()
	require.Equal(t, 1, closed)
}
