package rooms

import "github.com/livekit/protocol/livekit"

// Data does not pass through a room's goroutine: each sender's own goroutine brings it
// to its receivers. What it has to know for that, the room's goroutine publishes with
// every change, before the change is acknowledged or told to anybody: so whatever is
// read from a client after that goes by it. Senders share no lock.

// presence is what data needs to know of a participant whose media is there. It is
// replaced, never changed, by the goroutine of the participant's room.
type presence struct {
	room *Room
	peer Peer
	sid  string

	publishesData bool // its permission
	takesMetrics  bool // as well
	hidden        bool
	agent         bool
}

// receivers are the participants of a room that have presences. The list is replaced,
// never changed, by the room's goroutine. It may lag behind those who leave: what
// counts is [Participant.presentIn].
type receivers struct {
	all               []*Participant
	bySID, byIdentity map[string]*Participant
}

// present publishes p's presence. It runs on r's goroutine, for a participant of r that has
// a peer.
func (r *Room) present(p *Participant) {
	if p.ended.Load() {
		return
	}
	may := p.info.GetPermission()
	p.presence.Store(&presence{
		room: r, peer: p.peer, sid: p.sid,
		publishesData: may.GetCanPublishData(), takesMetrics: may.GetCanSubscribeMetrics(),
		hidden: p.hidden(), agent: p.info.Kind == livekit.ParticipantInfo_AGENT,
	})
	if r.receivers.Load().bySID[p.sid] != p {
		r.listReceivers(p)
	}
}

// listReceivers publishes a new list: those of the old one that are still there, and
// newcomer unless it is nil.
func (r *Room) listReceivers(newcomer *Participant) {
	before := r.receivers.Load()
	n := len(before.all) + 1
	now := &receivers{make([]*Participant, 0, n), make(map[string]*Participant, n), make(map[string]*Participant, n)}
	add := func(q *Participant) {
		if at := q.presentIn(r); at != nil {
			now.all = append(now.all, q)
			now.bySID[at.sid], now.byIdentity[q.identity] = q, q
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

// forgetAbsent lets go of participants that are listed and have left.
func (r *Room) forgetAbsent() {
	if len(r.receivers.Load().all) > len(r.participants) {
		r.listReceivers(nil)
	}
}

// presentIn is p's presence in r; nil if it is not there, or no more.
func (p *Participant) presentIn(r *Room) *presence {
	at := p.presence.Load()
	if at == nil || at.room != r || p.ended.Load() {
		return nil
	}
	return at
}

// named are those of these identities and SIDs, each once; all, if none is named.
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

// attended reports whether data of the server's can be brought to somebody in r. It may
// be asked by anybody.
func (r *Room) attended() bool {
	for _, p := range r.receivers.Load().all {
		if p.presentIn(r) != nil {
			return true
		}
	}
	return false
}
