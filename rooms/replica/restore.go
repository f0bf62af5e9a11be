package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/superfly/ltx"
)

// RestoreConfig tells what [Restore] restores.
type RestoreConfig struct {
	URL string    // as in Config
	To  string    // the file to make; neither it nor its -wal, -shm or -journal must exist
	At  time.Time // restore the state of that time; zero = the newest
	Log *slog.Logger
}

// Restored describes what [Restore] restored.
type Restored struct {
	Generation int64     // the newest that had begun at the requested time
	At         time.Time // when its newest write was staged
}

// Restore makes a database from a replica, and checks all of it. It takes no lease and
// changes nothing on the replica, which may be in use.
func Restore(ctx context.Context, c RestoreConfig) (Restored, error) {
	l, err := parse(c.URL)
	if err != nil {
		return Restored{}, err
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	dropCABundle(l, c.Log)
	if err := checkTarget(c.To); err != nil {
		return Restored{}, fmt.Errorf("restore to %s: %w", c.To, err)
	}
	p, err := l.open(ctx, false)
	if err != nil {
		return Restored{}, fmt.Errorf("replica %s: %w", l.name, err)
	}
	n, err := restoreFrom(ctx, p, c)
	if err = errors.Join(err, p.close()); err != nil {
		return Restored{}, fmt.Errorf("restore from replica %s: %w", l.name, err)
	}
	return n, nil
}

// checkTarget fails if a file is where the database is to be made. SQLite would apply a
// WAL or journal that another database left there.
func checkTarget(to string) error {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		_, err := os.Lstat(to + suffix)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case suffix == "":
			return os.ErrExist
		default:
			return fmt.Errorf("%w: %s is left of another database: move it away", os.ErrExist, to+suffix)
		}
	}
	return nil
}

func restoreFrom(ctx context.Context, p place, c RestoreConfig) (Restored, error) {
	all, err := p.generations(ctx)
	if err != nil {
		return Restored{}, err
	}
	for _, n := range slices.Backward(append([]int64{0}, all...)) {
		client, err := p.client(n)
		if err != nil {
			return Restored{}, err
		}
		last, err := restore(ctx, client, c.To, c.At, litestream.IntegrityCheckFull, c.Log)
		switch {
		case err == nil:
			return Restored{n, last.CreatedAt}, nil
		case isNothing(err):
		default:
			return Restored{}, fmt.Errorf("generation %d: %w", n, err)
		}
	}
	if !c.At.IsZero() && len(all) > 0 {
		return Restored{}, fmt.Errorf("%w that is as old as %s", ErrEmpty, c.At.Format(time.RFC3339))
	}
	return Restored{}, ErrEmpty
}

// isNothing reports whether a restore failed because there is nothing to restore.
func isNothing(err error) bool {
	return errors.Is(err, litestream.ErrTxNotAvailable) || errors.Is(err, litestream.ErrNoSnapshots)
}

// restore makes the file to from a generation. The file gets its name when it is
// complete. It returns the newest of the staged files that it was made of.
func restore(ctx context.Context, c litestream.ReplicaClient, to string, at time.Time, check litestream.IntegrityCheckMode, log *slog.Logger) (*ltx.FileInfo, error) {
	log = demoted(log)
	c = &guarded{ReplicaClient: c, allowed: func() error { return errors.New("a restore does not write") }}
	c.SetLogger(log)
	if err := c.Init(ctx); err != nil {
		return nil, err
	}
	plan, err := litestream.CalcRestorePlan(ctx, c, 0, at, log)
	if err != nil {
		return nil, err
	}
	o := litestream.NewRestoreOptions()
	o.OutputPath, o.Timestamp, o.IntegrityCheck = to, at, check
	db := litestream.NewDB(to) // for its logger alone: without one Litestream uses the process's
	db.SetLogger(log)
	if err := errors.Join(litestream.NewReplicaWithClient(db, c).Restore(ctx, o), db.Close(ctx)); err != nil {
		return nil, err
	}
	return plan[len(plan)-1], nil // an empty plan is an error
}
