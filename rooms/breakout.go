package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms/guid"
)

// A room can be divided: its people are sent to breakout rooms for a while, and called back.
// A breakout room is a room of its own, whose name nobody can guess and whose settings tell
// which room it is part of. The division belongs to the main room's row, and ends with it.
//
// Calling people back is a state and not an act: the division is closed first, so that nobody
// goes out any more, and then everybody is moved again and again until nobody is out, those
// who are expected back after a restart included. Until then no deadline of the main room
// runs, and its empty time starts over. One look at the row and at the rooms does it all; it
// is repeated every few seconds while people may be out, so that no move that fails, no
// restart and no late arrival is lost.

// The bounds of a division.
const (
	MostBreakouts    = 50
	MostAssigned     = 500 // identities, of all breakout rooms together
	LongestBreakouts = 24 * time.Hour

	longestTitle    = 100      // bytes
	longestDivision = 64 << 10 // bytes, in the main room's row
)

// The timeouts of a breakout room, in seconds. Who was alone in it and lost the network for
// some minutes finds it again.
const (
	breakoutEmpty     = 900
	breakoutDeparture = 900
)

// BreakoutTopic is the topic of the data by which clients are told that the division of
// their room has changed.
const BreakoutTopic = "parlor.breakout"

// breakoutPrefix begins the names of breakout rooms.
const breakoutPrefix = "breakout-"

// isBreakoutName reports whether a name is as those of breakout rooms: no other room is one, so
// that it need not be read, and only the division opens a room of such a name for people.
func isBreakoutName(name string) bool {
	id, is := strings.CutPrefix(name, breakoutPrefix)
	return is && len(id) == guid.Length && !strings.ContainsFunc(id, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	})
}

const (
	// movesAtATime is how many people of a room are sent at a time: each move waits for the disk.
	movesAtATime = 8
	// looksAtATime is how many divided rooms are looked at at a time, and longestLook the
	// longest that one look reads and moves.
	looksAtATime = 16
	longestLook  = time.Minute
	// lookEvery is when a divided room is looked at again while people are sent out, and
	// lookSoon while they are to come back.
	lookEvery = 5 * time.Second
	lookSoon  = time.Second
	// emptyFor is how long nobody is seen in the main room until nobody is there: on the way
	// from one room to another people are in none.
	emptyFor = 10 * time.Second
)

