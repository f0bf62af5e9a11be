package server

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// fromProxies are the headers, beside X-Forwarded-For, by which proxies tell of the request
// that they got.
var fromProxies = []string{"X-Forwarded-Proto", "X-Forwarded-Prefix"}

// clientAddress sets RemoteAddr to the client's own address behind a trusted proxy: the
// last address in X-Forwarded-For that is not a trusted proxy itself. Addresses before it
// may be invented. From others it takes the headers of proxies away, so that no handler
// believes them.
func clientAddress(trusted []netip.Prefix) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			peer, err := netip.ParseAddrPort(r.RemoteAddr)
			if err != nil || !contains(trusted, peer.Addr()) {
				next.ServeHTTP(w, withoutProxies(r))
				return
			}
			if from, ok := forwardedFor(r, trusted); ok {
				forwarded := *r
				forwarded.RemoteAddr = net.JoinHostPort(from.String(), "0")
				r = &forwarded
			}
			next.ServeHTTP(w, r)
		})
	}
}

// withoutProxies is r without the headers of proxies.
func withoutProxies(r *http.Request) *http.Request {
	for _, name := range fromProxies {
		if _, sent := r.Header[name]; !sent {
			continue
		}
		bare := *r
		bare.Header = r.Header.Clone()
		for _, name := range fromProxies {
			bare.Header.Del(name)
		}
		return &bare
	}
	return r
}

func forwardedFor(r *http.Request, trusted []netip.Prefix) (from netip.Addr, ok bool) {
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
