// Package tcp has what connections of media over TCP need of the system: ICE-TCP's and
// those to the TURN server. It has one noun, the connection.
package tcp

import "net"

// Innermost returns the connection beneath all those that conn wraps: a connection that
// wraps another has the method NetConn, as [crypto/tls.Conn] has.
func Innermost(conn net.Conn) net.Conn {
	for {
		w, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = w.NetConn()
	}
}
