package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/superfly/ltx"
)

// ErrStopped: the replication was closed while the caller waited.
var ErrStopped = errors.New("replication has stopped")

const (
	// retryMost bounds the time between tries while uploads fail, and so how long a
	// replica stays behind after its return.
	retryMost = 10 * time.Second
	// An upload that takes longer than uploadPatience plus its size at uploadRate hangs
	// on a dead connection.
	uploadPatience = 30 * time.Second
	uploadRate     = 1 << 20 // bytes per second
	// uploadSlow is the time after which a running upload is reported as slow.
	uploadSlow = 5 * time.Second
	// checkIdle is how many times rarer the replica is checked while nothing is uploaded.
	checkIdle = 10
	// wholeOf is how many times rarer all of the WAL is looked at than what is new in it. What
	// is old is staged, and every snapshot looks at all of it.
	wholeOf = 60
	// wholeMost is how large a WAL may be, in bytes, of which the writer looks at all before
	// SQLite copies it into the database: a hole in it would be in the database then. That is
	// due at 4 MB; only a long reader or a large transaction lets a WAL grow further. A look
	// takes one to five milliseconds a megabyte, and at most one part in wholeShare of the writer's time.
	wholeMost  = 16 << 20
	wholeShare = 20
)

// between runs a function while the database's writer is between transactions.
type between func(context.Context, func(context.Context) error) error

// uploader uploads what the database's writer staged. It is one goroutine, run, until
// stop.
type uploader struct {
	path     string // the database's
	db       *litestream.DB
	client   *guarded
	log      *slog.Logger
	interval time.Duration
	every    time.Duration // between two checks of the replica
	between  between
	// regenerate begins a new generation and uploads everything to it.
	regenerate func(context.Context, between) error
	// doubt notes that the database here may lack what it held.
	doubt    func()
	last     walState  // as the WAL was staged last; the writer's
	nextAll  time.Time // when all of the WAL may be looked at again; the writer's
	wal      *walWatch
	walKept  int64 // size in bytes to which SQLite cuts the WAL when it starts it over
	faults   *faults
	checked  time.Time // of run: when the replica was checked last
	uploaded bool      // of run: something was uploaded since then
	looked   walState  // of run, and of Close after it: as the WAL was checked last
	looks    int       // of run: at what is new in the WAL, since the last one at all of it

	dirty    chan struct{}   // capacity 1: something is staged, or staging failed
	barriers chan chan error // callers of Barrier that wait
	cancel   context.CancelFunc
	ctx      context.Context // run's lifetime
	ended    chan struct{}   // closed when run returns

	mu        sync.Mutex // guards the following
	staged    ltx.TXID
	proven    ltx.TXID  // the last one that was staged while the WAL was known to be whole
	committed time.Time // when the first commit that is not staged was made; zero = none
	behind    time.Time // the same of the first staged commit that is not on the replica; zero = none
	whole     time.Time // when the replica last had all that was uploaded
	uploading time.Time // when the running upload began; zero = none
	synced    time.Time
}

func newUploader(path string, db *litestream.DB, client *guarded, wal *walWatch, c *Config, log *slog.Logger, f between) *uploader {
	u := &uploader{
		path: path, db: db, client: client, wal: wal, log: log, interval: c.SyncInterval, every: c.CheckInterval, between: f, faults: newFaults(),
		dirty: make(chan struct{}, 1), barriers: make(chan chan error), ended: make(chan struct{}),
		whole: time.Now(), walKept: walKept,
	}
	u.ctx, u.cancel = context.WithCancel(context.Background())
	return u
}

// commit notes a commit: the replica lags behind from now on.
func (u *uploader) commit() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.committed.IsZero() {
		u.committed = time.Now()
	}
}

// stage stages what is new in the WAL, and wakes run. It runs while the database's writer
// is between transactions.
func (u *uploader) stage(ctx context.Context) error {
	news, err := u.take(ctx)
	if ctx.Err() != nil {
		return err
	}
	err = explain(err, litestreamPath(u.path))
	u.noteStage(err)
	if news || err != nil {
		u.poke()
	}
	return err
}

// noteStage logs and records the outcome of a stage.
func (u *uploader) noteStage(err error) {
	began, ended := u.faults.note(StageLocal, err)
	switch {
	case began:
		u.log.Error("what was written cannot be staged for the replica", "error", err)
	case ended:
		u.log.Info("what is written is staged for the replica again")
	}
}

