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

// Realm is what the server calls itself: LiveKit's.
const Realm = "livekit"

// The bounds that hold where the configuration names none.
const (
	// DefaultTTL is how long credentials may be used to make relays.
	DefaultTTL = 5 * time.Minute
	// DefaultPerSession: a browser makes a relay for each of its peer connections, network
	// interfaces and URLs of the server, and again when it restarts ICE.
	DefaultPerSession = 32
	// DefaultPerNetwork: many participants may share an address behind a NAT.
	DefaultPerNetwork = 1024
	// DefaultAll bounds the relays of all participants.
	DefaultAll = 8192
)

// maxPacket is the longest packet that is relayed, with what TURN puts before it.
const maxPacket = 2048

// maxPeers is how many peers a relay may have permissions for, and channels to. A client
// has some for each address of the server's media.
const maxPeers = 64

// Media is the server's own media. Its methods may be called concurrently and do not wait.
type Media interface {
	// Receives reports whether media is received at an address.
	Receives(ip netip.Addr) bool
	// Ours reports whether an address is this machine's, or known as such, with media or
	// without.
	Ours(ip netip.Addr) bool
	// Deliver gives media a packet for the address to; false: nothing is received there.
	// The packet may be used during the call only.
	Deliver(packet []byte, from, to netip.AddrPort) bool
	// Outside is an address of a family to receive from other peers on, and the address
	// that they know it by; false if there is none.
	Outside(ipv4 bool) (bind, known netip.Addr, ok bool)
}

// Config says how a [Server] works.
type Config struct {
	// Secret is the secret of an API key, "" if there is no such key. Required.
	Secret func(apiKey string) string
	// Media is where relays lead. Required.
	Media Media
	// TTL is how long credentials may be used to make relays; 0 is [DefaultTTL].
	TTL time.Duration
	// Allow are networks beside the server's own media that relays may lead to; those that
	// no client should reach by way of a server (loopback, private, link-local and the like)
	// only where an entry lies within them. Deny takes from Allow.
	Allow, Deny []netip.Prefix
	// FirstPort and LastPort bound the ports that relays to other peers take; 0,0: any.
	FirstPort, LastPort uint16
	// PerSession, PerNetwork and All bound the relays of a participant, of an IPv4
	// address or IPv6 network of 64 bits, and of everybody; 0 is the default, less is none.
	PerSession, PerNetwork, All int
	// Loggers is for pion. Required.
	Loggers logging.LoggerFactory
	// Log receives what operators should know. Required.
	Log *slog.Logger
}

// Counters are a server's counts, since it began but for the first two.
type Counters struct {
	Relays, Streams atomic.Int64 // now
	// Made: relays.
	Made atomic.Uint64
	// What was refused: for credentials that are not right, that are too old for a new
	// relay, whose session is over; for bounds of participants, networks and everybody.
	Credentials, Expired, Session             atomic.Uint64
	SessionQuota, NetworkQuota, Quota         atomic.Uint64
	Peers                                     atomic.Uint64 // permissions asked for, and packets sent, to where nobody may
	StreamsRefused                            atomic.Uint64 // connections that made no relay in time, were too many, or sent no frames of TURN's
	Overflow                                  atomic.Uint64 // packets that were not read in time
	ToMedia, ToClients, OutsideOut, OutsideIn atomic.Uint64 // bytes relayed
}

// Server is the TURN server. All methods may be called concurrently.
type Server struct {
	cfg      Config
	counters Counters
	streams  *streamListener
	overTCP  *pionturn.Server
	strictV4 bool
	ranges   []netip.Prefix // restricted ones; never changed
	work     sync.WaitGroup // what reads feeds and streams for pion, and relays

	relaysMu sync.RWMutex // guards relays; mu may be held when it is taken
	relays   map[netip.AddrPort]*relay

	// mu guards the following, and what relays, sessions and streams say that it guards.
	mu        sync.Mutex
	closed    bool
	sessions  map[string]*Session
	networks  map[netip.Prefix]int // relays of each
	all       int                  // relays
	open      map[streamKey]*stream
	strangers []*stream // those without a relay, oldest first

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
	// Browsers do not say of which family their relay is to be: of IPv4, where media has it.
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

// serve starts pion's server on what change adds to its configuration.
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

// Counters are the server's counts.
func (s *Server) Counters() *Counters { return &s.counters }

// Close ends all relays and connections, and waits for their goroutines. The sockets are
// their owners' to close.
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
		_ = c.Close() // what waits is lost, as on any network
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

// permits tells whether a relay may lead to an address, whatever the port.
func (s *Server) permits(_ net.Addr, peer net.IP) bool {
	ip, ok := netip.AddrFromSlice(peer)
	ip = ip.Unmap()
	if ok && (s.cfg.Media.Receives(ip) || s.outside(ip)) {
		return true
	}
	s.counters.Peers.Add(1)
	return false
}

// outside tells whether a relay may lead to an address that is not our own, which it
// may not to other ports of ours, nor to any on this machine's other addresses.
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

// restrictedRanges are networks that reach what is meant for few: this machine, its
// neighbours, its cloud's services, or IPv4 by way of IPv6.
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

// within tells whether all of p is restricted: such an entry is meant for restricted addresses.
func (s *Server) within(p netip.Prefix) bool {
	for _, r := range s.ranges {
		if r.Bits() <= p.Bits() && r.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

// networkOf is what counts as one client's network.
func networkOf(a netip.AddrPort) netip.Prefix {
	ip := a.Addr().Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // no address at all
	}
	return p
}

// addrPort is an address of pion's.
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
