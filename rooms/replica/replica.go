package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/superfly/ltx"
)

// Replica replicates a database. The order of calls: New; Prepare before the database is
// opened; Start once it is open; then Sync by the database's writer and Barrier by any
// goroutine; Close after the database is closed.
type Replica struct {
	config   Config
	location location
	log      *slog.Logger

	path  string // set by Prepare
	place place
	local local
	doubt bool // local.lostWAL, and the operator has not said that the database is right
	// unproven: an earlier process noted that the WAL was cut, and not which of the staged
	// files it had made before that.
	unproven bool
	lease    *lease
	wal      *walWatch // set by Prepare
	client   *guarded  // set by Start, as are the following
	store    *litestream.Store
	db       *litestream.DB
	upload   *uploader
	begun    atomic.Uint64 // generations that began while the database was served

	// The following, and local, belong to the uploader's goroutine from Start until Close
	// ends it.
	restaged   bool   // a new generation is staged, and not all of it is uploaded
	closing    bool   // the database is closed
	merges     bool   // files on the replica may be merged
	endMerging func() // stops the merging and waits for it

	endPruning context.CancelFunc
	pruned     chan struct{} // closed when prune returns

	mu      sync.RWMutex // guards started, which is read by Sync while Start runs
	started bool
}

// New checks c. It makes no request.
func New(c Config) (*Replica, error) {
	l, err := parse(c.URL)
	if err == nil {
		err = c.fill(l.scheme)
	}
	if err != nil {
		return nil, fmt.Errorf("configure replica: %w", err)
	}
	if l.scheme == "s3" {
		if _, err := l.s3Client(); err != nil {
			return nil, fmt.Errorf("configure replica: %w", err)
		}
	}
	log := c.Log.With("replica", l.name)
	dropCABundle(l, log)
	return &Replica{
		config: c, location: l, log: log, endMerging: func() {},
		lease: &lease{log: log, ttl: c.LeaseTTL, wait: c.Patience, onLost: c.OnLost, state: LeaseNone},
	}, nil
}

// Epoch is the lease's epoch, once Prepare has succeeded. The database must store it.
func (r *Replica) Epoch() int64 { return r.lease.epoch() }

// Check fails with [ErrUnsure] or [ErrLost] when nothing may be written, because another
// machine may serve the rooms, and also when somebody cut the database's WAL: what is written
// then would be gone after the next start. It is cheap: call it before every transaction.
func (r *Replica) Check() error {
	if err := r.lease.check(); err != nil {
		return err
	}
	if r.wal != nil && r.wal.cut.Load() {
		return errCut
	}
	return nil
}

// Start begins to replicate the open database, and returns when all of it is on the
// replica. Nobody may be served before that: from a missing generation other machines
// conclude that this epoch never served. between runs a function while the database's
// writer is between transactions; nil calls the function directly.
func (r *Replica) Start(ctx context.Context, between func(context.Context, func(context.Context) error) error) error {
	if between == nil {
		between = direct
	}
	if err := r.start(ctx, between); err != nil {
		return fmt.Errorf("start replication to %s: %w", r.location.name, err)
	}
	return nil
}

// direct is a [between] for a database without a writer.
func direct(ctx context.Context, f func(context.Context) error) error { return f(ctx) }

