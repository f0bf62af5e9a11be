package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"parlor/rooms"
	"parlor/rooms/log"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

// isRefusal reports whether err is a job's answer to its caller and not a failure of the
// database.
func isRefusal(err error) bool {
	if _, ok := errors.AsType[*rooms.Error](err); ok {
		return true
	}
	return errors.Is(err, log.ErrNoEndpoint) || isContext(err)
}

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// isOwnFault reports whether the statement itself caused a failure of the database, so
// that other jobs can succeed. Other failures are of the disk, the file or the
// connection.
func isOwnFault(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return !errors.Is(err, driver.ErrBadConn) && !errors.Is(err, sql.ErrConnDone)
	}
	switch e.Code() & 0xff {
	case lib.SQLITE_CONSTRAINT, lib.SQLITE_MISMATCH, lib.SQLITE_TOOBIG, lib.SQLITE_RANGE, lib.SQLITE_ERROR:
		return true
	}
	return false
}

// reason says in plain words what is wrong with the database at path, and where, to the
// operator.
func reason(path string, err error) string {
	if _, ok := errors.AsType[*sqlite.Error](err); !ok {
		return err.Error()
	}
	return fmt.Sprintf("%s: %s (%v)", path, fault(err), err)
}

// fault is reason without what is of the machine, for callers of the API.
func fault(err error) string {
	what := "it does not work at the moment"
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return what
	}
	switch e.Code() & 0xff {
	case lib.SQLITE_FULL:
		what = "the disk is full"
	case lib.SQLITE_IOERR:
		what = "the disk failed"
	case lib.SQLITE_READONLY, lib.SQLITE_PERM, lib.SQLITE_AUTH:
		what = "it is read-only, or its directory is"
	case lib.SQLITE_CANTOPEN:
		what = "it cannot be opened"
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED:
		what = "another process holds SQLite's lock"
	case lib.SQLITE_NOTADB:
		what = "it is not an SQLite database, or its beginning is damaged: restore it from a replica or a backup"
	case lib.SQLITE_CORRUPT:
		what = "it is damaged: restore it from a replica or a backup"
	}
	return what
}

// readFailure is the error for callers whose reads failed. An error of the caller's own
// context is returned unchanged.
func readFailure(path string, err error) error {
	if isRefusal(err) {
		return err
	}
	if isOwnFault(err) {
		return fmt.Errorf("read database %s: %w", path, err)
	}
	return rooms.Errorf(rooms.Unavailable, "the database cannot be read: %s", fault(err))
}
