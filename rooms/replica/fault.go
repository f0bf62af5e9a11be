package replica

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/benbjohnson/litestream"
)

// Stage is a step of a write on its way to the replica.
type Stage string

// The stages, in the order of that way.
const (
	StageLocal      Stage = "local"      // from the WAL into the folder beside the database
	StageGeneration Stage = "generation" // a new generation is begun, after the last one could not go on
	StageUpload     Stage = "upload"     // from that folder to the replica
	StageCheck      Stage = "check"      // the uploaded files are looked for, without a gap
	StageMerge      Stage = "merge"      // files there are merged and old ones deleted; no write waits for it
)

// Stages lists every stage, in the order of the way.
func Stages() []Stage {
	return []Stage{StageLocal, StageGeneration, StageUpload, StageCheck, StageMerge}
}

// Fault is the state of a stage.
type Fault struct {
	Stage    Stage
	Error    string    // of the last try; "" = it succeeded
	Since    time.Time // when the present failures began; zero = none
	Failures uint64    // since the start
}

// trouble is the record of one stage.
type trouble struct {
	err      error
	since    time.Time
	row      int // failures in a row
	failures uint64
}

// faults is the record of all stages. It may be used concurrently.
type faults struct {
	mu sync.Mutex // guards m
	m  map[Stage]*trouble
}

func newFaults() *faults {
	f := &faults{m: make(map[Stage]*trouble)}
	for _, s := range Stages() {
		f.m[s] = &trouble{}
	}
	return f
}

// note records the outcome of a try. began reports the first failure, ended the first
// success after a failure.
func (f *faults) note(s Stage, err error) (began, ended bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.m[s]
	failing := t.err != nil
	t.err = err
	if err == nil {
		t.row, t.since = 0, time.Time{}
		return false, failing
	}
	t.row++
	t.failures++
	if !failing {
		t.since = time.Now()
	}
	return !failing, false
}

// last returns how many tries of s have failed in a row, and the last error.
func (f *faults) last(s Stage) (failures int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.m[s].row, f.m[s].err
}

// all returns the record as of now.
func (f *faults) all() []Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []Fault
	for _, s := range Stages() {
		t := f.m[s]
		fault := Fault{Stage: s, Since: t.since, Failures: t.failures}
		if t.err != nil {
			fault.Error = t.err.Error()
		}
		all = append(all, fault)
	}
	return all
}

// persistent is the number of failures in a row after which a generation that cannot go
// on is replaced by a new one.
const persistent = 3

var (
	// errWAL: a new generation does not help, because SQLite itself writes to a file that
	// nobody else can open any more.
	errWAL = errors.New("the database's -wal file was removed or replaced while the server runs: stop the server in order (SIGTERM), which writes what it holds into the database, and start it again")
	// errCut: a new generation would have what is left of the database.
	errCut = errors.New("the database's -wal file was cut or overwritten while the server runs, and what it held may be lost here: nothing is written any more. Stop the server and start it again, which restores the database from the replica")
	// errStaged: a file in the folder beside the database is damaged.
	errStaged = errors.New("what is staged for the replica is damaged")
	// errAstray: the folder beside the database and the replica do not belong together.
	errAstray = errors.New("the folder beside the database does not continue what is on the replica")
	// errGap: the replica has lost uploaded files.
	errGap = errors.New("the replica does not have what was uploaded to it")
)

// hopeless reports whether the generation cannot go on: s failed several times for a
// reason that does not go away.
func (f *faults) hopeless(s Stage) bool {
	row, err := f.last(s)
	return row >= persistent && incurable(s, err)
}

// incurable reports whether s failed for a reason that does not go away with time, with
// room on the disk, or with the replica's return.
func incurable(s Stage, err error) bool {
	switch {
	case err == nil:
		return false
	case s == StageLocal:
		return !isWAL(err) && !errors.Is(err, errWALChanges) && !isFull(err) && !isForbidden(err)
	case s == StageUpload:
		var local *litestream.LTXError
		return errors.As(err, &local) || errors.Is(err, errStaged) || errors.Is(err, errAstray)
	case s == StageCheck:
		return errors.Is(err, errGap)
	case s == StageMerge:
		return isGap(err)
	}
	return false
}

// isWAL reports whether somebody else changed the WAL.
func isWAL(err error) bool { return errors.Is(err, errWAL) || errors.Is(err, errCut) }

// isGap reports whether Litestream failed because a file of the series is missing.
func isGap(err error) bool { return err != nil && strings.Contains(err.Error(), "non-contiguous") }

// isFull reports whether a disk, a quota or the process's limit is full.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) || errors.Is(err, litestream.ErrDiskFull)
}

// isForbidden reports whether a file or folder cannot be used because of its permissions
// or type.
func isForbidden(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}

// explain adds to a failure in the folder beside the database what a person has to do.
func explain(err error, folder string) error {
	switch {
	case err == nil:
		return nil
	case isFull(err):
		return fmt.Errorf("%w: make room for %s, replication goes on by itself then", err, folder)
	case isForbidden(err):
		return fmt.Errorf("%w: make %s a folder that the server can write, replication goes on by itself then", err, folder)
	}
	return err
}
