package sqlite

import "sync"

// watchers are the readers that are told when there is something new to read.
type watchers struct {
	mu  sync.Mutex // guards all
	all map[chan struct{}]struct{}
}

func newWatchers() *watchers { return &watchers{all: make(map[chan struct{}]struct{})} }

// notify gives each watcher a token, unless it still has its last one.
func (w *watchers) notify() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.all {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (w *watchers) add() (c chan struct{}, cancel func()) {
	c = make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all[c] = struct{}{}
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.all, c)
	}
}

// Watch returns a channel that gets a token after each commit that wrote events
// or made deliveries due; see [log.Store].
func (s *Store) Watch() (c <-chan struct{}, cancel func()) { return s.watch.add() }
