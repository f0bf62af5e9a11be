package sqlite

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"parlor/rooms"
)

// Histogram counts observations. Counts[i] is the number of observations up to Bounds[i].
type Histogram struct {
	Bounds []float64
	Counts []uint64
	Count  uint64
	Sum    float64
}

func newHistogram(bounds ...float64) Histogram {
	return Histogram{Bounds: bounds, Counts: make([]uint64, len(bounds))}
}

func (h *Histogram) observe(v float64) {
	h.Count++
	h.Sum += v
	for i := len(h.Bounds) - 1; i >= 0 && v <= h.Bounds[i]; i-- {
		h.Counts[i]++
	}
}

func (h *Histogram) clone() Histogram {
	c := *h
	c.Counts = append([]uint64(nil), h.Counts...)
	return c
}

// Stats are the writer's figures.
type Stats struct {
	Queue     int       // jobs that wait
	Commit    Histogram // seconds of a transaction, the disk's part included
	Batch     Histogram // jobs in a transaction
	Failures  uint64    // failed transactions
	Isolated  uint64    // transactions that were run again job by job
	Failing   string    // why the last transaction or a recent read failed; "" = neither did
	Sync      Histogram // seconds of a call of Config.Sync
	SyncFails uint64
	Syncing   string // why the last call of Config.Sync failed; "" = it succeeded
	WALBytes  int64
	Damaged   int64 // rows that were read, of which a part could not be
}

// writerStats collects the writer's figures.
type writerStats struct {
	isolated atomic.Uint64

	mu sync.Mutex // guards the following
	s  Stats
}

func newWriterStats() *writerStats {
	seconds := []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
	return &writerStats{s: Stats{
		Commit: newHistogram(seconds...),
		Sync:   newHistogram(seconds...),
		Batch:  newHistogram(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
	}}
}

// observe counts a transaction and reports whether the one before it failed.
func (w *writerStats) observe(jobs int, took time.Duration, err error) (failing bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.s.Commit.observe(took.Seconds())
	w.s.Batch.observe(float64(jobs))
	return note(&w.s.Failing, &w.s.Failures, err)
}

// observeSync is observe for a call of Config.Sync.
func (w *writerStats) observeSync(took time.Duration, err error) (failing bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.s.Sync.observe(took.Seconds())
	return note(&w.s.Syncing, &w.s.SyncFails, err)
}

func note(state *string, fails *uint64, err error) (failing bool) {
	failing = *state != ""
	*state = ""
	if err != nil {
		*state = err.Error()
		*fails++
	}
	return failing
}

// Stats returns the figures of now.
func (s *Store) Stats() Stats {
	w := s.writer.stats
	w.mu.Lock()
	v := w.s
	v.Commit, v.Batch, v.Sync = w.s.Commit.clone(), w.s.Batch.clone(), w.s.Sync.clone()
	w.mu.Unlock()
	v.Isolated = w.isolated.Load()
	if v.Failing == "" {
		v.Failing = s.unread.lately()
	}
	v.Damaged = s.damage.count.Load()
	v.Queue = s.writer.queue.Len()
	if fi, err := os.Stat(s.path + "-wal"); err == nil { // there is none once the database is closed
		v.WALBytes = fi.Size()
	}
	return v
}

// unread is the last read that failed because of the disk or the file. Often a read meets
// a damage first, and then no write reports it.
type unread struct {
	mu  sync.Mutex // guards the following
	why string
	at  time.Time
}

// readsFailFor is how long a failed read is reported: other pages may be intact.
const readsFailFor = 10 * time.Second

// note records err if the database is to blame, and returns it.
func (u *unread) note(err error) error {
	if rooms.ErrorCode(err) == rooms.Unavailable {
		u.mu.Lock()
		u.why, u.at = err.Error(), time.Now()
		u.mu.Unlock()
	}
	return err
}

// lately is why a read failed a short while ago; "" if none failed.
func (u *unread) lately() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.why == "" || time.Since(u.at) >= readsFailFor {
		return ""
	}
	return u.why
}
