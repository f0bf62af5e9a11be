package authorize

import (
	"container/list"
	"crypto/sha256"
	"time"
)

// The bounds of the answers that are kept; beyond them the oldest are forgotten.
const (
	maxAnswers = 10_000
	maxKept    = 32 << 20 // bytes
)

// call is one question under way, or answered.
type call struct {
	key    callKey
	done   chan struct{} // closed when the rest is set
	answer *Answer
	size   int // of the answer, in bytes
	err    error
	until  time.Time
	kept   *list.Element // nil until it is answered
}

// callKey is a token, with what its bearer wishes to be, and whether the room
// would be created. What is said of a reconnect says nothing of a join: it need
// not tell what the participant is to be.
type callKey struct {
	token             [sha256.Size]byte
	create, reconnect bool
}

// answers finds calls. Its owner guards it.
type answers struct {
	keep  time.Duration
	calls map[callKey]*call
	order *list.List // of *call, answered, the first to run out first
	bytes int        // of them
}

func newAnswers(keep time.Duration) answers {
	return answers{keep: keep, calls: map[callKey]*call{}, order: list.New()}
}

// find returns a call that answers; nil if there is none. A participant that may come in
// even though it opens the room may come in when it is open.
func (a *answers) find(key callKey, now time.Time) *call {
	for e := a.order.Front(); e != nil && !now.Before(e.Value.(*call).until); e = a.order.Front() {
		a.forget(e.Value.(*call))
	}
	if c := a.calls[key]; c != nil {
		return c
	}
	key.create = true
	if c := a.calls[key]; c != nil && c.kept != nil && *c.answer.Allow {
		return c
	}
	return nil
}

func (a *answers) add(key callKey) *call {
	c := &call{key: key, done: make(chan struct{})}
	a.calls[c.key] = c
	return c
}

// finish keeps what was answered; a failure is forgotten, so that the next who
// comes asks again.
func (a *answers) finish(c *call, now time.Time) {
	if c.err != nil || a.keep <= 0 {
		a.forget(c)
		return
	}
	c.until = now.Add(a.keep)
	c.kept = a.order.PushBack(c)
	a.bytes += c.size
	for a.order.Len() > maxAnswers || a.bytes > maxKept {
		a.forget(a.order.Front().Value.(*call))
	}
}

func (a *answers) forget(c *call) {
	if a.calls[c.key] == c {
		delete(a.calls, c.key)
	}
	if c.kept != nil {
		a.order.Remove(c.kept)
		a.bytes -= c.size
	}
}
