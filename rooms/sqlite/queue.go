package sqlite

import (
	"sync"

	"parlor/rooms"
)

// batchMax bounds the jobs of one transaction, and so how long the first of them waits
// for the last.
const batchMax = 512

// job is one caller's part of a transaction.
type job struct {
	// run does the work. It may be called twice, because a transaction that fails is run
	// again with each job behind a savepoint. An error that is a *rooms.Error,
	// [log.ErrNoEndpoint] or a context's is the caller's answer; any other is a failure
	// of the database.
	run func(*tx) error
	// alone, instead of run, is called between transactions.
	alone func() error
	// done is called once with the outcome.
	done func(error)
}

// queue holds the jobs that wait for the writer, first in, first out. It has no bound: a
// caller that waits for an answer is bounded by its own patience, and a room's changes must
// not be lost because the disk is slow. Its depth is in [Stats].
type queue struct {
	wake chan struct{} // capacity 1: a token tells to look again

	mu     sync.Mutex // guards the following
	jobs   []job
	closed bool // no more jobs come in
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// submit queues j. After close, j fails at once on the caller's goroutine, because the
// writer has none any more.
func (q *queue) submit(j job) {
	q.mu.Lock()
	closed := q.closed
	if !closed {
		q.jobs = append(q.jobs, j)
	}
	q.mu.Unlock()
	if closed {
		j.done(rooms.ErrStopping)
		return
	}
	q.poke()
}

func (q *queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take removes the jobs of the next transaction, or one job that runs alone. closed tells
// that no more jobs will come.
func (q *queue) take() (batch []job, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for n < len(q.jobs) && n < batchMax && q.jobs[n].alone == nil {
		n++
	}
	if n == 0 && len(q.jobs) > 0 {
		n = 1
	}
	batch = q.jobs[:n:n]
	q.jobs = q.jobs[n:]
	if len(q.jobs) == 0 {
		q.jobs = nil
	}
	return batch, q.closed
}

// close refuses all jobs that are submitted from now on.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.poke()
}

// abandon removes and returns all waiting jobs.
func (q *queue) abandon() []job {
	q.mu.Lock()
	defer q.mu.Unlock()
	jobs := q.jobs
	q.jobs = nil
	return jobs
}

func (q *queue) depth() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.jobs)
}
