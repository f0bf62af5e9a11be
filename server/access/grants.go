package access

import (
	"context"
	"errors"

	"github.com/livekit/protocol/auth"
)

// The failures of the Ensure functions.
var (
	// ErrDenied: the token is missing, or lacks the grant for the call.
	ErrDenied = errors.New("permissions denied")
	// ErrNoAccess: a join without a token, or with one that has no video grant.
	ErrNoAccess = errors.New("no permissions to access the room")
)

func video(ctx context.Context) (*Claims, *auth.VideoGrant) {
	c := FromContext(ctx)
	if c == nil || c.Grants.Video == nil {
		return nil, nil
	}
	return c, c.Grants.Video
}

// EnsureCreate returns [ErrDenied] unless the token may create and delete rooms
// (roomCreate).
func EnsureCreate(ctx context.Context) error {
	if _, g := video(ctx); g == nil || !g.RoomCreate {
		return ErrDenied
	}
	return nil
}

// EnsureList returns [ErrDenied] unless the token may list rooms (roomList).
func EnsureList(ctx context.Context) error {
	if _, g := video(ctx); g == nil || !g.RoomList {
		return ErrDenied
	}
	return nil
}

// EnsureAdmin returns [ErrDenied] unless the token may administer this room (roomAdmin,
// and the grant's room).
func EnsureAdmin(ctx context.Context, room string) error {
	c, g := video(ctx)
	if g == nil || !g.RoomAdmin || (g.Room != room && !c.Server) {
		return ErrDenied
	}
	return nil
}

// EnsureSomeAdmin returns [ErrDenied] unless the token may administer some room. It is
// for checks before a request is decoded, which names the room.
func EnsureSomeAdmin(ctx context.Context) error {
	if _, g := video(ctx); g == nil || !g.RoomAdmin {
		return ErrDenied
	}
	return nil
}

// EnsureDestRoom returns [ErrDenied] unless the token may move or forward participants
// from one room to the other (roomAdmin of the first, destinationRoom the second).
func EnsureDestRoom(ctx context.Context, from, to string) error {
	if err := EnsureAdmin(ctx, from); err != nil {
		return err
	}
	if c, g := video(ctx); g.DestinationRoom != to && !c.Server {
		return ErrDenied
	}
	return nil
}

// Dismiss takes from the grants of a participant what it had as host of its room.
func Dismiss(g *auth.VideoGrant) {
	g.RoomAdmin, g.RoomCreate, g.DestinationRoom = false, false, ""
}

// EnsureJoin returns the room that the token may join (roomJoin), which may be empty. It
// fails with [ErrNoAccess] without a video grant, and with [ErrDenied] without roomJoin.
func EnsureJoin(ctx context.Context) (room string, err error) {
	_, g := video(ctx)
	switch {
	case g == nil:
		return "", ErrNoAccess
	case !g.RoomJoin:
		return "", ErrDenied
	}
	return g.Room, nil
}
