package access

import "net"

// Address is the address of a client, given as a request's RemoteAddr, without its
// port. Behind a trusted proxy RemoteAddr is the client's own already.
func Address(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		return host
	}
	return remote
}
