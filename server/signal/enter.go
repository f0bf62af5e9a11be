package signal

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"

	"parlor/media"
	"parlor/rooms"
)

// join handles the join of a new participant. It upgrades the connection only after the
// join is on disk, so that a refusal is an HTTP response. Then the participant enters the
// room.
func (h *Handler) join(w http.ResponseWriter, r *http.Request, req *request) {
	out := &outlet{metrics: h.metrics}
	s := &session{h: h, outlet: out, claims: req.claims, opts: req.opts, mode: mode(req.opts)}
	p, self, err := h.commit(r.Context(), req, func(j *rooms.JoinRequest) {
		j.Outlet, j.OnChange, j.Token, j.Client = out, s.refresh, s.moved, clientAttrs(r, req.opts.client)
	})
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	s.client = p.Client
	if err := s.makePeer(self); err != nil {
		h.log.Error("cannot make a participant's transports", "room", req.room, "participant", p.Identity(), "error", err)
		p.Leave(livekit.DisconnectReason_JOIN_FAILURE)
		h.refuse(w, r, err)
		return
	}
	if p.Ended() { // removed or replaced since commit
		s.peer.Close()
		h.refuse(w, r, rooms.ErrNoParticipant)
		return
	}
	conn, err := h.accept(w, r)
	if err != nil {
		s.peer.Close()
		p.SignalLost()
		return
	}
	h.metrics.joins.WithLabelValues("joined").Inc()
	s.ws = newSocket(context.WithoutCancel(r.Context()), conn, h.metrics)
	if err := p.Enter(s.peer, func(_ *rooms.Participant, snap rooms.Snapshot) {
		s.attach(snap, h.joinResponse(s, snap), s.tokenMessage(&shown{snap.Self, snap.Host}))
	}); err != nil { // p ended before it entered
		s.peer.Close()
		h.dismiss(s.ws, out.goodbye())
		return
	}
	s.start()
	s.run()
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

// attach connects the session's outlet to its socket. The messages in first are sent
// before all others. It reports false if the participant is gone.
func (s *session) attach(snap rooms.Snapshot, first ...*rooms.Message) bool {
	s.outlet.peer.Store(s.peer)
	s.outlet.self.Store(&shown{snap.Self, snap.Host})
	return s.outlet.attach(s.ws, first...)
}

// resume attaches a new WebSocket to a participant whose WebSocket was lost. If the
// participant is gone, the client is told to join again.
func (h *Handler) resume(w http.ResponseWriter, r *http.Request, req *request) {
	if err := h.mayResume(r.Context(), req); err != nil {
		h.refuse(w, r, err)
		return
	}
	conn, err := h.accept(w, r)
	if err != nil {
		return
	}
	ws := newSocket(context.WithoutCancel(r.Context()), conn, h.metrics)
	var s *session
	err = h.cfg.Rooms.Resume(r.Context(), req.room, req.info.Identity, req.sessions(), func(p *rooms.Participant, snap rooms.Snapshot) {
		out, ok := p.Outlet().(*outlet)
		if !ok || out.peer.Load() == nil {
			return
		}
		s = &session{h: h, outlet: out, client: p.Client, peer: out.peer.Load(), claims: req.claims, opts: req.opts, mode: mode(req.opts), ws: ws}
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
		return
	}
	if err != nil || s == nil {
		h.metrics.joins.WithLabelValues("mismatch").Inc()
		h.dismiss(ws, startAgain())
		return
	}
	h.metrics.joins.WithLabelValues("resumed").Inc()
	s.peer.Resume()
	s.run()
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

// joinResponse returns the first message to a client that joins.
func (h *Handler) joinResponse(s *session, snap rooms.Snapshot) *rooms.Message {
	codecs := make([]*livekit.Codec, 0, len(h.cfg.EnabledCodecs))
	may := h.cfg.Devices.For(s.opts.client)
	for _, m := range h.cfg.EnabledCodecs {
		if !may.MayPublish(m) {
			continue
		}
		codecs = append(codecs, &livekit.Codec{Mime: m})
	}
	self := proto.CloneOf(snap.Self)
	self.State = livekit.ParticipantInfo_JOINING // until the client has received this message
	return rooms.NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_Join{Join: &livekit.JoinResponse{
		Room:                 snap.Room,
		Participant:          self,
		OtherParticipants:    snap.Others,
		ServerVersion:        compatVersion,
		ServerInfo:           h.serverInfo(),
		ServerRegion:         h.cfg.Region,
		IceServers:           s.iceServers(snap),
		SubscriberPrimary:    s.subscriberPrimary,
		ClientConfiguration:  s.clientConfiguration(snap),
		PingInterval:         clientPingInterval,
		PingTimeout:          clientPingTimeout,
		SifTrailer:           snap.SIFTrailer,
		EnabledPublishCodecs: codecs,
		FastPublish:          snap.Self.GetPermission().GetCanPublish(),
	}}})
}

func (h *Handler) serverInfo() *livekit.ServerInfo {
	return ServerInfo(h.cfg.Version, h.cfg.NodeID, h.cfg.Region)
}

// ServerInfo returns the description of the server for clients and agent workers.
func ServerInfo(version, nodeID, region string) *livekit.ServerInfo {
	return &livekit.ServerInfo{
		Edition:       livekit.ServerInfo_Standard,
		Version:       compatVersion,
		Protocol:      protocolVersion,
		Region:        region,
		NodeId:        nodeID,
		DebugInfo:     "parlor " + version,
		AgentProtocol: 1,
	}
}

// resumeMessages returns the first messages to a client that resumes: the full state.
func (h *Handler) resumeMessages(s *session, snap rooms.Snapshot) []*rooms.Message {
	all := slices.Concat([]*livekit.ParticipantInfo{snap.Self}, snap.Others, snap.Departed)
	first := []*rooms.Message{
		rooms.NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_Reconnect{Reconnect: &livekit.ReconnectResponse{
			IceServers:          s.iceServers(snap),
			ClientConfiguration: s.clientConfiguration(snap),
			ServerInfo:          h.serverInfo(),
			LastMessageSeq:      s.peer.LastMessageSeq(),
		}}}),
	}
	for _, m := range snap.Mutes {
		first = append(first, rooms.NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_Mute{Mute: m}}))
	}
	return append(first,
		rooms.NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_Update{
			Update: &livekit.ParticipantUpdate{Participants: all, FullSnapshot: true},
		}}),
		rooms.NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_RoomUpdate{
			RoomUpdate: &livekit.RoomUpdate{Room: snap.Room},
		}}),
		s.tokenMessage(&shown{snap.Self, snap.Host}),
	)
}
