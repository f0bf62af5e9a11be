package signal

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/reflect/protoreflect"

	"parlor/media"
	"parlor/rooms"
	"parlor/server/access"
)

const (
	tokenInterval = 5 * time.Minute
	tokenMinimum  = 10 * time.Minute
	// maxPlain bounds a message in bytes, except messages with a session description or
	// with metadata and attributes: LiveKit's limits allow these to be longer.
	maxPlain = 64 << 10
	// maxBehind bounds the bytes of messages that the session has read and the room may
	// not have handled yet.
	maxBehind = 1 << 20
	// A client may send messages that cost so many bytes of memory a second, and so many at once. A
	// few kilobytes may be sent that unpack to megabytes.
	inflow      = 2 << 20
	inflowBurst = 16 << 20
)

// session reads one WebSocket of a participant, on the goroutine of the HTTP request.
type session struct {
	h      *Handler
	outlet *outlet
	ws     *socket
	client *rooms.Client
	peer   *media.Peer
	claims *access.Claims
	opts   *options

	subscriberPrimary bool // as decided at the join

	begin func()      // begins negotiation, once; nil in a resumed session
	late  *time.Timer // calls begin if the client sends no message; nil if begin waits for nothing

}

// allowPause reports whether video may be paused when the bandwidth is too low. The
// client's setting takes precedence over the configuration.
func (s *session) allowPause() bool {
	if asked := s.opts.allowPause; asked != nil {
		return *asked
	}
	return s.h.cfg.AllowPause
}

// onlyTLS reports whether the client is offered only TURN over TLS.
func (s *session) onlyTLS(snap rooms.Snapshot) bool {
	return s.h.overTLS.holds(snap.Room.Name, s.client.Identity(), time.Now()) && s.h.cfg.Media.TURNOverTLS()
}

// iceServers returns the ICE servers for the client, with credentials of its own.
func (s *session) iceServers(snap rooms.Snapshot) []*livekit.ICEServer {
	return s.peer.ICEServers(s.claims.APIKey, s.onlyTLS(snap))
}

// clientConfiguration tells the client whether it must use a relay.
func (s *session) clientConfiguration(snap rooms.Snapshot) *livekit.ClientConfiguration {
	may := s.h.cfg.Devices.For(s.opts.client)
	c := may.Configuration()
	if s.h.cfg.Media.ForceRelay() || s.onlyTLS(snap) {
		c.ForceRelay = livekit.ClientConfigSetting_ENABLED
	}
	return c
}

// answerDelay is how long the answer to an offer that came with the join request
// waits for the client's first message.
const answerDelay = 200 * time.Millisecond

// start begins negotiation after a join: first the offer that came with the join request,
// then the server's own first offer.
//
// The Go SDK makes its offer before it joins, but takes it as its local
// description only after the join response: an earlier answer is lost, and the
// connection fails. The SDK's first candidate shows that it is ready. So the answer waits
// for the client's first message, at most for answerDelay.
func (s *session) start() {
	for _, req := range s.opts.addTracks {
		s.client.AddTrack(req)
	}
	if s.opts.offer == nil {
		s.peer.Start()
		return
	}
	s.begin = sync.OnceFunc(func() {
		s.client.After(func() {
			s.peer.HandleOffer(heard(s.opts.offer))
			s.peer.Start()
		})
	})
	s.late = time.AfterFunc(answerDelay, s.begin)
}

// run writes and reads the socket until it ends.
func (s *session) run() {
	gauge := s.h.metrics.connections.WithLabelValues(s.opts.mode())
	gauge.Inc()
	defer gauge.Dec()
	s.h.sessions.Go(s.ws.write)
	s.h.sessions.Go(s.refreshTokens)
	s.read()
	if s.late != nil {
		s.late.Stop()
	}
	s.ws.cut()
	if s.outlet.detach(s.ws) {
		s.client.SignalLost()
	}
}

// read handles messages until the socket ends or the participant has left.
func (s *session) read() {
	behind := int64(0) // bytes of the messages that the room may not have handled yet
	affords := rate.NewLimiter(inflow, inflowBurst)
	for n := 1; ; n++ {
		req, cost, err := s.next()
		if err != nil {
			return
		}
		if req != nil {
			if s.begin != nil {
				s.begin()
			}
			s.handle(req)
		}
		if behind += cost; n%32 == 0 || behind > maxBehind {
			behind = 0
			s.client.Sync() // a client that sends faster than its room takes it waits
		}
		if err := affords.WaitN(s.ws.done, int(min(cost, inflowBurst))); err != nil {
			return // the socket has ended
		}
		s.client.Pace(s.ws.done) // and so does one that changes faster than can be written
	}
}

