package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/superfly/ltx"
)

// ErrStopped: the replication was closed while its caller waited.
var ErrStopped = errors.New("replication has stopped")

const (
	// retryMost bounds the time between tries while uploads fail, and so how long
	// a replica that is back stays behind.
	retryMost = 10 * time.Second
	// An upload that takes longer than this, and than its bytes at this rate, is
	// stuck in a connection that is dead.
	uploadPatience = 30 * time.Second
	uploadRate     = 1 << 20 // bytes per second
)

// uploader brings what the database's writer staged to the replica: one
// goroutine, run, until stop.
type uploader struct {
	db       *litestream.DB
	log      *slog.Logger
	interval time.Duration
	between  func(context.Context, func(context.Context) error) error

	dirty    chan struct{}   // something is staged; capacity 1
	barriers chan chan error // who waits
	cancel   context.CancelFunc
	ctx      context.Context // run's lifetime
	ended    chan struct{}   // closed when run returns

	mu       sync.Mutex // guards the following
	staged   ltx.TXID
	behind   time.Time // since when something staged is not on the replica; zero = nothing
	synced   time.Time
	failing  error
	failures uint64
}

func newUploader(db *litestream.DB, log *slog.Logger, interval time.Duration, between func(context.Context, func(context.Context) error) error) *uploader {
	u := &uploader{
		db: db, log: log, interval: interval, between: between,
		dirty: make(chan struct{}, 1), barriers: make(chan chan error), ended: make(chan struct{}),
	}
	u.ctx, u.cancel = context.WithCancel(context.Background())
	return u
}

// stage takes the WAL's news, and wakes run if there are any.
func (u *uploader) stage(ctx context.Context) error {
	if err := u.db.Sync(ctx); err != nil {
		return err
	}
	pos, err := u.db.Pos()
	if err != nil {
		return err
	}
	u.mu.Lock()
	news := pos.TXID > u.staged
	u.staged = max(u.staged, pos.TXID)
	if news && u.behind.IsZero() {
		u.behind = time.Now()
	}
	u.mu.Unlock()
	if news {
		select {
		case u.dirty <- struct{}{}:
		default:
		}
	}
	return nil
}

// run uploads what is staged, at most once per interval but for barriers, and
// tries again what failed.
func (u *uploader) run() {
	defer close(u.ended)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	timer.Stop()
	var began time.Time
	var pause time.Duration // before the next try; 0 = the last one did not fail
	for {
		var waiting []chan error
		select {
		case <-u.ctx.Done():
			return
		case <-u.dirty:
			if pause == 0 {
				timer.Reset(max(0, time.Until(began.Add(u.interval))))
			}
			continue
		case w := <-u.barriers:
			waiting = u.others(w)
		case <-timer.C:
		}
		began = time.Now()
		err := u.round(len(waiting) > 0)
		for _, w := range waiting {
			w <- err
		}
		timer.Stop()
		if err == nil {
			pause = 0
			continue
		}
		pause = min(max(2*pause, u.interval), retryMost)
		timer.Reset(pause)
	}
}

// others is w and everyone else who waits by now.
func (u *uploader) others(w chan error) []chan error {
	all := []chan error{w}
	for {
		select {
		case w := <-u.barriers:
			all = append(all, w)
		default:
			return all
		}
	}
}

// round uploads; for a barrier it stages first what was committed.
func (u *uploader) round(barrier bool) error {
	if barrier {
		if err := u.between(u.ctx, u.stage); err != nil {
			return fmt.Errorf("read the database for the replica: %w", err)
		}
	}
	err := u.once(u.ctx)
	if u.ctx.Err() != nil {
		return err
	}
	u.mu.Lock()
	failing := u.failing != nil
	u.failing = err
	if err != nil {
		u.failures++
	}
	u.mu.Unlock()
	switch {
	case err != nil && !failing:
		u.log.Error("the replica cannot be written", "error", err)
	case err == nil && failing:
		u.log.Info("the replica can be written again")
	}
	return err
}

// once uploads what is staged by now.
func (u *uploader) once(ctx context.Context) error {
	u.mu.Lock()
	began, staged := time.Now(), u.staged
	u.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, u.patience(), errors.New("the replica does not answer in time"))
	defer cancel()
	if err := u.db.Replica.Sync(ctx); err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.synced = began
	switch {
	case u.staged <= staged:
		u.behind = time.Time{}
	default: // staged meanwhile: some of it may be there, but which is not known
		u.behind = began
	}
	return nil
}

// patience is how long what is to be uploaded may take. An upload that cannot
// tell what is to be uploaded has failed.
func (u *uploader) patience() time.Duration {
	entries, err := os.ReadDir(u.db.LTXLevelDir(0)) // what was uploaded lately stands there, too
	var bytes int64
	if err == nil {
		for _, e := range entries {
			_, to, err := ltx.ParseFilename(e.Name())
			if err != nil || to <= u.db.Replica.Pos().TXID {
				continue
			}
			if fi, err := e.Info(); err == nil { // else it is removed: it was uploaded
				bytes += fi.Size()
			}
		}
	}
	return uploadPatience + time.Duration(bytes/uploadRate)*time.Second
}

// barrier waits for a round that begins after the call.
func (u *uploader) barrier(ctx context.Context) error {
	w := make(chan error, 1)
	select {
	case u.barriers <- w:
	case <-ctx.Done():
		return ctx.Err()
	case <-u.ended:
		return ErrStopped
	}
	select {
	case err := <-w:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-u.ended:
		return ErrStopped
	}
}

func (u *uploader) stop() {
	u.cancel()
	<-u.ended
}

func (u *uploader) status(s *Status) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s.LastSync, s.Failures = u.synced, u.failures
	if !u.behind.IsZero() {
		s.Lag = time.Since(u.behind)
	}
	if u.failing != nil {
		s.LastError = u.failing.Error()
	}
}
