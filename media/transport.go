package media

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/rtcp"
	"github.com/pion/sctp"
	"github.com/pion/stun/v4"
	"github.com/pion/webrtc/v4"

	"parlor/media/downlink"
	"parlor/media/forward"
	"parlor/media/srtpout"
)

// maxCandidates bounds the candidates of a client, both in one description and trickled
// between two ICE restarts, because we send connectivity checks to each.
const maxCandidates = 128

// transport is one peer connection and its negotiation. It belongs to its peer's loop,
// except for the ingress, moved and checked.
type transport struct {
	role role
	side Connection
	api  *webrtc.API
	pc   *webrtc.PeerConnection
	muxed
	ingress  *ingress
	twcc     *forward.TWCC // congestion feedback to the client; nil if it was not negotiated
	numbered bool          // its pictures have the numbers for that, and not only its sound
	remb     *forward.REMB // the estimate for a client that takes only that; nil for others
	down     *downlink.Path
	capture  srtpout.Capture
	intake   *intake
	log      *slog.Logger

	// moved is the address from which the client's packets come, while ICE still leads to
	// another; nil: there is none. The loop writes it, and ICE reads it.
	moved atomic.Pointer[netip.AddrPort]
	// password is the client's of ICE, in its newest description; nil: there is none yet.
	// The loop writes it, and the readers of sockets read it.
	password atomic.Pointer[string]

	// checked is the pair on which the client's last check came; nil: none yet. ICE writes it, and
	// the loop reads it.
	checked atomic.Pointer[ice.CandidatePair]

	carrier       string           // what protocol has found; "": it must ask ICE
	trips         [2]time.Duration // of the last two of ICE's checks, the newest first; 0 = unknown
	state         webrtc.PeerConnectionState
	everConnected bool
	gone          bool                      // the client closed it
	pending       []webrtc.ICECandidateInit // candidates of the client that wait for its description
	ufrag         string                    // the client's, in its last description
	restarts      allowance                 // ICE restarts that the client's descriptions may still make
	trickled      int                       // candidates of the client since ICE began or restarted
	held          *webrtc.ICECandidate      // our newest candidate, held until it is known whether it is the last
	mids          []string                  // by m-line, of the last offer of the client or of ours

	// The following are for our offers (role subscriber).
	offered     bool // an offer is unanswered
	offerID     uint32
	lastOffer   *Description // while it is unanswered
	dirty       bool         // another offer is needed
	restartNext bool         // the next offer restarts ICE
	restarting  bool         // the last offer restarted ICE

	// clientCodecs are the client's codecs among those that we offered, by kind. A kind
	// is present once the client has answered a section of it.
	clientCodecs map[webrtc.RTPCodecType][]webrtc.RTPCodecParameters

	// codecLists are the codecs of sections in the client's answers; see takeIn.
	codecLists []uint64

	// retired are the sections that a subscription left. A section can be reused only
	// after a description said so and the client agreed: if a section goes to another
	// track while it is active, clients show nothing.
	retired map[*webrtc.RTPTransceiver]retirement
}

type retirement int

const (
	retiredSilently retirement = iota // no description says so yet
	retiredOffered                    // our offer says so
)

