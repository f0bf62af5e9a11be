package program

import (
	"context"
	"errors"
	"fmt"

	"parlor/rooms/sqlite"
)

const backupUsage = `Copy the database into a new file, also while the server runs, and check the copy.

  parlor backup /backups/parlor-monday.db
  parlor backup --config parlor.yaml monday.db

To go on from it, stop the server and put it in the place of the database.

`

// backup copies the database.
func backup(ctx context.Context, env Environment) error {
	var k keyFlags
	var database string
	f := newFlags("parlor backup", backupUsage, "")
	f.StringVar(&k.config, "config", "", "configuration `file` that names the database")
	f.BoolVar(&k.dev, "dev", false, "the database of parlor --dev in this folder")
	f.StringVar(&database, "database", "", "the database's `file` (as the configuration says)")
	to, err := parseArguments(f, env, 1)
	if err != nil {
		return err
	}
	if len(to) == 0 || to[0] == "" {
		fmt.Fprintln(env.Err, "the file to make is missing; see parlor backup --help")
		return errUsage
	}
	if database == "" {
		cfg, err := k.load(env)
		if errors.Is(err, errUnconfigured) {
			return errors.New("there is no configuration that names the database: give --config or --database")
		}
		if err != nil {
			return err
		}
		database = cfg.Database
	}
	b, err := sqlite.BackUp(ctx, database, to[0])
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(env.Out, "backed up %s to %s: %s, version %d, events up to %d\n", database, to[0], bytesOf(b.Bytes), b.Version, b.EventSeq)
	return err
}

// bytesOf is a size in human-readable form.
func bytesOf(n int64) string {
	const units = "kMGTP"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n)/1000, 0
	for v >= 1000 && unit < len(units)-1 {
		v /= 1000
		unit++
	}
	return fmt.Sprintf("%.1f %cB", v, units[unit])
}
