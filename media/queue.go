package media

import "sync"

// taskQueue is a loop's mailbox. Any number of goroutines post to it without waiting; one
// takes the tasks in order.
type taskQueue struct {
	wake chan struct{} // holds a token when tasks wait

	// mu guards the following.
	mu     sync.Mutex
	tasks  []func()
	closed bool
}

func newTaskQueue() *taskQueue {
	return &taskQueue{wake: make(chan struct{}, 1)}
}

// post queues f, and returns false after close. With a non-zero limit it also returns
// false if that many tasks wait: for tasks that a client can cause without bound.
func (q *taskQueue) post(f func(), limit int) bool {
	q.mu.Lock()
	if q.closed || (limit > 0 && len(q.tasks) >= limit) {
		q.mu.Unlock()
		return false
	}
	q.tasks = append(q.tasks, f)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

// take returns the tasks and empties the queue.
func (q *taskQueue) take() []func() {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := q.tasks
	q.tasks = nil
	return out
}

func (q *taskQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}
