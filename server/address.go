package server

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// clientAddress sets RemoteAddr to the client's own address behind a trusted proxy: the
// last address in X-Forwarded-For that is not a trusted proxy itself. Addresses before it
// may be invented. From others the header is ignored.
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
			break // addresses before it cannot be trusted
		}
		from, ok = a, true
		if !contains(trusted, a) {
			break
		}
	}
	return from, ok
}

// parseHop reads an address. Some proxies add a port.
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
