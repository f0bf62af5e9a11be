package program

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
)

// owner is the only user of its room's name, so it knows the expected state: all
// acknowledged changes, and perhaps the one request under way.
type owner struct {
	name    string
	crashes *crashes

	state ownState
	next  *ownState // state after the request under way; nil = there is none
	calls map[string]*websocket.Conn
}

// ownState is the state of a room according to its owner.
type ownState struct {
	open     bool
	sid      string // "" = not told yet
	metadata string
	people   map[string]seat // by identity
}

type seat struct {
	sid      string // "" = not told yet
	metadata string
	leaving  bool // it may have left: no later acknowledgement proves it yet
}

func (s ownState) copy() ownState {
	s.people = maps.Clone(s.people)
	return s
}

// live runs during one life of the process.
func (o *owner) live(ctx context.Context, api livekit.RoomService, giveUp bool) {
	o.calls = map[string]*websocket.Conn{}
	defer func() {
		for _, conn := range o.calls {
			conn.CloseNow()
		}
	}()
	ctx = as(ctx, o.name)
	if giveUp {
		if !o.awaitNobody(ctx, api) {
			return
		}
	} else {
		for identity := range o.state.people {
			if !o.join(ctx, identity) {
				return
			}
		}
	}
	for ctx.Err() == nil && o.step(ctx, api) {
		time.Sleep(rand.N(5 * time.Millisecond)) // the pause of a client
	}
}

