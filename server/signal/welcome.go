package signal

import (
	"slices"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
)

// welcome sends a client that joins its first messages, and then all that the room says. It
// runs on the room's goroutine.
func (s *session) welcome(_ *rooms.Participant, snap rooms.Snapshot) {
	s.attach(snap, s.h.joinResponse(s, snap), s.tokenMessage(&shown{snap.Self, snap.Host}))
}

// attach connects the session's outlet to its socket. The messages in first are sent
// before all others. It reports false if the participant is gone.
func (s *session) attach(snap rooms.Snapshot, first ...*rooms.Message) bool {
	s.outlet.peer.Store(s.peer)
	s.outlet.self.Store(&shown{snap.Self, snap.Host})
	return s.outlet.attach(s.ws, first...)
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
