package migrations

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"
)

func open(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

func version(t *testing.T, db *sql.DB) (v int) {
	t.Helper()
	require.NoError(t, db.QueryRow("PRAGMA user_version").Scan(&v))
	return v
}

func schema(t *testing.T, db *sql.DB) (all string) {
	t.Helper()
	require.NoError(t, db.QueryRow("SELECT coalesce(group_concat(sql, ';'), '') FROM (SELECT sql FROM sqlite_schema ORDER BY name)").Scan(&all))
	return all
}

func TestApplyTwice(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "a.db"))
	steps, err := read()
	require.NoError(t, err)
	require.NoError(t, Apply(t.Context(), db))
	require.Equal(t, len(steps), version(t, db))
	before := schema(t, db)
	require.Contains(t, before, "CREATE TABLE room (")
	require.NoError(t, Apply(t.Context(), db))
	require.Equal(t, before, schema(t, db))
}

func TestApplyFromEveryVersion(t *testing.T) {
	steps, err := read()
	require.NoError(t, err)
	whole := open(t, filepath.Join(t.TempDir(), "whole.db"))
	require.NoError(t, Apply(t.Context(), whole))
	for from := range steps {
		db := open(t, filepath.Join(t.TempDir(), "from.db"))
		for v := range from {
			conn, err := db.Conn(t.Context())
			require.NoError(t, err)
			require.NoError(t, apply(t.Context(), conn, v+1, steps[v]))
			require.NoError(t, conn.Close())
		}
		require.Equal(t, from, version(t, db))
		require.NoError(t, Apply(t.Context(), db))
		require.Equal(t, schema(t, whole), schema(t, db), "from version %d", from)
	}
}

func TestApplyRefusesNewer(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "a.db"))
	require.NoError(t, Apply(t.Context(), db))
	_, err := db.Exec("PRAGMA user_version = 4711; CREATE TABLE future (x)")
	require.NoError(t, err)
	before := schema(t, db)
	err = Apply(t.Context(), db)
	require.ErrorIs(t, err, ErrNewer)
	require.ErrorContains(t, err, "4711")
	require.Equal(t, before, schema(t, db))
}

func TestApplyRefusesForeign(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "a.db"))
	_, err := db.Exec("CREATE TABLE invoices (x)")
	require.NoError(t, err)
	require.ErrorIs(t, Apply(t.Context(), db), ErrForeign)
	require.NotContains(t, schema(t, db), "room")
}

func TestApplyBesideLitestream(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "a.db"))
	_, err := db.Exec("CREATE TABLE _litestream_seq (x); CREATE TABLE _litestream_lock (x)")
	require.NoError(t, err)
	require.NoError(t, Apply(t.Context(), db))
}

// A step that fails leaves the version before it, and nothing of itself.
func TestFailedStepLeavesNothing(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "a.db"))
	require.NoError(t, Apply(t.Context(), db))
	earlier, before := version(t, db), schema(t, db)
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	require.Error(t, apply(t.Context(), conn, earlier+1, "CREATE TABLE half (x); INSERT INTO nowhere VALUES (1)"))
	require.NoError(t, conn.Close())
	require.Equal(t, earlier, version(t, db))
	require.Equal(t, before, schema(t, db))
}

// Those who were present and moderated before the decisions had times keep what
// was decided.
func TestModeratedSessionsKeepTheirDecisions(t *testing.T) {
	steps, err := read()
	require.NoError(t, err)
	db := open(t, filepath.Join(t.TempDir(), "a.db"))
	for v := range 3 {
		conn, err := db.Conn(t.Context())
		require.NoError(t, err)
		require.NoError(t, apply(t.Context(), conn, v+1, steps[v]))
		require.NoError(t, conn.Close())
	}
	_, err = db.Exec(`INSERT INTO session (sid, room_sid, identity, joined_ms, active_ms, left_ms, reason, moderated, info)
		VALUES ('PA_1', 'RM_1', 'ann', 1000, 0, 0, 0, 1, x''), ('PA_2', 'RM_1', 'bob', 1000, 0, 0, 0, 0, x'')`)
	require.NoError(t, err)
	require.NoError(t, Apply(t.Context(), db))
	for sid, want := range map[string]int{"PA_1": 1000, "PA_2": 0} {
		var permitted, edited int
		require.NoError(t, db.QueryRow("SELECT permitted_ms, edited_ms FROM session WHERE sid = ?", sid).Scan(&permitted, &edited))
		require.Equal(t, [2]int{want, want}, [2]int{permitted, edited})
	}
}

