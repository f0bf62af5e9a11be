package api

import (
	"encoding/json"
	"strconv"
	"time"

	"parlor/rooms"
)

// room is a room in REST.
type room struct {
	SID              string            `json:"sid"`
	Name             string            `json:"name"`
	State            string            `json:"state" enum:"open,ended"`
	CreatedAt        *timestamp        `json:"created_at"`
	EmptyTimeout     timeout           `json:"empty_timeout"`
	DepartureTimeout timeout           `json:"departure_timeout"`
	MaxParticipants  uint32            `json:"max_participants"`
	Metadata         string            `json:"metadata"`
	Tags             map[string]string `json:"tags"`
	MinPlayoutDelay  uint32            `json:"min_playout_delay_ms"`
	MaxPlayoutDelay  uint32            `json:"max_playout_delay_ms"`
	SyncStreams      bool              `json:"sync_streams"`
	EnabledCodecs    []string          `json:"enabled_codecs"`
	Locked           bool              `json:"locked" doc:"Nobody new may join."`
	WaitingRoom      bool              `json:"waiting_room" doc:"Guests that come by an invitation wait until a host admits them."`
	KeepChat         bool              `json:"keep_chat" doc:"The newest messages of the chat are kept until the room ends, for those who come late."`
	Hold             *hold             `json:"hold" doc:"What is kept muted; null if nothing is."`
	NumParticipants  uint32            `json:"num_participants"`
	NumPublishers    uint32            `json:"num_publishers"`
	NumJoined        int64             `json:"num_joined" doc:"How often somebody has joined so far: its participant_joined events."`
	PeakParticipants uint32            `json:"peak_participants" doc:"The most that num_participants has been."`
	ActiveRecording  bool              `json:"active_recording"`
	EmptySince       *timestamp        `json:"empty_since" doc:"Null while occupied."`
	ExpiresAt        *timestamp        `json:"expires_at" doc:"When the room ends if nobody joins; null while occupied, and if it never does."`
	EndedAt          *timestamp        `json:"ended_at" doc:"Null while open."`
	DurationSeconds  *float64          `json:"duration_seconds" doc:"From its creation to its end; null while open."`
	EndReason        string            `json:"end_reason,omitempty" enum:"closed,empty_timeout,departure_timeout"`
}

// showRoom is r, whose times are those of the wall clock, for the wire, without its TURN
// password.
func showRoom(r *rooms.Record) room {
	out := room{
		SID: r.SID, Name: r.Name, State: "open",
		CreatedAt:        at(r.CreatedMs),
		EmptyTimeout:     timeout(r.EmptyTimeout),
		DepartureTimeout: timeout(r.DepartureTimeout),
		MaxParticipants:  r.MaxParticipants,
		Metadata:         r.Metadata,
		Tags:             r.Config.Tags,
		MinPlayoutDelay:  r.Config.MinPlayoutDelay,
		MaxPlayoutDelay:  r.Config.MaxPlayoutDelay,
		SyncStreams:      r.Config.SyncStreams,
		EnabledCodecs:    r.Config.EnabledCodecs,
		Locked:           r.Config.Locked,
		WaitingRoom:      r.Config.WaitingRoom,
		KeepChat:         r.Config.KeepChat,
		Hold:             showHold(r.Config.Hold),
		NumParticipants:  r.NumParticipants,
		NumPublishers:    r.NumPublishers,
		NumJoined:        r.NumJoined,
		PeakParticipants: r.PeakParticipants,
		ActiveRecording:  r.ActiveRecording,
		EmptySince:       at(r.EmptySinceMs),
		ExpiresAt:        at(r.ExpiresMs),
		EndedAt:          at(r.EndedMs),
		EndReason:        string(r.EndReason),
	}
	if !r.Open() {
		out.State = "ended"
		seconds := float64(r.EndedMs-r.CreatedMs) / 1000
		out.DurationSeconds = &seconds
	}
	if out.Tags == nil {
		out.Tags = map[string]string{}
	}
	if out.EnabledCodecs == nil {
		out.EnabledCodecs = []string{}
	}
	return out
}

// timestamp is RFC 3339 in UTC, with milliseconds.
type timestamp time.Time

func at(ms int64) *timestamp {
	if ms == 0 {
		return nil
	}
	t := timestamp(time.UnixMilli(ms).UTC())
	return &t
}

func (t *timestamp) MarshalJSON() ([]byte, error) {
	return []byte(time.Time(*t).Format(`"2006-01-02T15:04:05.000Z07:00"`)), nil
}

// timeout is whole seconds or "never".
type timeout rooms.Timeout

func (t timeout) MarshalJSON() ([]byte, error) {
	if rooms.Timeout(t) == rooms.Never {
		return []byte(`"never"`), nil
	}
	return strconv.AppendUint(nil, uint64(rooms.Timeout(t).Wire()), 10), nil
}

// domain is t in the domain's type; nil stays nil.
func (t *wireTimeout) domain() *rooms.Timeout {
	if t == nil {
		return nil
	}
	d := rooms.TimeoutFromWire(uint32(*t), 0)
	return &d
}

// wireTimeout is a timeout in a request, in the form of LiveKit's messages: whole seconds
// from 1, or "never". 0 means that it is not given: the server's default applies.
type wireTimeout uint32

func (wireTimeout) wrong(value any) string {
	if value == "never" {
		return ""
	}
	n, ok := value.(json.Number)
	seconds, err := strconv.ParseUint(n.String(), 10, 32)
	if !ok || err != nil || seconds == 0 || seconds == uint64(rooms.WireNever) {
		return `must be whole seconds, at least 1, or "never"`
	}
	return ""
}

// UnmarshalJSON reads a value that wrong has accepted.
func (t *wireTimeout) UnmarshalJSON(b []byte) error {
	if string(b) == `"never"` {
		*t = wireTimeout(rooms.WireNever)
		return nil
	}
	return json.Unmarshal(b, (*uint32)(t))
}

// wireTime is a time in a request, RFC 3339. The zero value means that it is not given.
type wireTime time.Time

func (wireTime) wrong(value any) string {
	text, ok := value.(string)
	if _, err := time.Parse(time.RFC3339, text); !ok || err != nil {
		return notATime
	}
	return ""
}

// UnmarshalJSON reads a value that wrong has accepted.
func (t *wireTime) UnmarshalJSON(b []byte) error { return (*time.Time)(t).UnmarshalJSON(b) }

// ms is t in Unix milliseconds; 0 if it is not given.
func (t wireTime) ms() int64 {
	if time.Time(t).IsZero() {
		return 0
	}
	return rooms.NowMs(time.Time(t))
}

// seq is an event's seq in a request.
type seq int64

func (seq) wrong(value any) string {
	n, ok := value.(json.Number)
	v, err := strconv.ParseInt(n.String(), 10, 64)
	if !ok || err != nil || v < 1 {
		return "must be the seq of an event"
	}
	return ""
}
