package media

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pion/stun/v3"
	"github.com/pion/webrtc/v4"

	"parlor/media/icemux"
	"parlor/media/srtpout"
	"parlor/media/turn"
	"parlor/media/udp"
)

// network is the engine's sockets, and the addresses that it advertises.
type network struct {
	cfg       *Config
	filter    addressFilter
	binds     []bindAddress
	sockets   []*socket      // one per port; the last may be the TURN server's alone
	media     int            // how many of sockets transports use: the first ones
	turn      *turn.Server   // nil: there is none
	tcp       *icemux.TCPMux // nil: there is no ICE over TCP
	tcpCounts icemux.TCPCounters
	muxed     icemux.Counters

	// now is the addresses that are bound and advertised. It is replaced at opening, and
	// then only by the goroutine of follow.
	now      atomic.Pointer[addresses]
	present  []netip.Addr // addresses that could be bound when now was made; same owner
	external []netip.Addr // addresses found by UseExternalIP; same owner
	unbound  bool         // some address could not be bound yet; same owner
	due      bool         // ExternalName must be looked up; same owner
	lost     bool         // the last look-up failed; same owner
	// machine is the addresses of all interfaces that are up, bound or not. It has the
	// same owner as now.
	machine atomic.Pointer[[]netip.Addr]

	following sync.WaitGroup // waits for follow, which unfollow ends
	unfollow  context.CancelFunc
}

// addresses are this machine's addresses for media. A value never changes: another value
// takes its place.
type addresses struct {
	local    []netip.Addr              // bound and advertised
	external map[netip.Addr]netip.Addr // by local address: the address that is advertised in its place
}

// known is the address under which clients know a local address.
func (a *addresses) known(local netip.Addr) netip.Addr {
	if external, ok := a.external[local]; ok {
		return external
	}
	return local
}

// own reports whether an address is one of the server's own for media, bound or
// advertised. No client has such an address: packets from or to it would mean that the
// server talks to itself.
func (n *network) own(a netip.AddrPort) bool {
	now := n.now.Load()
	if now == nil || !slices.ContainsFunc(n.sockets, func(s *socket) bool { return s.port == a.Port() }) {
		return false
	}
	return slices.ContainsFunc(now.local, func(l netip.Addr) bool { return l == a.Addr() || now.known(l) == a.Addr() })
}

// socket is one UDP port on all bound addresses.
type socket struct {
	net     *network
	port    uint16
	mux     *icemux.Mux
	turns   bool                        // the TURN server uses the socket too
	conns   atomic.Pointer[[]boundConn] // same owner as network.now
	gone    atomic.Pointer[udp.Stats]   // counts of the conns that were closed; same owner
	buffers srtpout.Buffers             // packets that leave over conns
}

// boundConn is a socket on one address.
type boundConn struct {
	*udp.Conn
	local netip.Addr
}

// flush sends the packets that writers have collected.
func (s *socket) flush() {
	for _, c := range *s.conns.Load() {
		c.Flush()
	}
}

// local finds the conn behind a local candidate; nil if it is not known.
func (s *socket) local(c *webrtc.ICECandidate) *udp.Conn {
	addr, err := netip.ParseAddr(c.Address)
	if err != nil {
		return nil
	}
	now := s.net.now.Load()
	for _, bound := range *s.conns.Load() {
		if now.known(bound.local) == addr.Unmap() {
			return bound.Conn
		}
	}
	return nil
}

func openNetwork(cfg *Config) (*network, error) {
	if cfg.UDPPort[1] < cfg.UDPPort[0] {
		return nil, fmt.Errorf("UDP ports %d-%d: the second is below the first", cfg.UDPPort[0], cfg.UDPPort[1])
	}
	n := &network{cfg: cfg}
	var err error
	if n.filter, err = newAddressFilter(cfg); err != nil {
		return nil, err
	}
	if n.binds, err = parseBindAddresses(cfg.BindAddresses); err != nil {
		return nil, err
	}
	list, err := cfg.interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	n.list(list)
	if n.present = n.bindable(list); len(n.present) == 0 {
		return nil, n.noAddress()
	}
	n.discover(context.Background(), n.present)
	now, err := n.advertised(n.present)
	if err != nil {
		return nil, err
	}
	if err := n.listen(now); err != nil {
		return nil, errors.Join(err, n.close())
	}
	var ctx context.Context
	ctx, n.unfollow = context.WithCancel(context.Background())
	n.following.Go(func() { n.follow(ctx) })
	return n, nil
}

// list notes the machine's addresses.
func (n *network) list(interfaces []networkInterface) {
	var all []netip.Addr
	for _, i := range interfaces {
		all = append(all, i.addrs...)
	}
	n.machine.Store(&all)
}

