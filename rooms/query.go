package rooms

import "context"

// RoomState selects open rooms, ended ones, or all.
type RoomState int

// The selections.
const (
	RoomsOpen RoomState = iota
	RoomsEnded
	RoomsAll
)

// RoomCursor is a place in a list of rooms: that of the room it was made of.
// The zero value is before the first.
type RoomCursor struct {
	Name      string
	CreatedMs int64
	SID       string
}

// Cursor is r's place in lists of rooms.
func (r *Record) Cursor() RoomCursor {
	return RoomCursor{Name: r.Name, CreatedMs: r.CreatedMs, SID: r.SID}
}

// RoomQuery asks for a page of rooms. They come in the order of their creation,
// but with a Name or NamePrefix in the order of their names, and within a name
// of their creation.
type RoomQuery struct {
	State      RoomState
	Name       string // that name alone
	NamePrefix string // names that begin with it; with a Name both must hold
	// CreatedFromMs and CreatedBeforeMs bound the time of creation; 0 = no bound.
	CreatedFromMs, CreatedBeforeMs int64
	Descending                     bool
	After                          RoomCursor // the page begins behind it
	Limit                          int
}

// SessionQuery asks for a page of a room's sessions, present and past, in the
// order of joining.
type SessionQuery struct {
	RoomSID       string
	AfterJoinedMs int64 // the page begins behind the session that
	AfterSID      string
	Limit         int
}

// Ban keeps an identity out of whatever room bears a name.
type Ban struct {
	RoomName  string
	Identity  string
	UntilMs   int64 // 0 = until lifted
	CreatedMs int64
	Reason    string
}

// History is what can be looked up of rooms beyond the [Store]. No look-up reads
// more than the page it returns.
type History interface {
	// GetBySID returns a room, open or ended; [ErrNoRoom] if there is none.
	GetBySID(ctx context.Context, sid string) (Record, error)
	// ListRooms returns a page of rooms.
	ListRooms(ctx context.Context, q RoomQuery) ([]Record, error)
	// CountRooms returns how many rooms are open and how many are kept as history.
	CountRooms(ctx context.Context) (open, ended int64, err error)
	// ListSessions returns a page of a room's sessions.
	ListSessions(ctx context.Context, q SessionQuery) ([]Session, error)
	// PruneHistory forgets rooms that ended before endedBeforeMs, with their
	// sessions: up to batch rows in all, a room after the last of its sessions. Less
	// than batch means there are no more.
	PruneHistory(ctx context.Context, endedBeforeMs int64, batch int) (int, error)
	// PruneSessions forgets sessions of open rooms that left before leftBeforeMs, but
	// for the newest [MostDeparted] of each room, which it still goes by. A call looks
	// at some rooms behind after and forgets up to batch sessions; next is where to go
	// on, the zero value at the end.
	PruneSessions(ctx context.Context, leftBeforeMs int64, after RoomCursor, batch int) (n int, next RoomCursor, err error)
	// PruneAgents forgets jobs of open rooms that have ended, but for the newest [MostJobs]
	// of each room, and dispatches that were deleted: nobody reads them any more. It goes
	// from room to room as PruneSessions does.
	PruneAgents(ctx context.Context, after RoomCursor, batch int) (n int, next RoomCursor, err error)
}

// Moderation is bans and revoked tokens. It binds to a room's name, so it outlives
// the room that was open when it was made.
type Moderation interface {
	// SetBan makes a ban, or changes the one of that identity and room name.
	SetBan(ctx context.Context, b Ban) error
	// ClearBan lifts a ban; false if there was none.
	ClearBan(ctx context.Context, roomName, identity string) (bool, error)
	// Bans returns a page of a room name's bans, by identity.
	Bans(ctx context.Context, roomName, afterIdentity string, limit int) ([]Ban, error)
	// SetRevocation refuses that identity's tokens for that room name that were
	// issued before notBeforeMs. An earlier time than the one set changes nothing.
	SetRevocation(ctx context.Context, roomName, identity string, notBeforeMs int64) error
	// ClearRevocation lifts a revocation; false if there was none.
	ClearRevocation(ctx context.Context, roomName, identity string) (bool, error)
	// Admission tells whether an identity is banned from a room name as of now,
	// and before when its tokens must not have been issued (0 = no matter).
	Admission(ctx context.Context, roomName, identity string) (banned bool, revokedBeforeMs int64, err error)
	// PruneModeration forgets bans that ran out before nowMs and revocations of
	// tokens issued before revokedBeforeMs. It returns how many.
	PruneModeration(ctx context.Context, nowMs, revokedBeforeMs int64) (int, error)
}
