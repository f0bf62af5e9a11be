package program

import (
	"context"
	"time"

	"parlor/rooms/replica"
	"parlor/rooms/sqlite"
	"parlor/server/api"
)

const (
	// leasePatience is how long calls go on, with nothing written, while the replica
	// cannot be reached and nobody else has taken the lease.
	leasePatience = time.Hour
	// syncInterval is the least time between two calls of the replica's Sync, each of
	// which leads to a request to S3.
	syncInterval = 500 * time.Millisecond
)

// replication converts the replica's status to the API's form.
type replication struct{ *replica.Replica }

func (r replication) Status() api.ReplicaStatus {
	s := r.Replica.Status()
	out := api.ReplicaStatus{State: api.LeaseUnsure, Epoch: s.Epoch, LagSeconds: s.Lag.Seconds(), LastError: s.LastError}
	switch s.Lease {
	case replica.LeaseHeld:
		out.State = api.LeaseHeld
	case replica.LeaseLost:
		out.State = api.LeaseLost
	}
	out.Stage, out.Failures, out.Generations = string(s.Stage), s.Failures, s.Begun
	if out.LastError == "" && s.LeaseError != "" {
		out.LastError, out.Stage = s.LeaseError, "lease"
	}
	for _, f := range s.Faults {
		out.Stages = append(out.Stages, api.ReplicaStage{Stage: string(f.Stage), Failures: f.Failures, LastError: f.Error})
		out.Stages[len(out.Stages)-1].SetFailingSince(f.Since)
	}
	out.SetLeaseExpires(s.Expires)
	return out
}

// openStore opens the database. With a replica it first takes the lease and makes sure
// that the database is the newest; it returns when the replica has everything.
func (p *program) openStore(ctx context.Context) (err error) {
	c := sqlite.Config{Path: p.cfg.Database, Log: p.log}
	if p.cfg.Replica == "" {
		p.store, err = sqlite.Open(ctx, c)
		return err
	}
	r, err := replica.New(replica.Config{
		URL: p.cfg.Replica, ExpectReplica: p.cfg.ExpectReplica, Adopt: p.cfg.AdoptDatabase,
		Patience: leasePatience, ReadEpoch: sqlite.ReadEpoch, ReadSeq: sqlite.ReadSeq, Sound: sqlite.Sound, OnLost: func(err error) { p.lost <- err }, Log: p.log,
		OnEpoch: func(ctx context.Context, epoch int64) error { return p.store.SetEpoch(ctx, epoch) },
	})
	if err != nil {
		return err
	}
	p.replica = r
	p.replication = replication{r}
	c.Prepare, c.Allow, c.Committed, c.Sync, c.SyncInterval = r.Prepare, r.Check, r.Committed, r.Sync, syncInterval
	if p.store, err = sqlite.Open(ctx, c); err != nil {
		return err
	}
	if err := p.store.SetEpoch(ctx, r.Epoch()); err != nil {
		return err
	}
	return r.Start(ctx, p.store.Between)
}
