package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"

	"github.com/benbjohnson/litestream"
)

// walIndex is what SQLite knows of its WAL. SQLite keeps it at the beginning of the -shm file,
// twice (https://www.sqlite.org/walformat.html, section 2.1), and changes it after the WAL.
type walIndex struct {
	frames   uint32    // in the WAL that are valid
	pageSize int64     // bytes
	sum      [2]uint32 // checksum of the last frame
	salt     [8]byte   // of the WAL, as in its header
}

const (
	walHeader      = 32 // bytes
	walFrameHeader = 24
	walIndexSize   = 48
	// walLooks is how often a WAL is looked at that changes meanwhile.
	walLooks = 10
)

// errWALChanges: SQLite changes the WAL right now.
var errWALChanges = errors.New("the database's -wal file is being changed")

// readWALIndex reads what SQLite knows of the WAL of a database. There is nothing to know if
// nobody has the database open: then valid is false.
func readWALIndex(database string) (x walIndex, valid bool, err error) {
	f, err := os.Open(database + "-shm")
	if errors.Is(err, fs.ErrNotExist) {
		return x, false, nil
	}
	if err != nil {
		return x, false, err
	}
	defer func() { _ = f.Close() }()
	var b [2 * walIndexSize]byte
	for range walLooks {
		if _, err := io.ReadFull(f, b[:]); err == io.EOF || err == io.ErrUnexpectedEOF {
			return x, false, nil // it is being made
		} else if err != nil {
			return x, false, err
		}
		if [walIndexSize]byte(b[:walIndexSize]) == [walIndexSize]byte(b[walIndexSize:]) {
			return decodeWALIndex(b[:walIndexSize])
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return x, false, err
		}
	}
	return x, false, errWALChanges
}

func decodeWALIndex(b []byte) (x walIndex, valid bool, err error) {
	order := binary.NativeEndian
	if b[12] == 0 { // not initialized
		return x, false, nil
	}
	x.pageSize = int64(order.Uint16(b[14:]))
	if x.pageSize == 1 {
		x.pageSize = 1 << 16
	}
	x.frames = order.Uint32(b[16:])
	x.sum = [2]uint32{order.Uint32(b[24:]), order.Uint32(b[28:])}
	copy(x.salt[:], b[32:])
	return x, true, nil
}

// end is the offset after the last frame.
func (x *walIndex) end() int64 { return walHeader + int64(x.frames)*(walFrameHeader+x.pageSize) }

// matches reports whether the WAL has the header and the last frame that SQLite knows of.
func (x *walIndex) matches(wal io.ReaderAt) bool {
	if x.frames == 0 {
		return true
	}
	var header [walHeader]byte
	if _, err := wal.ReadAt(header[:], 0); err != nil || [8]byte(header[16:24]) != x.salt {
		return false
	}
	var frame [walFrameHeader]byte
	if _, err := wal.ReadAt(frame[:], x.end()-walFrameHeader-x.pageSize); err != nil {
		return false
	}
	var last [1]byte
	_, err := wal.ReadAt(last[:], x.end()-1)
	return err == nil && [8]byte(frame[8:16]) == x.salt &&
		binary.BigEndian.Uint32(frame[16:]) == x.sum[0] && binary.BigEndian.Uint32(frame[20:]) == x.sum[1]
}

// chains reports whether the WAL has every frame that SQLite knows of, by their checksums.
func (x *walIndex) chains(ctx context.Context, wal io.ReaderAt) (bool, error) {
	if x.frames == 0 {
		return true, nil
	}
	r, err := litestream.NewWALReader(wal, slog.New(slog.DiscardHandler))
	if err != nil || int64(r.PageSize()) != x.pageSize {
		return false, nil
	}
	page := make([]byte, x.pageSize)
	for range x.frames {
		if _, _, err := r.ReadFrame(ctx, page); err != nil {
			return false, ctx.Err()
		}
	}
	return true, nil
}

// lookAtWAL fails with [errCut] if the WAL does not have what SQLite put there. look tells that
// of a WAL.
func lookAtWAL(database string, look func(x *walIndex, wal io.ReaderAt) (bool, error)) error {
	for range walLooks {
		before, valid, err := readWALIndex(database)
		if err != nil || !valid {
			return err
		}
		good, err := lookAtFile(database+"-wal", func(wal io.ReaderAt) (bool, error) { return look(&before, wal) })
		if err != nil || good {
			return err
		}
		after, valid, err := readWALIndex(database)
		if err != nil || !valid {
			return err
		}
		if before == after {
			return errCut
		}
	}
	return errWALChanges
}

func lookAtFile(path string, look func(io.ReaderAt) (bool, error)) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	return look(f)
}

// checkWALEnd looks at the header, at the last frame, and at what was the last frame before: a
// WAL that is cut loses that one. It is cheap.
func checkWALEnd(database string, before *walIndex) error {
	return lookAtWAL(database, func(x *walIndex, wal io.ReaderAt) (bool, error) {
		return x.matches(wal) && (x.salt != before.salt || before.matches(wal)), nil
	})
}

// checkWholeWAL looks at all of the WAL.
func checkWholeWAL(ctx context.Context, database string) error {
	return lookAtWAL(database, func(x *walIndex, wal io.ReaderAt) (bool, error) { return x.chains(ctx, wal) })
}

// proven is a snapshot that was made of the database's files. Its end is read only if the
// whole WAL is in order then: a snapshot of a WAL that was cut would claim to have what it
// has not, and a restore takes the snapshot's word.
type proven struct {
	io.Reader
	ctx    context.Context
	client *guarded
	before walIndex // as the snapshot was begun
}

// prove fails if the WAL cannot be read.
func (g *guarded) prove(ctx context.Context, snapshot io.Reader) (*proven, error) {
	p := &proven{Reader: snapshot, ctx: ctx, client: g}
	var err error
	p.before, _, err = readWALIndex(g.database)
	return p, err
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

// check looks at the whole WAL. SQLite does not start it over while a snapshot is made.
func (p *proven) check() error {
	return p.client.noticeCut(lookAtWAL(p.client.database, func(x *walIndex, wal io.ReaderAt) (bool, error) {
		if x.salt != p.before.salt {
			return false, errWALChanges
		}
		return x.chains(p.ctx, wal)
	}))
}
