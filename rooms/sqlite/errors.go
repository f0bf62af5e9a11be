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

// reason says in plain words what is wrong with the database at path.
func reason(path string, err error) string {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return err.Error()
	}
	what := ""
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
	default:
		return fmt.Sprintf("%s: %v", path, err)
	}
	return fmt.Sprintf("%s: %s (%v)", path, what, err)
}

// writeFailure is the error for callers whose writes the database refused.
func writeFailure(path string, err error) *rooms.Error {
	return rooms.Errorf(rooms.Unavailable, "the database cannot be written: %s", reason(path, err))
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
	return rooms.Errorf(rooms.Unavailable, "the database cannot be read: %s", reason(path, err))
}