// awaitNobody waits until all expected participants have been given up.
func (o *owner) awaitNobody(ctx context.Context, api livekit.RoomService) bool {
	for identity, s := range o.state.people {
		s.leaving = true
		o.state.people[identity] = s
	}
	for {
		list, err := api.ListParticipants(ctx, &livekit.ListParticipantsRequest{Room: o.name})
		switch {
		case err != nil:
			o.crashes.fail("list participants: %v", err)
			return false
		case len(list.Participants) == 0:
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// step makes one request that is possible now.
func (o *owner) step(ctx context.Context, api livekit.RoomService) bool {
	identity := string(rune('a' + rand.N(6)))
	there, known := o.state.people[identity]
	next := o.state.copy()
	text := fmt.Sprintf("m%d", rand.N(1_000_000))
	switch dice := rand.N(20); {
	case !o.state.open:
		next = ownState{open: true, metadata: text, people: map[string]seat{}}
		return o.try(&next, func() error {
			room, err := api.CreateRoom(ctx, &livekit.CreateRoomRequest{
				Name: o.name, Metadata: text, EmptyTimeout: rooms.WireNever, DepartureTimeout: rooms.WireNever,
			})
			next.sid = room.GetSid()
			return err
		})
	case dice == 0:
		next = ownState{}
		ok := o.try(&next, func() error {
			_, err := api.DeleteRoom(ctx, &livekit.DeleteRoomRequest{Room: o.name})
			return err
		})
		for _, conn := range o.calls {
			conn.CloseNow()
		}
		clear(o.calls)
		return ok
	case dice < 7:
		next.metadata = text
		return o.try(&next, func() error {
			_, err := api.UpdateRoomMetadata(ctx, &livekit.UpdateRoomMetadataRequest{Room: o.name, Metadata: text})
			return err
		})
	case !known:
		return o.join(ctx, identity)
	case there.leaving:
		return true
	case dice < 11:
		there.metadata = text
		next.people[identity] = there
		return o.try(&next, func() error {
			_, err := api.UpdateParticipant(ctx, &livekit.UpdateParticipantRequest{Room: o.name, Identity: identity, Metadata: text})
			return err
		})
	case dice < 14:
		delete(next.people, identity)
		return o.try(&next, func() error {
			_, err := api.RemoveParticipant(ctx, &livekit.RoomParticipantIdentity{Room: o.name, Identity: identity})
			return err
		})
	case dice < 16:
		there.leaving = true
		o.state.people[identity] = there
		conn := o.calls[identity]
		delete(o.calls, identity)
		hangUp(ctx, conn)
	}
	return true
}

// try makes the request that leads to the next state. A later acknowledgement also proves
// the room's earlier changes.
func (o *owner) try(next *ownState, request func() error) bool {
	o.next = next
	var gone []string
	for identity, s := range o.state.people {
		if s.leaving {
			gone = append(gone, identity)
		}
	}
	if err := request(); err != nil {
		o.crashes.count(func(t *tally) { t.CutShort++ })
		o.crashes.fail("%s: %v", o.name, err)
		return false
	}
	o.crashes.count(func(t *tally) { t.Acknowledged++ })
	for _, identity := range gone {
		delete(next.people, identity)
	}
	o.state, o.next = *next, nil
	return true
}

// join joins or, after a crash, rejoins.
func (o *owner) join(ctx context.Context, identity string) bool {
	next := o.state.copy()
	before, back := next.people[identity]
	if !back {
		before.metadata = "of the token"
	}
	next.people[identity] = before
	return o.try(&next, func() error {
		conn, first, err := o.crashes.dial(ctx, o.name, identity)
		if err != nil {
			return err
		}
		o.calls[identity] = conn
		self := first.GetJoin().GetParticipant()
		if back {
			o.crashes.count(func(t *tally) { t.TakenUp++ })
			if self.GetSid() != before.sid || self.GetMetadata() != before.metadata {
				o.crashes.Errorf("%s of %s came back as %v, was %+v", identity, o.name, self, before)
			}
		}
		next.people[identity] = seat{sid: self.GetSid(), metadata: self.GetMetadata()}
		return nil
	})
}

// check compares the record with the owner's state.
func (o *owner) check(r *record) {
	o.crashes.Helper()
	resolved, why := o.state.match(r.open[o.name])
	if why != "" && o.next != nil {
		var whyNext string
		resolved, whyNext = o.next.match(r.open[o.name])
		if whyNext == "" {
			why = ""
		} else {
			why += "; nor has the request under way happened: " + whyNext
		}
	}
	if why != "" {
		o.crashes.Fatalf("%s is not as acknowledged: %s", o.name, why)
	}
	o.state, o.next = resolved, nil
}

// match compares a state with the database. It returns the state with details that only
// the database has, or describes the difference.
func (s ownState) match(row *roomRow) (ownState, string) {
	s = s.copy()
	switch {
	case row == nil && !s.open:
		return s, ""
	case row == nil || !s.open:
		return s, fmt.Sprintf("open by the clients: %v, by the record: %v", s.open, row != nil)
	case s.sid != "" && s.sid != row.sid:
		return s, fmt.Sprintf("sid %s, on disk %s", s.sid, row.sid)
	case s.metadata != row.metadata:
		return s, fmt.Sprintf("metadata %s, on disk %s", s.metadata, row.metadata)
	}
	s.sid = row.sid
	for _, p := range row.people {
		have, known := s.people[p.identity]
		switch {
		case !known:
			return s, p.identity + " is there only on disk"
		case have.sid != "" && have.sid != p.sid:
			return s, fmt.Sprintf("%s is %s, on disk %s", p.identity, have.sid, p.sid)
		case have.metadata != p.info.Metadata:
			return s, fmt.Sprintf("%s has metadata %s, on disk %s", p.identity, have.metadata, p.info.Metadata)
		}
		s.people[p.identity] = seat{sid: p.sid, metadata: have.metadata}
	}
	for identity, have := range s.people {
		if slices.ContainsFunc(row.people, func(p *sessionRow) bool { return p.identity == identity }) {
			continue
		}
		if !have.leaving {
			return s, identity + " is missing on disk"
		}
		delete(s.people, identity)
	}
	return s, ""
}

func (c *crashes) count(f func(*tally)) {
	c.crowd.mu.Lock()
	defer c.crowd.mu.Unlock()
	f(&c.tally)
}

// dial joins over a WebSocket and returns the first message.
func (c *crashes) dial(ctx context.Context, room, identity string) (*websocket.Conn, *livekit.SignalResponse, error) {
	create := &livekit.RoomConfiguration{}
	if strings.HasPrefix(room, "crowd") {
		create.EmptyTimeout, create.DepartureTimeout = 1, 1
	}
	token, err := auth.NewAccessToken("devkey", "secret").SetIdentity(identity).SetMetadata("of the token").SetValidFor(time.Hour).
		SetVideoGrant(&auth.VideoGrant{RoomJoin: true, Room: room}).SetRoomConfig(create).ToJWT()
	if err != nil {
		return nil, nil, err
	}
	conn, res, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(c.url(), "http")+"/rtc?protocol=17&auto_subscribe=1&access_token="+token, nil)
	if err != nil {
		// 404: removed or replaced before the upgrade.
		if res != nil && res.StatusCode != http.StatusNotFound {
			c.fail("join of %s refused: %s", room, res.Status)
		}
		return nil, nil, err
	}
	conn.SetReadLimit(1 << 20)
	first, err := receive(ctx, conn)
	if err == nil && first.GetJoin() == nil {
		err = fmt.Errorf("sent away at once: %v", first)
	}
	if err != nil {
		conn.CloseNow()
		return nil, nil, err
	}
	return conn, first, nil
}

func receive(ctx context.Context, conn *websocket.Conn) (*livekit.SignalResponse, error) {
	_, b, err := conn.Read(ctx)
	if err != nil {
		return nil, err
	}
	m := &livekit.SignalResponse{}
	return m, proto.Unmarshal(b, m)
}

func send(ctx context.Context, conn *websocket.Conn, m *livekit.SignalRequest) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return conn.Write(ctx, websocket.MessageBinary, b)
}

// hangUp leaves, and waits until the server has closed the socket.
func hangUp(ctx context.Context, conn *websocket.Conn) {
	defer conn.CloseNow()
	err := send(ctx, conn, &livekit.SignalRequest{Message: &livekit.SignalRequest_Leave{Leave: &livekit.LeaveRequest{}}})
	for err == nil { // until the server closes, or dies
		_, err = receive(ctx, conn)
	}
}

// crowd is many clients that use the same names concurrently. The expected state is
// unknown, but all acknowledged changes must have been written.
type crowd struct {
	mu       sync.Mutex // guards the following, and the tally
	rooms    []string   // acknowledged SIDs since the last check
	sessions []string
}

func newCrowd() *crowd { return &crowd{} }

func (w *crowd) live(ctx context.Context, clients *sync.WaitGroup, c *crashes, api livekit.RoomService) {
	for range 2 {
		clients.Go(func() { w.administer(ctx, c, api) })
	}
	for i := range 3 {
		clients.Go(func() { w.comeAndGo(ctx, c, i == 0) })
	}
}

func crowdRoom() string { return fmt.Sprintf("crowd-%d", rand.N(2)) }

func (w *crowd) administer(ctx context.Context, c *crashes, api livekit.RoomService) {
	for ctx.Err() == nil && !c.killed.Load() {
		name := crowdRoom()
		ctx := as(ctx, name)
		var err error
		switch rand.N(8) {
		case 0:
			_, err = api.DeleteRoom(ctx, &livekit.DeleteRoomRequest{Room: name})
		case 1, 2:
			_, err = api.UpdateRoomMetadata(ctx, &livekit.UpdateRoomMetadataRequest{Room: name, Metadata: "crowd"})
		case 3:
			_, err = api.RemoveParticipant(ctx, &livekit.RoomParticipantIdentity{Room: name, Identity: "p0"})
		default:
			var room *livekit.Room
			room, err = api.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: name, EmptyTimeout: 1, DepartureTimeout: 1})
			if err == nil {
				w.mu.Lock()
				w.rooms = append(w.rooms, room.Sid)
				w.mu.Unlock()
			}
		}
		if err != nil && !strings.Contains(err.Error(), "does not exist") {
			c.fail("%s: %v", name, err)
		}
		time.Sleep(rand.N(20 * time.Millisecond))
	}
}

