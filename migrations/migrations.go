// Package migrations is the schema of Parlor's database: numbered SQL files, each a step
// from the version before it. SQLite's user_version counts the steps that a database has
// had.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"strings"
)

//go:embed *.sql
var files embed.FS

// ApplicationID marks Parlor's databases in SQLite's application_id: "Parl".
const ApplicationID = 0x5061726c

var (
	// ErrNewer: the database has had steps that this program does not know. A newer
	// Parlor wrote it.
	ErrNewer = errors.New("the database was written by a newer Parlor")
	// ErrForeign: the file is another program's database.
	ErrForeign = errors.New("the database is not Parlor's")
)

// Apply takes db through the steps that it has not had, each in a transaction of its own,
// so that a failure leaves a complete version. It refuses a database of a newer program
// ([ErrNewer]) or of another one ([ErrForeign]), and changes nothing in it.
func Apply(ctx context.Context, db *sql.DB) error {
	steps, err := read()
	if err != nil {
		return err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("open database to migrate it: %w", err)
	}
	defer conn.Close()
	version, err := check(ctx, conn, len(steps))
	if err != nil {
		return err
	}
	for v := version; v < len(steps); v++ {
		if err := apply(ctx, conn, v+1, steps[v]); err != nil {
			return fmt.Errorf("migrate database to version %d: %w", v+1, err)
		}
	}
	return nil
}

// Version returns how many steps db has had, 0 if it is empty, and how many this program
// knows. It changes nothing, and fails as Apply does.
func Version(ctx context.Context, db *sql.DB) (version, known int, err error) {
	steps, err := read()
	if err != nil {
		return 0, 0, err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("open database to read its version: %w", err)
	}
	defer conn.Close()
	version, err = check(ctx, conn, len(steps))
	return version, len(steps), err
}

// read returns the steps in order: the file of step n begins with n in four
// digits, and none is missing.
func read() ([]string, error) {
	entries, err := files.ReadDir(".") // sorted by name
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	steps := make([]string, 0, len(entries))
	for i, e := range entries {
		if prefix := fmt.Sprintf("%04d_", i+1); !strings.HasPrefix(e.Name(), prefix) {
			return nil, fmt.Errorf("migration %s should begin with %s", e.Name(), prefix)
		}
		b, err := files.ReadFile(e.Name())
		if err != nil {
			return nil, fmt.Errorf("read migrations: %w", err)
		}
		steps = append(steps, string(b))
	}
	return steps, nil
}

// check returns the version of a database that can be migrated.
func check(ctx context.Context, conn *sql.Conn, known int) (int, error) {
	var version, application, tables int
	// Litestream keeps its own tables in a database that it replicates.
	err := conn.QueryRowContext(ctx, `SELECT user_version, application_id,
			(SELECT count(*) FROM sqlite_schema WHERE name NOT LIKE '\_litestream\_%' ESCAPE '\')
		FROM pragma_user_version, pragma_application_id`).Scan(&version, &application, &tables)
	if err != nil {
		return 0, fmt.Errorf("read the database's version: %w", err)
	}
	switch {
	case version == 0 && tables == 0:
		return 0, nil
	case application != ApplicationID:
		return 0, ErrForeign
	case version > known:
		return 0, fmt.Errorf("%w: its version is %d, and this program knows up to %d", ErrNewer, version, known)
	}
	return version, nil
}

// apply runs one step. The pragmas that change the file's header are part of the
// transaction.
func apply(ctx context.Context, conn *sql.Conn, version int, step string) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing once committed
	script := fmt.Sprintf("%s\n;PRAGMA application_id = %d; PRAGMA user_version = %d", step, ApplicationID, version)
	if _, err := tx.ExecContext(ctx, script); err != nil {
		return err
	}
	return tx.Commit()
}
