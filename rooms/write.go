package rooms

import (
	"errors"
	"slices"
	"time"

	"parlor/rooms/log"
)

// A change is either a request, which may be refused, or a fact, which has happened
// whatever the disk says: a participant left, a track was published. A request that
// cannot be written fails. A fact that cannot be written is kept, with all later facts
// after it, until the store takes them; meanwhile requests are refused. So running calls
// go on while a disk fails, and none of their events is lost.
//
// What becomes of a change:
//
//	change    answer of the store            what the room does
//	------------------------------------------------------------------------------------------
//	request   committed                      tells everybody, and its asker
//	request   cannot be written              takes it back, fails it with the store's error
//	request   one before it cannot           fails it with ErrHeld, written or not yet asked
//	request   the row has ended              is no longer live; askers look the name up again
//	fact      committed                      nothing: everybody was told when it happened
//	fact      cannot be written              adds it to the backlog, tries again every
//	                                         retryInterval, and once more at a stop
//	fact      one before it cannot           adds it to the backlog, in order
//	fact      the row has ended              drops it: it is of a join that came too late
//	any       none, the room panicked        its asker has ErrFailed; the row, read again,
//	                                         has the change or has not
//	any       none, the process died         its asker has no answer; the next start goes on
//	                                         from the row; a client that does not
//	                                         come back leaves after the grace
//
// Several changes of a room may be under way at once, so that many share a transaction.
// They form one [Pipeline]: if one fails, all later ones fail too, in order. So the disk
// always has the state after one of the changes, and the backlog is in order.

// request submits a change that may be refused. The caller has already applied it to
// r.rec. done is called on the room's goroutine.
func (r *Room) request(kind ChangeKind, sessions []Session, events []log.Event, done func(Outcome, error)) {
	r.requestChange(&Change{Kind: kind, Sessions: sessions, Events: events}, done)
}

// requestChange is request for any change. It fills in c.Room.
func (r *Room) requestChange(c *Change, done func(Outcome, error)) {
	if r.unwritable() {
		done(Outcome{}, ErrHeld)
		return
	}
	c.Room = r.row()
	r.submit(c, done)
}

// unwritable reports whether a change could not be written, so that requests are refused.
func (r *Room) unwritable() bool { return r.backlog != nil || r.pipeline.Aborted() }

// fact submits a change that has happened.
func (r *Room) fact(sessions []Session, events []log.Event) {
	r.factChange(&Change{Kind: ChangeUpdate, Sessions: sessions, Events: events})
}

// factChange is fact for any change. It fills in c.Room.
func (r *Room) factChange(c *Change) {
	c.Room = r.row()
	if r.unwritable() {
		r.behind = append(r.behind, c)
		r.settleBacklog()
		return
	}
	c.fact = true
	r.submit(c, func(Outcome, error) {})
}

// bringFacts submits the backlog of a room that has failed: its facts have happened even
// if the room's state is wrong, and the row must be read after them. It tries until the
// process stops, and then once more.
func (r *Room) bringFacts() {
	for _, c := range r.behind {
		r.keep(c)
	}
	c := r.backlog
	r.backlog, r.behind = nil, nil
	for last := false; c != nil; {
		written := make(chan error, 1)
		try := &Change{
			Kind: ChangeUpdate, Pipeline: new(Pipeline), Room: c.Room,
			Sessions: c.Sessions, Dispatches: c.Dispatches, Jobs: c.Jobs, Events: c.Events,
		}
		r.rooms.cfg.Store.Submit(try, func(out Outcome, err error) {
			if err == nil {
				r.rooms.noteDeadline(&out.Room)
			}
			written <- err
		})
		switch err := <-written; {
		case err == nil, errors.Is(err, ErrEnded):
			return
		case last:
			r.log.Error("what the failed room could not write is lost", "error", err)
			return
		}
		last = r.turnAwayFor(retryInterval)
	}
}

