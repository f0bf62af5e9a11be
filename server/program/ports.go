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

	"parlor/server"
	"parlor/server/door"
)

// listen binds the ports of HTTP, of metrics and of TURN over TCP.
func (p *program) listen(ctx context.Context) (err error) {
	hosts := p.present(p.cfg.BindAddresses)
	if len(p.listeners) == 0 { // none was handed over
		if p.listeners, err = listenOn(ctx, hosts, p.cfg.Port); err != nil {
			return portHint(err, "--port")
		}
	}
	if p.cfg.OneDoor() {
		if err := p.openFront(); err != nil {
			return err
		}
	}
	if p.cfg.TLS.HTTPPort != 0 {
		if p.plainListeners, err = listenOn(ctx, hosts, p.cfg.TLS.HTTPPort); err != nil {
			p.log.Warn("nobody is sent from plain HTTP to TLS, and the certificate authority can ask on the TLS port alone",
				"error", portHint(err, "tls.http_port"))
		}
	}
	if p.cfg.Prometheus.Port != 0 {
		if p.metricsListeners, err = listenOn(ctx, hosts, p.cfg.Prometheus.Port); err != nil {
			return portHint(err, "prometheus.port")
		}
	}
	if p.cfg.DebugHandler.Port != 0 {
		if p.debugListeners, err = listenOn(ctx, p.existing(loopback), p.cfg.DebugHandler.Port); err != nil {
			return portHint(err, "debug_handler.port")
		}
	}
	if p.cfg.Admin && p.cfg.AdminPort != 0 {
		if p.adminListeners, err = listenOn(ctx, hosts, p.cfg.AdminPort); err != nil {
			return portHint(err, "admin_port")
		}
	}
	if p.cfg.TURN.Enabled && p.cfg.TURN.TLSPort != 0 && p.cfg.TURN.TLSPort != p.cfg.Port {
		return p.listenForTURN(ctx)
	}
	return nil
}

func (p *program) serveTURN(conn net.Conn) {
	_ = p.media.ServeTURN(conn) // a client that is not served is disconnected
}

// openFront opens one door for HTTP and for the other parts that share its port.
func (p *program) openFront() error {
	c := door.Config{TLS: p.tls, HTTP: true, Trusted: prefixes(p.cfg.TrustedProxies), Log: p.log}
	if p.cfg.TURN.Enabled && p.cfg.TURN.TLSPort == p.cfg.Port {
		c.TURN = p.serveTURN
		if p.cfg.TURN.Domain != p.cfg.Domain {
			c.TURNName = p.cfg.TURN.Domain
		}
	}
	if p.cfg.RTC.TCPPort == p.cfg.Port {
		c.ICE = func(conn net.Conn) {
			_ = p.media.ServeICE(conn) // a client that is not served is disconnected
		}
	}
	p.front = door.New(c)
	var errs []error
	for _, l := range p.listeners {
		errs = append(errs, p.front.Listen(l))
	}
	return errors.Join(errs...)
}

// serveOn are the listeners for the server.
func (p *program) serveOn() server.Listeners {
	on := server.Listeners{Main: p.listeners, Metrics: p.metricsListeners, Plain: p.plainListeners, Admin: p.adminListeners, Debug: p.debugListeners}
	if p.front != nil {
		on.Main, on.Decrypted = p.front.HTTP()
	}
	return on
}

// listenForTURN binds the port of TURN over TLS, on the addresses of media.
func (p *program) listenForTURN(ctx context.Context) error {
	c := door.Config{Trusted: prefixes(p.cfg.TrustedProxies), Log: p.log, TURN: p.serveTURN}
	if p.cfg.TURN.ProxyProtocol {
		c.Proxies = prefixes(p.cfg.TURN.ProxyProtocolTrustedCIDRs)
	}
	switch {
	case p.cfg.TURN.ExternalTLS && len(c.Proxies) > 0: // the load balancer names its clients
	case p.cfg.TURN.ExternalTLS: // all come from the load balancer
		c.Trusted = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	case p.cfg.TURN.CertFile != "":
		var err error
		if p.turnCertificate, err = newCertificate(p.cfg.TURN.CertFile, p.cfg.TURN.KeyFile, p.log); err != nil {
			return err
		}
		c.TLS = p.turnCertificate.config()
	default:
		c.TLS = p.tls
	}
	p.turn = door.New(c)
	listeners, err := listenOn(ctx, p.present(p.cfg.RTC.BindAddresses), p.cfg.TURN.TLSPort)
	for _, l := range listeners {
		err = errors.Join(err, p.turn.Listen(l))
	}
	return portHint(err, "turn.tls_port")
}

// loopback are the addresses of this machine alone.
var loopback = []string{"127.0.0.1", "::1"} // does not change

// present is the configured hosts. In development the program itself names them.
func (p *program) present(hosts []string) []string {
	if !p.cfg.Development {
		return hosts
	}
	return p.existing(hosts)
}

// existing is hosts without those that this machine does not have, such as ::1 without
// IPv6.
func (p *program) existing(hosts []string) []string {
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
