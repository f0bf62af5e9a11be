package forward

import (
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/media/downlink/allocate"
	"parlor/media/forward/packet"
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
	own, lowest, alone := l.arrives(now), true, true
	for _, other := range *t.layers.Load() {
		if other == l || codecName(other.cfg.Codec) != codec {
			continue
		}
		alone = false
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
		if alone {
			missing = l.spatialMissing(expected, t.shrunk.Load(), now)
		}
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

// spatialMissing is how many spatial layers of a stream that has all qualities do not arrive
// any more above the highest that does. smaller is when the source was announced to be
// smaller; 0: it was not.
func (l *Layer) spatialMissing(expected livekit.VideoQuality, smaller, now int64) (missing int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := min(len(l.inspector.spatials.last)-1, rank(expected)); i > 0; i-- {
		last := l.inspector.spatials.last[i]
		switch {
		case last == 0 || smaller != 0 && last < smaller+int64(lastRepeats):
		case now-last < int64(sentAfter):
			return missing
		default:
			missing++
		}
	}
	return missing
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

// fewPictures is how many pictures may come without a spatial layer before a source ends that
// had the layer: encoders drop frames.
const fewPictures = 3

// spatials follows which spatial layers of a stream come. A source that has fewer of them
// begins with a keyframe just after the pictures of the former one, which had them. A narrow
// uplink leaves them out of pictures that go on.
type spatials struct {
	last   [allocate.Spatials]int64 // arrivals; 0: none from the present source
	behind [allocate.Spatials]int   // pictures that have begun since
	ending [allocate.Spatials]bool  // a keyframe followed the layer at once, and it did not come again yet
}

// add takes a packet of a frame.
func (s *spatials) add(p *packet.Packet) {
	f := &p.Frame
	if f.Spatial == 0 && f.Start && !p.Late {
		for i := range s.last {
			if s.ending[i] {
				s.last[i] = 0 // the whole keyframe was without it
			}
			s.behind[i]++
			s.ending[i] = f.Key && i > 0 && s.behind[i] <= fewPictures
		}
	}
	if p.HasDD && p.DD.NewStructure && !p.Late {
		for i := int(p.DD.Structure.MaxSpatial) + 1; i < len(s.last); i++ {
			s.last[i] = 0 // the sender says that there is none
		}
	}
	i := min(int(f.Spatial), len(s.last)-1)
	s.last[i], s.behind[i], s.ending[i] = p.Arrival, 0, false
}
