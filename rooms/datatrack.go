package rooms

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/datatrack"
	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"

	"parlor/rooms/guid"
)

// Bounds of data tracks, beside those of [Limits].
const (
	mostDataTracks        = 64   // of a participant; all are told to everybody, again with each change
	mostDataSubscriptions = 1024 // of a participant, which is told of all again with each change
	longestDataTrackName  = 256  // bytes; of a schema, too
)

// dataTrack is a published data track. It belongs to its room's goroutine.
type dataTrack struct {
	publisher   *Participant
	info        *livekit.DataTrackInfo // never changed
	source      *dataSource
	subscribers map[string]dataSubscriber // by identity
	denied      map[string]*Participant   // by identity: told that they may not have it
}

// dataSubscriber is a participant that a data track goes to. Packets reach it under the
// handle that it was given for the track.
type dataSubscriber struct {
	p      *Participant
	handle uint16
}

// dataSource is where the packets of a data track come in. It is the same in all rooms in
// which the track is shown.
type dataSource struct {
	mu        sync.Mutex                     // held by the rooms' goroutines while they replace receivers
	receivers atomic.Pointer[[]dataReceiver] // what it points to is never changed
}

// dataReceiver is a subscriber as the publisher's goroutine needs it.
type dataReceiver struct {
	to     *Participant
	room   *Room // in which it is subscribed
	handle uint16
}

func newDataSource() *dataSource {
	s := &dataSource{}
	s.receivers.Store(&[]dataReceiver{})
	return s
}

// add makes r a receiver.
func (s *dataSource) add(r dataReceiver) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := *s.receivers.Load()
	now := append(make([]dataReceiver, 0, len(before)+1), before...)
	now = append(now, r)
	s.receivers.Store(&now)
}

// drop ends the receivers of r; all of its, or that of p alone if p is not nil.
func (s *dataSource) drop(r *Room, p *Participant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := *s.receivers.Load()
	now := make([]dataReceiver, 0, len(before))
	for _, have := range before {
		if have.room != r || p != nil && have.to != p {
			now = append(now, have)
		}
	}
	s.receivers.Store(&now)
}

// DataTrack is for the peer: its client sent a packet of a data track. It is brought to
// its receivers on the caller's goroutine, so that a client cannot send faster than
// that. packet is the callee's until the call returns.
func (c *Client) DataTrack(packet []byte) {
	p := c.at.Load()
	at := p.mayPublishData()
	if at == nil {
		return
	}
	var read datatrack.Packet
	if err := read.Unmarshal(packet); err != nil {
		p.room.rooms.dataTrackMalformed.Add(1)
		return
	}
	source := at.dataSources[read.Handle]
	if source == nil { // it was not published, or has just been unpublished
		p.room.rooms.dataTrackUnknown.Add(1)
		return
	}
	for _, r := range *source.receivers.Load() {
		if to := r.to.attending(); to != nil {
			binary.BigEndian.PutUint16(packet[2:4], r.handle)
			to.peer.SendDataTrack(packet)
		}
	}
}

// PublishDataTrack is the client's wish to publish a data track.
func (c *Client) PublishDataTrack(req *livekit.PublishDataTrackRequest) {
	c.post(func(r *Room, p *Participant) {
		if why, message := r.refusedDataTrack(p, req); message != "" {
			p.outlet.Send(NewMessage(requestResponse(&livekit.RequestResponse{
				Reason: why, Message: message,
				Request: &livekit.RequestResponse_PublishDataTrack{PublishDataTrack: req},
			})))
			return
		}
		info := &livekit.DataTrackInfo{
			PubHandle: req.PubHandle, Sid: guid.New("DTR_"), Name: req.Name, Encryption: req.Encryption,
			FrameEncoding: proto.CloneOf(req.FrameEncoding), Schema: proto.CloneOf(req.Schema),
		}
		p.outlet.Send(NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_PublishDataTrackResponse{
			PublishDataTrackResponse: &livekit.PublishDataTrackResponse{Info: info},
		}}))
		r.publishData(p, info, newDataSource())
	})
}

