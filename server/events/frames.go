package events

import (
	"encoding/json"
	"fmt"
	"sync"

	"parlor/rooms/log"
)

const (
	// framesKept is more than a busy server writes while streams gather.
	framesKept = 128
	// frameMost bounds what is kept: a room's metadata may be long.
	frameMost = 16 << 10
)

// frames are the newest events as streams write them, so that what several readers are sent
// is made once.
type frames struct {
	mu  sync.Mutex         // guards the following
	all *[framesKept]frame // by seq, modulo their number; nil = none
}

// frame is an event as streams write it.
type frame struct{ id, text string }

// of is e as streams write it.
func (f *frames) of(e *log.Event) (string, error) {
	if text, ok := f.find(e); ok {
		return text, nil
	}
	// Two readers may both make it: none waits for another.
	body, err := json.Marshal(wire(e))
	if err != nil {
		return "", fmt.Errorf("write event %s: %w", e.ID, err)
	}
	text := fmt.Sprintf("id: %v\nevent: %s\ndata: %s\n\n", log.Cursor{Seq: e.Seq, Epoch: e.Epoch}, e.Type, body)
	if len(text) <= frameMost {
		f.keep(e, text)
	}
	return text, nil
}

func (f *frames) find(e *log.Event) (text string, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all == nil {
		return "", false
	}
	one := &f.all[e.Seq%framesKept]
	return one.text, one.id == e.ID
}

func (f *frames) keep(e *log.Event, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all == nil {
		f.all = new([framesKept]frame)
	}
	f.all[e.Seq%framesKept] = frame{e.ID, text}
}

// clear forgets all.
func (f *frames) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = nil
}
