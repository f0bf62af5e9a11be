package api

import (
	"context"
	"errors"
	"net/http"

	"parlor/rooms"
	"parlor/server/access"
)

// standing refuses the token of somebody who is banned from its room, or whose
// tokens for that room were revoked after it was made: who may not come in may not
// rule from outside either. It asks what a join asks. Tokens without an identity
// or a room are a server's own and not concerned, nor is an API key with its
// secret.
func (c *Config) standing(ctx context.Context) error {
	claims := access.FromContext(ctx)
	if claims == nil || claims.Grants.Video == nil {
		return nil
	}
	return c.standingIn(ctx, claims.Grants.Video.Room)
}

// standingIn is standing in another room, which the call is to change too.
func (c *Config) standingIn(ctx context.Context, room string) error {
	claims := access.FromContext(ctx)
	if claims == nil || claims.Grants.Identity == "" || room == "" {
		return nil
	}
	err := c.Rooms.Admissible(ctx, room, claims.Grants.Identity, claims.NotBefore.UnixMilli())
	switch {
	case errors.Is(err, rooms.ErrBanned):
		return problemf(http.StatusForbidden, "banned", "the identity of this token is banned from room %q", room)
	case errors.Is(err, rooms.ErrRevoked):
		return problemf(http.StatusForbidden, "revoked", "this token has been revoked for room %q: ask for a new one", room)
	}
	return err
}
