package rooms_test

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
)

// says makes c's client send text as reliable data.
func (c *client) says(text string, to ...string) {
	c.Data(livekit.DataPacket_RELIABLE, mustMarshal(&livekit.DataPacket{
		DestinationIdentities: to,
		Value:                 &livekit.DataPacket_User{User: &livekit.UserPacket{Payload: []byte(text)}},
	}))
}

// hears returns the messages that c's client was sent since the last call.
func (c *client) hears() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	texts := []string{}
	for _, dp := range c.data {
		texts = append(texts, string(dp.GetUser().GetPayload()))
	}
	c.data = nil
	return texts
}

// stall blocks the room's goroutine until the returned function is called.
func (h *house) stall(room, identity string) (release func()) {
	began, over, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- h.Resume(h.t.Context(), room, identity, nil, func(*rooms.Participant, rooms.Snapshot) {
			close(began)
			<-over
		})
	}()
	<-began
	return func() {
		close(over)
		require.NoError(h.t, <-done)
	}
}

// TestDataPassesABusyRoom: if some goroutine waited for the room, the synctest bubble
// would deadlock, and the test would fail at once.
func TestDataPassesABusyRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		ann, bob, eve := h.join("tea", "ann"), h.join("tea", "bob"), h.join("tea", "eve", takesData)
		geo := ann.publishData(t, "geo", 7)
		release := h.stall("tea", "bob")
		ann.says("to all")
		bob.says("to ann", "ann")
		ann.Message([]byte("on a channel of its own"))
		ann.DataTrack(frame(7, "frame"))
		require.NoError(t, h.SendData(t.Context(), &livekit.SendDataRequest{Room: "tea", Data: []byte("from the server")}))
		require.Equal(t, []string{"to all", "on a channel of its own", "from the server"}, eve.hears())
		require.Equal(t, []string{"to ann", "from the server"}, ann.hears())
		require.Equal(t, []string{geo + " frame"}, eve.frames())

		answered := make(chan string)
		go func() {
			resp, err := h.PerformRPC(t.Context(), &livekit.PerformRpcRequest{Room: "tea", DestinationIdentity: "ann", Method: "m"})
			if err != nil {
				t.Error(err)
			}
			answered <- resp.GetPayload()
		}()
		synctest.Wait()
		ann.Data(livekit.DataPacket_RELIABLE, mustMarshal(&livekit.DataPacket{Value: &livekit.DataPacket_RpcResponse{RpcResponse: &livekit.RpcResponse{
			RequestId: ann.packets()[0].GetRpcRequest().GetId(), Value: &livekit.RpcResponse_Payload{Payload: "yes"},
		}}}))
		require.Equal(t, "yes", <-answered)
		release()
	})
}

