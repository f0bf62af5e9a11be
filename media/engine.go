package media

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/dtls/v3"
	"github.com/pion/ice/v4"
	"github.com/pion/webrtc/v4"

	"parlor/media/downlink"
	"parlor/media/forward"
	"parlor/media/forward/packet"
	"parlor/media/icemux"
	"parlor/media/srtpin"
	"parlor/rooms"
)

// TCPEphemeral as Config.TCPPort lets the system choose a free port.
const TCPEphemeral = -1

// Config configures an [Engine]: LiveKit's rtc.* keys, parsed.
type Config struct {
	// UDPPort is the lowest and highest UDP port. One socket is bound to each port
	// of the range (on each of BindAddresses), and each transport uses one of
	// them. 0,0 lets the system choose one port.
	UDPPort [2]int
	// TCPPort is for ICE over TCP (RFC 6544), passive; 0 is none, [TCPEphemeral]
	// lets the system choose.
	TCPPort int
	// TCPHanded: another part of the program listens on TCPPort, and hands connections
	// for ICE over by [Engine.ServeICE].
	TCPHanded bool
	// BindAddresses are the local addresses to bind; an empty list is all of them.
	// "0.0.0.0" is all IPv4 addresses. "" and "::" are all addresses, but if an IPv4
	// address stands beside it, "::" is IPv6 alone. The engine follows the interfaces: it
	// binds an address that appears, and stops advertising an address that goes.
	BindAddresses []string
	// NodeIPs are advertised in place of the local addresses, at most one of each family.
	// If no NodeIP is of a family, no address of that family is advertised.
	NodeIPs []string
	// UseExternalIP asks DiscoverySTUN for the address to advertise, at start and each
	// time that the machine's addresses change.
	UseExternalIP bool
	// ExternalName is the name under which clients reach this machine; empty: none is known.
	// Without NodeIPs and UseExternalIP, what it leads to is advertised if the machine
	// itself has no public address; see [NATAddresses]. It is looked up at start, each time
	// that the machine's addresses change, and every few minutes.
	ExternalName string
	// DiscoverySTUN (host:port) are the servers that UseExternalIP asks; empty means
	// STUNServers. Clients do not learn of them.
	DiscoverySTUN []string
	// STUNServers (host:port) are announced to clients.
	STUNServers []string
	// TURN is the server's own TURN server; nil: there is none.
	TURN *TURNConfig
	// ICEServers are announced to clients beside STUNServers (TURN servers and the like).
	ICEServers []ICEServer
	// LoopbackCandidate advertises loopback addresses too.
	LoopbackCandidate bool
	// The names of interfaces, and addresses or CIDR blocks, to advertise or not. An
	// empty include list includes all.
	IncludeInterfaces, ExcludeInterfaces []string
	IncludeIPs, ExcludeIPs               []string

	// Timeouts; 0 is LiveKit's default, named in each line.
	ICEDisconnected    time.Duration // 10 s without traffic: disconnected
	ICEFailed          time.Duration // 5 s more: failed
	Keepalive          time.Duration // 2 s
	ReconnectGrace     time.Duration // 5 s from failed until the participant is given up
	JoinTimeout        time.Duration // 60 s to connect for the first time
	NegotiationTimeout time.Duration // 15 s for an answer to our offer

	// DataStall is how long a receiver may take too little reliable data while a sender
	// waits for it; 0 is 10 s, and 2 s with SlowThreshold.
	DataStall time.Duration
	// SlowThreshold is the bit rate below which a receiver for which a sender waits loses
	// the reliable data that waits for it, and any that finds too much waiting. With 0 a
	// receiver that takes next to nothing must reconnect, and none loses data.
	SlowThreshold int
	// MaxFlowWaiting bounds the bytes of reliable data of one sender that wait for
	// receivers; 0 is 8 MiB. Above it the sender waits for its receivers.
	MaxFlowWaiting int
	// MaxDataWaiting bounds the bytes of all senders' reliable data that wait for
	// receivers; 0 is 256 MiB. Above it senders wait for their receivers.
	MaxDataWaiting int64

	// LossyLatency and DataTrackLatency are how late a lossy message, and a packet of a data
	// track, may reach a client, beside the round trip: later ones are dropped. 0 is as late
	// as it may.
	LossyLatency, DataTrackLatency time.Duration

	// MaxForwardedAudio is how many participants' sound goes to one subscriber: that of
	// the loudest; 0 is no limit.
	MaxForwardedAudio int

	// EnabledCodecs are mime types ("video/VP8"); an empty list enables all known codecs.
	EnabledCodecs []string
	// Protocol is the signalling protocol that the server advertises; 0 is 18. If both
	// sides speak 18 or later, data channels in single mode are negotiated out of band.
	Protocol int
	// Log receives messages for operators; nil discards them.
	Log *slog.Logger

	// interfaces lists this machine's interfaces. changes calls its function when they
	// may have changed, until its context ends. If interfaces is nil, both are the
	// system's.
	interfaces func() ([]networkInterface, error)
	changes    func(ctx context.Context, log *slog.Logger, changed func())
	lookup     func(ctx context.Context, name string) ([]netip.Addr, error) // nil: the system's
}

