package media

import (
	"context"
	"net/netip"
)

// ExternalAddress returns the address under which this machine appears to the first of
// the STUN servers (host:port) that answers (RFC 8489). It asks them in turn, and waits
// three seconds for each.
func ExternalAddress(ctx context.Context, servers []string) (netip.Addr, error) {
	return externalIP(ctx, servers)
}
