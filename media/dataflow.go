package media

import (
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of the reliable data that waits for receivers.
const (
	maxFlowWaiting = 8 << 20   // bytes of one sender, then its client waits
	maxDataWaiting = 256 << 20 // bytes of all, then each has one message under way at a time
	crowdedQueue   = 8 << 20   // bytes that wait for one receiver, then a sender of any of them waits
	minDataRate    = 12_500    // bytes a second that a receiver takes at least while a sender waits for it

	messageOverhead = 64 // counted for a message beside its bytes
)

// dataFlow is the reliable data of one sender that some receiver has not taken
// yet. A sender that is much faster than its receivers is made to wait: its data
// channels are not read, so that SCTP's flow control (RFC 9260, section 6.2) slows
// its client. A receiver that makes a sender wait and takes next to nothing itself
// is cut off, so that nobody waits for the dead.
//
// Waiting is no good thing: SCTP's window is one for all channels of a client, and
// what was acknowledged and not read is lost if the client leaves. Hence the bound
// of a sender is far above what is sent in one go.
type dataFlow struct {
	total *atomic.Int64 // bytes of all clients' flows of the engine

	// gate is held while one message is passed on, so that a client gets past its
	// bound with no more than one, however many channels it has.
	gate sync.Mutex

	// mu guards the following. It may be taken while an outChannel's is held, and
	// not the other way round.
	mu       sync.Mutex
	bytes    int
	messages map[*byte]heldMessage // by the first byte: receivers share a message's bytes
	at       map[*outChannel]int   // messages that wait there
	eased    chan struct{}         // closed when something was taken
}

type heldMessage struct{ receivers, size int }

func newDataFlow(total *atomic.Int64) *dataFlow {
	return &dataFlow{total: total, messages: map[*byte]heldMessage{}, at: map[*outChannel]int{}, eased: make(chan struct{})}
}

// hold notes that payload waits at o.
func (f *dataFlow) hold(o *outChannel, payload []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at[o]++
	size := len(payload) + messageOverhead
	if len(payload) > 0 {
		m := f.messages[&payload[0]]
		m.receivers++
		m.size = max(m.size, size)
		f.messages[&payload[0]] = m
		if m.receivers > 1 {
			return
		}
	}
	f.addLocked(size)
}

// release notes that payload does not wait at o any more.
func (f *dataFlow) release(o *outChannel, payload []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at[o]--; f.at[o] == 0 {
		delete(f.at, o)
	}
	size := len(payload) + messageOverhead
	if len(payload) > 0 {
		m := f.messages[&payload[0]]
		m.receivers--
		size = m.size
		if m.receivers > 0 {
			f.messages[&payload[0]] = m
			return
		}
		delete(f.messages, &payload[0])
	}
	f.addLocked(-size)
	close(f.eased)
	f.eased = make(chan struct{})
}

func (f *dataFlow) addLocked(n int) {
	f.bytes += n
	f.total.Add(int64(n))
}

// over reports whether more waits than limit, or anything while too much waits in
// all, or where it waits; and gives a channel that is closed when that may have
// changed.
func (f *dataFlow) over(limit int, total int64) (bool, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bytes > limit || f.bytes > 0 && (f.total.Load() > total || f.crowdedLocked()), f.eased
}

// crowdedLocked reports whether much waits, of any sender, where something of this
// flow does: many senders together are not to fill a receiver's queue.
func (f *dataFlow) crowdedLocked() bool {
	for o := range f.at {
		if o.bytes.Load() > crowdedQueue {
			return true
		}
	}
	return false
}

// pass passes a message of this flow on, after its client was held up if it is
// faster than its receivers.
func (f *dataFlow) pass(e *Engine, stop <-chan struct{}, on func()) {
	f.gate.Lock()
	defer f.gate.Unlock()
	f.wait(e, stop)
	on()
}

// wait holds up a client that is faster than its receivers. It returns early when
// stop is closed.
func (f *dataFlow) wait(e *Engine, stop <-chan struct{}) {
	over, eased := f.over(e.cfg.MaxFlowWaiting, e.cfg.MaxDataWaiting)
	if !over {
		return
	}
	e.counters.dataHeldUp.Add(1)
	w := stallWatch{least: int(e.cfg.DataStall.Seconds() * minDataRate), marks: map[*outChannel]*stallMark{}}
	w.look(f.taken())
	ticker := time.NewTicker(e.cfg.DataStall / stallLooks)
	defer ticker.Stop()
	for over {
		select {
		case <-stop:
			return
		case <-eased:
		case <-ticker.C:
			w.look(f.taken())
		}
		over, eased = f.over(e.cfg.MaxFlowWaiting/2, e.cfg.MaxDataWaiting)
	}
}

// stallLooks is how often a receiver is looked at before it is cut off. It is not
// cut off by the clock alone, which also runs while this process does not.
const stallLooks = 10

// stallWatch cuts off receivers that take less than least bytes over stallLooks.
type stallWatch struct {
	least int
	marks map[*outChannel]*stallMark
}

// stallMark is what a receiver had taken, so many looks ago.
type stallMark struct{ taken, looks int }

// look goes through the receivers that a sender waits for.
func (w *stallWatch) look(taken map[*outChannel]int) {
	for o, n := range taken {
		m := w.marks[o]
		if m == nil || n-m.taken >= w.least {
			w.marks[o] = &stallMark{taken: n}
			continue
		}
		if m.looks++; m.looks >= stallLooks {
			o.tooSlow()
		}
	}
}

// taken is how many bytes each receiver has taken that something waits for.
func (f *dataFlow) taken() map[*outChannel]int {
	f.mu.Lock()
	all := make(map[*outChannel]int, len(f.at))
	for o := range f.at {
		all[o] = 0
	}
	f.mu.Unlock()
	for o := range all {
		all[o] = o.taken()
	}
	return all
}
