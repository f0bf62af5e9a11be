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

// Doorkeeper decides whether the bearer of a token may join.
type Doorkeeper interface {
	Admissible(ctx context.Context, room, identity string, issuedMs int64) error
}

// admissible refuses the token of an identity that is banned from its room, or whose
// tokens for that room were revoked after this one was made, because a host that may not
// join must not administer the room from outside either. It applies the rules of a join.
// Tokens without an identity or a room belong to servers and pass; so does an API key
// with its secret.
func (c *Config) admissible(ctx context.Context) error {
	claims := access.FromContext(ctx)
	if claims == nil || claims.Grants.Video == nil {
		return nil
	}
	return c.admissibleIn(ctx, claims.Grants.Video.Room)
}

// admissibleIn is admissible for another room that the call changes too.
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

// pullEvents serves the event log. A stream ends when its token is no longer good.
func (s *rest) pullEvents(w http.ResponseWriter, r *http.Request) error {
	s.Events.ServeHTTP(w, r.WithContext(events.While(r.Context(), s.stillGood)))
	return nil
}

// stillGood returns why the token of a running request is no longer good; nil if it is.
func (s *rest) stillGood(ctx context.Context) error {
	c := access.FromContext(ctx)
	if c != nil && c.Expired(time.Now()) {
		return problem.New(http.StatusUnauthorized, "unauthenticated", "the token has expired")
	}
	if c != nil && c.Session != "" {
		return s.sessionGood(c)
	}
	return s.admissible(ctx)
}
