package media

import (
	"context"
	"net/netip"
	"time"
)

// ExternalAddress returns the address under which this machine appears to the first of
// the STUN servers (host:port) that answers (RFC 8489). It asks them in turn, and waits
// three seconds for each.
func ExternalAddress(ctx context.Context, servers []string) (netip.Addr, error) {
	return externalIP(ctx, servers)
}

// AnswersSTUN asks the STUN or TURN server at an address, once a second until ctx ends, and
// returns nil when it has answered (RFC 8489). An error that is [syscall.ECONNREFUSED] says that
// no program has that port.
func AnswersSTUN(ctx context.Context, server netip.AddrPort) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		_, err := askSTUN(attempt, "udp", server.String())
		lost := attempt.Err() != nil // the request, or its answer
		cancel()
		if err == nil || !lost || ctx.Err() != nil {
			return err
		}
	}
}
