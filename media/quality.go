package media

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/media/forward"
)

// maxScore is the score of a faultless connection.
const maxScore = 5

// qualityInterval is how often a peer judges its connection.
const qualityInterval = 2 * time.Second

// stream is one direction of one track: an incoming layer or a forwarder.
type stream interface {
	// Quality is that of the last seconds. ok is false if there is no data to judge by.
	Quality() (rating livekit.ConnectionQuality, score float32, ok bool)
	// Account of all that it did.
	Account() forward.Account
}

// qualityMeter judges a peer's connection by its worst stream, or as lost while the
// transports do not answer. The peer's loop judges, because judging reads each stream.
// Other goroutines read the last verdict.
type qualityMeter struct {
	last atomic.Pointer[verdict]

	// mu guards the following.
	mu      sync.Mutex
	lost    bool
	streams map[stream]struct{}
}

// verdict is the judgement of a connection.
type verdict struct {
	rating livekit.ConnectionQuality
	score  float32
}

func newQualityMeter() *qualityMeter {
	m := &qualityMeter{streams: map[stream]struct{}{}}
	m.last.Store(&verdict{livekit.ConnectionQuality_EXCELLENT, maxScore})
	return m
}

// Quality implements rooms.Peer. It is the quality of the last seconds of the worst
// stream, in either direction.
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

// setLost sets whether the transports have stopped answering.
func (m *qualityMeter) setLost(lost bool) {
	m.mu.Lock()
	m.lost = lost
	m.mu.Unlock()
	m.judge()
}
