package forward

import (
	"math"
	"slices"
	"time"

	"github.com/livekit/protocol/livekit"
)

// How a narrow uplink is recognised, and what is done about it.
const (
	// A look follows the former one when what was lost could have been repeated: after two round
	// trips, within these bounds.
	lookLeast, lookMost = 300 * time.Millisecond, 600 * time.Millisecond
	// Of the packets of each of two looks fewLost must not have come until the next one, and
	// manyLost of both together.
	fewLost, manyLost = 0.1, 0.15
	leastLookedAt     = 6 // packets
	// fitting is the part of what came that layers may take: sound has to fit, too.
	fitting = 0.9
	// drainTime is how long it may take until less is sent, the queue before the uplink is empty, and
	// two looks have seen that.
	drainTime = 2500 * time.Millisecond
	// drainAgain is that after a layer more was tried, since the queue is short then.
	drainAgain = time.Second
	// A layer more is tried after a time that grows by half whenever that failed. It fails if within
	// trialTime a queue builds up, or so many more packets are lost as fewLost.
	firstHold, longestHold = 8 * time.Second, 20 * time.Second
	trialTime              = 5 * time.Second
	queueDelay             = 120 * time.Millisecond
	// restAfterNoHelp is for how long nothing is done after it did not help.
	restAfterNoHelp = 5 * time.Minute
	// proofTime is for how long a layer that is tried is not forwarded: it might cost viewers a picture
	// that they have.
	proofTime = 1500 * time.Millisecond
)

// relief asks a publisher for fewer layers if its uplink does not carry those that it sends: then
// packets of each are lost, repeats too, and no picture of any of them is whole. Encoders of
// browsers see to that by our feedback. Other senders send what they have, but obey when they are
// asked for less. Track.turning guards it.
type relief struct {
	looks [2]tally // of all layers that are sent; the newer one first
	last  int64    // when the last look was
	phase reliefPhase
	since int64                // when the phase began
	lost  float64              // share of packets that were lost when it was lowered
	goal  livekit.VideoQuality // what the uplink carries, or is to be tried, if not all is carried
	hold  time.Duration        // how long it stays lowered
	usual float64              // share of packets that do not come at first while it is
	drain time.Duration        // for how long the lowest layer alone is asked for
	way   time.Duration        // least delay of the lowest layer while it is lowered, see [reception.Stream.Transit]
	late  int                  // for how many ticks the delay has been so much more as queueDelay
}

type reliefPhase uint8

const (
	carried  reliefPhase = iota // the uplink carries all that is asked for
	lowered                     // the lowest layer alone is asked for, so that the queue before the uplink ends
	held                        // that helped: what the uplink carries is asked for
	trying                      // more is asked for, and whether the uplink carries that is not known yet
	helpless                    // to ask for less did not help
)

// tally says what became of packets.
type tally struct {
	expected, lost uint64 // of those of the look before: lost are those that have not come since
	due, missing   uint64 // of those of this look, so far
	packets, bytes uint64 // that came since the last look
}

func (o *tally) add(other tally) {
	o.expected, o.lost = o.expected+other.expected, o.lost+other.lost
	o.due, o.missing = o.due+other.due, o.missing+other.missing
	o.packets, o.bytes = o.packets+other.packets, o.bytes+other.bytes
}

// share is the share of packets that did not come; 0 if there are too few to tell.
func share(missing, due uint64) float64 {
	if due < leastLookedAt {
		return 0
	}
	return min(float64(missing)/float64(due), 1)
}

// looked is how far the last looks at a layer went. Track.turning guards it.
type looked struct {
	generation uint32
	ends       [2]int64 // packets; the newer one first
	gone       uint64   // how many up to the older end never came
	lost       uint64   // how many up to the newer end had not come then
	packets    uint64
	bytes      uint64
	tallies    [2]tally // the newer one first
}