// newTransport makes a peer connection. Its events are posted to p's loop.
func (p *Peer) newTransport(r role, side Connection) (*transport, error) {
	in := newIngress(func() { p.post(func() { p.floodedWithStreams() }) })
	intake := newIntake(in, &p.engine.parcels, p.engine.workers, &p.engine.counters)
	var t *transport
	settings, muxed, err := p.engine.settings(p.cfg.TCPOnly, intake.take, func(to, local netip.AddrPort) {
		p.post(func() { p.clientMoved(t, to, local) }) // t is known before ICE begins
	}, func(response []byte) bool { return t.authentic(response) })
	if err != nil {
		return nil, err
	}
	t = &transport{
		role: r, side: side, muxed: muxed, ingress: in, intake: intake,
		log: p.log.With("target", side.String()), state: webrtc.PeerConnectionStateNew,
		retired:      map[*webrtc.RTPTransceiver]retirement{},
		clientCodecs: map[webrtc.RTPCodecType][]webrtc.RTPCodecParameters{},
	}
	t.down = downlink.New(onward{t})
	t.down.CountMalformed(&p.engine.counters.badFeedback)
	t.down.CountIn(&p.engine.paths)
	paced := p.engine.paced.Load()
	if r != rolePublisher { // else nothing is paced, and it takes no other's place
		paced = p.engine.paced.Add(1)
	}
	t.down.ActIn(p.engine.turns[int(paced)%len(p.engine.turns)])
	t.down.LimitVoices(p.engine.cfg.MaxForwardedAudio)
	t.ingress.feedback, t.ingress.unparked = t.down.Feedback, &p.engine.counters.intakeOverflow
	t.ingress.excess = &p.engine.counters.excessFeedback
	settings.SetICEBindingRequestHandler(func(_ *stun.Message, _, remote ice.Candidate, pair *ice.CandidatePair) bool {
		t.checked.Store(pair)
		return t.movedTo(remote)
	})
	settings.BufferFactory = t.ingress.buffer
	t.capture.Install(&settings)
	settings.DisableMediaEngineCopy(true) // the media engine is made for this transport alone
	codecs, err := p.codecsFor(r).mediaEngine(r)
	if err != nil {
		return nil, err
	}
	t.api = webrtc.NewAPI(webrtc.WithSettingEngine(settings), webrtc.WithMediaEngine(codecs), webrtc.WithInterceptorRegistry(noInterceptors()))
	t.pc, err = t.api.NewPeerConnection(webrtc.Configuration{
		Certificates:              []webrtc.Certificate{p.engine.certificate},
		BundlePolicy:              webrtc.BundlePolicyMaxBundle,
		RTPHeaderEncryptionPolicy: webrtc.RTPHeaderEncryptionPolicyDisable,
	})
	if err != nil {
		return nil, fmt.Errorf("make a peer connection: %w", err)
	}
	p.watch(t)
	return t, nil
}

// codecsFor are the codecs of a transport for r.
func (p *Peer) codecsFor(r role) codecSet {
	if r == rolePublisher {
		return p.codecs.without(p.cfg.DisabledPublishCodecs)
	}
	return p.codecs
}

// watch posts the events of pion's peer connection to the loop.
func (p *Peer) watch(t *transport) {
	t.pc.OnICECandidate(func(c *webrtc.ICECandidate) {
		p.post(func() { p.localCandidate(t, c) })
	})
	t.pc.OnConnectionStateChange(func(webrtc.PeerConnectionState) {
		// Pion makes the calls on separate goroutines, in no order, so the loop asks for
		// the present state.
		p.post(func() { p.stateChanged(t, t.pc.ConnectionState()) })
	})
	t.pc.SCTP().Transport().ICETransport().OnSelectedCandidatePairChange(func(*webrtc.ICECandidatePair) {
		p.post(func() {
			t.moved.Store(nil)
			t.carrier = ""
			p.followPath(t)
		})
	})
	t.pc.OnTrack(func(track *webrtc.TrackRemote, receiver *webrtc.RTPReceiver) {
		ssrc, rid := uint32(track.SSRC()), track.RID() // before pion gives the track another SSRC
		p.post(func() { p.remoteStream(t, ssrc, rid, receiver) })
	})
	t.pc.SCTP().OnClose(func(err error) {
		p.post(func() {
			if errors.Is(err, sctp.ErrProtocolViolation) {
				p.engine.counters.badSCTP.Add(1)
				p.needsReconnect("its SCTP association was aborted: " + err.Error())
			}
			p.closedByClient(t)
		})
	})
	t.pc.OnDataChannel(func(dc *webrtc.DataChannel) { p.data.accept(dc) })
}

// writeRTCP sends RTCP to the client.
func (t *transport) writeRTCP(packets []rtcp.Packet) error {
	defer t.sock.flush()
	return t.collectRTCP(packets)
}

