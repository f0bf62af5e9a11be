package media

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/stun/v3"

	"parlor/media/icemux"
	"parlor/media/srtpout"
	"parlor/media/udp"
)

// network is the engine's sockets and the addresses that are advertised.
type network struct {
	sockets   []*socket // one per port; a transport uses one of them
	tcp       ice.TCPMux
	tcpCounts tcpCounts
	addrs     []netip.Addr              // bound and advertised
	external  map[netip.Addr]netip.Addr // what is advertised instead, by local address

	muxed icemux.Counters
}

// own reports whether an address is one of the server's own for media, bound or
// advertised. No client is there: what came from it, or went to it, would be the
// server talking to itself.
func (n *network) own(a netip.AddrPort) bool {
	for _, s := range n.sockets {
		if slices.ContainsFunc(s.conns, func(c *udp.Conn) bool { return c.Port() == a.Port() }) {
			return slices.Contains(n.addrs, a.Addr()) || slices.Contains(slices.Collect(maps.Values(n.external)), a.Addr())
		}
	}
	return false
}

// socket is one UDP port on all bound addresses.
type socket struct {
	mux     *icemux.Mux
	conns   []*udp.Conn
	addrs   []netip.Addr    // under which clients know each of conns
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
	n := &network{}
	if n.addrs, err = filter.bindable(cfg.BindAddresses, cfg.LoopbackCandidate); err != nil {
		return nil, err
	}
	if err := n.findExternal(cfg); err != nil {
		return nil, err
	}
	if err := n.listen(cfg); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

// findExternal finds the addresses to advertise, if others than the local ones are
// wanted, and the local ones that they stand for: those on the way to them. Other
// addresses are then of no use to clients, but for loopback: of the same family where
// the address was found out, of any where the configuration names what to advertise.
func (n *network) findExternal(cfg *Config) error {
	texts, named := cfg.NodeIPs, true
	if len(texts) == 0 && cfg.UseExternalIP {
		named = false
		servers := cfg.DiscoverySTUN
		if len(servers) == 0 {
			servers = cfg.STUNServers
		}
		if text, err := externalIP(servers); err != nil { // the local addresses may do
			cfg.Log.Warn("no external address found; advertising local addresses", "error", err)
		} else {
			texts = []string{text}
		}
	}
	if len(texts) == 0 {
		return nil
	}
	n.external = map[netip.Addr]netip.Addr{}
	var internals []netip.Addr
	families := map[bool]bool{} // by Is4
	for _, text := range texts {
		external, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("address to advertise: %w", err)
		}
		internal, ok := wayOut(external, n.addrs)
		if !ok {
			err := fmt.Errorf("no address is bound that %v could stand for", external)
			if len(texts) == 1 {
				return err
			}
			cfg.Log.Warn("an address is not advertised", "error", err) // such as IPv6 where this machine has none
			continue
		}
		internals = append(internals, internal)
		families[external.Is4()] = true
		if internal != external {
			n.external[internal] = external
		}
	}
	if len(internals) == 0 {
		return fmt.Errorf("no address is bound that any of %s could stand for", strings.Join(texts, ", "))
	}
	n.addrs = slices.DeleteFunc(n.addrs, func(a netip.Addr) bool {
		return !a.IsLoopback() && !slices.Contains(internals, a) && (named || families[a.Is4()])
	})
	return nil
}

