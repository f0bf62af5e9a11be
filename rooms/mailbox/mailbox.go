// Package mailbox has the queue of a goroutine that owns something: a room's, a peer's, a
// WebSocket's, the database's writer. It has one noun, the [Box].
package mailbox

import "sync"

// Box is what one goroutine is asked by any number of others. Nobody who posts waits, and
// what is posted is taken in order. It has no bound of its own: what fills it is bounded
// where it comes from, or by PostWithin.
type Box[T any] struct {
	wake chan struct{} // capacity 1

	mu     sync.Mutex // guards the following
	queue  []T
	closed bool
}

// New makes an open box.
func New[T any]() *Box[T] { return &Box[T]{wake: make(chan struct{}, 1)} }

// Wake has a token when there may be something to take, or the box was closed.
func (b *Box[T]) Wake() <-chan struct{} { return b.wake }

// Post queues v; false after Close.
func (b *Box[T]) Post(v T) bool { return b.PostWithin(v, 0) }

// PostWithin is Post, but false if that many wait already; 0 = no bound.
func (b *Box[T]) PostWithin(v T, most int) bool {
	b.mu.Lock()
	if b.closed || most > 0 && len(b.queue) >= most {
		b.mu.Unlock()
		return false
	}
	b.queue = append(b.queue, v)
	b.mu.Unlock()
	b.poke()
	return true
}

// PostAnyway queues v, after Close too: the owner waits for it before it goes. So it is only
// for answers that the owner counts and waits for, as a room those of the store.
func (b *Box[T]) PostAnyway(v T) {
	b.mu.Lock()
	b.queue = append(b.queue, v)
	b.mu.Unlock()
	b.poke()
}

func (b *Box[T]) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Take empties the box.
func (b *Box[T]) Take() []T {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queue
	b.queue = nil
	return q
}

// TakeSome takes as many from the front as some says of those that wait. Closed tells that
// when nothing is left nothing will come.
func (b *Box[T]) TakeSome(some func([]T) int) (taken []T, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := some(b.queue)
	taken, b.queue = b.queue[:n:n], b.queue[n:]
	if len(b.queue) == 0 {
		b.queue = nil
	}
	return taken, b.closed
}

// Len is how many wait.
func (b *Box[T]) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue)
}

// Close refuses what is posted from now on. What waits stays.
func (b *Box[T]) Close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.poke()
}

// CloseIfEmpty is Close unless something waits.
func (b *Box[T]) CloseIfEmpty() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) > 0 {
		return false
	}
	b.closed = true
	return true
}
