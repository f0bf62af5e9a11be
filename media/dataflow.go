package media

import (
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of the reliable data that waits for receivers.
const (
	maxFlowWaiting = 8 << 20   // bytes of one sender; above, its client waits
	maxDataWaiting = 256 << 20 // bytes of all senders; above, each has one message under way at a time
	crowdedQueue   = 8 << 20   // bytes that wait for one receiver; above, each sender of some of them waits
	minDataRate    = 12_500    // bytes per second that a receiver must take while a sender waits for it, without Config.SlowThreshold

	messageOverhead = 64 // counted for a message on top of its bytes
)

// dataFlow is the reliable data of one sender that some receiver has not taken yet. A
// sender that is much faster than its receivers is made to wait: the server stops reading
// its data channels, so that SCTP's flow control (RFC 9260, section 6.2) slows the
// client. A receiver that makes a sender wait and takes less than minDataRate must
// reconnect, so that no sender waits for a dead receiver. With Config.SlowThreshold one
// that takes less than that loses what waits for it instead, as LiveKit does it.
//
// Making a client wait has a price. SCTP has one receive window for all channels of a
// client, and messages that SCTP acknowledged but that were not read are lost if the
// client leaves. So the bound of a sender is far above what clients send in one go.
type dataFlow struct {
	total *atomic.Int64 // bytes of the flows of all clients of the engine

	// gate is held while one message is passed on, so that a client exceeds its bound by
	// at most one message, however many channels it has.
	gate sync.Mutex

	// mu guards the following. It may be taken while an outChannel's mu is held, but not
	// the other way round.
	mu       sync.Mutex
	bytes    int
	messages map[*byte]heldMessage // by address of the first byte: receivers share a message's bytes
	at       map[*outChannel]int   // messages that wait at each channel
	eased    chan struct{}         // closed when a receiver took something
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

// over reports whether the sender has to wait: more than limit bytes of the flow wait; or
// some wait while more than total bytes wait in the whole engine, or while one of their
// receivers has too much waiting. The channel is closed when that may have changed.
func (f *dataFlow) over(limit int, total int64) (bool, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bytes > limit || f.bytes > 0 && (f.total.Load() > total || f.crowdedLocked()), f.eased
}

// crowdedLocked reports whether some receiver of this flow has more than crowdedQueue
// bytes waiting, of any sender: many senders together must not fill a receiver's queue.
func (f *dataFlow) crowdedLocked() bool {
	for o := range f.at {
		if o.bytes.Load() > crowdedQueue {
			return true
		}
	}
	return false
}

// pass waits until the sender may pass a message on, and calls on.
func (f *dataFlow) pass(e *Engine, stop <-chan struct{}, on func()) {
	f.gate.Lock()
	defer f.gate.Unlock()
	f.wait(e, stop)
	on()
}

// wait blocks while a client is faster than its receivers. It returns early when stop is
// closed.
func (f *dataFlow) wait(e *Engine, stop <-chan struct{}) {
	over, eased := f.over(e.cfg.MaxFlowWaiting, e.cfg.MaxDataWaiting)
	if !over {
		return
	}
	e.counters.dataHeldUp.Add(1)
	rate := float64(minDataRate)
	if e.cfg.SlowThreshold > 0 {
		rate = float64(e.cfg.SlowThreshold) / 8
	}
	w := stallWatch{least: int64(e.cfg.DataStall.Seconds() * rate), marks: map[*outChannel]*stallMark{}}
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

// stallLooks is how many times a receiver is looked at before it is too slow. The
// clock alone does not decide, because it also runs while this process is suspended.
const stallLooks = 10

// stallWatch finds receivers too slow that take less than least bytes over stallLooks.
type stallWatch struct {
	least int64
	marks map[*outChannel]*stallMark
}

// stallMark is the number of bytes that a receiver had taken a number of looks ago.
type stallMark struct {
	taken int64
	looks int
}

// look goes through the receivers that a sender waits for.
func (w *stallWatch) look(taken map[*outChannel]int64) {
	for o, n := range taken {
		m := w.marks[o]
		if m == nil || n-m.taken >= w.least {
			w.marks[o] = &stallMark{taken: n}
			continue
		}
		if m.looks++; m.looks >= stallLooks {
			o.tooSlow()
			delete(w.marks, o)
		}
	}
}

// taken is the number of bytes that each receiver of this flow's waiting messages has
// taken.
func (f *dataFlow) taken() map[*outChannel]int64 {
	f.mu.Lock()
	all := make(map[*outChannel]int64, len(f.at))
	for o := range f.at {
		all[o] = 0
	}
	f.mu.Unlock()
	for o := range all {
		all[o] = o.taken()
	}
	return all
}
