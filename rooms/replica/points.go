package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/benbjohnson/litestream"
)

// Generation is what the replica has of one generation.
type Generation struct {
	Number    int64
	Files     int
	Bytes     int64
	Snapshots []time.Time // the oldest first
	// Restore can make the database of any time from From to To, to a second; both are zero
	// if the generation lacks its beginning.
	From, To time.Time
}

// maxGenerations bounds how many generations are looked at, since each costs requests.
const maxGenerations = 10

// Generations lists the newest generations on the replica, the newest first. It reads the
// lists of their files from the replica.
func (r *Replica) Generations(ctx context.Context) ([]Generation, error) {
	p, err := r.location.open(ctx, false)
	if err != nil {
		return nil, fmt.Errorf("replica %s: %w", r.location.name, err)
	}
	all, err := generationsOf(ctx, p)
	if err = errors.Join(err, p.close()); err != nil {
		return nil, fmt.Errorf("list replica %s: %w", r.location.name, err)
	}
	return all, nil
}

func generationsOf(ctx context.Context, p place) ([]Generation, error) {
	numbers, err := p.generations(ctx)
	if err != nil {
		return nil, err
	}
	slices.Reverse(numbers)
	var all []Generation
	for _, n := range numbers[:min(len(numbers), maxGenerations)] {
		c, err := p.client(n)
		if err != nil {
			return nil, err
		}
		g, err := pointsOf(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("generation %d: %w", n, err)
		}
		g.Number = n
		all = append(all, g)
	}
	return all, nil
}

func pointsOf(ctx context.Context, c litestream.ReplicaClient) (g Generation, err error) {
	var first, last time.Time
	for level := range litestream.SnapshotLevel + 1 {
		files, err := c.LTXFiles(ctx, level, 0, false)
		if err != nil {
			return g, err
		}
		for files.Next() {
			f := files.Item()
			g.Files++
			g.Bytes += f.Size
			if f.CreatedAt.After(last) {
				last = f.CreatedAt
			}
			if f.MinTXID == 1 && (first.IsZero() || f.CreatedAt.Before(first)) {
				first = f.CreatedAt // it needs no file before it
			}
			if level == litestream.SnapshotLevel {
				g.Snapshots = append(g.Snapshots, f.CreatedAt)
			}
		}
		if err := files.Close(); err != nil {
			return g, err
		}
	}
	slices.SortFunc(g.Snapshots, time.Time.Compare)
	if !first.IsZero() {
		// A bucket's list has whole seconds, and a restore takes what was made before its time.
		g.From, g.To = first.Add(time.Second), last.Add(time.Second)
	}
	return g, nil
}
