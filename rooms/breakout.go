package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/livekit/protocol/livekit"
)

// Divide sets the breakout rooms of a room, and who is assigned to which; none end the
// division. A breakout room without a name is new. While people are sent out, those follow
// whose assignment is another, and those whose breakout room there is no more come back. name
// may be that of a breakout room, as in all that follows. It fails with [Precondition] unless
// the condition holds for the breakout rooms of before; nil demands nothing. The condition must
// neither change them nor wait.
func (rs *Rooms) Divide(ctx context.Context, name string, breakouts []Breakout, condition func(before []Breakout) bool) (Record, error) {
	if err := rs.checkBreakouts(breakouts); err != nil {
		return Record{}, err
	}
	var before *Division
	main, err := rs.divide(ctx, name, func(rec *Record) (*Division, error) {
		before = rec.Config.Division
		if condition != nil && !condition(before.breakouts()) {
			return nil, Errorf(Precondition, "the breakout rooms have changed")
		}
		d := Division{}
		if before != nil {
			d = *before
		}
		d.Breakouts, d.Dropped = slices.Clone(breakouts), slices.Clone(d.Dropped)
		for i := range d.Breakouts {
			b := &d.Breakouts[i]
			if b.Name == "" {
				b.Name = newBreakoutName()
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
			if !d.someOut() {
				return nil, nil
			}
		}
		row, err := json.Marshal(&d)
		if err == nil && len(row) > longestDivision {
			err = Errorf(Exhausted, "the division is longer than %d bytes: name fewer people, or shorter ones", longestDivision)
		}
		return &d, err
	})
	if err != nil {
		return Record{}, err
	}
	if before.someOut() {
		rs.bring(rs.life, &main, before)
	}
	rs.tellDivision(ctx, &main, before)
	rs.lookAfter(main.Name, 0)
	return main, nil
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
		waited := rec.Config.Division.someOut()
		rec.Config.Division = d
		rec.Config.Readable()
		if waited && !d.someOut() && rec.EmptySinceMs != 0 {
			rec.EmptySinceMs = rs.Now().Ms // until now it was not empty, but waited
		}
		rec.SetDeadline()
		return nil
	})
}

// SendOut sends those who are assigned from the room to their breakout rooms, for limit at
// most; 0 = without a limit but [LongestBreakouts]. Once they are sent out it only sets a
// new limit.
func (rs *Rooms) SendOut(ctx context.Context, name string, limit time.Duration) (Record, error) {
	now := rs.Now()
	sent := false
	main, err := rs.divide(ctx, name, func(rec *Record) (*Division, error) {
		before := rec.Config.Division
		if before == nil || len(before.Breakouts) == 0 {
			return nil, Errorf(Precondition, "the room has no breakout rooms")
		}
		d := *before
		sent = before.Open()
		if !sent {
			d.OpenMs = now.WallMs
		}
		d.Back = false
		d.Limited = limit > 0
		if limit <= 0 || limit > LongestBreakouts {
			limit = LongestBreakouts
		}
		d.FromMs, d.UntilMs = now.Ms, now.Ms+limit.Milliseconds()
		return &d, nil
	})
	if err != nil {
		return Record{}, err
	}
	if !sent {
		rs.bring(rs.life, &main, nil)
	}
	rs.tellDivision(ctx, &main, nil)
	rs.lookAfter(main.Name, 0)
	return main, nil
}

// CallBack brings everybody back from the breakout rooms. The assignments stay. Who cannot be
// moved at once is moved as soon as it can be.
func (rs *Rooms) CallBack(ctx context.Context, name string) (Record, error) {
	main, err := rs.closeDivision(ctx, name)
	if err != nil {
		return Record{}, err
	}
	rs.bring(rs.life, &main, main.Config.Division)
	rs.tellDivision(ctx, &main, nil)
	rs.lookAfter(main.Name, 0)
	return main, nil
}

// closeDivision has nobody go out any more. It moves nobody.
func (rs *Rooms) closeDivision(ctx context.Context, name string) (Record, error) {
	return rs.divide(ctx, name, func(rec *Record) (*Division, error) {
		if rec.Config.Division == nil {
			return nil, nil
		}
		d := *rec.Config.Division
		d.callBack()
		return &d, nil
	})
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
		return rs.moveFrom(rs.life, identity, name, main.Name)
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

// endBreakouts ends the breakout rooms of a main room that has ended, until all have ended or
// the process stops. tried is closed after the first try; it may be nil.
func (rs *Rooms) endBreakouts(main *Record, tried chan<- struct{}) {
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
			close(tried)
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

// endOrphan ends a breakout room if its main room ended while no process ran. It goes on until
// it knows that, or the process stops.
func (rs *Rooms) endOrphan(rec *Record) {
	self := *rec.Config.Main
	for {
		main, err := rs.cfg.Store.FindOpen(rs.life, self.Name)
		switch {
		case err == nil && main.SID == self.SID:
			return
		case err == nil, errors.Is(err, ErrNoRoom):
			rs.endBreakouts(&Record{Name: self.Name, SID: self.SID, Config: RoomConfig{Division: &Division{Dropped: []string{rec.Name}}}}, nil)
			return
		}
		rs.log.Warn("cannot tell whether the main room of a breakout room is open, trying again", "room", rec.Name, "error", err)
		select {
		case <-rs.life.Done():
			return
		case <-time.After(retryInterval):
		}
	}
}
