package turn

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/logging"
	pionturn "github.com/pion/turn/v5"
)

// Realm is the server's realm, the same as LiveKit's.
const Realm = "livekit"

// The bounds that apply where the configuration has none.
const (
	// DefaultTTL is how long credentials can be used to make relays.
	DefaultTTL = 5 * time.Minute
	// DefaultPerSession bounds the relays of a session. A browser makes a relay for each
	// combination of peer connection, network interface and server URL, and again when it
	// restarts ICE.
	DefaultPerSession = 32
	// DefaultPerNetwork bounds the relays of a network. Many participants may share an
	// address behind a NAT.
	DefaultPerNetwork = 1024
	// DefaultAll bounds the relays of all participants.
	DefaultAll = 8192
)

// maxPacket is the longest relayed packet in bytes, with its TURN header.
const maxPacket = 2048

// maxPeers is how many permissions and how many channels a relay may have. A client makes
// one for each address of the server's media.
const maxPeers = 64

// Media is the server's own media. Its methods may be called concurrently and must not
// block.
type Media interface {
	// Receives reports whether media is received at an address.
	Receives(ip netip.Addr) bool
	// Ours reports whether an address is this machine's, or known as such, with media or
	// without.
	Ours(ip netip.Addr) bool
	// Deliver gives media a packet that was sent to the address to; false if media is not
	// received there. The packet is valid only during the call.
	Deliver(packet []byte, from, to netip.AddrPort) bool
	// Outside is an address of a family for traffic with other peers, and the address
	// that those know; false if there is none.
	Outside(ipv4 bool) (bind, known netip.Addr, ok bool)
}

// Config configures a [Server].
type Config struct {
	// Secret returns the secret of an API key; "" if there is no such key. Required.
	Secret func(apiKey string) string
	// Media is the destination of relays. Required.
	Media Media
	// TTL is how long credentials can be used to make relays; 0 is [DefaultTTL].
	TTL time.Duration
	// Allow are networks, besides the server's own media, to which relays may lead.
	// Networks that clients should not reach through a server (loopback, private,
	// link-local and the like) are allowed only by an entry within them. Deny takes
	// precedence over Allow.
	Allow, Deny []netip.Prefix
	// FirstPort and LastPort bound the ports of relays to other peers; 0,0 means any
	// port.
	FirstPort, LastPort uint16
	// PerSession, PerNetwork and All bound the relays of a participant, of an IPv4
	// address or a 64-bit IPv6 network, and of all clients; 0 is the default, a negative
	// number is no bound.
	PerSession, PerNetwork, All int
	// Loggers are for pion. Required.
	Loggers logging.LoggerFactory
	// Log receives messages for operators. Required.
	Log *slog.Logger
}

// Counters count since the server began, except for the first two.
type Counters struct {
	Relays, Streams atomic.Int64 // now
	// Made counts relays.
	Made atomic.Uint64
	// Refusals, because credentials are wrong, are too old for a new relay, or belong to
	// a session that is over; and because of the bounds of participants, networks and all
	// clients.
	Credentials, Expired, Session             atomic.Uint64
	SessionQuota, NetworkQuota, Quota         atomic.Uint64
	Peers                                     atomic.Uint64 // permissions and packets for addresses that are not allowed
	StreamsRefused                            atomic.Uint64 // connections that made no relay in time, were too many, or sent malformed frames
	Overflow                                  atomic.Uint64 // packets dropped because they were not read in time
	ToMedia, ToClients, OutsideOut, OutsideIn atomic.Uint64 // bytes relayed
}

// Server is the TURN server. All methods may be called concurrently.
type Server struct {
	cfg      Config
	counters Counters
	streams  *streamListener
	overTCP  *pionturn.Server
	strictV4 bool
	ranges   []netip.Prefix // restricted ranges; never changed
	work     sync.WaitGroup // readers of feeds and streams for pion, and relays

	relaysMu sync.RWMutex // guards relays; mu may be held when it is taken
	relays   map[netip.AddrPort]*relay

	// mu guards the following, and the fields of relays, sessions and streams that say
	// so.
	mu        sync.Mutex
	closed    bool
	sessions  map[string]*Session
	networks  map[netip.Prefix]int // number of relays, by network
	all       int                  // number of relays
	open      map[streamKey]*stream
	strangers []*stream // streams without a relay, the oldest first

	feedsMu sync.RWMutex // guards feeds
	feeds   map[Socket]*feed
}

