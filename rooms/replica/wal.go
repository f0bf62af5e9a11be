package replica

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/superfly/ltx"

	"parlor/rooms/lockfile"
)

const (
	walHeader      = 32 // bytes (https://www.sqlite.org/fileformat2.html, section 4.1)
	walFrameHeader = 24
	// walLooks is how often a WAL is looked at that changes meanwhile, and walPause the time
	// between.
	walLooks = 10
	walPause = 2 * time.Millisecond
)

// errWALChanges: SQLite changes the WAL right now.
var errWALChanges = errors.New("the database's -wal file is being changed")

// errWALRestarted: SQLite has begun another round of the WAL, so that it cannot be told what was
// in the last one.
var errWALRestarted = errors.New("the database's -wal file was begun anew meanwhile")

// walState is what a WAL is to hold.
type walState struct {
	frames int64                // that SQLite has committed
	header [walHeader]byte      // of the file
	last   [walFrameHeader]byte // of the last frame, with the checksum of all before it
}

func (s *walState) pageSize() int64 { return int64(binary.BigEndian.Uint32(s.header[8:])) }
func (s *walState) salts() (one, two uint32) {
	return binary.BigEndian.Uint32(s.header[16:]), binary.BigEndian.Uint32(s.header[20:])
}

// offset is the place of a frame in the file, or of its end.
func (s *walState) offset(frames int64) int64 {
	return walHeader + frames*(walFrameHeader+s.pageSize())
}

// walWatch holds the WAL against what SQLite says that it wrote there. SQLite is asked, and its
// -shm file not read: a process that closes that file loses its locks on it. It may be used
// concurrently.
type walWatch struct {
	database string
	sql      func() *sql.DB // a connection to the database; nil: it is not open

	file atomic.Pointer[string] // fileID of the WAL; nil before the first stage
	cut  atomic.Bool            // the WAL was seen without what SQLite had written there
}

// frames is how many frames are in the WAL, as SQLite knows.
func (w *walWatch) frames(ctx context.Context) (frames int64, err error) {
	db := w.sql()
	if db == nil {
		return 0, nil
	}
	var busy, copied int64
	err = db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(NOOP)").Scan(&busy, &frames, &copied)
	if err != nil {
		return 0, fmt.Errorf("ask for the state of the -wal file: %w", err)
	}
	if busy != 0 {
		return 0, errWALChanges
	}
	return max(frames, 0), nil
}

// look fails with [errCut], now and from then on, if the WAL does not hold what good wants of
// it.
func (w *walWatch) look(ctx context.Context, good func(s *walState, wal io.ReaderAt) (bool, error)) (walState, error) {
	if w.cut.Load() {
		return walState{}, errCut
	}
	var before walState
	for range walLooks {
		s, err := w.state(ctx, good)
		switch {
		case errors.Is(err, errCut) && s == before:
			w.cut.Store(true)
			return s, err
		case errors.Is(err, errCut):
			before = s
		case !errors.Is(err, errWALChanges):
			return s, err
		}
		select {
		case <-time.After(walPause):
		case <-ctx.Done():
			return s, ctx.Err()
		}
	}
	return walState{}, errWALChanges
}

// state is one look at the WAL. It fails with [errCut] if that is not as it should be, perhaps
// only because SQLite began another round meanwhile.
func (w *walWatch) state(ctx context.Context, good func(s *walState, wal io.ReaderAt) (bool, error)) (s walState, err error) {
	if s.frames, err = w.frames(ctx); err != nil || s.frames == 0 {
		return s, err
	}
	f, err := os.Open(w.database + "-wal")
	if errors.Is(err, fs.ErrNotExist) {
		err = errWAL
	}
	if err != nil {
		return s, err
	}
	defer func() { _ = f.Close() }()
	if err := w.is(f); err != nil {
		return s, err
	}
	whole, err := readWhole(f, s.header[:], 0)
	if err != nil {
		return s, err
	}
	if !whole {
		return s, errCut
	}
	if size := s.pageSize(); size < 512 || size > 1<<16 || size&(size-1) != 0 {
		return s, errCut
	}
	if whole, err = readWhole(f, s.last[:], s.offset(s.frames-1)); err != nil {
		return s, err
	}
	if !whole {
		return s, errCut
	}
	if !bytes.Equal(s.last[8:16], s.header[16:24]) {
		return s, errCut // the frame is of another round than the header
	}
	fine, err := good(&s, f)
	if err == nil && !fine {
		err = errCut
	}
	return s, err
}

// is fails if a file is not the WAL that SQLite has open.
func (w *walWatch) is(f *os.File) error {
	known := w.file.Load()
	if known == nil {
		return nil
	}
	id, err := lockfile.ID(f.Name())
	if errors.Is(err, fs.ErrNotExist) || err == nil && id != *known {
		return errWAL
	}
	return err
}

// readWhole reports whether a file has that many bytes from an offset on.
func readWhole(f io.ReaderAt, b []byte, at int64) (bool, error) {
	switch _, err := f.ReadAt(b, at); {
	case err == nil:
		return true, nil
	case errors.Is(err, io.EOF):
		return false, nil
	default:
		return false, err
	}
}