// next reads one message and returns its cost in bytes of memory; req is nil for an empty
// frame and for a message that next has declined.
func (s *session) next() (req *livekit.SignalRequest, cost int64, err error) {
	typ, data, err := s.ws.conn.Read(s.ws.done)
	if err != nil {
		if websocket.CloseStatus(err) == websocket.StatusMessageTooBig || errors.Is(err, websocket.ErrMessageTooBig) {
			s.h.metrics.bad.WithLabelValues("too_big").Inc()
		}
		return nil, 0, err
	}
	s.ws.heard()
	s.ws.json.Store(typ == websocket.MessageText)
	if len(data) == 0 {
		return nil, 0, nil
	}
	req, cost, err = s.h.decoder.signalRequest(s.ws.done, data, typ == websocket.MessageText)
	switch {
	case err != nil && excessive(err):
		s.h.metrics.bad.WithLabelValues("too_much").Inc()
		_ = s.ws.conn.Close(websocket.StatusMessageTooBig, err.Error()) // the session ends in any case
		return nil, 0, err
	case err != nil:
		s.h.metrics.bad.WithLabelValues("garbage").Inc()
		_ = s.ws.conn.Close(websocket.StatusNormalClosure, "cannot parse signal request") // the session ends in any case
		return nil, 0, err
	case len(data) > maxPlain && req.GetOffer() == nil && req.GetAnswer() == nil && req.GetSyncState() == nil && req.GetUpdateMetadata() == nil:
		// Other messages wait in queues that are bounded by a number of messages, so each
		// message must be short.
		s.h.metrics.bad.WithLabelValues("too_big").Inc()
		s.decline(req, livekit.RequestResponse_LIMIT_EXCEEDED, fmt.Sprintf("a message of this kind must not be longer than %d bytes", maxPlain))
		return nil, cost, nil
	}
	return req, cost, nil
}

// decline tells the client that a request was refused. A request without a number is
// identified only by the text of the message.
func (s *session) decline(req *livekit.SignalRequest, why livekit.RequestResponse_Reason, message string) {
	s.send(&livekit.SignalResponse{Message: &livekit.SignalResponse_RequestResponse{RequestResponse: &livekit.RequestResponse{
		RequestId: requestID(req), Reason: why, Message: message,
	}}})
}

// requestID returns the number that the client gave a request, or 0 if the request has no
// number.
func requestID(req *livekit.SignalRequest) uint32 {
	m := req.ProtoReflect()
	set := m.WhichOneof(m.Descriptor().Oneofs().ByName("message"))
	if set == nil || set.Message() == nil {
		return 0
	}
	id := set.Message().Fields().ByName("request_id")
	if id == nil || id.Kind() != protoreflect.Uint32Kind {
		return 0
	}
	return uint32(m.Get(set).Message().Get(id).Uint())
}

// handle handles one message.
func (s *session) handle(req *livekit.SignalRequest) {
	switch m := req.Message.(type) {
	case *livekit.SignalRequest_Offer:
		s.client.After(func() { s.peer.HandleOffer(heard(m.Offer)) }) // its tracks are announced before it
	case *livekit.SignalRequest_Answer:
		s.client.After(func() { s.peer.HandleAnswer(heard(m.Answer)) })
	case *livekit.SignalRequest_Trickle:
		candidate := heardCandidate(m.Trickle)
		s.client.After(func() { s.peer.HandleCandidate(candidate) }) // and the offer before its candidates
	case *livekit.SignalRequest_AddTrack:
		s.client.AddTrack(m.AddTrack)
	case *livekit.SignalRequest_Mute:
		s.client.Mute(m.Mute)
	case *livekit.SignalRequest_Subscription:
		s.client.UpdateSubscription(m.Subscription)
		s.client.Sync() // what it cost is known then, and the client waits before its next
	case *livekit.SignalRequest_TrackSetting:
		s.client.UpdateTrackSettings(m.TrackSetting)
	case *livekit.SignalRequest_Leave:
		s.client.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
	case *livekit.SignalRequest_SubscriptionPermission:
		s.client.SetSubscriptionPermission(m.SubscriptionPermission)
		s.client.Sync()
	case *livekit.SignalRequest_SyncState:
		s.sync(m.SyncState)
		s.client.Sync()
	case *livekit.SignalRequest_Simulate:
		s.simulate(m.Simulate)
	case *livekit.SignalRequest_Ping:
		s.send(&livekit.SignalResponse{Message: &livekit.SignalResponse_Pong{Pong: time.Now().UnixMilli()}})
	case *livekit.SignalRequest_PingReq:
		s.send(&livekit.SignalResponse{Message: &livekit.SignalResponse_PongResp{PongResp: &livekit.Pong{
			LastPingTimestamp: m.PingReq.GetTimestamp(), Timestamp: time.Now().UnixMilli(),
		}}})
	case *livekit.SignalRequest_UpdateMetadata:
		s.client.UpdateSelf(m.UpdateMetadata)
	case *livekit.SignalRequest_UpdateAudioTrack:
		s.client.UpdateLocalAudioTrack(m.UpdateAudioTrack)
	case *livekit.SignalRequest_UpdateVideoTrack:
		s.client.UpdateLocalVideoTrack(m.UpdateVideoTrack)
	case *livekit.SignalRequest_PublishDataTrackRequest:
		s.client.PublishDataTrack(m.PublishDataTrackRequest)
		s.client.Sync()
	case *livekit.SignalRequest_UnpublishDataTrackRequest:
		s.client.UnpublishDataTrack(m.UnpublishDataTrackRequest)
		s.client.Sync()
	case *livekit.SignalRequest_UpdateDataSubscription:
		s.client.UpdateDataSubscription(m.UpdateDataSubscription)
		s.client.Sync()
	case *livekit.SignalRequest_StoreDataBlobRequest:
		s.client.StoreDataBlob(m.StoreDataBlobRequest)
		s.client.Sync()
	case *livekit.SignalRequest_GetDataBlobRequest:
		s.client.GetDataBlob(m.GetDataBlobRequest)
		s.client.Sync()
	default:
		// Unknown, or obsolete like update_layers: the protocol asks servers to ignore
		// it, unless the client waits for an answer.
		s.h.metrics.bad.WithLabelValues("unknown").Inc()
		s.unserved(req)
	}
}

