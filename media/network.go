package media

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/stun/v3"

	"parlor/media/srtpout"
	"parlor/media/udp"
)

// network is the engine's sockets and the addresses that are advertised.
type network struct {
	sockets  []*socket // one per port; a transport uses one of them
	tcp      ice.TCPMux
	filter   addressFilter
	external string // advertised instead of local addresses; "" is none
}

// socket is one UDP port on all bound addresses.
type socket struct {
	mux     ice.UDPMux
	conns   []*udp.Conn
	buffers srtpout.Buffers // of what leaves over conns
}

// flush sends the bursts that writers have collected.
func (s *socket) flush() {
	for _, c := range s.conns {
		c.Flush()
	}
}

func openNetwork(cfg *Config) (*network, error) {
	if cfg.UDPPort[1] < cfg.UDPPort[0] {
		return nil, fmt.Errorf("UDP ports %d-%d: the second is below the first", cfg.UDPPort[0], cfg.UDPPort[1])
	}
	filter, err := newAddressFilter(cfg)
	if err != nil {
		return nil, err
	}
	n := &network{filter: filter, external: cfg.NodeIP}
	if err := n.listen(cfg); err != nil {
		return nil, errors.Join(err, n.close())
	}
	if n.external == "" && cfg.UseExternalIP {
		servers := cfg.DiscoverySTUN
		if len(servers) == 0 {
			servers = cfg.STUNServers
		}
		n.external, err = externalIP(servers)
		if err != nil { // the local addresses may do
			cfg.Log.Warn("no external address found; advertising local addresses", "error", err)
		}
	}
	return n, nil
}

func (n *network) listen(cfg *Config) error {
	hosts := cfg.BindAddresses
	if len(hosts) == 0 {
		hosts = []string{""}
	}
	for port := cfg.UDPPort[0]; port <= cfg.UDPPort[1]; port++ {
		s, err := openSocket(cfg, hosts, port, n.filter)
		if err != nil {
			return err
		}
		n.sockets = append(n.sockets, s)
	}
	if cfg.TCPPort == 0 {
		return nil
	}
	var err error
	n.tcp, err = openTCP(cfg, hosts)
	return err
}

func openSocket(cfg *Config, hosts []string, port int, filter addressFilter) (*socket, error) {
	s := &socket{}
	var muxes []ice.UDPMux
	for _, host := range hosts {
		conn, err := udp.Listen(udp.Config{Addr: net.JoinHostPort(host, strconv.Itoa(port)), Log: cfg.Log})
		if err != nil {
			for _, m := range muxes {
				err = errors.Join(err, m.Close())
			}
			return nil, fmt.Errorf("listen for media: %w", err)
		}
		mux := &advertisedMux{UDPMuxDefault: ice.NewUDPMuxDefault(ice.UDPMuxParams{
			UDPConn: conn,
			Logger:  pionLogs{cfg.Log}.NewLogger("udpmux"),
		})}
		mux.addresses, err = filter.advertised(conn.LocalAddr(), cfg.LoopbackCandidate)
		muxes = append(muxes, mux)
		s.conns = append(s.conns, conn)
		if err != nil {
			for _, m := range muxes {
				err = errors.Join(err, m.Close())
			}
			return nil, err
		}
	}
	s.mux = muxes[0]
	if len(muxes) > 1 {
		s.mux = ice.NewMultiUDPMuxDefault(muxes...)
	}
	return s, nil
}

// advertisedMux is a mux that lists the addresses to advertise, found once,
// instead of asking the system for its interfaces for each transport.
type advertisedMux struct {
	*ice.UDPMuxDefault
	addresses []net.Addr
}

// GetListenAddresses implements ice.UDPMux.
func (m *advertisedMux) GetListenAddresses() []net.Addr { return m.addresses }

func openTCP(cfg *Config, hosts []string) (ice.TCPMux, error) {
	port := max(cfg.TCPPort, 0)
	var muxes []ice.TCPMux
	for _, host := range hosts {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			for _, m := range muxes {
				err = errors.Join(err, m.Close())
			}
			return nil, fmt.Errorf("listen for ICE over TCP: %w", err)
		}
		muxes = append(muxes, ice.NewTCPMuxDefault(ice.TCPMuxParams{
			Listener:        l,
			Logger:          pionLogs{cfg.Log}.NewLogger("tcpmux"),
			ReadBufferSize:  64,
			WriteBufferSize: 4 << 20,
		}))
	}
	if len(muxes) == 1 {
		return muxes[0], nil
	}
	return ice.NewMultiTCPMuxDefault(muxes...), nil
}

