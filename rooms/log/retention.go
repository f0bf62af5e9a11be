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
	prunePause       = 50 * time.Millisecond
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
	for {
		n, err := r.Prune(ctx)
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
	age, maxRows := cmp.Or(r.MaxAge, DefaultMaxAge), cmp.Or(r.MaxEvents, DefaultMaxEvents)
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
