package replica

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/superfly/ltx"
)

// ErrEmpty: the replica is empty, and should not be.
var ErrEmpty = errors.New("there is nothing on the replica")

// ErrUnknown: whether the database or the replica is newer cannot be told.
var ErrUnknown = errors.New("the database is not known to be a copy of what is on the replica")

// Prepare takes the lease and makes sure that the database at path, which must be
// absolute, is the newest: it restores it if need be. It fails, and changes nothing, with
// a [HeldError] if another process holds the lease, [ErrEmpty] if the replica is empty
// and should not be, and [ErrUnknown] if it cannot tell which is newer.
//
// Nobody else may open or prepare the database meanwhile. After success the lease is held
// until Close.
func (r *Replica) Prepare(ctx context.Context, path string) error {
	if r.place != nil {
		return errors.New("the replica is prepared already")
	}
	r.path = path
	r.wal = &walWatch{database: path, sql: func() *sql.DB { return r.db.SQLDB() }}
	if err := r.prepare(ctx); err != nil {
		return fmt.Errorf("replica %s: %w", r.location.name, errors.Join(err, r.abandon(ctx)))
	}
	return nil
}

func (r *Replica) prepare(ctx context.Context) error {
	var err error
	if err := r.readLocal(); err != nil {
		return err
	}
	gone, cut, err := r.local.lostWAL(ctx, r.path)
	if err != nil {
		return err
	}
	r.unproven = r.local.Cut && r.local.Staged == 0
	r.local.Cut = cut
	r.doubt = (gone || cut) && !r.config.Adopt
	if r.config.ExpectReplica {
		if err := r.expect(ctx); err != nil {
			return err
		}
	}
	if r.place, err = r.location.open(ctx, true); err != nil {
		return err
	}
	r.lease.place = r.place
	here, err := r.survey(ctx)
	if err != nil {
		return err
	}
	if err := here.check(r); err != nil { // before the lease is taken, which writes owner.json
		return err
	}
	before, err := r.takeLease(ctx)
	if err != nil {
		return err
	}
	if here, err = r.survey(ctx); err != nil { // it may have changed before the lease was ours
		return err
	}
	if err := r.settle(ctx, here, before); err != nil {
		return err
	}
	return r.Check()
}

// abandon releases what prepare took.
func (r *Replica) abandon(ctx context.Context) error {
	if r.place == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	r.lease.stop()
	err := errors.Join(r.lease.release(ctx), r.place.close())
	r.place = nil
	return err
}

func (r *Replica) readLocal() error {
	var err error
	if r.local, err = readLocal(r.path); err != nil {
		return err
	}
	if r.local.Machine == "" {
		r.local.Machine = randomID()
		if err := r.local.write(r.path); err != nil {
			return err
		}
	}
	if r.config.Machine == "" {
		r.config.Machine, err = machineID(r.local, r.path)
	}
	return err
}

func randomID() string { return strconv.FormatUint(rand.Uint64(), 36) }

// survey describes the database here and the replica.
type survey struct {
	database   bool     // there is a database here
	mine       bool     // it is a copy of this replica
	begun      bool     // the replica had a generation once
	own        ltx.TXID // how far this machine got in replicating it
	found      bool     // the replica has a generation
	generation int64    // its newest generation
	last       ltx.TXID // the last transaction in that
}

func (r *Replica) survey(ctx context.Context) (survey, error) {
	s := survey{}
	var err error
	if s.database, err = exists(r.path); err != nil {
		return s, err
	}
	s.database = s.database && !r.local.Restoring && r.local.Aside == ""
	id := ""
	b, _, _, err := r.place.readOwner(ctx)
	switch {
	case err == nil:
		o, err := decodeOwner(b)
		if err != nil {
			return s, err
		}
		id, s.begun = o.Replica, o.Begun
	case !errors.Is(err, errNoOwner):
		return s, err
	}
	s.mine = r.local.Replica != "" && (r.local.Replica == id || (id == "" && r.local.URL == r.location.name))
	if s.generation, s.last, s.found, err = newest(ctx, r.place); err != nil {
		return s, err
	}
	if s.database {
		s.own, err = replicatedTo(r.path)
	}
	return s, err
}