// Division is how a room is divided. It does not change once made.
type Division struct {
	Breakouts []Breakout `json:"breakouts"`
	OpenMs    int64      `json:"open_ms,omitempty"`  // since when people are sent out; 0 = they are not
	UntilMs   int64      `json:"until_ms,omitempty"` // when they are called back
	Limited   bool       `json:"limited,omitempty"`  // UntilMs was asked for, and not LongestBreakouts
	Back      bool       `json:"back,omitempty"`     // they were called back, and some may still be out
	Dropped   []string   `json:"dropped,omitempty"`  // rooms that are no breakout rooms any more, and where some may still be
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

// division is the room that r is a breakout room of, or r if it is divided; zero if it is
// neither.
func (r *Room) division() MainRoom {
	switch c := &r.rec.Config; {
	case c.Main != nil:
		return *c.Main
	case c.Division != nil:
		return MainRoom{r.name, r.rec.SID}
	}
	return MainRoom{}
}

// isPartOf reports whether the open room is a breakout room of main.
func (r *Record) isPartOf(main MainRoom) bool { return r.Config.Main != nil && *r.Config.Main == main }

// Open reports whether people are sent out. It may be called on nil.
func (d *Division) Open() bool { return d != nil && d.OpenMs != 0 }

// someOut reports whether some may be out, so that the main room waits for them. It may be
// called on nil.
func (d *Division) someOut() bool { return d != nil && (d.OpenMs != 0 || d.Back || len(d.Dropped) > 0) }

// names are those of all rooms in which some of the main room's people may be. It may be
// called on nil.
func (d *Division) names() []string {
	if d == nil {
		return nil
	}
	names := make([]string, 0, len(d.Breakouts)+len(d.Dropped))
	for i := range d.Breakouts {
		names = append(names, d.Breakouts[i].Name)
	}
	return append(names, d.Dropped...)
}

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

// mainOf is the room that the open room of that name is a breakout room of; zero if it is none.
func (rs *Rooms) mainOf(ctx context.Context, name string) (MainRoom, error) {
	if !isBreakoutName(name) {
		return MainRoom{}, nil
	}
	rec, err := rs.cfg.Store.FindOpen(ctx, name)
	if errors.Is(err, ErrNoRoom) || err == nil && rec.Config.Main == nil {
		return MainRoom{}, nil
	}
	if err != nil {
		return MainRoom{}, err
	}
	return *rec.Config.Main, nil
}

// Governing is the name of the room whose bans, revocations and decisions on hosts hold in the
// room of that name: of the main room for a breakout room, else the name itself.
func (rs *Rooms) Governing(ctx context.Context, name string) (string, error) {
	main, err := rs.mainOf(ctx, name)
	if err != nil || main.Name == "" {
		return name, err
	}
	return main.Name, nil
}

// meeting are the names of the governing room and of all rooms of its division.
func (rs *Rooms) meeting(ctx context.Context, name string) ([]string, error) {
	name, err := rs.Governing(ctx, name)
	if err != nil {
		return nil, err
	}
	rec, err := rs.cfg.Store.FindOpen(ctx, name)
	if err != nil && !errors.Is(err, ErrNoRoom) {
		return nil, err
	}
	return append([]string{name}, rec.Config.Division.names()...), nil
}

// standing is how an identity stands to a room of a division: whether it may go into it, and
// what was decided of it in the main room. It is zero for rooms that are no breakout rooms.
type standing struct {
	main          MainRoom
	open          bool // people are sent out to this room
	assigned      bool
	host, decided bool // in the main room
}

func (rs *Rooms) standing(ctx context.Context, room, identity string) (standing, error) {
	self, err := rs.mainOf(ctx, room)
	if err != nil || self.Name == "" {
		return standing{}, err
	}
	s := standing{main: self}
	main, err := rs.cfg.Store.FindOpen(ctx, self.Name)
	if errors.Is(err, ErrNoRoom) || err == nil && main.SID != self.SID {
		return s, nil // it has ended, and so will the breakout room
	}
	if err != nil {
		return s, err
	}
	if b := main.Config.Division.Find(room); b != nil {
		s.open, s.assigned = main.Config.Division.Open(), slices.Contains(b.Assigned, identity)
	}
	s.host, s.decided, err = rs.cfg.Store.HostDecided(ctx, self.Name, identity)
	return s, err
}

// refusal is why who stands so may not go into the breakout room; nil if it may, or if it is
// none. host tells whether it is host, unless the main room has decided that.
func (s *standing) refusal(host bool) error {
	if s.decided {
		host = s.host
	}
	switch {
	case s.main.Name == "":
	case !s.open:
		return Errorf(Precondition, "the breakout rooms are not open: join room %q", s.main.Name)
	case !s.assigned && !host:
		return Errorf(Denied, "you are not assigned to this breakout room: join room %q", s.main.Name)
	}
	return nil
}

// Divide sets the breakout rooms of a room, and who is assigned to which; none end the
// division. A breakout room without a name is new. While people are sent out, those follow
// whose assignment is another, and those whose breakout room there is no more come back. name
// may be that of a breakout room, as in all that follows.
func (rs *Rooms) Divide(ctx context.Context, name string, breakouts []Breakout) (Record, error) {
	if err := rs.checkBreakouts(breakouts); err != nil {
		return Record{}, err
	}
	var before *Division
	main, err := rs.divide(ctx, name, func(rec *Record) (*Division, error) {
		before = rec.Config.Division
		d := Division{}
		if before != nil {
			d = *before
		}
		d.Breakouts, d.Dropped = slices.Clone(breakouts), slices.Clone(d.Dropped)
		for i := range d.Breakouts {
			b := &d.Breakouts[i]
			if b.Name == "" {
				b.Name = guid.New(breakoutPrefix)
			} else if before.Find(b.Name) == nil {
				return nil, Errorf(Invalid, "the room has no breakout room %q", b.Name)
			}
		}
		for _, b := range before.breakouts() {
			if d.Find(b.Name) == nil {
				d.Dropped = append(d.Dropped, b.Name)
			}
		}
		if len(breakouts) == 0 {
			d.callBack()
		}
		return &d, nil
	})
	if err != nil {
		return Record{}, err
	}
	if before.someOut() {
		rs.bring(rs.life, &main, before)
	}
	rs.tellDivision(ctx, &main, before)
	rs.lookAt(main.Name, 0)
	return main, nil
}

// callBack has everybody come back.
func (d *Division) callBack() {
	d.Back = d.someOut()
	d.OpenMs, d.UntilMs, d.Limited = 0, 0, false
}

func (rs *Rooms) checkBreakouts(all []Breakout) error {
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
			if err := rs.checkIdentity(identity); err != nil {
				return err
			}
			assigned[identity] = true
		}
	}
	if len(assigned) > MostAssigned {
		return Errorf(Invalid, "at most %d people are assigned to breakout rooms", MostAssigned)
	}
	return nil
}

