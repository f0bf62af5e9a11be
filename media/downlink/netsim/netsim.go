// Package netsim is a network in virtual time, for tests: links with a rate, a queue,
// delay, jitter and loss that change during the run. Minutes pass in a moment, and the
// same seed gives the same run.
//
// The nouns:
//
//   - A [Clock] runs events in the order of their times.
//   - A [Link] is one direction of a path: a queue in front of a bottleneck, and the path
//     behind it.
//   - [Conditions] are the present properties of a link.
//
// Nothing here is safe for concurrent use.
package netsim

import (
	"container/heap"
	"math/rand/v2"
	"time"
)

// Clock runs events. The zero value begins at time 0.
type Clock struct {
	now    int64
	number int64
	events events
}

type event struct {
	at, number int64
	run        func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].number < e[j].number
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// Now is the present time in nanoseconds.
func (c *Clock) Now() int64 { return c.now }

// At runs f at a time, or now if that time is past.
func (c *Clock) At(at int64, f func()) {
	c.number++
	heap.Push(&c.events, event{max(at, c.now), c.number, f})
}

// After runs f after a duration.
func (c *Clock) After(d time.Duration, f func()) { c.At(c.now+int64(d), f) }

// Every runs f each interval, until it returns false.
func (c *Clock) Every(d time.Duration, f func() bool) {
	c.After(d, func() {
		if f() {
			c.Every(d, f)
		}
	})
}

// Run runs all events until a time.
func (c *Clock) Run(until time.Duration) {
	for len(c.events) > 0 && c.events[0].at <= int64(until) {
		e := heap.Pop(&c.events).(event)
		c.now = e.at
		e.run()
	}
	c.now = int64(until)
}

// Conditions are the properties of a link.
type Conditions struct {
	Rate    float64       // bits/s, 0 = no bottleneck
	Queue   time.Duration // packets that would wait longer at Rate are dropped
	Delay   time.Duration
	Jitter  time.Duration // the largest extra delay, uniformly distributed
	Reorder bool          // jitter lets packets overtake each other
	Loss    float64       // share lost at random, 0 to 1
	// Burst is the share of packets at which a run of losses begins, and BurstLength the
	// mean length of a run.
	Burst       float64
	BurstLength float64
}

// Link is one direction of a path.
type Link struct {
	clock *Clock
	rand  *rand.Rand
	c     Conditions

	waiting   []waiting
	head      int
	bytes     int // of waiting packets and the one in service
	serving   bool
	lastOut   int64
	inBurst   bool
	delays    []time.Duration // of packets that were not dropped
	Dropped   int             // because the queue was full
	Lost      int             // on the path
	Delivered int
	Bytes     int64
}

type waiting struct {
	size    int
	at      int64
	deliver func()
}

// NewLink makes a link with conditions.
func NewLink(clock *Clock, seed uint64, c Conditions) *Link {
	return &Link{clock: clock, rand: rand.New(rand.NewPCG(seed, 1)), c: c}
}

// Set changes the conditions. Waiting packets stay, and leave at the new rate.
func (l *Link) Set(c Conditions) { l.c = c }

// Conditions are the present conditions.
func (l *Link) Conditions() Conditions { return l.c }

// QueueDelay is how long a packet that comes now would wait.
func (l *Link) QueueDelay() time.Duration {
	if l.c.Rate == 0 {
		return 0
	}
	return time.Duration(float64(l.bytes*8) / l.c.Rate * float64(time.Second))
}

// TakeDelays returns the waits of the packets since the last call.
func (l *Link) TakeDelays() []time.Duration {
	d := l.delays
	l.delays = nil
	return d
}

// Send puts a packet of size bytes on the link. deliver is called when it arrives. It
// returns false if the packet will not arrive.
func (l *Link) Send(size int, deliver func()) bool {
	if l.c.Rate == 0 {
		return l.pass(size, deliver)
	}
	if l.QueueDelay() > l.c.Queue {
		l.Dropped++
		return false
	}
	lost := l.lose()
	if lost {
		deliver = nil
	}
	l.waiting = append(l.waiting, waiting{size, l.clock.now, deliver})
	l.bytes += size
	if !l.serving {
		l.serve()
	}
	return !lost
}

func (l *Link) serve() {
	if l.head == len(l.waiting) {
		l.waiting, l.head, l.serving = l.waiting[:0], 0, false
		return
	}
	l.serving = true
	w := l.waiting[l.head]
	l.waiting[l.head] = waiting{}
	l.head++
	l.delays = append(l.delays, time.Duration(l.clock.now-w.at))
	took := time.Duration(0)
	if l.c.Rate > 0 {
		took = time.Duration(float64(w.size*8) / l.c.Rate * float64(time.Second))
	}
	l.clock.After(took, func() {
		l.bytes -= w.size
		if w.deliver != nil {
			l.out(w.size, w.deliver)
		}
		l.serve()
	})
}

func (l *Link) pass(size int, deliver func()) bool {
	if l.lose() {
		return false
	}
	l.delays = append(l.delays, 0)
	l.out(size, deliver)
	return true
}

func (l *Link) out(size int, deliver func()) {
	at := l.clock.now + int64(l.c.Delay)
	if l.c.Jitter > 0 {
		at += l.rand.Int64N(int64(l.c.Jitter))
	}
	if !l.c.Reorder {
		at = max(at, l.lastOut)
	}
	l.lastOut = max(l.lastOut, at)
	l.Delivered++
	l.Bytes += int64(size)
	l.clock.At(at, deliver)
}

func (l *Link) lose() bool {
	lost := l.c.Loss > 0 && l.rand.Float64() < l.c.Loss
	if l.c.Burst > 0 {
		if l.inBurst {
			l.inBurst = l.rand.Float64() >= 1/max(l.c.BurstLength, 1)
		} else {
			l.inBurst = l.rand.Float64() < l.c.Burst
		}
		lost = lost || l.inBurst
	}
	if lost {
		l.Lost++
	}
	return lost
}
