package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/superfly/ltx"
)

// levels are Litestream's compaction levels, with that of the snapshots.
func levels() litestream.CompactionLevels {
	return slices.Concat(litestream.DefaultCompactionLevels, litestream.CompactionLevels{{Level: litestream.SnapshotLevel, Interval: litestream.DefaultSnapshotInterval}})
}

// regenerate begins a new generation while the server runs, as a restart would. It
// deletes the stage, stages the whole database, takes a new epoch, and uploads
// everything. It runs on the uploader's goroutine. If it fails, the next try goes on
// where it failed.
//
// Its order makes every crash harmless. First .replica says that the stage no longer
// tells how new the database is. From then on nothing is written to the old generation.
// And the new generation begins before its epoch counts as replicated.
func (r *Replica) regenerate(ctx context.Context, f between) error {
	if err := r.Check(); err != nil {
		return err
	}
	r.endMerging()
	defer r.beginMerging()
	if !r.local.Unstaged {
		r.local.Unstaged = true
		if err := r.local.write(r.path); err != nil {
			r.local.Unstaged = false
			return err
		}
	}
	r.client.frozen.Store(true)
	if err := f(ctx, r.restage); err != nil {
		return err
	}
	if r.Epoch() == r.local.Epoch {
		if err := r.lease.raise(ctx, r.local.Epoch+1); err != nil {
			return err
		}
	}
	if err := r.moveOn(ctx); err != nil {
		return err
	}
	r.log.Info("a new generation of the replica has begun", "epoch", r.Epoch())
	r.begun.Add(1)
	return nil
}

// restage stages the whole database, unless that is done already.
func (r *Replica) restage(ctx context.Context) error {
	if r.restaged {
		if err := r.upload.stage(ctx); err == nil || !r.upload.faults.hopeless(StageLocal) {
			return err
		}
	}
	if _, err := r.wal.whole(ctx); err != nil { // a hole in it would be a hole in the new generation
		return err
	}
	if err := r.forget(); err != nil {
		return err
	}
	if err := r.db.ResetLocalState(ctx); err != nil {
		return err
	}
	r.db.Replica.SetPos(ltx.Pos{})
	r.upload.forget()
	r.restaged = true
	return r.upload.stage(ctx)
}

// moveOn uploads the stage to the generation of the lease's epoch.
func (r *Replica) moveOn(ctx context.Context) error {
	bounded, cancel := r.bounded(ctx)
	defer cancel()
	if r.local.Epoch != r.Epoch() {
		client, err := r.place.client(r.Epoch())
		if err != nil {
			return err
		}
		client.SetLogger(r.db.Replica.Logger())
		if err := client.Init(bounded); err != nil {
			return err
		}
		r.client.ReplicaClient = client // nothing else uses the client now
		r.client.frozen.Store(false)
		r.local.Epoch, r.local.Replicated = r.Epoch(), false
		if err := r.local.write(r.path); err != nil {
			return err
		}
	}
	if r.config.OnEpoch != nil && !r.closing {
		if err := r.config.OnEpoch(bounded, r.Epoch()); err != nil {
			return fmt.Errorf("note the epoch: %w", err)
		}
	}
	if err := r.upload.once(ctx); err != nil {
		return err
	}
	if err := r.askLevels(ctx); err != nil {
		return err
	}
	r.lease.begin()
	r.restaged = false
	r.local.Replicated, r.local.Unstaged = true, false
	return r.local.write(r.path)
}

// bounded bounds a step that makes few requests to the replica.
func (r *Replica) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, uploadPatience, errors.New("the replica does not answer in time"))
}

// askLevels has Litestream ask the replica now for the newest file of each level.
// Litestream asks once, and holds up the database's writer meanwhile, which may be long.
func (r *Replica) askLevels(ctx context.Context) error {
	ctx, cancel := r.bounded(ctx)
	defer cancel()
	for _, level := range levels() {
		if _, err := r.db.MaxLTXFileInfo(ctx, level.Level); err != nil {
			return err
		}
	}
	return nil
}

// forget resets how far staging got.
func (u *uploader) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.staged, u.proven = 0, 0
	if u.behind.IsZero() { // nothing is in the new generation yet
		u.behind = time.Now()
	}
}
