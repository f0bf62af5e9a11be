package media

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// bindAddress is an address of [Config.BindAddresses].
type bindAddress struct {
	netip.Addr      // unspecified for a wildcard
	both       bool // a wildcard of both families
}

// parseBindAddresses reads addresses to bind. "" is every local address, and so is "::"
// unless an IPv4 address is named beside it: then "::" is IPv6 alone.
func parseBindAddresses(texts []string) ([]bindAddress, error) {
	if len(texts) == 0 {
		texts = []string{""}
	}
	var out []bindAddress
	ipv4 := false
	for _, text := range texts {
		if text == "" {
			text = "::"
		}
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("address to bind: %w", err)
		}
		addr = addr.Unmap()
		ipv4 = ipv4 || addr.Is4()
		out = append(out, bindAddress{Addr: addr})
	}
	for i := range out {
		out[i].both = out[i].Addr == netip.IPv6Unspecified() && !ipv4
	}
	return out, nil
}

// covers reports whether a socket bound to a receives packets sent to a local address.
func (a bindAddress) covers(local netip.Addr) bool {
	if a.IsUnspecified() {
		return a.both || a.Is4() == local.Is4()
	}
	return a.Addr == local
}

// listen binds a TCP port; port 0 takes any free one.
func (a bindAddress) listen(port int) (net.Listener, error) {
	network, host := "tcp4", a.String()
	switch {
	case a.both:
		network, host = "tcp", ""
	case a.Is6():
		network = "tcp6"
	}
	return new(net.ListenConfig).Listen(context.Background(), network, net.JoinHostPort(host, strconv.Itoa(port)))
}
