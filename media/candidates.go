package media

import "github.com/pion/webrtc/v4"

// localCandidate tells the client of a candidate of ours. One is held back until
// the next is known, since the last is marked final.
func (p *Peer) localCandidate(t *transport, c *webrtc.ICECandidate) {
	held := t.held
	t.held = c
	if held == nil {
		return
	}
	p.cfg.Signals.Candidate(Candidate{ICECandidateInit: held.ToJSON(), Connection: t.side, Final: c == nil})
}

// trickle takes a candidate of the client.
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
		// Before the description that it belongs to: the first, or, when our offer
		// restarts ICE, the answer to it.
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

// flushCandidates follows the client's description: it adds what waited for it, and
// allows as many candidates again if ICE restarts with it.
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
