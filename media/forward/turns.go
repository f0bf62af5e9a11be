package forward

import (
	"sync"
	"sync/atomic"
	"time"
)

// tickInterval is how often a track looks at what is due, and restAfter how long nothing
// happens to it until it looks no more: longer than anything of it waits for.
const (
	tickInterval = 100 * time.Millisecond
	restAfter    = int64(12 * time.Second)
)

// turns drive a track's timers: one timer of its own, which runs only while something
// happens to the track. So a track on which nothing is sent costs no time, and the timers
// of many are spread over the processors as the packets are.
type turns struct {
	awake   atomic.Bool  // the timer is set, or what it does is being done
	stirred atomic.Int64 // when something other than a packet happened last

	// turning is held while what is due is done. It guards ticks and over.
	turning sync.Mutex
	timer   *time.Timer
	ticks   int
	over    bool
}

// begin sets the timer of a new track.
func (t *Track) begin() {
	t.awake.Store(true)
	t.turning.Lock()
	defer t.turning.Unlock()
	t.timer = time.AfterFunc(tickInterval, t.turn)
}

// end stops the timer, and waits for what is being done.
func (t *Track) end() {
	t.turning.Lock()
	defer t.turning.Unlock()
	t.over = true
	t.timer.Stop()
}

// wake sets the timer of a track that rests.
func (t *Track) wake() {
	if !t.awake.Load() && t.awake.CompareAndSwap(false, true) {
		t.timer.Reset(tickInterval)
	}
}

// stir must be called after every event, other than a packet, that may make something due
// later.
func (t *Track) stir(now int64) {
	t.stirred.Store(now)
	t.wake()
}

// turn is what the timer does.
func (t *Track) turn() {
	t.turning.Lock()
	defer t.turning.Unlock()
	if t.over {
		return
	}
	at := time.Now()
	t.tickLocked(at)
	if t.rests(at) {
		t.awake.Store(false)
		// What happened before that has not set the timer.
		if t.rests(at) || !t.awake.CompareAndSwap(false, true) {
			return
		}
	}
	t.timer.Reset(tickInterval)
}

// rests reports whether nothing is due until something happens.
func (t *Track) rests(at time.Time) bool {
	now := t.since(at)
	if now-t.stirred.Load() < restAfter || t.qualities.waits() {
		return false
	}
	for _, l := range *t.layers.Load() {
		if now-l.lastArrival.Load() < restAfter {
			return false
		}
	}
	for _, f := range *t.forwarders.Load() {
		if f.isOwed() {
			return false
		}
	}
	return true
}
