package rooms

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"

	"parlor/rooms/guid"
	"parlor/rooms/log"
)

// track is a published track. It belongs to its room's goroutine.
type track struct {
	publisher   *Participant
	media       MediaTrack
	info        *livekit.TrackInfo      // replaced, never changed
	subscribers map[string]*Participant // by identity
	denied      map[string]*Participant // by identity: participants that were told that they may not subscribe
	announced   bool                    // the publisher was told of its first subscriber
	// mutedByOther: the last mute or unmute was another's, and the publisher's client has
	// not sent one since. The client may not know of it.
	mutedByOther bool
}

// AddTrack is the client's request to publish a track.
func (c *Client) AddTrack(req *livekit.AddTrackRequest) {
	c.post(func(r *Room, p *Participant) { r.addTrack(p, req) })
}

func (r *Room) addTrack(p *Participant, req *livekit.AddTrackRequest) {
	if has := r.announcedAs(p, req.Sid); has != nil && req.Source == livekit.TrackSource_UNKNOWN && req.Type == livekit.TrackType_AUDIO {
		// Clients that leave both at their defaults only name the track by its SID.
		req = proto.CloneOf(req)
		req.Source, req.Type = has.Source, has.Type
	}
	refuse := func(why livekit.RequestResponse_Reason, msg string) { p.refuseTrack(req, why, msg) }
	if why := unreasonable(req); why != "" {
		refuse(livekit.RequestResponse_LIMIT_EXCEEDED, why)
		return
	}
	if req.Type != livekit.TrackType_AUDIO && req.Type != livekit.TrackType_VIDEO {
		refuse(livekit.RequestResponse_UNSUPPORTED_TYPE, "only audio and video tracks can be published")
		return
	}
	if q, known := knownQualities(req); !known {
		refuse(livekit.RequestResponse_UNSUPPORTED_TYPE, fmt.Sprintf("%d is no quality of a layer", q))
		return
	}
	if _, known := livekit.TrackSource_name[int32(req.Source)]; !known {
		refuse(livekit.RequestResponse_UNSUPPORTED_TYPE, "the source is not known")
		return
	}
	if !mayPublish(p.info.GetPermission(), req.Source, req.Type) {
		refuse(livekit.RequestResponse_NOT_ALLOWED, "does not have permission to publish this source")
		return
	}
	if req.Sid != "" {
		r.addCodec(p, req, refuse)
		return
	}
	if info := p.pendingTracks[p.pendingCIDs[req.Cid]]; info != nil && info.Type == req.Type && info.Source == req.Source {
		// The track is announced already and not yet sent. The client may ask again, for
		// example because it gave up before the answer came.
		info = proto.CloneOf(info)
		info.Muted = req.Muted
		if muted, decided := p.mutedEarly[info.Sid]; decided {
			info.Muted = muted
		}
		p.setPending(info)
		p.askedAgain[info.Sid] = req
		p.tellAnnounced(req.Cid, info)
		return
	} else if info != nil {
		refuse(livekit.RequestResponse_INVALID_REQUEST, "a track of another kind or source is announced with this cid")
		return
	}
	const mostPending = 64 // a client that announces and never sends must not fill the server's memory
	_, queued := p.queued[req.Cid]
	if len(p.pendingTracks)+len(p.queued) >= mostPending && !queued {
		refuse(livekit.RequestResponse_LIMIT_EXCEEDED, "too many tracks are announced and not sent")
		return
	}
	if len(p.pendingTracks)+len(p.info.Tracks) >= mostTracks {
		refuse(livekit.RequestResponse_LIMIT_EXCEEDED, fmt.Sprintf("a participant can publish %d tracks", mostTracks))
		return
	}
	if r.hasCID(p, req.Cid) {
		refuse(livekit.RequestResponse_QUEUED, "a track with this cid is being published")
		now := time.Now()
		p.queued[req.Cid] = queuedTrack{req, now.Add(queuedFor)}
		r.setAlarm(alarmQueued, now.Add(queuedFor))
		return
	}
	info := newTrackInfo(req)
	p.pendingTracks[info.Sid] = info
	p.pendingCIDs[req.Cid] = info.Sid
	if p.peer != nil {
		p.peer.AddTrack(announcement(req), info)
	}
	p.tellAnnounced(req.Cid, info)
}