// TestWhatIsAcknowledgedHoldsForDataReadThen: other participants send without pause while
// restrictions are made. Data sent after the acknowledgement of a restriction obeys it.
func TestWhatIsAcknowledgedHoldsForDataReadThen(t *testing.T) {
	h := newHouse(t)
	ann, bob := h.join("tea", "ann"), h.join("tea", "bob", takesData)
	permit := func(identity string, edit func(*livekit.ParticipantPermission)) {
		_, err := h.EditParticipant(t.Context(), "tea", identity, rooms.ParticipantEdit{Permit: edit})
		require.NoError(t, err)
	}
	var over atomic.Bool
	var noise sync.WaitGroup
	for i := range 2 {
		other := h.joinWith("tea", fmt.Sprint("other", i), func(c *client) rooms.Peer { return countingPeer{fakePeer{c}, new(atomic.Int64)} })
		noise.Go(func() {
			packet := mustMarshal(&livekit.DataPacket{
				DestinationIdentities: []string{"other0", "other1"}, Value: &livekit.DataPacket_User{User: &livekit.UserPacket{}},
			})
			for !over.Load() {
				other.Data(livekit.DataPacket_LOSSY, packet)
			}
		})
	}
	for n := range 5 {
		ann.publishData(t, fmt.Sprint("geo", n), 7)
		permit("ann", func(p *livekit.ParticipantPermission) { p.CanPublishData = false })
		ann.says("forbidden")
		ann.DataTrack(frame(7, "forbidden"))
		require.Empty(t, bob.hears(), "round %d", n)
		require.Empty(t, bob.frames(), "round %d", n)
		permit("ann", func(p *livekit.ParticipantPermission) { p.CanPublishData = true })
		ann.says("allowed")
		require.Equal(t, []string{"allowed"}, bob.hears(), "round %d", n)

		permit("ann", func(p *livekit.ParticipantPermission) { p.Hidden = true })
		ann.says("from nobody")
		require.Empty(t, bob.packets()[0].ParticipantIdentity, "round %d", n)
		permit("ann", func(p *livekit.ParticipantPermission) { p.Hidden = false })
		ann.says("from ann")
		require.Equal(t, "ann", bob.packets()[1].ParticipantIdentity, "round %d", n)
		bob.hears()

		metrics := mustMarshal(&livekit.DataPacket{Value: &livekit.DataPacket_Metrics{Metrics: &livekit.MetricsBatch{}}})
		permit("bob", func(p *livekit.ParticipantPermission) { p.CanSubscribeMetrics = true })
		ann.Data(livekit.DataPacket_RELIABLE, metrics)
		require.Len(t, bob.hears(), 1, "round %d", n)
		permit("bob", func(p *livekit.ParticipantPermission) { p.CanSubscribeMetrics = false })
		ann.Data(livekit.DataPacket_RELIABLE, metrics)
		require.Empty(t, bob.hears(), "round %d", n)

		gone := h.join("tea", "gone")
		require.NoError(t, h.Remove(t.Context(), &livekit.RoomParticipantIdentity{Room: "tea", Identity: "gone"}))
		gone.says("from beyond")
		ann.says("after it")
		require.Equal(t, []string{"after it"}, bob.hears(), "round %d", n)
		require.Empty(t, gone.hears(), "round %d", n)
	}
	over.Store(true)
	noise.Wait()
	require.NoError(t, h.Delete(t.Context(), "tea"))
	bob.hears()
	ann.says("in a room that has ended")
	require.Empty(t, bob.hears())
	require.Equal(t, rooms.NotFound, rooms.ErrorCode(h.SendData(t.Context(), &livekit.SendDataRequest{Room: "tea"})))
}

func TestMovedParticipantsSendAndReceiveInTheirNewRoomAlone(t *testing.T) {
	h := newHouse(t)
	ann, bob, eve := h.join("tea", "ann"), h.join("tea", "bob"), h.join("coffee", "eve")
	for n := range 5 { // to the other room and back
		for _, leg := range []struct {
			from, to     string
			left, joined *client
		}{{"tea", "coffee", ann, eve}, {"coffee", "tea", eve, ann}} {
			require.NoError(t, h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: leg.from, Identity: "bob", DestinationRoom: leg.to}))
			leg.left.says("to those left behind")
			leg.joined.says("welcome")
			bob.says("hello")
			bob.says("hello again", leg.joined.Identity(), leg.left.Identity())
			require.Equal(t, []string{"welcome"}, bob.hears(), "round %d, to %s", n, leg.to)
			require.Equal(t, bob.SID(), leg.joined.packets()[0].ParticipantSid)
			require.Equal(t, []string{"hello", "hello again"}, leg.joined.hears(), "round %d, to %s", n, leg.to)
			require.Empty(t, leg.left.hears(), "round %d, to %s", n, leg.to)
		}
	}
}

// TestHiddenEncryptedDataIsNotTheServers: the data of a hidden participant has no sender, like the
// server's. That it is encrypted tells it apart, whatever its client says of that.
func TestHiddenEncryptedDataIsNotTheServers(t *testing.T) {
	h := newHouse(t)
	bob := h.join("tea", "bob")
	eve := h.join("tea", "eve", func(r *rooms.JoinRequest) { r.Info.Permission.Hidden = true })
	for _, packet := range []*livekit.EncryptedPacket{{}, {EncryptionType: livekit.Encryption_GCM}} {
		packet.EncryptedValue = []byte("x")
		eve.Data(livekit.DataPacket_RELIABLE, mustMarshal(&livekit.DataPacket{Value: &livekit.DataPacket_EncryptedPacket{EncryptedPacket: packet}}))
		got := bob.packets()
		bob.hears()
		require.Len(t, got, 1)
		require.Empty(t, got[0].ParticipantIdentity)
		require.Equal(t, livekit.Encryption_GCM, got[0].GetEncryptedPacket().EncryptionType)
	}
}