// expect fails if the replica is empty, and writes nothing there, so that a mistyped path
// stays as it was.
func (r *Replica) expect(ctx context.Context) error {
	p, err := r.location.open(ctx, false)
	if err != nil {
		return err
	}
	_, _, found, err := newest(ctx, p)
	if err = errors.Join(err, p.close()); err == nil && !found {
		err = fmt.Errorf("%w, but it is expected: is the URL right?", ErrEmpty)
	}
	return err
}

// check finds the cases that an operator has to decide.
func (s survey) check(r *Replica) error {
	switch {
	case !s.found && s.mine && r.local.Replicated && !r.config.Adopt:
		return fmt.Errorf("%w, but %s was replicated there: is the URL right, or was it emptied? To start over there, start once with --adopt-database", ErrEmpty, r.path)
	case !s.found && s.begun && !(s.database && s.mine) && !r.config.Adopt:
		return fmt.Errorf("%w, but %s there says that there was: were its generations removed? Bring them back, or, to start over there, start once with --adopt-database", ErrEmpty, ownerName)
	case !s.found && s.database && r.doubt:
		return fmt.Errorf("%w: %s-wal is gone or was cut, and with it perhaps what was committed last: bring it back, or start once with --adopt-database if the database here is right", ErrUnknown, r.path)
	case s.found && s.database && !s.mine && !r.config.Adopt:
		return fmt.Errorf("%w: move %s away to have it restored from the replica, or start once with --adopt-database if it is right, or use another replica", ErrUnknown, r.path)
	}
	return nil
}

// merged notes that the WAL which a process left is in the database. SQLite removes it when it
// has copied it, as the database is closed. Until then its loss must be noticed: the database
// may not have been opened, or others have it open.
func (r *Replica) merged() error {
	if !r.local.Serving || r.doubt {
		return nil
	}
	if left, err := exists(r.path + "-wal"); err != nil || left && r.config.ReadEpoch != nil {
		return err
	}
	r.local.Serving = false
	return r.local.write(r.path)
}

// takeLease takes the lease. If this machine had it last with this database it keeps the
// epoch, so that the generation can go on.
func (r *Replica) takeLease(ctx context.Context) (before *owner, err error) {
	least := r.local.Epoch
	if r.config.ReadEpoch != nil && !r.local.Restoring && r.local.Aside == "" && !r.doubt {
		there, err := exists(r.path)
		if err != nil {
			return nil, err
		}
		if there {
			epoch, err := r.config.ReadEpoch(ctx, r.path)
			if err != nil {
				return nil, fmt.Errorf("read the database's epoch: %w", err)
			}
			least = max(least, epoch)
		}
	}
	if err := r.merged(); err != nil {
		return nil, err
	}
	all, err := r.place.generations(ctx)
	if err != nil {
		return nil, err
	}
	if len(all) > 0 {
		least = max(least, all[len(all)-1])
	}
	self := owner{Replica: r.local.Replica, Machine: r.config.Machine, Instance: randomID(), Owner: r.host()}
	if self.Replica == "" || r.local.URL != r.location.name {
		self.Replica = randomID()
	}
	return r.lease.take(ctx, self, func(before *owner) int64 {
		switch {
		case before == nil:
			return least + 1
		case r.wasOurs(before):
			return before.Epoch
		}
		return max(least, before.Epoch) + 1
	})
}

// wasOurs reports whether this machine was the last to hold the lease, for this database.
func (r *Replica) wasOurs(before *owner) bool {
	return before != nil && before.Machine == r.config.Machine && before.Replica == r.local.Replica && before.Epoch == r.local.Epoch
}

func (r *Replica) host() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("process %d on %s", os.Getpid(), host)
}