func (c *Config) setDefaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&c.ICEDisconnected, 10*time.Second)
	set(&c.ICEFailed, 5*time.Second)
	set(&c.Keepalive, 2*time.Second)
	set(&c.ReconnectGrace, 5*time.Second)
	set(&c.JoinTimeout, 60*time.Second)
	set(&c.NegotiationTimeout, 15*time.Second)
	if c.SlowThreshold > 0 {
		set(&c.DataStall, 2*time.Second)
	}
	set(&c.DataStall, 10*time.Second)
	if c.MaxFlowWaiting == 0 {
		c.MaxFlowWaiting = maxFlowWaiting
	}
	if c.MaxDataWaiting == 0 {
		c.MaxDataWaiting = maxDataWaiting
	}
	if c.Protocol == 0 {
		c.Protocol = 18
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.interfaces == nil {
		c.interfaces, c.changes = systemInterfaces, systemChanges
	}
	if c.lookup == nil {
		c.lookup = func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		}
	}
}

// Engine has the sockets and all that peers' transports share. Its methods may be called
// concurrently.
type Engine struct {
	cfg         Config
	log         *slog.Logger
	codecs      codecSet
	net         *network
	certificate webrtc.Certificate
	x509        *x509.Certificate // the same certificate
	counters    counters
	pool        *packet.Pool
	parcels     sync.Pool         // of *parcel
	messages    sync.Pool         // of *[]byte, see largeBuffer
	workers     *workers          // decrypt and forward what the readers of sockets do not, and serve the turns
	turns       []*downlink.Turns // of paths to subscribers, each of some of them
	totals      forward.Totals    // of tracks
	paths       downlink.Totals   // of paths to subscribers

	waiting atomic.Int64 // bytes of clients' reliable data that wait for receivers
	early   atomic.Int64 // the same of data that the server sends, and of data that waits for a channel to open
	flow    *dataFlow    // the flow whose bytes early counts

	next  atomic.Uint32 // decides which of the UDP sockets the next transport uses
	paced atomic.Uint32 // decides which of the turns the next transport's path acts in

	// mu guards the following.
	mu     sync.Mutex
	peers  map[*Peer]struct{}
	closed bool
}

// NewEngine binds the sockets. Close must be called.
func NewEngine(cfg Config) (*Engine, error) {
	cfg.setDefaults()
	codecs, err := newCodecSet(cfg.EnabledCodecs)
	if err != nil {
		return nil, err
	}
	certificate, parsed, err := newCertificate()
	if err != nil {
		return nil, err
	}
	n, err := openNetwork(&cfg)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		cfg:         cfg,
		log:         cfg.Log,
		codecs:      codecs,
		net:         n,
		certificate: certificate,
		x509:        parsed,
		pool:        packet.NewPool(),
		workers:     newWorkers(),
		peers:       make(map[*Peer]struct{}),
	}
	for range runtime.GOMAXPROCS(0) {
		e.turns = append(e.turns, downlink.NewTurns(e.workers.run))
	}
	e.flow = newDataFlow(&e.early)
	return e, nil
}