// wayOut is the local address from which packets go to another: by the system's
// routes, else the first of its family. Nothing is sent.
func wayOut(to netip.Addr, local []netip.Addr) (netip.Addr, bool) {
	if slices.Contains(local, to) {
		return to, true
	}
	if conn, err := net.Dial("udp", netip.AddrPortFrom(to, 9).String()); err == nil {
		from, ok := conn.LocalAddr().(*net.UDPAddr)
		_ = conn.Close() // nothing was sent on it
		if ok && slices.Contains(local, from.AddrPort().Addr().Unmap()) {
			return from.AddrPort().Addr().Unmap(), true
		}
	}
	for _, loopback := range []bool{false, true} {
		for _, a := range local {
			if a.Is4() == to.Is4() && a.IsLoopback() == loopback {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

func (n *network) listen(cfg *Config) error {
	for port := cfg.UDPPort[0]; port <= cfg.UDPPort[1]; port++ {
		s, err := n.openSocket(cfg, port)
		if err != nil {
			return err
		}
		n.sockets = append(n.sockets, s)
	}
	if err := n.serve(cfg); err != nil {
		return err
	}
	if cfg.TCPPort == 0 {
		return nil
	}
	var err error
	n.tcp, err = openTCP(cfg, &n.tcpCounts)
	return err
}

// keepIP is pion's filter of the addresses that it finds.
func (n *network) keepIP(ip net.IP) bool {
	addr, ok := netip.AddrFromSlice(ip)
	return ok && slices.Contains(n.addrs, addr.Unmap())
}

// anyPortTries is how often a port is looked for that is free on all addresses.
const anyPortTries = 20

// openSocket binds a port on each address by itself, not on the wildcard address, so
// that answers come from where the question went.
func (n *network) openSocket(cfg *Config, port int) (*socket, error) {
	for try := 1; ; try++ {
		s, err := n.bindAll(cfg, port)
		if err == nil || port != 0 || try == anyPortTries || !errors.Is(err, syscall.EADDRINUSE) {
			return s, err
		}
	}
}

// bindAll binds one port, chosen with the first address if it is 0, everywhere.
// Nothing is read yet.
func (n *network) bindAll(cfg *Config, port int) (*socket, error) {
	s := &socket{}
	for _, addr := range n.addrs {
		conn, err := udp.Listen(udp.Config{Addr: netip.AddrPortFrom(addr, uint16(port)).String(), Log: cfg.Log})
		if err != nil {
			for _, c := range s.conns {
				err = errors.Join(err, c.Close())
			}
			return nil, err
		}
		port = int(conn.Port())
		if external, ok := n.external[addr]; ok {
			addr = external
		}
		s.conns, s.addrs = append(s.conns, conn), append(s.addrs, addr)
	}
	return s, nil
}

// serve begins to read the sockets.
func (n *network) serve(cfg *Config) error {
	for _, s := range n.sockets {
		s.mux = icemux.New(icemux.Config{Own: n.own, Counters: &n.muxed, Log: cfg.Log})
		for _, c := range s.conns {
			if err := s.mux.Add(c); err != nil {
				return fmt.Errorf("share UDP port: %w", err)
			}
		}
	}
	return nil
}

func openTCP(cfg *Config, counts *tcpCounts) (ice.TCPMux, error) {
	hosts := cfg.BindAddresses
	if len(hosts) == 0 {
		hosts = []string{""}
	}
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
			Listener:        newListener(l, cfg.Log, counts),
			Logger:          pionLogs{cfg.Log}.NewLogger("tcpmux"),
			ReadBufferSize:  64,
			WriteBufferSize: tcpQueue,

			FirstStunBindTimeout:         firstSTUN,
			AliveDurationForConnFromStun: firstSTUN,
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
		if s.mux != nil {
			errs = append(errs, s.mux.Close())
		}
		for _, c := range s.conns { // the mux closes them too; this one is for those not read yet
			if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
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

func (f addressFilter) keepAddr(addr netip.Addr) bool {
	contains := func(p netip.Prefix) bool { return p.Contains(addr) }
	if slices.ContainsFunc(f.exclude, contains) {
		return false
	}
	return len(f.include) == 0 || slices.ContainsFunc(f.include, contains)
}

// bindable lists the addresses to bind and advertise: those named, and for a
// wildcard, or if none is named, those of the interfaces that the filter keeps. What
// is added to an interface later is not seen.
func (f addressFilter) bindable(named []string, loopback bool) ([]netip.Addr, error) {
	if len(named) == 0 {
		named = []string{""}
	}
	var out []netip.Addr
	for _, name := range named {
		var addr netip.Addr
		if name != "" {
			var err error
			if addr, err = netip.ParseAddr(name); err != nil {
				return nil, fmt.Errorf("address to bind: %w", err)
			}
		}
		if addr.IsValid() && !addr.IsUnspecified() {
			out = append(out, addr)
			continue
		}
		list, err := f.interfaceAddrs(loopback)
		if err != nil {
			return nil, err
		}
		for _, a := range list {
			if !addr.Is4() || a.Is4() { // 0.0.0.0 is IPv4 alone
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	out = slices.Compact(out)
	if len(out) == 0 {
		if !loopback {
			return nil, errors.New("no address to bind: this machine has no network but loopback, or its interfaces are down or excluded; " +
				"for calls on this machine alone set rtc.enable_loopback_candidate, or start with --dev")
		}
		return nil, errors.New("no address to bind: every interface is down or excluded; see rtc.interfaces and rtc.ips")
	}
	return out, nil
}

func (f addressFilter) interfaceAddrs(loopback bool) ([]netip.Addr, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []netip.Addr
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
			if !ok || prefix.IP.IsLinkLocalUnicast() { // which need a zone
				continue
			}
			if addr, ok := netip.AddrFromSlice(prefix.IP); ok && f.keepAddr(addr.Unmap()) {
				out = append(out, addr.Unmap())
			}
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