// settle decides whether the database here is the newest, and restores the newest if not.
func (r *Replica) settle(ctx context.Context, s survey, before *owner) error {
	if err := s.check(r); err != nil {
		return err
	}
	ours := r.wasOurs(before)
	begun := s.found && s.generation >= r.local.Epoch
	goesOn := ours && s.database && !r.config.Adopt && !r.doubt && !(r.local.Unstaged && begun) && (!begun || (s.generation == r.local.Epoch && s.own >= s.last))
	if ours && !goesOn {
		if err := r.lease.raise(ctx, max(before.Epoch, s.generation)+1); err != nil {
			return err
		}
	}
	r.lease.start()          // a restore can take longer than the lease
	if r.local.Aside != "" { // an earlier start died meanwhile
		if r.config.Adopt {
			r.log.Warn("the database is not adopted: an earlier start began to move it aside, which is gone on with", "to", r.local.Aside)
		}
		if err := r.finishAside(); err != nil {
			return err
		}
	}
	if r.doubt && s.database && s.found && s.generation == r.local.Epoch && !r.local.Unstaged {
		if err := r.bring(ctx, &s); err != nil {
			return fmt.Errorf("upload what was staged: %w", err)
		}
	}
	keeps := s.database && r.keeps(s, ours)
	if keeps && r.doubt && r.local.Cut {
		keeps = false // the number of its last event tells nothing of the rest
	}
	if keeps && r.doubt {
		var err error
		if keeps, err = r.isAhead(ctx, s); err != nil {
			return err
		}
	}
	switch {
	case goesOn && begun:
		r.log.Info("this machine held the lease on the replica last: going on", "epoch", r.local.Epoch)
		return nil
	case goesOn:
		return r.forget()
	case keeps:
		r.log.Info("the database goes on in a new generation of the replica", "epoch", r.Epoch())
		if r.asRestored(s) && !r.config.Adopt {
			return r.settled(r.local.Restored, r.local.RestoredTo)
		}
		return r.settled(0, 0)
	case s.found:
		return r.replaceDatabase(ctx, s)
	}
	r.log.Warn("nothing is on the replica: beginning with a new database")
	if err := moveAside(r.path, r.local.Epoch, time.Now()); err != nil { // half a restore, or a WAL without its database
		return err
	}
	return r.settled(0, 0)
}

// keeps reports whether the database here is at least as new as the replica.
func (r *Replica) keeps(s survey, ours bool) bool {
	switch {
	case r.config.Adopt, !s.found, ours:
		return true
	case s.generation != r.local.Epoch:
		// A process begins its generation before it serves. So if no generation is newer
		// than ours, no other process has served since.
		// But one that did not serve may have uploaded what it had staged.
		return s.generation < r.local.Epoch && (r.local.Restored == 0 || r.asRestored(s))
	}
	return r.local.Unstaged || s.own >= s.last // else the disk was put back to an earlier state
}

// asRestored reports whether the database was restored, never served, and has all that the
// replica has by now.
func (r *Replica) asRestored(s survey) bool {
	return r.local.Restored != 0 && s.generation == r.local.Restored && s.last <= r.local.RestoredTo
}

// isAhead reports whether the database here is whole and has events that the replica lacks. It
// opens the database in a way that leaves no trace.
func (r *Replica) isAhead(ctx context.Context, s survey) (bool, error) {
	if r.config.ReadSeq == nil {
		return false, nil
	}
	here, err := r.config.ReadSeq(ctx, r.path)
	if err != nil {
		r.log.Warn("the database cannot be read without its WAL, which is gone", "error", err)
		return false, nil
	}
	c, err := r.place.client(s.generation)
	if err != nil {
		return false, err
	}
	newest := r.path + ".newest"
	if err := os.RemoveAll(newest); err != nil { // left by a start that died here
		return false, err
	}
	if _, err := restore(ctx, c, newest, time.Time{}, litestream.IntegrityCheckNone, r.log); err != nil {
		return false, fmt.Errorf("restore generation %d to compare: %w", s.generation, err)
	}
	there, err := r.config.ReadSeq(ctx, newest)
	if err = errors.Join(err, os.Remove(newest)); err != nil || here <= there || r.config.Sound == nil {
		return here > there, err
	}
	if err := r.config.Sound(ctx, r.path); err != nil {
		if ctx.Err() != nil {
			return false, err
		}
		r.log.Warn("the database is a mixture of old and new without its WAL, which is gone", "error", err)
		return false, nil
	}
	return true, nil
}

// settled notes that the database belongs to the lease's epoch from now on, and that its
// generation is yet to begin. restored is the generation from which it was restored, and to the
// last transaction in that; 0 = it was not.
func (r *Replica) settled(restored int64, to ltx.TXID) error {
	o, _ := r.lease.current()
	r.local.Replica, r.local.URL, r.local.Epoch = o.Replica, r.location.name, o.Epoch
	r.local.Restored, r.local.RestoredTo = restored, to
	r.local.Replicated, r.local.Restoring, r.local.Serving, r.local.Unstaged, r.local.Cut, r.local.Staged = false, false, false, false, false, 0
	if err := r.local.write(r.path); err != nil {
		return err
	}
	return r.forget()
}

