package rooms

import (
	"context"
	"sync/atomic"

	"parlor/rooms/log"
)

// ChangeKind is what a [Change] does with its room.
type ChangeKind int

const (
	// ChangeCreate inserts Room as a new open room. If an open room bears the name
	// already, nothing is written, and the outcome has that room instead.
	ChangeCreate ChangeKind = iota + 1
	// ChangeUpdate writes the whole of Room over its row, which must be open;
	// else nothing is written and the failure is [ErrEnded].
	ChangeUpdate
	// ChangeEnd is ChangeUpdate for a Room that carries EndedMs and EndReason.
	ChangeEnd
)

// Change is what one transaction does: a room's row, sessions' rows, and the
// events that tell of it, all or nothing. It must not be changed once
// submitted. Events get their Seq and RoomSeq from the store, in order.
type Change struct {
	Kind ChangeKind
	// Pipeline, if given, is the pipeline of the change: the change is refused with
	// [ErrHeld] when one before it in the pipeline could not be written.
	Pipeline *Pipeline
	Room     Record
	Sessions []Session // inserted or replaced by SID
	// Dispatches and Jobs are inserted or replaced by ID. With its room a dispatch ends
	// without being named.
	Dispatches []Dispatch
	Jobs       []Job
	// Blobs are inserted or replaced by session and key, or deleted. Those of a session end
	// with it without being named.
	Blobs []DataBlob
	// Hosts are inserted or replaced by identity. They end with the room.
	Hosts []HostDecision
	// Chat is applied in order, and of what is kept then the newest stays: [MostChat] messages
	// and [MostChatBytes]. It ends with the room.
	Chat []ChatChange
	// NoChat deletes what is kept.
	NoChat bool
	Events []log.Event

	fact bool // of a room's: it has happened, and cannot be refused
}

// Pipeline is a sequence of changes that are submitted without waiting for the
// answers, and each of which depends on those before it: the changes of a live room.
// The store aborts the pipeline with the first change that it cannot write, before it
// writes any other, so that no change is written whose predecessor is missing. What
// failed is then submitted again in order, and what follows it, in a new pipeline.
// The zero value is ready for use.
type Pipeline struct{ aborted atomic.Bool }

// Abort is for the store: a change in the pipeline could not be written.
func (p *Pipeline) Abort() {
	if p != nil {
		p.aborted.Store(true)
	}
}

// Aborted reports whether a change in the pipeline could not be written. It is safe
// for concurrent use.
func (p *Pipeline) Aborted() bool { return p != nil && p.aborted.Load() }

// Outcome is what became of a committed [Change].
type Outcome struct {
	// Room is the row after the change: for ChangeCreate it may be the room that
	// was there before.
	Room Record
	// Created tells that ChangeCreate inserted its room.
	Created bool
}

// Store keeps rooms, sessions and events. Reads see what is committed.
//
// There is one order of writes: changes commit in the order in which they were
// submitted, several in one transaction on the disk, each atomic by itself. Of
// the changes of a [Pipeline], those that are written are the first.
type Store interface {
	ClockStore

	// Submit queues c. done is called once, from the store's own goroutine, when c
	// is on disk or has failed; it must not block. After Close, done gets
	// [ErrStopping].
	Submit(c *Change, done func(Outcome, error))

	// FindOpen returns the open room of that name; [ErrNoRoom] if there is none.
	FindOpen(ctx context.Context, name string) (Record, error)
	// Present returns the sessions of a room that have not left.
	Present(ctx context.Context, roomSID string) ([]Session, error)
	// DataBlobs returns the blobs of those sessions.
	DataBlobs(ctx context.Context, roomSID string) ([]DataBlob, error)
	// HostDecisions returns what was decided in a room.
	HostDecisions(ctx context.Context, roomSID string) ([]HostDecision, error)
	// Chat returns the messages that a room keeps, in order.
	Chat(ctx context.Context, roomSID string) ([]ChatMessage, error)
	// HostDecided tells what was decided of an identity in the open room of that name.
	HostDecided(ctx context.Context, roomName, identity string) (host, decided bool, err error)
	// Latest returns the room's newest sessions, present and past, at most limit of
	// them, in the order of joining.
	Latest(ctx context.Context, roomSID string, limit int) ([]Session, error)
	// Occupied returns the open rooms that have a session which has not left, or a job
	// that runs, or are divided: at start, those whose participants are expected back, if
	// not in the room itself.
	Occupied(ctx context.Context) ([]Record, error)
	// ListOpen returns the open rooms by name, all of them if names is empty.
	ListOpen(ctx context.Context, names []string) ([]Record, error)

	// NextDeadline is the earliest deadline of an open room, as [Instant.Deadline] tells it;
	// 0 if there is none.
	NextDeadline(ctx context.Context, now Instant) (int64, error)
	// EndDue ends up to limit open rooms whose deadline has come, by [Instant.For],
	// each with its [Record.DueReason] and its [RoomFinished] event, and returns
	// them as they ended. It goes through the same queue as Submit. If some cannot be
	// ended, it returns those that it ended, and an error too.
	EndDue(ctx context.Context, now Instant, limit int) ([]Record, error)
}
