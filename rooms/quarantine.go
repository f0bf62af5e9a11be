package rooms

import (
	"runtime/debug"
	"time"

	"github.com/livekit/protocol/livekit"
)

// failureInterval is the time within which a name may fail once: the second time
// it is refused for as long, so that what makes a room panic as soon as it is read
// does not do so all the time.
const failureInterval = time.Minute

// failure is the newest of a name's.
type failure struct {
	at      time.Time
	refused bool // it was the second within failureInterval, which is not over
}

// quarantine, deferred, takes down a room whose goroutine panics, and only that room:
// nobody knows what its state is worth. Its clients are sent away to come back, and
// the room is read from its row, which has all that has happened in it. Sessions stay,
// and a client that does not come back leaves with the grace, as after a restart.
func (r *Room) quarantine() {
	why := recover()
	if why == nil {
		return
	}
	rs, now := r.rooms, time.Now()
	rs.failures.Add(1)
	refused := rs.noteFailure(r.name, now)
	r.log.Error("the room has failed and is read again", "panic", why, "refused", refused, "stack", string(debug.Stack()))
	close(r.failed) // callers that wait for an answer are told
	r.gone = true
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
	// The row is read when all that is on its way to it has been answered.
	for {
		for _, l := range r.mail.take() {
			r.turnAway(l)
		}
		if r.pending == 0 {
			break
		}
		<-r.mail.wake
	}
	guard(r.bringFacts)
	rs.drop(r)
	for _, l := range r.mail.take() { // posted before it was closed
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

// turnAwayFor turns away what is posted for that long; true: the process stops.
func (r *Room) turnAwayFor(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return false
		case <-r.rooms.life.Done():
			return true
		case <-r.mail.wake:
			for _, l := range r.mail.take() {
				r.turnAway(l)
			}
		}
	}
}

// turnAway does of l what a failed room still can: an answer of the store is counted,
// see answered, and everybody else is told that the room has gone.
func (r *Room) turnAway(l letter) {
	switch {
	case l.urgent:
		guard(l.run)
	case l.retired != nil:
		guard(l.retired)
	}
}

// guard has f run in a room that has failed, where it may panic too.
func guard(f func()) {
	defer func() { _ = recover() }() // the first panic is the one that is logged
	f()
}

// hasFailed is for what runs on r's goroutine.
func (r *Room) hasFailed() bool {
	select {
	case <-r.failed:
		return true
	default:
		return false
	}
}

// noteFailure reports whether the name is refused from now on.
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

// readAgain makes the room of that name live, for the sake of the participants that are
// expected back in it.
func (rs *Rooms) readAgain(name string) {
	if rs.life.Err() != nil {
		return
	}
	_, _ = rs.room(name) // refused if it has failed once more: then that failure sees to it
}