// unserved answers a request that Parlor does not serve. A message that expects no answer,
// such as update_layers, gets none.
func (s *session) unserved(req *livekit.SignalRequest) {
	if requestID(req) != 0 {
		s.decline(req, livekit.RequestResponse_NOT_ALLOWED, "this server does not serve requests of this kind")
	}
}

func (s *session) send(resp *livekit.SignalResponse) { s.outlet.Send(rooms.NewMessage(resp)) }

// sync handles the state that a resumed client reports.
func (s *session) sync(state *livekit.SyncState) {
	s.client.SyncState(state)
	if sids := state.GetTrackSidsDisabled(); len(sids) > 0 {
		s.client.UpdateTrackSettings(&livekit.UpdateTrackSettings{TrackSids: sids, Disabled: true})
	}
}

// refresh is called by the room when the participant has changed in a way that its token
// must show.
func (s *session) refresh(info *livekit.ParticipantInfo, host bool) {
	now := &shown{info, host}
	s.outlet.self.Store(now)
	s.outlet.Send(s.tokenMessage(now))
}

// refreshTokens sends the client a fresh token every tokenInterval, so that the client can
// reconnect at any time. It ends with the socket.
func (s *session) refreshTokens() {
	tick := time.NewTicker(tokenInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.ws.done.Done():
			return
		case <-tick.C:
			s.outlet.Send(s.tokenMessage(s.outlet.self.Load()))
		}
	}
}

// tokenMessage returns a message with a fresh token for the participant as it is now. The
// token is signed with the key of the client's first token.
func (s *session) tokenMessage(now *shown) *rooms.Message {
	return rooms.NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_RefreshToken{RefreshToken: s.token(now)}})
}

// moved makes a token for the room to which the participant was moved. All later tokens are
// for that room too.
func (s *session) moved(a rooms.Arrival) string {
	now := &shown{a.Info, a.Host}
	m := &move{a.Room, a.Since, a.HostOf}
	if before := s.outlet.moved.Load(); before != nil && m.since.IsZero() {
		m.since = before.since
	}
	s.outlet.moved.Store(m)
	s.outlet.self.Store(now)
	return s.token(now)
}

func (s *session) token(now *shown) string {
	g, info := s.claims.Grants.Clone(), now.info
	g.Name, g.Metadata, g.Attributes = info.Name, info.Metadata, info.Attributes
	if g.Video == nil {
		g.Video = &auth.VideoGrant{}
	}
	g.Video.UpdateFromPermission(info.Permission)
	since, hostOf := s.claims.NotBefore, s.claims.HostOf
	if m := s.outlet.moved.Load(); m != nil {
		if m.room != g.Video.Room { // the move does not make it an admin of the second room, unless that is of its division
			admin := g.Video.RoomAdmin && m.hostOf != ""
			access.Dismiss(g.Video)
			g.Video.RoomAdmin = admin
		}
		g.Video.Room, hostOf = m.room, m.hostOf
		if !m.since.IsZero() {
			since = m.since
		}
	}
	mark := access.Session{ID: info.Sid, Appointed: now.host && !g.Video.RoomAdmin}
	if g.Video.RoomAdmin && now.host && hostOf != g.Video.Room {
		mark.HostOf = hostOf
	}
	if g.Video.RoomAdmin && !now.host {
		access.Dismiss(g.Video)
	}
	g.Video.RoomAdmin = now.host
	g.Sha256 = ""
	token, err := s.h.cfg.Verifier.MintFor(s.claims.APIKey, mark, g, since, max(tokenMinimum, time.Until(s.claims.Expires)))
	if err != nil {
		s.h.log.Error("cannot mint a fresh token", "participant", info.Identity, "error", err)
	}
	return token
}
