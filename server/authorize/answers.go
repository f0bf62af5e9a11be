package authorize

import (
	"container/list"
	"crypto/sha256"
	"time"
)

// The bounds of the kept answers; beyond them the oldest are dropped.
const (
	maxAnswers = 10_000
	maxKept    = 32 << 20 // bytes
)

// call is one question, under way or answered.
type call struct {
	key    callKey
	done   chan struct{} // closed when the rest is set
	answer *Answer
	size   int // of the answer, in bytes
	err    error
	until  time.Time
	kept   *list.Element // nil until it is answered
}

// callKey identifies a question: the token and the client's own wishes (as a digest),
// whether the room would be created, and whether the client reconnects. The answer to a
// reconnect cannot serve a join, because it need not say how to change the participant.
type callKey struct {
	token             [sha256.Size]byte
	create, reconnect bool
}

// answers indexes calls. Its owner guards it.
type answers struct {
	keep  time.Duration
	calls map[callKey]*call
	order *list.List // of *call, answered, the first to expire first
	bytes int        // of them
}

func newAnswers(keep time.Duration) answers {
	return answers{keep: keep, calls: map[callKey]*call{}, order: list.New()}
}

// find returns a call for the key; nil if there is none. An answer that allows to open
// the room also allows to join the open room.
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

// finish keeps an answer. It drops a failure, so that the next join asks again.
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
