package program

import (
	"context"
	"log/slog"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// The runtime lets the heap double before it collects garbage, and gives memory back slowly.
// That saves time while people join, who leave much garbage behind. A call makes little, so
// that its process would stay for hours as large as it was during the joins.
const (
	// usualPercent and quietPercent are how much garbage there may be, relative to what is in
	// use. usualPercent is the runtime's own.
	usualPercent = 100
	quietPercent = 25

	memoryTick = time.Second
	// fewestBetween is the least time between two givings back: what comes after has to take
	// the memory again.
	fewestBetween = time.Minute
	// fewestTicks is how many ticks must lie between two collections in quiet times, so that
	// they cost next to nothing.
	fewestTicks = 10
	// calmTicks is how many ticks in a row must be calm before the time is quiet.
	calmTicks = 3
	// leastHeap is how many bytes a process is taken to use at least: to collect less is cheap.
	leastHeap = 16 << 20
)

// thrift tells quiet times from others by how much is allocated.
type thrift struct {
	allocated uint64 // in all, at the last look, in bytes
	calm      int    // ticks in a row, up to calmTicks and one more
}

// look judges a tick by the bytes that were allocated in all, and those in use. begins: it is
// the first tick of a quiet time.
func (t *thrift) look(allocated, used uint64) (quiet, begins bool) {
	made := allocated - t.allocated
	t.allocated = allocated
	if made*fewestTicks > max(used, leastHeap)*quietPercent/100 {
		t.calm = 0
		return false, false
	}
	t.calm = min(t.calm+1, calmTicks+1)
	return t.calm >= calmTicks, t.calm == calmTicks
}

// percentWith is how much garbage there may be in quiet times. A small heap may hold as much
// as one of leastHeap: else it would be collected all the time as soon as people join.
func percentWith(used uint64) int {
	return int(min(quietPercent*max(used, leastHeap)/max(used, 1), usualPercent))
}

// keepSmall gives memory back in quiet times, once after each time that was not, and lets
// little garbage gather in them, until ctx ends. If the operator has told the runtime how much
// there may be (GOGC), that stays.
func keepSmall(ctx context.Context, logger *slog.Logger) {
	figures := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/gc/gogc:percent"}}
	metrics.Read(figures)
	if figures[2].Value.Uint64() != usualPercent {
		return
	}
	defer debug.SetGCPercent(usualPercent)
	ticker := time.NewTicker(memoryTick)
	defer ticker.Stop()
	var t thrift
	var given time.Time
	full := true // nothing was given back since the last time that was not quiet
	for wasQuiet := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		metrics.Read(figures[:2])
		quiet, begins := t.look(figures[0].Value.Uint64(), figures[1].Value.Uint64())
		full = full || !quiet
		if now := time.Now(); full && quiet && now.Sub(given) >= fewestBetween {
			if given.IsZero() { // what is read after the start is read again
				if err := dropPages(); err != nil {
					logger.Debug("the pages that the start has read stay in memory", "error", err)
				}
			}
			full, given = false, now
			debug.FreeOSMemory() // it collects, too
			metrics.Read(figures[:1])
			t.allocated = figures[0].Value.Uint64() // this is no sign of people
		}
		if begins {
			metrics.Read(figures[1:2])
			debug.SetGCPercent(percentWith(figures[1].Value.Uint64()))
		} else if wasQuiet && !quiet {
			debug.SetGCPercent(usualPercent)
		}
		wasQuiet = quiet
	}
}

// unprofiled has the runtime record no allocations, which takes memory. It is done once,
// since the runtime reads the setting at any time.
var unprofiled = sync.OnceFunc(func() { runtime.MemProfileRate = 0 })