func (n *network) close() error {
	var errs []error
	for _, s := range n.sockets {
		errs = append(errs, s.mux.Close())
		for _, c := range s.conns { // the mux closes them too; this one waits for them
			if err := c.Close(); !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	if n.tcp != nil {
		errs = append(errs, n.tcp.Close())
	}
	return errors.Join(errs...)
}

// addressFilter decides which of our addresses are advertised.
type addressFilter struct {
	includeNames, excludeNames []string
	include, exclude           []netip.Prefix
}

func newAddressFilter(cfg *Config) (f addressFilter, err error) {
	f.includeNames, f.excludeNames = cfg.IncludeInterfaces, cfg.ExcludeInterfaces
	if f.include, err = parsePrefixes(cfg.IncludeIPs); err != nil {
		return f, err
	}
	f.exclude, err = parsePrefixes(cfg.ExcludeIPs)
	return f, err
}

// parsePrefixes takes addresses and CIDR blocks.
func parsePrefixes(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, t := range texts {
		if addr, err := netip.ParseAddr(t); err == nil {
			out = append(out, netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(t)
		if err != nil {
			return nil, fmt.Errorf("%q is neither an address nor a CIDR block: %w", t, err)
		}
		out = append(out, p)
	}
	return out, nil
}

func (f addressFilter) keepInterface(name string) bool {
	if slices.Contains(f.excludeNames, name) {
		return false
	}
	return len(f.includeNames) == 0 || slices.Contains(f.includeNames, name)
}

func (f addressFilter) keepIP(ip net.IP) bool {
	addr, ok := netip.AddrFromSlice(ip)
	return ok && f.keepAddr(addr.Unmap())
}

func (f addressFilter) keepAddr(addr netip.Addr) bool {
	contains := func(p netip.Prefix) bool { return p.Contains(addr) }
	if slices.ContainsFunc(f.exclude, contains) {
		return false
	}
	return len(f.include) == 0 || slices.ContainsFunc(f.include, contains)
}

// advertised lists the addresses under which a socket can be reached: its own, or
// if it is bound to all, those of the interfaces that the filter keeps.
func (f addressFilter) advertised(local net.Addr, loopback bool) ([]net.Addr, error) {
	bound, ok := local.(*net.UDPAddr)
	if !ok {
		return nil, fmt.Errorf("not a UDP address: %v", local)
	}
	if !bound.IP.IsUnspecified() {
		return []net.Addr{bound}, nil
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []net.Addr
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || !f.keepInterface(i.Name) || (i.Flags&net.FlagLoopback != 0 && !loopback) {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", i.Name, err)
		}
		for _, a := range addrs {
			prefix, ok := a.(*net.IPNet)
			if !ok || !f.keepIP(prefix.IP) || prefix.IP.IsLinkLocalUnicast() {
				continue
			}
			if is4 := prefix.IP.To4() != nil; !is4 && bound.IP.To4() != nil {
				continue // an IPv4 socket
			}
			out = append(out, &net.UDPAddr{IP: prefix.IP, Port: bound.Port})
		}
	}
	return out, nil
}

// externalIP asks the STUN servers in turn under which address we appear.
func externalIP(servers []string) (string, error) {
	err := errors.New("no STUN servers are configured")
	for _, server := range servers {
		ip, askErr := askSTUN(server)
		if askErr == nil {
			return ip, nil
		}
		err = fmt.Errorf("ask %s: %w", server, askErr)
	}
	return "", err
}

func askSTUN(server string) (string, error) {
	conn, err := net.DialTimeout("udp4", server, 3*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return "", err
	}
	request, err := stun.Build(stun.TransactionID, stun.BindingRequest)
	if err != nil {
		return "", err
	}
	if _, err := conn.Write(request.Raw); err != nil {
		return "", err
	}
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	if err != nil {
		return "", err
	}
	answer := &stun.Message{Raw: buf[:n]}
	if err := answer.Decode(); err != nil {
		return "", err
	}
	var mapped stun.XORMappedAddress
	if answer.TransactionID != request.TransactionID {
		return "", errors.New("answer to another request")
	}
	if err := mapped.GetFrom(answer); err != nil {
		return "", err
	}
	return mapped.IP.String(), nil
}
