package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"parlor/migrations"
	"parlor/rooms"
	"parlor/rooms/guid"
	"parlor/rooms/log"

	"modernc.org/sqlite"
)

// readers is the number of connections that read. Reads are short, so a few serve many;
// each keeps its own page cache.
const readers = 4

// Config tells how a [Store] is opened.
type Config struct {
	// Path is the database's file. It is created if missing; its folder must exist.
	Path string
	Log  *slog.Logger // nil = none
	// Prepare, if given, is called after the lock is taken and before the database is
	// opened: it may restore the database from a replica.
	Prepare func(ctx context.Context, path string) error
	// Allow, if given, is called before every transaction. If it fails, the transaction
	// fails with its error and nothing is written: another machine may serve the rooms.
	Allow func() error
	// Committed, if given, is called by the writer right after each commit. It must not
	// wait.
	Committed func()
	// Sync, if given, is called by the writer between transactions: at most once per
	// SyncInterval while there are commits that it has not seen, and once more when the
	// store closes. It takes over the checkpointing of the WAL.
	Sync func(context.Context) error
	// SyncInterval is 250 ms by default.
	SyncInterval time.Duration
}

// Store keeps rooms, sessions and events in an SQLite database. Its methods may
// be called concurrently.
type Store struct {
	path   string
	lock   *os.File
	write  *sql.DB // used by the writer alone
	read   *sql.DB
	writer *writer
	watch  *watchers
	unread unread
	damage *damage

	mu         sync.Mutex           // guards statements
	statements map[string]*sql.Stmt // of the readers; nil once closed

	closing sync.Once
	closed  error
}

var (
	_ rooms.Store      = (*Store)(nil)
	_ log.Outbox       = (*Store)(nil)
	_ log.Starts       = (*Store)(nil)
	_ rooms.History    = (*Store)(nil)
	_ rooms.Moderation = (*Store)(nil)
	_ rooms.Hours      = (*Store)(nil)
	_ rooms.ClockStore = (*Store)(nil)

	_ rooms.DispatchRecords = (*Store)(nil)
	_ rooms.AgentKinds      = (*Store)(nil)
)

// Open opens the database, brings its schema up to date and starts the writer. It fails
// with [ErrLocked] if another process has the database open, [ErrOrphan] if there is a
// WAL without its database, [migrations.ErrNewer] if a newer Parlor wrote it,
// [migrations.ErrForeign] if another program did, and with the reason if it cannot be
// written.
func Open(ctx context.Context, c Config) (*Store, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.SyncInterval == 0 {
		c.SyncInterval = 250 * time.Millisecond
	}
	path, err := resolve(c.Path)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", c.Path, err)
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	s, err := prepareAndOpen(ctx, path, c)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	s.lock = lock
	return s, nil
}

func prepareAndOpen(ctx context.Context, path string, c Config) (*Store, error) {
	if err := removeUnfinished(path); err != nil {
		c.Log.Warn("what a crash has left beside the database stays", "error", err)
	}
	if c.Prepare != nil {
		if err := c.Prepare(ctx, path); err != nil {
			return nil, fmt.Errorf("prepare database %s: %w", path, err)
		}
	}
	fresh, err := isNew(path)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	// SQLite itself uses fdatasync where it is built on Linux: nobody reads the file's
	// times, which fsync would write too. The switch is for the whole process.
	if _, err := sqlite.Fdatasync(true); err != nil && !errors.Is(err, sqlite.ErrFdatasyncUnavailable) {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	s, err := open(ctx, path, c)
	if err == nil && fresh {
		c.Log.Warn("there was no database, and a new one was made", "database", path)
	}
	return s, err
}

// isNew reports whether there is no database yet. It fails if there is a WAL without its
// database: SQLite would delete that WAL, and with it the commits in it.
func isNew(path string) (bool, error) {
	size, err := fileSize(path)
	if err != nil || size > 0 { // SQLite makes an empty file before it writes
		return false, err
	}
	wal, err := fileSize(path + "-wal")
	if err == nil && wal > 0 {
		err = fmt.Errorf("%w, %s-wal is not: put the database back that it belongs to, or, to begin with a new one, move it away", ErrOrphan, path)
	}
	return true, err
}

// fileSize is the size of a file; 0 if it does not exist.
func fileSize(path string) (int64, error) {
	fi, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// resolve makes path absolute and follows links, so that two names of a file share one
// lock. It makes no folder: if there is none, the path is misspelt or its disk is not
// mounted, and a new database would hide the old one.
func resolve(path string) (string, error) {
	if path == "" {
		return "", errors.New("no path given")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("there is no folder %s: make it, or mend the path", filepath.Dir(path))
		}
		return filepath.Join(dir, filepath.Base(path)), err
	}
	return target, err
}

func open(ctx context.Context, path string, c Config) (*Store, error) {
	s := &Store{path: path, watch: newWatchers(), damage: newDamage(c.Log), statements: make(map[string]*sql.Stmt)}
	var err error
	if s.write, err = sql.Open("sqlite", writeDSN(path, c.Sync != nil)); err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	s.write.SetMaxOpenConns(1)
	if s.read, err = sql.Open("sqlite", readDSN(path)); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, err), s.write.Close())
	}
	s.read.SetMaxOpenConns(readers)
	s.read.SetMaxIdleConns(readers)
	if err := s.start(ctx, c); err != nil {
		return nil, errors.Join(err, s.read.Close(), s.write.Close())
	}
	return s, nil
}

