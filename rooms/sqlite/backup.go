package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"parlor/migrations"
	"parlor/rooms/lockfile"

	"modernc.org/sqlite"
)

// ErrExists: a backup does not replace an existing file.
var ErrExists = errors.New("there is a file of that name")

// keptBackups is how many copies from before migrations are kept.
const keptBackups = 3

// Backup is a copy of a database.
type Backup struct {
	Bytes    int64
	Version  int   // of its schema
	EventSeq int64 // of its newest event
	Live     bool  // a server had the database open
}

// BackUp copies the database at from, as of one moment, into a new file that only its
// owner may read. A server may have the database open meanwhile. It fails with
// [ErrExists] if the file exists. It checks the copy: a copy that is damaged, or that
// this program could not open, is an error. After an error there is no file.
func BackUp(ctx context.Context, from, to string) (Backup, error) {
	path, err := resolve(from)
	if err != nil {
		return Backup{}, fmt.Errorf("back up database %s: %w", from, err)
	}
	if to, err = filepath.Abs(to); err != nil {
		return Backup{}, fmt.Errorf("back up database %s: %w", from, err)
	}
	b, err := backUp(ctx, path, to)
	if err != nil {
		return b, fmt.Errorf("back up database %w", causeOf(path, err))
	}
	return b, nil
}

// BackUp copies the database of the running store into a new file, as [BackUp] does.
func (s *Store) BackUp(ctx context.Context, to string) (b Backup, err error) {
	q := url.Values{"_error_rc": {"true"}, "_dqs": {"false"}, "_pragma": {"busy_timeout(5000)"}, "mode": {"ro"}}
	source := &source{}
	if source.db, err = sql.Open("sqlite", (&url.URL{Scheme: "file", Path: s.path, RawQuery: q.Encode()}).String()); err != nil {
		return b, fmt.Errorf("back up database %s: %w", s.path, err)
	}
	source.db.SetMaxOpenConns(1)
	b, err = source.copyTo(ctx, to, "integrity_check", os.Link)
	if err = errors.Join(err, source.close()); err != nil {
		return b, fmt.Errorf("back up database %w", causeOf(s.path, err))
	}
	b.Live = true
	return b, nil
}

// causeOf is err, with a database error in plain words.
func causeOf(path string, err error) error {
	if _, ok := errors.AsType[*sqlite.Error](err); ok {
		return errors.New(reason(path, err))
	}
	return fmt.Errorf("%s: %w", path, err)
}

func backUp(ctx context.Context, path, to string) (b Backup, err error) {
	size, err := fileSize(path)
	switch {
	case err != nil:
		return b, err
	case size == 0:
		return b, errors.New("there is no database")
	}
	if _, err := os.Lstat(to); err == nil {
		return b, fmt.Errorf("%s: %w: choose another", to, ErrExists)
	}
	source, err := openSource(path, to)
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, source.close()) }()
	b, err = source.copyTo(ctx, to, "integrity_check", os.Link)
	b.Live = source.lock == nil
	return b, err
}

// source is a database to copy from.
type source struct {
	db   *sql.DB
	lock *os.File // nil = a server has the database open
	temp string   // folder to remove; "" = none
}

