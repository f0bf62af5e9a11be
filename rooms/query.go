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

// RoomCursor is a place in a list of rooms: directly after the room that it was made of.
// The zero value is the beginning.
type RoomCursor struct {
	Name      string
	CreatedMs int64
	SID       string
}

// Cursor is r's place in lists of rooms.
func (r *Record) Cursor() RoomCursor {
	return RoomCursor{Name: r.Name, CreatedMs: r.CreatedMs, SID: r.SID}
}

// RoomQuery asks for a page of rooms, in the order of their creation. With a Name or
// NamePrefix they come in the order of their names, and of creation within a name.
type RoomQuery struct {
	State      RoomState
	Name       string // that name alone
	NamePrefix string // names that begin with it; with a Name both must hold
	// CreatedFromMs and CreatedBeforeMs bound the time of creation; 0 = no bound.
	CreatedFromMs, CreatedBeforeMs int64
	Descending                     bool
	After                          RoomCursor // the page begins after it
	Limit                          int
}

// SessionQuery asks for a page of a room's sessions, present and past, in the
// order of joining.
type SessionQuery struct {
	RoomSID       string
	AfterJoinedMs int64 // the page begins after the session with this joining time
	AfterSID      string
	Limit         int
}

// PresenceQuery asks for a page of the participants of all open rooms, in the order of their
// rooms' ids and of their identities. Those that are expected back after a restart belong
// to them.
type PresenceQuery struct {
	AfterRoomSID  string // the page begins after the participant of this room
	AfterIdentity string // with this identity
	Limit         int
}

// Ban keeps an identity out of every room of a name.
type Ban struct {
	RoomName  string
	Identity  string
	UntilMs   int64 // 0 = until lifted
	CreatedMs int64
	Reason    string
}

// Revocation refuses an identity's tokens for every room of a name.
type Revocation struct {
	RoomName    string
	Identity    string
	NotBeforeMs int64 // tokens that are valid from before this time are refused
}

// History looks up rooms beyond the [Store]. No look-up reads more than the page that it
// returns.
type History interface {
	// GetBySID returns a room, open or ended; [ErrNoRoom] if there is none.
	GetBySID(ctx context.Context, sid string) (Record, error)
	// ListRooms returns a page of rooms.
	ListRooms(ctx context.Context, q RoomQuery) ([]Record, error)
	// CountRooms returns how many rooms are open and how many are kept as history.
	CountRooms(ctx context.Context) (open, ended int64, err error)
	// ListSessions returns a page of a room's sessions.
	ListSessions(ctx context.Context, q SessionQuery) ([]Session, error)
	// ListPresent returns a page of the participants of all open rooms.
	ListPresent(ctx context.Context, q PresenceQuery) ([]Session, error)
	// PruneHistory deletes rooms that ended before endedBeforeMs, with their sessions: up
	// to batch rows in all, a room after the last of its sessions. A result below batch
	// means that there are no more.
	PruneHistory(ctx context.Context, endedBeforeMs int64, batch int) (int, error)
	// PruneSessions deletes sessions of open rooms that left before leftBeforeMs, except
	// the newest [MostDeparted] of each room, which a live room still uses. A call looks
	// at some rooms after the cursor and deletes up to batch sessions. next is where the
	// next call goes on; it is the zero value at the end.
	PruneSessions(ctx context.Context, leftBeforeMs int64, after RoomCursor, batch int) (n int, next RoomCursor, err error)
	// PruneAgents deletes ended jobs of open rooms, except the newest [MostJobs] of each
	// room, and deleted dispatches: nothing reads them any more. It pages as
	// PruneSessions does.
	PruneAgents(ctx context.Context, after RoomCursor, batch int) (n int, next RoomCursor, err error)
}

// Moderation stores bans and revoked tokens. They apply to a room's name, so they outlive
// the room that was open when they were made.
type Moderation interface {
	// SetBan makes a ban, or changes the one of that identity and room name.
	SetBan(ctx context.Context, b Ban) error
	// ClearBan lifts a ban; false if there was none.
	ClearBan(ctx context.Context, roomName, identity string) (bool, error)
	// Bans returns a page of a room name's bans, by identity.
	Bans(ctx context.Context, roomName, afterIdentity string, limit int) ([]Ban, error)
	// SetRevocation refuses that identity's tokens for that room name that were issued
	// before notBeforeMs. A time earlier than the stored one changes nothing.
	SetRevocation(ctx context.Context, roomName, identity string, notBeforeMs int64) error
	// Revocations returns a page of a room name's revocations, by identity.
	Revocations(ctx context.Context, roomName, afterIdentity string, limit int) ([]Revocation, error)
	// ClearRevocation lifts a revocation; false if there was none.
	ClearRevocation(ctx context.Context, roomName, identity string) (bool, error)
	// Admission tells whether an identity is banned from a room name now, and before
	// which time its tokens are revoked; 0 = none are.
	Admission(ctx context.Context, roomName, identity string) (banned bool, revokedBeforeMs int64, err error)
	// PruneModeration deletes bans that ran out before nowMs and revocations whose time
	// is before revokedBeforeMs. It returns how many it deleted.
	PruneModeration(ctx context.Context, nowMs, revokedBeforeMs int64) (int, error)
}
