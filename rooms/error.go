package rooms

import (
	"errors"
	"fmt"

	"github.com/livekit/protocol/livekit"
)

// Code says what kind of failure an [Error] is. The edge maps it to an HTTP
// status, a Twirp code or a signalling answer.
type Code string

// The codes.
const (
	NotFound     Code = "not_found"           // the thing named does not exist
	Exists       Code = "already_exists"      // the name is taken
	Invalid      Code = "invalid_argument"    // the request can never succeed
	Denied       Code = "permission_denied"   // a grant or permission is missing
	Precondition Code = "failed_precondition" // the state does not allow it
	Exhausted    Code = "resource_exhausted"  // a limit is reached
	Unavailable  Code = "unavailable"         // try again later
	Internal     Code = "internal"            // a fault of the server; the text is for the log
)

// Error is a failure that the caller may be told of. Msg says what was asked and what the
// caller can do about it.
type Error struct {
	Code Code
	Msg  string
}

func (e *Error) Error() string { return e.Msg }

// Errorf makes an [Error].
func Errorf(c Code, format string, args ...any) *Error {
	return &Error{Code: c, Msg: fmt.Sprintf(format, args...)}
}

// ErrorCode is err's code; an error that is not an [Error] is [Internal].
func ErrorCode(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Internal
}

// The failures that callers tell apart.
var (
	// ErrNoRoom: no open room bears the name.
	ErrNoRoom = &Error{NotFound, "requested room does not exist"}
	// ErrNoParticipant: the room, or the identity in it, does not exist.
	ErrNoParticipant = &Error{NotFound, "participant does not exist"}
	// ErrReplaced: another client has taken the session's place, by the same identity.
	ErrReplaced = &Error{Precondition, "another client of this identity has taken your place"}
	// ErrEnded: the room with this SID has ended; another room may bear its name by now.
	// A store returns it for a change of a room that is not open.
	ErrEnded = &Error{NotFound, "the room has ended"}
	// ErrHeld: an earlier change of the room could not be written, and this one would
	// come after it.
	ErrHeld = &Error{Unavailable, "the room's state cannot be written at the moment, try again"}
	// ErrRoomFull: max_participants is reached.
	ErrRoomFull = &Error{Exhausted, "room is full: max_participants is reached"}
	// ErrDataTooLarge: the data is longer than a client can receive.
	ErrDataTooLarge = Errorf(Invalid, "the data, with its topic and the identities that it is for, is longer than the %d bytes "+
		"that a client receives at once: send it in parts", MaxDataPacket)
	// ErrFailed: a fault of the server took the room down; its row is intact.
	ErrFailed = &Error{Unavailable, "the room has failed and is being read again, try again"}
	// ErrStopping: the server is stopping. The room stays open: try again soon.
	ErrStopping = &Error{Unavailable, "server is restarting, try again"}
)

func wireEndReason(r EndReason) livekit.RoomEndReason {
	switch r {
	case EndClosed:
		return livekit.RoomEndReason_ROOM_END_API_DELETE
	case EndEmptyTimeout, EndDepartureTimeout:
		return livekit.RoomEndReason_ROOM_END_IDLE_TIMEOUT
	}
	return livekit.RoomEndReason_ROOM_END_UNKNOWN
}