// Rooms of before their figures were counted have those that their sessions tell.
func TestRoomsOfBeforeHaveTheirFigures(t *testing.T) {
	steps, err := read()
	require.NoError(t, err)
	db := open(t, filepath.Join(t.TempDir(), "a.db"))
	for v := range 6 {
		conn, err := db.Conn(t.Context())
		require.NoError(t, err)
		require.NoError(t, apply(t.Context(), conn, v+1, steps[v]))
		require.NoError(t, conn.Close())
	}
	for _, sid := range []string{"RM_1", "RM_2"} {
		_, err = db.Exec(`INSERT INTO room (sid, name, created_ms, empty_timeout_ms, departure_timeout_ms, max_participants,
			joined_once, empty_since_ms, expires_ms, num_participants, num_publishers, active_recording, version, seq,
			turn_password, config, metadata) VALUES (?1, ?1, 1, 1, 1, 0, 1, 0, 0, 1, 0, 0, 1, 1, '', '{}', '')`, sid)
		require.NoError(t, err)
	}
	for i, s := range [][3]int{{10, 11, 20}, {15, 16, 30}, {20, 21, 40}, {25, 0, 28}, {50, 51, 0}} { // joined, active, left
		_, err = db.Exec(`INSERT INTO session (sid, room_sid, identity, joined_ms, active_ms, left_ms, reason, permitted_ms, info)
			VALUES (?, 'RM_1', ?, ?, ?, ?, 0, 0, x'')`, i, i, s[0], s[1], s[2])
		require.NoError(t, err)
	}
	require.NoError(t, Apply(t.Context(), db))
	for sid, want := range map[string][2]int{"RM_1": {4, 3}, "RM_2": {0, 0}} {
		var got [2]int
		require.NoError(t, db.QueryRow("SELECT num_joined, peak_participants FROM room WHERE sid = ?", sid).Scan(&got[0], &got[1]))
		require.Equal(t, want, got)
	}
}

// Hours before the upgrade are counted from the rooms and sessions that are stored, but not
// those that a clock near 1970 wrote.
func TestHoursAreCountedFromRows(t *testing.T) {
	steps, err := read()
	require.NoError(t, err)
	db := open(t, filepath.Join(t.TempDir(), "a.db"))
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	for v := range 13 {
		require.NoError(t, apply(t.Context(), conn, v+1, steps[v]))
	}
	_, err = conn.ExecContext(t.Context(), `
		INSERT INTO meta (id, database_id, created_ms) VALUES (1, 'DB_', 1);
		INSERT INTO room SELECT NULL, column1, column1, column2, 0, 0, 0, 1, 0, 0, column3, column4, column5, 0, 0, 1, 1, '', '{}', '', 0, 0
			FROM (VALUES ('RM_1', 7200000, 0, '', 2), ('RM_2', 7200001, 14400000, 'closed', 0));
		INSERT INTO session SELECT NULL, column1, 'RM_1', column1, column2, column3, column4, 0, 0, x'', 0, ''
			FROM (VALUES ('PA_1', 9000000, 9000001, 12600000), ('PA_2', 10000000, 0, 0), ('PA_3', 10800000, 10800000, 11000000), ('PA_4', 9000000, 0, 9000000));
		INSERT INTO event VALUES (1, 'EV_1', 'room_started', 'RM_1', 'RM_1', 1, 14400500, 1, x'')`)
	require.NoError(t, err)
	const hourMs = 3_600_000
	first := time.Now().UnixMilli()/hourMs - 30
	for _, query := range []string{
		"UPDATE room SET created_ms = created_ms + $1, ended_ms = iif(ended_ms > 0, ended_ms + $1, 0)",
		"UPDATE session SET joined_ms = joined_ms + $1, active_ms = iif(active_ms > 0, active_ms + $1, 0), left_ms = iif(left_ms > 0, left_ms + $1, 0)",
		"UPDATE event SET created_ms = created_ms + $1",
		`INSERT INTO room SELECT NULL, 'RM_3', 'RM_3', 5000, 0, 0, 0, 1, 0, 0, $1, 'closed', 0, 0, 0, 1, 1, '', '{}', '', 0, 0`,
		`INSERT INTO session SELECT NULL, column1, 'RM_3', column1, 5000, 5001, column2, 0, 0, x'', 0, ''
			FROM (VALUES ('PA_5', 0), ('PA_6', $1), ('PA_7', 9000))`,
	} {
		_, err = conn.ExecContext(t.Context(), query, first*hourMs)
		require.NoError(t, err, query)
	}
	require.NoError(t, conn.Close())
	require.NoError(t, Apply(t.Context(), db))
	rows, err := db.Query(`SELECT from_ms / 3600000 - $1, opened, ended, joined, peak, participant_ms FROM hour ORDER BY from_ms`, first)
	require.NoError(t, err)
	defer rows.Close()
	var hours [][6]int64
	for rows.Next() {
		var h [6]int64
		require.NoError(t, rows.Scan(&h[0], &h[1], &h[2], &h[3], &h[4], &h[5]))
		hours = append(hours, h)
	}
	require.NoError(t, rows.Err())
	require.Equal(t, [][6]int64{
		{0, 0, 1, 0, 0, 0},
		{2, 2, 0, 1, 2, 1_800_000 + 800_000},
		{3, 0, 0, 1, 3, 1_800_000 + 3_600_000 + 200_000},
		{4, 0, 1, 0, 1, 500},
	}, hours)
	var people int
	require.NoError(t, db.QueryRow("SELECT people FROM meta").Scan(&people))
	require.Equal(t, 2, people)
}
