package media

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/media/forward"
)

// maxScore is the score of a connection without fault.
const maxScore = 5

// qualityInterval is how often a peer judges its connection.
const qualityInterval = 2 * time.Second

// stream is one direction of one track: a layer that comes in or a forwarder.
type stream interface {
	// Quality of the last seconds; ok is false when there is nothing to judge by.
	Quality() (rating livekit.ConnectionQuality, score float32, ok bool)
	// Account of all that it did.
	Account() forward.Account
}

// qualityMeter judges a peer's connection: as its worst stream, or as lost while
// the transports do not answer. The peer's loop judges, since that is a look at each
// stream; others are told what it found.
type qualityMeter struct {
	last atomic.Pointer[verdict]

	// mu guards the following.
	mu      sync.Mutex
	lost    bool
	streams map[stream]struct{}
}

// verdict is what a connection was judged to be.
type verdict struct {
	rating livekit.ConnectionQuality
	score  float32
}

func newQualityMeter() *qualityMeter {
	m := &qualityMeter{streams: map[stream]struct{}{}}
	m.last.Store(&verdict{livekit.ConnectionQuality_EXCELLENT, maxScore})
	return m
}

// Quality implements rooms.Peer: of the last seconds, the worst of what the client
// sends and of what it is sent.
func (p *Peer) Quality() (livekit.ConnectionQuality, float32) {
	v := p.quality.last.Load()
	return v.rating, v.score
}

func (m *qualityMeter) judge() (livekit.ConnectionQuality, float32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := &verdict{livekit.ConnectionQuality_EXCELLENT, maxScore}
	if m.lost {
		v = &verdict{livekit.ConnectionQuality_LOST, 0}
	} else {
		for s := range m.streams {
			if r, score, ok := s.Quality(); ok && score < v.score {
				v.rating, v.score = r, score
			}
		}
	}
	m.last.Store(v)
	return v.rating, v.score
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
	m.lost = lost
	m.mu.Unlock()
	m.judge()
}
