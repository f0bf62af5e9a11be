package log

import (
	"time"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/encoding/protojson"

	"parlor/rooms/guid"
)

// Event is one entry of the event log: webhooks send it and readers pull it. The store
// sets Seq, RoomSeq and Epoch in the transaction that writes the event.
type Event struct {
	Seq       int64  // gapless over all events of this database
	ID        string // EV_…, the same in every attempt
	Type      string
	RoomSID   string
	RoomName  string
	RoomSeq   int64 // gapless within the room, from 1
	CreatedMs int64
	Epoch     int64
	Body      []byte // protojson of livekit.WebhookEvent, sent byte for byte
}

// New makes the event for w, and sets w's id and time.
func New(w *livekit.WebhookEvent, now time.Time) Event {
	w.Id = guid.New("EV_")
	w.CreatedAt = now.Unix()
	body, _ := protojson.Marshal(w) // fails only on invalid UTF-8, which the decoders of all input refuse or replace
	return Event{
		ID:        w.Id,
		Type:      w.Event,
		RoomSID:   w.Room.GetSid(),
		RoomName:  w.Room.GetName(),
		CreatedMs: now.UnixMilli(),
		Body:      body,
	}
}
