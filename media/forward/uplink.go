package forward

import (
	"time"

	"github.com/livekit/protocol/livekit"
)

// sentAfter is how long a publisher may take until it sends a layer that it is asked for, and
// how long a layer of a camera may rest.
const sentAfter = 3 * time.Second

// nothing is what is missing where no layer arrives.
const nothing = 3

// missingWith is how many of the layers that the publisher is asked for, and has sent before,
// do not arrive any more: its uplink is too narrow for them. The highest layer that arrives
// tells of those above it; if none arrives, each tells of it. A shared screen may rest, its
// sound too. Other sound comes even when it is silent: Opus sends a packet each 400 ms then.
func (l *Layer) missingWith(at time.Time) (missing int) {
	t, now := l.track, l.track.since(at)
	if t.muted.Load() || t.screen.Load() || t.screenSound.Load() || now-t.mutedAt.Load() < int64(sentAfter) {
		return 0
	}
	codec := codecName(l.cfg.Codec)
	expected, asked := t.qualities.expected(codec, at.Add(-sentAfter))
	if expected == livekit.VideoQuality_OFF {
		return 0
	}
	// A source that becomes smaller may have fewer layers.
	smaller := max(l.shrunk(), t.shrunk.Load())
	stopped := func(l *Layer) bool {
		return l.stoppedSince(t.since(asked[max(min(rank(l.cfg.Quality), rank(expected)), 0)]))
	}
	ended := func(l *Layer) bool {
		return stopped(l) || l.endedWith(smaller) || !t.sizes.Load().has(l.cfg.Quality)
	}
	own, lowest := l.arrives(now), true
	for _, other := range *t.layers.Load() {
		if other == l || codecName(other.cfg.Codec) != codec {
			continue
		}
		higher := rank(other.cfg.Quality) > rank(l.cfg.Quality)
		lowest = lowest && higher
		switch {
		case other.arrives(now):
			if higher || !own {
				return 0
			}
		case higher && other.lastArrival.Load() != 0 && rank(other.cfg.Quality) <= rank(expected) && !ended(other):
			missing++
		}
	}
	if own {
		return missing
	}
	if l.lastArrival.Load() == 0 {
		return 0 // it was never sent
	}
	if !lowest && rank(l.cfg.Quality) > rank(expected) {
		return 0 // one below it is enough
	}
	if stopped(l) {
		return 0
	}
	return nothing
}

// stoppedSince reports whether the publisher has said, after a time, that it no longer sends
// the layer, and has not sent it since. What it stops because nobody wants it must come again
// when it is asked for.
func (l *Layer) stoppedSince(asked int64) bool {
	stragglers := l.stragglers.Load()
	return stragglers != 0 && stragglers-stragglerTime >= asked && l.lastArrival.Load() < stragglers
}

// endedWith reports whether the layer has not come since a time at which its source became
// smaller; 0: the source did not.
func (l *Layer) endedWith(smaller int64) bool {
	return smaller != 0 && l.lastArrival.Load() < smaller+int64(lastRepeats)
}

// lastRepeats is how long retransmissions of a layer may come after its end.
const lastRepeats = time.Second

// shrunk is when the pictures of the layer became smaller; 0: they are as large as ever.
func (l *Layer) shrunk() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pictures.shrunk
}

// extent follows the size of pictures.
type extent struct {
	pixels, full uint64
	shrunk       int64 // when the size last fell below full; 0: it is full
	ext          int64 // packet that told the size
}

// follow takes the present size; 0: unknown.
func (e *extent) follow(pixels uint64, now int64) {
	switch {
	case pixels == 0:
		return
	case pixels >= e.full:
		e.full, e.shrunk = pixels, 0
	case pixels < e.pixels:
		e.shrunk = now
	}
	e.pixels = pixels
}

// arrives reports whether packets of the layer have come lately.
func (l *Layer) arrives(now int64) bool {
	last := l.lastArrival.Load()
	return last != 0 && now-last < int64(sentAfter)
}
