package program

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"parlor/rooms"
	"parlor/rooms/log"
	"parlor/rooms/sqlite"
	"parlor/server/api"
)

// noteStart writes down that the server serves, and what that took. It is no reason not to
// serve that this cannot be written.
func (p *program) noteStart(ctx context.Context) {
	took := time.Since(p.began)
	id, err := p.store.NoteStart(ctx, log.Start{AtMs: rooms.NowMs(p.began), Version: version(), ReadyMs: took.Milliseconds()})
	if err != nil {
		p.log.Warn("that the server has started cannot be written down", "error", err)
		return
	}
	p.startID = id
}

// noteStop writes down that the server has stopped in order, before the database closes.
func (p *program) noteStop(ctx context.Context, began time.Time) {
	if p.startID == 0 {
		return
	}
	if err := p.store.NoteStop(ctx, p.startID, rooms.NowMs(time.Now()), time.Since(began).Milliseconds()); err != nil {
		p.log.Warn("that the server has stopped in order cannot be written down", "error", err)
	}
}

const (
	keptCopies = 5
	copyTime   = "20060102T150405Z"
	copySuffix = ".backup"
)

// copies makes copies of the database beside it, and forgets old ones. Its methods may be
// called concurrently.
type copies struct {
	store   *sqlite.Store
	running sync.Mutex // held while a copy is made
}

// BackUp makes a copy; see [api.Backups].
func (c *copies) BackUp(ctx context.Context) (api.Backup, error) {
	if !c.running.TryLock() {
		return api.Backup{}, api.ErrBusy
	}
	defer c.running.Unlock()
	path := c.store.Path()
	if err := c.store.RemoveUnfinished(); err != nil { // before its space is counted
		return api.Backup{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return api.Backup{}, fmt.Errorf("back up the database: %w", err)
	}
	size := info.Size()
	if wal, err := os.Stat(path + "-wal"); err == nil {
		size += wal.Size()
	}
	// The copy is no larger, and as much again is left for the database to grow.
	if free, err := freeBytes(filepath.Dir(path)); err == nil && free < 2*size+littleFree {
		return api.Backup{}, api.ErrNoSpace
	}
	now := time.Now().UTC().Truncate(time.Second)
	to := path + "." + now.Format(copyTime) + copySuffix
	made, err := c.store.BackUp(ctx, to)
	if errors.Is(err, sqlite.ErrExists) {
		return api.Backup{}, api.ErrBusy // of this second
	}
	if err != nil {
		return api.Backup{}, err
	}
	all, err := c.Backups()
	if err != nil {
		return api.Backup{}, err
	}
	for _, old := range surplus(all, now) {
		if err := os.Remove(old.File); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return api.Backup{}, fmt.Errorf("remove an old copy of the database: %w", err)
		}
	}
	return api.Backup{File: to, At: now, Bytes: made.Bytes}, nil
}

// surplus is which copies are not kept, when one was made just now. A copy from later than
// now was made before, by a clock that was ahead: such copies are the first to go. All has
// the newest first.
func surplus(all []api.Backup, now time.Time) []api.Backup {
	ahead := 0 // copies from later than now, which all begins with
	for ahead < len(all) && all[ahead].At.After(now) {
		ahead++
	}
	return slices.Concat(all[ahead:], all[:ahead])[min(len(all), keptCopies):]
}

// littleFree is what is left on the disk beside a copy, in bytes.
const littleFree = 64 << 20

// Backups lists the copies; see [api.Backups].
func (c *copies) Backups() ([]api.Backup, error) {
	path := c.store.Path()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("look for copies of the database: %w", err)
	}
	var all []api.Backup
	for _, e := range entries {
		stamp, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+".")
		stamp, backup := strings.CutSuffix(stamp, copySuffix)
		at, err := time.Parse(copyTime, stamp)
		if !ok || !backup || err != nil {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("look for copies of the database: %w", err)
		}
		all = append(all, api.Backup{File: filepath.Join(filepath.Dir(path), e.Name()), At: at, Bytes: info.Size()})
	}
	slices.SortFunc(all, func(a, b api.Backup) int { return b.At.Compare(a.At) })
	return all, nil
}

// generations lists what the replica has; see [api.Generation].
func (p *program) generations(ctx context.Context) ([]api.Generation, error) {
	found, err := p.replica.Generations(ctx)
	var all []api.Generation
	for _, g := range found {
		all = append(all, api.Generation(g))
	}
	return all, err
}
