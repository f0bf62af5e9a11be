package replica

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/superfly/ltx"
)

const (
	// mergeEvery is how often merges and deletions on the replica are considered.
	mergeEvery = 15 * time.Second
	// mergePatience bounds one merge. While a snapshot is read the WAL is not
	// checkpointed, so a replica that hangs must not delay that for ever.
	mergePatience = 5 * time.Minute
)

// beginMerging starts the goroutine that merges files on the replica. It stands in for
// Litestream's own, so that it can be stopped between two generations and its failures
// are reported. endMerging ends it and waits for it.
func (r *Replica) beginMerging() {
	if !r.merges {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	r.endMerging = func() { cancel(); <-ended }
	go func() {
		defer close(ended)
		r.merge(ctx)
	}()
}

func (r *Replica) merge(ctx context.Context) {
	due := make(map[int]time.Time)
	tick := time.NewTicker(mergeEvery)
	defer tick.Stop()
	for {
		err := r.mergeOnce(ctx, due)
		if ctx.Err() != nil {
			return
		}
		began, ended := r.upload.faults.note(StageMerge, err)
		switch {
		case began:
			r.log.Warn("files on the replica cannot be merged", "error", err)
		case ended:
			r.log.Info("files on the replica are merged again")
		}
		if err != nil { // the staged copies may be damaged: read the replica's the next time
			r.dropUploaded()
			r.upload.poke() // it may have to begin a new generation
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// mergeOnce does the merges that are due, each level into the next, and deletes files
// that are no longer needed.
func (r *Replica) mergeOnce(ctx context.Context, due map[int]time.Time) error {
	var errs []error
	for _, level := range levels() {
		now := time.Now()
		if level.Level == 0 || now.Before(due[level.Level]) {
			continue
		}
		err := r.mergeLevel(ctx, level)
		if err == nil {
			due[level.Level] = level.NextCompactionAt(now)
		}
		errs = append(errs, err)
	}
	bounded, cancel := context.WithTimeout(ctx, mergePatience)
	defer cancel()
	return errors.Join(append(errs, r.db.EnforceL0RetentionByTime(bounded))...)
}

func (r *Replica) mergeLevel(ctx context.Context, level *litestream.CompactionLevel) error {
	patience := mergePatience
	if fi, err := os.Stat(r.path); err == nil { // else the merge itself fails
		patience += time.Duration(fi.Size()/uploadRate) * time.Second
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("the replica does not answer in time"))
	defer cancel()
	_, err := r.store.CompactDB(ctx, r.db, level)
	if errors.Is(err, litestream.ErrNoCompaction) || errors.Is(err, litestream.ErrCompactionTooEarly) || errors.Is(err, litestream.ErrDBNotReady) {
		err = nil
	}
	if err == nil && level.Level == litestream.SnapshotLevel {
		err = r.store.EnforceSnapshotRetention(ctx, r.db)
	}
	return err
}

// dropUploaded removes staged files that are on the replica, except the newest, which
// staging needs. Litestream prefers staged files for a merge, and one of them may be
// damaged.
func (r *Replica) dropUploaded() {
	uploaded := r.db.Replica.Pos().TXID
	dir := r.db.LTXLevelDir(0)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // staging reports it
	}
	for _, e := range entries {
		from, to, err := ltx.ParseFilename(e.Name())
		if err == nil && to < uploaded {
			_ = os.Remove(r.db.LTXPath(0, from, to)) // the next call tries again
		}
	}
}