// roundTrip is the time that a request to the publisher and its answer take; 0: unknown.
func (l *Layer) roundTrip() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rttLocked()
}

// look takes a tally of the packets since the last look.
func (l *Layer) look() {
	s := &l.looked
	l.mu.Lock()
	generation, end, lost := l.generation, l.stream.Max(), l.stream.Lost()
	packets, bytes := l.rates.packets, l.rates.bytes
	gone := lost
	if l.missing != nil {
		gone -= min(gone, uint64(l.missing.After(s.ends[0])))
	}
	l.mu.Unlock()
	now := tally{packets: packets - s.packets, bytes: bytes - s.bytes}
	// A publisher may leave numbers out while it sends nothing.
	if s.generation == generation && now.packets > 0 && s.tallies[0].packets > 0 {
		now.expected, now.lost = uint64(s.ends[0]-s.ends[1]), gone-min(gone, s.gone)
		now.due, now.missing = uint64(end-s.ends[0]), lost-min(lost, s.lost)
		s.ends = [2]int64{end, s.ends[0]}
	} else {
		s.ends, gone = [2]int64{end, end}, lost
	}
	s.generation, s.gone, s.lost, s.packets, s.bytes = generation, gone, lost, packets, bytes
	s.tallies = [2]tally{now, s.tallies[0]}
}

// load is how many bytes of the layer the publisher sent between the last two looks, repeats aside,
// whether they came or not; 0: it sent none.
func (s *looked) load() float64 {
	both := s.tallies[0]
	both.add(s.tallies[1])
	if both.packets == 0 {
		return 0
	}
	return float64(both.bytes) / float64(both.packets) * float64(max(both.due, both.packets))
}

// relieve looks whether the uplink carries what is asked for, and asks for less or for more.
func (t *Track) relieve(layers []*Layer, at time.Time) {
	r, now := &t.relief, t.since(at)
	if r.phase == trying && t.queues(layers) {
		t.failed(layers, at)
		return
	}
	every := lookLeast
	for _, l := range layers {
		if l.live.Load() && r.phase != trying {
			every = max(every, 2*l.roundTrip())
		}
	}
	if now-r.last < int64(min(every, lookMost)) {
		return
	}
	r.last = now
	var all tally
	for _, l := range layers {
		l.look()
		all.add(l.looked.tallies[0])
	}
	former := r.looks[0]
	r.looks = [2]tally{all, former}
	lost := share(former.lost+all.lost, former.expected+all.expected)
	missing := share(all.missing, all.due)
	narrow := lost >= manyLost && share(former.lost, former.expected) >= fewLost && share(all.lost, all.expected) >= fewLost
	lasts := time.Duration(now - r.since)
	switch r.phase {
	case carried:
		if narrow {
			r.hold = firstHold
			t.lower(t.carries(layers), layers, lost, at)
		}
	case lowered:
		switch {
		case lasts < r.drain:
		case lost > max(r.lost*3/4, fewLost):
			// The publisher does not obey, or its numbers have gaps.
			t.log.Debug("the uplink carries fewer layers no better", "lost", lost)
			r.enter(helpless, now)
			t.ask(livekit.VideoQuality_HIGH, at)
		default:
			r.usual, r.way, r.late = missing, math.MaxInt64, 0
			r.enter(held, now)
			t.ask(r.goal, at)
		}
	case held:
		switch {
		case narrow:
			t.lower(r.goal-1, layers, lost, at)
		case lasts >= r.hold:
			t.try(layers, at)
		default:
			r.usual += (missing - r.usual) / 4
			if delay, ok := delayOf(layers); ok {
				r.way = min(r.way, delay)
			}
		}
	case trying:
		switch {
		case narrow || missing >= r.usual+fewLost:
			t.failed(layers, at)
		case lasts < trialTime:
		case r.goal == livekit.VideoQuality_HIGH:
			r.enter(carried, now)
		default:
			t.try(layers, at)
		}
	case helpless:
		if lasts >= restAfterNoHelp {
			r.enter(carried, now)
		}
	}
}

