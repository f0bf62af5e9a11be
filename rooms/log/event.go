package log

import (
	"time"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/encoding/protojson"

	"parlor/rooms/guid"
)

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

// New makes the event that w tells of; it fills in w's id and time. It
// panics on nothing: a body that cannot be marshalled is impossible for this
// message, and is reported as an empty body in tests.
func New(w *livekit.WebhookEvent, now time.Time) Event {
	w.Id = guid.New("EV_")
	w.CreatedAt = now.Unix()
	body, _ := protojson.Marshal(w) // fails only on invalid UTF-8, which the wire refuses before
	return Event{
		ID:        w.Id,
		Type:      w.Event,
		RoomSID:   w.Room.GetSid(),
		RoomName:  w.Room.GetName(),
		CreatedMs: now.UnixMilli(),
		Body:      body,
	}
}