// settleBacklog runs when all changes of an aborted pipeline are answered. It adds the
// facts that came meanwhile to the backlog. r.stored is then what the disk has.
func (r *Room) settleBacklog() {
	if r.pending > 0 {
		return
	}
	for _, c := range r.behind {
		r.keep(c)
	}
	r.behind = nil
	r.rec.Version = r.stored.Version
	switch {
	case r.backlog == nil: // only requests failed: the next change may try the disk at once
		r.pipeline = new(Pipeline)
	case r.stopped && !r.triedLast:
		r.triedLast = true
		r.retry()
	default:
		r.setAlarm(alarmRetry, time.Now().Add(retryInterval))
	}
}

// keep adds c, which could not be written, to the end of the backlog.
func (r *Room) keep(c *Change) {
	if r.rec.SID != c.Room.SID {
		return
	}
	if r.backlog == nil {
		r.backlog = &Change{}
	}
	b := r.backlog
	b.Sessions = latest(b.Sessions, c.Sessions, func(s *Session) string { return s.SID })
	b.Dispatches = latest(b.Dispatches, c.Dispatches, func(d *Dispatch) string { return d.ID })
	b.Jobs = latest(b.Jobs, c.Jobs, func(j *Job) string { return j.ID })
	b.Events = append(b.Events, c.Events...)
	b.Room = c.Room
	r.setAlarm(alarmRetry, time.Now().Add(retryInterval))
}

// latest returns states with those of later, each in place of an earlier state with its id
// if there is one.
func latest[T any](states, later []T, id func(*T) string) []T {
	for _, v := range later {
		i := slices.IndexFunc(states, func(old T) bool { return id(&old) == id(&v) })
		if i < 0 {
			states = append(states, v)
		} else {
			states[i] = v
		}
	}
	return states
}

// retry submits the backlog in a new pipeline, before any later change.
func (r *Room) retry() {
	c := r.backlog
	if c == nil {
		return
	}
	if r.pending > 0 { // the failures of those come into the backlog first, and set the alarm again
		return
	}
	r.letGo() // they have waited for one try, which is enough
	r.backlog, r.pipeline = nil, new(Pipeline)
	r.factChange(&Change{Kind: ChangeUpdate, Sessions: c.Sessions, Dispatches: c.Dispatches, Jobs: c.Jobs, Events: c.Events})
}

// submit gives c to the store.
func (r *Room) submit(c *Change, done func(Outcome, error)) {
	r.pending++
	r.pendingRows += c.rows()
	r.rec.Version++
	c.Pipeline = r.pipeline
	r.rooms.cfg.Store.Submit(c, func(out Outcome, err error) {
		if err == nil {
			r.rooms.noteDeadline(&out.Room)
		}
		r.mail.PostAnyway(letter{urgent: true, run: func() { r.answered(c, out, err, done) }})
	})
}

// answered handles the store's answer to c.
func (r *Room) answered(c *Change, out Outcome, err error, done func(Outcome, error)) {
	r.pending--
	r.pendingRows -= c.rows()
	// A room can only have ended while it was empty. So a fact that fails with ErrEnded
	// is about a participant whose join came after the end, and is void with the join.
	if c.fact && err != nil && !errors.Is(err, ErrEnded) {
		r.keep(c)
	}
	if r.hasFailed() { // the caller of ask has been told already
		return
	}
	switch {
	case err == nil:
		r.stored = out.Room
		r.keepsChat.Store(r.stored.Config.KeepChat)
		r.rec.Seq = max(r.rec.Seq, out.Room.Seq)
		r.rec.NumJoined, r.rec.PeakParticipants = out.Room.NumJoined, out.Room.PeakParticipants
		if r.failing {
			r.failing = false
			r.log.Info("the room's state is written again")
		}
	case !errors.Is(err, ErrEnded) && !r.failing:
		r.failing = true
		r.log.Error("cannot write the room's state", "error", err)
	}
	done(out, err)
	if errors.Is(err, ErrEnded) && !r.gone {
		r.vanish()
	}
	if r.pipeline.Aborted() {
		r.settleBacklog()
	}
}

// row is the record to store. A room with any session, even of dependents alone, has no
// deadline in the store; the room itself ends it.
func (r *Room) row() Record {
	row := r.rec
	if len(r.participants)+len(r.expected) > 0 {
		row.ExpiresMs = 0
	}
	return row
}
