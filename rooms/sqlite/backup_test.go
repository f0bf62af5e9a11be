//go:build unix

package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"parlor/migrations"
	"parlor/rooms"

	"github.com/stretchr/testify/require"
)

// folder is the names of the files in a folder.
func folder(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// has checks that the database has an open room of that name.
func has(t *testing.T, path, name string) {
	t.Helper()
	s := openAt(t, path)
	_, err := s.FindOpen(t.Context(), name)
	require.NoError(t, err, name)
}

// TestBackUpBesideAServer copies while another process writes, after that process
// crashed, and when the database is closed. No copy changes the database.
func TestBackUpBesideAServer(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "parlor.db")
	server := startChild(t, "load", path)
	var last string
	for range 20 {
		last = server.line(t)
	}
	b, err := BackUp(t.Context(), path, filepath.Join(to, "live.db"))
	require.NoError(t, err)
	require.True(t, b.Live)
	require.Positive(t, b.EventSeq)
	require.Positive(t, b.Bytes)
	for range 20 { // the process continues to write
		last = server.line(t)
	}
	server.kill()
	require.NotEmpty(t, last)

	before := map[string][]byte{}
	for _, name := range folder(t, dir) {
		before[name], err = os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
	}
	require.NotEmpty(t, before["parlor.db-wal"], "it died")
	crashed, err := BackUp(t.Context(), path, filepath.Join(to, "crashed.db"))
	require.NoError(t, err)
	require.False(t, crashed.Live)
	require.Greater(t, crashed.EventSeq, b.EventSeq, "what is in the WAL alone is in it, too")
	for _, name := range []string{"parlor.db", "parlor.db-wal"} {
		now, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.True(t, bytes.Equal(before[name], now), name)
	}
	require.Len(t, folder(t, dir), len(before))

	s, err := Open(t.Context(), Config{Path: path})
	require.NoError(t, err)
	create(t, s, "last", 1)
	require.NoError(t, s.Close(t.Context()))
	require.NoError(t, os.Remove(path+".lock")) // as beside a restored database
	_, err = BackUp(t.Context(), path, filepath.Join(to, "stopped.db"))
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"parlor.db", "parlor.db.lock"}, folder(t, dir))
	require.Equal(t, []string{"crashed.db", "live.db", "stopped.db"}, folder(t, to), "and nothing half")
	for _, name := range folder(t, to) {
		fi, err := os.Stat(filepath.Join(to, name))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), fi.Mode(), "the rooms' passwords are in it")
	}
	has(t, filepath.Join(to, "stopped.db"), "last")
	openAt(t, filepath.Join(to, "live.db"))
}

// What a crash has left of a copy is removed at the next start, and nothing else.
func TestUnfinishedCopiesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	write := func(name string) string {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600))
		return filepath.Join(dir, name)
	}
	left := []string{write(".parlor.db.20200106T000000Z.backup.123.new"), write(".parlor.db.v13.backup.4.new")}
	others := []string{
		write(".other.db.20200106T000000Z.backup.123.new"), write(".parlor.db.mine.backup.4.new"), write(".parlorxdb.v13.backup.4.new"),
		write(".parlor.db.v13.backup.4.new.old"), write("parlor.db.20200106T000000Z.backup"), write("parlor.db.v13.backup"),
	}
	openAt(t, filepath.Join(dir, "parlor.db"))
	for _, name := range left {
		require.NoFileExists(t, name)
	}
	for _, name := range others {
		require.FileExists(t, name)
	}
}

func TestBackUpRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "parlor.db")
	s, err := Open(t.Context(), Config{Path: path})
	require.NoError(t, err)
	for i := range 200 {
		create(t, s, fmt.Sprint("room ", i), int64(i+1))
	}
	require.NoError(t, s.Close(t.Context()))
	there := filepath.Join(dir, "there.db")
	require.NoError(t, os.WriteFile(there, []byte("mine"), 0o600))
	_, err = BackUp(t.Context(), path, there)
	require.ErrorIs(t, err, ErrExists)
	require.ErrorContains(t, err, there)
	kept, err := os.ReadFile(there)
	require.NoError(t, err)
	require.Equal(t, "mine", string(kept))

	// Root makes backups in a folder that the server's user can write to.
	lock := path + ".lock"
	require.NoError(t, os.Rename(lock, lock+".aside"))
	require.NoError(t, os.Symlink(there, lock))
	_, err = BackUp(t.Context(), path, filepath.Join(dir, "linked.db"))
	require.Error(t, err)
	require.NoError(t, os.Remove(lock))
	require.NoError(t, os.Rename(lock+".aside", lock))
	kept, err = os.ReadFile(there)
	require.NoError(t, err)
	require.Equal(t, "mine", string(kept), "what a link in the lock's place leads to")

	to := t.TempDir()
	_, err = BackUp(t.Context(), filepath.Join(dir, "absent.db"), filepath.Join(to, "b.db"))
	require.ErrorContains(t, err, "there is no database")
	require.NoFileExists(t, filepath.Join(dir, "absent.db.lock"))
	_, err = BackUp(t.Context(), path, filepath.Join(to, "no", "b.db"))
	require.ErrorContains(t, err, "no such file or directory")

	execOn(t, path, "PRAGMA user_version = 4711")
	_, err = BackUp(t.Context(), path, filepath.Join(to, "b.db"))
	require.ErrorIs(t, err, migrations.ErrNewer)

	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	for at := 20 * 4096; at < 24*4096; at++ { // pages of tables or indexes
		whole[at] = 0xa5
	}
	require.NoError(t, os.WriteFile(path, whole, 0o600))
	_, err = BackUp(t.Context(), path, filepath.Join(to, "b.db"))
	require.ErrorContains(t, err, "damaged")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = BackUp(ended, path, filepath.Join(to, "b.db"))
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, folder(t, to), "a failure leaves nothing")
}