// bindable lists the addresses to bind and advertise: the named ones, and for a wildcard
// the addresses of interfaces that pass the filter.
func (n *network) bindable(list []networkInterface) []netip.Addr {
	var out, all []netip.Addr
	for _, i := range list {
		if !n.filter.keepInterface(i.name) || (i.loopback && !n.cfg.LoopbackCandidate) {
			continue
		}
		for _, addr := range i.addrs {
			if !addr.IsLinkLocalUnicast() && n.filter.keepAddr(addr) { // link-local addresses need a zone
				all = append(all, addr)
			}
		}
	}
	for _, b := range n.binds {
		if !b.IsUnspecified() {
			out = append(out, b.Addr)
			continue
		}
		for _, a := range all {
			if b.covers(a) {
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

func (n *network) noAddress() error {
	if !n.cfg.LoopbackCandidate {
		return errors.New("no address to bind: this machine has no network but loopback, or its interfaces are down or excluded; " +
			"for calls on this machine alone set rtc.enable_loopback_candidate, or start with --dev")
	}
	return errors.New("no address to bind: every interface is down or excluded; see rtc.interfaces and rtc.ips")
}

// discover finds out the machine's external addresses, if that is configured. Without an
// answer the former ones stay.
func (n *network) discover(ctx context.Context, present []netip.Addr) {
	switch {
	case len(n.cfg.NodeIPs) > 0:
	case n.cfg.UseExternalIP:
		n.ask(ctx)
	case n.named():
		n.lookUp(ctx, present)
	}
}

// named reports whether ExternalName tells the addresses to advertise.
func (n *network) named() bool {
	return n.cfg.ExternalName != "" && !n.cfg.UseExternalIP && len(n.cfg.NodeIPs) == 0
}

// ask asks STUN servers for the machine's external address.
func (n *network) ask(ctx context.Context) {
	servers := n.cfg.DiscoverySTUN
	if len(servers) == 0 {
		servers = n.cfg.STUNServers
	}
	addr, err := ExternalAddress(ctx, servers)
	switch {
	case ctx.Err() != nil:
	case err != nil && len(n.external) == 0: // the local addresses may do
		n.cfg.Log.Warn("no external address found; advertising local addresses", "error", err)
	case err != nil:
		n.cfg.Log.Warn("no external address found; advertising the last", "address", n.external[0], "error", err)
	default:
		n.external = []netip.Addr{addr}
	}
}

// advertised chooses which of the local addresses to advertise. If other addresses are
// wanted (NodeIPs, or those found by UseExternalIP), each stands for the local address
// from which packets go to it. The remaining local addresses are then dropped, because
// clients cannot use them: all of them if NodeIPs names the addresses, else those of the
// same families. Loopback stays. If NodeIPs names a loopback address, the others of its
// family stay as well: a packet that is sent to loopback may arrive at another address,
// as in a container whose ports are published on its host's loopback.
func (n *network) advertised(local []netip.Addr) (*addresses, error) {
	wanted, named := n.external, false
	if len(n.cfg.NodeIPs) > 0 {
		wanted, named = nil, true
		for _, text := range n.cfg.NodeIPs {
			addr, err := netip.ParseAddr(text)
			if err != nil {
				return nil, fmt.Errorf("address to advertise: %w", err)
			}
			wanted = append(wanted, addr.Unmap())
		}
	}
	now := &addresses{local: local}
	if len(wanted) == 0 {
		return now, nil
	}
	now.external = map[netip.Addr]netip.Addr{}
	var internals []netip.Addr
	families := map[bool]bool{} // with an advertised address; by Is4
	relayed := map[bool]bool{}  // with a named loopback address; by Is4
	for _, external := range wanted {
		internal, ok := wayOut(external, local)
		if !ok {
			err := fmt.Errorf("no address is bound that %v could stand for", external)
			if len(wanted) == 1 {
				return nil, err
			}
			n.cfg.Log.Warn("an address is not advertised", "error", err) // for example IPv6 on a machine that has none
			continue
		}
		internals = append(internals, internal)
		families[external.Is4()] = true
		relayed[external.Is4()] = internal == external && external.IsLoopback()
		if internal != external {
			now.external[internal] = external
		}
	}
	if len(internals) == 0 {
		return nil, fmt.Errorf("no address is bound that any of %v could stand for", wanted)
	}
	now.local = slices.DeleteFunc(slices.Clone(local), func(a netip.Addr) bool {
		return !a.IsLoopback() && !slices.Contains(internals, a) && (named || families[a.Is4()]) && !relayed[a.Is4()]
	})
	return now, nil
}

// wayOut is the local address from which the system routes packets to another address,
// else the first local address of its family. It sends nothing.
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

func (n *network) listen(now *addresses) error {
	for port := n.cfg.UDPPort[0]; port <= n.cfg.UDPPort[1]; port++ {
		s, err := n.openSocket(now.local, port)
		if err != nil {
			return err
		}
		n.sockets = append(n.sockets, s)
	}
	n.media = len(n.sockets)
	n.now.Store(now)
	if err := n.openTURN(now); err != nil {
		return err
	}
	for _, s := range n.sockets { // reading starts when all of our own addresses are known
		c := icemux.Config{Own: n.own, Assured: n.cfg.ICEDisconnected / 4, Counters: &n.muxed, Log: n.cfg.Log}
		if n.turn != nil {
			c.Relay, c.Relayed = n.toRelay, n.turn.Relays
		}
		if s.turns {
			c.TURN = n.toTURN
		}
		s.mux = icemux.New(c)
		for _, c := range *s.conns.Load() {
			if err := s.add(c); err != nil {
				return fmt.Errorf("share UDP port: %w", err)
			}
		}
	}
	if n.cfg.TCPPort == 0 {
		return nil
	}
	var err error
	n.tcp, err = openTCP(n.cfg, n.binds, &n.tcpCounts)
	return err
}

// anyPortTries is how often openSocket tries to find a port that is free on all
// addresses.
const anyPortTries = 20

// openSocket binds a port on each address, and not on the wildcard address, so that
// answers leave from the address that the question came to. Port 0 lets the system choose
// one port for all addresses.
func (n *network) openSocket(local []netip.Addr, port int) (*socket, error) {
	for try := 1; ; try++ {
		s, err := n.bindAll(local, port)
		if err == nil || port != 0 || try == anyPortTries || !errors.Is(err, syscall.EADDRINUSE) {
			return s, err
		}
	}
}

func (n *network) bindAll(local []netip.Addr, port int) (*socket, error) {
	s := &socket{net: n, port: uint16(port)}
	var conns []boundConn
	for _, addr := range local {
		c, err := s.bind(addr)
		if err != nil {
			for _, c := range conns {
				err = errors.Join(err, c.Close())
			}
			return nil, err
		}
		s.port = c.Port()
		conns = append(conns, c)
	}
	s.conns.Store(&conns)
	s.gone.Store(&udp.Stats{})
	return s, nil
}

// queues is the number of queues of a UDP port. The ports of a range share the cores anyway.
func (c *Config) queues(port uint16) int {
	first, last := c.UDPPort[0], c.UDPPort[1]
	if int(port) < first || int(port) > last {
		return udp.Enough() // TURN's own
	}
	return max(udp.Enough()/(last-first+1), 1)
}

// bind opens the socket's port on one more address. Reading starts with add.
func (s *socket) bind(addr netip.Addr) (boundConn, error) {
	conn, err := udp.Listen(udp.Config{Addr: netip.AddrPortFrom(addr, s.port).String(), Log: s.net.cfg.Log, Queues: s.net.cfg.queues(s.port)})
	return boundConn{conn, addr}, err
}

// openTCP listens for ICE over TCP on each of the addresses to bind. A wildcard address
// is bound as such, since an accepted connection knows its local address.
func openTCP(cfg *Config, binds []bindAddress, counts *icemux.TCPCounters) (*icemux.TCPMux, error) {
	mux := icemux.NewTCP(icemux.TCPConfig{Counters: counts, Log: cfg.Log})
	for _, a := range binds {
		if cfg.TCPHanded {
			mux.Expect(netip.AddrPortFrom(a.Addr, uint16(cfg.TCPPort)), a.covers)
			continue
		}
		l, err := a.listen(max(cfg.TCPPort, 0))
		if err == nil {
			err = mux.Listen(l, a.covers)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen for ICE over TCP: %w", err), mux.Close())
		}
	}
	return mux, nil
}

func (n *network) close() error {
	if n.unfollow != nil {
		n.unfollow()
	}
	n.following.Wait()
	var errs []error
	if n.turn != nil {
		errs = append(errs, n.turn.Close())
	}
	for _, s := range n.sockets {
		if s.mux != nil {
			errs = append(errs, s.mux.Close())
		}
		for _, c := range *s.conns.Load() { // the mux closes those that it reads; here the others are closed
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

// parsePrefixes parses addresses and CIDR blocks.
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

func askSTUN(ctx context.Context, network, server string) (none netip.Addr, err error) {
	const again = 500 * time.Millisecond // a request or its answer may be lost
	ctx, cancel := context.WithTimeout(ctx, answerBound)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, server)
	if err != nil {
		return none, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // closing the connection ends the read
	defer stop()
	request, err := stun.Build(stun.TransactionID, stun.BindingRequest)
	if err != nil {
		return none, err
	}
	buf, n := make([]byte, 1500), 0
	for n == 0 {
		if _, err := conn.Write(request.Raw); err != nil {
			return none, errors.Join(ctx.Err(), err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(again)) // if this fails, so does the read
		if n, err = conn.Read(buf); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return none, errors.Join(ctx.Err(), err)
		}
	}
	answer := &stun.Message{Raw: buf[:n]}
	if err := answer.Decode(); err != nil {
		return none, err
	}
	var mapped stun.XORMappedAddress
	if answer.TransactionID != request.TransactionID {
		return none, errors.New("answer to another request")
	}
	if err := mapped.GetFrom(answer); err != nil {
		return none, err
	}
	addr, ok := netip.AddrFromSlice(mapped.IP)
	if !ok {
		return none, fmt.Errorf("%v is not an address", mapped.IP)
	}
	return addr.Unmap(), nil
}
