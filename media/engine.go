package media

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/dtls/v3"
	"github.com/pion/ice/v4"
	"github.com/pion/webrtc/v4"

	"parlor/media/forward"
	"parlor/media/forward/packet"
	"parlor/rooms"
)

// TCPEphemeral as Config.TCPPort takes any free port.
const TCPEphemeral = -1

// Config is what an [Engine] needs to know: LiveKit's rtc.* keys, parsed.
type Config struct {
	// UDPPort is the lowest and highest UDP port. One socket is bound to each port
	// of the range (on each of BindAddresses), and each transport uses one of
	// them. 0,0 lets the system choose one port.
	UDPPort [2]int
	// TCPPort is for ICE over TCP (RFC 6544), passive; 0 is none, [TCPEphemeral]
	// lets the system choose.
	TCPPort int
	// TCPHanded: others listen on TCPPort, and hand over what is for ICE by
	// [Engine.ServeICE].
	TCPHanded bool
	// BindAddresses are the local addresses to bind; empty is all. "0.0.0.0" is all of
	// IPv4, "" is all, and so is "::", but for IPv4 where an IPv4 address stands beside it.
	// What interfaces have is followed: an address that appears is bound, one that goes is
	// advertised no more.
	BindAddresses []string
	// NodeIPs are advertised instead of the local addresses, at most one of each
	// family; of a family that none is of, nothing is advertised.
	NodeIPs []string
	// UseExternalIP asks DiscoverySTUN for the address to advertise, at start and when the
	// machine's addresses change.
	UseExternalIP bool
	// DiscoverySTUN (host:port) are asked by UseExternalIP; empty is STUNServers.
	// Clients are not told of them.
	DiscoverySTUN []string
	// STUNServers (host:port) are told to clients.
	STUNServers []string
	// TURN is the server's own TURN server; nil: there is none.
	TURN *TURNConfig
	// ICEServerList is told to clients beside STUNServers (TURN and the like).
	ICEServerList []*livekit.ICEServer
	// LoopbackCandidate advertises loopback addresses too.
	LoopbackCandidate bool
	// Names of interfaces, and addresses or CIDR blocks, to advertise or not. An
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

	// DataStall is how long a receiver may take next to no reliable data while a
	// sender waits for it; 0 is 10 s. Then it has to start again.
	DataStall time.Duration
	// MaxFlowWaiting bounds the bytes of reliable data of one sender that wait for
	// receivers; 0 is 8 MiB. From there on the sender waits for them.
	MaxFlowWaiting int
	// MaxDataWaiting bounds the bytes of reliable data that wait for receivers, in
	// all; 0 is 256 MiB. From there on senders wait for their receivers.
	MaxDataWaiting int64

	// MaxForwardedAudio is how many participants' sound goes to one subscriber, the
	// loudest; 0 is everybody's.
	MaxForwardedAudio int

	// EnabledCodecs are mime types ("video/VP8"); empty is all that we know.
	EnabledCodecs []string
	// Protocol is the signalling protocol that the server advertises; 0 is 17. From
	// 18 on both sides, data channels in single mode are negotiated out of band.
	Protocol int
	// Log receives what operators should know. Required.
	Log *slog.Logger

	// interfaces are this machine's, and changes calls its function when they may be
	// others, until its context ends; nil is the system's.
	interfaces func() ([]networkInterface, error)
	changes    func(ctx context.Context, log *slog.Logger, changed func())
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
	set(&c.DataStall, 10*time.Second)
	if c.MaxFlowWaiting == 0 {
		c.MaxFlowWaiting = maxFlowWaiting
	}
	if c.MaxDataWaiting == 0 {
		c.MaxDataWaiting = maxDataWaiting
	}
	if c.Protocol == 0 {
		c.Protocol = 17
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.interfaces == nil {
		c.interfaces, c.changes = systemInterfaces, systemChanges
	}
}

// Engine is the sockets and what all peers' transports share. Its methods may be
// called concurrently.
type Engine struct {
	cfg         Config
	log         *slog.Logger
	codecs      codecSet
	net         *network
	certificate webrtc.Certificate
	x509        *x509.Certificate // the same
	counters    counters
	pool        *packet.Pool
	totals      forward.Totals

	waiting atomic.Int64 // bytes of clients' reliable data that wait for receivers
	early   atomic.Int64 // the same of the server's data, and of what came before a channel opened
	flow    *dataFlow    // of those, what the server itself sends, and what participants that join are to have

	next atomic.Uint32 // which of the UDP sockets the next transport uses

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
		peers:       make(map[*Peer]struct{}),
	}
	e.flow = newDataFlow(&e.early)
	return e, nil
}

