package rooms

import "github.com/livekit/protocol/livekit"

// audience is a publisher's subscription permission (LiveKit's SubscriptionPermission):
// which participants may subscribe to which of its tracks. It is indexed for a look-up by
// track and participant. nil = everybody may subscribe to all tracks.
type audience struct {
	byIdentity, bySID map[string]*trackSet
}

// trackSet is tracks by SID.
type trackSet struct {
	all  bool
	sids map[string]struct{}
}

// newAudience reads a publisher's message; a message without restrictions gives nil.
func newAudience(perm *livekit.SubscriptionPermission) *audience {
	if perm == nil || perm.AllParticipants {
		return nil
	}
	s := &audience{byIdentity: map[string]*trackSet{}, bySID: map[string]*trackSet{}}
	for _, tp := range perm.TrackPermissions {
		if tp.ParticipantIdentity != "" {
			add(s.byIdentity, tp.ParticipantIdentity, tp)
		} else {
			add(s.bySID, tp.ParticipantSid, tp)
		}
	}
	return s
}

func add(to map[string]*trackSet, who string, tp *livekit.TrackPermission) {
	set := to[who]
	if set == nil {
		set = &trackSet{sids: map[string]struct{}{}}
		to[who] = set
	}
	set.all = set.all || tp.AllTracks
	for _, sid := range tp.TrackSids {
		set.sids[sid] = struct{}{}
	}
}

// permit reports whether q may subscribe to the track.
func (s *audience) permit(q *Participant, trackSID string) bool {
	return s == nil || s.byIdentity[q.identity].has(trackSID) || s.bySID[q.sid].has(trackSID)
}

func (s *trackSet) has(sid string) bool {
	if s == nil {
		return false
	}
	_, has := s.sids[sid]
	return s.all || has
}
