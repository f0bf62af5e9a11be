// Package api is how other programs act on rooms: LiveKit's RoomService over
// Twirp, which every LiveKit server SDK speaks, and REST under /v1 for callers
// that have only curl. Both translate between the wire and [Rooms], and decide
// nothing but whether the caller holds the grant.
//
// A failure's text is fit for the caller; what is our own fault is logged and
// answered with "internal error" alone.
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

// Rooms is what the API asks of the domain: each part stands beside what asks it.
// Failures that the caller may be told of are a [rooms.Error].
type Rooms interface {
	Directory
	Participants
	Messages
	Moderator
	Doorkeeper
	Stats() rooms.Stats
}

// Records is what REST reads of rooms: their rows, open or ended.
type Records interface {
	FindOpen(ctx context.Context, name string) (rooms.Record, error)
	GetBySID(ctx context.Context, sid string) (rooms.Record, error)
	ListRooms(ctx context.Context, q rooms.RoomQuery) ([]rooms.Record, error)
	ListSessions(ctx context.Context, q rooms.SessionQuery) ([]rooms.Session, error)
	CountRooms(ctx context.Context) (open, ended int64, err error)
	CountDue(ctx context.Context, nowMs int64) (int64, error)
}

// Dispatches is what the API asks of the domain about agents.
type Dispatches interface {
	CreateDispatch(ctx context.Context, req *livekit.CreateAgentDispatchRequest) (*livekit.AgentDispatch, error)
	DeleteDispatch(ctx context.Context, req *livekit.DeleteAgentDispatchRequest) (*livekit.AgentDispatch, error)
	ListDispatch(ctx context.Context, req *livekit.ListAgentDispatchRequest) (*livekit.ListAgentDispatchResponse, error)
}

// Config is what the API needs.
type Config struct {
	Rooms      Rooms
	Dispatches Dispatches
	Records    Records
	Moderation Moderation
	Replies    Replies // nil = Idempotency-Keys are forgotten by a restart
	Verifier   *access.Verifier
	Presets    map[string]config.Preset // for room_preset
	MaxBody    int64                    // bytes of the longest body that any request may have; 0 = no limit
	Guard      *unpack.Guard            // bounds what is decoded at one time; nil = no bound
	Limits     rooms.Limits             // that joins are held to, and so tokens too
	Log        *slog.Logger

	// The rest is REST's alone.

	Requests *ratelimit.Limits // nil = no bound

	Events   http.Handler  // serves the event log
	Webhooks Webhooks      // nil = there are none
	Writer   func() Writer // how the database's writer fares; nil = not told
	Replica  Replica       // nil = the database is not replicated
	Check    Checker       // nil = nothing is looked at
	Version  string
	Started  time.Time
}

// errInternal stands for a failure of our own, whose text stays in the log.
var errInternal = &rooms.Error{Code: rooms.Internal, Msg: "internal error"}

// tell returns err as the caller may see it, and logs what it may not. A
// request that its caller gave up on is nobody's failure.
func tell(ctx context.Context, log *slog.Logger, what string, err error) *rooms.Error {
	if e, ok := errors.AsType[*rooms.Error](err); ok && e.Code != rooms.Internal {
		return e
	}
	if ctx.Err() == nil {
		log.Error("API call failed", "call", what, "error", err)
	}
	return errInternal
}

// withPreset fills what req leaves open from its preset.
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
