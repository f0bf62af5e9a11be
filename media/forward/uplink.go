package forward

import (
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/media/downlink/allocate"
	"parlor/media/forward/packet"
)

// restTime is how long a layer may rest while one below it arrives.
const restTime = 3 * time.Second

// startTime is how long a publisher may take until it sends all that it is asked for: its
// estimate of the bandwidth grows slowly. Nothing at all may come for as long, since clients
// wait for 5 s until they say that a source has paused.
const startTime = 8 * time.Second

// nothing is what is missing where no layer arrives.
const nothing = 3

// missingWith is how many of the layers that the publisher is asked for, and has sent before,
// do not arrive any more: its uplink is too narrow for them. So it is for those that it is not
// asked for any more because of that. The highest layer that arrives
// tells of those above it; if none arrives, each tells of it. A shared screen may rest, its
// sound too. Other sound comes even when it is silent, unless its publisher is seen to rest: Opus
// sends a packet each 400 ms then.
func (l *Layer) missingWith(at time.Time) (missing int) {
	t, now := l.track, l.track.since(at)
	if t.muted.Load() || t.screen.Load() || t.screenSound.Load() || now-t.mutedAt.Load() < int64(startTime) {
		return 0
	}
	codec := codecName(l.cfg.Codec)
	expected, asked := t.qualities.expected(codec, at.Add(-startTime))
	if expected == livekit.VideoQuality_OFF {
		return 0
	}
	// A source that becomes smaller may have fewer layers.
	shrunk, grown := l.resized()
	smaller := max(shrunk, t.shrunk.Load())
	if grown = max(grown, t.grown.Load()); grown != 0 && now-grown < int64(startTime) {
		smaller = now // what it has more of begins now
	}
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
		case higher && other.lastArrival.Load() != 0 && t.qualities.withheld(codec, other.cfg.Quality) &&
			!other.endedWith(smaller) && t.sizes.Load().has(other.cfg.Quality):
			missing++
		case higher && other.lastArrival.Load() != 0 && rank(other.cfg.Quality) <= rank(expected) && !ended(other):
			missing++
		}
	}
	if own {
		if alone {
			smaller = t.shrunk.Load()
			if grown != 0 && now-grown < int64(startTime) {
				smaller = now
			}
			missing = l.spatialMissing(expected, smaller, now)
		}
		return missing
	}
	if l.lastArrival.Load() == 0 {
		return 0 // it was never sent
	}
	if !lowest && rank(l.cfg.Quality) > rank(expected) {
		return 0 // one below it is enough
	}
	if stopped(l) || now-l.lastArrival.Load() < int64(startTime) || l.restsOften() {
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
		case now-last < int64(restTime):
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

// resized is when the pictures of the layer became smaller, and when they became as large as
// ever again; 0: they did not.
func (l *Layer) resized() (shrunk, grown int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pictures.shrunk, l.pictures.grown
}

// noteRest notes that the publisher sends sound only while there is some: its packets go on
// without a gap after a rest that it did not announce. A dead uplink would have lost some. mu is
// held.
func (l *Layer) noteRest(p *packet.Packet, gapless bool) {
	last := l.lastArrival.Load()
	if l.track.video || !gapless || last == 0 || p.Arrival-last < int64(restTime) {
		return
	}
	announced := l.track.muted.Load() || l.track.mutedAt.Load() > last || l.stragglers.Load() > last
	l.rests = l.rests || !announced
}

// restsOften reports whether the layer is sound that its publisher does not send all the time.
func (l *Layer) restsOften() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rests
}

// extent follows the size of pictures.
type extent struct {
	pixels, full uint64
	shrunk       int64 // when the size last fell below full; 0: it is full
	grown        int64 // when it was last full again; 0: it never fell
	ext          int64 // packet that told the size
}

// follow takes the present size; 0: unknown.
func (e *extent) follow(pixels uint64, now int64) {
	switch {
	case pixels == 0:
		return
	case pixels >= e.full:
		if e.shrunk != 0 {
			e.grown = now
		}
		e.full, e.shrunk = pixels, 0
	case pixels < e.pixels:
		e.shrunk = now
	}
	e.pixels = pixels
}

// arrives reports whether packets of the layer have come lately.
func (l *Layer) arrives(now int64) bool {
	last := l.lastArrival.Load()
	return last != 0 && now-last < int64(restTime)
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
	newest [allocate.Spatials]int64 // packets
	key    int64                    // packet with which the newest keyframe began
	ending [allocate.Spatials]bool  // a keyframe followed the layer at once, and it did not come again yet
}

// add takes a packet of a frame.
func (s *spatials) add(p *packet.Packet) {
	f := &p.Frame
	if p.Late && p.Ext < s.key {
		return // it is of the pictures before the keyframe, maybe of another source
	}
	if f.Spatial == 0 && f.Start && f.Key {
		s.key = p.Ext
		for i := 1; p.Late && i < len(s.last); i++ {
			s.ending[i] = s.newest[i] < p.Ext && s.behind[i] <= fewPictures
		}
	}
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
	s.newest[i] = max(s.newest[i], p.Ext)
}