// divide changes the division of a room. change returns the new one, and must neither wait
// nor change anything.
func (rs *Rooms) divide(ctx context.Context, name string, change func(*Record) (*Division, error)) (Record, error) {
	main, err := rs.MainRoom(ctx, name)
	if err != nil {
		return Record{}, err
	}
	sid := main.SID
	return rs.editIf(ctx, main.Name, nil, func(rec *Record) error {
		if rec.SID != sid {
			return ErrNoRoom
		}
		d, err := change(rec)
		if err != nil {
			return err
		}
		row, err := json.Marshal(d)
		if err != nil {
			return err
		}
		if len(row) > longestDivision {
			return Errorf(Exhausted, "the division is longer than %d bytes: name fewer people, or shorter ones", longestDivision)
		}
		waited := rec.Config.Division.someOut()
		rec.Config.Division = d
		if waited && !d.someOut() && rec.EmptySinceMs != 0 {
			rec.EmptySinceMs = NowMs(rs.cfg.Wall()) // until now it was not empty, but waited
		}
		rec.SetDeadline()
		return nil
	})
}

// SendOut sends those who are assigned from the room to their breakout rooms, for limit at
// most; 0 = without a limit but [LongestBreakouts]. Once they are sent out it only sets a
// new limit.
func (rs *Rooms) SendOut(ctx context.Context, name string, limit time.Duration) (Record, error) {
	now := rs.cfg.Wall()
	sent := false
	main, err := rs.divide(ctx, name, func(rec *Record) (*Division, error) {
		before := rec.Config.Division
		if before == nil || len(before.Breakouts) == 0 {
			return nil, Errorf(Precondition, "the room has no breakout rooms")
		}
		d := *before
		sent = before.Open()
		if !sent {
			d.OpenMs = NowMs(now)
		}
		d.Back = false
		d.Limited = limit > 0
		if limit <= 0 || limit > LongestBreakouts {
			limit = LongestBreakouts
		}
		d.UntilMs = NowMs(now.Add(limit))
		return &d, nil
	})
	if err != nil {
		return Record{}, err
	}
	if !sent {
		rs.bring(rs.life, &main, nil)
	}
	rs.tellDivision(ctx, &main, nil)
	rs.lookAt(main.Name, 0)
	return main, nil
}