// announcement is the part of req that a peer needs.
func announcement(req *livekit.AddTrackRequest) Announcement {
	a := Announcement{CID: req.Cid, DisableRED: req.DisableRed, Backup: req.BackupCodecPolicy}
	for _, c := range req.SimulcastCodecs {
		a.Codecs = append(a.Codecs, AnnouncedCodec{Codec: c.GetCodec(), CID: c.GetCid()})
	}
	return a
}

// setPending replaces the info of an announced track that is not negotiated yet.
func (p *Participant) setPending(info *livekit.TrackInfo) {
	p.pendingTracks[info.Sid] = info
	if p.peer != nil {
		p.peer.UpdateTrack(info)
	}
}

// tellAnnounced tells the client that it may send the track now.
func (p *Participant) tellAnnounced(cid string, info *livekit.TrackInfo) {
	p.outlet.Send(NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_TrackPublished{
		TrackPublished: &livekit.TrackPublishedResponse{Cid: cid, Track: info},
	}}))
}

// queuedTrack is a track that the client announced while a track with the same cid was
// still published. It is announced when that one ends.
type queuedTrack struct {
	req *livekit.AddTrackRequest
	// until is when the client is told that the wait was in vain. Its SDK has given up by
	// then.
	until time.Time
}

const queuedFor = 30 * time.Second

// dequeue announces p's queued tracks whose cids are free now.
func (r *Room) dequeue(p *Participant) {
	for cid, q := range p.queued {
		if !r.hasCID(p, cid) {
			delete(p.queued, cid)
			r.addTrack(p, q.req)
		}
	}
}

// endQueues answers the requests of queued tracks that have waited too long.
func (r *Room) endQueues(now time.Time) {
	for _, p := range r.participants {
		for cid, q := range p.queued {
			if now.Before(q.until) {
				r.setAlarm(alarmQueued, q.until)
				continue
			}
			delete(p.queued, cid)
			p.refuseTrack(q.req, livekit.RequestResponse_UNCLASSIFIED_ERROR, "the track that has this cid has not ended")
		}
	}
}

func (p *Participant) refuseTrack(req *livekit.AddTrackRequest, why livekit.RequestResponse_Reason, msg string) {
	p.outlet.Send(NewMessage(requestResponse(&livekit.RequestResponse{
		Reason: why, Message: msg,
		Request: &livekit.RequestResponse_AddTrack{AddTrack: req},
	})))
}

// announcedAs is p's published or announced track of that SID; nil if there is none.
func (r *Room) announcedAs(p *Participant, sid string) *livekit.TrackInfo {
	if t := r.tracks[sid]; t != nil && t.publisher == p {
		return t.info
	}
	return p.pendingTracks[sid]
}

// addCodec announces a further codec of a published or announced track.
func (r *Room) addCodec(p *Participant, req *livekit.AddTrackRequest, refuse func(livekit.RequestResponse_Reason, string)) {
	info := r.announcedAs(p, req.Sid)
	if info == nil {
		refuse(livekit.RequestResponse_NOT_FOUND, "no such track")
		return
	}
	if info.Type != req.Type {
		refuse(livekit.RequestResponse_UNSUPPORTED_TYPE, "the track is of another kind")
		return
	}
	p.pay(time.Now())
	info = proto.CloneOf(info)
	for _, c := range req.SimulcastCodecs {
		info.Codecs = withCodec(info.Codecs, codecInfo(c, req))
	}
	if len(info.Codecs) > mostCodecs {
		refuse(livekit.RequestResponse_LIMIT_EXCEEDED, fmt.Sprintf("a track can have %d codecs", mostCodecs))
		return
	}
	if t := r.tracks[req.Sid]; t != nil {
		t.info = info
	} else {
		p.pendingTracks[req.Sid] = info
	}
	if p.peer != nil {
		p.peer.AddTrack(announcement(req), info)
	}
	p.tellAnnounced(req.Cid, info)
}

// withCodec adds c. If an entry for that codec exists without a cid, c replaces it: some
// clients give a backup codec's cid only when they send it.
func withCodec(codecs []*livekit.SimulcastCodecInfo, c *livekit.SimulcastCodecInfo) []*livekit.SimulcastCodecInfo {
	for i, have := range codecs {
		if i > 0 && c.Cid != "" && (have.Cid == "" || have.Cid == c.Cid) && strings.EqualFold(have.MimeType, c.MimeType) {
			codecs[i] = c
			return codecs
		}
	}
	return append(codecs, c)
}

