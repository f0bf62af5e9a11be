package signal

import (
	"maps"
	"sync"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms"
)

// simulate simulates a failure or a narrow path for a client that asks for it in order to
// test itself. It affects only that client. An unsupported scenario is refused.
func (s *session) simulate(sc *livekit.SimulateScenario) {
	switch m := sc.GetScenario().(type) {
	case *livekit.SimulateScenario_SpeakerUpdate:
		s.client.SimulateSpeaker(time.Duration(m.SpeakerUpdate) * time.Second)
	case *livekit.SimulateScenario_ServerLeave:
		s.client.Leave(livekit.DisconnectReason_SERVER_SHUTDOWN)
	case *livekit.SimulateScenario_LeaveRequestFullReconnect, *livekit.SimulateScenario_Migration:
		s.client.NeedsReconnect("simulated")
	case *livekit.SimulateScenario_NodeFailure:
		s.client.NeedsReconnect("simulated node failure")
	case *livekit.SimulateScenario_SwitchCandidateProtocol:
		s.switchProtocol(m.SwitchCandidateProtocol)
	case *livekit.SimulateScenario_SubscriberBandwidth:
		s.peer.LimitDownlink(uint64(max(m.SubscriberBandwidth, 0)))
	case *livekit.SimulateScenario_DisconnectSignalOnResume, *livekit.SimulateScenario_DisconnectSignalOnResumeNoMessages:
		s.ws.cut()
	default:
		s.refuse("this scenario cannot be simulated here")
	}
}

// switchProtocol makes the client connect over another protocol. A transport keeps its
// protocol, so the client is told to reconnect, and gets new transports.
func (s *session) switchProtocol(to livekit.CandidateProtocol) {
	room := s.claims.Grants.Video.Room
	if m := s.outlet.moved.Load(); m != nil {
		room = m.room
	}
	switch to {
	case livekit.CandidateProtocol_UDP:
		tcp, tls := s.h.overTCP.forget(room, s.client.Identity()), s.h.overTLS.forget(room, s.client.Identity())
		if tcp || tls {
			s.client.NeedsReconnect("simulated: UDP is there again")
		}
	case livekit.CandidateProtocol_TCP:
		if !s.h.cfg.Media.ServesTCP() {
			s.refuse("this server has no TCP port for media: set rtc.tcp_port")
			return
		}
		s.h.overTLS.forget(room, s.client.Identity())
		s.h.overTCP.prefer(room, s.client.Identity(), time.Now())
		s.client.NeedsReconnect("simulated: nothing but TCP")
	default:
		if !s.h.cfg.Media.TURNOverTLS() {
			s.refuse("this server relays nothing over TLS: see turn in its configuration; to try a path without UDP simulate TCP")
			return
		}
		s.h.overTCP.forget(room, s.client.Identity())
		s.h.overTLS.prefer(room, s.client.Identity(), time.Now())
		s.client.NeedsReconnect("simulated: nothing but TURN over TLS")
	}
}

// refuse tells the client why a scenario is not simulated.
func (s *session) refuse(why string) {
	s.outlet.Send(rooms.NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_RequestResponse{
		RequestResponse: &livekit.RequestResponse{Reason: livekit.RequestResponse_UNSUPPORTED_TYPE, Message: why},
	}}))
}

const (
	// preferredFor is how long after its request a client is offered only one protocol.
	preferredFor = 5 * time.Minute
	// mostPreferences bounds the clients that are remembered.
	mostPreferences = 4096
)

// preferences are the clients that asked to be offered only one protocol, such as TCP. Its
// methods may be called concurrently.
type preferences struct {
	mu    sync.Mutex // guards the following
	until map[seat]time.Time
}

// seat identifies a participant across its sessions.
type seat struct{ room, identity string }

// prefer remembers a client for preferredFor. Beyond mostPreferences a client is not
// remembered, and is offered all protocols.
func (p *preferences) prefer(room, identity string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until == nil {
		p.until = make(map[seat]time.Time)
	}
	if len(p.until) >= mostPreferences {
		maps.DeleteFunc(p.until, func(_ seat, end time.Time) bool { return now.After(end) })
	}
	if len(p.until) < mostPreferences {
		p.until[seat{room, identity}] = now.Add(preferredFor)
	}
}

// forget removes a client, and reports whether it was remembered.
func (p *preferences) forget(room, identity string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, known := p.until[seat{room, identity}]
	delete(p.until, seat{room, identity})
	return known
}

// holds reports whether the client is offered only this protocol.
func (p *preferences) holds(room, identity string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return now.Before(p.until[seat{room, identity}])
}
