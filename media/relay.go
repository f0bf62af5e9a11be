package media

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/media/icemux"
	"parlor/media/turn"
)

// TURNConfig configures the engine's TURN server: LiveKit's turn.* keys, parsed.
type TURNConfig struct {
	// Secret returns the secret of an API key; "" if there is no such key. Required.
	Secret func(apiKey string) string
	// Name is the server's host name in the URL of UDPPort; "" means the addresses that
	// are advertised for media.
	Name string
	// UDPPort is the server's UDP port. It may be one of Config.UDPPort, or another.
	// [UDPEphemeral] lets the system choose one; 0 is none. It is bound to the same
	// addresses as media.
	UDPPort int
	// URLs are the server's other URLs (RFC 7065), for the connections that are handed to
	// [Engine.ServeTURN].
	URLs []string
	// ForceRelay tells clients to use only TURN.
	ForceRelay bool

	// The following are as in [turn.Config].
	TTL                         time.Duration
	Allow, Deny                 []netip.Prefix
	FirstPort, LastPort         uint16
	PerSession, PerNetwork, All int
}

// UDPEphemeral as TURNConfig.UDPPort lets the system choose a free port.
const UDPEphemeral = -1

// openTURN makes the TURN server, and opens its port unless media has opened it.
func (n *network) openTURN(now *addresses) (err error) {
	c := n.cfg.TURN
	if c == nil {
		return nil
	}
	n.turn, err = turn.New(turn.Config{
		Secret: c.Secret, Media: n, TTL: c.TTL, Allow: c.Allow, Deny: c.Deny, FirstPort: c.FirstPort, LastPort: c.LastPort,
		PerSession: c.PerSession, PerNetwork: c.PerNetwork, All: c.All, Loggers: pionLogs{n.cfg.Log}, Log: n.cfg.Log,
	})
	if err != nil || c.UDPPort == 0 {
		return err
	}
	i := slices.IndexFunc(n.sockets, func(s *socket) bool { return int(s.port) == c.UDPPort })
	if i < 0 {
		s, err := n.openSocket(now.local, max(c.UDPPort, 0))
		if err != nil {
			return err
		}
		i, n.sockets = len(n.sockets), append(n.sockets, s)
	}
	n.sockets[i].turns = true
	return nil
}

// toTURN gives the TURN server a packet from its sockets, if the packet is for it.
func (n *network) toTURN(packet []byte, from netip.AddrPort, of icemux.Socket) bool {
	if !turn.For(packet) {
		return false
	}
	n.turn.Take(of, packet, from)
	return true
}

// toRelay gives a packet of our media to the client behind a relay.
func (n *network) toRelay(packet []byte, from, to netip.AddrPort) bool {
	return n.turn.Send(packet, n.asKnown(from), to)
}

// asKnown is a local address in the form that clients know.
func (n *network) asKnown(local netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(n.now.Load().known(local.Addr()), local.Port())
}

// Receives implements turn.Media.
func (n *network) Receives(ip netip.Addr) bool {
	now := n.now.Load()
	return slices.ContainsFunc(now.local, func(l netip.Addr) bool { return now.known(l) == ip })
}

// Ours implements turn.Media.
func (n *network) Ours(ip netip.Addr) bool {
	return n.Receives(ip) || slices.Contains(*n.machine.Load(), ip)
}

// Deliver implements turn.Media.
func (n *network) Deliver(packet []byte, from, to netip.AddrPort) bool {
	now := n.now.Load()
	for _, s := range n.sockets[:n.media] {
		if s.port != to.Port() {
			continue
		}
		for _, l := range now.local {
			if now.known(l) == to.Addr() {
				return s.mux.Deliver(packet, from, netip.AddrPortFrom(l, s.port))
			}
		}
	}
	return false
}

// Outside implements turn.Media.
func (n *network) Outside(ipv4 bool) (bind, known netip.Addr, ok bool) {
	now := n.now.Load()
	for _, l := range preferred(now) {
		if known := now.known(l); known.Is4() == ipv4 {
			return l, known, true
		}
	}
	return bind, known, false
}

// preferred lists the local addresses: public ones first, then private ones, then
// loopback.
func preferred(now *addresses) []netip.Addr {
	rank := func(a netip.Addr) int {
		switch known := now.known(a); {
		case known.IsLoopback():
			return 2
		case known.IsPrivate():
			return 1
		}
		return 0
	}
	return slices.SortedStableFunc(slices.Values(now.local), func(a, b netip.Addr) int { return rank(a) - rank(b) })
}

