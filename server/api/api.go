// Package api lets other programs act on rooms: by LiveKit's services over Twirp, which
// every LiveKit server SDK speaks, and by REST under /v1 for callers that have only curl.
// Both translate between the wire and [Rooms], and decide only whether the caller has the
// grant.
//
// An error's text is meant for the caller. A fault of the server is logged, and its
// caller gets "internal error" alone.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms"
	"parlor/server/access"
	"parlor/server/config"
	"parlor/server/ratelimit"
	"parlor/server/unpack"
)

// Rooms is what the API needs of the domain; each part is declared in the file that uses
// it. Errors that the caller may see are a [rooms.Error].
type Rooms interface {
	Directory
	Participants
	Messages
	Moderator
	Doorkeeper
	Breakouts
	Occupier
	Stats() rooms.Stats
	Now() rooms.Instant
}

// Records reads the rows of rooms, open or ended.
type Records interface {
	FindOpen(ctx context.Context, name string) (rooms.Record, error)
	GetBySID(ctx context.Context, sid string) (rooms.Record, error)
	Chat(ctx context.Context, roomSID string) ([]rooms.ChatMessage, error)
	ListRooms(ctx context.Context, q rooms.RoomQuery) ([]rooms.Record, error)
	ListSessions(ctx context.Context, q rooms.SessionQuery) ([]rooms.Session, error)
	ListPresent(ctx context.Context, q rooms.PresenceQuery) ([]rooms.Session, error)
	ListJobs(ctx context.Context, after rooms.JobCursor, limit int) ([]rooms.PlacedJob, error)
	ListDispatches(ctx context.Context, after rooms.DispatchCursor, limit int) ([]rooms.PlacedDispatch, error)
	CountRooms(ctx context.Context) (open, ended int64, err error)
	CountDue(ctx context.Context, now rooms.Instant) (int64, error)
}

// Hours tells what happened in each hour; see [rooms.Hours].
type Hours interface {
	Hours(ctx context.Context, fromMs, beforeMs int64, limit int) ([]rooms.Hour, error)
}

// Dispatches is what the API needs of the domain for agents.
type Dispatches interface {
	CreateDispatch(ctx context.Context, req *livekit.CreateAgentDispatchRequest) (*livekit.AgentDispatch, error)
	DeleteDispatch(ctx context.Context, req *livekit.DeleteAgentDispatchRequest) (*livekit.AgentDispatch, error)
	ListDispatch(ctx context.Context, req *livekit.ListAgentDispatchRequest) (*livekit.ListAgentDispatchResponse, error)
}

// Config configures the API.
type Config struct {
	Rooms      Rooms
	Dispatches Dispatches
	Records    Records
	Moderation Moderation
	Hours      Hours
	Replies    Replies // nil = a restart forgets Idempotency-Keys
	Verifier   *access.Verifier
	Presets    map[string]config.Preset // for room_preset
	MaxBody    int64                    // bound of any request's body in bytes; 0 = no bound
	Guard      *unpack.Guard            // bounds concurrent decoding; nil = no bound
	Limits     rooms.Limits             // the limits of joins, which hold for tokens too
	Log        *slog.Logger

	// The rest is for REST alone.

	Requests *ratelimit.Limits // nil = no bound

	Events       http.Handler        // serves the event log
	Webhooks     Webhooks            // nil = there are no webhooks
	Invitations  Invitations         // nil = there are no invitations
	Redeem       *ratelimit.Limits   // limits the redemption of invitations; nil = no limit
	Lobby        string              // what is told in the lobby, of the configuration; "" = nothing
	Hooked       bool                // a hook decides who is let in: the lobby tells nobody but hosts
	Looks        *ratelimit.Limits   // limits asking who is in a room; nil = no limit
	KnockRefused func()              // called when too many wait for one more to knock; nil = nobody is told
	Page         string              // URL of the page, for links; "" = the address that the caller used
	Now          func() time.Time    // decides when invitations expire; nil = time.Now
	Writer       func() Writer       // the figures of the database's writer; nil = not shown
	Replica      Replica             // nil = the database is not replicated
	Certificate  func() *Certificate // of TLS; nil, or nil from it = there is none
	Check        Checker             // nil = there are no checks
	// Dashboard's Refusals and Audit are Twirp's, too.
	Dashboard Dashboard
	Version   string
	Started   time.Time
}

// errInternal stands for a fault of the server, whose text stays in the log.
var errInternal = &rooms.Error{Code: rooms.Internal, Msg: "internal error"}

// tell returns err as the caller may see it, and logs the error that it hides. An error
// after the caller has gone is not logged.
func tell(ctx context.Context, log *slog.Logger, what string, err error) *rooms.Error {
	if e, ok := errors.AsType[*rooms.Error](err); ok && e.Code != rooms.Internal {
		return e
	}
	if ctx.Err() == nil {
		log.Error("API call failed", "call", what, "error", err)
	}
	return errInternal
}

// withPreset fills the empty fields of req from its preset.
func (c *Config) withPreset(req *livekit.CreateRoomRequest) error {
	if req.RoomPreset == "" {
		return nil
	}
	p, ok := c.Presets[req.RoomPreset]
	if !ok {
		return rooms.Errorf(rooms.Invalid, "unknown room preset %q", req.RoomPreset)
	}
	p.Fill(req)
	return nil
}