// hasCID reports whether p publishes a track that was announced with that cid.
func (r *Room) hasCID(p *Participant, cid string) bool {
	for _, t := range r.tracks {
		if t.publisher == p && t.hasCID(cid) {
			return true
		}
	}
	return false
}

func (t *track) hasCID(cid string) bool {
	for _, c := range t.info.Codecs {
		if c.Cid == cid {
			return true
		}
	}
	return false
}

// mayPublish reports whether perm has canPublish, and allows the source if it names any. Of
// a source that does not belong to the kind it must allow the one that does, too, so that a
// right to speak is none to be seen.
func mayPublish(perm *livekit.ParticipantPermission, src livekit.TrackSource, kind livekit.TrackType) bool {
	if !perm.GetCanPublish() {
		return false
	}
	allowed := perm.CanPublishSources
	return len(allowed) == 0 || slices.Contains(allowed, src) && slices.Contains(allowed, sourceOf(src, kind))
}

// newTrackInfo makes the TrackInfo of an announced track. Its SID shows kind and source,
// as LiveKit's SIDs do.
func newTrackInfo(req *livekit.AddTrackRequest) *livekit.TrackInfo {
	kind := "A"
	if req.Type == livekit.TrackType_VIDEO {
		kind = "V"
	}
	source := map[livekit.TrackSource]string{
		livekit.TrackSource_CAMERA:             "C",
		livekit.TrackSource_MICROPHONE:         "M",
		livekit.TrackSource_SCREEN_SHARE:       "S",
		livekit.TrackSource_SCREEN_SHARE_AUDIO: "s",
	}[req.Source]
	stream := req.Stream
	if stream == "" {
		switch req.Source {
		case livekit.TrackSource_CAMERA, livekit.TrackSource_MICROPHONE:
			stream = "camera"
		case livekit.TrackSource_SCREEN_SHARE, livekit.TrackSource_SCREEN_SHARE_AUDIO:
			stream = "screen"
		default:
			stream = "unknown"
		}
	}
	info := &livekit.TrackInfo{
		Sid:                   guid.New("TR_" + kind + source),
		Type:                  req.Type,
		Name:                  req.Name,
		Muted:                 req.Muted,
		Width:                 req.Width,
		Height:                req.Height,
		Source:                req.Source,
		Layers:                req.Layers, // older clients read the layers here
		DisableDtx:            req.DisableDtx,
		Stereo:                req.Stereo,
		DisableRed:            req.DisableRed,
		Encryption:            req.Encryption,
		Stream:                stream,
		AudioFeatures:         audioFeatures(req),
		BackupCodecPolicy:     backupCodecPolicy(req),
		PacketTrailerFeatures: req.PacketTrailerFeatures,
		Version:               &livekit.TimedVersion{UnixMicro: time.Now().UnixMicro()},
	}
	for i, c := range req.SimulcastCodecs {
		entry := codecInfo(c, req)
		if i > 0 {
			entry.Cid = c.Cid // "" until the client sends this codec and announces it again
		}
		info.Codecs = append(info.Codecs, entry)
	}
	if len(info.Codecs) == 0 {
		info.Codecs = []*livekit.SimulcastCodecInfo{{Cid: req.Cid, Layers: req.Layers}}
	}
	return info
}

func codecInfo(c *livekit.SimulcastCodec, req *livekit.AddTrackRequest) *livekit.SimulcastCodecInfo {
	mime := strings.ToLower(c.Codec)
	if mime != "" && !strings.Contains(mime, "/") {
		mime = strings.ToLower(req.Type.String()) + "/" + mime
	}
	layers := c.Layers
	if len(layers) == 0 {
		layers = req.Layers
	}
	cid := c.Cid
	if cid == "" {
		cid = req.Cid
	}
	return &livekit.SimulcastCodecInfo{MimeType: mime, Cid: cid, Layers: layers, VideoLayerMode: c.VideoLayerMode}
}

// backupCodecPolicy is the policy in req. Audio codecs are sent side by side unless req
// asks for something else: PREFER_REGRESSION is the zero value.
func backupCodecPolicy(req *livekit.AddTrackRequest) livekit.BackupCodecPolicy {
	if req.Type == livekit.TrackType_AUDIO && req.BackupCodecPolicy == livekit.BackupCodecPolicy_PREFER_REGRESSION {
		return livekit.BackupCodecPolicy_SIMULCAST
	}
	return req.BackupCodecPolicy
}

