package media

import (
	"sync"

	"github.com/livekit/protocol/livekit"
)

// maxScore is the score of a connection without fault.
const maxScore = 5

// stream is one direction of one track: a layer that comes in or a forwarder.
type stream interface {
	// Quality of the last seconds; ok is false when there is nothing to judge by.
	Quality() (rating livekit.ConnectionQuality, score float32, ok bool)
}

// qualityMeter judges a peer's connection: as its worst stream, or as lost while
// the transports do not answer.
type qualityMeter struct {
	// mu guards the following.
	mu      sync.Mutex
	lost    bool
	streams map[stream]struct{}
}

func newQualityMeter() *qualityMeter { return &qualityMeter{streams: map[stream]struct{}{}} }

// Quality implements rooms.Peer: of the last seconds, the worst of what the client
// sends and of what it is sent.
func (p *Peer) Quality() (livekit.ConnectionQuality, float32) { return p.quality.judge() }

func (m *qualityMeter) judge() (livekit.ConnectionQuality, float32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lost {
		return livekit.ConnectionQuality_LOST, 0
	}
	rating, score := livekit.ConnectionQuality_EXCELLENT, float32(maxScore)
	for s := range m.streams {
		if r, sc, ok := s.Quality(); ok && sc < score {
			rating, score = r, sc
		}
	}
	return rating, score
}

func (m *qualityMeter) add(s stream) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.streams[s] = struct{}{}
}

func (m *qualityMeter) remove(s stream) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.streams, s)
}

// setLost tells whether the transports answer.
func (m *qualityMeter) setLost(lost bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lost = lost
}
