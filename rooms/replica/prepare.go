package replica

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/superfly/ltx"
)

// ErrEmpty: nothing is on the replica, where something was expected.
var ErrEmpty = errors.New("there is nothing on the replica")

// ErrUnknown: it cannot be told whether the database or the replica is newer.
var ErrUnknown = errors.New("the database is not known to be a copy of what is on the replica")

// Prepare takes the lease and sees to it that the database at path, an absolute
// one, is the newest: it restores it where that is needed. It fails, and changes
// nothing, with a [HeldError] when another process holds the lease, [ErrEmpty]
// when the replica is empty and should not be, and [ErrUnknown] when it cannot
// tell what is newer.
//
// Nobody else may have the database open or prepare it meanwhile. The lease is
// held when Prepare succeeded, until Close.
func (r *Replica) Prepare(ctx context.Context, path string) error {
	if r.place != nil {
		return errors.New("the replica is prepared already")
	}
	r.path = path
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
	if r.doubt, err = r.local.lostWAL(r.path); err != nil {
		return err
	}
	r.doubt = r.doubt && !r.config.Adopt
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
	if err := here.check(r); err != nil { // before the lease, which leaves a trace
		return err
	}
	before, err := r.takeLease(ctx)
	if err != nil {
		return err
	}
	if here, err = r.survey(ctx); err != nil { // it may have changed until the lease was ours
		return err
	}
	if err := r.settle(ctx, here, before); err != nil {
		return err
	}
	return r.Check()
}

// abandon gives up what prepare took.
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

// survey is what there is, here and on the replica.
type survey struct {
	database   bool     // there is one here
	mine       bool     // which was a copy of this replica
	begun      bool     // something was on the replica once
	own        ltx.TXID // how far this machine got in replicating it
	found      bool     // something is on the replica
	generation int64    // the newest one there
	last       ltx.TXID // and how far it goes
}

func (r *Replica) survey(ctx context.Context) (survey, error) {
	s := survey{}
	var err error
	if s.database, err = exists(r.path); err != nil {
		return s, err
	}
	s.database = s.database && !r.local.Restoring
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

// expect fails if nothing is on the replica, and leaves nothing there: a mistyped
// path is to stay what it was.
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

// check finds what an operator has to decide.
func (s survey) check(r *Replica) error {
	switch {
	case !s.found && s.mine && r.local.Replicated && !r.config.Adopt:
		return fmt.Errorf("%w, but %s was replicated there: is the URL right, or was it emptied? To begin anew there, start once with --adopt-database", ErrEmpty, r.path)
	case !s.found && s.begun && !(s.database && s.mine) && !r.config.Adopt:
		return fmt.Errorf("%w, but %s there says that there was: were its generations removed? Bring them back, or, to begin anew there, start once with --adopt-database", ErrEmpty, ownerName)
	case !s.found && s.database && r.doubt:
		return fmt.Errorf("%w: %s-wal is gone, and with it perhaps what was committed last: bring it back, or start once with --adopt-database if the database here is right", ErrUnknown, r.path)
	case s.found && s.database && !s.mine && !r.config.Adopt:
		return fmt.Errorf("%w: move %s away to have it restored from the replica, or start once with --adopt-database if it is right, or use another replica", ErrUnknown, r.path)
	}
	return nil
}

// takeLease takes the lease, with the epoch that it had if this machine had it
// last with this database, so that the generation can go on.
func (r *Replica) takeLease(ctx context.Context) (before *owner, err error) {
	least := r.local.Epoch
	if r.local.Serving && !r.doubt { // before the database is opened: closing it removes its WAL
		r.local.Serving = false
		if err := r.local.write(r.path); err != nil {
			return nil, err
		}
	}
	if r.config.ReadEpoch != nil && !r.local.Restoring && !r.doubt {
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

// wasOurs reports whether nobody had the lease since this machine had it, for the
// database that is here.
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

// settle decides whether the database here is the newest, and makes it so.
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
	r.lease.start() // a restore can take longer than the lease
	keeps := s.database && r.keeps(s, ours)
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
		return r.settled(true)
	case s.found:
		return r.replaceDatabase(ctx, s)
	}
	r.log.Warn("nothing is on the replica: beginning with a new database")
	if _, err := moveAside(r.path, r.local.Epoch, time.Now()); err != nil { // half a restore, or a WAL without its database
		return err
	}
	return r.settled(false)
}

// keeps reports whether the database here is at least as new as the replica.
func (r *Replica) keeps(s survey, ours bool) bool {
	switch {
	case r.config.Adopt, !s.found, ours:
		return true
	case s.generation != r.local.Epoch:
		// A process begins its generation before it serves. So if there is none
		// after ours, none served after us.
		return s.generation < r.local.Epoch
	}
	return r.local.Unstaged || s.own >= s.last // else it is an old image of the disk
}

// isAhead reports whether the database here has events that the replica has not.
// Nothing opens it for that in a way that would leave a trace.
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
	if err := os.RemoveAll(newest); err != nil { // of a start that died here
		return false, err
	}
	if _, err := restore(ctx, c, newest, time.Time{}, litestream.IntegrityCheckNone, r.log); err != nil {
		return false, fmt.Errorf("restore generation %d to compare: %w", s.generation, err)
	}
	there, err := r.config.ReadSeq(ctx, newest)
	return here > there, errors.Join(err, os.Remove(newest))
}

// settled notes that the database here is of the lease's epoch from now on, and
// that its generation is yet to begin.
func (r *Replica) settled(there bool) error {
	o, _ := r.lease.current()
	r.local.Replica, r.local.URL, r.local.Epoch = o.Replica, r.location.name, o.Epoch
	r.local.Replicated, r.local.Restoring, r.local.Serving, r.local.Unstaged = false, false, false, false
	if err := r.local.write(r.path); err != nil {
		return err
	}
	return r.forget()
}

// forget removes what Litestream keeps here of another generation, so that the
// new one begins with a snapshot.
func (r *Replica) forget() error {
	if err := os.RemoveAll(litestreamPath(r.path)); err != nil {
		return fmt.Errorf("forget the last generation: %w", err)
	}
	return nil
}

// replaceDatabase restores the newest generation, over a database that is older.
func (r *Replica) replaceDatabase(ctx context.Context, s survey) error {
	before := r.local
	r.local.Restoring, r.local.Serving = true, false
	aside := ""
	var err error
	if s.database {
		// Until it is out of the way it is whole, and no half restore.
		if aside, err = moveAside(r.path, before.Epoch, time.Now()); err != nil {
			return err
		}
		why := "the database is older than the replica: it was moved aside"
		if r.doubt {
			why = "the database's WAL is gone, and it has nothing that the replica has not: it was moved aside"
		}
		r.log.Warn(why, "to", aside, "epoch", before.Epoch, "generation", s.generation)
	}
	if err := r.local.write(r.path); err != nil {
		return err
	}
	if !s.database {
		if _, err := moveAside(r.path, before.Epoch, time.Now()); err != nil {
			return err
		}
	}
	began := time.Now()
	c, err := r.place.client(s.generation)
	if err != nil {
		return err
	}
	if _, err := restore(ctx, c, r.path, time.Time{}, litestream.IntegrityCheckQuick, r.log); err != nil {
		return fmt.Errorf("restore generation %d: %w", s.generation, err)
	}
	r.log.Info("the database is restored from the replica", "generation", s.generation, "took", time.Since(began))
	return r.settled(true)
}
