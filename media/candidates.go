package media

import "github.com/pion/webrtc/v4"

// localCandidate sends one of our candidates to the client. The newest candidate is held
// back until the next one is known, because the last candidate must be marked final.
func (p *Peer) localCandidate(t *transport, c *webrtc.ICECandidate) {
	held := t.held
	t.held = c
	if held == nil {
		return
	}
	p.cfg.Signals.Candidate(Candidate{ICECandidateInit: held.ToJSON(), Connection: t.side, Final: c == nil})
}

// trickle takes an ICE candidate that the client trickled (RFC 8838).
func (p *Peer) trickle(c Candidate) {
	t := p.pub
	if c.Connection == Subscribing && p.sub != nil {
		t = p.sub
	}
	init := c.ICECandidateInit
	if init.Candidate == "" && c.Final {
		return
	}
	if init.Candidate != "" && !p.accepts(init.Candidate) {
		return
	}
	if t.trickled++; t.trickled > maxCandidates {
		p.engine.counters.badCandidates.Add(1)
		return
	}
	if t.pc.RemoteDescription() == nil || t.offered {
		// The candidate came before its description, which is the client's first one, or,
		// if our offer restarts ICE, the client's answer to it.
		t.pending = append(t.pending, init)
		return
	}
	p.addCandidate(t, init)
}

func (p *Peer) addCandidate(t *transport, init webrtc.ICECandidateInit) {
	if err := t.pc.AddICECandidate(init); err != nil {
		p.engine.counters.badCandidates.Add(1)
		t.log.Debug("candidate refused", "error", err)
	}
}

// flushCandidates follows the client's description: it adds the candidates that waited
// for the description. If ICE restarts, the client may send maxCandidates again.
func (p *Peer) flushCandidates(t *transport, text string) {
	if ufrag := iceUfrag(text); ufrag != t.ufrag {
		t.ufrag, t.trickled = ufrag, len(t.pending)
	}
	pending := t.pending
	t.pending = nil
	for _, c := range pending {
		p.addCandidate(t, c)
	}
}
