package media

import "github.com/livekit/protocol/livekit"

type quality struct {
	rating livekit.ConnectionQuality
	score  float32
}

// Quality implements rooms.Peer.
func (p *Peer) Quality() (livekit.ConnectionQuality, float32) {
	if q := p.quality.Load(); q != nil {
		return q.rating, q.score
	}
	return livekit.ConnectionQuality_EXCELLENT, 5
}
