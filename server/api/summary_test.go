package api_test

import (
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// The history shows the media summary of a session once it had media.
func TestTheHistoryShowsHowMediaFared(t *testing.T) {
	h := open(t)
	ada := h.mustJoin("r", "ada")
	_, body := h.server("GET", "/v1/rooms/r", "")
	path := "/v1/history/" + read[roomJSON](t, body).SID + "/sessions"
	_, body = h.server("GET", path, "")
	require.Contains(t, body, `"media":null`)

	ada.mu.Lock()
	ada.media = &rooms.MediaSummary{
		ConnectedMs: 90_000, TCPMs: 45_000, RTTMs: 12.3456, RTTKnownMs: 1000,
		Up:      rooms.MediaFlow{FlowingMs: 10_000, Bytes: 1_000_000, Packets: 1000, Lost: 20, NACKs: 3, KeyRequests: 2},
		LayerMs: [4]int64{0, 1000, 0, 3000},
		Worst:   rooms.MediaMinute{FromMs: 1_000, ToMs: 61_000, Score: 3.5, UpLoss: 0.02, UpBitrate: 1e6},
	}
	ada.mu.Unlock()
	ada.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
	type sessions struct {
		Sessions []struct {
			LeftAt *time.Time `json:"left_at"`
			Media  object
		}
	}
	var media object
	require.Eventually(t, func() bool { // it is on disk
		_, body = h.server("GET", path, "")
		s := read[sessions](t, body).Sessions[0]
		media = s.Media
		return s.LeftAt != nil
	}, time.Minute, 10*time.Millisecond)
	nothing := object{"bitrate": 0.0, "bytes": 0.0, "packets": 0.0, "loss": 0.0, "nacks": 0.0, "key_frame_requests": 0.0}
	require.Equal(t, object{
		"connected_seconds": 90.0, "tcp_share": 0.5, "rtt_ms": 12.35,
		"up":     object{"bitrate": 800_000.0, "bytes": 1e6, "packets": 1000.0, "loss": 0.02, "nacks": 3.0, "key_frame_requests": 2.0},
		"down":   nothing,
		"layers": object{"off": 0.0, "low": 0.25, "medium": 0.0, "high": 0.75},
		"worst_minute": object{
			"from": "1970-01-01T00:00:01.000Z", "to": "1970-01-01T00:01:01.000Z", "score": 3.5, "rtt_ms": nil,
			"up_loss": 0.02, "down_loss": 0.0, "up_bitrate": 1e6, "down_bitrate": 0.0,
		},
	}, media)
}
