package media

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/pion/dtls/v3/pkg/crypto/fingerprint"
	"github.com/pion/ice/v4"
)

// errOwnTransport: a client presents one of the server's transports as its own. If the
// server believed it, it would connect to itself, and would take its own packets for the
// client's.
var errOwnTransport = errors.New("the description is one of the server's own transports")

// errRestarts: a client restarts ICE more often than allowance permits.
var errRestarts = errors.New("ICE restarts too often")

// screen checks a client's description before any other step. It refuses a description of
// one of our own transports, and too frequent ICE restarts. It returns the description
// without useless candidates.
func (p *Peer) screen(t *transport, d Description) (Description, error) {
	if len(d.SDP) > maxDescription {
		return d, nil // parseOffer refuses it
	}
	if err := p.engine.notOurs(d.SDP); err != nil {
		p.engine.counters.ownTransports.Add(1)
		return Description{}, err
	}
	if ufrag := iceUfrag(d.SDP); t != nil && t.ufrag != "" && ufrag != "" && ufrag != t.ufrag && !t.restarts.take(time.Now()) {
		p.engine.counters.iceRestarts.Add(1)
		return Description{}, errRestarts
	}
	return p.withoutUseless(d), nil
}

// notOurs refuses a description with our fingerprint, or with the ufrag of one of our
// transports. It only scans the lines; the description is parsed later, once.
func (e *Engine) notOurs(text string) error {
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		switch {
		case key == "a=fingerprint" && e.isOurFingerprint(value),
			key == "a=ice-ufrag" && e.net.hasUfrag(strings.TrimSpace(value)):
			return fmt.Errorf("%w: %s", errOwnTransport, key[2:])
		}
	}
	return nil
}

// isOurFingerprint compares the value of a fingerprint attribute (RFC 8122, section 5)
// with our certificate, by the hash that the value names.
func (e *Engine) isOurFingerprint(value string) bool {
	name, want, ok := strings.Cut(strings.TrimSpace(value), " ")
	if !ok {
		return false
	}
	hash, err := fingerprint.HashFromString(name)
	if err != nil {
		return false
	}
	ours, err := fingerprint.Fingerprint(e.x509, hash)
	return err == nil && strings.EqualFold(ours, strings.TrimSpace(want))
}

// hasUfrag reports whether one of our transports has that ufrag.
func (n *network) hasUfrag(ufrag string) bool {
	for _, s := range n.sockets {
		if s.mux.Has(ufrag) {
			return true
		}
	}
	return n.tcp != nil && n.tcp.Has(ufrag)
}

// candidateVerdict is the judgement of a client's candidate.
type candidateVerdict int

const (
	candidateGood    candidateVerdict = iota
	candidateUseless                  // ignored, but not a fault of the client
	candidateBad                      // no client can have this address
	candidateOwn                      // one of our own addresses
)

// judgeCandidate decides whether we may send connectivity checks to a candidate (the
// value of the attribute, with or without its name). A client can name any address. It
// must not make us send to a multicast group, to the services of a link, to this machine,
// or to ourselves.
func (n *network) judgeCandidate(text string, loopback bool) candidateVerdict {
	text = strings.TrimSpace(text)
	c, err := ice.UnmarshalCandidate(strings.TrimPrefix(text, "candidate:"))
	if err != nil {
		return candidateBad
	}
	if c.NetworkType().IsTCP() || strings.HasSuffix(strings.ToLower(c.Address()), ".local") {
		return candidateUseless // clients connect to our TCP port; we do not resolve names
	}
	addr, err := netip.ParseAddr(c.Address())
	if err != nil || c.Port() <= 0 || c.Port() > 65535 {
		return candidateBad
	}
	addr = addr.Unmap()
	switch {
	case n.own(netip.AddrPortFrom(addr, uint16(c.Port()))):
		return candidateOwn
	case addr.IsLoopback():
		if loopback {
			return candidateGood
		}
		return candidateBad
	case addr.Zone() != "", addr.IsLinkLocalUnicast(), addr.IsMulticast(), addr.IsUnspecified():
		return candidateBad
	case addr.Is4() && (addr.As4()[0] == 0 || addr.As4()[0] >= 240): // "this network", reserved, and broadcast addresses
		return candidateBad
	}
	return candidateGood
}

// accepts judges a candidate, and counts a bad one.
func (p *Peer) accepts(candidate string) bool {
	e := p.engine
	switch e.net.judgeCandidate(candidate, e.cfg.LoopbackCandidate || e.net.loopback()) {
	case candidateGood:
		return true
	case candidateOwn:
		e.counters.ownTransports.Add(1)
	case candidateBad:
		e.counters.badCandidates.Add(1)
	default:
	}
	return false
}

// withoutUseless removes the candidates from a description that are not accepted.
func (p *Peer) withoutUseless(d Description) Description {
	const attribute = "a=candidate:"
	if !strings.Contains(d.SDP, attribute) {
		return d
	}
	for section := range strings.SplitSeq(d.SDP, "\nm=") {
		if strings.Count(section, attribute) > maxCandidates {
			return d // parseOffer refuses it
		}
	}
	var kept strings.Builder
	for line := range strings.Lines(d.SDP) {
		if candidate, ok := strings.CutPrefix(line, attribute); ok && !p.accepts(candidate) {
			continue
		}
		kept.WriteString(line)
	}
	if kept.Len() == len(d.SDP) {
		return d
	}
	d.SDP = kept.String()
	return d
}

// loopback reports whether a loopback address is bound.
func (n *network) loopback() bool {
	for _, a := range n.now.Load().local {
		if a.IsLoopback() {
			return true
		}
	}
	return false
}

// A client may restart ICE restartBurst times at once, and once more each
// restartInterval. Clients restart ICE when their network changes or fails.
const (
	restartBurst    = 10
	restartInterval = 5 * time.Second
)

// allowance limits ICE restarts. The zero value allows restartBurst. It belongs to the
// peer's loop.
type allowance struct {
	used int
	at   time.Time // when used was last brought up to date
}

func (a *allowance) take(now time.Time) bool {
	back := int(now.Sub(a.at) / restartInterval)
	if back > 0 {
		a.used, a.at = max(0, a.used-back), now
	}
	if a.used == restartBurst {
		return false
	}
	a.used++
	return true
}
