package rooms

import (
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms/log"
)

// RoomFinished makes the room_finished event. r must have its end time and reason.
func RoomFinished(r *Record, now time.Time) log.Event {
	return log.New(&livekit.WebhookEvent{
		Event:         log.RoomFinished,
		Room:          r.Info(),
		RoomEndReason: wireEndReason(r.EndReason),
	}, now)
}
