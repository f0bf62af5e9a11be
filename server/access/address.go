package access

import "net"

// Address is a client's address without the port, from a request's RemoteAddr. Behind a
// trusted proxy RemoteAddr is the client's own address already.
func Address(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		return host
	}
	return remote
}
