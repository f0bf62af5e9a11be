package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"parlor/rooms"
	"parlor/server/access"
	"parlor/server/events"
	"parlor/server/problem"
)

// Doorkeeper tells whether the bearer of a token may join.
type Doorkeeper interface {
	Admissible(ctx context.Context, room, identity string, issuedMs int64) error
}

// admissible refuses the token of an identity that is banned from its room, or whose
// tokens for that room were revoked after it was made: a host that may not come in may
// not rule from outside either. It asks what a join asks. Tokens without an identity
// or a room are a server's own and not concerned, nor is an API key with its
// secret.
func (c *Config) admissible(ctx context.Context) error {
	claims := access.FromContext(ctx)
	if claims == nil || claims.Grants.Video == nil {
		return nil
	}
	return c.admissibleIn(ctx, claims.Grants.Video.Room)
}

// admissibleIn is admissible in another room, which the call is to change too.
func (c *Config) admissibleIn(ctx context.Context, room string) error {
	claims := access.FromContext(ctx)
	if claims == nil || claims.Grants.Identity == "" || room == "" {
		return nil
	}
	err := c.Rooms.Admissible(ctx, room, claims.Grants.Identity, claims.NotBefore.UnixMilli())
	switch {
	case errors.Is(err, rooms.ErrBanned):
		return problem.New(http.StatusForbidden, "banned", "the identity of this token is banned from room %q", room)
	case errors.Is(err, rooms.ErrRevoked):
		return problem.New(http.StatusForbidden, "revoked", "this token has been revoked for room %q: ask for a new one", room)
	}
	return err
}

// pullEvents serves the event log. A stream goes on only while its token is good.
func (s *rest) pullEvents(w http.ResponseWriter, r *http.Request) error {
	s.Events.ServeHTTP(w, r.WithContext(events.While(r.Context(), s.stillGood)))
	return nil
}

// stillGood is why the token of a request that was let in is good no more.
func (s *rest) stillGood(ctx context.Context) error {
	if c := access.FromContext(ctx); c != nil && c.Expired(time.Now()) {
		return problem.New(http.StatusUnauthorized, "unauthenticated", "the token has expired")
	}
	return s.admissible(ctx)
}