// forget deletes the stage, so that the new generation begins with a snapshot.
func (r *Replica) forget() error {
	if err := os.RemoveAll(litestreamPath(r.path)); err != nil {
		return fmt.Errorf("forget the last generation: %w", err)
	}
	return nil
}

// bring uploads what the stage has and the replica lacks, in the generation that the database
// had, for a database that lost its WAL: nothing else has that any more. Every staged file up
// to local.Staged was made while the WAL was whole; all of them, if the WAL was lost after the
// process had ended. No other process ever writes to that
// generation, and none has begun a newer one.
func (r *Replica) bring(ctx context.Context, s *survey) error {
	if r.unproven {
		return nil
	}
	last := s.own
	if r.local.Staged != 0 {
		last = min(last, r.local.Staged)
	}
	if last <= s.last {
		return nil
	}
	client, err := r.place.client(s.generation)
	if err != nil {
		return err
	}
	client.SetLogger(demoted(r.log))
	if err := client.Init(ctx); err != nil {
		return err
	}
	c, before := &guarded{ReplicaClient: client, allowed: r.Check}, s.last
	for s.last < last {
		err := r.bringFile(ctx, c, s.last+1)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errStaged) { // what comes after it is worth nothing
			r.log.Error("not all that was staged for the replica can be uploaded", "uploaded_to", s.last, "staged_to", last, "error", err)
			break
		}
		if err != nil {
			return err
		}
		s.last++
	}
	r.log.Info("what was staged for the replica is uploaded", "from", before, "to", s.last, "generation", s.generation)
	return nil
}

func (r *Replica) bringFile(ctx context.Context, c *guarded, id ltx.TXID) error {
	f, err := os.Open(litestream.LTXFilePath(litestreamPath(r.path), 0, id, id))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = c.WriteLTXFile(ctx, 0, id, id, f)
	return err
}

// beginAside notes that the database is to be moved aside, and where to.
func (r *Replica) beginAside() error {
	r.local.Aside, r.local.AsideStage = asideName(r.path, r.local.Epoch, time.Now()), r.doubt
	return r.local.write(r.path)
}

// asideMoves are the moves that finishAside makes.
func (r *Replica) asideMoves() []move {
	all := movesAside(r.path, r.local.Aside)
	if r.local.AsideStage {
		all = append(all, move{litestreamPath(r.path), litestreamPath(r.local.Aside)})
	}
	return all
}

// finishAside makes the moves that are not made yet, and notes that there is no database.
func (r *Replica) finishAside() error {
	if err := moveAll(r.asideMoves()); err != nil {
		return err
	}
	r.local.Restoring, r.local.Serving, r.local.Aside, r.local.AsideStage = true, false, "", false
	return r.local.write(r.path)
}

// replaceDatabase restores the newest generation in place of an older database.
func (r *Replica) replaceDatabase(ctx context.Context, s survey) error {
	if s.database {
		why := "the database is older than the replica: it is moved aside"
		switch {
		case r.local.Cut:
			why = "the database's WAL was cut: it is moved aside, with what was staged for the replica"
		case r.doubt:
			why = "the database's WAL is gone, and it has nothing that the replica has not: it is moved aside, with what was staged for the replica"
		}
		if err := r.beginAside(); err != nil {
			return err
		}
		r.log.Warn(why, "to", r.local.Aside, "epoch", r.local.Epoch, "staged", s.own, "generation", s.generation, "restored_to", s.last)
		if err := r.finishAside(); err != nil {
			return err
		}
	} else {
		r.local.Restoring, r.local.Serving = true, false
		if err := r.local.write(r.path); err != nil {
			return err
		}
		if err := moveAside(r.path, r.local.Epoch, time.Now()); err != nil {
			return err
		}
	}
	began := time.Now()
	c, err := r.place.client(s.generation)
	if err != nil {
		return err
	}
	last, err := restore(ctx, c, r.path, time.Time{}, litestream.IntegrityCheckQuick, r.log)
	if err != nil {
		return fmt.Errorf("restore generation %d: %w", s.generation, err)
	}
	r.log.Info("the database is restored from the replica", "generation", s.generation, "took", time.Since(began))
	return r.settled(s.generation, last.MaxTXID)
}
