package rooms

import (
	"maps"
	"slices"
	"time"

	"github.com/livekit/protocol/livekit"
)

// consider begins to forward t to q if q wants t and may have it, and ends that if not.
// It is called after every change that matters to this. A track beyond the limit of q's
// subscriptions waits, without a word to q, until another one of q's has ended and
// considerWaiting is called. consider reports whether there was something to do.
func (r *Room) consider(q *Participant, t *track) bool {
	p := t.publisher
	if p == q || q.peer == nil || q.ended.Load() {
		return false
	}
	sid := t.info.Sid
	explicit, has := q.wanted[sid]
	wants := explicit || (!has && q.autoSubscribe)
	may := q.info.GetPermission().GetCanSubscribe()
	allowed := p.permissions.permit(q, sid)
	_, on := t.subscribers[q.identity]
	switch {
	case wants && may && allowed && !on && !r.hasEnough(q, t.info.Type):
		t.subscribers[q.identity] = q
		q.subscribed[sid] = t
		q.unrated = true
		r.tellPermission(q, p, sid, true)
		q.peer.Subscribe(Subscription{
			Track:             t.media,
			Info:              t.info,
			PublisherSID:      p.sid,
			PublisherIdentity: p.identity,
			SyncStreams:       r.rec.Config.SyncStreams,
			MinPlayoutDelay:   r.rec.Config.MinPlayoutDelay,
			MaxPlayoutDelay:   r.rec.Config.MaxPlayoutDelay,
			Trailer:           q.sifTrailer,
		})
	case on && !(wants && may && allowed):
		delete(t.subscribers, q.identity)
		delete(q.subscribed, sid)
		q.peer.Unsubscribe(sid)
		if !allowed || !may {
			r.deny(q, t)
		}
	case wants && may && !allowed && t.denied[q.identity] != q:
		r.deny(q, t)
	default:
		return false
	}
	return true
}

// hasEnough reports whether q is subscribed to as many tracks of a kind as it may be.
func (r *Room) hasEnough(q *Participant, kind livekit.TrackType) bool {
	limits := &r.rooms.cfg.Limits
	most := limits.SubscribedVideo
	if kind == livekit.TrackType_AUDIO {
		most = limits.SubscribedAudio
	}
	if most <= 0 || len(q.subscribed) < most {
		return false
	}
	n := 0
	for _, t := range q.subscribed {
		if t.info.Type == kind {
			n++
		}
	}
	return n >= most
}

// considerWaiting looks, after subscriptions of q's have ended, for tracks that can take their
// places.
func (r *Room) considerWaiting(q *Participant) {
	if limits := &r.rooms.cfg.Limits; limits.SubscribedVideo <= 0 && limits.SubscribedAudio <= 0 {
		return
	}
	for _, sid := range slices.Sorted(maps.Keys(r.tracks)) {
		r.consider(q, r.tracks[sid])
	}
}

// deny tells q that it has no permission for t.
func (r *Room) deny(q *Participant, t *track) {
	t.denied[q.identity] = q
	r.tellPermission(q, t.publisher, t.info.Sid, false)
}

func (r *Room) tellPermission(q, p *Participant, trackSID string, allowed bool) {
	q.outlet.Send(NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_SubscriptionPermissionUpdate{
		SubscriptionPermissionUpdate: &livekit.SubscriptionPermissionUpdate{
			ParticipantSid: p.sid, TrackSid: trackSID, Allowed: allowed,
		},
	}}))
}

// UpdateSubscription is the client's request to be subscribed to tracks, or not to be.
func (c *Client) UpdateSubscription(req *livekit.UpdateSubscription) {
	c.post(func(r *Room, p *Participant) {
		sids := slices.Clone(req.TrackSids)
		for _, pt := range req.ParticipantTracks {
			sids = append(sids, pt.TrackSids...)
		}
		r.payAsked(p, len(sids), r.want(p, sids, req.Subscribe))
	})
}

// What a client asks of subscriptions is less work than a change: so many tracks that it names, and
// so many subscriptions that begin, end or are refused, are as much. So many handles of data tracks that
// it is told of again are as much as a subscription.
const (
	askedOfAChange        = 200
	subscribedOfAChange   = 20
	handlesOfSubscription = 64
)

// payAsked counts a request for subscriptions against p's pace. done is how many it changed.
func (r *Room) payAsked(p *Participant, sids, done int) {
	if _, told := r.untold[p]; told && done > 0 {
		done += len(p.dataHandles) / handlesOfSubscription
	}
	p.payPart(time.Now(), paceInterval/askedOfAChange*time.Duration(sids)+paceInterval/subscribedOfAChange*time.Duration(done))
}