// TestAgentsSpeakForOthers: text that an agent sends bears the name of the participant that
// it names, and is marked as generated. Nothing else does, and what others send bears their own name.
func TestAgentsSpeakForOthers(t *testing.T) {
	h := newHouse(t)
	ann, bob := h.join("tea", "ann"), h.join("tea", "bob", takesData)
	agent := h.join("tea", "agent", anAgent)
	header := func() *livekit.DataPacket {
		return &livekit.DataPacket{Value: &livekit.DataPacket_StreamHeader{StreamHeader: &livekit.DataStream_Header{
			StreamId: "s", ContentHeader: &livekit.DataStream_Header_TextHeader{TextHeader: &livekit.DataStream_TextHeader{}},
		}}}
	}
	file := &livekit.DataPacket{Value: &livekit.DataPacket_StreamHeader{StreamHeader: &livekit.DataStream_Header{
		ContentHeader: &livekit.DataStream_Header_ByteHeader{ByteHeader: &livekit.DataStream_ByteHeader{}},
	}}}
	chunk := &livekit.DataPacket{Value: &livekit.DataPacket_StreamChunk{StreamChunk: &livekit.DataStream_Chunk{StreamId: "s"}}}
	trailer := &livekit.DataPacket{Value: &livekit.DataPacket_StreamTrailer{StreamTrailer: &livekit.DataStream_Trailer{StreamId: "s"}}}
	chat := func() *livekit.DataPacket {
		return &livekit.DataPacket{Value: &livekit.DataPacket_ChatMessage{ChatMessage: &livekit.ChatMessage{Id: "m"}}}
	}
	encrypted := &livekit.DataPacket{Value: &livekit.DataPacket_EncryptedPacket{EncryptedPacket: &livekit.EncryptedPacket{EncryptedValue: []byte("x")}}}
	user := &livekit.DataPacket{Value: &livekit.DataPacket_User{User: &livekit.UserPacket{}}}
	as := func(c *client, identity string, dp *livekit.DataPacket) (got *livekit.DataPacket) {
		t.Helper()
		dp.ParticipantIdentity = identity
		c.Data(livekit.DataPacket_RELIABLE, mustMarshal(dp))
		packets := bob.packets()
		bob.hears()
		if len(packets) == 0 {
			return nil
		}
		require.Len(t, packets, 1)
		return packets[0]
	}
	got := as(agent, "ann", header())
	require.Equal(t, "ann", got.GetParticipantIdentity())
	require.True(t, got.GetStreamHeader().GetTextHeader().Generated)
	got = as(agent, "ann", chat())
	require.Equal(t, "ann", got.GetParticipantIdentity())
	require.True(t, got.GetChatMessage().Generated)
	require.Equal(t, "agent/m", got.GetChatMessage().Id, "ann may have a message m of her own")
	said := header()
	said.GetStreamHeader().Topic, said.GetStreamHeader().Attributes = "lk.chat", map[string]string{"parlor.by": "ann"}
	require.Equal(t, map[string]string{"parlor.by": "agent"}, as(agent, "ann", said).GetStreamHeader().Attributes)
	for _, of := range []string{"ann", "somebody on the telephone"} {
		for _, dp := range []*livekit.DataPacket{file, chunk, trailer, encrypted} {
			require.Equal(t, "agent", as(agent, of, dp).GetParticipantIdentity())
		}
	}
	h.join("tea", "eve", func(r *rooms.JoinRequest) { r.Info.Permission.Hidden = true })
	for _, of := range []string{"eve", "somebody on the telephone"} {
		require.Nil(t, as(agent, of, header()), "nobody sees that one in the room")
		require.Nil(t, as(agent, of, chat()))
	}
	for _, of := range []string{"", "agent"} {
		got := as(agent, of, header())
		require.Equal(t, "agent", got.GetParticipantIdentity())
		require.False(t, got.GetStreamHeader().GetTextHeader().Generated)
		require.False(t, as(agent, of, chat()).GetChatMessage().Generated)
	}
	require.Equal(t, "agent", as(agent, "ann", user).GetParticipantIdentity())

	edit, deletion, change := chat(), chat(), header()
	edit.GetChatMessage().EditTimestamp, deletion.GetChatMessage().Deleted = proto.Int64(1), true
	change.GetStreamHeader().Topic, change.GetStreamHeader().GetTextHeader().OperationType = "lk.chat", livekit.DataStream_UPDATE
	for _, dp := range []*livekit.DataPacket{edit, deletion, change} {
		require.Nil(t, as(agent, "ann", dp), "it changes what ann wrote")
		require.Equal(t, "agent", as(agent, "", dp).GetParticipantIdentity())
	}
	for _, dp := range []*livekit.DataPacket{header(), chat(), file, chunk, trailer, encrypted} {
		dp.ParticipantSid = ann.SID()
		require.Nil(t, as(agent, "ann", dp), "it was received, and is on its way back")
		dp.ParticipantSid = ""
	}
	large := chat()
	large.GetChatMessage().Message = strings.Repeat("x", rooms.MaxDataPacket-20)
	require.Nil(t, as(agent, "ann", large), "it is too large with its sender")
	for _, dp := range []*livekit.DataPacket{header(), chat(), file, chunk, trailer, encrypted, user} {
		for _, of := range []string{"agent", "somebody on the telephone"} {
			require.Equal(t, "ann", as(ann, of, dp).GetParticipantIdentity())
		}
	}
}

