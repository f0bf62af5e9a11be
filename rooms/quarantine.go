package rooms

import (
	"runtime/debug"
	"time"

	"github.com/livekit/protocol/livekit"
)

// failureInterval is the time within which a room may fail once. After a second failure
// its name is refused for that time, so that a room that panics as soon as it is read
// does not do so all the time.
const failureInterval = time.Minute

// failure is the newest failure of a name.
type failure struct {
	at      time.Time
	refused bool // it was the second within failureInterval; the name is refused until forgive
}

// quarantine is deferred by the room's goroutine. If the goroutine panics, it takes down
// that room alone, because the room's state cannot be trusted any more. Clients are told
// to reconnect, and the room is read again from its row, which has everything that was
// committed. Sessions stay open, and a client that does not come back leaves after the
// grace, as after a restart.
func (r *Room) quarantine() {
	why := recover()
	if why == nil {
		return
	}
	rs, now := r.rooms, time.Now()
	rs.failures.Add(1)
	refused := rs.noteFailure(r.name, now)
	r.log.Error("the room has failed and is read again", "panic", why, "refused", refused, "stack", string(debug.Stack()))
	close(r.failed) // ends the waits of ask
	r.gone = true
	r.busySince.Store(0) // from here on it waits for the store alone
	for _, p := range r.participants {
		guard(func() {
			p.outlet.Leave(&livekit.LeaveRequest{
				CanReconnect: true,
				Reason:       livekit.DisconnectReason_STATE_MISMATCH,
				Action:       livekit.LeaveRequest_RECONNECT,
			})
		})
		guard(p.shut)
		guard(func() { p.dismissShadows(livekit.DisconnectReason_SIGNAL_CLOSE) })
	}
	for _, t := range r.dataTracks { // of participants in other rooms, some of them
		guard(func() { t.source.drop(r, nil) })
	}
	guard(r.calls.fail)
	for _, s := range r.seats {
		for _, l := range s.waiting {
			r.turnAway(l)
		}
	}
	for _, l := range r.deferred {
		r.turnAway(l)
	}
	r.tally(0, 0)
	r.letGo()
	// The row is read only when every change that is on its way to it has been answered.
	for {
		for _, l := range r.mail.Take() {
			r.turnAway(l)
		}
		if r.pending == 0 {
			break
		}
		<-r.mail.Wake()
	}
	guard(r.bringFacts)
	rs.drop(r)
	for _, l := range r.mail.Take() { // posted before it was closed
		r.turnAway(l)
	}
	if !refused {
		rs.readAgain(r.name)
		return
	}
	timer := time.NewTimer(failureInterval)
	defer timer.Stop()
	select {
	case <-rs.life.Done():
	case <-timer.C:
		rs.forgive(r.name)
		rs.readAgain(r.name)
	}
}

// turnAwayFor turns letters away for that long; true if the process is stopping.
func (r *Room) turnAwayFor(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return false
		case <-r.rooms.life.Done():
			return true
		case <-r.mail.Wake():
			for _, l := range r.mail.Take() {
				r.turnAway(l)
			}
		}
	}
}

// turnAway does for l what a failed room still can: an answer of the store is counted
// (see answered), and every other caller is told that the room has gone.
func (r *Room) turnAway(l letter) {
	switch {
	case l.urgent:
		guard(l.run)
	case l.retired != nil:
		guard(l.retired)
	}
}

// guard runs f in a room that has failed, where f may panic too.
func guard(f func()) {
	defer func() { _ = recover() }() // the first panic is the one that is logged
	f()
}

// hasFailed reports whether the room has failed. It is called on r's goroutine.
func (r *Room) hasFailed() bool {
	select {
	case <-r.failed:
		return true
	default:
		return false
	}
}

// noteFailure records a failure, and reports whether the name is refused from now on.
func (rs *Rooms) noteFailure(name string, now time.Time) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for other, f := range rs.failed {
		if !f.refused && now.Sub(f.at) > failureInterval {
			delete(rs.failed, other)
		}
	}
	_, again := rs.failed[name]
	rs.failed[name] = failure{at: now, refused: again}
	return again
}

func (rs *Rooms) forgive(name string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	delete(rs.failed, name)
}

// readAgain makes the room of that name live, so that its participants are expected back.
func (rs *Rooms) readAgain(name string) {
	if rs.life.Err() != nil {
		return
	}
	_, _ = rs.room(name) // it may have failed again and be refused; that failure reads it again later
}