// provenTo is the last transaction that was staged while the WAL was known to be whole.
func (u *uploader) provenTo() ltx.TXID {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.proven
}

func (u *uploader) poke() {
	select {
	case u.dirty <- struct{}{}:
	default:
	}
}

func (u *uploader) take(ctx context.Context) (news bool, err error) {
	if err := u.checkWAL(ctx); err != nil {
		return false, err
	}
	if err := u.beforeCheckpoint(ctx); err != nil {
		return false, err
	}
	if err := u.shrinkWAL(ctx); err != nil {
		return false, err
	}
	if err := u.db.Sync(ctx); err != nil {
		return false, err
	}
	if u.wal.file.Load() == nil { // Litestream has just opened the database, so all of its WAL is looked at
		id, err := fileID(u.path + "-wal")
		if err != nil {
			return false, err
		}
		u.wal.file.Store(&id)
	}
	if err := u.checkWAL(ctx); err != nil { // it may have been cut just now, and Litestream stage what was left
		return false, err
	}
	pos, err := u.db.Pos()
	if err != nil {
		return false, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if pos.TXID < u.staged {
		return false, fmt.Errorf("%w: it is at %s, and was at %s", errAstray, pos.TXID, u.staged)
	}
	news = pos.TXID > u.staged
	u.staged, u.proven = pos.TXID, pos.TXID
	if news && u.behind.IsZero() {
		u.behind = u.committed
		if u.committed.IsZero() { // the commit was Litestream's own
			u.behind = time.Now()
		}
	}
	u.committed = time.Time{}
	return news, nil
}

// checkWAL fails if SQLite's WAL was replaced by another file: SQLite goes on with the
// file that it has open, while Litestream would read the other. It fails, too, if the WAL was
// cut, and from then on: what SQLite writes next makes the end of the WAL look right again, and
// Litestream would take what is left for the database.
func (u *uploader) checkWAL(ctx context.Context) error {
	known := u.wal.file.Load()
	if known == nil {
		return nil
	}
	id, err := fileID(u.path + "-wal")
	if err == nil && id != *known {
		err = errWAL
	}
	if err == nil {
		var now walState
		if now, err = u.wal.since(ctx, &u.last); err == nil { // else the same frames are looked at again
			u.last = now
		}
	}
	return err
}

// beforeCheckpoint looks at all of the WAL if Litestream is about to have SQLite copy it into
// the database, within wholeMost and wholeShare.
func (u *uploader) beforeCheckpoint(ctx context.Context) error {
	began := time.Now()
	if began.Before(u.nextAll) || !u.checkpointIsDue() {
		return nil
	}
	_, err := u.wal.upTo(ctx, wholeMost)
	u.nextAll = time.Now().Add(wholeShare * time.Since(began))
	return err
}

// checkpointIsDue decides as Litestream does.
func (u *uploader) checkpointIsDue() bool {
	if u.last.frames >= int64(u.db.MinCheckpointPageN) {
		return true
	}
	fi, err := os.Stat(u.path)
	return err == nil && u.last.frames > 1 && time.Since(fi.ModTime()) > u.db.CheckpointInterval
}

// prove fails if a staged transaction may be of a WAL that was cut. The writer looks at the WAL
// again after it has staged something, and what it has not looked at by now is looked at here.
func (u *uploader) prove(ctx context.Context, staged ltx.TXID) error {
	if staged <= u.provenTo() {
		return nil
	}
	now, err := u.wal.since(ctx, &u.looked)
	if err != nil {
		return err
	}
	u.looked = now
	return nil
}

// walKept is the size to which the WAL is cut when SQLite starts it over. It is the same
// without a replica.
const walKept = 64 << 20

// shrinkWAL sets the size limit of the WAL on Litestream's connection if the WAL has
// grown. That connection starts the WAL over, and takes no settings when it is opened.
func (u *uploader) shrinkWAL(ctx context.Context) error {
	fi, err := os.Stat(u.path + "-wal")
	db := u.db.SQLDB()
	if err != nil || fi.Size() <= u.walKept || db == nil {
		return nil // the reader of the WAL reports what is wrong with it
	}
	_, err = db.ExecContext(ctx, fmt.Sprintf("PRAGMA journal_size_limit = %d", u.walKept))
	return err
}

// run uploads what is staged, at most once per interval except for barriers, retries what
// failed, and checks from time to time that the replica still has everything.
func (u *uploader) run() {
	defer close(u.ended)
	timer := time.NewTimer(u.every)
	defer timer.Stop()
	var began time.Time
	var pause time.Duration // before the next try; 0 = the last one succeeded
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
		err := u.round(u.ctx, u.between, len(waiting) > 0)
		for _, w := range waiting {
			w <- err
		}
		if err == nil {
			pause = 0
			timer.Reset(u.idle())
			continue
		}
		pause = min(max(2*pause, u.interval), retryMost)
		timer.Reset(pause)
	}
}