// refusedDataTrack is why p may not publish the data track; no message if it may.
func (r *Room) refusedDataTrack(p *Participant, req *livekit.PublishDataTrackRequest) (livekit.RequestResponse_Reason, string) {
	switch {
	case r.rooms.cfg.NoDataTracks:
		return livekit.RequestResponse_NOT_ALLOWED, "this server's configuration turns data tracks off"
	case !p.info.GetPermission().GetCanPublishData():
		return livekit.RequestResponse_NOT_ALLOWED, "does not have permission to publish data"
	case req.PubHandle == 0 || req.PubHandle > math.MaxUint16:
		return livekit.RequestResponse_INVALID_HANDLE, "a handle must be from 1 to 65535"
	case req.Name == "" || len(req.Name) > longestDataTrackName:
		return livekit.RequestResponse_INVALID_NAME, fmt.Sprintf("a data track's name must have from 1 to %d bytes", longestDataTrackName)
	case len(req.Schema.GetName()) > longestDataTrackName:
		return livekit.RequestResponse_INVALID_REQUEST, fmt.Sprintf("a schema's name can have %d bytes", longestDataTrackName)
	case !r.rooms.fitsEncoding(req.FrameEncoding.GetValue()) || !r.rooms.fitsEncoding(req.Schema.GetEncoding().GetValue()):
		return livekit.RequestResponse_INVALID_REQUEST, "the name of a custom encoding is empty or too long"
	case p.dataTracks[uint16(req.PubHandle)] != nil:
		return livekit.RequestResponse_DUPLICATE_HANDLE, "a data track with this handle is published already"
	case len(p.dataTracks) >= mostDataTracks:
		return livekit.RequestResponse_LIMIT_EXCEEDED, fmt.Sprintf("a participant can publish %d data tracks", mostDataTracks)
	}
	for _, t := range p.dataTracks {
		if t.info.Name == req.Name {
			return livekit.RequestResponse_DUPLICATE_NAME, "a data track with this name is published already"
		}
	}
	return 0, ""
}

// fitsEncoding reports whether an encoding, of frames or of a schema, is well known or has
// a name within the limit.
func (rs *Rooms) fitsEncoding(encoding any) bool {
	custom := ""
	switch e := encoding.(type) {
	case *livekit.DataTrackFrameEncoding_Custom:
		custom = e.Custom
	case *livekit.DataTrackSchemaEncoding_Custom:
		custom = e.Custom
	default:
		return true
	}
	most := rs.cfg.Limits.MaxCustomEncoding
	return custom != "" && (most == 0 || len(custom) <= most)
}

// publishData makes the packets that come in at source a data track of p's.
func (r *Room) publishData(p *Participant, info *livekit.DataTrackInfo, source *dataSource) {
	t := &dataTrack{
		publisher: p, info: info, source: source,
		subscribers: make(map[string]dataSubscriber), denied: make(map[string]*Participant),
	}
	r.dataTracks[info.Sid] = t
	if !publishes(p.info) {
		r.rec.NumPublishers++
		r.setAlarm(alarmUpdate, time.Now().Add(updateDelay))
	}
	if p.dataTracks == nil {
		p.dataTracks = make(map[uint16]*dataTrack)
	}
	p.dataTracks[uint16(info.PubHandle)] = t
	p.info.IsPublisher = true
	p.info.DataTracks = append(append([]*livekit.DataTrackInfo(nil), p.info.DataTracks...), info)
	r.listSources(p)
	r.payData(p)
	r.changed(p) // before its subscribers are told of their handles
	for _, q := range r.participants {
		r.considerData(q, t)
	}
	r.log.Info("data track published", "participant", p.identity, "track", info.Sid)
}

// payData counts a change of p's data tracks against its pace by what it costs: each tells
// everybody of all of them.
func (r *Room) payData(p *Participant) {
	for range len(p.dataTracks) / 16 {
		p.pay(time.Now())
	}
}

// publishes reports whether a participant counts as a publisher.
func publishes(info *livekit.ParticipantInfo) bool {
	return len(info.GetTracks())+len(info.GetDataTracks()) > 0
}

// listSources has data know what p publishes.
func (r *Room) listSources(p *Participant) {
	p.dataSources = make(map[uint16]*dataSource, len(p.dataTracks))
	for handle, t := range p.dataTracks {
		p.dataSources[handle] = t.source
	}
	if p.presence.Load() != nil {
		r.present(p)
	}
}

