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
	HostDecided(ctx context.Context, room, identity string) (host, decided bool, err error)
}

type tokenKey struct{}

// asDecided returns a context with what the request's token is worth: where the open room has
// decided whether the token's bearer is host, that counts, and not what the token says.
func (c *Config) asDecided(ctx context.Context) (context.Context, error) {
	claims, before := ctx.Value(tokenKey{}).(*access.Claims) // as the token has them
	if !before {
		claims = access.FromContext(ctx)
	}
	if claims == nil || claims.Server || claims.Grants.Video == nil || claims.Grants.Identity == "" || claims.Grants.Video.Room == "" {
		return ctx, nil
	}
	host, decided, err := c.Rooms.HostDecided(ctx, claims.Grants.Video.Room, claims.Grants.Identity)
	if err != nil {
		return ctx, err
	}
	now := *claims
	if decided {
		now.Grants = claims.Grants.Clone()
		if host {
			now.Grants.Video.RoomAdmin = now.Grants.Video.RoomAdmin || now.Grants.Video.RoomJoin
		} else {
			access.Dismiss(now.Grants.Video)
		}
	}
	return access.WithClaims(context.WithValue(ctx, tokenKey{}, claims), &now), nil
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
	err := c.Rooms.Admissible(ctx, room, claims.Grants.Identity, claims.IssuedMs())
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
	s.Events.ServeHTTP(w, r.WithContext(events.While(r.Context(), func(ctx context.Context) error {
		if err := s.stillGood(ctx); err != nil {
			return err
		}
		now, err := s.asDecided(ctx)
		if err != nil {
			return err
		}
		if toPull.ensure(r.WithContext(now)) != nil {
			return problem.New(http.StatusForbidden, "permission_denied", "the bearer of this token is not host of the room any more")
		}
		return nil
	})))
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
