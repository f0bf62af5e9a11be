package media

import (
	"math"
	"sync"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/media/forward"
)

// qualityWindow is how often the quality is judged anew, at most: rooms tell it
// every five seconds.
const qualityWindow = 2 * time.Second

// qualityMeter judges a peer's connection by what was lost and late lately, of what
// the client sends and of what is sent to it. Its score is the mean opinion score,
// 1 to 5, of the E-model (ITU-T G.107) in its short form: a rating of 93.2 less an
// impairment by delay and one by loss, for the worst stream.
type qualityMeter struct {
	// mu guards the following.
	mu     sync.Mutex
	lost   bool // the transport does not answer
	up     map[*forward.Layer]received
	down   map[*forward.Forwarder]struct{}
	judged time.Time
	rating livekit.ConnectionQuality
	score  float32
}

// received is a layer's counts when it was last looked at.
type received struct{ packets, lost uint64 }

func newQualityMeter() *qualityMeter {
	return &qualityMeter{
		up: map[*forward.Layer]received{}, down: map[*forward.Forwarder]struct{}{},
		judged: time.Now(), rating: livekit.ConnectionQuality_EXCELLENT, score: maxScore,
	}
}

// The scores from which a rating is given; below the last it is poor.
const (
	maxScore       = 5
	scoreExcellent = 4
	scoreGood      = 3
)

// Quality implements rooms.Peer.
func (p *Peer) Quality() (livekit.ConnectionQuality, float32) {
	return p.quality.judge(time.Now())
}

func (m *qualityMeter) judge(now time.Time) (livekit.ConnectionQuality, float32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lost {
		return livekit.ConnectionQuality_LOST, 0
	}
	if now.Sub(m.judged) < qualityWindow {
		return m.rating, m.score
	}
	m.judged = now
	m.score = maxScore
	for l, before := range m.up {
		s := l.Stats()
		m.up[l] = received{s.Packets, s.Lost}
		m.worseLocked(lossOf(before, m.up[l]), s.RTT, s.Jitter)
	}
	for f := range m.down {
		s := f.Stats()
		m.worseLocked(s.FractionLost, s.RTT, s.Jitter)
	}
	m.rating = rate(m.score)
	return m.rating, m.score
}

func lossOf(before, now received) float64 {
	packets, lost := now.packets-before.packets, now.lost-before.lost
	if now.packets < before.packets || now.lost < before.lost || packets+lost == 0 {
		return 0 // it began anew, or rests
	}
	return float64(lost) / float64(packets+lost)
}

func (m *qualityMeter) worseLocked(loss float64, rtt, jitter time.Duration) {
	m.score = min(m.score, opinion(loss, rtt, jitter))
}

// opinion is the score of a stream of which the share loss is lost.
func opinion(loss float64, rtt, jitter time.Duration) float32 {
	// One way, and a jitter buffer of twice the jitter; 20 ms to encode and play.
	delay := float64(rtt)/2e6 + 2*float64(jitter)/1e6 + 20
	rating := 93.2 - 0.024*delay
	if delay > 177.3 { // where conversation begins to suffer
		rating -= 0.11 * (delay - 177.3)
	}
	const robustness = 10 // of codecs, in percent of loss (G.113)
	percent := 100 * loss
	rating -= 95 * percent / (percent + robustness)
	rating = min(max(rating, 0), 100)
	score := 1 + 0.035*rating + 7e-6*rating*(rating-60)*(100-rating)
	// The E-model's best is 4.4 or so; told on LiveKit's scale that is 5.
	return float32(math.Min(math.Max(1+(score-1)*4/3.4, 1), maxScore))
}

func rate(score float32) livekit.ConnectionQuality {
	switch {
	case score >= scoreExcellent:
		return livekit.ConnectionQuality_EXCELLENT
	case score >= scoreGood:
		return livekit.ConnectionQuality_GOOD
	}
	return livekit.ConnectionQuality_POOR
}

func (m *qualityMeter) addLayer(l *forward.Layer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.up[l] = received{}
}

func (m *qualityMeter) removeLayer(l *forward.Layer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.up, l)
}

func (m *qualityMeter) addForwarder(f *forward.Forwarder) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down[f] = struct{}{}
}

func (m *qualityMeter) removeForwarder(f *forward.Forwarder) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.down, f)
}

// setLost tells whether the transports answer.
func (m *qualityMeter) setLost(lost bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lost = lost
}
