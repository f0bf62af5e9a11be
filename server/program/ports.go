package program

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
)

// present is hosts without those that this machine does not have, such as ::1 without
// IPv6. It leaves hosts out only in development, where the program itself names them.
func (p *program) present(hosts []string) []string {
	if !p.cfg.Development {
		return hosts
	}
	kept := slices.DeleteFunc(slices.Clone(hosts), func(host string) bool {
		c, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
		if err != nil {
			p.log.Debug("not listening", "address", host, "error", err)
			return true
		}
		_ = c.Close() // nothing was sent on it
		return false
	})
	if len(kept) == 0 {
		return hosts // listening on them gives the error
	}
	return kept
}

// anyPortTries bounds the search for a port that is free on all addresses.
const anyPortTries = 20

// listenOn listens on a TCP port on each host, or on all addresses if there are no hosts.
// Port 0 is any free port, the same on all hosts.
func listenOn(ctx context.Context, hosts []string, port int) (all []net.Listener, err error) {
	for try := 1; ; try++ {
		all, err = listenOnce(ctx, hosts, port)
		if port != 0 || try == anyPortTries || !errors.Is(err, syscall.EADDRINUSE) {
			return all, err
		}
		for _, l := range all {
			_ = l.Close() // nothing was accepted on it
		}
	}
}

func listenOnce(ctx context.Context, hosts []string, port int) ([]net.Listener, error) {
	if len(hosts) == 0 {
		hosts = []string{""}
	}
	var all []net.Listener
	for _, host := range hosts {
		l, err := new(net.ListenConfig).Listen(ctx, network(host, hosts), net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return all, fmt.Errorf("listen: %w", err)
		}
		all = append(all, l)
		port = l.Addr().(*net.TCPAddr).Port
	}
	return all, nil
}

// network is the network to listen on for a host: "::" includes IPv4, unless one of the
// hosts is an IPv4 address.
func network(host string, hosts []string) string {
	switch addr, err := netip.ParseAddr(host); {
	case err != nil: // all addresses
		return "tcp"
	case addr.Is4():
		return "tcp4"
	case addr.IsUnspecified() && !slices.ContainsFunc(hosts, func(h string) bool {
		other, err := netip.ParseAddr(h)
		return err == nil && other.Is4()
	}):
		return "tcp"
	}
	return "tcp6"
}

// portHint adds advice to an error of listening on a port. setting names the setting that
// chooses the port.
func portHint(err error, setting string) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: another program has the port, such as a second Parlor; choose another with %s", err, setting)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: ports below 1024 are for root, and for programs with the capability cap_net_bind_service "+
			"(AmbientCapabilities=CAP_NET_BIND_SERVICE in a unit of systemd); give it, or choose another port with %s", err, setting)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w: this machine does not have the address; mend bind_addresses, or rtc.bind_addresses", err)
	}
	return err
}
