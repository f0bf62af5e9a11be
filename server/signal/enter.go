package signal

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/livekit"

	"parlor/media"
	"parlor/rooms"
)

// enter has the participant enter its room: it makes the participant's peer, and accepts the
// connection on which the room then speaks to the client. An error is for an HTTP response.
func (s *session) enter(w http.ResponseWriter, r *http.Request, p *rooms.Participant, self *livekit.ParticipantInfo) error {
	if err := s.makePeer(self); err != nil {
		s.h.log.Error("cannot make a participant's transports", "room", s.claims.Grants.Video.Room, "participant", p.Identity(), "error", err)
		p.Leave(livekit.DisconnectReason_JOIN_FAILURE)
		return err
	}
	if p.Ended() { // removed or replaced since commit
		s.peer.Close()
		return rooms.ErrNoParticipant
	}
	conn, err := s.h.accept(w, r)
	if err != nil {
		s.peer.Close()
		p.SignalLost()
		return nil
	}
	s.h.metrics.joins.WithLabelValues("joined").Inc()
	s.ws = newSocket(context.WithoutCancel(r.Context()), conn, s.h.metrics)
	if err := p.Enter(s.peer, s.welcome); err != nil { // p ended before it entered
		s.peer.Close()
		s.h.dismiss(s.ws, s.outlet.goodbye())
		return nil
	}
	s.start()
	s.run()
	return nil
}

// makePeer makes the participant's peer and its transports.
func (s *session) makePeer(self *livekit.ParticipantInfo) (err error) {
	may := s.h.cfg.Devices.For(s.opts.client)
	perm, room := self.GetPermission(), s.claims.Grants.Video.Room
	s.subscriberPrimary = !s.opts.singlePC && s.opts.protocol > 2 && perm.GetCanSubscribe()
	s.peer, err = s.h.cfg.Media.NewPeer(media.PeerConfig{
		SID:               s.client.SID(),
		Identity:          s.client.Identity(),
		SinglePC:          s.opts.singlePC,
		SubscriberPrimary: s.subscriberPrimary,
		Protocol:          s.opts.protocol,
		Client:            s.opts.client,
		AdaptiveStream:    s.opts.adaptiveStream,
		AllowPause:        s.allowPause(),
		TCPOnly:           s.h.overTCP.holds(room, s.client.Identity(), time.Now()),
		CanPublish:        perm.GetCanPublish(),

		DisabledCodecs: may.Codecs, DisabledPublishCodecs: may.PublishCodecs,

		CanPublishData: perm.GetCanPublishData(),
		CanSubscribe:   perm.GetCanSubscribe(),
		Signals:        speaker{s.outlet, s.opts.protocol},
		Events:         measured{s.client, s.h.decoder},
		Log:            s.h.log.With("room", room, "participant", s.client.Identity()),
	})
	return err
}

// resume attaches a new WebSocket to a participant whose WebSocket was lost. If the
// participant is gone, the client is told to join again. An error is for an HTTP response.
func (h *Handler) resume(w http.ResponseWriter, r *http.Request, req *request) error {
	if err := h.mayResume(r.Context(), req); err != nil {
		return err
	}
	conn, err := h.accept(w, r)
	if err != nil {
		return nil
	}
	ws := newSocket(context.WithoutCancel(r.Context()), conn, h.metrics)
	var s *session
	err = h.cfg.Rooms.Resume(r.Context(), req.room, req.info.Identity, req.sessions(), func(p *rooms.Participant, snap rooms.Snapshot) {
		out, ok := p.Outlet().(*outlet)
		if !ok || out.peer.Load() == nil {
			return
		}
		s = &session{h: h, outlet: out, client: p.Client, peer: out.peer.Load(), claims: req.claims, opts: req.opts, ws: ws}
		if !s.attach(snap, h.resumeMessages(s, snap)...) {
			s = nil
		}
	})
	if errors.Is(err, rooms.ErrReplaced) { // a leave sent before may have been lost with the old socket
		h.metrics.joins.WithLabelValues("replaced").Inc()
		h.dismiss(ws, leaveMessage(&livekit.LeaveRequest{
			Reason: livekit.DisconnectReason_DUPLICATE_IDENTITY,
			Action: livekit.LeaveRequest_DISCONNECT,
		}))
		return nil
	}
	if err != nil || s == nil {
		h.metrics.joins.WithLabelValues("mismatch").Inc()
		h.dismiss(ws, startAgain())
		return nil
	}
	h.metrics.joins.WithLabelValues("resumed").Inc()
	s.peer.Resume()
	s.run()
	return nil
}

// dismiss sends m over a socket that has no participant, and closes it.
func (h *Handler) dismiss(ws *socket, m *rooms.Message) {
	ws.finish(m)
	h.sessions.Go(ws.write)
	ws.drain()
}

// drain reads until the client closes the socket, or for 5 seconds, so that the client
// receives the last message.
func (s *socket) drain() {
	ctx, cancel := context.WithTimeout(s.done, 5*time.Second)
	defer cancel()
	for {
		if _, _, err := s.conn.Read(ctx); err != nil {
			return
		}
	}
}

// sessions are the SIDs by which a resuming client names its session. They differ after a
// move, if the client's SDK still uses its former SID or has not received its newest
// token yet.
func (req *request) sessions() []string { return []string{req.opts.session, req.tokenSession()} }

// accept upgrades the connection.
func (h *Handler) accept(w http.ResponseWriter, r *http.Request) (*websocket.Conn, error) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // any origin, as in LiveKit: the token is the permission
		CompressionMode:    websocket.CompressionNoContextTakeover,
	})
	if err != nil {
		return nil, err // Accept has answered the request
	}
	limit := h.cfg.MaxMessage
	if limit == 0 {
		limit = -1
	}
	conn.SetReadLimit(limit)
	return conn, nil
}