// audioFeatures combines req's new and old fields for the features.
func audioFeatures(req *livekit.AddTrackRequest) []livekit.AudioTrackFeature {
	f := append([]livekit.AudioTrackFeature(nil), req.AudioFeatures...)
	add := func(on bool, feature livekit.AudioTrackFeature) {
		for _, have := range f {
			if have == feature {
				return
			}
		}
		if on {
			f = append(f, feature)
		}
	}
	add(req.Stereo, livekit.AudioTrackFeature_TF_STEREO)
	add(req.DisableDtx, livekit.AudioTrackFeature_TF_NO_DTX)
	return f
}

// TrackPublished is called by the peer: a section of an announced track is negotiated.
func (c *Client) TrackPublished(media MediaTrack, facts TrackFacts) {
	c.post(func(r *Room, p *Participant) { r.trackPublished(p, media, facts) })
}

func (r *Room) trackPublished(p *Participant, media MediaTrack, facts TrackFacts) {
	sid := media.SID()
	t, pending := r.tracks[sid], p.pendingTracks[sid]
	switch {
	case t != nil && t.publisher == p:
		r.editTrack(t, facts.complete)
		if t.media != media {
			r.replaceMedia(t, media)
		}
		r.changed(p)
	case t != nil: // another participant's track
	case pending == nil:
		p.peer.RemoveTrack(sid)
	default:
		r.publish(p, media, facts.Complete(pending))
	}
}

// publish makes media a track of p with that info. A hold may mute it.
func (r *Room) publish(p *Participant, media MediaTrack, info *livekit.TrackInfo) {
	if !mayPublish(p.info.GetPermission(), info.Source, info.Type) {
		p.peer.RemoveTrack(info.Sid)
		return
	}
	now := time.Now()
	info = proto.CloneOf(info)
	info.Version = &livekit.TimedVersion{UnixMicro: now.UnixMicro()}
	held := !info.Muted && r.held(p, info)
	if held {
		info.Muted = true
		p.tellMuted(info.Sid, true)
		r.tellHeld(p)
	}
	muted, decided := p.mutedEarly[info.Sid]
	if decided && !held {
		p.tellMuted(info.Sid, muted) // its client may not have known the track yet
	}
	r.forgetPending(p, info.Sid)
	t := &track{
		publisher: p, media: media, mutedByOther: held || decided,
		subscribers: make(map[string]*Participant), denied: make(map[string]*Participant),
	}
	r.tracks[info.Sid] = t
	if !publishes(p.info) {
		r.rec.NumPublishers++
		r.setAlarm(alarmUpdate, now.Add(updateDelay))
	}
	p.info.IsPublisher = true
	r.setInfo(t, info)
	r.changed(p, r.trackEvent(log.TrackPublished, p.info, info, now))
	if len(p.info.Tracks) == 1 {
		r.wantForTarget(p, livekit.JobType_JT_PUBLISHER)
	}
	if info.Type == livekit.TrackType_AUDIO {
		r.setAlarm(alarmSpeakers, now.Add(speakerInterval))
	}
	for _, q := range r.participants {
		r.consider(q, t)
	}
	r.log.Info("track published", "participant", p.identity, "track", info.Sid, "mime", info.MimeType)
}

// replaceMedia gives t new media, which has another codec, and subscribes its subscribers
// again.
func (r *Room) replaceMedia(t *track, media MediaTrack) {
	t.media = media
	for _, q := range t.subscribers {
		if q.peer != nil {
			q.peer.Unsubscribe(t.info.Sid)
		}
		delete(q.subscribed, t.info.Sid)
	}
	clear(t.subscribers)
	for _, q := range r.participants {
		r.consider(q, t)
	}
}

// setInfo replaces t's info, also in its publisher's info, and tells the publisher's
// peer.
func (r *Room) setInfo(t *track, info *livekit.TrackInfo) {
	t.info = info
	if t.publisher.peer != nil {
		t.publisher.peer.UpdateTrack(info)
	}
	tracks := make([]*livekit.TrackInfo, 0, len(t.publisher.info.Tracks)+1)
	found := false
	for _, have := range t.publisher.info.Tracks {
		if have.Sid == info.Sid {
			have, found = info, true
		}
		tracks = append(tracks, have)
	}
	if !found {
		tracks = append(tracks, info)
	}
	t.publisher.info.Tracks = tracks
}