// New makes a server without clients. Close must be called.
func New(cfg Config) (*Server, error) {
	set := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	set(&cfg.PerSession, DefaultPerSession)
	set(&cfg.PerNetwork, DefaultPerNetwork)
	set(&cfg.All, DefaultAll)
	if cfg.TTL == 0 {
		cfg.TTL = DefaultTTL
	}
	s := &Server{
		cfg: cfg, sessions: map[string]*Session{}, relays: map[netip.AddrPort]*relay{}, networks: map[netip.Prefix]int{},
		open: map[streamKey]*stream{}, feeds: map[Socket]*feed{},
		ranges: restrictedRanges(),
	}
	// Browsers do not name the family of their relay. It is IPv4, where media has IPv4.
	_, _, s.strictV4 = cfg.Media.Outside(true)
	s.streams = newStreamListener()
	var err error
	s.overTCP, err = s.serve(func(c *pionturn.ServerConfig) {
		c.ListenerConfigs = []pionturn.ListenerConfig{{
			Listener: s.streams, RelayAddressGenerator: generator{s}, PermissionHandler: s.permits,
		}}
	})
	return s, err
}

// serve starts a pion server, after change has completed its configuration.
func (s *Server) serve(change func(*pionturn.ServerConfig)) (*pionturn.Server, error) {
	c := pionturn.ServerConfig{
		Realm: Realm, AuthHandler: s.authenticate, QuotaHandler: s.mayHaveAnother, LoggerFactory: s.cfg.Loggers,
		InboundMTU: maxPacket, StrictAddressFamily: s.strictV4,
		EventHandler: pionturn.EventHandler{
			OnAuth: func(_, _ net.Addr, _, _, _, _ string, right bool) {
				if !right {
					s.counters.Credentials.Add(1)
				}
			},
			OnAllocationCreated: func(src, dst net.Addr, _, _, _ string, relayed net.Addr, _ int) {
				s.made(src, dst, relayed)
			},
			OnAllocationDeleted: func(src, dst net.Addr, _, _, _ string) { s.ended(src, dst) },
			OnPermissionCreated: func(_, _ net.Addr, _, _, _ string, relayed net.Addr, _ net.IP) { s.another(relayed) },
			OnChannelCreated: func(_, _ net.Addr, _, _, _ string, relayed, _ net.Addr, _ uint16) {
				s.another(relayed)
			},
		},
	}
	change(&c)
	return pionturn.NewServer(c)
}

// Counters returns the server's counters.
func (s *Server) Counters() *Counters { return &s.counters }

// Close ends all relays and connections, and waits for their goroutines. It does not
// close the sockets.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	sessions := make([]*Session, 0, len(s.sessions))
	for _, one := range s.sessions {
		sessions = append(sessions, one)
	}
	streams := make([]*stream, 0, len(s.open))
	for _, c := range s.open {
		streams = append(streams, c)
	}
	s.mu.Unlock()
	for _, one := range sessions {
		one.End()
	}
	for _, c := range streams {
		_ = c.Close() // waiting packets are lost, as on any network
	}
	s.feedsMu.Lock()
	feeds := s.feeds
	s.feeds = map[Socket]*feed{}
	s.feedsMu.Unlock()
	var errs []error
	for _, f := range feeds {
		errs = append(errs, f.server.Close())
	}
	errs = append(errs, s.overTCP.Close())
	s.work.Wait()
	return errors.Join(errs...)
}

// permits reports whether a relay may lead to an address, at some port.
func (s *Server) permits(_ net.Addr, peer net.IP) bool {
	ip, ok := netip.AddrFromSlice(peer)
	ip = ip.Unmap()
	if ok && (s.cfg.Media.Receives(ip) || s.outside(ip)) {
		return true
	}
	s.counters.Peers.Add(1)
	return false
}

// outside reports whether a relay may lead to an address that is not this machine's. It
// may not lead to other ports of this machine, on any of its addresses.
func (s *Server) outside(ip netip.Addr) bool {
	if len(s.cfg.Allow) == 0 || s.cfg.Media.Ours(ip) {
		return false
	}
	for _, p := range s.cfg.Deny {
		if p.Contains(ip) {
			return false
		}
	}
	for _, p := range s.cfg.Allow {
		if p.Contains(ip) && (!s.restricted(ip) || s.within(p)) {
			return true
		}
	}
	return false
}

// restrictedRanges are networks with services for few clients: this machine, its
// neighbours, its cloud provider, and IPv4 by way of IPv6.
func restrictedRanges() []netip.Prefix {
	var all []netip.Prefix
	for _, text := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
		"192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
		"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2002::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
	} {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func (s *Server) restricted(ip netip.Addr) bool {
	for _, p := range s.ranges {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// within reports whether all of p is restricted: such an entry is meant to allow
// restricted addresses.
func (s *Server) within(p netip.Prefix) bool {
	for _, r := range s.ranges {
		if r.Bits() <= p.Bits() && r.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

// networkOf is the network by which clients are counted.
func networkOf(a netip.AddrPort) netip.Prefix {
	ip := a.Addr().Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // not an address
	}
	return p
}

// addrPort converts an address of pion's.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		ap = a.AddrPort()
	case *net.TCPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
