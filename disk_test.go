package main

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestADatabaseThatCannotBeServed: the program says what ails it and ends; it does
// not begin with another one, and changes nothing.
func TestADatabaseThatCannotBeServed(t *testing.T) {
	made := func(t *testing.T) string {
		path := filepath.Join(t.TempDir(), "parlor.db")
		require.NoError(t, start(t, path).stop())
		return path
	}
	for _, tc := range []struct {
		name string
		path func(t *testing.T) string
		want string
	}{
		{"damaged", func(t *testing.T) string {
			path := made(t)
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteAt([]byte(strings.Repeat("\xff", 3000)), 100) // the schema
			require.NoError(t, err)
			require.NoError(t, f.Close())
			return path
		}, "it is damaged: restore it from a replica or a backup"},
		{"of something else", func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "parlor.db")
			require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("not a database ", 1000)), 0o600))
			return path
		}, "it is not an SQLite database"},
		{"newer", func(t *testing.T) string {
			path := made(t)
			db, err := sql.Open("sqlite", path)
			require.NoError(t, err)
			_, err = db.Exec("PRAGMA user_version = 999")
			require.NoError(t, err)
			require.NoError(t, db.Close())
			return path
		}, "version is 999"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := tc.path(t)
			before, err := os.ReadFile(path)
			require.NoError(t, err)
			status, _, errs := command(t, nil, "--dev", "--port", "0", "--udp-port", "0", "--tcp-port", "0", "--database", path)
			require.Equal(t, 1, status)
			require.Contains(t, errs, tc.want)
			require.Contains(t, errs, path)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, string(before) == string(after), "the file was changed")
		})
	}
}
