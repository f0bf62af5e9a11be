package rooms

import (
	"context"
	"maps"
	"strings"
	"sync"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"
)

// MaxDataPacket is the largest encoded DataPacket in bytes. LiveKit's clients announce
// this max-message-size (RFC 8841, section 6), or announce none, which SCTP takes for 64
// KiB.
const MaxDataPacket = 65535

// checkSize refuses a packet that is too large for a client's data channel, where it
// would be dropped without a word.
func checkSize(dp *livekit.DataPacket) error {
	if proto.Size(dp) > MaxDataPacket {
		return ErrDataTooLarge
	}
	return nil
}

// nonces remembers the newest nonces of SendData, so that a retry is not sent twice. It
// may be used concurrently.
type nonces struct {
	mu    sync.Mutex // guards the following
	seen  map[string]bool
	order []string
}

// fresh reports whether n is not among the last hundred nonces, and remembers it. An
// empty nonce is always fresh.
func (s *nonces) fresh(n string) bool {
	const most = 100
	if n == "" {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
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

// Data is called by the peer when its client sent a DataPacket. The packet goes to its
// receivers on the caller's goroutine, so that a client cannot send faster than that.
// Calls of one kind must come one after another.
func (c *Client) Data(kind livekit.DataPacket_Kind, packet []byte) {
	p := c.at.Load()
	at := p.mayPublishData()
	if at == nil {
		return
	}
	dp := &livekit.DataPacket{}
	if err := proto.Unmarshal(packet, dp); err != nil {
		return // not a DataPacket: nobody could read it
	}
	p.forwardData(at, kind, dp)
}

// Message is called by the peer when its client sent on a data channel with a label of
// its own. The others get the payload as reliable data with its sender, as from LiveKit.
func (c *Client) Message(payload []byte) {
	p := c.at.Load()
	if at := p.mayPublishData(); at != nil {
		p.forwardData(at, livekit.DataPacket_RELIABLE, &livekit.DataPacket{
			Value: &livekit.DataPacket_User{User: &livekit.UserPacket{Payload: payload}},
		})
	}
}

// mayPublishData is p's presence if it may publish data; nil if not.
func (p *Participant) mayPublishData() *presence {
	if at := p.attending(); at != nil && at.publishesData {
		return at
	}
	return nil
}

// forwardData sends a participant's packet to its receivers, and stamps the true sender
// on it.
func (p *Participant) forwardData(at *presence, kind livekit.DataPacket_Kind, dp *livekit.DataPacket) {
	r := p.room
	speaker := ""
	if at.agent {
		speaker = p.speaker(dp)
	}
	if !r.isFrom(p, dp) || speaker != "" && !r.maySpeak(speaker, dp) {
		r.rooms.dataRefused.Add(1)
		return
	}
	if kind == livekit.DataPacket_RELIABLE && dp.Sequence > 0 {
		// After a resume a client sends again the packets that may not have arrived.
		if dp.Sequence <= p.lastReliableSeq.Load() {
			return
		}
		p.lastReliableSeq.Store(dp.Sequence)
	}
	to := dp.DestinationIdentities
	var toSIDs []string
	dp.Kind = kind // older clients read it
	dp.ParticipantSid, dp.ParticipantIdentity = p.sid, p.identity
	if at.hidden {
		dp.ParticipantSid, dp.ParticipantIdentity = "", ""
	}
	metricsOnly := false
	switch v := dp.Value.(type) {
	case *livekit.DataPacket_ChatMessage:
		if speaker != "" {
			v.ChatMessage.Generated, dp.ParticipantIdentity = true, speaker
			v.ChatMessage.Id = p.identity + "/" + v.ChatMessage.Id // it is no edit of what the speaker wrote
		}
	case *livekit.DataPacket_StreamHeader:
		if speaker != "" {
			v.StreamHeader.GetTextHeader().Generated, dp.ParticipantIdentity = true, speaker
			if v.StreamHeader.Topic == chatTopic {
				v.StreamHeader.Attributes = withWriter(v.StreamHeader.Attributes, p.identity)
			}
		}
	case *livekit.DataPacket_Speaker: // only the server sends speaker updates
		return
	case *livekit.DataPacket_Transcription:
		if !at.agent {
			return
		}
	case *livekit.DataPacket_Metrics:
		metricsOnly = true
	case *livekit.DataPacket_EncryptedPacket:
		// LiveKit's clients leave the type out. Without a sender the packet is told from the server's
		// by it: the server encrypts nothing.
		if e := v.EncryptedPacket; at.hidden && e != nil && e.EncryptionType == livekit.Encryption_NONE {
			e.EncryptionType = livekit.Encryption_GCM
		}
	case *livekit.DataPacket_User:
		if v.User == nil {
			return
		}
		if at.hidden && strings.HasPrefix(v.User.GetTopic(), ownTopics) {
			r.rooms.dataRefused.Add(1) // without a sender it would be taken for the server's
			return
		}
		stampUser(v.User, dp)
		if len(to) == 0 {
			to = v.User.DestinationIdentities // as older clients say it
		}
		toSIDs = v.User.DestinationSids // older clients put the receivers here
	case *livekit.DataPacket_RpcAck:
		if v.RpcAck != nil && r.calls.has(v.RpcAck.RequestId) {
			return // the ack is for a call of the server's
		}
	case *livekit.DataPacket_RpcResponse:
		if v.RpcResponse != nil && r.answerRPC(v.RpcResponse) {
			return
		}
	}
	if checkSize(dp) != nil { // the sender's identity may make it too large
		r.rooms.dataRefused.Add(1)
		return
	}
	r.deliver(p, at.peer, kind, dp, to, toSIDs, metricsOnly)
	// Of a generated text latecomers could not tell that an agent wrote it: it is not kept.
	if kind == livekit.DataPacket_RELIABLE && !at.hidden && speaker == "" && r.keepsChat.Load() {
		p.hearChat(dp, len(to)+len(toSIDs) > 0)
	}
}

// ownTopics begins the topics of the data that the server sends of its own accord.
const ownTopics = "parlor."

// writerAttribute tells of a text in somebody's name which agent wrote it: the text is no edit
// of one that somebody wrote.
const writerAttribute = "parlor.by"

func withWriter(attributes map[string]string, agent string) map[string]string {
	all := maps.Clone(attributes)
	if all == nil {
		all = make(map[string]string, 1)
	}
	all[writerAttribute] = agent
	return all
}

// speaker is the identity for which the agent p sends a text: that of what somebody said.
// It is empty if p sends for itself.
func (p *Participant) speaker(dp *livekit.DataPacket) string {
	if dp.ParticipantIdentity == p.identity || dp.GetChatMessage() == nil && dp.GetStreamHeader().GetTextHeader() == nil {
		return ""
	}
	return dp.ParticipantIdentity
}

// maySpeak reports whether an agent may send dp in the name of speaker: somebody that the
// others see in the room. What one wrote oneself no agent changes or deletes.
func (r *Room) maySpeak(speaker string, dp *livekit.DataPacket) bool {
	q := r.receivers.Load().byIdentity[speaker]
	if q == nil {
		return false
	}
	at := q.attending()
	if at == nil || at.hidden {
		return false
	}
	if m := dp.GetChatMessage(); m != nil {
		return m.EditTimestamp == nil && !m.Deleted
	}
	h := dp.GetStreamHeader()
	op := h.GetTextHeader().OperationType
	return h.Topic != chatTopic || op != livekit.DataStream_UPDATE && op != livekit.DataStream_DELETE
}

// isFrom reports whether dp does not name the session of another participant of the room as
// its sender. A client's word about itself is overwritten in any case. But a packet with
// another's SID was received from there and is on its way back: forwarding it could go round
// in a circle without end. A client that makes a packet names no SID. It may name another's
// identity: a captions program names the speaker.
func (r *Room) isFrom(p *Participant, dp *livekit.DataPacket) bool {
	there, user := r.receivers.Load(), dp.GetUser()
	for _, q := range []*Participant{there.bySID[dp.ParticipantSid], there.bySID[user.GetParticipantSid()]} { // older clients use the second one
		if q != nil && q != p && q.attending() != nil {
			return false
		}
	}
	return true
}

// stampUser sets the sender in the fields that older clients read.
func stampUser(u *livekit.UserPacket, dp *livekit.DataPacket) {
	u.ParticipantSid, u.ParticipantIdentity = dp.ParticipantSid, dp.ParticipantIdentity // older clients
}

// deliver sends dp to the named participants, or to all but its sender if none is named.
// from and sender are nil if the server sends. It may be called on any goroutine.
func (r *Room) deliver(from *Participant, sender Peer, kind livekit.DataPacket_Kind, dp *livekit.DataPacket, identities, sids []string, metricsOnly bool) {
	var packet []byte
	for _, q := range r.receivers.Load().named(identities, sids) {
		at := q.attending()
		if at == nil || q == from || metricsOnly && !at.takesMetrics {
			continue
		}
		if packet == nil {
			var err error
			if packet, err = proto.Marshal(dp); err != nil {
				return
			}
		}
		at.peer.SendData(sender, kind, packet)
	}
}

// SendData sends a packet from the server to a room. It fails with [ErrDataTooLarge] if
// the packet is longer than [MaxDataPacket].
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
	return rs.sendTo(ctx, req.Room, func(r *Room) error {
		if r.nonces.fresh(string(req.Nonce)) {
			r.deliver(nil, nil, req.Kind, dp, req.DestinationIdentities, req.DestinationSids, false) // as older SDKs say it
		}
		return nil
	})
}

// sendTo calls send with the open room of that name. If a participant is connected, send
// runs on the caller's goroutine, else on the room's goroutine after it has found its
// row.
func (rs *Rooms) sendTo(ctx context.Context, room string, send func(*Room) error) error {
	if r := rs.peek(room); r != nil && r.attended() {
		return send(r)
	}
	_, err := askName(ctx, rs, room, func(r *Room, reply answer[struct{}]) {
		err := r.found()
		if err == nil {
			err = send(r)
		}
		reply(struct{}{}, err)
	})
	return err
}
