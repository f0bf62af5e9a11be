package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/benbjohnson/litestream"
)

// pruneEvery is how often earlier generations are considered for deletion.
const pruneEvery = 24 * time.Hour

// prune deletes old generations now and then, until ctx ends.
func (r *Replica) prune(ctx context.Context) {
	defer close(r.pruned)
	for {
		if err := r.pruneOnce(ctx, time.Now()); err != nil && ctx.Err() == nil {
			r.log.Warn("generations of the past cannot be deleted from the replica", "error", err)
		}
		select {
		case <-time.After(pruneEvery):
		case <-ctx.Done():
			return
		}
	}
}

// pruneOnce deletes generations whose last file is older than the retention, except the
// newest two: the one that is written, and the one before it.
func (r *Replica) pruneOnce(ctx context.Context, now time.Time) error {
	all, err := r.place.generations(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range all[:max(0, len(all)-2)] {
		c, err := r.place.client(n)
		if err == nil {
			err = r.pruneGeneration(ctx, n, c, now)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("generation %d: %w", n, err))
		}
	}
	return errors.Join(errs...)
}

func (r *Replica) pruneGeneration(ctx context.Context, n int64, c litestream.ReplicaClient, now time.Time) error {
	newest, err := lastWritten(ctx, c)
	if err != nil || now.Sub(newest) < r.config.Retention {
		return err
	}
	g := &guarded{ReplicaClient: c, allowed: r.Check}
	if err := g.DeleteAll(ctx); err != nil {
		return err
	}
	r.log.Info("a generation of the past is deleted from the replica", "generation", n, "written", newest)
	return nil
}

// lastWritten is when a generation got its last file; zero if it is empty.
func lastWritten(ctx context.Context, c litestream.ReplicaClient) (time.Time, error) {
	var last time.Time
	for level := range litestream.SnapshotLevel + 1 {
		files, err := c.LTXFiles(ctx, level, 0, false)
		if err != nil {
			return last, err
		}
		for files.Next() {
			if at := files.Item().CreatedAt; at.After(last) {
				last = at
			}
		}
		if err := files.Close(); err != nil {
			return last, err
		}
	}
	return last, nil
}