// CallBack brings everybody back from the breakout rooms. The assignments stay. Who cannot be
// moved at once is moved as soon as it can be.
func (rs *Rooms) CallBack(ctx context.Context, name string) (Record, error) {
	main, err := rs.divide(ctx, name, func(rec *Record) (*Division, error) {
		if rec.Config.Division == nil {
			return nil, nil
		}
		d := *rec.Config.Division
		d.callBack()
		return &d, nil
	})
	if err != nil {
		return Record{}, err
	}
	rs.bring(rs.life, &main, main.Config.Division)
	rs.tellDivision(ctx, &main, nil)
	rs.lookAt(main.Name, 0)
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
		return rs.Move(rs.life, move(identity, name, main.Name))
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
	if err := rs.openBreakout(rs.life, &main, b.Name); err != nil {
		return err
	}
	return rs.moveAs(rs.life, move(identity, name, to), host)
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

// bring moves those to where they belong who are elsewhere, and waits for it. before is the
// division before a change of assignments, nil if people were not sent out.
func (rs *Rooms) bring(ctx context.Context, main *Record, before *Division) {
	out, _ := rs.out(ctx, main) // who cannot be seen now is seen by the next look
	if d := main.Config.Division; d.Open() && before != d {
		here, err := rs.peopleIn(ctx, main.Name, MainRoom{main.Name, main.SID})
		if err != nil {
			rs.log.Warn("cannot tell who is in the room", "room", main.Name, "error", err)
		}
		out = append(out, here...)
	}
	rs.moveAll(ctx, main, out, before)
}

// visitor is a participant in a room of a division.
type visitor struct {
	identity, sid string
	room          string
	host          bool
}

// belongs is the room of main's division in which v is to be; before is the division before a
// change of assignments, nil if people were not sent out. Who is in the main room while people
// are sent out has come back by its own wish, unless its assignment has changed.
func (d *Division) belongs(v *visitor, main string, before *Division) string {
	if !d.Open() {
		return main
	}
	target, was := d.Of(v.identity), before.Of(v.identity)
	changed := (target == nil) != (was == nil) || target != nil && target.Name != was.Name
	switch {
	case v.room == main && !changed:
		return main
	case d.Find(v.room) != nil && v.host && !changed:
		return v.room
	case target == nil:
		return main
	}
	return target.Name
}

func (d *Division) breakouts() []Breakout {
	if d == nil {
		return nil
	}
	return d.Breakouts
}

// out are those who are in the breakout rooms of main, and how many are there by the rows:
// more, if some are expected back or cannot be seen.
func (rs *Rooms) out(ctx context.Context, main *Record) (people []visitor, byRows int) {
	names := main.Config.Division.names()
	if len(names) == 0 {
		return nil, 0
	}
	rows, err := rs.cfg.Store.ListOpen(ctx, names)
	if err != nil {
		rs.log.Warn("cannot tell who is in the breakout rooms", "room", main.Name, "error", err)
		return nil, 1
	}
	self := MainRoom{main.Name, main.SID}
	for i := range rows {
		if rows[i].NumParticipants == 0 || !rows[i].isPartOf(self) {
			continue
		}
		byRows += int(rows[i].NumParticipants)
		in, err := rs.peopleIn(ctx, rows[i].Name, self)
		if err != nil {
			rs.log.Warn("cannot tell who is in the room", "room", rows[i].Name, "error", err)
		}
		people = append(people, in...)
	}
	return people, byRows
}

// peopleIn are those who are in a room of the division of main and can be moved.
func (rs *Rooms) peopleIn(ctx context.Context, name string, main MainRoom) ([]visitor, error) {
	if rs.peek(name) == nil {
		return nil, nil // nobody is in it
	}
	return askName(ctx, rs, name, func(r *Room, reply answer[[]visitor]) {
		var all []visitor
		if r.division() == main {
			for identity, p := range r.participants {
				if !dependent(p.info) && !p.shadow() {
					all = append(all, visitor{identity, p.sid, name, p.host})
				}
			}
		}
		reply(all, nil)
	})
}

// openBreakout opens a breakout room unless it is open. Another room that bears its name, of
// which nobody but the division can know, is ended.
func (rs *Rooms) openBreakout(ctx context.Context, main *Record, name string) error {
	self := MainRoom{main.Name, main.SID}
	for range 3 {
		out, err := rs.Create(ctx, &livekit.CreateRoomRequest{
			Name: name, EmptyTimeout: breakoutEmpty, DepartureTimeout: breakoutDeparture, MaxParticipants: main.MaxParticipants,
		}, func(c *RoomConfig) {
			c.MinPlayoutDelay, c.MaxPlayoutDelay, c.SyncStreams = main.Config.MinPlayoutDelay, main.Config.MaxPlayoutDelay, main.Config.SyncStreams
			c.EnabledCodecs = main.Config.EnabledCodecs
			c.Main = &self
		})
		if err != nil || out.Room.isPartOf(self) {
			return err
		}
		err = rs.Delete(ctx, name, func(rec *Record) bool { return !rec.isPartOf(self) })
		if code := ErrorCode(err); err != nil && code != NotFound && code != Precondition {
			return err
		}
	}
	return Errorf(Unavailable, "the breakout room cannot be opened, try again")
}

// moveAll moves several at a time to where they belong, and waits for all, also for those whom
// a look moves meanwhile. Who cannot be moved stays until the next look.
func (rs *Rooms) moveAll(ctx context.Context, main *Record, people []visitor, before *Division) {
	done, err := rs.divisions.alone(ctx, main.Name)
	if err != nil {
		return // the process stops, or it is for the next look
	}
	defer done()
	d := main.Config.Division
	opened := map[string]bool{main.Name: true}
	var wg sync.WaitGroup
	defer wg.Wait()
	free := make(chan struct{}, movesAtATime)
	for _, v := range people {
		to := d.belongs(&v, main.Name, before)
		if to == v.room {
			continue
		}
		if _, tried := opened[to]; !tried {
			err := rs.openBreakout(ctx, main, to)
			if opened[to] = err == nil; err != nil {
				rs.log.Warn("cannot open a breakout room", "room", main.Name, "error", err)
			}
		}
		if !opened[to] {
			continue
		}
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			err := rs.Move(ctx, move(v.identity, v.room, to))
			if ErrorCode(err) == Exists && to == main.Name && rs.isIn(ctx, to, v.identity) {
				err = rs.RemoveSession(ctx, v.room, v.identity, v.sid) // it is back, by another client
			}
			if err != nil && !errors.Is(err, ErrNoParticipant) {
				rs.log.Warn("a participant of a divided room was not moved", "room", v.room, "participant", v.identity, "to", to, "error", err)
			}
		})
	}
}

