package sqlite

import (
	"parlor/rooms"
	"parlor/rooms/mailbox"
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
type queue struct{ *mailbox.Box[job] }

// submit queues j. After Close, j fails at once on the caller's goroutine, because the
// writer has none any more.
func (q queue) submit(j job) {
	if !q.Post(j) {
		j.done(rooms.ErrStopping)
	}
}

// take removes the jobs of the next transaction, or one job that runs alone. closed tells
// that no more jobs will come.
func (q queue) take() (batch []job, closed bool) {
	return q.TakeSome(func(jobs []job) int {
		n := 0
		for n < len(jobs) && n < batchMax && jobs[n].alone == nil {
			n++
		}
		if n == 0 && len(jobs) > 0 {
			n = 1
		}
		return n
	})
}
