package access

import (
	"context"

	"github.com/livekit/protocol/auth"
)

// Role is what a session of the dashboard may do. Each role may do what those before it
// may.
type Role int

// The roles, and what they may do of the API's operations. [EnsureRole] and [OfRole] are
// the only places that say what a role is worth.
const (
	// NoRole may do nothing: every operation asks for one of the others.
	NoRole Role = iota
	// Look sees everything that a GET shows, and changes nothing.
	Look
	// Moderate acts on rooms and on who is in them.
	Moderate
	// All does what the API key does whose session it is: tokens, webhooks, sessions.
	All
)

// ParseRole is the role of that name, such as "look"; false if there is none.
func ParseRole(name string) (Role, bool) {
	for _, r := range []Role{Look, Moderate, All} {
		if r.String() == name {
			return r, true
		}
	}
	return NoRole, false
}

func (r Role) String() string {
	switch r {
	case Look:
		return "look"
	case Moderate:
		return "moderate"
	case All:
		return "all"
	case NoRole:
	}
	return "none"
}

// OfRole is what a session of the dashboard entitles to, in place of a token: every
// room, and of the operations those that [EnsureRole] lets it do.
func OfRole(apiKey, session string, r Role) *Claims {
	return &Claims{
		APIKey: apiKey, Session: session, Role: r, Server: true,
		Grants: &auth.ClaimGrants{Video: &auth.VideoGrant{RoomCreate: true, RoomList: true, RoomAdmin: true, RoomRecord: true}},
	}
}

// EnsureRole gives [ErrDenied] if the request is of a session of the dashboard whose role
// is less than that. Tokens, and API keys with their secrets, have grants and no role.
func EnsureRole(ctx context.Context, least Role) error {
	c := FromContext(ctx)
	if c == nil || c.Session == "" {
		return nil
	}
	if least == NoRole || c.Role < least {
		return ErrDenied
	}
	return nil
}
