package forward

import (
	"sync"
	"time"
)

// tickInterval is how often each track looks at its timers.
const tickInterval = 100 * time.Millisecond

// Ticker drives the timers of many tracks from one goroutine, which lives from
// [NewTicker] to [Ticker.Close].
type Ticker struct {
	stop chan struct{}
	done sync.WaitGroup

	mu     sync.Mutex // guards the following
	tracks map[*Track]struct{}
}

// NewTicker starts a ticker.
func NewTicker() *Ticker {
	t := &Ticker{stop: make(chan struct{}), tracks: make(map[*Track]struct{})}
	t.done.Go(t.run)
	return t
}

// Close ends the goroutine and waits for it. Tracks that still use the ticker go
// on without timers.
func (t *Ticker) Close() {
	close(t.stop)
	t.done.Wait()
}

func (t *Ticker) run() {
	ticks := time.NewTicker(tickInterval)
	defer ticks.Stop()
	var tracks []*Track
	for {
		select {
		case <-t.stop:
			return
		case now := <-ticks.C:
			tracks = t.snapshot(tracks[:0])
			for _, track := range tracks {
				track.tick(now)
			}
			clear(tracks)
		}
	}
}

func (t *Ticker) snapshot(into []*Track) []*Track {
	t.mu.Lock()
	defer t.mu.Unlock()
	for track := range t.tracks {
		into = append(into, track)
	}
	return into
}

func (t *Ticker) add(track *Track) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tracks[track] = struct{}{}
}

func (t *Ticker) remove(track *Track) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.tracks, track)
}
