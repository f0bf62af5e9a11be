package emulator

import (
	"sync"
	"time"
)

// segment is the bytes of a segment of a bulk's, without IP and UDP headers.
const segment = 1460

// Bulk is a TCP flow that always has something to send on the way to the clients, beside
// their packets. It is a model: only the sizes and times of its segments are real. Its
// congestion control is Reno's (RFC 5681), which fills the queue until something is dropped.
type Bulk struct {
	link *link
	back time.Duration

	mu        sync.Mutex // guards the following
	window    float64    // segments
	threshold float64
	inFlight  int
	sent      int // segments so far
	recovered int // losses of segments before that one are of one overflow
	bytes     int
	stopped   bool
	timers    sync.WaitGroup
}

// StartBulk begins a flow whose acknowledgements take that long. Stop must be called before
// the relay is closed.
func (r *Relay) StartBulk(back time.Duration) *Bulk {
	b := &Bulk{link: r.down, back: back, window: 10, threshold: 1e9}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sendLocked()
	return b
}

// Take is the bytes that arrived since the last call.
func (b *Bulk) Take() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.bytes
	b.bytes = 0
	return n
}

// Stop ends the flow, and waits for its timers.
func (b *Bulk) Stop() {
	b.mu.Lock()
	b.stopped = true
	b.mu.Unlock()
	b.timers.Wait()
}

// after does f, with mu held, after a while, unless the flow has ended. It is called with mu
// held, or where the flow cannot end meanwhile.
func (b *Bulk) after(d time.Duration, f func()) {
	b.timers.Add(1)
	time.AfterFunc(d, func() {
		defer b.timers.Done()
		b.mu.Lock()
		defer b.mu.Unlock()
		if !b.stopped {
			f()
		}
	})
}

func (b *Bulk) sendLocked() {
	for float64(b.inFlight) < b.window {
		number := b.sent
		b.sent++
		b.inFlight++
		arrives, way := b.link.send(make([]byte, segment), func([]byte) { b.arrived() })
		if !arrives { // the next that arrives tells of the gap
			b.after(way+b.back, func() { b.lostLocked(number) })
		}
	}
}

// arrived runs on the link's goroutine.
func (b *Bulk) arrived() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return
	}
	b.bytes += segment
	b.after(b.back, func() {
		b.inFlight--
		if b.window < b.threshold {
			b.window++
		} else {
			b.window += 1 / b.window
		}
		b.sendLocked()
	})
}

func (b *Bulk) lostLocked(number int) {
	b.inFlight--
	if number >= b.recovered {
		b.recovered = b.sent
		b.threshold = max(b.window/2, 2)
		b.window = b.threshold
	}
	b.sendLocked()
}
