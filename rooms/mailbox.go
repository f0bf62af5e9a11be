package rooms

import (
	"errors"
	"sync"
)

// errRetired tells a caller that the room is no longer live: look it up again.
var errRetired = errors.New("room is no longer live")

// letter is one thing a room is asked to do, on its own goroutine.
type letter struct {
	run func()
	// retired is called instead of run when the room went away first; may be nil.
	retired func()
	// urgent letters are answers of the store: they run even while the room is
	// closing and everything else waits for the outcome.
	urgent bool
}

// mailbox is a room's queue. It is unbounded, so that nobody who posts has to
// wait: what clients can put into it is bounded at the edge.
type mailbox struct {
	wake chan struct{} // capacity 1

	mu     sync.Mutex // guards the following
	queue  []letter
	closed bool
}

func newMailbox() *mailbox { return &mailbox{wake: make(chan struct{}, 1)} }

// post queues l; false after close, and then nothing of l is called. Urgent
// letters are taken even then: the room waits for them before it goes.
func (m *mailbox) post(l letter) bool {
	m.mu.Lock()
	if m.closed && !l.urgent {
		m.mu.Unlock()
		return false
	}
	m.queue = append(m.queue, l)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
	return true
}

// take empties the queue.
func (m *mailbox) take() []letter {
	m.mu.Lock()
	defer m.mu.Unlock()
	q := m.queue
	m.queue = nil
	return q
}

// closeIfEmpty closes the mailbox unless something is waiting in it.
func (m *mailbox) closeIfEmpty() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.queue) > 0 {
		return false
	}
	m.closed = true
	return true
}

// close closes the mailbox to all but urgent letters. What waits in it stays.
func (m *mailbox) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
}
