// Package audiolevel decides from the audio levels of RTP packets (RFC 6464) whether a
// participant is speaking, by LiveKit's rule: a participant speaks while at least 40 % of
// a 400 ms window is at -35 dBov or louder.
package audiolevel

import "math"

// Constants of the rule:
const (
	activeLevel   = 35 // -dBov
	windowMillis  = 400
	activeMillis  = windowMillis * 40 / 100
	smoothing     = 2 // intervals
	silence       = 127
	staleAfterNs  = 2 * windowMillis * 1_000_000
	maxGapMillis  = 100 // the part of a longer gap that counts as speech
	minStepMillis = 1
)

// Level follows one audio stream. It is not safe for concurrent use.
type Level struct {
	loudest  uint8
	active   int64 // ms of this window
	observed int64

	last     int64 // arrival of the last packet, ns
	hasLast  bool
	smoothed float64
}

// New makes a Level that begins silent.
func New() *Level { return &Level{loudest: silence} }

// Observe takes the level of a packet, in -dBov (0 is the loudest, 127 silence), and its
// arrival in ns. It reports whether a window has ended, after which Get may have changed.
func (l *Level) Observe(level uint8, now int64) bool {
	step := int64(20)
	if l.hasLast {
		step = max((now-l.last)/1_000_000, minStepMillis)
	}
	l.last, l.hasLast = now, true
	// A gap is silence (DTX): the packet's level applies to maxGapMillis at most.
	l.observed += step
	if level &= 0x7f; level <= activeLevel {
		l.active += min(step, maxGapMillis)
		l.loudest = min(l.loudest, level)
	}
	if l.observed < windowMillis {
		return false
	}
	l.close()
	return true
}

// close ends a window.
func (l *Level) close() {
	var linear float64
	if l.active >= activeMillis && l.observed > 0 {
		// The loudest level, weighted by the share of speech in the window.
		share := math.Min(1, float64(l.active)/float64(l.observed))
		linear = math.Min(1, math.Pow(10, (20*math.Log10(share)-float64(l.loudest))/20))
		l.smoothed += (linear - l.smoothed) * 2 / (smoothing + 1)
	} else {
		l.smoothed = 0
	}
	l.loudest, l.active, l.observed = silence, 0, 0
}

// Expire ends speech if no packet came for two windows, and reports whether it did.
func (l *Level) Expire(now int64) bool {
	if !l.hasLast || now-l.last < staleAfterNs {
		return false
	}
	*l = Level{loudest: silence}
	return true
}

// Get is the smoothed level, 0 to 1, and whether it counts as speaking.
func (l *Level) Get() (level float32, speaking bool) {
	return float32(l.smoothed), l.smoothed > 0
}
