package rooms

import (
	"context"
	"slices"
	"time"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"

	"parlor/rooms/guid"
)

// MaxDataPacket is the largest encoded DataPacket in bytes: what LiveKit's clients
// announce, or are taken to by SCTP if they announce nothing (max-message-size of
// RFC 8841, section 6).
const MaxDataPacket = 65535

// checkSize refuses a packet of the server's that its receivers could not take, and
// that would be dropped on the way to them.
func checkSize(dp *livekit.DataPacket) error {
	if proto.Size(dp) > MaxDataPacket {
		return ErrDataTooLarge
	}
	return nil
}

// nonces remembers the newest nonces of SendData, so that a retry is not sent twice.
type nonces struct {
	seen  map[string]bool
	order []string
}

// fresh reports whether n was not seen among the last hundred, and remembers it.
func (s *nonces) fresh(n string) bool {
	const most = 100
	if n == "" {
		return true
	}
	if s.seen[n] {
		return false
	}
	if s.seen == nil {
		s.seen = make(map[string]bool, most)
	}
	s.seen[n] = true
	s.order = append(s.order, n)
	if len(s.order) > most {
		delete(s.seen, s.order[0])
		s.order = s.order[1:]
	}
	return true
}

// Data is for the peer: its client sent a DataPacket. It waits until the room
// has taken it, so that a client cannot send faster than its room forwards.
func (p *Participant) Data(kind livekit.DataPacket_Kind, packet []byte) {
	dp := &livekit.DataPacket{}
	if err := proto.Unmarshal(packet, dp); err != nil {
		return // not a DataPacket: nobody could read it
	}
	p.wait(func(r *Room) { r.forwardData(p, kind, dp) })
}

// Message is for the peer: its client sent on a channel with a label of its own. The
// others get it as they get all reliable data, with its sender, as from LiveKit.
func (p *Participant) Message(payload []byte) {
	dp := &livekit.DataPacket{Value: &livekit.DataPacket_User{User: &livekit.UserPacket{Payload: payload}}}
	p.wait(func(r *Room) { r.forwardData(p, livekit.DataPacket_RELIABLE, dp) })
}

// DataTrack is for the peer: its client sent a packet of a data track, which the
// others get as it is.
func (p *Participant) DataTrack(packet []byte) {
	p.wait(func(r *Room) {
		if !p.info.GetPermission().GetCanPublishData() {
			return
		}
		for _, q := range r.participants {
			if q != p && q.peer != nil {
				q.peer.SendDataTrack(packet)
			}
		}
	})
}

// wait posts f and waits until it has run, or the room is gone.
func (p *Participant) wait(f func(*Room)) {
	r := p.room.Load()
	_, _ = ask(r, func(reply answer[struct{}]) { // fails only when the room is gone, and p with it
		if !p.ended.Load() && p.room.Load() == r && p.awayFrom.Load() != r {
			f(r)
		}
		reply(struct{}{}, nil)
	})
}

// forwardData sends a participant's packet on to those it is for, with the
// sender stamped by us.
func (r *Room) forwardData(p *Participant, kind livekit.DataPacket_Kind, dp *livekit.DataPacket) {
	if !p.info.GetPermission().GetCanPublishData() {
		return
	}
	if !r.isFrom(p, dp) {
		r.rooms.dataRefused.Add(1)
		return
	}
	if kind == livekit.DataPacket_RELIABLE && dp.Sequence > 0 {
		// After a resume a client sends again what it cannot know to have arrived.
		if dp.Sequence <= p.lastReliableSeq {
			return
		}
		p.lastReliableSeq = dp.Sequence
	}
	to := dp.DestinationIdentities
	var toSIDs []string
	dp.Kind = kind // older clients read it
	dp.ParticipantSid, dp.ParticipantIdentity = p.sid, p.identity
	if p.hidden() {
		dp.ParticipantSid, dp.ParticipantIdentity = "", ""
	}
	metricsOnly := false
	switch v := dp.Value.(type) {
	case *livekit.DataPacket_Speaker: // only the server says who speaks
		return
	case *livekit.DataPacket_Transcription:
		if p.info.Kind != livekit.ParticipantInfo_AGENT {
			return
		}
	case *livekit.DataPacket_Metrics:
		metricsOnly = true
	case *livekit.DataPacket_User:
		if v.User == nil {
			return
		}
		stampUser(v.User, dp)
		if checkSize(dp) != nil { // with the sender's name in it
			r.rooms.dataRefused.Add(1)
			return
		}
		if len(to) == 0 {
			to = v.User.DestinationIdentities // as older clients say it
		}
		toSIDs = v.User.DestinationSids // as older clients say it
	case *livekit.DataPacket_RpcAck:
		if v.RpcAck != nil && r.rpcs[v.RpcAck.RequestId] != nil {
			return // the server is the caller
		}
	case *livekit.DataPacket_RpcResponse:
		if v.RpcResponse != nil && r.answerRPC(v.RpcResponse) {
			return
		}
	}
	r.deliver(p, kind, dp, to, toSIDs, metricsOnly)
}

// isFrom reports whether dp does not name another participant of the room as its
// sender. What clients say of themselves is overwritten; but a packet with the name
// of another has been received and comes back, by which a client could have the
// server talk to itself without end.
func (r *Room) isFrom(p *Participant, dp *livekit.DataPacket) bool {
	user := dp.GetUser()
	for _, q := range r.participants {
		if q == p {
			continue
		}
		switch q.sid {
		case dp.ParticipantSid, user.GetParticipantSid(): // older clients
			return false
		}
		switch q.identity {
		case dp.ParticipantIdentity, user.GetParticipantIdentity(): // older clients
			return false
		}
	}
	return true
}

