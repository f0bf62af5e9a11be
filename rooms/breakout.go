package rooms

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms/guid"
)

// A room can be divided: its people are sent to breakout rooms for a while, and called back.
// A breakout room is a room of its own, whose name nobody can guess and whose settings tell
// which room it is part of. The division belongs to the main room's row, and ends with it.
// While people are sent out the main room may stand empty: its timeout begins when they are
// to be back, or when nobody is in any of the rooms.

// The bounds of a division.
const (
	MostBreakouts    = 50
	MostAssigned     = 500 // identities, of all breakout rooms together
	LongestBreakouts = 24 * time.Hour

	longestTitle = 100 // bytes
)

// The timeouts of a breakout room, in seconds.
const (
	breakoutEmpty     = 300
	breakoutDeparture = 60
)

// BreakoutTopic is the topic of the data by which clients are told that the division of
// their room has changed.
const BreakoutTopic = "parlor.breakout"

// movesAtATime is how many people are sent at a time: each move waits for the disk.
const movesAtATime = 8

// Division is how a room is divided. It does not change once made.
type Division struct {
	Breakouts []Breakout `json:"breakouts"`
	OpenMs    int64      `json:"open_ms,omitempty"`  // since when people are sent out; 0 = they are not
	UntilMs   int64      `json:"until_ms,omitempty"` // when they are called back
	Limited   bool       `json:"limited,omitempty"`  // UntilMs was asked for, and not LongestBreakouts
}

// Breakout is a breakout room of a division.
type Breakout struct {
	Name     string   `json:"name"` // of the room
	Title    string   `json:"title"`
	Assigned []string `json:"assigned,omitempty"` // identities
}

// MainRoom is the room that a breakout room is part of.
type MainRoom struct {
	Name string `json:"name"`
	SID  string `json:"sid"`
}

// division is the name of the room that r is a breakout room of, or its own if it is divided;
// "" if it is neither.
func (r *Room) division() string {
	switch c := &r.rec.Config; {
	case c.Main != nil:
		return c.Main.Name
	case c.Division != nil:
		return r.name
	}
	return ""
}

// Open reports whether people are sent out. It may be called on nil.
func (d *Division) Open() bool { return d != nil && d.OpenMs != 0 }

// Find returns the breakout room of that name; nil if there is none.
func (d *Division) Find(name string) *Breakout {
	if d == nil {
		return nil
	}
	for i := range d.Breakouts {
		if d.Breakouts[i].Name == name {
			return &d.Breakouts[i]
		}
	}
	return nil
}

// Of returns the breakout room that an identity is assigned to; nil if there is none.
func (d *Division) Of(identity string) *Breakout {
	if d == nil {
		return nil
	}
	for i := range d.Breakouts {
		if slices.Contains(d.Breakouts[i].Assigned, identity) {
			return &d.Breakouts[i]
		}
	}
	return nil
}

// MainRoom returns the open room of that name, or the one that it is a breakout room of.
func (rs *Rooms) MainRoom(ctx context.Context, name string) (Record, error) {
	rec, err := rs.cfg.Store.FindOpen(ctx, name)
	if err != nil || rec.Config.Main == nil {
		return rec, err
	}
	main, err := rs.cfg.Store.FindOpen(ctx, rec.Config.Main.Name)
	if errors.Is(err, ErrNoRoom) || err == nil && main.SID != rec.Config.Main.SID {
		err = Errorf(NotFound, "the room that this one was part of has ended")
	}
	return main, err
}

// Divide sets the breakout rooms of a room, and who is assigned to which; none end the
// division. A breakout room without a name is new. While people are sent out, those follow
// whose assignment is another, and those whose breakout room there is no more come back. name
// may be that of a breakout room, as in all that follows.
func (rs *Rooms) Divide(ctx context.Context, name string, breakouts []Breakout) (Record, error) {
	if err := checkBreakouts(breakouts); err != nil {
		return Record{}, err
	}
	var before *Division
	main, err := rs.divide(ctx, name, func(rec *Record) error {
		before = rec.Config.Division
		d := Division{}
		if before != nil {
			d = *before
		}
		d.Breakouts = slices.Clone(breakouts)
		for i := range d.Breakouts {
			b := &d.Breakouts[i]
			if b.Name == "" {
				b.Name = guid.New("breakout-")
			} else if before.Find(b.Name) == nil {
				return Errorf(Invalid, "the room has no breakout room %q", b.Name)
			}
		}
		rec.Config.Division = &d
		if len(breakouts) == 0 {
			rec.Config.Division = nil
		}
		return nil
	})
	if err != nil {
		return Record{}, err
	}
	if before.Open() {
		rs.follow(ctx, &main, before)
	}
	rs.tellDivision(ctx, &main, before)
	return main, nil
}

