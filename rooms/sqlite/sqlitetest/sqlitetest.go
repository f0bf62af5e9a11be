// Package sqlitetest gives tests a database of the current version. To take a new one through
// all migrations costs more than most tests do.
package sqlitetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite" // the driver

	"parlor/migrations"
)

// Path is the path of a database that no store has opened yet. It has the schema and no row,
// and is removed when the test ends.
func Path(t testing.TB) string {
	t.Helper()
	b, err := migrated()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "parlor.db")
	require.NoError(t, os.WriteFile(path, b, 0o600))
	return path
}

// migrated is the file of such a database, which a process makes once.
var migrated = sync.OnceValues(func() (file []byte, err error) {
	ctx := context.Background()
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		return nil, fmt.Errorf("open a database in memory: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1) // another connection would have a database of its own
	if err := migrations.Apply(ctx, db); err != nil {
		return nil, err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("read a database in memory: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	err = conn.Raw(func(c any) (err error) {
		file, err = c.(interface{ Serialize() ([]byte, error) }).Serialize()
		return err
	})
	return file, err
})
