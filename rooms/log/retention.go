package log

import (
	"cmp"
	"context"
	"log/slog"
	"time"
)

// The defaults of [Retention].
const (
	DefaultMaxAge    = 72 * time.Hour
	DefaultMaxEvents = 10_000_000
	DefaultPruneTime = 5 * time.Minute
	pruneBatch       = 1000

	// pruneGrace is how long a process runs before events are too old. After a machine stood
	// still, those that pull the events come back first.
	pruneGrace = 10 * time.Minute
	prunePause = 50 * time.Millisecond
)

// Retention prunes the event log. Its fields must not change while it runs.
type Retention struct {
	Store     Store
	MaxAge    time.Duration // of an event; 0 = DefaultMaxAge, negative = no bound
	MaxEvents int64         // in the log; 0 = DefaultMaxEvents, negative = no bound
	Every     time.Duration // between two rounds; 0 = DefaultPruneTime
	Logger    *slog.Logger
}

// Run prunes in rounds until ctx ends: small batches with a pause between them,
// so that rooms never wait long for the store.
func (r *Retention) Run(ctx context.Context) {
	every, log := cmp.Or(r.Every, DefaultPruneTime), cmp.Or(r.Logger, slog.Default())
	tick := time.NewTicker(every)
	defer tick.Stop()
	began, age := time.Now(), cmp.Or(r.MaxAge, DefaultMaxAge)
	for {
		bound := age
		if time.Since(began) < min(age, pruneGrace) {
			bound = -1
		}
		n, err := r.prune(ctx, bound)
		if n > 0 {
			log.Info("pruned the event log", "count", n)
		}
		if err != nil && ctx.Err() == nil {
			log.Error("cannot prune the event log", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Prune does one round and returns how many events it deleted.
func (r *Retention) Prune(ctx context.Context) (total int, err error) {
	return r.prune(ctx, cmp.Or(r.MaxAge, DefaultMaxAge))
}

// prune deletes events above an age; negative = no bound.
func (r *Retention) prune(ctx context.Context, age time.Duration) (total int, err error) {
	maxRows := cmp.Or(r.MaxEvents, DefaultMaxEvents)
	var olderThan int64
	if age > 0 {
		olderThan = time.Now().Add(-age).UnixMilli()
	}
	for {
		n, err := r.Store.PruneEvents(ctx, olderThan, max(maxRows, 0), pruneBatch)
		total += n
		if err != nil || n < pruneBatch {
			return total, err
		}
		select {
		case <-ctx.Done():
			return total, ctx.Err()
		case <-time.After(prunePause):
		}
	}
}