func checkBreakouts(all []Breakout) error {
	if len(all) > MostBreakouts {
		return Errorf(Invalid, "a room has at most %d breakout rooms", MostBreakouts)
	}
	names, assigned := map[string]bool{}, map[string]bool{}
	for _, b := range all {
		switch {
		case b.Title == "" || len(b.Title) > longestTitle:
			return Errorf(Invalid, "the title of a breakout room has 1 to %d bytes", longestTitle)
		case b.Name != "" && names[b.Name]:
			return Errorf(Invalid, "the breakout room %q is given twice", b.Name)
		}
		names[b.Name] = true
		for _, identity := range b.Assigned {
			switch {
			case identity == "":
				return Errorf(Invalid, "an identity is empty")
			case assigned[identity]:
				return Errorf(Invalid, "%q is assigned twice", identity)
			}
			assigned[identity] = true
		}
	}
	if len(assigned) > MostAssigned {
		return Errorf(Invalid, "at most %d people are assigned to breakout rooms", MostAssigned)
	}
	return nil
}

// divide changes the division of a room. change must neither wait nor change a division.
func (rs *Rooms) divide(ctx context.Context, name string, change func(*Record) error) (Record, error) {
	main, err := rs.MainRoom(ctx, name)
	if err != nil {
		return Record{}, err
	}
	sid := main.SID
	return rs.editIf(ctx, main.Name, nil, func(rec *Record) error {
		if rec.SID != sid {
			return ErrNoRoom
		}
		if err := change(rec); err != nil {
			return err
		}
		rec.SetDeadline()
		return nil
	})
}

// SendOut sends those who are assigned from the room to their breakout rooms, for limit at
// most; 0 = without a limit but [LongestBreakouts]. Once they are sent out it sets the limit
// anew, and sends nobody.
func (rs *Rooms) SendOut(ctx context.Context, name string, limit time.Duration) (Record, error) {
	now := rs.cfg.Wall()
	sent := false
	main, err := rs.divide(ctx, name, func(rec *Record) error {
		before := rec.Config.Division
		if before == nil {
			return Errorf(Precondition, "the room has no breakout rooms")
		}
		d := *before
		sent = before.Open()
		if !sent {
			d.OpenMs = NowMs(now)
		}
		d.Limited = limit > 0
		if limit <= 0 || limit > LongestBreakouts {
			limit = LongestBreakouts
		}
		d.UntilMs = NowMs(now.Add(limit))
		rec.Config.Division = &d
		return nil
	})
	if err != nil {
		return Record{}, err
	}
	rs.lookAt(main.Name, main.Config.Division.UntilMs)
	if !sent {
		rs.follow(ctx, &main, nil)
	}
	rs.tellDivision(ctx, &main, nil)
	return main, nil
}

// CallBack brings everybody back from the breakout rooms. The assignments stay.
func (rs *Rooms) CallBack(ctx context.Context, name string) (Record, error) {
	main, err := rs.MainRoom(ctx, name)
	if err != nil {
		return Record{}, err
	}
	var moves []*livekit.MoveParticipantRequest
	for identity, room := range rs.whereabouts(ctx, main.Config.Division) {
		moves = append(moves, move(identity, room, main.Name))
	}
	rs.moveAll(ctx, moves)
	main, err = rs.divide(ctx, main.Name, func(rec *Record) error {
		if before := rec.Config.Division; before.Open() {
			d := *before
			d.OpenMs, d.UntilMs, d.Limited = 0, 0, false
			rec.Config.Division = &d
		}
		return nil
	})
	if err != nil {
		return Record{}, err
	}
	rs.tellDivision(ctx, &main, nil)
	return main, nil
}

// GoTo moves a participant of a divided room to one of its rooms by its own wish: to the main
// room, if to is empty or its name; to the breakout room that it is assigned to while people
// are sent out; a host to any.
func (rs *Rooms) GoTo(ctx context.Context, name, identity, to string, host bool) error {
	main, err := rs.MainRoom(ctx, name)
	if err != nil {
		return err
	}
	if to == "" || to == main.Name {
		if name == main.Name {
			return nil
		}
		return rs.Move(ctx, move(identity, name, main.Name))
	}
	d := main.Config.Division
	b := d.Find(to)
	switch {
	case b == nil:
		return Errorf(NotFound, "the room has no breakout room %q", to)
	case !d.Open():
		return Errorf(Precondition, "the breakout rooms are not open")
	case !host && !slices.Contains(b.Assigned, identity):
		return Errorf(Denied, "you are not assigned to this breakout room")
	case to == name:
		return nil
	}
	if err := rs.openBreakout(ctx, &main, b); err != nil {
		return err
	}
	return rs.Move(ctx, move(identity, name, to))
}

