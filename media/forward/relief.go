package forward

import (
	"slices"
	"time"

	"github.com/livekit/protocol/livekit"
)

// How a narrow uplink is recognised, and what is done about it.
const (
	// A look follows the former one when what was lost could have been repeated: after two round
	// trips, within these bounds.
	lookLeast, lookMost = 300 * time.Millisecond, 600 * time.Millisecond
	// Of the packets of each of two looks fewLost must not have come until the next one, and manyLost
	// of both together. If the lowest layer loses fewer than leastLost, it has to be late at least: a
	// publisher may leave numbers of a higher one out.
	fewLost, manyLost, leastLost = 0.1, 0.15, 0.05
	leastLookedAt                = 6 // packets
	// fitting is the part of what came that layers may take: sound has to fit, too.
	fitting = 0.9
	// drainTime is how long it may take until less is sent, the queue before the uplink is empty, and
	// two looks have seen that.
	drainTime = 2500 * time.Millisecond
	// drainAgain is that after a layer more was tried, since the queue is short then.
	drainAgain = 1800 * time.Millisecond
	// A layer more is tried after a time that grows by half whenever that failed. It fails if within
	// trialTime a queue before the uplink stays, or packets are lost behind one.
	firstHold, longestHold = 8 * time.Second, 20 * time.Second
	trialTime              = 5 * time.Second
	// So much later than usual packets come that wait in a queue.
	queueDelay = 100 * time.Millisecond
	// wayRise is by how much more the usual delay may become between two looks: clocks drift.
	wayRise = time.Millisecond
	// queueStays is for how many ticks with packets there must be a queue: a keyframe of what is
	// tried makes one that ends.
	queueStays = 6
	// restAfterNoHelp is for how long nothing is done after it did not help.
	restAfterNoHelp = 5 * time.Minute
	// proofTime is for how long a layer that is tried is not shown: it might cost viewers a picture
	// that they have.
	proofTime = 1500 * time.Millisecond
)

// relief asks a publisher for fewer layers if its uplink does not carry those that it sends: then
// packets of each are lost, repeats too, and no picture of any of them is whole. Encoders of
// browsers see to that by our feedback. Other senders send what they have, but obey when they are
// asked for less. It is about the layers of one codec, if there are several. Track.turning guards
// it.
type relief struct {
	looks  [2]tally // of all these layers; the newer one first
	lowest [2]tally // of the lowest one that is sent
	last   int64    // when the last look was
	phase  reliefPhase
	since  int64                // when the phase began, or when what it waits for was last not there
	lost   float64              // share of packets that were lost when it was lowered
	goal   livekit.VideoQuality // what the uplink carries, or is to be tried, if not all is carried
	hold   time.Duration        // how long it stays lowered
	usual  float64              // share of packets that do not come at first while it is
	drain  time.Duration        // for how long the lowest layer alone is asked for
	queued int                  // for how many ticks with packets a queue has stood while a layer is tried
	heard  int64                // arrival of the lowest layer's last packet, at the tick before
	way    usualDelay
}

// usualDelay is how long packets of a layer are on their way when there is no queue, see
// [reception.Stream.Transit].
type usualDelay struct {
	of         *Layer // nil: nothing is known
	generation uint32
	least      time.Duration
}

// newBase is the least growth of a delay that no queue explains. The publisher's timestamps
// have started again from another value.
const newBase = 5 * time.Second

