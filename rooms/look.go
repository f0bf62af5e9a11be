package rooms

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
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

// divisions are the divided rooms, each with the time at which it is to be looked at: some
// seconds after the last look, by a clock that is never set. What is to be done then the
// room's row tells.
type divisions struct {
	mu   sync.Mutex // guards the following
	due  map[string]time.Time
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

// lookAfter has a divided room looked at after a while, or earlier if that was wanted.
func (rs *Rooms) lookAfter(main string, wait time.Duration) {
	at := time.Now().Add(wait)
	d := &rs.divisions
	d.mu.Lock()
	if due, wanted := d.due[main]; !wanted || at.Before(due) {
		d.due[main] = at
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
func (d *divisions) next(now time.Time) (main string, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, due := range d.due {
		if !d.busy[name] && (main == "" || due.Before(at)) {
			main, at = name, due
		}
	}
	if main != "" && !at.After(now) {
		delete(d.due, main)
		d.busy[main] = true
	}
	return main, at
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
		now := time.Now()
		main, at := rs.divisions.next(now)
		switch {
		case main == "":
			timer.Stop()
		case at.After(now):
			timer.Reset(at.Sub(now))
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
		r.rooms.lookAfter(main.Name, 0)
	}
}

// look does for a divided room what is due: it calls people back if their time is over or
// nobody is left, brings back who is out, and forgets what nobody is in any more. While some
// may be out it has the room looked at again.
func (rs *Rooms) look(ctx context.Context, name string) {
	again := func(wait time.Duration) { rs.lookAfter(name, wait) }
	main, err := rs.cfg.Store.FindOpen(ctx, name)
	if errors.Is(err, ErrNoRoom) || err == nil && main.Config.Division == nil {
		return
	}
	byRows, closed := 0, false
	if err == nil {
		_, byRows = rs.out(ctx, &main)
		d, now := main.Config.Division, rs.Now()
		nobody := byRows == 0 && main.EmptySinceMs != 0 && now.For(main.EmptySinceMs) >= main.EmptySinceMs+emptyFor.Milliseconds()
		switch {
		case d.Open() && (d.left(now) <= 0 || nobody):
			main, err = rs.closeDivision(ctx, name)
			closed = err == nil
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
		rs.bring(ctx, &main, main.Config.Division)
		if closed {
			rs.tellDivision(ctx, &main, nil)
		}
		main, err = rs.forget(ctx, &main)
	}
	switch d := main.Config.Division; {
	case errors.Is(err, ErrNoRoom), errors.Is(err, ErrStopping), rs.life.Err() != nil:
	case err != nil:
		rs.log.Warn("cannot look after a divided room, trying again", "room", name, "error", err)
		again(retryInterval)
	case d.Open():
		again(min(lookEvery, max(d.left(rs.Now()), 0)))
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