func move(identity, from, to string) *livekit.MoveParticipantRequest {
	return &livekit.MoveParticipantRequest{Room: from, Identity: identity, DestinationRoom: to}
}

// TellAll sends data of the server to everybody in a divided room and its breakout rooms.
func (rs *Rooms) TellAll(ctx context.Context, name, topic string, data []byte) error {
	main, err := rs.MainRoom(ctx, name)
	if err != nil {
		return err
	}
	rs.tellRooms(ctx, roomsOf(&main, nil), topic, data)
	return nil
}

// follow moves those who are assigned to where they belong after a change of the division:
// from the main room, and those whose assignment was another before. Who went elsewhere by
// its own wish stays there.
func (rs *Rooms) follow(ctx context.Context, main *Record, before *Division) {
	d := main.Config.Division
	for i := range d.breakouts() {
		if b := &d.Breakouts[i]; len(b.Assigned) > 0 {
			if err := rs.openBreakout(ctx, main, b); err != nil {
				rs.log.Warn("cannot open a breakout room", "room", main.Name, "error", err)
			}
		}
	}
	at := rs.whereabouts(ctx, before)
	for identity, room := range rs.whereabouts(ctx, d) {
		at[identity] = room
	}
	for _, identity := range rs.presentIn(ctx, main.Name) {
		at[identity] = main.Name
	}
	var moves []*livekit.MoveParticipantRequest
	for identity, room := range at {
		target, was := d.Of(identity), before.Of(identity)
		switch {
		case target == nil && room != main.Name && (was != nil || d.Find(room) == nil): // or its breakout room is gone
			moves = append(moves, move(identity, room, main.Name))
		case target == nil || target.Name == room || was != nil && was.Name == target.Name && d.Find(room) != nil:
		case was != nil && was.Name == target.Name && room == main.Name: // it came back by itself
		default:
			moves = append(moves, move(identity, room, target.Name))
		}
	}
	rs.moveAll(ctx, moves)
}

func (d *Division) breakouts() []Breakout {
	if d == nil {
		return nil
	}
	return d.Breakouts
}

// whereabouts are those who are in the breakout rooms of a division, by identity.
func (rs *Rooms) whereabouts(ctx context.Context, d *Division) map[string]string {
	at := map[string]string{}
	for _, b := range d.breakouts() {
		for _, identity := range rs.presentIn(ctx, b.Name) {
			at[identity] = b.Name
		}
	}
	return at
}

// presentIn are the identities of those who are in a room and can be moved.
func (rs *Rooms) presentIn(ctx context.Context, name string) []string {
	if rs.peek(name) == nil {
		return nil // nobody is in it
	}
	all, err := askName(ctx, rs, name, func(r *Room, reply answer[[]string]) {
		var all []string
		for identity, p := range r.participants {
			if !dependent(p.info) && !p.shadow() {
				all = append(all, identity)
			}
		}
		reply(all, nil)
	})
	if err != nil {
		rs.log.Warn("cannot tell who is in the room", "room", name, "error", err)
	}
	return all
}

// openBreakout opens a breakout room unless it is open.
func (rs *Rooms) openBreakout(ctx context.Context, main *Record, b *Breakout) error {
	_, err := rs.Create(ctx, &livekit.CreateRoomRequest{
		Name: b.Name, EmptyTimeout: breakoutEmpty, DepartureTimeout: breakoutDeparture, MaxParticipants: main.MaxParticipants,
	}, func(c *RoomConfig) {
		c.MinPlayoutDelay, c.MaxPlayoutDelay, c.SyncStreams = main.Config.MinPlayoutDelay, main.Config.MaxPlayoutDelay, main.Config.SyncStreams
		c.EnabledCodecs = main.Config.EnabledCodecs
		c.Main = &MainRoom{Name: main.Name, SID: main.SID}
	})
	return err
}