// ErrClosed is given by an [Engine] that was closed.
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
	return e.net.close()
}

// iceServers are those of others that clients should be told of: the configured ones.
func (e *Engine) iceServers() []*livekit.ICEServer {
	out := make([]*livekit.ICEServer, 0, len(e.cfg.ICEServerList)+1)
	if len(e.cfg.STUNServers) > 0 {
		urls := make([]string, len(e.cfg.STUNServers))
		for i, s := range e.cfg.STUNServers {
			urls[i] = "stun:" + s
		}
		out = append(out, &livekit.ICEServer{Urls: urls})
	}
	return append(out, e.cfg.ICEServerList...)
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

// Addrs are the addresses that media is received on now.
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

// replayWindow is how far behind the newest packet of a stream one may come and is
// still taken, once, in packets (RFC 3711, 3.3.2). Package forward remembers as many.
// It is less than what package reception takes for a restart of the stream:
// old packets that are replayed do not look like one.
const replayWindow = 512

// settings are what every transport has in common; with tcpOnly there is no UDP for
// it, if there is TCP.
func (e *Engine) settings(tcpOnly bool) (webrtc.SettingEngine, *socket, error) {
	var s webrtc.SettingEngine
	sock := e.net.sockets[int(e.next.Add(1))%e.net.media]
	var types []webrtc.NetworkType
	if !tcpOnly || !e.ServesTCP() {
		s.SetICEUDPMux(sock.mux)
		types = append(types, webrtc.NetworkTypeUDP4, webrtc.NetworkTypeUDP6)
	}
	if e.ServesTCP() {
		s.SetICETCPMux(e.net.tcp)
		types = append(types, webrtc.NetworkTypeTCP4, webrtc.NetworkTypeTCP6)
	}
	s.SetNetworkTypes(types)
	s.DisableActiveTCP(true)
	s.SetIncludeLoopbackCandidate(true) // of what is bound
	s.SetNet(e.net.forPion())
	s.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	s.SetICETimeouts(e.cfg.ICEDisconnected, e.cfg.ICEFailed, e.cfg.Keepalive)
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
			return s, nil, fmt.Errorf("advertise other addresses: %w", err)
		}
	}
	// As DTLS server we choose the SRTP profile: AES-GCM costs a third of AES-CM
	// with HMAC-SHA1. As client, browsers would choose the latter.
	if err := s.SetAnsweringDTLSRole(webrtc.DTLSRoleServer); err != nil {
		return s, nil, fmt.Errorf("choose the DTLS role: %w", err)
	}
	s.SetSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_128_GCM, dtls.SRTP_AES128_CM_HMAC_SHA1_80)
	s.SetSRTPReplayProtectionWindow(replayWindow)
	s.SetSRTCPReplayProtectionWindow(replayWindow)
	s.SetSCTPMaxMessageSize(rooms.MaxDataPacket)
	s.SetFireOnTrackBeforeFirstRTP(true)
	s.DisableCloseByDTLS(true) // a peer connection is closed by its peer's loop alone
	s.LoggerFactory = pionLogs{e.log}
	return s, sock, nil
}
