package rooms

import (
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms/log"
)

// RoomFinished makes the last event of a room. r must carry its end.
func RoomFinished(r *Record, now time.Time) log.Event {
	return log.New(&livekit.WebhookEvent{
		Event:         log.RoomFinished,
		Room:          r.Info(),
		RoomEndReason: wireEndReason(r.EndReason),
	}, now)
}
