package rooms

import (
	"math"
	"time"

	"github.com/livekit/protocol/livekit"
)

// Timeout is how long a room may stand empty, in milliseconds. [Never] means
// that only an explicit close ends the room.
type Timeout int64

// Never is the timeout of a room that ends only when it is closed. On the wire it is
// [WireNever] seconds, in REST it is "never".
const Never Timeout = -1

// WireNever stands for [Never] in LiveKit's uint32 seconds.
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

// The reasons for which a room can end. Age and restarts are not among them.
const (
	EndClosed           EndReason = "closed"            // somebody closed it
	EndEmptyTimeout     EndReason = "empty_timeout"     // nobody joined within its empty timeout
	EndDepartureTimeout EndReason = "departure_timeout" // empty for its departure timeout after the last departure
)

// RoomConfig holds a room's settings that have no column. It is stored as JSON.
type RoomConfig struct {
	MinPlayoutDelay uint32            `json:"min_playout_delay,omitempty"` // ms
	MaxPlayoutDelay uint32            `json:"max_playout_delay,omitempty"` // ms
	SyncStreams     bool              `json:"sync_streams,omitempty"`
	EnabledCodecs   []string          `json:"enabled_codecs,omitempty"` // mime types; empty = the server's
	Tags            map[string]string `json:"tags,omitempty"`
	Locked          bool              `json:"locked,omitempty"`       // nobody new may join
	WaitingRoom     bool              `json:"waiting_room,omitempty"` // a host admits the guests that come by an invitation
	KeepChat        bool              `json:"keep_chat,omitempty"`    // public messages are kept for those who come late
	Hold            *Hold             `json:"hold,omitempty"`         // which tracks must be muted; nil = none
	Division        *Division         `json:"division,omitempty"`     // its breakout rooms; nil = it is not divided
	Main            *MainRoom         `json:"main,omitempty"`         // it is a breakout room of that one; nil = it is none
	// AgentsNamed: the room was created with named agents, or its dispatch of the agents for
	// every room was deleted, so these do not come.
	AgentsNamed bool `json:"agents_named,omitempty"`

	// Unreadable is what the database has in place of the settings, if that cannot be read. The
	// store keeps it until somebody sets a setting, so that it can be mended.
	Unreadable string `json:"-"`
}

// UnreadableConfig stands for settings that cannot be read, stored as text. Perhaps they
// kept somebody out, so nobody new gets in until a host or the API unlocks the room; those
// who are in it, or come back to it, go on.
func UnreadableConfig(text string) RoomConfig {
	return RoomConfig{Locked: true, Unreadable: text}
}

// Readable notes that somebody sets a setting: what could not be read is given up.
func (c *RoomConfig) Readable() { c.Unreadable = "" }

// Record is a room as the store keeps it. Times are Unix milliseconds; 0 means unset.
// EmptySinceMs and ExpiresMs of an open room are times of the steady clock, see [Instant], so
// that deadlines hold across restarts and however the wall clock is set.
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

	JoinedOnce   bool  // somebody has been in it, so the departure timeout applies
	EmptySinceMs int64 // 0 while occupied
	ExpiresMs    int64 // when the room ends if nobody joins; 0 = occupied, or never

	EndedMs   int64 // 0 while open
	EndReason EndReason

	NumParticipants uint32 // exact, dependents not counted
	NumPublishers   uint32 // exact
	ActiveRecording bool
	// NumJoined and PeakParticipants are counted by the store in the transaction of the change:
	// the participant_joined events so far, and the highest NumParticipants so far.
	NumJoined        int64
	PeakParticipants uint32

	Version int64 // grows with every stored change
	Seq     int64 // the room_seq of its newest event
}

// Open reports whether the room has not ended.
func (r *Record) Open() bool { return r.EndedMs == 0 }

// SetEmpty marks the room as empty since nowMs, [Instant.Ms], and sets its deadline: by the empty
// timeout until somebody has joined, then by the departure timeout.
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

// SetDeadline computes ExpiresMs from EmptySinceMs and the timeout that applies. Call it
// after a change of a timeout, or of the division: while some of its people are in breakout
// rooms, no deadline runs.
func (r *Record) SetDeadline() {
	r.ExpiresMs = 0
	if r.EmptySinceMs == 0 {
		return
	}
	t := r.EmptyTimeout
	if r.JoinedOnce {
		t = r.DepartureTimeout
	}
	if t != Never && !r.Config.Division.someOut() {
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

// Info is the room in LiveKit's form. The result is new and may be kept, but must not be
// changed once shared.
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

// Session is one stay of one identity in one room. It is what the store keeps. A row with
// LeftMs 0 that no process serves is a participant that is expected back.
type Session struct {
	SID      string // PA_…
	RoomSID  string
	Identity string
	JoinedMs int64
	ActiveMs int64 // when its transport connected and participant_joined was written; 0 = not yet
	LeftMs   int64 // 0 while in the room
	Reason   livekit.DisconnectReason
	// Info is a snapshot of the participant: what the server and the moderators decided,
	// and what it publishes. The store marshals it as protobuf. It must not be changed
	// once submitted.
	Info *livekit.ParticipantInfo
	// PermittedMs is when the permission was last changed after the join, and EditedMs
	// when name, metadata or attributes were. A rejoin with an earlier token must not
	// undo these changes. 0 = never.
	PermittedMs, EditedMs int64
	// Host tells that it runs the room, by its token or as was decided; see [Rooms.SetHost].
	Host bool
	// Media is how its media fared, as of when it was last written; nil if it never had
	// any, or was written before that was kept.
	Media *MediaSummary
	// Damaged: the row's info cannot be read, and Info has what other columns tell.
	Damaged bool

	blobs dataBlobs // on disk as [DataBlob]
	left  int64     // when it left, by the steady clock; 0 if it has not, or in an earlier process
}

// NowMs is t in the store's unit, Unix milliseconds.
func NowMs(t time.Time) int64 { return t.UnixMilli() }