// comeAndGo joins, with media or without, and leaves in one of several ways. Several
// clients share an identity, so they replace each other.
func (w *crowd) comeAndGo(ctx context.Context, c *crashes, media bool) {
	for ctx.Err() == nil && !c.killed.Load() {
		conn, first, err := c.dial(ctx, crowdRoom(), fmt.Sprintf("p%d", rand.N(3)))
		if err != nil {
			continue // the process is dead, or the participant was removed already
		}
		w.mu.Lock()
		w.rooms = append(w.rooms, first.GetJoin().GetRoom().GetSid())
		w.sessions = append(w.sessions, first.GetJoin().GetParticipant().GetSid())
		w.mu.Unlock()
		if media {
			connect(ctx, conn)
		}
		switch rand.N(3) {
		case 0:
			conn.CloseNow()
		default:
			hangUp(ctx, conn)
		}
	}
}

func (w *crowd) check(c *crashes, r *record) {
	c.Helper()
	sessions := map[string]bool{}
	for _, s := range r.sessions {
		sessions[s.sid] = true
	}
	for _, sid := range w.sessions {
		if !sessions[sid] {
			c.Fatalf("session %s was acknowledged and is not on disk", sid)
		}
	}
	for _, sid := range w.rooms {
		if r.rooms[sid] == nil {
			c.Fatalf("room %s was acknowledged and is not on disk", sid)
		}
	}
	w.sessions, w.rooms = nil, nil
}
