package rooms

import (
	"math"
	"time"

	"github.com/livekit/protocol/livekit"
)

// Timeout is how long a room may stand empty, in milliseconds. [Never] means
// that only an explicit close ends the room.
type Timeout int64

// Never is the timeout of a room that ends on explicit close alone. On the wire
// it is [WireNever] seconds, in REST it is "never".
const Never Timeout = -1

// WireNever is how LiveKit's uint32 seconds say [Never].
const WireNever uint32 = math.MaxUint32

// LiveKit's defaults.
const (
	DefaultEmptyTimeout     Timeout = 300_000
	DefaultDepartureTimeout Timeout = 20_000
)

// TimeoutFromWire reads LiveKit's seconds; 0 means def.
func TimeoutFromWire(seconds uint32, def Timeout) Timeout {
	switch seconds {
	case 0:
		return def
	case WireNever:
		return Never
	}
	return Timeout(seconds) * 1000
}

// Wire returns t in LiveKit's whole seconds, rounded up.
func (t Timeout) Wire() uint32 {
	if t == Never {
		return WireNever
	}
	return uint32(min((int64(t)+999)/1000, math.MaxUint32-1))
}

// EndReason is why a room ended. It is stored as text.
type EndReason string

// The reasons a room can end for. There are no others: not age, not a restart.
const (
	EndClosed           EndReason = "closed"            // somebody closed it
	EndEmptyTimeout     EndReason = "empty_timeout"     // nobody joined within its empty timeout
	EndDepartureTimeout EndReason = "departure_timeout" // empty for its departure timeout after the last departure
)

// RoomConfig is what a room was created with beside its columns. It is stored as JSON.
type RoomConfig struct {
	MinPlayoutDelay uint32            `json:"min_playout_delay,omitempty"` // ms
	MaxPlayoutDelay uint32            `json:"max_playout_delay,omitempty"` // ms
	SyncStreams     bool              `json:"sync_streams,omitempty"`
	EnabledCodecs   []string          `json:"enabled_codecs,omitempty"` // mime types; empty = the server's
	Tags            map[string]string `json:"tags,omitempty"`
	Locked          bool              `json:"locked,omitempty"` // nobody new may join
	Hold            *Hold             `json:"hold,omitempty"`   // what must be muted; nil = nothing
	// AgentsNamed: it was created with agents, so that those for every room are not wanted.
	AgentsNamed bool `json:"agents_named,omitempty"`
}

// Record is a room as the store keeps it. Times are wall-clock Unix
// milliseconds, so that deadlines hold across restarts; 0 means unset.
type Record struct {
	SID              string // RM_…, unique for ever
	Name             string // at most one open room bears it
	CreatedMs        int64
	EmptyTimeout     Timeout // counts from creation while nobody has joined
	DepartureTimeout Timeout // counts from the last departure
	MaxParticipants  uint32  // 0 = no limit; dependents (agents, egress) do not count
	Metadata         string
	Config           RoomConfig
	TurnPassword     string

	JoinedOnce   bool  // somebody has been in it, so the departure timeout rules
	EmptySinceMs int64 // 0 while occupied
	ExpiresMs    int64 // when it ends if nobody joins; 0 = occupied, or never

	EndedMs   int64 // 0 while open
	EndReason EndReason

	NumParticipants uint32 // exact, dependents not counted
	NumPublishers   uint32 // exact
	ActiveRecording bool
	// NumJoined and PeakParticipants are the store's to count, in the transaction of
	// the change: participant_joined events so far, and the most that
	// NumParticipants has been.
	NumJoined        int64
	PeakParticipants uint32

	Version int64 // grows with every stored change
	Seq     int64 // the room_seq of its newest event
}

// Open reports whether the room has not ended.
func (r *Record) Open() bool { return r.EndedMs == 0 }

// SetEmpty marks the room empty since now and sets its deadline by the timeout
// that rules: the empty timeout until somebody has joined, then the departure
// timeout.
func (r *Record) SetEmpty(nowMs int64) {
	r.EmptySinceMs = nowMs
	r.SetDeadline()
}

// SetOccupied marks the room occupied: no deadline runs.
func (r *Record) SetOccupied() {
	r.JoinedOnce = true
	r.EmptySinceMs = 0
	r.ExpiresMs = 0
}

// SetDeadline computes ExpiresMs from EmptySinceMs and the ruling timeout. Call
// it after a change of a timeout.
func (r *Record) SetDeadline() {
	r.ExpiresMs = 0
	if r.EmptySinceMs == 0 {
		return
	}
	t := r.EmptyTimeout
	if r.JoinedOnce {
		t = r.DepartureTimeout
	}
	if t != Never {
		r.ExpiresMs = r.EmptySinceMs + int64(t)
	}
}

// DueReason is the reason for which the room ends at its deadline.
func (r *Record) DueReason() EndReason {
	if r.JoinedOnce {
		return EndDepartureTimeout
	}
	return EndEmptyTimeout
}

// Info is the room as LiveKit's wire shows it. The result is fresh and may be
// kept, but must not be changed once shared.
func (r *Record) Info() *livekit.Room {
	codecs := make([]*livekit.Codec, 0, len(r.Config.EnabledCodecs))
	for _, m := range r.Config.EnabledCodecs {
		codecs = append(codecs, &livekit.Codec{Mime: m})
	}
	return &livekit.Room{
		Sid:              r.SID,
		Name:             r.Name,
		EmptyTimeout:     r.EmptyTimeout.Wire(),
		DepartureTimeout: r.DepartureTimeout.Wire(),
		MaxParticipants:  r.MaxParticipants,
		CreationTime:     r.CreatedMs / 1000,
		CreationTimeMs:   r.CreatedMs,
		TurnPassword:     r.TurnPassword,
		EnabledCodecs:    codecs,
		Metadata:         r.Metadata,
		NumParticipants:  r.NumParticipants,
		NumPublishers:    r.NumPublishers,
		ActiveRecording:  r.ActiveRecording,
		Version:          &livekit.TimedVersion{UnixMicro: r.CreatedMs*1000 + r.Version},
	}
}

// Session is one stay of one identity in one room, as the store keeps it. A row
// with LeftMs 0 whose process is gone is a participant that is expected back.
type Session struct {
	SID      string // PA_…
	RoomSID  string
	Identity string
	JoinedMs int64
	ActiveMs int64 // when its transport connected and participant_joined was written; 0 = not yet
	LeftMs   int64 // 0 while in the room
	Reason   livekit.DisconnectReason
	// Info is what the server and the moderators decided and what the
	// participant published: a snapshot, marshalled as protobuf by the store. It
	// must not be changed once submitted.
	Info *livekit.ParticipantInfo
	// PermittedMs is when the permission was last decided after the join, and
	// EditedMs when name, metadata or attributes were last changed: what an earlier
	// token says must not undo it on a rejoin. 0 = never.
	PermittedMs, EditedMs int64
}

// NowMs is t as the store keeps it.
func NowMs(t time.Time) int64 { return t.UnixMilli() }