// execOn runs statements on a closed database.
func execOn(t *testing.T, path, statements string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	_, err = db.Exec(statements)
	require.NoError(t, err)
	require.NoError(t, db.Close())
}

// older makes a database as a former program with that many migrations wrote it.
func older(t *testing.T, path string, steps int) {
	t.Helper()
	files, err := filepath.Glob("../../migrations/0*.sql")
	require.NoError(t, err)
	require.Greater(t, len(files), steps)
	for _, name := range files[:steps] {
		step, err := os.ReadFile(name)
		require.NoError(t, err)
		execOn(t, path, string(step))
	}
	execOn(t, path, fmt.Sprintf(`PRAGMA application_id = %d; PRAGMA user_version = %d;
		INSERT INTO meta (id, database_id, created_ms) VALUES (1, 'DB_old', 1);
		INSERT INTO session (sid, room_sid, identity, joined_ms, active_ms, left_ms, reason, %s, info) VALUES ('PA_1', 'RM_1', 'ada', 1, 1, 2, 0, 0, x'')`,
		migrations.ApplicationID, steps, map[bool]string{true: "moderated", false: "permitted_ms"}[steps < 4]))
}

// contents is a database's version, its schema and its sessions.
func contents(t *testing.T, path string) (version int, all string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro&immutable=1")
	require.NoError(t, err)
	require.NoError(t, db.QueryRow(`SELECT user_version, (SELECT group_concat(sql, ';') FROM (SELECT sql FROM sqlite_schema ORDER BY name))
		|| (SELECT group_concat(identity) FROM session) FROM pragma_user_version`).Scan(&version, &all))
	require.NoError(t, db.Close())
	return version, all
}

// TestAnOlderDatabaseIsKept before it is migrated, so that its former program can
// continue with it: the newest three versions are kept.
func TestAnOlderDatabaseIsKept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "parlor.db")
	for steps := 2; steps < 7; steps++ {
		older(t, path, steps)
		_, before := contents(t, path)
		copied := backupName(path, steps)
		require.NoError(t, os.WriteFile(copied, []byte("of an earlier upgrade"), 0o644))
		var log bytes.Buffer
		s, err := Open(t.Context(), Config{Path: path, Log: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		require.Contains(t, log.String(), "copy="+copied)
		require.NoError(t, s.Close(t.Context()))
		version, after := contents(t, copied)
		require.Equal(t, steps, version)
		require.Equal(t, before, after)
		fi, err := os.Stat(copied)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), fi.Mode())

		log.Reset()
		s, err = Open(t.Context(), Config{Path: path, Log: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		require.NoError(t, s.Close(t.Context()))
		require.Empty(t, log.String(), "nothing is migrated twice")
		require.NoError(t, os.Remove(path))
	}
	require.ElementsMatch(t, []string{"parlor.db.lock", "parlor.db.v4.backup", "parlor.db.v5.backup", "parlor.db.v6.backup"}, folder(t, dir))

	// The way back: the copy replaces the database, and can be migrated again.
	require.NoError(t, os.Rename(backupName(path, 6), path))
	s := openAt(t, path)
	sessions, err := s.ListSessions(t.Context(), rooms.SessionQuery{RoomSID: "RM_1", Limit: 2})
	require.NoError(t, err)
	require.Len(t, sessions, 1)
}

// TestNothingIsMigratedWithoutAWayBack: the former program can still open the database.
func TestNothingIsMigratedWithoutAWayBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "parlor.db")
	older(t, path, 6)
	require.NoError(t, os.MkdirAll(filepath.Join(backupName(path, 6), "in the way"), 0o755))
	_, err := Open(t.Context(), Config{Path: path})
	require.ErrorContains(t, err, "keep a copy of database "+path)
	require.ErrorContains(t, err, "the program before still opens it")
	version, _ := contents(t, path)
	require.Equal(t, 6, version)
}