// ErrClosed is the error of an [Engine] that was closed.
var ErrClosed = errors.New("media engine is closed")

// Close ends every peer's transports, waits for their goroutines, and closes the
// sockets.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	peers := make([]*Peer, 0, len(e.peers))
	for p := range e.peers {
		peers = append(peers, p)
	}
	e.mu.Unlock()
	for _, p := range peers {
		p.Close()
	}
	for _, p := range peers {
		<-p.done
	}
	err := e.net.close()
	for _, t := range e.turns {
		t.Close()
	}
	e.workers.end() // the readers of sockets have ended, and the turns
	return err
}

// iceServers are the configured STUN and TURN servers that a participant is told of, by its
// SID. The server's own TURN server is not among them.
func (e *Engine) iceServers(participant string) []*livekit.ICEServer {
	out := make([]*livekit.ICEServer, 0, len(e.cfg.ICEServers)+1)
	if len(e.cfg.STUNServers) > 0 {
		urls := make([]string, len(e.cfg.STUNServers))
		for i, s := range e.cfg.STUNServers {
			urls[i] = "stun:" + s
		}
		out = append(out, &livekit.ICEServer{Urls: urls})
	}
	for i := range e.cfg.ICEServers {
		out = append(out, e.cfg.ICEServers[i].announce(participant, time.Now()))
	}
	return out
}

func (e *Engine) add(p *Peer) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	e.peers[p] = struct{}{}
	if e.net.turn != nil {
		p.relays = e.net.turn.Begin(p.cfg.SID)
	}
	return nil
}

func (e *Engine) remove(p *Peer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.peers, p)
}

// Addrs are the addresses on which the engine receives media now.
func (e *Engine) Addrs() (overUDP, overTCP []netip.AddrPort) {
	for _, s := range e.net.sockets[:e.net.media] {
		for _, c := range *s.conns.Load() {
			overUDP = append(overUDP, netip.AddrPortFrom(c.local, s.port))
		}
	}
	if e.net.tcp != nil {
		overTCP = e.net.tcp.Addrs()
	}
	return overUDP, overTCP
}

// ServesTCP reports whether media can go over TCP.
func (e *Engine) ServesTCP() bool { return e.net.tcp != nil }

// How long a transport that chooses the pair of ICE waits for a better one. A client behind
// a NAT that has moved sees nothing meanwhile. The choice is for the whole call: pion never
// chooses again before ICE restarts.
//
// pion counts waitForHost and waitForDirect from the beginning or restart of ICE, while the
// offer still travels. waitForHost lets a pair with a candidate that the client named win
// over one with an address that a NAT made. waitForDirect lets a direct pair win over a
// relayed one, which is valid some round trips later anyway.
//
// waitForUDP counts from a TCP connection's first check, whatever the round trip time is.
// Several checks by UDP may be lost before that. A client that has only TCP waits as long.
// Where both UDP and TCP are offered, relayed pairs also wait for it, because a direct TCP
// connection needs less than a relay that is reached over TCP.
const (
	waitForHost   = 250 * time.Millisecond
	waitForDirect = 500 * time.Millisecond
	waitForUDP    = 750 * time.Millisecond
)

// muxed are a transport's parts of the sockets that it shares with others.
type muxed struct {
	sock *socket
	udp  *icemux.Transport    // nil: it has no UDP
	tcp  *icemux.TCPTransport // nil: it has no TCP
}

// selected is called when ICE has selected a pair.
func (m *muxed) selected() {
	if m.udp != nil {
		m.udp.Selected()
	}
	if m.tcp != nil {
		m.tcp.Selected()
	}
}

// end is called when the transport's agent has ended.
func (m *muxed) end() {
	if m.udp != nil {
		m.udp.End()
	}
	if m.tcp != nil {
		m.tcp.End()
	}
}