func (r *Replica) start(ctx context.Context, f between) error {
	if err := r.Check(); err != nil {
		return err
	}
	client, err := r.place.client(r.Epoch())
	if err != nil {
		return err
	}
	r.client = &guarded{ReplicaClient: client, allowed: r.mayUpload, wal: r.wal}
	r.db = litestream.NewDB(r.path)
	// A TRUNCATE checkpoint would wait a second, in vain, for a reader that holds the
	// WAL, and the writer would wait too. After a passive checkpoint SQLite reuses the
	// WAL once the reader is gone.
	r.db.TruncatePageN = math.MaxInt32
	r.db.MonitorInterval = 0 // the writer calls Sync instead: Litestream alone would lose the race for SQLite's lock
	r.db.Replica = litestream.NewReplicaWithClient(r.db, r.client)
	r.db.Replica.MonitorEnabled = false // the uploader calls it instead: Litestream alone could wait minutes to try again
	r.store = litestream.NewStore([]*litestream.DB{r.db}, litestream.DefaultCompactionLevels)
	r.store.Logger = demoted(r.log)
	r.store.SnapshotRetention = r.config.SnapshotRetention
	r.store.SetShutdownSyncTimeout(0)
	r.store.CompactionMonitorEnabled, r.store.L0RetentionCheckInterval = false, 0 // merge does it instead
	r.db.SetLogger(r.store.Logger)
	before, err := replicatedTo(r.path) // by an earlier process
	if err != nil {
		return err
	}
	if err := r.store.Open(ctx); err != nil {
		return errors.Join(err, r.store.Close(ctx))
	}
	r.upload = newUploader(r.path, r.db, r.client, r.wal, &r.config, r.log, f)
	r.upload.regenerate, r.upload.doubt, r.upload.proven = r.regenerate, r.noteCut, before
	r.client.prove = r.upload.prove
	if err := r.first(ctx, f); err != nil {
		if r.wal.cut.Load() {
			r.noteCut()
		}
		return errors.Join(err, r.store.Close(ctx), r.dropUnproven())
	}
	var ctxPrune context.Context
	ctxPrune, r.endPruning = context.WithCancel(context.Background())
	r.pruned = make(chan struct{})
	go r.prune(ctxPrune)
	r.merges = true
	r.beginMerging()
	go r.upload.run()
	r.mu.Lock()
	r.started = true
	r.mu.Unlock()
	return f(ctx, r.upload.stage) // for commits since the first stage
}

// mayUpload fails when nothing may be written to the generation.
func (r *Replica) mayUpload() error {
	if r.client.frozen.Load() {
		return errors.New("the generation is given up")
	}
	return r.Check()
}

// first uploads the whole stage, and notes that the replica is not empty. If the state
// that an earlier process left beside the database cannot be continued, it begins a new
// generation.
func (r *Replica) first(ctx context.Context, f between) error {
	stage, err := StageLocal, f(ctx, r.upload.stage)
	if err == nil {
		stage, err = StageUpload, r.upload.once(ctx)
	}
	if incurable(stage, err) {
		r.log.Warn("the replica's generation cannot go on: beginning a new one", "stage", stage, "error", err)
		err = r.regenerate(ctx, f)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", stage, explain(err, litestreamPath(r.path)))
	}
	if err := r.askLevels(ctx); err != nil {
		return err
	}
	r.lease.begin()
	r.local.Replicated, r.local.Serving, r.local.Unstaged, r.local.Cut, r.local.Staged = true, true, false, false, 0
	r.local.Restored, r.local.RestoredTo = 0, 0
	return r.local.write(r.path)
}

// Sync stages what was committed for the uploads. The database's writer calls it between
// transactions, soon after they commit, and once more before it closes. It does not wait
// for the replica.
func (r *Replica) Sync(ctx context.Context) error {
	if !r.running() {
		return nil // Start will stage it
	}
	return r.upload.stage(ctx)
}

// Committed tells that the database's writer committed something: the replica lags behind
// until that is uploaded.
func (r *Replica) Committed() {
	if r.running() {
		r.upload.commit()
	}
}

func (r *Replica) running() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.started
}

// Barrier returns when everything that was committed before the call is on the replica.
// Callers that wait at the same time share one upload.
func (r *Replica) Barrier(ctx context.Context) error {
	if !r.running() {
		return errors.New("replication has not started")
	}
	if err := r.Check(); err != nil {
		return err
	}
	return r.upload.barrier(ctx)
}

// Close uploads what is missing and releases the lease, as far as it can before ctx ends,
// and stops replicating. Changes that do not reach the replica stay in the stage for the
// next start on this machine. The database must be closed before, after a last Sync.
func (r *Replica) Close(ctx context.Context) error {
	if r.place == nil {
		return nil
	}
	err := r.close(ctx)
	r.lease.stop()
	if err == nil {
		err = r.lease.release(ctx)
	}
	if err = errors.Join(err, r.place.close()); err != nil {
		return fmt.Errorf("close replica %s: %w", r.location.name, err)
	}
	return nil
}

