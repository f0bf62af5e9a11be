package rooms

import (
	"context"
	"errors"
	"sync"
)

// movesAtATime is how many people of a room are sent at a time: each move waits for the disk.
const movesAtATime = 8

// visitor is a participant in a room of a division.
type visitor struct {
	identity, sid string
	room          string
	host          bool
	shadow        bool // it is forwarded from another room
}

// belongs is the room of main's division in which v is to be; before is the division before a
// change of assignments, nil if people were not sent out. Who is in the main room while people
// are sent out has come back by its own wish, unless its assignment has changed. "": who was
// forwarded to a breakout room whose time is over belongs nowhere.
func (d *Division) belongs(v *visitor, main string, before *Division) string {
	switch {
	case v.shadow && (v.room == main || d.Open() && d.Find(v.room) != nil):
		return v.room
	case v.shadow:
		return ""
	case !d.Open():
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

// bring moves those to where they belong who are elsewhere, and waits for it, after all others
// that move people of main. before is the division before a change of assignments, nil if
// people were not sent out. The division may have changed while it waited: people are where
// the others left them, and belong where it says now.
func (rs *Rooms) bring(ctx context.Context, main *Record, before *Division) {
	done, err := rs.divisions.alone(ctx, main.Name)
	if err != nil {
		return // the process stops, or it is for the next look
	}
	defer done()
	same := before == main.Config.Division
	now, err := rs.cfg.Store.FindOpen(ctx, main.Name)
	switch {
	case errors.Is(err, ErrNoRoom) || err == nil && (now.SID != main.SID || now.Config.Division == nil):
		return
	case err != nil:
		rs.log.Warn("cannot tell whether a division has changed", "room", main.Name, "error", err)
	default:
		main = &now
	}
	if same {
		before = main.Config.Division
	}
	out, _ := rs.out(ctx, main) // who cannot be seen now is seen by the next look
	if d := main.Config.Division; d.Open() && !same {
		here, err := rs.peopleIn(ctx, main.Name, MainRoom{main.Name, main.SID})
		if err != nil {
			rs.log.Warn("cannot tell who is in the room", "room", main.Name, "error", err)
		}
		out = append(out, here...)
	}
	rs.moveAll(ctx, main, out, before)
}

// out are those who are in the breakout rooms of main, and how many people are there by the
// rows: more, if some are expected back or cannot be seen. Who is forwarded from another room
// is none of them.
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
		for _, v := range in {
			if v.shadow {
				byRows--
			}
		}
	}
	return people, max(byRows, 0) // rows may be a moment old
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
				if !dependent(p.info) {
					all = append(all, visitor{identity, p.sid, name, p.host, p.shadow()})
				}
			}
		}
		reply(all, nil)
	})
}

// moveAll moves several at a time to where they belong, and waits for all. Who cannot be moved
// stays until the next look.
func (rs *Rooms) moveAll(ctx context.Context, main *Record, people []visitor, before *Division) {
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
		if ctx.Err() != nil {
			return
		}
		if to == "" {
			if err := rs.RemoveSession(ctx, v.room, v.identity, v.sid); err != nil && ErrorCode(err) != NotFound {
				rs.log.Warn("who was forwarded to a breakout room was not removed", "room", v.room, "participant", v.identity, "error", err)
			}
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
			err := rs.moveFrom(ctx, v.identity, v.room, to)
			if ErrorCode(err) == Exists && to == main.Name && rs.isIn(ctx, to, v.identity) {
				err = rs.RemoveSession(ctx, v.room, v.identity, v.sid) // it is back, by another client
			}
			if err != nil && !errors.Is(err, ErrNoParticipant) {
				rs.log.Warn("a participant of a divided room was not moved", "room", v.room, "participant", v.identity, "to", to, "error", err)
			}
		})
	}
}

// isOut reports whether an identity is in a breakout room of the open room of that name, or
// expected back there, and counts in both.
func (rs *Rooms) isOut(ctx context.Context, name, identity string) bool {
	main, err := rs.cfg.Store.FindOpen(ctx, name)
	if err != nil || !main.Config.Division.someOut() {
		return false
	}
	self := MainRoom{main.Name, main.SID}
	for _, breakout := range main.Config.Division.names() {
		if rs.peek(breakout) == nil {
			continue
		}
		out, err := askName(ctx, rs, breakout, func(r *Room, reply answer[bool]) {
			p, s := r.participants[identity], r.expected[identity]
			reply(r.division() == self && (p != nil && !dependent(p.info) || s != nil && !dependent(s.Info)), nil)
		})
		if out && err == nil {
			return true
		}
	}
	return false
}

// isIn reports whether an identity is in the room itself, and not only expected, on its way or
// forwarded from another room.
func (rs *Rooms) isIn(ctx context.Context, name, identity string) bool {
	in, err := askName(ctx, rs, name, func(r *Room, reply answer[bool]) {
		p := r.participants[identity]
		reply(p != nil && !p.shadow(), nil)
	})
	return in && err == nil
}

// moveFrom moves somebody between rooms of a division. If it is forwarded to where it goes, that
// ends: it comes itself.
func (rs *Rooms) moveFrom(ctx context.Context, identity, from, to string) error {
	err := rs.Move(ctx, move(identity, from, to))
	if ErrorCode(err) != Exists {
		return err
	}
	shadow, failed := askName(ctx, rs, to, func(r *Room, reply answer[string]) {
		sid := ""
		if p := r.participants[identity]; p != nil && p.shadow() {
			sid = p.sid
		}
		reply(sid, nil)
	})
	if failed != nil || shadow == "" {
		return err
	}
	if failed = rs.RemoveSession(ctx, to, identity, shadow); failed != nil && ErrorCode(failed) != NotFound {
		return failed
	}
	return rs.Move(ctx, move(identity, from, to))
}
