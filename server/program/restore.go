package program

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"parlor/rooms/replica"
)

const restoreUsage = `Make a database of what is on a replica. The replica may be in use.

  parlor restore --replica s3://bucket/parlor --to parlor.db
  parlor restore --replica s3://bucket/parlor --to parlor.db --at 2026-11-23T12:00:00Z

`

// restore makes a database file from a replica.
func restore(ctx context.Context, env Environment) error {
	var url, to, at string
	f := newFlags("parlor restore", restoreUsage, "")
	f.StringVar(&url, "replica", "", "`URL` of the replica")
	f.StringVar(&to, "to", "", "`file` to make; it must not exist")
	f.StringVar(&at, "at", "", "`time` to restore as of, as 2026-11-23T12:00:00Z (the newest)")
	if err := parse(f, env); err != nil {
		return err
	}
	if url == "" || to == "" {
		fmt.Fprintln(env.Err, "--replica and --to are needed; see parlor restore --help")
		return errUsage
	}
	c := replica.RestoreConfig{URL: url, To: to, Log: slog.New(slog.DiscardHandler)}
	if at != "" {
		t, err := time.Parse(time.RFC3339, at)
		if err != nil {
			fmt.Fprintf(env.Err, "--at %q is not a time such as 2026-11-23T12:00:00Z\n", at)
			return errUsage
		}
		c.At = t
	}
	made, err := replica.Restore(ctx, c)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(env.Out, "restored %s from generation %d, as of %s\n", to, made.Generation, made.At.UTC().Format("2006-01-02T15:04:05.000Z"))
	return err
}
