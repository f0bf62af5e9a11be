package estimate

import (
	"slices"
	"time"
)

const (
	bucketLength = int64(25 * time.Millisecond)
	rateBuckets  = 32 // 800 ms
	rateWindow   = 20 // buckets over which a rate is computed: 500 ms
)

// rate is the bitrate of packets by their times, over a sliding window.
type rate struct {
	bytes  [rateBuckets]uint32
	first  int64 // bucket of the first packet ever
	newest int64
	any    bool
}

func (r *rate) add(at int64, size int) {
	bucket := at / bucketLength
	if bucket < 0 {
		return // no clock of ours tells such a time, nor does a receiver's that is believed
	}
	switch {
	case !r.any || bucket > r.newest+400 || bucket < r.newest-400:
		*r = rate{first: bucket, newest: bucket, any: true}
	case bucket > r.newest:
		for b := r.newest + 1; b <= bucket && b <= r.newest+rateBuckets; b++ {
			r.bytes[b%rateBuckets] = 0
		}
		r.newest = bucket
	case bucket <= r.newest-rateBuckets:
		return
	}
	r.bytes[bucket%rateBuckets] += uint32(size)
}

// over is the bitrate in the n whole buckets before the newest; false while fewer than a
// third of them have passed.
func (r *rate) over(n int64) (float64, bool) {
	if !r.any {
		return 0, false
	}
	passed := min(n, r.newest-r.first)
	if passed < max(n/3, 1) {
		return 0, false
	}
	var bytes int64
	for b := r.newest - passed; b < r.newest; b++ {
		bytes += int64(r.bytes[(b%rateBuckets+rateBuckets)%rateBuckets])
	}
	return float64(bytes*8) / seconds(passed*bucketLength), true
}

// spaced is the bitrate of packets by the times between them. Where packets are few, it is
// finer than counting them in buckets: one packet more or less in three buckets is a third
// of 250 kbit/s.
type spaced struct {
	recent [spacedPackets]struct {
		at   int64
		size int32
		// idle: the path had nothing to do between the packet before and this one.
		idle bool
	}
	count  int
	newest int64
}

const (
	spacedPackets = 32
	leastSpaced   = 3
	leastSpan     = int64(50 * time.Millisecond)
)

// add takes a packet that arrived, having waited for that long.
func (s *spaced) add(at int64, size int, waited int64) {
	if at < s.newest-resetArrivals {
		*s = spaced{} // the receiver's clock has jumped
	}
	p := &s.recent[s.count%spacedPackets]
	p.at, p.size, p.idle = at, int32(size), at-waited > s.newest
	s.count++
	s.newest = max(s.newest, at)
}

// over is the bitrate of the packets since a time, while the path was busy; false if they are
// too few, or too many for all of them to be known.
func (s *spaced) over(since int64) (float64, bool) {
	next, busy, bytes, n, counted := s.newest, int64(0), 0, 0, 1
	for ; n < min(s.count, spacedPackets); n++ {
		p := &s.recent[(s.count-1-n)%spacedPackets]
		if p.at < since {
			break
		}
		if n > 0 {
			if later := &s.recent[(s.count-n)%spacedPackets]; !later.idle {
				busy += max(next-p.at, 0)
				bytes += int(later.size)
				counted++
			}
		}
		next = min(next, p.at)
	}
	if counted < leastSpaced || n == spacedPackets || busy < leastSpan {
		return 0, false
	}
	return float64(bytes*8) / seconds(busy), true
}

// queue is how much longer packets take than the fastest recent ones.
type queue struct {
	best    [bestWindows]int64 // fastest, by window of bestLength
	base    int64              // the fastest of them
	window  int64
	any     bool
	recent  [recentPackets]struct{ way, arrived int64 }
	count   int
	before  [2]int64 // fastest of the former groups of packets
	jitter  float64  // ns, mean
	current int64
	waited  int64 // by the last packet
	since   int64 // when the first packet of the present queue arrived, by the receiver's clock
	held    bool  // best does not expire
	last    int64 // way of the last packet
	step    step
	// former and settled are the fastest ways before and after the way became longer, as long as
	// former is the less. until is when it is believed.
	former, settled, until int64
	steps                  bool // whether steps are looked for: each packet has a send time of its own
}

// step is a sudden growth of the way. A queue grows packet by packet, by what exceeds the
// bandwidth, and shrinks when less is sent. If all packets take longer by the same from one
// packet to the next, it is the way that has become longer.
type step struct {
	on        bool
	at        int64 // arrival of the first packet after it
	since     int64 // that of the first one which counts
	low, high int64
	packets   int
	not       int64   // until then no step is believed
	jitter    float64 // before it
}