func (r *Replica) close(ctx context.Context) error {
	if !r.running() {
		return nil
	}
	r.mu.Lock()
	r.started = false
	r.mu.Unlock()
	r.upload.stop()
	r.closing, r.merges = true, false
	r.endMerging()
	r.endPruning()
	<-r.pruned
	err := r.last(ctx)
	// As Litestream closes, SQLite copies the WAL into the database. The look takes less than
	// half a second.
	if _, bad := r.wal.upTo(context.WithoutCancel(ctx), walKept); errors.Is(bad, errCut) && err == nil {
		err = bad
	}
	if r.wal.cut.Load() { // noted first: Litestream stages what it finds as it closes
		r.local.Cut, r.local.Staged = true, r.upload.provenTo()
		if e := r.local.write(r.path); e != nil && err == nil {
			err = e
		}
	}
	if e := r.store.Close(ctx); e != nil && err == nil { // after a failure it only repeats the error
		err = e
	}
	if e := r.dropUnproven(); e != nil {
		r.log.Error("what was staged of a WAL that was cut cannot be deleted", "error", e)
	}
	if errors.Is(err, errWAL) {
		r.dropWAL()
	}
	// Only now is the WAL in the database: what dies before is a crash to the next start, which
	// looks for the WAL.
	r.local.Serving = false
	if e := r.local.write(r.path); e != nil && err == nil {
		err = e
	}
	if errors.Is(err, ErrLost) {
		return nil // OnLost was told
	}
	return err
}

// dropUnproven deletes what Litestream staged of a WAL that was cut, as it closed: if the cut
// could not be noted, the next start takes everything staged for whole.
func (r *Replica) dropUnproven() error {
	if !r.wal.cut.Load() {
		return nil
	}
	folder := filepath.Join(litestreamPath(r.path), "ltx", "0")
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if _, to, bad := ltx.ParseFilename(e.Name()); bad == nil && to > r.upload.provenTo() {
			err = errors.Join(err, os.Remove(filepath.Join(folder, e.Name())))
		}
	}
	return err
}

// noteCut has the next start find out whether the database lacks something of the replica. It
// runs on the uploader's goroutine.
func (r *Replica) noteCut() {
	if r.local.Cut {
		return
	}
	r.local.Cut, r.local.Staged = true, r.upload.provenTo()
	if err := r.local.write(r.path); err != nil {
		r.local.Cut = false
		r.log.Error("it cannot be noted that the database's -wal file was cut, trying again", "error", err)
	}
}

// dropWAL moves away the file that replaced the WAL. SQLite merged the true WAL into the
// database when it closed its last connection; the next start would apply the other file.
func (r *Replica) dropWAL() {
	to := fmt.Sprintf("%s-wal.replaced-%s", r.path, time.Now().UTC().Format("20060102T150405.000Z"))
	switch err := os.Rename(r.path+"-wal", to); {
	case err == nil:
		r.log.Warn("what stood where the database's -wal file had been is moved away", "to", to)
	case !errors.Is(err, fs.ErrNotExist):
		r.log.Error("what stands where the database's -wal file had been cannot be moved away: do so before the next start", "error", err)
	}
}

// last uploads what is missing, and tries until ctx ends, the lease is lost, or no try
// can help.
func (r *Replica) last(ctx context.Context) error {
	for {
		err := r.upload.round(ctx, direct, true)
		if err == nil || errors.Is(err, ErrLost) {
			return err
		}
		if lost := r.Check(); errors.Is(lost, ErrLost) { // what failed may have failed before it asked
			return lost
		}
		if errors.Is(err, errCut) {
			return err
		}
		if errors.Is(err, errWAL) {
			return fmt.Errorf("bring the last changes to the replica (the next start does): %w", err)
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("bring the last changes to the replica (they stay here): %w", err)
		}
	}
}

// Status is the state of the replication.
type Status struct {
	URL        string // without secrets
	Epoch      int64
	Lease      LeaseState
	Expires    time.Time     // when others may take the lease, by this machine's clock
	LeaseError string        // the error of the last renewal; "" = it succeeded
	Lag        time.Duration // age of the oldest commit that is not on the replica; 0 = all are
	LastSync   time.Time     // when the replica last had everything
	LastError  string        // of the first failing stage; "" = no stage fails
	Stage      Stage         // that stage
	Faults     []Fault       // every stage
	Failures   uint64        // of all stages
	Begun      uint64        // generations that were begun because the last one could not go on
	Files      uint64        // uploaded files
	Bytes      uint64
}

// Status returns the state of now. It makes no request.
func (r *Replica) Status() Status {
	s := Status{URL: r.location.name, Epoch: r.Epoch()}
	var err error
	s.Lease, s.Expires, err = r.lease.status()
	if err != nil {
		s.LeaseError = err.Error()
	}
	if r.running() {
		r.upload.status(&s)
		s.Begun = r.begun.Load()
		s.Files, s.Bytes = r.client.files.Load(), r.client.bytes.Load()
	}
	return s
}
