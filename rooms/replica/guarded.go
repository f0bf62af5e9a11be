package replica

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/superfly/ltx"
)

// guardInterval is how often the lease is checked during a request that changes the
// replica. It is well below the time between the holder's stop and the end of the lease.
const guardInterval = 50 * time.Millisecond

// guarded is a client that changes nothing unless allowed permits it. All of Litestream's
// requests pass through it, so a machine that lost its lease writes nothing.
type guarded struct {
	litestream.ReplicaClient
	allowed func() error
	wal     *walWatch // nil: no snapshots are made
	// prove fails if a staged transaction may be of a WAL that was cut; nil: none is.
	prove func(context.Context, ltx.TXID) error
	files atomic.Uint64 // uploaded
	bytes atomic.Uint64
	last  atomic.Pointer[ltx.FileInfo] // the newest staged file that was uploaded
	// frozen: nothing may be written to the generation any more, and its files do not
	// matter: a new generation is about to begin.
	frozen atomic.Bool
}

// LTXFiles implements litestream.ReplicaClient.
func (g *guarded) LTXFiles(ctx context.Context, level int, seek ltx.TXID, metadata bool) (ltx.FileIterator, error) {
	if g.frozen.Load() {
		return ltx.NewFileInfoSliceIterator(nil), nil
	}
	return g.ReplicaClient.LTXFiles(ctx, level, seek, metadata)
}

func (g *guarded) WriteLTXFile(ctx context.Context, level int, from, to ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	if err := g.allowed(); err != nil {
		return nil, err
	}
	if level == 0 {
		if err := checkStaged(r); err != nil {
			return nil, err
		}
	}
	ctx, done := g.while(ctx)
	defer done()
	if level == 0 && g.prove != nil {
		if err := g.prove(ctx, to); err != nil {
			return nil, err
		}
	}
	if level == litestream.SnapshotLevel {
		var err error
		if r, err = g.wal.prove(ctx, r); err != nil {
			return nil, err
		}
	}
	info, err := g.ReplicaClient.WriteLTXFile(ctx, level, from, to, r)
	if err == nil {
		g.files.Add(1)
		g.bytes.Add(uint64(max(0, info.Size)))
		if level == 0 {
			g.last.Store(info)
		}
	}
	return info, err
}

// checkStaged verifies a staged file before it is uploaded: a truncated file would make
// the replica unrestorable from there on.
func checkStaged(r io.Reader) error {
	file, ok := r.(io.ReadSeeker)
	if !ok {
		return nil // never: Litestream uploads files
	}
	if err := ltx.NewDecoder(file).Verify(); err != nil {
		return fmt.Errorf("%w: %w", errStaged, err)
	}
	_, err := file.Seek(0, io.SeekStart)
	return err
}

func (g *guarded) DeleteLTXFiles(ctx context.Context, files []*ltx.FileInfo) error {
	if err := g.allowed(); err != nil {
		return err
	}
	ctx, done := g.while(ctx)
	defer done()
	return g.ReplicaClient.DeleteLTXFiles(ctx, files)
}

// while returns a context that also ends when changes are no longer allowed: a request
// that hangs could reach the replica long after the lease ended. done ends the goroutine
// that watches for this, and waits for it.
func (g *guarded) while(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(guardInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := g.allowed(); err != nil {
				cancel(err)
				return
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-ended
	}
}

func (g *guarded) DeleteAll(ctx context.Context) error {
	if err := g.allowed(); err != nil {
		return err
	}
	ctx, done := g.while(ctx)
	defer done()
	return g.ReplicaClient.DeleteAll(ctx)
}

// dropCABundle removes AWS_CA_BUNDLE from this process's environment: with it the AWS
// library refuses the HTTP client that Litestream gives it.
func dropCABundle(l location, log *slog.Logger) {
	const name = "AWS_CA_BUNDLE"
	if l.scheme != "s3" || os.Getenv(name) == "" {
		return
	}
	if err := os.Unsetenv(name); err != nil {
		log.Error("AWS_CA_BUNDLE cannot be unset, and the replica cannot be reached with it", "error", err)
		return
	}
	log.Warn("AWS_CA_BUNDLE is ignored: name the authorities in SSL_CERT_FILE instead, together with the system's")
}

// quieter lowers the level of what Litestream logs as information: it reports every
// compaction, which does not interest an operator.
type quieter struct{ slog.Handler }

func demoted(log *slog.Logger) *slog.Logger { return slog.New(quieter{log.Handler()}) }

func (q quieter) Enabled(ctx context.Context, level slog.Level) bool {
	return q.Handler.Enabled(ctx, demote(level))
}

func (q quieter) Handle(ctx context.Context, r slog.Record) error {
	r.Level = demote(r.Level)
	return q.Handler.Handle(ctx, r)
}

func (q quieter) WithAttrs(a []slog.Attr) slog.Handler { return quieter{q.Handler.WithAttrs(a)} }
func (q quieter) WithGroup(name string) slog.Handler   { return quieter{q.Handler.WithGroup(name)} }

func demote(level slog.Level) slog.Level {
	if level < slog.LevelWarn {
		return level - 4
	}
	return level
}
