package server

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// clientAddress makes RemoteAddr the client's own where a trusted proxy stands
// before us: the last address of X-Forwarded-For that is not a trusted proxy's
// itself, since whatever stands before that may be made up. Everybody else's
// header is passed over.
func clientAddress(trusted []netip.Prefix) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if from, ok := forwardedFor(r, trusted); ok {
				forwarded := *r
				forwarded.RemoteAddr = net.JoinHostPort(from.String(), "0")
				r = &forwarded
			}
			next.ServeHTTP(w, r)
		})
	}
}

func forwardedFor(r *http.Request, trusted []netip.Prefix) (from netip.Addr, ok bool) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !contains(trusted, peer.Addr()) {
		return from, false
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		a, err := parseHop(strings.TrimSpace(hop))
		if err != nil {
			break // what stands before it cannot be trusted
		}
		from, ok = a, true
		if !contains(trusted, a) {
			break
		}
	}
	return from, ok
}

// parseHop reads an address, which some proxies give with a port.
func parseHop(s string) (netip.Addr, error) {
	if at, err := netip.ParseAddrPort(s); err == nil {
		return at.Addr().Unmap(), nil
	}
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	return a.Unmap(), err
}

func contains(all []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Contains(a.Unmap().WithZone("")) })
}