// collectRTCP sends RTCP to the client with the next flush.
func (t *transport) collectRTCP(packets []rtcp.Packet) error {
	raw, err := rtcp.Marshal(packets)
	if err != nil {
		return fmt.Errorf("write RTCP: %w", err)
	}
	ours, err := t.down.SendRTCP(raw)
	if !ours {
		err = t.pc.WriteRTCP(packets)
	}
	return err
}

// onward is a transport as its downlink knows it.
type onward struct{ t *transport }

func (o onward) Flush()                                { o.t.sock.flush() }
func (o onward) WriteRTCP(packets []rtcp.Packet) error { return o.t.collectRTCP(packets) }

// feedback is the transport's congestion feedback, for a section with these extensions; nil if
// it was not negotiated.
func (t *transport) feedback(kind webrtc.RTPCodecType, ext forward.Extensions) *forward.TWCC {
	if ext.TransportCC == 0 {
		return t.twcc
	}
	if t.twcc == nil {
		t.twcc = forward.NewTWCC(t.writeRTCP)
	}
	if kind == webrtc.RTPCodecTypeVideo && !t.numbered {
		t.numbered = true
		if t.remb != nil {
			t.remb.Close()
		}
	}
	return t.twcc
}

// estimate is the estimate for a client that takes REMB in sections with those codecs, and no
// transport-wide feedback; nil for others.
func (t *transport) estimate(codecs []webrtc.RTPCodecParameters) *forward.REMB {
	if t.numbered {
		return nil
	}
	if t.remb == nil && slices.ContainsFunc(codecs, func(c webrtc.RTPCodecParameters) bool { return hasFeedback(c, remb.Type, "") }) {
		t.remb = forward.NewREMB(t.writeRTCP)
	}
	return t.remb
}

// noteClientCodecs notes the client's codecs from its answer to our offer.
func (t *transport) noteClientCodecs(answered []offeredSection) {
	for _, s := range answered {
		if s.kind == 0 {
			continue
		}
		known := t.clientCodecs[s.kind]
		for _, c := range s.codecs {
			pt := webrtc.PayloadType(c.pt)
			has := slices.ContainsFunc(known, func(k webrtc.RTPCodecParameters) bool { return k.PayloadType == pt })
			if !s.rejected && !has {
				known = append(known, codec(pt, c.mime, c.rate, c.chs, c.fmtp))
			}
		}
		t.clientCodecs[s.kind] = known // none, if the section is rejected
	}
}

// retire notes that a subscription left a section. One that no description has is free at once.
func (t *transport) retire(tr *webrtc.RTPTransceiver) {
	if tr.Mid() != "" {
		t.retired[tr] = retiredSilently
	}
}

// retirementOffered notes that our offer says which sections are retired.
func (t *transport) retirementOffered() {
	for tr := range t.retired {
		t.retired[tr] = retiredOffered
	}
}

// retirementAgreed frees the sections whose retirement the client's answer agreed to.
func (t *transport) retirementAgreed() {
	maps.DeleteFunc(t.retired, func(_ *webrtc.RTPTransceiver, r retirement) bool { return r == retiredOffered })
}

// free reports whether a section can take a new subscription.
func (t *transport) free(tr *webrtc.RTPTransceiver) bool {
	_, retired := t.retired[tr]
	return tr.Sender() == nil && !retired
}

// midToTrack maps the mids of the sections in which we send to the SIDs of their tracks,
// so that clients can tell the tracks.
func (t *transport) midToTrack() map[string]string {
	out := map[string]string{}
	for _, tr := range t.pc.GetTransceivers() {
		if s := tr.Sender(); s != nil && s.Track() != nil && tr.Mid() != "" {
			out[tr.Mid()] = s.Track().ID()
		}
	}
	return out
}

// close ends the peer connection and waits for its goroutines.
func (t *transport) close() error {
	if t.twcc != nil {
		t.twcc.Close()
	}
	if t.remb != nil {
		t.remb.Close()
	}
	err := t.pc.GracefulClose()
	t.end()
	t.intake.close()
	if err != nil && !errors.Is(err, webrtc.ErrConnectionClosed) {
		return fmt.Errorf("close transport: %w", err)
	}
	return nil
}
