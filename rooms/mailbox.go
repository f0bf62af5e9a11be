package rooms

import "errors"

// errRetired tells a caller that the room is no longer live: look it up again.
var errRetired = errors.New("room is no longer live")

// letter is one thing a room is asked to do, on its own goroutine. A room's mailbox has no
// bound, so that nobody who posts has to wait: what clients can put into it is bounded at
// the edge.
type letter struct {
	run func()
	// retired is called instead of run when the room went away first; may be nil.
	retired func()
	// urgent letters are answers of the store, and posted anyway: they run even while the
	// room is closing and everything else waits for the outcome, and the room waits for
	// them before it goes.
	urgent bool
}
