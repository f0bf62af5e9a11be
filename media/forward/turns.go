package forward

import (
	"sync"
	"sync/atomic"
	"time"
)

// tickInterval is the interval of a track's timer. After restAfter without an event the
// timer rests: no periodic work of a track waits longer.
const (
	tickInterval = 100 * time.Millisecond
	restAfter    = int64(12 * time.Second)
)

// turns drive a track's periodic work by one timer per track, which runs only while the
// track is in use. So an idle track costs no time, and the timers of many tracks are
// spread over the processors like their packets.
type turns struct {
	awake   atomic.Bool  // the timer is set, or its function runs
	stirred atomic.Int64 // time of the last event other than a packet

	// turning is held during the periodic work. It guards ticks, over and relief.
	turning sync.Mutex
	timer   *time.Timer
	ticks   int
	over    bool
	relief  relief
}

// begin sets the timer of a new track.
func (t *Track) begin() {
	t.awake.Store(true)
	t.turning.Lock()
	defer t.turning.Unlock()
	t.timer = time.AfterFunc(tickInterval, t.turn)
}

// end stops the timer, and waits for its function.
func (t *Track) end() {
	t.turning.Lock()
	defer t.turning.Unlock()
	t.over = true
	t.timer.Stop()
}

// wake sets the timer of a resting track.
func (t *Track) wake() {
	if !t.awake.Load() && t.awake.CompareAndSwap(false, true) {
		t.timer.Reset(tickInterval)
	}
}

// stir must be called after every event, other than a packet, that may need periodic work
// later.
func (t *Track) stir(now int64) {
	t.stirred.Store(now)
	t.wake()
}

// turn is the timer's function.
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
		// An event before the Store has not set the timer.
		if t.rests(at) || !t.awake.CompareAndSwap(false, true) {
			return
		}
	}
	t.timer.Reset(tickInterval)
}

// rests reports whether no periodic work is needed before the next event.
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
