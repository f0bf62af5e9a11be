package downlink

import (
	"math"
	"sync"
	"time"
)

// turn is the time from one instant at which paths act to the next. The instants are the
// same for all paths. Many subscribers' packets of one frame wait for about as long: the
// process wakes once for them, and they leave together.
const turn = int64(time.Millisecond)

// Turns have paths act when it is time, one after the other, by one timer. What those that
// act in one turn send is flushed at its end. A goroutine does it only while there is
// something to do.
type Turns struct {
	epoch time.Time // begins a turn
	run   func(task func())
	task  func() // serve

	mu      sync.Mutex // guards the following
	waiting []appointment
	firesAt int64 // math.MaxInt64 = the timer is not set
	timer   *time.Timer
	busy    bool // serve runs
	closed  bool

	acting []*Path // of serve
}

// appointment is when a path has to act.
type appointment struct {
	path *Path
	at   int64
}

// NewTurns makes Turns that act by run, which must start a task and not wait for it; nil is
// the timer's goroutine. Close must be called, unless run is nil.
func NewTurns(run func(task func())) *Turns {
	now := time.Now()
	t := &Turns{epoch: now.Add(-time.Duration(now.UnixNano() % turn)), run: run, firesAt: math.MaxInt64}
	t.task = t.serve
	return t
}

// set has a path act in the first turn from a time on, unless it acts sooner. A path that acts
// makes its next appointment itself. A later time does not replace a sooner one: packets that
// keep coming would put off the path for ever.
func (t *Turns) set(d *Path, at time.Time) {
	since := int64(at.Sub(t.epoch))
	if over := since % turn; over > 0 {
		since += turn - over
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	if d.appointed > 0 {
		a := &t.waiting[d.appointed-1]
		a.at = min(a.at, since)
	} else {
		t.waiting = append(t.waiting, appointment{d, since})
		d.appointed = len(t.waiting)
	}
	t.armLocked(since)
}

// cancel takes back what was set.
func (t *Turns) cancel(d *Path) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d.appointed > 0 {
		t.removeLocked(d.appointed - 1)
	}
}

func (t *Turns) removeLocked(i int) {
	t.waiting[i].path.appointed = 0
	last := len(t.waiting) - 1
	if i < last {
		t.waiting[i] = t.waiting[last]
		t.waiting[i].path.appointed = i + 1
	}
	t.waiting[last] = appointment{}
	t.waiting = t.waiting[:last]
}

// armLocked sets the timer, unless it fires sooner.
func (t *Turns) armLocked(at int64) {
	if at >= t.firesAt || t.busy {
		return
	}
	t.firesAt = at
	after := time.Until(t.epoch.Add(time.Duration(at)))
	if t.timer == nil {
		t.timer = time.AfterFunc(after, t.fire)
		return
	}
	t.timer.Reset(after)
}

// fire is the timer's function.
func (t *Turns) fire() {
	if t.begins() && t.run == nil {
		t.serve()
	}
}

// begins reports whether serve is to run, and starts it with run.
func (t *Turns) begins() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.firesAt = math.MaxInt64
	if t.busy || t.closed {
		return false
	}
	if t.busy = true; t.run != nil {
		t.run(t.task)
	}
	return true
}

// serve has paths act until none is due.
func (t *Turns) serve() {
	for t.due() {
		for _, d := range t.acting {
			d.act()
		}
		for _, d := range t.acting {
			d.acted()
		}
		clear(t.acting)
		t.acting = t.acting[:0]
	}
}

// due finds the paths that have to act now. If there are none, serve is over.
func (t *Turns) due() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, next := int64(time.Since(t.epoch)), int64(math.MaxInt64)
	for i := len(t.waiting) - 1; i >= 0; i-- {
		if a := t.waiting[i]; a.at <= now {
			t.acting = append(t.acting, a.path)
			t.removeLocked(i)
		} else {
			next = min(next, a.at)
		}
	}
	if len(t.acting) > 0 {
		return true
	}
	if t.busy = false; next < math.MaxInt64 {
		t.armLocked(next)
	}
	return false
}

// Close has no path act any more, but for those that do already. run is not called after it.
func (t *Turns) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.waiting {
		t.waiting[i].path.appointed = 0
	}
	t.closed, t.waiting = true, nil
	if t.timer != nil {
		t.timer.Stop()
	}
}