// idle is the time until the next check of the replica.
func (u *uploader) idle() time.Duration {
	every := u.every
	if !u.uploaded {
		every *= checkIdle
	}
	return max(0, time.Until(u.checked.Add(every)))
}

// others returns w and all other callers that wait now.
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

// round uploads; for a barrier it first stages what was committed. If the generation
// cannot go on, it begins a new one.
func (u *uploader) round(ctx context.Context, f between, barrier bool) error {
	if barrier {
		// A failure to stage is the barrier's result only if no new generation cures it.
		if err := f(ctx, u.stage); err != nil && (ctx.Err() != nil || !u.hopeless()) {
			if u.wal.cut.Load() {
				u.doubt()
			}
			return fmt.Errorf("stage the database for the replica: %w", err)
		}
	}
	if u.wal.cut.Load() {
		u.doubt()
	}
	if u.hopeless() {
		if err := u.renew(ctx, f); err != nil {
			return err
		}
	}
	if err := u.upload(ctx); err != nil {
		return err
	}
	if u.idle() > 0 {
		return nil
	}
	return u.check(ctx)
}

// hopeless reports whether the generation must be replaced by a new one.
func (u *uploader) hopeless() bool {
	begun, _ := u.faults.last(StageGeneration)
	return begun > 0 || slices.ContainsFunc(Stages(), u.faults.hopeless)
}

// renew begins a new generation, and logs and records the outcome.
func (u *uploader) renew(ctx context.Context, f between) error {
	tried, _ := u.faults.last(StageGeneration)
	for _, s := range Stages() {
		if _, err := u.faults.last(s); err != nil && tried == 0 {
			u.log.Warn("the replica's generation cannot go on: beginning a new one", "stage", s, "error", err)
		}
	}
	err := u.regenerate(ctx, f)
	if ctx.Err() != nil {
		return err
	}
	err = explain(err, litestreamPath(u.path))
	began, _ := u.faults.note(StageGeneration, err)
	if began {
		u.log.Error("a new generation of the replica cannot be begun, trying again", "error", err)
	}
	if err != nil {
		return fmt.Errorf("begin a new generation: %w", err)
	}
	for _, s := range []Stage{StageUpload, StageCheck, StageMerge} { // of the earlier generation
		u.faults.note(s, nil)
	}
	u.seen()
	return nil
}

// upload is once, and logs and records the outcome.
func (u *uploader) upload(ctx context.Context) error {
	err := u.once(ctx)
	if ctx.Err() != nil {
		return err
	}
	if isWAL(err) { // nothing is wrong with the replica
		u.noteStage(err)
		return err
	}
	began, ended := u.faults.note(StageUpload, err)
	switch {
	case began:
		u.log.Error("the replica cannot be written", "error", err)
	case ended:
		u.log.Info("the replica can be written again")
	}
	return err
}

// once uploads what is staged by now.
func (u *uploader) once(ctx context.Context) error {
	u.mu.Lock()
	began, staged := time.Now(), u.staged
	u.uploading = began
	u.mu.Unlock()
	before := u.db.Replica.Pos().TXID
	ctx, cancel := context.WithTimeoutCause(ctx, u.patience(), errors.New("the replica does not answer in time"))
	defer cancel()
	err := u.db.Replica.Sync(ctx)
	after := u.db.Replica.Pos().TXID
	u.mu.Lock()
	defer u.mu.Unlock()
	u.uploading = time.Time{}
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	// If the replica has more than the stage, Litestream uploads nothing and reports
	// success.
	if here, err := u.db.Pos(); err != nil || after < staged || after > here.TXID {
		return fmt.Errorf("upload: %w: that is at %s, this at %s", errors.Join(errAstray, err), after, here.TXID)
	}
	u.uploaded = u.uploaded || after != before
	u.synced = began
	switch {
	case u.staged <= staged:
		u.behind = time.Time{}
	default: // staged meanwhile: some of it may be uploaded, but it is not known how much
		u.behind = began
	}
	return nil
}