// add starts to read a conn of the socket.
func (s *socket) add(c boundConn) error {
	if s.turns {
		if err := s.net.turn.AddSocket(c.Conn); err != nil {
			return err
		}
	}
	return s.mux.Add(c.Conn)
}

// remove closes a conn of the socket.
func (s *socket) remove(c boundConn) error {
	if s.turns {
		s.net.turn.RemoveSocket(c.Conn)
	}
	return s.mux.Remove(c.Conn)
}

// TURN is the counters of the TURN server; nil if there is none.
func (e *Engine) TURN() *turn.Counters {
	if e.net.turn == nil {
		return nil
	}
	return e.net.turn.Counters()
}

// TURNAddrs are the UDP addresses of the TURN server.
func (e *Engine) TURNAddrs() (all []netip.AddrPort) {
	for _, s := range e.net.sockets {
		if s.turns {
			for _, c := range *s.conns.Load() {
				all = append(all, netip.AddrPortFrom(c.local, s.port))
			}
		}
	}
	return all
}

// Advertised are the addresses that are advertised to clients for media.
func (e *Engine) Advertised() (all []netip.Addr) {
	now := e.net.now.Load()
	for _, l := range now.local {
		all = append(all, now.known(l))
	}
	return all
}

// ServeICE takes a connection for ICE over TCP that another part of the program has
// accepted, and closes it in the end. Reading it must begin with its first byte.
func (e *Engine) ServeICE(conn net.Conn) error {
	if e.net.tcp == nil {
		return errors.Join(errors.New("there is no ICE over TCP"), conn.Close())
	}
	e.net.tcp.Hand(conn)
	return nil
}

// ServeTURN serves a TURN client that came over TCP or TLS, and closes the connection in
// the end. Beyond the TLS handshake nothing may have been read from it.
func (e *Engine) ServeTURN(conn net.Conn) error {
	if e.net.turn == nil {
		return errors.Join(errors.New("there is no TURN server"), conn.Close())
	}
	e.net.turn.ServeConn(conn)
	return nil
}

// ForceRelay reports whether clients must use only TURN.
func (e *Engine) ForceRelay() bool { return e.cfg.TURN != nil && e.cfg.TURN.ForceRelay }

// TURNOverTLS reports whether clients can reach the TURN server over TLS.
func (e *Engine) TURNOverTLS() bool { return e.cfg.TURN != nil && len(overTLS(e.cfg.TURN.URLs)) > 0 }

func overTLS(urls []string) []string {
	return slices.DeleteFunc(slices.Clone(urls), func(url string) bool { return len(url) < 6 || url[:6] != "turns:" })
}

// maxTURNAddresses bounds the addresses in TURN URLs, because clients try all of them.
const maxTURNAddresses = 2

// turnURLs are the URLs of the TURN server that clients are told.
func (n *network) turnURLs() []string {
	var urls []string
	for _, s := range n.sockets {
		if !s.turns {
			continue
		}
		if name := n.cfg.TURN.Name; name != "" {
			urls = append(urls, turnURL(name, s.port))
			continue
		}
		now := n.now.Load()
		families := map[bool]bool{}
		for _, l := range preferred(now) {
			known := now.known(l)
			if families[known.Is4()] || len(urls) == maxTURNAddresses {
				continue
			}
			families[known.Is4()] = true
			urls = append(urls, turnURL(known.String(), s.port))
		}
	}
	return append(urls, n.cfg.TURN.URLs...)
}

func turnURL(host string, port uint16) string {
	return "turn:" + net.JoinHostPort(host, strconv.Itoa(int(port))) + "?transport=udp"
}

// ICEServers are the STUN and TURN servers that the client is told of: the server's own
// TURN server, with credentials by an API key that are valid for the life of this peer,
// and the configured servers. With tlsOnly, only the URLs over TLS of the own TURN server
// are listed.
func (p *Peer) ICEServers(apiKey string, tlsOnly bool) []*livekit.ICEServer {
	configured := p.engine.iceServers(p.cfg.SID)
	if p.relays == nil {
		return configured
	}
	urls := p.engine.net.turnURLs()
	if tlsOnly {
		urls = overTLS(urls)
	}
	username, password, ok := p.relays.Credentials(apiKey)
	if !ok || len(urls) == 0 {
		return configured
	}
	return append([]*livekit.ICEServer{{Urls: urls, Username: username, Credential: password}}, configured...)
}