// stampUser fills in the sender where older clients look for it.
func stampUser(u *livekit.UserPacket, dp *livekit.DataPacket) {
	u.ParticipantSid, u.ParticipantIdentity = dp.ParticipantSid, dp.ParticipantIdentity // older clients
}

// deliver sends dp to the participants named, or to all but its sender.
func (r *Room) deliver(from *Participant, kind livekit.DataPacket_Kind, dp *livekit.DataPacket, identities, sids []string, metricsOnly bool) {
	var packet []byte
	var sender Peer
	if from != nil {
		sender = from.peer
	}
	for _, q := range r.participants {
		if q == from || q.peer == nil {
			continue
		}
		if len(identities)+len(sids) > 0 && !slices.Contains(identities, q.identity) && !slices.Contains(sids, q.sid) {
			continue
		}
		if metricsOnly && !q.info.GetPermission().GetCanSubscribeMetrics() {
			continue
		}
		if packet == nil {
			var err error
			if packet, err = proto.Marshal(dp); err != nil {
				return
			}
		}
		q.peer.SendData(sender, kind, packet)
	}
}

// SendData sends a packet from the server to a room; [ErrDataTooLarge] if it would
// be longer than [MaxDataPacket].
func (rs *Rooms) SendData(ctx context.Context, req *livekit.SendDataRequest) error {
	if n := len(req.Nonce); n != 0 && n != 16 {
		return Errorf(Invalid, "nonce should be 16-bytes or not present, got: %d bytes", n)
	}
	user := &livekit.UserPacket{Payload: req.Data, Topic: req.Topic}
	user.DestinationIdentities = req.DestinationIdentities // older clients
	dp := &livekit.DataPacket{
		Kind:                  req.Kind, // older clients
		DestinationIdentities: req.DestinationIdentities,
		Value:                 &livekit.DataPacket_User{User: user},
	}
	if err := checkSize(dp); err != nil {
		return err
	}
	_, err := askName(ctx, rs, req.Room, func(r *Room, reply answer[struct{}]) {
		if err := r.found(); err != nil {
			reply(struct{}{}, err)
			return
		}
		if r.nonces.fresh(string(req.Nonce)) {
			r.deliver(nil, req.Kind, dp, req.DestinationIdentities, req.DestinationSids, false) // as older SDKs say it
		}
		reply(struct{}{}, nil)
	})
	return err
}

// PerformRPC calls a method that a participant offers, with the server as the
// caller, and waits for its answer.
func (rs *Rooms) PerformRPC(ctx context.Context, req *livekit.PerformRpcRequest) (*livekit.PerformRpcResponse, error) {
	if req.DestinationIdentity == "" {
		return nil, Errorf(Invalid, "destination_identity is required")
	}
	const defaultTimeout, longest = 10 * time.Second, 5 * time.Minute
	timeout := defaultTimeout
	if req.ResponseTimeoutMs > 0 {
		timeout = min(time.Duration(req.ResponseTimeoutMs)*time.Millisecond, longest)
	}
	id := guid.New("RPC_")
	dp := &livekit.DataPacket{
		ParticipantIdentity:   "server",
		DestinationIdentities: []string{req.DestinationIdentity},
		Value: &livekit.DataPacket_RpcRequest{RpcRequest: &livekit.RpcRequest{
			Id: id, Method: req.Method, Payload: req.Payload,
			ResponseTimeoutMs: uint32(timeout / time.Millisecond), Version: 1,
		}},
	}
	if err := checkSize(dp); err != nil {
		return nil, err
	}
	type result struct {
		resp *livekit.PerformRpcResponse
		err  error
	}
	ch := make(chan result, 1)
	_, err := askName(ctx, rs, req.Room, func(r *Room, reply answer[struct{}]) {
		p := r.participants[req.DestinationIdentity]
		if p == nil || p.peer == nil {
			reply(struct{}{}, ErrNoParticipant)
			return
		}
		r.rpcs[id] = func(resp *livekit.PerformRpcResponse, err error) { ch <- result{resp, err} }
		r.deliver(nil, livekit.DataPacket_RELIABLE, dp, dp.DestinationIdentities, nil, false)
		reply(struct{}{}, nil)
	})
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case res := <-ch:
		return res.resp, res.err
	case <-timer.C:
		err = Errorf(Unavailable, "participant %q did not answer method %q within %v", req.DestinationIdentity, req.Method, timeout)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if r := rs.peek(req.Room); r != nil {
		r.post(func() { delete(r.rpcs, id) })
	}
	return nil, err
}

// answerRPC gives a response to the caller waiting in this server; false if
// there is none.
func (r *Room) answerRPC(resp *livekit.RpcResponse) bool {
	reply := r.rpcs[resp.RequestId]
	if reply == nil {
		return false
	}
	delete(r.rpcs, resp.RequestId)
	if e := resp.GetError(); e != nil {
		reply(nil, Errorf(Precondition, "rpc error %d: %s", e.Code, e.Message))
		return true
	}
	reply(&livekit.PerformRpcResponse{Payload: resp.GetPayload()}, nil)
	return true
}

// failRPCs answers all who wait: nobody will.
func (r *Room) failRPCs() {
	for id, reply := range r.rpcs {
		delete(r.rpcs, id)
		reply(nil, ErrNoParticipant)
	}
}