// moveAll moves several at a time, and waits for all. Who cannot be moved stays, which
// whoever looks at the division sees.
func (rs *Rooms) moveAll(ctx context.Context, moves []*livekit.MoveParticipantRequest) {
	var wg sync.WaitGroup
	free := make(chan struct{}, movesAtATime)
	for _, m := range moves {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			if err := rs.Move(ctx, m); err != nil && !errors.Is(err, ErrNoParticipant) {
				rs.log.Warn("a participant of a divided room was not moved", "room", m.Room, "participant", m.Identity, "to", m.DestinationRoom, "error", err)
			}
		})
	}
	wg.Wait()
}

// roomsOf are the names of a divided room and of its breakout rooms, and of those of before.
func roomsOf(main *Record, before *Division) []string {
	names := []string{main.Name}
	for _, d := range []*Division{main.Config.Division, before} {
		for _, b := range d.breakouts() {
			if !slices.Contains(names, b.Name) {
				names = append(names, b.Name)
			}
		}
	}
	return names
}

// tellDivision has the clients in all rooms look at the division again.
func (rs *Rooms) tellDivision(ctx context.Context, main *Record, before *Division) {
	rs.tellRooms(ctx, roomsOf(main, before), BreakoutTopic, []byte("{}"))
}

func (rs *Rooms) tellRooms(ctx context.Context, names []string, topic string, data []byte) {
	for _, name := range names {
		if rs.peek(name) == nil {
			continue
		}
		err := rs.SendData(ctx, &livekit.SendDataRequest{Room: name, Data: data, Kind: livekit.DataPacket_RELIABLE, Topic: &topic})
		if err != nil && !errors.Is(err, ErrNoRoom) {
			rs.log.Warn("a divided room was not told", "room", name, "error", err)
		}
	}
}

// divisions are the divided rooms whose people are sent out, each with the time of the wall
// clock at which it is to be looked at. What is to be done then the room's row tells.
type divisions struct {
	mu   sync.Mutex // guards due
	due  map[string]int64
	wake chan struct{} // capacity 1
}

// lookAt has a divided room looked at at a time, or earlier if that was wanted.
func (rs *Rooms) lookAt(main string, ms int64) {
	d := &rs.divisions
	d.mu.Lock()
	d.due[main] = ms
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// next returns the room that is due first, and forgets it if that is now.
func (d *divisions) next(now int64) (main string, ms int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, at := range d.due {
		if main == "" || at < ms {
			main, ms = name, at
		}
	}
	if main != "" && ms <= now {
		delete(d.due, main)
	}
	return main, ms
}

// callBackInTime calls people back from breakout rooms when their time is over.
func (rs *Rooms) callBackInTime() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := NowMs(rs.cfg.Wall())
		main, ms := rs.divisions.next(now)
		switch {
		case main == "":
			timer.Stop()
		case ms > now:
			timer.Reset(min(time.Duration(ms-now)*time.Millisecond, longestWait))
		default:
			rs.lookNow(main, now)
			continue
		}
		select {
		case <-rs.life.Done():
			return
		case <-rs.divisions.wake:
		case <-timer.C:
		}
	}
}

// lookNow calls the people of a divided room back if their time is over, or if none are left.
func (rs *Rooms) lookNow(main string, now int64) {
	const (
		retry = time.Second
		// emptyFor is how long nobody is seen in the main room: on the way from one room to
		// another people are in none.
		emptyFor = 10 * time.Second
	)
	rec, err := rs.cfg.Store.FindOpen(rs.life, main)
	d := rec.Config.Division
	switch {
	case errors.Is(err, ErrNoRoom), err == nil && !d.Open():
		return
	case err != nil:
	case now >= d.UntilMs:
		_, err = rs.CallBack(rs.life, main)
	case rec.EmptySinceMs == 0:
		rs.lookAt(main, d.UntilMs)
	case now < rec.EmptySinceMs+emptyFor.Milliseconds():
		rs.lookAt(main, rec.EmptySinceMs+emptyFor.Milliseconds())
	default:
		var open []Record
		if open, err = rs.cfg.Store.ListOpen(rs.life, roomsOf(&rec, nil)); err != nil {
			break
		}
		if slices.ContainsFunc(open, func(r Record) bool { return r.NumParticipants > 0 }) {
			rs.lookAt(main, d.UntilMs)
			return
		}
		_, err = rs.CallBack(rs.life, main)
	}
	switch {
	case err == nil, rs.life.Err() != nil:
	case errors.Is(err, ErrNoRoom), errors.Is(err, ErrStopping):
	default:
		rs.log.Warn("cannot call people back from breakout rooms, trying again", "room", main, "error", err)
		rs.lookAt(main, now+retry.Milliseconds())
	}
}