// chained reports whether the WAL has the frames from one number to another, by their
// checksums.
func (s *walState) chained(ctx context.Context, wal io.ReaderAt, from, to int64) (bool, error) {
	file := &honest{ReaderAt: wal}
	log := slog.New(slog.DiscardHandler)
	var r *litestream.WALReader
	var err error
	if from > 0 {
		one, two := s.salts()
		r, err = litestream.NewWALReaderWithOffset(ctx, file, s.offset(from), one, two, log)
	} else {
		r, err = litestream.NewWALReader(file, log)
	}
	page := make([]byte, s.pageSize())
	for ; err == nil && from < to; from++ {
		_, _, err = r.ReadFrame(ctx, page)
	}
	if fault := errors.Join(ctx.Err(), file.fault); fault != nil {
		return false, fault
	}
	return err == nil, nil
}

// honest remembers that a file could not be read: Litestream takes that for its end.
type honest struct {
	io.ReaderAt
	fault error
}

func (h *honest) ReadAt(b []byte, at int64) (int, error) {
	n, err := h.ReaderAt.ReadAt(b, at)
	if err != nil && !errors.Is(err, io.EOF) {
		h.fault = err
	}
	return n, err
}

// since looks at what came since a state, and at that state's last frame with its page: a WAL
// that is cut loses that one, or a part of it. It returns the state of now.
func (w *walWatch) since(ctx context.Context, before *walState) (walState, error) {
	return w.look(ctx, func(s *walState, wal io.ReaderAt) (bool, error) {
		if s.header != before.header || before.frames == 0 {
			return s.chained(ctx, wal, 0, s.frames)
		}
		var last [walFrameHeader]byte
		whole, err := readWhole(wal, last[:], s.offset(before.frames-1))
		if err != nil || !whole || last != before.last || s.frames < before.frames {
			return false, err
		}
		return s.chained(ctx, wal, before.frames-1, s.frames)
	})
}

// whole looks at all of the WAL.
func (w *walWatch) whole(ctx context.Context) (walState, error) {
	return w.look(ctx, func(s *walState, wal io.ReaderAt) (bool, error) { return s.chained(ctx, wal, 0, s.frames) })
}

// upTo looks at all of the WAL if that has no more bytes than most.
func (w *walWatch) upTo(ctx context.Context, most int64) (walState, error) {
	return w.look(ctx, func(s *walState, wal io.ReaderAt) (bool, error) {
		if s.offset(s.frames) > most {
			return true, nil
		}
		return s.chained(ctx, wal, 0, s.frames)
	})
}

// proven is a snapshot that was made of the database's files. Its end is read only if the WAL
// is in order then: a snapshot of a WAL that was cut would claim to have what it has not, and
// a restore takes the snapshot's word.
type proven struct {
	io.Reader
	ctx    context.Context
	wal    *walWatch
	before walState // as the snapshot was begun
}

func (w *walWatch) prove(ctx context.Context, snapshot io.Reader) (*proven, error) {
	before, err := w.whole(ctx)
	if err != nil {
		return nil, fmt.Errorf("make a snapshot: %w", err)
	}
	return &proven{Reader: snapshot, ctx: ctx, wal: w, before: before}, nil
}

func (p *proven) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if err == io.EOF {
		if bad := p.check(); bad != nil {
			return n, fmt.Errorf("make a snapshot: %w", bad)
		}
	}
	return n, err
}

// check looks again at what the snapshot could read. SQLite does not start the WAL over while
// Litestream reads a snapshot.
func (p *proven) check() error {
	_, err := p.wal.look(p.ctx, func(s *walState, wal io.ReaderAt) (bool, error) {
		if s.header != p.before.header && p.before.frames > 0 {
			return false, errWALRestarted
		}
		return s.chained(p.ctx, wal, 0, p.before.frames)
	})
	return err
}

// stagedIsThere reports whether the WAL that a process left has what that process had staged
// of it last. Otherwise somebody cut it.
func stagedIsThere(ctx context.Context, database string) (bool, error) {
	last, err := replicatedTo(database)
	if err != nil || last == 0 {
		return true, err
	}
	f, err := os.Open(litestream.LTXFilePath(litestreamPath(database), 0, last, last))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	d := ltx.NewDecoder(f)
	if err := d.DecodeHeader(); err != nil {
		return true, nil // what is staged is damaged, which staging reports
	}
	staged := d.Header()
	wal, err := os.Open(database + "-wal")
	if err != nil {
		return false, err
	}
	defer func() { _ = wal.Close() }()
	var s walState
	if whole, err := readWhole(wal, s.header[:], 0); err != nil || !whole {
		return false, err
	}
	if _, err := litestream.NewWALReader(wal, slog.New(slog.DiscardHandler)); err != nil {
		return false, nil
	}
	if one, two := s.salts(); one != staged.WALSalt1 || two != staged.WALSalt2 {
		return true, nil // it was started over since
	}
	return s.chained(ctx, wal, 0, (staged.WALOffset+staged.WALSize-walHeader)/(walFrameHeader+s.pageSize()))
}