// exceeded is by how much longer the newest packet of a layer was on its way.
func (u *usualDelay) exceeded(l *Layer) time.Duration {
	l.mu.Lock()
	delay, ok := l.stream.Transit()
	generation := l.generation
	l.mu.Unlock()
	if !ok {
		return 0
	}
	if u.of != l || u.generation != generation || delay-u.least > newBase {
		*u = usualDelay{l, generation, delay}
	}
	u.least = min(u.least, delay)
	return delay - u.least
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

// reducible are the layers of the track's first codec that has several, from the lowest: only of such
// a publisher can send fewer.
func reducible(layers []*Layer) (of []*Layer) {
	for _, first := range layers {
		of = of[:0]
		for _, l := range layers {
			if l.cfg.Codec.like(first.cfg.Codec) {
				of = append(of, l)
			}
		}
		if len(of) > 1 {
			slices.SortFunc(of, func(a, b *Layer) int { return rank(a.cfg.Quality) - rank(b.cfg.Quality) })
			return of
		}
	}
	return nil
}

// comes reports whether packets came before the last look.
func (l *Layer) comes() bool { return l.looked.tallies[0].packets > 0 }

// relieve looks whether the uplink carries what is asked for, and asks for less or for more.
func (t *Track) relieve(all []*Layer, at time.Time) {
	r, now := &t.relief, t.since(at)
	if r.phase != trying && now-r.last < int64(lookLeast) {
		return
	}
	layers := reducible(all)
	if len(layers) == 0 && r.phase != carried {
		r.enter(carried, now)
		t.ask(livekit.VideoQuality_HIGH, all, at)
	}
	if len(layers) == 0 || t.muted.Load() {
		r.since, r.last, r.looks, r.lowest = now, now, [2]tally{}, [2]tally{}
		for _, l := range layers {
			l.looked.tallies = [2]tally{}
		}
		return
	}
	if r.phase == trying && t.queues(layers) >= queueStays {
		t.failed(layers, at)
		return
	}
	every := lookLeast
	for _, l := range layers {
		if l.live.Load() {
			every = max(every, 2*l.roundTrip())
		}
	}
	if now-r.last < int64(min(every, lookMost)) {
		return
	}
	r.last = now
	var sum, lowest tally
	for _, l := range layers {
		l.look()
		if sum.packets == 0 {
			lowest = l.looked.tallies[0]
		}
		sum.add(l.looked.tallies[0])
	}
	former, below := r.looks[0], r.lowest[0]
	r.looks, r.lowest = [2]tally{sum, former}, [2]tally{lowest, below}
	late := r.way.exceeded(lowestOf(layers))
	r.way.least += wayRise
	lost, missing := share(former.lost+sum.lost, former.expected+sum.expected), share(sum.missing, sum.due)
	narrow := lost >= manyLost && share(former.lost, former.expected) >= fewLost && share(sum.lost, sum.expected) >= fewLost &&
		(late >= queueDelay || share(below.lost+lowest.lost, below.expected+lowest.expected) >= leastLost)
	lasts := time.Duration(now - r.since)
	switch r.phase {
	case carried:
		if narrow && t.reduces(layers) {
			r.hold = firstHold
			t.lower(t.carries(layers), lost, drainTime, layers, at)
		}
	case lowered:
		switch {
		case lasts < r.drain:
		case sum.packets == 0, lost > max(r.lost*3/4, fewLost):
			// The publisher does not obey, or its numbers have gaps, or it has no such layer.
			t.log.Debug("the uplink carries fewer layers no better", "lost", lost)
			r.enter(helpless, now)
			t.ask(livekit.VideoQuality_HIGH, layers, at)
		default:
			r.usual, r.way = missing, usualDelay{} // there is no queue now
			r.enter(held, now)
			t.ask(r.goal, layers, at)
		}
	case held:
		r.usual += (missing - r.usual) / 4
		switch {
		case narrow && t.reduces(layers):
			t.lower(r.goal-1, lost, drainTime, layers, at)
		case !t.isWithheld(layers[0]):
			r.since = now // nobody wants more
		case lasts >= r.hold:
			t.try(layers, at)
		}
	case trying:
		switch {
		case narrow, missing >= r.usual+fewLost && r.queued > 0:
			t.failed(layers, at)
		case sum.packets == 0:
			r.since = now // nothing is proved
		case lasts < trialTime:
		case r.goal == livekit.VideoQuality_HIGH:
			r.enter(carried, now)
		case t.isWithheld(layers[0]):
			t.try(layers, at)
		default:
			r.enter(held, now)
		}
	case helpless:
		if lasts >= restAfterNoHelp {
			r.enter(carried, now)
		}
	}
}

func (r *relief) enter(phase reliefPhase, now int64) { r.phase, r.since = phase, now }

// isWithheld reports whether subscribers want more than is asked for.
func (t *Track) isWithheld(of *Layer) bool {
	return t.relief.goal < livekit.VideoQuality_HIGH && t.qualities.withheld(codecName(of.cfg.Codec), t.relief.goal+1)
}

// lowestOf is the lowest layer that comes, or the lowest one if none does.
func lowestOf(layers []*Layer) *Layer {
	return layers[max(slices.IndexFunc(layers, (*Layer).comes), 0)]
}

// reduces reports whether a layer comes above the lowest one that does.
func (t *Track) reduces(layers []*Layer) bool {
	lowest := lowestOf(layers)
	return slices.ContainsFunc(layers, func(l *Layer) bool { return l.comes() && better(l, lowest) })
}

// carries is the highest quality that the uplink carries, with all below it, and none but lower ones
// than the highest that comes.
func (t *Track) carries(layers []*Layer) livekit.VideoQuality {
	came, load := 0.0, 0.0
	for _, l := range layers {
		for _, o := range l.looked.tallies {
			came += float64(o.bytes)
		}
	}
	best := lowestOf(layers).cfg.Quality
	for i, l := range layers {
		load += l.looked.load()
		above := slices.ContainsFunc(layers[i+1:], (*Layer).comes)
		if l.comes() && above && load <= fitting*came {
			best = l.cfg.Quality
		}
	}
	return best
}

// lower asks for the lowest quality alone, since so many packets are lost, and then for what is
// carried: only if much less is sent than the uplink carries, the queue before it is empty soon. What
// comes of the higher layers is not shown for as long: it was sent before.
func (t *Track) lower(goal livekit.VideoQuality, lost float64, drain time.Duration, layers []*Layer, at time.Time) {
	lowest := lowestOf(layers).cfg.Quality
	t.log.Debug("the uplink is too narrow for all layers", "carries", goal, "lost", lost)
	r := &t.relief
	r.lost, r.goal, r.drain = lost, max(goal, lowest), drain
	r.enter(lowered, t.since(at))
	t.ask(lowest, layers, at)
	for _, l := range layers {
		if rank(l.cfg.Quality) > rank(lowest) {
			l.barred.Store(t.since(at.Add(drain)))
			l.Stop()
		}
	}
}

// try asks for a quality more.
func (t *Track) try(layers []*Layer, at time.Time) {
	r := &t.relief
	r.goal++
	r.queued, r.heard = 0, 0
	r.enter(trying, t.since(at))
	t.ask(r.goal, layers, at)
	for _, l := range layers {
		if l.cfg.Quality == r.goal && !l.live.Load() {
			l.barred.Store(t.since(at.Add(proofTime)))
		}
	}
}

// failed goes back to what the uplink carries: it does not carry what was tried.
func (t *Track) failed(layers []*Layer, at time.Time) {
	r := &t.relief
	r.hold = min(r.hold*3/2, longestHold)
	t.lower(r.goal-1, 1, drainAgain, layers, at)
}

// queues is for how many ticks with packets a queue has stood before the uplink.
func (t *Track) queues(layers []*Layer) int {
	r, l := &t.relief, lowestOf(layers)
	if last := l.lastArrival.Load(); last != r.heard {
		r.heard, r.queued = last, r.queued+1
		if r.way.exceeded(l) < queueDelay {
			r.queued = 0
		}
	}
	return r.queued
}

// ask tells the publisher that no quality above q is wanted, and else what subscribers want. Those up
// to q are shown as soon as they come.
func (t *Track) ask(q livekit.VideoQuality, layers []*Layer, at time.Time) {
	for _, l := range layers {
		if rank(l.cfg.Quality) <= rank(q) {
			l.barred.Store(0)
		}
	}
	t.qualities.limit(q, at)
	t.updateQualities(at)
}
