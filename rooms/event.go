package rooms

import (
	"time"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/encoding/protojson"
)

// The types of events, as LiveKit names them.
const (
	EventRoomStarted        = "room_started"
	EventRoomFinished       = "room_finished"
	EventParticipantJoined  = "participant_joined"
	EventParticipantLeft    = "participant_left"
	EventParticipantAborted = "participant_connection_aborted"
	EventTrackPublished     = "track_published"
	EventTrackUnpublished   = "track_unpublished"
)

// The types that LiveKit does not send. An endpoint gets them only if its filter
// names them, so that receivers written for LiveKit see nothing new.
const (
	EventRoomUpdated        = "room_updated"        // metadata, timeouts or limits changed
	EventParticipantUpdated = "participant_updated" // name, metadata, attributes or permission changed
	EventParticipantResumed = "participant_resumed" // back after a restart of the server
	EventTrackMuted         = "track_muted"
	EventTrackUnmuted       = "track_unmuted"
)

// EventTypes is every type that a room's log may have.
func EventTypes() []string {
	return []string{
		EventRoomStarted, EventRoomFinished, EventParticipantJoined, EventParticipantLeft, EventParticipantAborted,
		EventTrackPublished, EventTrackUnpublished,
		EventRoomUpdated, EventParticipantUpdated, EventParticipantResumed, EventTrackMuted, EventTrackUnmuted,
	}
}

// Event is one line of the event log: what the webhooks send and what the log's
// readers pull. Seq, RoomSeq and Epoch are set by the store in the transaction
// that writes the event.
type Event struct {
	Seq       int64  // gapless over all events of this database
	ID        string // EV_…, stable across attempts
	Type      string
	RoomSID   string
	RoomName  string
	RoomSeq   int64 // gapless within the room, from 1
	CreatedMs int64
	Epoch     int64
	Body      []byte // protojson of livekit.WebhookEvent, sent byte for byte
}

// NewEvent makes the event that w tells of; it fills in w's id and time. It
// panics on nothing: a body that cannot be marshalled is impossible for this
// message, and is reported as an empty body in tests.
func NewEvent(w *livekit.WebhookEvent, now time.Time) Event {
	w.Id = NewID("EV_")
	w.CreatedAt = now.Unix()
	body, _ := protojson.Marshal(w) // fails only on invalid UTF-8, which the wire refuses before
	return Event{
		ID:        w.Id,
		Type:      w.Event,
		RoomSID:   w.Room.GetSid(),
		RoomName:  w.Room.GetName(),
		CreatedMs: NowMs(now),
		Body:      body,
	}
}

// RoomFinished makes the last event of a room. r must carry its end.
func RoomFinished(r *Record, now time.Time) Event {
	return NewEvent(&livekit.WebhookEvent{
		Event:         EventRoomFinished,
		Room:          r.Info(),
		RoomEndReason: wireEndReason(r.EndReason),
	}, now)
}
