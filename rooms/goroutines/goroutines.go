// Package goroutines has the goroutines that something started and has to wait for. It has
// one noun, the [Group].
package goroutines

import (
	"context"
	"sync"
)

// Group counts goroutines. It is a [sync.WaitGroup] with a bound on its Wait. The zero
// value counts none. Its methods may be called concurrently.
type Group struct {
	mu   sync.Mutex // guards the following
	n    int
	idle chan struct{} // closed when n becomes 0; nil = nobody waits
}

// Go runs f on a goroutine of the group.
func (g *Group) Go(f func()) {
	g.Begin()
	go func() {
		defer g.End()
		f()
	}()
}

// Begin adds the caller's goroutine, which must call End. An owner that waits once and for
// good must see to it that nothing begins after that: Begin itself does not refuse.
func (g *Group) Begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n++
}

// End removes a goroutine that Begin added.
func (g *Group) End() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n--; g.n == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

// Wait returns nil when the group has no goroutine, or ctx's error if that ends first.
func (g *Group) Wait(ctx context.Context) error {
	g.mu.Lock()
	if g.n == 0 {
		g.mu.Unlock()
		return nil
	}
	if g.idle == nil {
		g.idle = make(chan struct{})
	}
	idle := g.idle
	g.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