// settings are the settings that all transports have in common. With tcpOnly the
// transport gets no UDP socket, if the engine has ICE over TCP. take sees RTP and RTCP
// first, moved is told when the client moves, and authentic tells which responses are the
// client's. The muxed must be ended.
func (e *Engine) settings(tcpOnly bool, take icemux.Handler, moved icemux.Moved, authentic icemux.Authentic) (webrtc.SettingEngine, muxed, error) {
	var s webrtc.SettingEngine
	m := muxed{sock: e.net.sockets[int(e.next.Add(1))%e.net.media]}
	var types []webrtc.NetworkType
	relayWait, tcpWait := waitForDirect, time.Duration(0)
	if !tcpOnly || !e.ServesTCP() {
		m.udp = m.sock.mux.For(take, moved, authentic)
		s.SetICEUDPMux(m.udp)
		types = append(types, webrtc.NetworkTypeUDP4, webrtc.NetworkTypeUDP6)
		if e.ServesTCP() {
			tcpWait = waitForUDP
			relayWait += tcpWait
		}
	}
	if e.ServesTCP() {
		m.tcp = e.net.tcp.For(take, tcpWait)
		s.SetICETCPMux(m.tcp)
		types = append(types, webrtc.NetworkTypeTCP4, webrtc.NetworkTypeTCP6)
	}
	s.SetNetworkTypes(types)
	s.DisableActiveTCP(true)
	s.SetIncludeLoopbackCandidate(true) // the bound addresses are already filtered
	s.SetNet(e.net.forPion())
	s.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	s.SetICETimeouts(e.cfg.ICEDisconnected, e.cfg.ICEFailed, e.cfg.Keepalive)
	s.SetSrflxAcceptanceMinWait(waitForHost)
	s.SetPrflxAcceptanceMinWait(waitForHost)
	s.SetRelayAcceptanceMinWait(relayWait)
	var rewrites []webrtc.ICEAddressRewriteRule
	for internal, external := range e.net.now.Load().external {
		rewrites = append(rewrites, webrtc.ICEAddressRewriteRule{
			External:        []string{external.String()},
			Local:           internal.String(),
			AsCandidateType: webrtc.ICECandidateTypeHost,
			Mode:            webrtc.ICEAddressRewriteReplace,
		})
	}
	if len(rewrites) > 0 {
		if err := s.SetICEAddressRewriteRules(rewrites...); err != nil {
			return s, m, fmt.Errorf("advertise other addresses: %w", err)
		}
	}
	// A DTLS server chooses the SRTP profile. We want to choose, because AES-GCM costs a
	// third of AES-CM with HMAC-SHA1, which browsers would choose as servers.
	if err := s.SetAnsweringDTLSRole(webrtc.DTLSRoleServer); err != nil {
		return s, m, fmt.Errorf("choose the DTLS role: %w", err)
	}
	s.SetSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_128_GCM, dtls.SRTP_AES128_CM_HMAC_SHA1_80)
	s.SetSRTPReplayProtectionWindow(srtpin.ReplayWindow)
	s.SetSRTCPReplayProtectionWindow(srtpin.ReplayWindow)
	dataSettings(&s)
	s.SetFireOnTrackBeforeFirstRTP(true)
	s.DisableCloseByDTLS(true) // only a peer's loop closes its peer connections
	s.LoggerFactory = pionLogs{e.log}
	return s, m, nil
}

// mostSilence is the longest time between two attempts to send data that is not acknowledged,
// and so the longest that data waits after an outage. Browsers wait as long. Pion's own bound
// is a minute.
//
// An association that was never established is given up after 8 repeats, 24 s at this bound.
// A client that is out of reach for as long has been given up before, unless it resumes
// (ICEDisconnected, ICEFailed, ReconnectGrace).
const mostSilence = 3 * time.Second

// dataSettings are the settings of data channels.
func dataSettings(s *webrtc.SettingEngine) {
	s.SetSCTPMaxMessageSize(rooms.MaxDataPacket)
	s.SetSCTPRTOMax(mostSilence)
	s.DetachDataChannels() // pion keeps 64 KiB for each channel that it reads itself
}
