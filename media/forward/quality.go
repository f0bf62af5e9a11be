package forward

import (
	"math"
	"time"

	"github.com/livekit/protocol/livekit"
)

// qualityWindow is the number of seconds over which a stream's quality is judged.
const qualityWindow = 5

// Path is the properties of a path by which the quality of a stream is judged.
type Path struct {
	// Loss is the share of packets lost, 0 to 1.
	Loss float64
	// RTT and Jitter are 0 if unknown.
	RTT, Jitter time.Duration
	// Missing is the number of qualities between the wanted one and the forwarded one.
	Missing int
	Audio   bool
}

// missingWeight is what a missing quality subtracts from a rating of 100. One is GOOD, and two are
// POOR on the best of paths too.
const missingWeight = 35

// Score rates a path in the manner of the E-model (ITU-T G.107): delay and loss are
// subtracted from the best score, 5; 0 is the worst.
func Score(p Path) (quality livekit.ConnectionQuality, score float32) {
	delay := p.RTT.Seconds()*1000/2 + 2*p.Jitter.Seconds()*1000
	impairment := 0.024 * delay
	if delay > 177.3 {
		impairment += 0.11 * (delay - 177.3)
	}
	// Loss of audio is less audible than loss of video is visible, because of concealment
	// and redundancy.
	weight := 45.0
	if p.Audio {
		weight = 30
	}
	loss := min(max(p.Loss, 0), 1)
	r := 100 - impairment - weight*math.Log1p(15*loss) - missingWeight*float64(max(p.Missing, 0))
	r = min(max(r, 0), 100)
	switch {
	case r >= 80:
		quality = livekit.ConnectionQuality_EXCELLENT
	case r >= 40:
		quality = livekit.ConnectionQuality_GOOD
	default:
		quality = livekit.ConnectionQuality_POOR
	}
	return quality, float32(r / 20)
}

// lossWindow is the loss over the last qualityWindow seconds.
type lossWindow struct {
	expected, lost [qualityWindow]uint64 // totals at the end of each second
	next           int
	filled         int
}

// add adds the total numbers of expected and of lost packets.
func (w *lossWindow) add(expected, lost uint64) {
	w.expected[w.next], w.lost[w.next] = expected, lost
	w.next = (w.next + 1) % qualityWindow
	w.filled = min(w.filled+1, qualityWindow)
}

// get is the share of packets lost in the window, and the number expected.
func (w *lossWindow) get() (share float64, expected uint64) {
	if w.filled == 0 {
		return 0, 0
	}
	last := (w.next + qualityWindow - 1) % qualityWindow
	first := (w.next + qualityWindow - w.filled) % qualityWindow
	expected = w.expected[last] - w.expected[first]
	// A late packet reduces the number of lost ones.
	if lost := int64(w.lost[last] - w.lost[first]); lost > 0 && expected > 0 {
		share = min(float64(lost)/float64(expected), 1)
	}
	return share, expected
}

// Quality rates how the layer's packets arrived in the last seconds, and whether higher
// layers arrive that the publisher is asked for. ok is false if no packet was expected.
func (l *Layer) Quality() (quality livekit.ConnectionQuality, score float32, ok bool) {
	missing := l.missingWith(time.Now())
	l.mu.Lock()
	defer l.mu.Unlock()
	loss, expected := l.window.get()
	if expected == 0 && missing == 0 {
		return 0, 0, false
	}
	path := Path{Loss: loss, Missing: missing, Audio: !l.track.video}
	if expected > 0 {
		path.Jitter = time.Duration(l.stream.Jitter() * float64(time.Second))
	}
	quality, score = Score(path)
	return quality, score, true
}

// Quality rates how the forwarder's packets arrived in the last seconds. ok is false if
// there is no data to judge by.
func (f *Forwarder) Quality() (quality livekit.ConnectionQuality, score float32, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.receipts.get()
	want := f.wantedLocked()
	if pausedNow := f.paused() && want != livekit.VideoQuality_OFF; !pausedNow && (!f.inStep || !r.came) {
		return 0, 0, false
	}
	path := Path{Loss: float64(r.loss), RTT: r.rtt, Jitter: r.jitterTime(), Audio: !f.video}
	if f.video && f.limit.short && rank(f.limit.quality) < rank(want) {
		path.Missing = rank(want) - rank(f.limit.quality)
	}
	quality, score = Score(path)
	return quality, score, true
}
