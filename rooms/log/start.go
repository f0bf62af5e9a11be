package log

import "context"

// Start is a start of the server, and how it ended.
type Start struct {
	ID        int64 // grows; set by the store
	AtMs      int64
	Version   string
	ReadyMs   int64 // how long until it served
	StoppedMs int64 // when it had stopped in order; 0 = it runs, or did not
	StopMs    int64 // how long it took to stop
}

// Starts keeps starts.
type Starts interface {
	// NoteStart keeps s and returns its id. It forgets the oldest if there are too many.
	NoteStart(ctx context.Context, s Start) (id int64, err error)
	// NoteStop notes that the start with that id has stopped in order.
	NoteStop(ctx context.Context, id, stoppedMs, stopMs int64) error
	// Starts returns starts with ids below before, 0 = all, the newest first.
	Starts(ctx context.Context, before int64, limit int) ([]Start, error)
}