// TrackUnpublished is called by the peer: the track's section has ended.
func (c *Client) TrackUnpublished(trackSID string) {
	c.post(func(r *Room, p *Participant) {
		if t := r.tracks[trackSID]; t != nil && t.publisher == p {
			r.unpublish(t)
			return
		}
		req, info := p.askedAgain[trackSID], p.pendingTracks[trackSID]
		if req == nil || info == nil {
			r.forgetPending(p, trackSID)
			return
		}
		// The earlier section has ended, but the client was told since that it may send
		// this track.
		delete(p.askedAgain, trackSID)
		if p.peer != nil {
			p.peer.AddTrack(announcement(req), info)
		}
	})
}

func (r *Room) forgetPending(p *Participant, trackSID string) {
	delete(p.pendingTracks, trackSID)
	delete(p.askedAgain, trackSID)
	delete(p.mutedEarly, trackSID)
	for cid, sid := range p.pendingCIDs {
		if sid == trackSID {
			delete(p.pendingCIDs, cid)
		}
	}
}

// withdraw ends all subscriptions to t, and returns the subscribers.
func (r *Room) withdraw(t *track) []*Participant {
	had := slices.Collect(maps.Values(t.subscribers))
	for _, q := range t.subscribers {
		if q.peer != nil {
			q.peer.Unsubscribe(t.info.Sid)
		}
		delete(q.subscribed, t.info.Sid)
	}
	for _, q := range r.participants {
		delete(q.wanted, t.info.Sid)
	}
	clear(t.subscribers)
	clear(t.denied)
	return had
}

// unpublish ends t, as a fact.
func (r *Room) unpublish(t *track) {
	p := t.publisher
	had := r.withdraw(t)
	delete(r.tracks, t.info.Sid)
	for _, q := range had {
		r.considerWaiting(q)
	}
	kept := make([]*livekit.TrackInfo, 0, len(p.info.Tracks))
	for _, have := range p.info.Tracks {
		if have.Sid != t.info.Sid {
			kept = append(kept, have)
		}
	}
	p.info.Tracks = kept
	now := time.Now()
	if !publishes(p.info) {
		r.rec.NumPublishers--
		r.setAlarm(alarmUpdate, now.Add(updateDelay))
	}
	r.changed(p, r.trackEvent(log.TrackUnpublished, p.info, t.info, now))
	r.log.Info("track unpublished", "participant", p.identity, "track", t.info.Sid)
	r.dequeue(p)
}

// revoke ends a track against its publisher's will and tells the publisher's client.
func (r *Room) revoke(t *track) {
	if t.publisher.peer != nil {
		t.publisher.peer.RemoveTrack(t.info.Sid)
	}
	t.publisher.outlet.Send(NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_TrackUnpublished{
		TrackUnpublished: &livekit.TrackUnpublishedResponse{TrackSid: t.info.Sid},
	}}))
	r.unpublish(t)
}

// Mute is the client's mute or unmute of a track of its own.
func (c *Client) Mute(req *livekit.MuteTrackRequest) {
	c.post(func(r *Room, p *Participant) {
		if info := p.pendingTracks[req.Sid]; info != nil {
			info = proto.CloneOf(info)
			info.Muted = req.Muted
			delete(p.mutedEarly, req.Sid)
			p.setPending(info)
			return
		}
		t := r.tracks[req.Sid]
		if t == nil || t.publisher != p {
			p.outlet.Send(NewMessage(requestResponse(&livekit.RequestResponse{
				Reason: livekit.RequestResponse_NOT_FOUND, Message: "no such track",
				Request: &livekit.RequestResponse_Mute{Mute: req},
			})))
			return
		}
		if !req.Muted && r.held(p, t.info) {
			p.outlet.Send(NewMessage(requestResponse(&livekit.RequestResponse{
				Reason: livekit.RequestResponse_NOT_ALLOWED, Message: "a moderator keeps this muted",
				Request: &livekit.RequestResponse_Mute{Mute: req},
			})))
			p.tellMuted(req.Sid, true) // its client has already unmuted it
			r.tellHeld(p)
			return
		}
		t.mutedByOther = false
		r.mute(t, req.Muted)
	})
}