// start migrates the schema and starts the writer's goroutine, which Close stops.
func (s *Store) start(ctx context.Context, c Config) error {
	if err := s.keepBeforeMigration(ctx, c.Log); err != nil {
		return err
	}
	if err := migrations.Apply(ctx, s.write); err != nil {
		if errors.Is(err, migrations.ErrNewer) || errors.Is(err, migrations.ErrForeign) || isContext(err) {
			return fmt.Errorf("open database %s: %w", s.path, err)
		}
		return fmt.Errorf("open database %s", reason(s.path, err))
	}
	if err := s.found(ctx); err != nil {
		return fmt.Errorf("open database %s", reason(s.path, err))
	}
	s.writer = newWriter(s.path, &writeConn{db: s.write}, s.watch, s.damage, c)
	if err := s.writer.load(); err != nil {
		return errors.Join(fmt.Errorf("open database %s", reason(s.path, err)), s.writer.conn.close())
	}
	go s.writer.run()
	return nil
}

// found makes the row of facts in a new database. In an old one it writes too, so that a
// database that cannot be written fails now.
func (s *Store) found(ctx context.Context) error {
	_, err := s.write.ExecContext(ctx, `INSERT INTO meta (id, database_id, created_ms) VALUES (1, ?, ?)
		ON CONFLICT (id) DO UPDATE SET epoch = epoch`, guid.New("DB_"), rooms.NowMs(time.Now()))
	return err
}

// ReadEpoch reads the epoch of a database that is not open in this process; 0 if it has
// none yet.
func ReadEpoch(ctx context.Context, path string) (int64, error) {
	return readMeta(ctx, path, readDSN(path), "epoch")
}

// ReadSeq reads the seq of the newest event of a database that is not open anywhere and
// has no WAL; 0 if there is none. It leaves no file beside the database.
func ReadSeq(ctx context.Context, path string) (int64, error) {
	return readMeta(ctx, path, fileDSN(path), "event_seq")
}

// fileDSN is the data source name of a database file alone.
func fileDSN(path string) string {
	q := url.Values{"mode": {"ro"}, "immutable": {"1"}, "_error_rc": {"true"}}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

// Sound fails if a database that is not open anywhere and has no WAL is not whole, as when it
// lost its WAL while that was copied into it. It leaves no file beside the database.
//
// A page that is older than another need not break SQLite's structures. So besides those the
// newest event is looked at: its number is on one page, and the event on another.
func Sound(ctx context.Context, path string) (err error) {
	db, err := sql.Open("sqlite", fileDSN(path))
	if err != nil {
		return fmt.Errorf("open database %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var says string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&says); err != nil {
		return fmt.Errorf("check database %s", reason(path, err))
	}
	if says != "ok" {
		return fmt.Errorf("database %s is damaged: %s", path, says)
	}
	var noted, newest int64
	if err := db.QueryRowContext(ctx, "SELECT event_seq, coalesce((SELECT max(seq) FROM event), event_seq) FROM meta WHERE id = 1").Scan(&noted, &newest); err != nil {
		return fmt.Errorf("check database %s", reason(path, err))
	}
	if noted != newest {
		return fmt.Errorf("database %s is damaged: its newest event is %d, and should be %d", path, newest, noted)
	}
	return nil
}

// readMeta reads a number of the database's meta; 0 if it has none yet.
func readMeta(ctx context.Context, path, dsn, column string) (n int64, err error) {
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return 0, fmt.Errorf("open database %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var tables int
	err = db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'meta'").Scan(&tables)
	if err == nil && tables > 0 {
		err = db.QueryRowContext(ctx, "SELECT coalesce(max("+column+"), 0) FROM meta").Scan(&n)
	}
	if err != nil {
		return 0, fmt.Errorf("read database %s", reason(path, err))
	}
	return n, nil
}

// writeDSN is the data source name of the writer's connection. Pragmas are part of it
// because the pool applies nothing else to a connection that it makes later.
func writeDSN(path string, replicated bool) string {
	q := url.Values{"_txlock": {"immediate"}, "_error_rc": {"true"}, "_dqs": {"false"}, "_pragma": {
		"busy_timeout(5000)",
		"journal_mode(wal)",
		"synchronous(full)",
		"cache_size(-16384)",
		"temp_store(memory)",
	}}
	if replicated {
		// Replication does the checkpoints. SQLite's own would cost the writer time, in
		// vain, because replication reads the WAL all the time.
		q["_pragma"] = append(q["_pragma"], "wal_autocheckpoint(0)")
	} else {
		q["_pragma"] = append(q["_pragma"], "wal_autocheckpoint(1000)", "journal_size_limit(67108864)")
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

func readDSN(path string) string {
	q := url.Values{"_error_rc": {"true"}, "_dqs": {"false"}, "_pragma": {
		"busy_timeout(5000)",
		"query_only(1)",
		"cache_size(-8192)",
		"temp_store(memory)",
	}}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

// Path is the database's file.
func (s *Store) Path() string { return s.path }

// Close commits what was submitted, lets replication see it, and closes the database. If
// ctx ends first, jobs that are not committed fail with [rooms.ErrStopping]. If the disk
// does not answer even then, Close returns ctx's error and leaves the files open until
// the process ends.
func (s *Store) Close(ctx context.Context) error {
	s.closing.Do(func() { s.closed = s.close(ctx) })
	return s.closed
}

func (s *Store) close(ctx context.Context) error {
	if err := s.writer.stop(ctx); err != nil {
		return fmt.Errorf("close database %s: %w", s.path, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, st := range s.statements {
		errs = append(errs, st.Close())
	}
	s.statements = nil
	errs = append(errs, s.read.Close(), s.writer.conn.close(), s.write.Close(), s.lock.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close database %s: %w", s.path, err)
	}
	return nil
}
