package rooms

import (
	"sync"
	"sync/atomic"

	"github.com/livekit/protocol/livekit"
)

// Client is a participant's client, as the edge knows it: what the client asks for and
// what its media meets goes to the participant that it is now. A move makes it another
// participant, in another room; until then what is posted for it waits. It may be used
// concurrently.
type Client struct {
	// What never changes.

	identity      string
	attrs         []any // tell of the client in the log
	outlet        Outlet
	protocol      int
	autoSubscribe bool
	autoData      bool   // to data tracks
	hostOf        string // the room that its token makes it host of; "" = none
	onChange      func(info *livekit.ParticipantInfo, host bool)
	token         func(Arrival) string

	paid            atomic.Int64  // Unix ns: the pace that it has used up; see Pace
	lastReliableSeq atomic.Uint32 // of its data; Data's alone
	sifTrailer      []byte        // as it was told when it was admitted; set by the goroutine of that room

	at atomic.Pointer[Participant] // the participant that it is, or was last; written under mu

	mu    sync.Mutex                  // guards the following, and may be held while a mailbox's lock is taken
	moved chan struct{}               // nil unless it is under way to another room; closed when that is over
	held  []func(*Room, *Participant) // posted while it is under way
}

// SID is the PA_… id of the participant that it is.
func (c *Client) SID() string { return c.at.Load().sid }

// Identity is who it is, by its token.
func (c *Client) Identity() string { return c.identity }

// Outlet is the way to it, as it was given with the join.
func (c *Client) Outlet() Outlet { return c.outlet }

// Ended reports whether the session is over: it left, was removed or replaced, or the
// server stops.
func (c *Client) Ended() bool {
	p, moved := c.whereabouts()
	return moved == nil && p.ended.Load()
}

func (c *Client) whereabouts() (p *Participant, moved <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at.Load(), c.moved
}

// post has f run on the goroutine of the room that the client is in, unless its session is
// over. While it is under way to another room f waits.
func (c *Client) post(f func(*Room, *Participant)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.moved != nil {
		c.held = append(c.held, f)
		return
	}
	c.at.Load().post(f)
}

func (p *Participant) post(f func(*Room, *Participant)) {
	p.room.post(func() {
		if !p.ended.Load() {
			f(p.room, p)
		}
	})
}

// Sync returns when the client's room has done what was posted for the client before, or
// has gone. A client that is under way has arrived then, or its session is over.
func (c *Client) Sync() {
	p, moved := c.whereabouts()
	if moved != nil {
		<-moved
		p = c.at.Load()
	}
	_, _ = ask(p.room, func(reply answer[struct{}]) { reply(struct{}{}, nil) }) // fails only when the room is gone
}

// After calls f on the room's goroutine after everything posted earlier, so that a client's
// SDP reaches its peer after the requests that preceded it. f must not block. It is not called if the session is over before.
func (c *Client) After(f func()) { c.post(func(*Room, *Participant) { f() }) }

// depart keeps what is posted from now on until the client arrives: what was posted
// before is done in the room that it leaves, and nothing after. It returns what the move is
// known by; nil if the client is under way already, or is p no more.
func (c *Client) depart(p *Participant) chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.moved != nil || c.at.Load() != p {
		return nil
	}
	c.moved = make(chan struct{})
	return c.moved
}

// arrive ends a move: it makes the client p, which is what it was before if the move
// failed. What was kept goes there. A move ends once: the client may be on the next one.
func (c *Client) arrive(move chan struct{}, p *Participant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.moved != move {
		return
	}
	c.at.Store(p)
	for _, f := range c.held {
		p.post(f)
	}
	close(c.moved)
	c.moved, c.held = nil, nil
}