// UnpublishDataTrack is the client's wish to end a data track of its own.
func (c *Client) UnpublishDataTrack(req *livekit.UnpublishDataTrackRequest) {
	c.post(func(r *Room, p *Participant) {
		var t *dataTrack
		if req.PubHandle <= math.MaxUint16 {
			t = p.dataTracks[uint16(req.PubHandle)]
		}
		if t == nil {
			p.outlet.Send(NewMessage(requestResponse(&livekit.RequestResponse{
				Reason: livekit.RequestResponse_NOT_FOUND, Message: "no data track has this handle",
				Request: &livekit.RequestResponse_UnpublishDataTrack{UnpublishDataTrack: req},
			})))
			return
		}
		r.unpublishData(t)
	})
}

// unpublishData ends t, and tells its publisher's client: a fact.
func (r *Room) unpublishData(t *dataTrack) {
	p := t.publisher
	r.withdrawData(t)
	delete(p.dataTracks, uint16(t.info.PubHandle))
	kept := make([]*livekit.DataTrackInfo, 0, len(p.info.DataTracks))
	for _, have := range p.info.DataTracks {
		if have.Sid != t.info.Sid {
			kept = append(kept, have)
		}
	}
	p.info.DataTracks = kept
	if !publishes(p.info) {
		r.rec.NumPublishers--
		r.setAlarm(alarmUpdate, time.Now().Add(updateDelay))
	}
	r.listSources(p)
	p.outlet.Send(NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_UnpublishDataTrackResponse{
		UnpublishDataTrackResponse: &livekit.UnpublishDataTrackResponse{Info: t.info},
	}}))
	r.payData(p)
	r.changed(p)
	r.log.Info("data track unpublished", "participant", p.identity, "track", t.info.Sid)
}

// withdrawData takes t out of the room, and from its subscribers.
func (r *Room) withdrawData(t *dataTrack) {
	t.source.drop(r, nil)
	for _, s := range t.subscribers {
		delete(s.p.dataHandles, s.handle)
		r.handlesChanged(s.p)
	}
	clear(t.subscribers)
	clear(t.denied)
	for _, q := range r.participants {
		delete(q.wanted, t.info.Sid)
	}
	delete(r.dataTracks, t.info.Sid)
}

// withdrawDataOf ends the data tracks of p, which goes, and those that it receives.
func (r *Room) withdrawDataOf(p *Participant) {
	for _, t := range p.dataTracks {
		r.withdrawData(t)
	}
	for _, t := range p.dataHandles {
		r.endDataTo(p, t)
	}
	for _, t := range r.dataTracks {
		delete(t.denied, p.identity)
	}
	delete(r.untold, p)
}

// considerData is [Room.consider] for a data track.
func (r *Room) considerData(q *Participant, t *dataTrack) bool {
	p := t.publisher
	if p == q || q.peer == nil || q.ended.Load() {
		return false
	}
	sid := t.info.Sid
	explicit, has := q.wanted[sid]
	wants := explicit || (!has && q.autoData)
	may := q.info.GetPermission().GetCanSubscribe()
	allowed := p.permissions.permit(q, sid)
	_, on := t.subscribers[q.identity]
	switch {
	case wants && may && allowed && !on:
		if len(q.dataHandles) >= mostDataSubscriptions {
			q.wanted[sid] = false
			q.outlet.Send(NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_SubscriptionResponse{
				SubscriptionResponse: &livekit.SubscriptionResponse{TrackSid: sid, Err: livekit.SubscriptionError_SE_UNKNOWN},
			}}))
			return true
		}
		handle := q.newDataHandle()
		q.dataHandles[handle] = t
		t.subscribers[q.identity] = dataSubscriber{q, handle}
		delete(t.denied, q.identity)
		t.source.add(dataReceiver{q, r, handle})
		r.tellPermission(q, p, sid, true)
		r.handlesChanged(q)
	case on && !(wants && may && allowed):
		r.endDataTo(q, t)
		if !allowed || !may {
			r.denyData(q, t)
		}
	case wants && may && !allowed && t.denied[q.identity] != q:
		r.denyData(q, t)
	default:
		return false
	}
	return true
}