// TestNobodyHiddenIsTakenForTheServer: data of a hidden participant has no sender, as the
// server's has none.
func TestNobodyHiddenIsTakenForTheServer(t *testing.T) {
	h := newHouse(t)
	bob := h.join("tea", "bob")
	spy := h.join("tea", "spy", func(r *rooms.JoinRequest) { r.Info.Permission.Hidden = true })
	ann := h.join("tea", "ann")
	on := func(c *client, topic string) {
		c.Data(livekit.DataPacket_RELIABLE, mustMarshal(&livekit.DataPacket{Value: &livekit.DataPacket_User{User: &livekit.UserPacket{
			Payload: []byte(topic), Topic: &topic,
		}}}))
	}
	on(spy, "parlor.message")
	on(spy, "mine")
	on(ann, "parlor.ask")
	require.Equal(t, []string{"mine", "parlor.ask"}, bob.hears())
}

func TestWhoeverIsNamedTwiceGetsDataOnce(t *testing.T) {
	h := newHouse(t)
	ann, bob, eve := h.join("tea", "ann"), h.join("tea", "bob"), h.join("tea", "eve")
	ann.says("one", "bob", "bob", "ann", "nobody")
	ann.Data(livekit.DataPacket_RELIABLE, mustMarshal(&livekit.DataPacket{Value: &livekit.DataPacket_User{User: &livekit.UserPacket{
		Payload: []byte("two"), DestinationIdentities: []string{"bob"}, DestinationSids: []string{bob.SID()}, // older clients
	}}}))
	require.Equal(t, []string{"one", "two"}, bob.hears())
	require.Empty(t, eve.hears())
	require.Empty(t, ann.hears())
}

// TestDataKeepsItsOrderWhileRoomsChange: senders send without pause while others join,
// leave, are moved and lose their permission. Each receiver gets each sender's data in
// order and once, and no data of a room that it is not in.
func TestDataKeepsItsOrderWhileRoomsChange(t *testing.T) {
	const rounds = 10
	h := newHouse(t)
	names := []string{"tea", "coffee"}
	var over atomic.Bool
	var senders, changes sync.WaitGroup
	var all, stay []*orderPeer
	join := func(room, identity string) (*client, *orderPeer) {
		o := &orderPeer{last: make(map[string]uint64)}
		all = append(all, o)
		return h.joinWith(room, identity, func(c *client) rooms.Peer { o.fakePeer = fakePeer{c}; return o }), o
	}
	for _, room := range names {
		_, o := join(room, "stays in "+room)
		stay = append(stay, o)
		for i := range 2 {
			c, _ := join(room, fmt.Sprint(room, i))
			senders.Go(func() {
				for n := uint64(1); !over.Load(); n++ {
					kind := livekit.DataPacket_Kind(n % 2)
					dp := &livekit.DataPacket{Value: &livekit.DataPacket_User{User: &livekit.UserPacket{
						Payload: binary.BigEndian.AppendUint64(nil, n),
					}}}
					if kind == livekit.DataPacket_RELIABLE {
						dp.Sequence = uint32(n)
					}
					c.Data(kind, mustMarshal(dp))
				}
			})
		}
	}
	join("tea", "mover")
	check := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	changes.Go(func() {
		for n := range rounds {
			check(h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: names[n%2], Identity: "mover", DestinationRoom: names[(n+1)%2]}))
		}
	})
	changes.Go(func() {
		for n := range rounds {
			c, err := h.try(names[n%2], "passer-by")
			check(err)
			if err == nil {
				c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
			}
		}
	})
	changes.Go(func() {
		for n := range rounds {
			_, err := h.EditParticipant(t.Context(), "tea", "tea0", rooms.ParticipantEdit{
				Permit: func(p *livekit.ParticipantPermission) { p.CanPublishData = n%2 == 1 },
			})
			check(err)
		}
	})
	changes.Wait()
	for i, o := range stay { // all with permission are still heard
		for _, sender := range []string{names[i] + "0", names[i] + "1"} {
			heard := o.heard(sender)
			require.Eventually(t, func() bool { return o.heard(sender) > heard }, time.Minute, time.Millisecond, sender)
		}
	}
	over.Store(true)
	senders.Wait()
	for _, o := range all {
		require.Empty(t, o.wrong)
	}
	for i, o := range stay {
		require.Zero(t, o.heard(names[1-i]+"0")+o.heard(names[1-i]+"1"), "data of another room")
	}
}