const (
	bestLength    = int64(5 * time.Second)
	bestWindows   = 6
	recentPackets = 8
	// Of the recent packets, those count that arrived within recentTime, and leastRecent in
	// any case: on a narrow path, eight packets would show a queue of 300 ms ago.
	leastRecent = 3
	recentTime  = int64(60 * time.Millisecond)
	// leastStep is more than a packet takes on a path of 250 kbit/s. On a narrower one a queue may
	// grow in steps, but then one follows another.
	leastStep = int64(40 * time.Millisecond)
	// A step has become the way if it stays for stepFor, in which stepPackets come, and changes
	// by no more than stepStill. That is known within longestStep, or never.
	stepFor     = int64(200 * time.Millisecond)
	stepPackets = 10
	stepStill   = int64(8 * time.Millisecond)
	longestStep = int64(600 * time.Millisecond)
	stepsAgain  = int64(3 * time.Second) // after one that was none
	recoverFor  = int64(10 * time.Second)
	recoverBy   = int64(15 * time.Millisecond)
	mostJitter  = float64(100 * time.Millisecond)
)

// forget makes the next measurement the new best one.
func (q *queue) forget() { q.any, q.count, q.current, q.waited, q.step = false, 0, 0, 0, step{} }

// follow looks whether the way has become longer. fastest is the fastest of the recent packets.
func (q *queue) follow(way, fastest, arrived int64) (longer bool) {
	jump := way - q.last
	q.last = way
	t, jumps := &q.step, q.count > 1 && jump > leastStep+2*int64(q.jitter)
	switch {
	case t.on && arrived < t.at, t.not > arrived+stepsAgain: // late packets, or a clock that was set back
		*t = step{}
		return false
	case !q.steps || arrived < t.not:
		return false
	case !t.on:
		if jumps {
			*t = step{on: true, at: arrived, jitter: q.jitter}
		}
		return false
	case jumps, arrived-t.at > longestStep:
		*t = step{not: arrived + stepsAgain}
		return false
	case arrived-t.at < recentTime:
		return false
	case t.packets == 0:
		t.since, t.low, t.high = arrived, fastest, fastest
	}
	t.packets++
	t.low, t.high = min(t.low, fastest), max(t.high, fastest)
	switch {
	case fastest-q.base < holdQueue: // it was a packet or two that came late
		*t = step{}
	case t.high-t.low > stepStill+int64(t.jitter):
		*t = step{not: arrived + stepsAgain}
	case t.packets >= stepPackets && arrived-t.since >= stepFor:
		*t = step{}
		return true
	}
	return false
}

// settle takes a way for the fastest.
func (q *queue) settle(way int64) {
	for i := range q.best {
		q.best[i] = way
	}
	q.base = way
}

// lengthen takes the present queue for a part of the way, unless it shrinks in the seconds after.
func (q *queue) lengthen() {
	q.former, q.settled, q.until = q.base, q.base+q.current, 0
	q.settle(q.settled)
	q.current, q.waited = 0, 0
}

// recover takes a queue for one after all that was taken for the way: packets are faster again.
func (q *queue) recover(way, arrived int64) {
	switch {
	case q.former >= q.settled:
	case q.until == 0:
		q.until = arrived + recoverFor
	case arrived > q.until:
		q.former = q.settled
	case way < q.settled-recoverBy-2*int64(q.jitter):
		q.settle(min(q.former, way))
		q.former = q.settled
	}
}

func (q *queue) add(now, way, arrived int64) (longer bool) {
	window := now / bestLength
	switch {
	case !q.any:
		q.any, q.window, q.base = true, window, way
		for i := range q.best {
			q.best[i] = way
		}
	case q.held:
	case window > q.window:
		for w := max(q.window+1, window-bestWindows+1); w <= window; w++ {
			q.best[w%bestWindows] = way
		}
		q.window, q.base = window, slices.Min(q.best[:])
	}
	q.recover(way, arrived)
	if slot := &q.best[q.window%bestWindows]; way < *slot {
		*slot = way
		q.base = min(q.base, way)
	}
	latest := &q.recent[q.count%recentPackets]
	latest.way, latest.arrived = way, arrived
	q.count++
	fastest := way
	for i := range min(q.count, recentPackets) {
		r := &q.recent[uint(q.count-1-i)%recentPackets]
		if i >= leastRecent && arrived-r.arrived > recentTime {
			break
		}
		fastest = min(fastest, r.way)
	}
	if q.count%recentPackets == 0 {
		// The steady growth or shrinking of a queue is not jitter.
		d := fastest - 2*q.before[0] + q.before[1]
		if q.count >= 3*recentPackets {
			q.jitter += (min(float64(max(d, -d))/2, mostJitter) - q.jitter) / 8
		}
		q.before[0], q.before[1] = fastest, q.before[0]
	}
	longer = q.follow(way, fastest, arrived)
	if q.current < emptyQueue {
		q.since = arrived
	}
	q.current, q.waited = max(fastest-q.base, 0), max(way-q.base, 0)
	return longer
}