// endDataTo ends the subscription that q has to t.
func (r *Room) endDataTo(q *Participant, t *dataTrack) {
	t.source.drop(r, q)
	delete(q.dataHandles, t.subscribers[q.identity].handle)
	delete(t.subscribers, q.identity)
	r.handlesChanged(q)
}

// denyData tells q that it may not have t.
func (r *Room) denyData(q *Participant, t *dataTrack) {
	t.denied[q.identity] = q
	r.tellPermission(q, t.publisher, t.info.Sid, false)
}

// newDataHandle is a handle that p has no data track under. One that was in use lately
// comes last: packets of the track that had it may still be on their way.
func (p *Participant) newDataHandle() uint16 {
	if p.dataHandles == nil {
		p.dataHandles = make(map[uint16]*dataTrack)
	}
	for {
		p.lastDataHandle++
		if p.lastDataHandle != 0 && p.dataHandles[p.lastDataHandle] == nil {
			return p.lastDataHandle
		}
	}
}

// handlesChanged has q told of its handles when the room has done what it is asked at the
// moment: each time it is told of all of them.
func (r *Room) handlesChanged(q *Participant) { r.untold[q] = struct{}{} }

// tellHandles tells the subscribers of data tracks under which handles they get them.
func (r *Room) tellHandles() {
	for q := range r.untold {
		if q.ended.Load() || q.peer == nil {
			continue
		}
		handles := make(map[uint32]*livekit.DataTrackSubscriberHandles_PublishedDataTrack, len(q.dataHandles))
		for handle, t := range q.dataHandles {
			handles[uint32(handle)] = &livekit.DataTrackSubscriberHandles_PublishedDataTrack{
				PublisherIdentity: t.publisher.identity, PublisherSid: t.publisher.sid, TrackSid: t.info.Sid,
			}
		}
		q.outlet.Send(NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_DataTrackSubscriberHandles{
			DataTrackSubscriberHandles: &livekit.DataTrackSubscriberHandles{SubHandles: handles},
		}}))
	}
	clear(r.untold)
}

// UpdateDataSubscription is the client's wish to have or not to have data tracks.
func (c *Client) UpdateDataSubscription(req *livekit.UpdateDataSubscription) {
	c.post(func(r *Room, p *Participant) { r.wantData(p, req) })
}

// wantData records the wishes and acts on them. The last word on a track counts, so that
// one message changes a subscription once.
func (r *Room) wantData(p *Participant, req *livekit.UpdateDataSubscription) {
	wishes := make(map[string]bool, len(req.GetUpdates()))
	for _, u := range req.GetUpdates() {
		wishes[u.GetTrackSid()] = u.GetSubscribe()
	}
	done := 0
	for sid, on := range wishes {
		done += r.want(p, []string{sid}, on)
	}
	r.payAsked(p, len(req.GetUpdates()), done)
}

// repeatData tells p's client, which has resumed, of its data tracks.
func (r *Room) repeatData(p *Participant) {
	for sid, t := range r.dataTracks {
		if t.denied[p.identity] == p {
			allowed := p.info.GetPermission().GetCanSubscribe() && t.publisher.permissions.permit(p, sid)
			r.tellPermission(p, t.publisher, sid, allowed)
		}
	}
	if len(p.dataHandles) > 0 || p.lastDataHandle > 0 {
		r.handlesChanged(p)
	}
}

// dataReflection is a data track of another room.
type dataReflection struct {
	info   *livekit.DataTrackInfo
	source *dataSource
}

// reflectData makes s, a shadow in r, publish the data tracks of the participant that it
// is of.
func (r *Room) reflectData(s *Participant, tracks []dataReflection) {
	kept := make(map[string]bool, len(tracks))
	for _, k := range tracks {
		kept[k.info.Sid] = true
	}
	for _, t := range maps.Clone(s.dataTracks) {
		if !kept[t.info.Sid] {
			r.unpublishData(t)
		}
	}
	for _, k := range tracks {
		if r.dataTracks[k.info.Sid] == nil {
			r.publishData(s, k.info, k.source)
		}
	}
}