func (r *relief) enter(phase reliefPhase, now int64) { r.phase, r.since = phase, now }

// carries is the highest quality that the uplink carries, with all below it, and none but lower ones
// than the highest that is sent.
func (t *Track) carries(layers []*Layer) livekit.VideoQuality {
	came, highest := 0.0, livekit.VideoQuality_LOW
	for _, l := range layers {
		for _, o := range l.looked.tallies {
			came += float64(o.bytes)
		}
		if l.looked.tallies[0].packets > 0 && rank(l.cfg.Quality) > rank(highest) {
			highest = l.cfg.Quality
		}
	}
	for q := highest - 1; q > livekit.VideoQuality_LOW; q-- {
		load := 0.0
		for _, l := range layers {
			if rank(l.cfg.Quality) <= rank(q) {
				load += l.looked.load()
			}
		}
		if load <= fitting*came {
			return q
		}
	}
	return livekit.VideoQuality_LOW
}

// lower asks for the lowest quality alone, since so many packets are lost, and then for what is
// carried: only if much less is sent than the uplink carries, the queue before it is empty soon. What
// is sent of the higher layers is forwarded no more.
func (t *Track) lower(goal livekit.VideoQuality, layers []*Layer, lost float64, at time.Time) {
	if !slices.ContainsFunc(layers, func(l *Layer) bool {
		return rank(l.cfg.Quality) > rank(livekit.VideoQuality_LOW) && l.looked.tallies[0].packets > 0
	}) {
		return // there is nothing to ask less of
	}
	t.log.Debug("the uplink is too narrow for all layers", "carries", goal, "lost", lost)
	t.relief.lost, t.relief.goal, t.relief.drain = lost, max(goal, livekit.VideoQuality_LOW), drainTime
	t.relief.enter(lowered, t.since(at))
	t.ask(livekit.VideoQuality_LOW, at)
	for _, l := range layers {
		if rank(l.cfg.Quality) > rank(livekit.VideoQuality_LOW) {
			l.barred.Store(t.since(at.Add(drainTime)))
			l.Stop()
		}
	}
}

// try asks for a quality more.
func (t *Track) try(layers []*Layer, at time.Time) {
	t.relief.goal++
	t.relief.enter(trying, t.since(at))
	for _, l := range layers {
		if l.cfg.Quality == t.relief.goal && !l.live.Load() {
			l.barred.Store(t.since(at.Add(proofTime)))
		}
	}
	t.ask(t.relief.goal, at)
}

// failed goes back to what the uplink carries: it does not carry what was tried.
func (t *Track) failed(layers []*Layer, at time.Time) {
	r := &t.relief
	r.hold = min(r.hold*3/2, longestHold)
	t.lower(r.goal-1, layers, 1, at)
	r.drain = drainAgain
}

// delayOf is the delay of the lowest layer that is sent, see [reception.Stream.Transit].
func delayOf(layers []*Layer) (delay time.Duration, ok bool) {
	var lowest *Layer
	for _, l := range layers {
		if l.live.Load() && (lowest == nil || better(lowest, l)) {
			lowest = l
		}
	}
	if lowest == nil {
		return 0, false
	}
	lowest.mu.Lock()
	defer lowest.mu.Unlock()
	return lowest.stream.Transit()
}

// queues reports whether a queue has built up before the uplink since a layer more is tried.
func (t *Track) queues(layers []*Layer) bool {
	r := &t.relief
	if delay, ok := delayOf(layers); !ok || r.way == math.MaxInt64 || delay < r.way+queueDelay {
		r.late = 0
		return false
	}
	r.late++
	return r.late == 2
}

// ask tells the publisher that no quality above q is wanted, and else what subscribers want.
func (t *Track) ask(q livekit.VideoQuality, at time.Time) {
	t.qualities.limit(q, at)
	t.updateQualities(at)
}
