package sqlite

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"parlor/rooms"
	"parlor/rooms/mailbox"
)

// closeGrace is how long Close waits for the running transaction after its context ended.
// The transaction takes longer only if the disk hangs.
const closeGrace = time.Second

// probeInterval is the time between two tries to write while writes fail and no job
// comes. A caller may look at [Stats] before it sends work, and only a write shows that
// the disk is back.
const probeInterval = time.Second

// writer is the goroutine that writes. Only queue and stats are shared.
type writer struct {
	path   string
	log    *slog.Logger
	conn   *writeConn
	damage *damage
	facts  facts
	queue  queue
	stats  *writerStats
	watch  *watchers

	allow        func() error // Config.Allow, never nil
	committed    func()       // Config.Committed, never nil
	sync         func(context.Context) error
	syncInterval time.Duration
	dirtySince   time.Time // when the first commit that sync has not seen was made; zero = none
	syncTimer    *time.Timer
	failing      bool // the last transaction could not be written
	probeTimer   *time.Timer

	ctx    context.Context // ends when the writer is to give up
	cancel context.CancelFunc
	ended  chan struct{} // closed when run returns
}

func newWriter(path string, conn *writeConn, watch *watchers, d *damage, c Config) *writer {
	w := &writer{
		path: path, log: c.Log, conn: conn, watch: watch, damage: d,
		queue: queue{mailbox.New[job]()}, stats: newWriterStats(),
		allow: c.Allow, committed: c.Committed, sync: c.Sync, syncInterval: c.SyncInterval,
		ended: make(chan struct{}),
	}
	if w.allow == nil {
		w.allow = func() error { return nil }
	}
	if w.committed == nil {
		w.committed = func() {}
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// stop lets the writer finish all queued jobs, or, when ctx ends, only the running one.
func (w *writer) stop(ctx context.Context) error {
	w.queue.Close()
	defer w.cancel()
	select {
	case <-w.ended:
		return nil
	case <-ctx.Done():
	}
	w.cancel()
	for _, j := range w.queue.Take() {
		j.done(rooms.ErrStopping)
	}
	select {
	case <-w.ended:
		return nil
	case <-time.After(closeGrace):
		return fmt.Errorf("the disk does not answer: %w", ctx.Err())
	}
}

// run is the writer's goroutine, from Open to Close.
func (w *writer) run() {
	defer close(w.ended)
	w.syncTimer = time.NewTimer(time.Hour)
	defer w.syncTimer.Stop()
	w.probeTimer = time.NewTimer(time.Hour)
	w.probeTimer.Stop()
	defer w.probeTimer.Stop()
	for {
		batch, closed := w.queue.take()
		switch {
		case len(batch) == 0 && closed:
			w.syncNow()
			return
		case len(batch) == 0:
			select {
			case <-w.queue.Wake():
			case <-w.syncTimer.C:
			case <-w.probeTimer.C:
				w.commit([]job{{run: touch, done: func(error) {}}}) // observe notes the outcome
			}
		case batch[0].alone != nil:
			batch[0].done(batch[0].alone())
		default:
			w.commit(batch)
		}
		w.syncIfDue()
	}
}

// commit runs a transaction and answers its jobs.
func (w *writer) commit(batch []job) {
	if err := w.allow(); err != nil {
		refused := rooms.Errorf(rooms.Unavailable, "nothing may be written now, try again")
		for _, j := range batch {
			j.done(refused)
		}
		if w.failing { // this may have been the probe: the next one is due, too
			w.probeTimer.Reset(probeInterval)
		}
		return
	}
	began := time.Now()
	answers, wrote, err := w.transact(batch, false)
	if err != nil && isOwnFault(err) {
		w.stats.isolated.Add(1)
		answers, wrote, err = w.transact(batch, true)
	}
	if err != nil || wrote { // else the outcome tells nothing about the disk
		w.observe(len(batch), time.Since(began), err)
	}
	if err != nil {
		failure := rooms.Errorf(rooms.Unavailable, "the database cannot be written: %s", fault(err))
		for _, j := range batch {
			j.done(failure)
		}
		return
	}
	w.committed()
	if w.sync != nil && w.dirtySince.IsZero() {
		w.dirtySince = time.Now()
		w.syncTimer.Reset(w.syncInterval)
	}
	for i, j := range batch {
		j.done(answers[i])
	}
	// Answered callers may have more to write. They run first, so that the next
	// transaction carries all of it.
	runtime.Gosched()
}

// touch writes a row without changing it.
func touch(t *tx) error {
	_, err := t.exec("UPDATE meta SET epoch = epoch WHERE id = 1")
	return err
}

// observe records the figures, and logs when writes begin to fail and when they succeed
// again.
func (w *writer) observe(jobs int, took time.Duration, err error) {
	failing := w.stats.observe(jobs, took, err)
	w.failing = err != nil
	w.probeTimer.Stop()
	if w.failing {
		w.probeTimer.Reset(probeInterval)
	}
	switch {
	case err != nil && !failing:
		w.log.Error("the database cannot be written", "reason", reason(w.path, err))
	case err == nil && failing:
		w.log.Info("the database can be written again")
	}
}

// transact runs batch in one transaction. It returns each job's answer, or the failure
// for which nothing was written. wrote tells whether anything was written, which is only
// determined while writes fail; else it is true.
func (w *writer) transact(batch []job, isolate bool) (answers []error, wrote bool, err error) {
	if _, err := w.conn.exec("BEGIN IMMEDIATE"); err != nil {
		w.conn.discard() // the connection may be broken: the next try takes another
		return nil, false, err
	}
	t := &tx{conn: w.conn, facts: w.facts, isolated: isolate, damage: w.damage}
	var before, after int64
	if w.failing {
		before, err = t.changes()
	}
	if err == nil {
		answers, err = runJobs(t, batch, isolate)
	}
	if err == nil {
		err = t.flush(w.facts)
	}
	if err == nil && w.failing {
		after, err = t.changes()
	}
	if err == nil {
		_, err = w.conn.exec("COMMIT")
	}
	if err != nil {
		w.rollback()
		return nil, false, err
	}
	w.facts = t.facts
	if t.news {
		w.watch.notify()
	}
	return answers, !w.failing || after > before, nil
}

// rollback ends a failed transaction, which SQLite may have ended already. A connection
// that is still in a transaction afterwards is replaced.
func (w *writer) rollback() {
	if _, err := w.conn.exec("ROLLBACK"); err == nil {
		return
	}
	if _, err := w.conn.exec("BEGIN"); err == nil {
		if _, err = w.conn.exec("ROLLBACK"); err == nil {
			return
		}
	}
	w.conn.discard()
}

func runJobs(t *tx, batch []job, isolate bool) ([]error, error) {
	answers := make([]error, len(batch))
	for i, j := range batch {
		var err error
		if isolate {
			answers[i], err = runIsolated(t, j)
		} else {
			answers[i], err = runJob(t, j)
		}
		if err != nil {
			return nil, err
		}
	}
	return answers, nil
}

// runJob runs j and separates its answer from a failure of the database.
func runJob(t *tx, j job) (answer, failure error) {
	writes := t.writes
	err := j.run(t)
	if err == nil {
		return nil, nil
	}
	if isRefusal(err) && t.writes == writes {
		return err, nil
	}
	return nil, err
}

// runIsolated runs j behind a savepoint, so that its changes can be undone alone.
func runIsolated(t *tx, j job) (answer, failure error) {
	if _, err := t.conn.exec("SAVEPOINT job"); err != nil {
		return nil, err
	}
	m := t.mark()
	err := j.run(t)
	if err != nil && !isRefusal(err) && !isOwnFault(err) {
		return nil, err
	}
	if err != nil {
		t.restore(m)
		if _, err := t.conn.exec("ROLLBACK TO job"); err != nil {
			return nil, err
		}
	}
	if _, err := t.conn.exec("RELEASE job"); err != nil {
		return nil, err
	}
	if err != nil && !isRefusal(err) {
		err = fmt.Errorf("write database: %w", err)
	}
	return err, nil
}

// syncIfDue calls sync for commits that have waited for syncInterval.
func (w *writer) syncIfDue() {
	if !w.dirtySince.IsZero() && time.Since(w.dirtySince) >= w.syncInterval {
		w.syncNow()
	}
}

func (w *writer) syncNow() {
	if w.dirtySince.IsZero() {
		return
	}
	began := time.Now()
	err := w.sync(w.ctx)
	failing := w.stats.observeSync(time.Since(began), err)
	switch {
	case err != nil && !failing:
		w.log.Error("replication cannot read the database", "error", err)
	case err == nil && failing:
		w.log.Info("replication reads the database again")
	}
	w.dirtySince = time.Time{}
	if err != nil { // sync must still see what it has not seen
		w.dirtySince = time.Now()
		w.syncTimer.Reset(w.syncInterval)
	}
}

// load reads the facts.
func (w *writer) load() error {
	t := &tx{conn: w.conn, damage: w.damage}
	f := &w.facts
	if err := t.row([]any{&f.epoch, &f.eventSeq, &f.open, &f.ended, &f.people},
		"SELECT epoch, event_seq, open_rooms, ended_rooms, people FROM meta WHERE id = 1"); err != nil {
		return err
	}
	f.spentMs = rooms.NowMs(time.Now())
	endpoints, err := loadEndpoints(t)
	f.endpoints = endpoints
	return err
}