// isIn reports whether an identity is in the room, and not only expected or on its way.
func (rs *Rooms) isIn(ctx context.Context, name, identity string) bool {
	in, err := askName(ctx, rs, name, func(r *Room, reply answer[bool]) { reply(r.participants[identity] != nil, nil) })
	return in && err == nil
}

// endBreakouts ends the breakout rooms of a main room that has ended, until all have ended or
// the process stops. tried gets the outcome of the first try; it may be nil.
func (rs *Rooms) endBreakouts(main *Record, tried chan<- error) {
	self := MainRoom{main.Name, main.SID}
	left := main.Config.Division.names()
	for {
		var errs error
		left = slices.DeleteFunc(left, func(name string) bool {
			err := rs.Delete(rs.life, name, func(rec *Record) bool { return rec.isPartOf(self) })
			if code := ErrorCode(err); err == nil || code == NotFound || code == Precondition {
				return true
			}
			errs = errors.Join(errs, err)
			return false
		})
		if tried != nil {
			tried <- errs
			tried = nil
		}
		if errs == nil {
			return
		}
		rs.log.Warn("cannot end the breakout rooms of a room that has ended, trying again", "room", main.Name, "error", errs)
		select {
		case <-rs.life.Done():
			return
		case <-time.After(retryInterval):
		}
	}
}