// openSource opens a database for reading. If no server has it open, it holds the lock
// and leaves the WAL of a server that died alone: SQLite would merge that WAL into the
// database, and replication would miss it.
func openSource(path, to string) (*source, error) {
	s := &source{}
	read := path
	q := url.Values{"_error_rc": {"true"}, "_dqs": {"false"}, "_pragma": {"busy_timeout(5000)"}, "mode": {"ro"}}
	var err error
	s.lock, err = lockAsOwner(path)
	switch {
	case errors.Is(err, ErrLocked):
	case err != nil:
		return nil, err
	default:
		wal, err := fileSize(path + "-wal")
		if err == nil && wal > 0 {
			read, err = s.duplicate(path, to)
			q.Del("mode") // so that SQLite can merge the WAL into the duplicate
		} else {
			q.Set("immutable", "1")
		}
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	if s.db, err = sql.Open("sqlite", (&url.URL{Scheme: "file", Path: read, RawQuery: q.Encode()}).String()); err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.db.SetMaxOpenConns(1)
	return s, nil
}

// lockAsOwner takes the lock. A lock file that it makes gets the owner of the database,
// whose server must be able to open it.
func lockAsOwner(path string) (*os.File, error) {
	lock := path + ".lock"
	_, err := os.Lstat(lock)
	made := errors.Is(err, fs.ErrNotExist)
	f, err := lockFile(lock)
	if err != nil || !made {
		return f, err
	}
	if err := lockfile.Chown(f, path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// duplicate copies the database and its WAL into a folder beside to.
func (s *source) duplicate(path, to string) (string, error) {
	var err error
	if s.temp, err = os.MkdirTemp(filepath.Dir(to), "."+filepath.Base(to)+".*.source"); err != nil {
		return "", err
	}
	read := filepath.Join(s.temp, "database")
	return read, errors.Join(copyFile(path, read), copyFile(path+"-wal", read+"-wal"))
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func (s *source) close() (err error) {
	if s.db != nil {
		err = s.db.Close()
	}
	if s.temp != "" {
		err = errors.Join(err, os.RemoveAll(s.temp))
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	return err
}

// copyTo writes the copy under a temporary name, checks it with that pragma, and calls
// place: [os.Rename], or [os.Link] if an existing file must stay.
func (s *source) copyTo(ctx context.Context, to, pragma string, place func(from, to string) error) (b Backup, err error) {
	f, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+".*.new") // only its owner may read it
	if err != nil {
		return b, err
	}
	defer func() {
		if e := os.Remove(f.Name()); e != nil && !errors.Is(e, fs.ErrNotExist) { // it was renamed
			err = errors.Join(err, e)
		}
	}()
	defer f.Close()
	if _, err := s.db.ExecContext(ctx, "VACUUM INTO ?", f.Name()); err != nil {
		return b, err
	}
	if b, err = checkBackup(ctx, f.Name(), pragma); err != nil {
		return b, err
	}
	if err := f.Sync(); err != nil {
		return b, err
	}
	if err := place(f.Name(), to); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("%s: %w: choose another", to, ErrExists)
		}
		return b, err
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return b, err
	}
	return b, errors.Join(dir.Sync(), dir.Close())
}

// RemoveUnfinished removes what a crash has left of copies beside the database. No copy may
// be in the making.
func (s *Store) RemoveUnfinished() error { return removeUnfinished(s.path) }

// removeUnfinished is [Store.RemoveUnfinished] for the holder of the lock. It removes only
// what copyTo names for copies that this program has named itself.
func removeUnfinished(path string) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("look for unfinished copies of the database: %w", err)
	}
	name := regexp.MustCompile(`^\.` + regexp.QuoteMeta(filepath.Base(path)) + `\.([0-9]{8}T[0-9]{6}Z|v[0-9]+)\.backup\.[0-9]+\.new$`)
	for _, e := range entries {
		if !e.Type().IsRegular() || !name.MatchString(e.Name()) {
			continue
		}
		if err := os.Remove(filepath.Join(filepath.Dir(path), e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove an unfinished copy of the database: %w", err)
		}
	}
	return nil
}

// checkBackup reports whether a copy is complete and has a schema that this program
// knows.
func checkBackup(ctx context.Context, path, pragma string) (b Backup, err error) {
	q := url.Values{"mode": {"ro"}, "immutable": {"1"}, "_error_rc": {"true"}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String())
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var verdict string
	if err := db.QueryRowContext(ctx, "SELECT * FROM pragma_"+pragma+" LIMIT 1").Scan(&verdict); err != nil {
		return b, err
	}
	if verdict != "ok" {
		return b, fmt.Errorf("the database is damaged: %s: restore it from a replica or a backup", verdict)
	}
	if b.Version, _, err = migrations.Version(ctx, db); err != nil {
		return b, err
	}
	if err := db.QueryRowContext(ctx, "SELECT coalesce(max(event_seq), 0) FROM meta").Scan(&b.EventSeq); err != nil {
		return b, err
	}
	b.Bytes, err = fileSize(path)
	return b, err
}

// keepBeforeMigration keeps a copy of an older version's database beside it, so that the
// program that wrote it can still open it. If that fails nothing is migrated.
func (s *Store) keepBeforeMigration(ctx context.Context, log *slog.Logger) error {
	version, known, err := migrations.Version(ctx, s.write)
	if err != nil || version == 0 || version == known {
		return nil // Apply reports what is wrong
	}
	to := backupName(s.path, version)
	source := &source{db: s.write} // the caller closes s.write
	b, err := source.copyTo(ctx, to, "quick_check", os.Rename)
	if err != nil {
		return fmt.Errorf("keep a copy of database %s in %s before it is migrated to version %d; the program before still opens it: %w",
			s.path, to, known, causeOf(s.path, err))
	}
	log.Warn("the database is of an older version: a copy was kept, and it is migrated", "database", s.path,
		"version", version, "to", known, "copy", to, "bytes", b.Bytes)
	return forgetBackups(s.path, log)
}

// backupName is the name of the copy of a database of that version.
func backupName(path string, version int) string {
	return fmt.Sprintf("%s.v%d.backup", path, version)
}

// forgetBackups removes all but the newest copies from before migrations.
func forgetBackups(path string, log *slog.Logger) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("look for old copies of the database: %w", err)
	}
	var versions []int
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+".v")
		number, backup := strings.CutSuffix(number, ".backup")
		if n, err := strconv.Atoi(number); ok && backup && err == nil && n > 0 {
			versions = append(versions, n)
		}
	}
	slices.Sort(versions)
	for len(versions) > keptBackups {
		old := backupName(path, versions[0])
		if err := os.Remove(old); err != nil {
			return fmt.Errorf("remove an old copy of the database: %w", err)
		}
		log.Info("an old copy of the database was removed", "copy", old)
		versions = versions[1:]
	}
	return nil
}