// mute sets t's muted state, and announces and writes the change.
func (r *Room) mute(t *track, muted bool) {
	if t.info.Muted == muted {
		return
	}
	r.editTrack(t, func(info *livekit.TrackInfo) { info.Muted = muted })
	for cid, q := range t.publisher.queued { // to the client a queued track with this cid is the same track
		if t.hasCID(cid) {
			q.req = proto.CloneOf(q.req)
			q.req.Muted = muted
			t.publisher.queued[cid] = q
		}
	}
	typ := log.TrackUnmuted
	if muted {
		typ = log.TrackMuted
	}
	r.changed(t.publisher, r.trackEvent(typ, t.publisher.info, t.info, time.Now()))
}

// editTrack replaces t's info by an edited copy.
func (r *Room) editTrack(t *track, edit func(*livekit.TrackInfo)) {
	info := proto.CloneOf(t.info)
	edit(info)
	info.Version = &livekit.TimedVersion{UnixMicro: time.Now().UnixMicro()}
	r.setInfo(t, info)
}

// UpdateLocalAudioTrack sets the features of a published audio track.
func (c *Client) UpdateLocalAudioTrack(req *livekit.UpdateLocalAudioTrack) {
	c.editOwn(req.TrackSid, livekit.TrackType_AUDIO, req.Features, &livekit.RequestResponse{
		Request: &livekit.RequestResponse_UpdateAudioTrack{UpdateAudioTrack: req},
	}, func(info *livekit.TrackInfo) {
		info.AudioFeatures = req.Features
		info.Stereo, info.DisableDtx = false, false
		for _, f := range req.Features {
			info.Stereo = info.Stereo || f == livekit.AudioTrackFeature_TF_STEREO
			info.DisableDtx = info.DisableDtx || f == livekit.AudioTrackFeature_TF_NO_DTX
		}
	})
}

// UpdateLocalVideoTrack sets the size of a published video track.
func (c *Client) UpdateLocalVideoTrack(req *livekit.UpdateLocalVideoTrack) {
	c.editOwn(req.TrackSid, livekit.TrackType_VIDEO, nil, &livekit.RequestResponse{
		Request: &livekit.RequestResponse_UpdateVideoTrack{UpdateVideoTrack: req},
	}, func(info *livekit.TrackInfo) { scale(info, req.Width, req.Height) })
}

// scale sets a track's size, and that of its layers in proportion.
func scale(info *livekit.TrackInfo, width, height uint32) {
	oldWidth, oldHeight := info.Width, info.Height
	info.Width, info.Height = width, height
	if width == 0 || height == 0 || oldWidth == 0 || oldHeight == 0 {
		return
	}
	lists := [][]*livekit.VideoLayer{info.Layers}
	for _, c := range info.Codecs {
		lists = append(lists, c.Layers)
	}
	for _, layers := range lists {
		for _, l := range layers {
			l.Width = uint32(uint64(l.Width) * uint64(width) / uint64(oldWidth))
			l.Height = uint32(uint64(l.Height) * uint64(height) / uint64(oldHeight))
		}
	}
}

func (c *Client) editOwn(
	sid string, kind livekit.TrackType, features []livekit.AudioTrackFeature,
	resp *livekit.RequestResponse, edit func(*livekit.TrackInfo),
) {
	c.post(func(r *Room, p *Participant) {
		t, pending := r.tracks[sid], p.pendingTracks[sid]
		if (t != nil || pending != nil) && len(features) > mostFeatures {
			resp.Reason, resp.Message = livekit.RequestResponse_LIMIT_EXCEEDED, fmt.Sprintf("a track can have %d features", mostFeatures)
			p.outlet.Send(NewMessage(requestResponse(resp)))
			return
		}
		if pending != nil && pending.Type == kind {
			pending = proto.CloneOf(pending)
			edit(pending)
			p.setPending(pending)
			return
		}
		if t == nil || t.publisher != p || t.info.Type != kind {
			resp.Reason, resp.Message = livekit.RequestResponse_NOT_FOUND, "no such track"
			p.outlet.Send(NewMessage(requestResponse(resp)))
			return
		}
		r.editTrack(t, edit)
		r.changed(p)
	})
}