// settingsOfAChange is how many settings of tracks are as much work as a change.
const settingsOfAChange = 8

// UpdateTrackSettings is the client's message on how it shows tracks that it is
// subscribed to.
func (c *Client) UpdateTrackSettings(req *livekit.UpdateTrackSettings) {
	c.post(func(_ *Room, p *Participant) {
		p.payPart(time.Now(), paceInterval/settingsOfAChange*time.Duration(len(req.GetTrackSids())))
		if p.peer != nil {
			p.peer.SetTrackSettings(req.GetTrackSids(), TrackSettings{
				Disabled: req.GetDisabled(), Quality: req.GetQuality(),
				Width: req.GetWidth(), Height: req.GetHeight(), FPS: req.GetFps(), Priority: req.GetPriority(),
			})
		}
	})
}

// want records a request and acts on it, and returns of how many subscriptions there was
// something to do. A request for a track that does not exist yet is kept until the track
// comes, within a bound.
func (r *Room) want(q *Participant, sids []string, on bool) (done int) {
	const mostAhead = 1000 // requests for tracks that do not exist yet
	media := 0
	for _, sid := range sids {
		t, data := r.tracks[sid], r.dataTracks[sid]
		if t == nil && data == nil && len(q.wanted) >= mostAhead {
			continue
		}
		q.wanted[sid] = on
		if data != nil {
			delete(data.denied, q.identity)
			if r.considerData(q, data) {
				done++
			}
		}
		if t != nil {
			delete(t.denied, q.identity) // so that a repeated request is answered again
			if r.consider(q, t) {
				media++
			}
		}
	}
	if !on && media > 0 {
		r.considerWaiting(q)
	}
	return done + media
}

// SetSubscriptionPermission sets which participants may subscribe to a publisher's
// tracks, also in the rooms that it is forwarded to. It counts against the client's pace
// once for each track, because each change goes to all participants, and a client that
// gets more than it can read is cut off.
func (c *Client) SetSubscriptionPermission(perm *livekit.SubscriptionPermission) {
	c.post(func(r *Room, p *Participant) {
		now := time.Now()
		p.pay(now)
		for _, t := range r.tracks {
			if t.publisher == p {
				p.pay(now)
			}
		}
		for range p.dataTracks {
			p.pay(now)
		}
		r.permit(p, newAudience(perm))
		r.mirror(p)
	})
}

// permit sets p's subscription permission. Subscribers for which nothing changes are not
// touched.
func (r *Room) permit(p *Participant, may *audience) {
	before := p.permissions
	p.permissions = may
	if before == may {
		return
	}
	var own []*track
	for _, t := range r.tracks {
		if t.publisher == p {
			own = append(own, t)
		}
	}
	for _, q := range r.participants {
		lost := false
		for _, t := range own {
			had, has := before.permit(q, t.info.Sid), may.permit(q, t.info.Sid)
			if had != has {
				r.consider(q, t)
			}
			lost = lost || had && !has
		}
		if lost {
			r.considerWaiting(q)
		}
	}
	for _, t := range p.dataTracks {
		for _, q := range r.participants {
			if before.permit(q, t.info.Sid) != may.permit(q, t.info.Sid) {
				r.considerData(q, t)
			}
		}
	}
}

// Subscribed is called by the peer: its subscription to the track works.
func (c *Client) Subscribed(trackSID string) {
	c.post(func(r *Room, p *Participant) {
		t := r.tracks[trackSID]
		if t == nil || t.announced {
			return
		}
		t.announced = true
		t.publisher.outlet.Send(NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_TrackSubscribed{
			TrackSubscribed: &livekit.TrackSubscribed{TrackSid: trackSID},
		}}))
	})
}

// SubscriptionFailed is called by the peer: it cannot forward the track.
func (c *Client) SubscriptionFailed(trackSID string, why livekit.SubscriptionError) {
	c.post(func(r *Room, p *Participant) {
		if t := r.tracks[trackSID]; t != nil {
			delete(t.subscribers, p.identity)
			delete(p.subscribed, trackSID)
			p.wanted[trackSID] = false
			if p.peer != nil {
				p.peer.Unsubscribe(trackSID) // it may have been subscribed again meanwhile
			}
			r.considerWaiting(p)
		}
		p.outlet.Send(NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_SubscriptionResponse{
			SubscriptionResponse: &livekit.SubscriptionResponse{TrackSid: trackSID, Err: why},
		}}))
	})
}