// orderPeer is a peer that records how far each sender's data has come.
type orderPeer struct {
	fakePeer
	mu    sync.Mutex // guards the following
	last  map[string]uint64
	wrong string
}

func (o *orderPeer) SendData(_ rooms.Peer, _ livekit.DataPacket_Kind, packet []byte) {
	dp := mustUnmarshal(packet)
	from, n := dp.ParticipantIdentity, binary.BigEndian.Uint64(dp.GetUser().GetPayload())
	o.mu.Lock()
	defer o.mu.Unlock()
	if n <= o.last[from] {
		o.wrong = fmt.Sprintf("%d of %s after %d", n, from, o.last[from])
	}
	o.last[from] = n
}

func (o *orderPeer) heard(sender string) uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last[sender]
}

// joinWith joins with the test's own implementation of media.
func (h *house) joinWith(room, identity string, peer func(*client) rooms.Peer) *client {
	h.t.Helper()
	c := &client{subscribed: make(map[string]bool), trailers: make(map[string]string)}
	var err error
	c.Participant, _, err = h.Join(h.t.Context(), rooms.JoinRequest{
		Room: room, Info: &livekit.ParticipantInfo{Identity: identity, Permission: anyone()}, Protocol: 17, Outlet: c,
	})
	require.NoError(h.t, err)
	require.NoError(h.t, c.Enter(peer(c), func(_ *rooms.Participant, snap rooms.Snapshot) { c.snap = snap }))
	c.Connected()
	c.Sync()
	return c
}

// TestAReplayedSequenceIsKnownWhereTheClientIsMoved: a client that resumes after a move
// repeats messages whose arrival it cannot know.
func TestAReplayedSequenceIsKnownWhereTheClientIsMoved(t *testing.T) {
	h := newHouse(t)
	h.join("tea", "ann")
	bob, eve := h.join("tea", "bob"), h.join("coffee", "eve")
	send := func(seq uint32) {
		bob.Data(livekit.DataPacket_RELIABLE, mustMarshal(&livekit.DataPacket{
			Sequence: seq, Value: &livekit.DataPacket_User{User: &livekit.UserPacket{Payload: fmt.Append(nil, seq)}},
		}))
	}
	send(1)
	send(2)
	require.NoError(t, h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: "tea", Identity: "bob", DestinationRoom: "coffee"}))
	send(2)
	send(3)
	require.Equal(t, []string{"3"}, eve.hears())
}

// countingPeer is a peer that counts data and keeps none.
type countingPeer struct {
	fakePeer
	taken *atomic.Int64
}

func (p countingPeer) SendData(rooms.Peer, livekit.DataPacket_Kind, []byte) { p.taken.Add(1) }

// BenchmarkData measures the delivery of a packet to the 49 other participants of a room,
// while all cores send.
func BenchmarkData(b *testing.B) {
	rs := openRooms(b)
	var clients []*client
	var taken atomic.Int64
	for i := range 50 {
		c := &client{subscribed: make(map[string]bool)}
		var err error
		c.Participant, _, err = rs.Join(b.Context(), rooms.JoinRequest{
			Room: "hall", Protocol: 17, Outlet: c,
			Info: &livekit.ParticipantInfo{Identity: fmt.Sprint("p", i), Permission: anyone()},
		})
		require.NoError(b, err)
		require.NoError(b, c.Enter(countingPeer{fakePeer{c}, &taken}, func(*rooms.Participant, rooms.Snapshot) {}))
		clients = append(clients, c)
	}
	packet := mustMarshal(&livekit.DataPacket{Value: &livekit.DataPacket_User{User: &livekit.UserPacket{Payload: make([]byte, 200)}}})
	var next atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		c := clients[next.Add(1)-1]
		for pb.Next() {
			c.Data(livekit.DataPacket_LOSSY, packet)
		}
	})
	require.EqualValues(b, 49*b.N, taken.Load())
}
