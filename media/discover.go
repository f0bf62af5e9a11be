package media

import (
	"context"
	"net/netip"
)

// ExternalAddress asks STUN servers, host:port, in turn under which address this machine
// appears to them (RFC 8489), and returns the first answer. One that does not answer is
// waited for three seconds.
func ExternalAddress(ctx context.Context, servers []string) (netip.Addr, error) {
	return externalIP(ctx, servers)
}