// endOrphan ends a breakout room if its main room ended while no process ran.
func (rs *Rooms) endOrphan(rec *Record) {
	main, err := rs.cfg.Store.FindOpen(rs.life, rec.Config.Main.Name)
	if err == nil && main.SID == rec.Config.Main.SID || err != nil && !errors.Is(err, ErrNoRoom) {
		return
	}
	rs.endBreakouts(&Record{Name: rec.Config.Main.Name, SID: rec.Config.Main.SID, Config: RoomConfig{Division: &Division{Dropped: []string{rec.Name}}}}, nil)
}

// roomsOf are the names of a divided room and of its breakout rooms, and of those of before.
func roomsOf(main *Record, before *Division) []string {
	names := []string{main.Name}
	for _, d := range []*Division{main.Config.Division, before} {
		for _, name := range d.names() {
			if !slices.Contains(names, name) {
				names = append(names, name)
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

// divisions are the divided rooms, each with the time of the wall clock at which it is to be
// looked at. What is to be done then the room's row tells.
type divisions struct {
	mu   sync.Mutex // guards the following
	due  map[string]int64
	busy map[string]bool // is being looked at
	wake chan struct{}   // capacity 1
	// moving has a turn for each main room whose people are being moved.
	moving map[string]*turn
}

// turn lets one at a time do something.
type turn struct {
	free  chan struct{} // capacity 1; full while somebody does it
	wants int           // those who do it or wait, guarded by divisions.mu
}

// alone waits until nobody else moves the people of a main room. done ends that.
func (d *divisions) alone(ctx context.Context, main string) (done func(), err error) {
	d.mu.Lock()
	t := d.moving[main]
	if t == nil {
		t = &turn{free: make(chan struct{}, 1)}
		d.moving[main] = t
	}
	t.wants++
	d.mu.Unlock()
	gone := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if t.wants--; t.wants == 0 {
			delete(d.moving, main)
		}
	}
	select {
	case t.free <- struct{}{}:
		return func() { <-t.free; gone() }, nil
	case <-ctx.Done():
		gone()
		return nil, ctx.Err()
	}
}

// lookAt has a divided room looked at at a time, or earlier if that was wanted.
func (rs *Rooms) lookAt(main string, ms int64) {
	d := &rs.divisions
	d.mu.Lock()
	if at, wanted := d.due[main]; !wanted || ms < at {
		d.due[main] = ms
	}
	d.mu.Unlock()
	d.awake()
}

func (d *divisions) awake() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// next returns the room that is due first and is not being looked at. If that is now, it is
// being looked at until looked.
func (d *divisions) next(now int64) (main string, ms int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, at := range d.due {
		if !d.busy[name] && (main == "" || at < ms) {
			main, ms = name, at
		}
	}
	if main != "" && ms <= now {
		delete(d.due, main)
		d.busy[main] = true
	}
	return main, ms
}

func (d *divisions) looked(main string) {
	d.mu.Lock()
	delete(d.busy, main)
	d.mu.Unlock()
	d.awake()
}

// watchDivisions looks at divided rooms when they are due, at each on a goroutine of its own.
func (rs *Rooms) watchDivisions() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	free := make(chan struct{}, looksAtATime)
	for {
		now := NowMs(rs.cfg.Wall())
		main, ms := rs.divisions.next(now)
		switch {
		case main == "":
			timer.Stop()
		case ms > now:
			timer.Reset(min(time.Duration(ms-now)*time.Millisecond, longestWait))
		default:
			select {
			case <-rs.life.Done():
				return
			case free <- struct{}{}:
			}
			rs.loops.Go(func() {
				defer func() { <-free }()
				defer rs.divisions.looked(main)
				ctx, cancel := context.WithTimeout(rs.life, longestLook)
				defer cancel()
				rs.look(ctx, main)
			})
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

// lookForBack has the division looked at after somebody came to a breakout room: perhaps it has
// been called back.
func (r *Room) lookForBack() {
	if main := r.rec.Config.Main; main != nil {
		r.rooms.lookAt(main.Name, NowMs(r.rooms.cfg.Wall()))
	}
}

// look does for a divided room what is due: it calls people back if their time is over or
// nobody is left, brings back who is out, and forgets what nobody is in any more. While some
// may be out it has the room looked at again.
func (rs *Rooms) look(ctx context.Context, name string) {
	again := func(after time.Duration) { rs.lookAt(name, NowMs(rs.cfg.Wall().Add(after))) }
	main, err := rs.cfg.Store.FindOpen(ctx, name)
	if errors.Is(err, ErrNoRoom) || err == nil && main.Config.Division == nil {
		return
	}
	var people []visitor
	byRows := 0
	if err == nil {
		people, byRows = rs.out(ctx, &main)
		d, now := main.Config.Division, NowMs(rs.cfg.Wall())
		nobody := byRows == 0 && main.EmptySinceMs != 0 && now >= main.EmptySinceMs+emptyFor.Milliseconds()
		switch {
		case d.Open() && (now >= d.UntilMs || nobody):
			main, err = rs.CallBack(ctx, name)
		case !d.Open() && !d.Back && byRows > 0: // they came late
			main, err = rs.divide(ctx, name, func(rec *Record) (*Division, error) {
				if rec.Config.Division == nil {
					return nil, nil
				}
				d := *rec.Config.Division
				d.Back = !d.Open()
				return &d, nil
			})
		}
	}
	if err == nil {
		rs.moveAll(ctx, &main, people, main.Config.Division)
		main, err = rs.forget(ctx, &main)
	}
	switch d := main.Config.Division; {
	case errors.Is(err, ErrNoRoom), errors.Is(err, ErrStopping), rs.life.Err() != nil:
	case err != nil:
		rs.log.Warn("cannot look after a divided room, trying again", "room", name, "error", err)
		again(retryInterval)
	case d.Open():
		until := time.UnixMilli(d.UntilMs).Sub(rs.cfg.Wall())
		again(min(lookEvery, max(until, 0)))
	case d.someOut():
		again(lookSoon)
	}
}

// forget ends the empty rooms that are no breakout rooms any more, and has the main room wait
// no more if nobody is out.
func (rs *Rooms) forget(ctx context.Context, main *Record) (Record, error) {
	d := main.Config.Division
	if d == nil || !d.Back && len(d.Dropped) == 0 {
		return *main, nil
	}
	self := MainRoom{main.Name, main.SID}
	gone := map[string]bool{}
	for _, name := range d.Dropped {
		err := rs.Delete(ctx, name, func(rec *Record) bool { return rec.isPartOf(self) && rec.NumParticipants == 0 })
		switch ErrorCode(err) {
		case Precondition: // some are in it
		default:
			if err != nil && ErrorCode(err) != NotFound {
				return *main, err
			}
			gone[name] = true
		}
	}
	_, byRows := rs.out(ctx, main)
	if byRows > 0 && len(gone) == 0 {
		return *main, nil
	}
	return rs.divide(ctx, main.Name, func(rec *Record) (*Division, error) {
		if rec.Config.Division == nil {
			return nil, nil
		}
		d := *rec.Config.Division
		d.Dropped = slices.DeleteFunc(slices.Clone(d.Dropped), func(name string) bool { return gone[name] })
		d.Back = d.Back && byRows > 0
		if len(d.Breakouts) == 0 && !d.someOut() {
			return nil, nil
		}
		return &d, nil
	})
}