// check fails if the replica lacks uploaded files.
func (u *uploader) check(ctx context.Context) error {
	if err := u.lookAtWAL(ctx); u.wal.cut.Load() {
		u.doubt()
		u.noteStage(errCut) // nothing is written any more that would be staged
	} else if err != nil && !isWAL(err) && !errors.Is(err, errWALChanges) && ctx.Err() == nil {
		u.log.Warn("the database's -wal file cannot be checked", "error", err)
	}
	err := u.look(ctx)
	if ctx.Err() != nil {
		return err
	}
	began, ended := u.faults.note(StageCheck, err)
	switch {
	case began:
		u.log.Error("the replica is not what it should be", "error", err)
	case ended:
		u.log.Info("the replica is what it should be again")
	}
	if err == nil {
		u.seen()
	}
	return err
}

// lookAtWAL looks at what is new in the WAL, and from time to time at all of it.
func (u *uploader) lookAtWAL(ctx context.Context) error {
	look := func(ctx context.Context) (walState, error) { return u.wal.since(ctx, &u.looked) }
	if u.looks++; u.looks > wholeOf {
		look = u.wal.whole
	}
	now, err := look(ctx)
	if err != nil {
		return err // the next check looks at the same frames again
	}
	u.looked = now
	if u.looks > wholeOf {
		u.looks = 0
	}
	return nil
}

// seen notes that the replica has all that was uploaded.
func (u *uploader) seen() {
	u.checked, u.uploaded = time.Now(), false
	u.mu.Lock()
	defer u.mu.Unlock()
	u.whole = u.checked
}

func (u *uploader) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, uploadPatience, errors.New("the replica does not answer in time"))
	defer cancel()
	want := u.db.Replica.Pos().TXID
	plan, err := litestream.CalcRestorePlan(ctx, u.db.Replica.Client, 0, time.Time{}, u.db.Logger)
	switch {
	case isNothing(err), isGap(err):
		return fmt.Errorf("%w: %w", errGap, err)
	case err != nil:
		return fmt.Errorf("check: %w", err)
	}
	if cut := u.cut(plan); cut != nil {
		return fmt.Errorf("%w: %s has %d bytes there", errGap, ltx.FormatFilename(cut.MinTXID, cut.MaxTXID), cut.Size)
	}
	if last := plan[len(plan)-1].MaxTXID; last < want {
		return fmt.Errorf("%w: it can be restored to %s, and was uploaded to %s", errGap, last, want)
	}
	return nil
}

// cut finds the file that was uploaded last, if its size on the replica differs.
func (u *uploader) cut(plan []*ltx.FileInfo) *ltx.FileInfo {
	last := u.client.last.Load()
	for _, f := range plan {
		if last != nil && f.Level == last.Level && f.MinTXID == last.MinTXID && f.MaxTXID == last.MaxTXID && f.Size != last.Size {
			return f
		}
	}
	return nil
}

// patience is the time that uploading the stage may take.
func (u *uploader) patience() time.Duration {
	entries, err := os.ReadDir(u.db.LTXLevelDir(0)) // files that were uploaded lately are there too
	var bytes int64
	if err == nil {
		for _, e := range entries {
			_, to, err := ltx.ParseFilename(e.Name())
			if err != nil || to <= u.db.Replica.Pos().TXID {
				continue
			}
			if fi, err := e.Info(); err == nil { // else it was removed, because it is uploaded
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
	s.Faults = u.faults.all()
	u.mu.Lock()
	defer u.mu.Unlock()
	s.LastSync = u.synced
	if slow := time.Since(u.uploading); !u.uploading.IsZero() && slow > uploadSlow {
		for i := range s.Faults {
			if f := &s.Faults[i]; f.Stage == StageUpload && f.Error == "" {
				f.Error, f.Since = fmt.Sprintf("the replica takes long: an upload began %v ago", slow.Round(time.Second)), u.uploading
			}
		}
	}
	first := u.committed
	if first.IsZero() || (!u.behind.IsZero() && u.behind.Before(first)) {
		first = u.behind
	}
	for _, f := range s.Faults {
		s.Failures += f.Failures
		if f.Error != "" && s.LastError == "" {
			s.LastError, s.Stage = f.Error, f.Stage
		}
		if f.Stage == StageCheck && f.Error != "" && (first.IsZero() || u.whole.Before(first)) {
			first = u.whole
		}
	}
	if !first.IsZero() {
		s.Lag = time.Since(first)
	}
}
