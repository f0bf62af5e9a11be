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

// errOwnTransport: a client gives one of the server's transports as its own. Were it
// believed, the server would connect to itself, and what it sends would come back as
// the client's.
var errOwnTransport = errors.New("the description is one of the server's own transports")

// errRestarts: a client restarts ICE more often than allowance says.
var errRestarts = errors.New("ICE restarts too often")

// screen is what a client's description goes through before anything else. It
// refuses a description of one of our own transports, and ICE restarts that come too
// often, and returns the description without candidates that lead nowhere.
func (p *Peer) screen(t *transport, d Description) (Description, error) {
	if len(d.SDP) > maxDescription {
		return d, nil // refused for it where it is parsed
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

// notOurs refuses a description that carries our fingerprint or the ufrag of one of
// our transports. It looks at the lines alone: parsing comes later, once.
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

// isOurFingerprint compares the value of a fingerprint attribute (RFC 8122, 5) with
// our certificate, by whatever hash it names.
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

// hasUfrag reports whether a transport of ours has that ufrag.
func (n *network) hasUfrag(ufrag string) bool {
	for _, s := range n.sockets {
		if s.mux.Has(ufrag) {
			return true
		}
	}
	return n.tcp != nil && n.tcp.Has(ufrag)
}

// candidateVerdict is what to make of a client's candidate.
type candidateVerdict int

const (
	candidateGood    candidateVerdict = iota
	candidateUseless                  // nothing is to be done with it, and nothing is wrong with it
	candidateBad                      // no client is there
	candidateOwn                      // an address of ours
)

// judgeCandidate says whether connectivity checks may be sent to a candidate (the
// value of the attribute, with or without its name). What a client names is only
// where it says that it is: it must not have us write to a multicast group, to a
// link's own services, to this machine, or to ourselves.
func (n *network) judgeCandidate(text string, loopback bool) candidateVerdict {
	text = strings.TrimSpace(text)
	c, err := ice.UnmarshalCandidate(strings.TrimPrefix(text, "candidate:"))
	if err != nil {
		return candidateBad
	}
	if c.NetworkType().IsTCP() || strings.HasSuffix(strings.ToLower(c.Address()), ".local") {
		return candidateUseless // clients connect to our TCP port; we look up no names
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
	case addr.Is4() && (addr.As4()[0] == 0 || addr.As4()[0] >= 240): // this network, reserved, broadcast
		return candidateBad
	}
	return candidateGood
}

// accepts judges a candidate and counts it if it is refused.
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

// withoutUseless takes the candidates out of a description that are not accepted.
func (p *Peer) withoutUseless(d Description) Description {
	const attribute = "a=candidate:"
	if !strings.Contains(d.SDP, attribute) {
		return d
	}
	for section := range strings.SplitSeq(d.SDP, "\nm=") {
		if strings.Count(section, attribute) > maxCandidates {
			return d // which is refused where it is parsed
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

// A client may restart ICE so many times at once, and once more each
// restartInterval. Clients restart when their network changes or fails.
const (
	restartBurst    = 10
	restartInterval = 5 * time.Second
)

// allowance bounds ICE restarts. The zero value allows restartBurst. It belongs to
// the peer's loop.
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
