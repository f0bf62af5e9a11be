package rooms

import "github.com/livekit/protocol/livekit"

// Data does not pass through a room's goroutine: each sender's goroutine delivers its own
// data. The room's goroutine publishes what senders need to know, with every change and
// before the change is acknowledged or announced. So all data that a client sends after
// the acknowledgement is subject to the change. Senders share no lock.

// presence is what senders of data need to know of a participant whose media is
// connected. The goroutine of the participant's room replaces it; it is never changed.
type presence struct {
	peer Peer

	dataSources map[uint16]*dataSource // of its data tracks, by the handle in its packets; never changed

	publishesData bool // canPublishData
	takesMetrics  bool // canSubscribeMetrics
	hidden        bool
	agent         bool
}

// receivers are the participants of a room that have presences. The room's goroutine
// replaces the list; it is never changed. It may still hold participants that have left,
// so [Participant.attending] decides.
type receivers struct {
	all               []*Participant
	bySID, byIdentity map[string]*Participant
}

// present publishes p's presence. It runs on r's goroutine; p must be in r and have a
// peer.
func (r *Room) present(p *Participant) {
	if p.ended.Load() {
		return
	}
	may := p.info.GetPermission()
	p.presence.Store(&presence{
		peer: p.peer, dataSources: p.dataSources,
		publishesData: may.GetCanPublishData(), takesMetrics: may.GetCanSubscribeMetrics(),
		hidden: p.hidden(), agent: p.info.Kind == livekit.ParticipantInfo_AGENT,
	})
	if r.receivers.Load().bySID[p.sid] != p {
		r.listReceivers(p)
	}
}

// listReceivers publishes a new list: those of the old list that are still in the room,
// and newcomer unless it is nil.
func (r *Room) listReceivers(newcomer *Participant) {
	before := r.receivers.Load()
	n := len(before.all) + 1
	now := &receivers{make([]*Participant, 0, n), make(map[string]*Participant, n), make(map[string]*Participant, n)}
	add := func(q *Participant) {
		if q.attending() != nil {
			now.all = append(now.all, q)
			now.bySID[q.sid], now.byIdentity[q.identity] = q, q
		}
	}
	for _, q := range before.all {
		if q != newcomer {
			add(q)
		}
	}
	if newcomer != nil {
		add(newcomer)
	}
	r.receivers.Store(now)
}

// forgetAbsent drops participants that have left from the list.
func (r *Room) forgetAbsent() {
	if len(r.receivers.Load().all) > len(r.participants) {
		r.listReceivers(nil)
	}
}

// attending is p's presence; nil if p is not in its room yet, or not any more.
func (p *Participant) attending() *presence {
	if p.ended.Load() {
		return nil
	}
	return p.presence.Load()
}

// named returns the receivers with those identities or SIDs, each once; all if none is
// given.
func (l *receivers) named(identities, sids []string) []*Participant {
	if len(identities)+len(sids) == 0 {
		return l.all
	}
	var named []*Participant
	seen := make(map[*Participant]bool)
	add := func(q *Participant) {
		if q != nil && !seen[q] {
			seen[q] = true
			named = append(named, q)
		}
	}
	for _, identity := range identities {
		add(l.byIdentity[identity])
	}
	for _, sid := range sids {
		add(l.bySID[sid])
	}
	return named
}

// attended reports whether data can reach a participant in r. It may be called on any
// goroutine.
func (r *Room) attended() bool {
	for _, p := range r.receivers.Load().all {
		if p.attending() != nil {
			return true
		}
	}
	return false
}
