package sqlite

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"parlor/rooms/lockfile"
)

// ErrLocked: another process has the database open.
var ErrLocked = errors.New("the database is in use")

// ErrOrphan: the database's file is missing, but its WAL with the last commits is there.
var ErrOrphan = errors.New("the database is missing")

// holder is the content of the lock file: the process that holds the lock, for people.
// The kernel's lock is what counts.
type holder struct {
	PID   int       `json:"pid"`
	Host  string    `json:"host"`
	Since time.Time `json:"since"`
}

// lockFile takes the lock on path, or fails with [ErrLocked] and the holder. Closing the
// file, or the end of the process, releases it. The file stays: after a removal two
// processes could lock two files of the same name.
func lockFile(path string) (*os.File, error) {
	f, err := lockfile.Open(path, 0o644)
	if err != nil {
		return nil, err
	}
	switch got, err := lockfile.Take(f); {
	case err != nil:
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	case !got:
		defer f.Close()
		return nil, fmt.Errorf("%w by %s", ErrLocked, readHolder(f))
	}
	if err := writeHolder(f); err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", path, err), f.Close())
	}
	return f, nil
}

// InUse reports whether a server has the database open. Meanwhile no server can open it.
func InUse(path string) bool {
	path, err := resolve(path)
	if err != nil {
		return false
	}
	if _, err := os.Lstat(path + ".lock"); err != nil {
		return false // no server has been here
	}
	f, err := lockfile.Open(path+".lock", 0o644)
	if err != nil {
		return false
	}
	defer f.Close()
	got, err := lockfile.Try(f)
	return err == nil && !got
}

func readHolder(f *os.File) string {
	var h holder
	if json.NewDecoder(io.LimitReader(f, 4096)).Decode(&h) != nil {
		return "another process, which " + f.Name() + " does not tell yet"
	}
	return fmt.Sprintf("process %d on %s since %s", h.PID, h.Host, h.Since.Format(time.RFC3339))
}

func writeHolder(f *os.File) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	b, err := json.Marshal(holder{PID: os.Getpid(), Host: host, Since: time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(append(b, '\n'), 0)
	return err
}
