package sqlite

import (
	"log/slog"
	"sync"
	"sync/atomic"
)

// damage knows the rows of which a part could not be read. Such a row stands for as much as
// its other columns tell, so that neither its room nor anybody else's waits for it. Each is
// logged once.
type damage struct {
	log   *slog.Logger
	count atomic.Int64

	mu   sync.Mutex // guards rows
	rows map[string]struct{}
}

// damageMost bounds how many rows are remembered.
const damageMost = 10_000

func newDamage(log *slog.Logger) *damage {
	return &damage{log: log, rows: make(map[string]struct{})}
}

// note records what was read of a part of a row: err is why it could not be, nil that it
// could. It reports whether the part is damaged.
func (d *damage) note(part, id string, err error) bool {
	if err == nil && d.count.Load() == 0 {
		return false
	}
	key := part + " " + id
	d.mu.Lock()
	defer d.mu.Unlock()
	_, known := d.rows[key]
	switch {
	case err == nil && known:
		delete(d.rows, key)
	case err != nil && !known && len(d.rows) < damageMost:
		d.rows[key] = struct{}{}
		d.log.Error("a row of the database is damaged, going on without what cannot be read", "part", part, "id", id, "error", err)
	}
	d.count.Store(int64(len(d.rows)))
	return err != nil
}
