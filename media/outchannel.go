package media

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/webrtc/v4"
)

// Bounds of what waits to be sent to one client, in bytes.
const (
	maxReliableSent   = 256 << 10 // bytes that SCTP has and that are not acknowledged; more waits here
	maxReliableQueued = 16 << 20  // above, the client is too slow
	maxReliableEarly  = 256 << 10 // before the channel opens; above, messages are dropped
	maxLossyBuffered  = 64 << 10  // above, lossy messages are dropped
	maxTrackBuffered  = 1 << 20   // as well, of data tracks: a frame is many messages at once
	minLateBuffered   = 8 << 10   // with less, none is dropped for being late

	maxMessagesSent = 2048 // like maxReliableSent, but in messages: SCTP keeps more of each than its bytes
)

// outChannel sends the messages of one label.
type outChannel struct {
	p     *Peer
	label string
	lossy bool
	// Of lossy channels: most bytes that are handed to SCTP, and how late what is sent may
	// be, beside the round trip; 0 = as late as it may.
	most   uint64
	latest time.Duration

	// mu guards the following. It is held while pion takes a message, which keeps
	// messages in order.
	mu    sync.Mutex
	dc    *webrtc.DataChannel
	open  bool
	ended bool         // for good: no more messages are sent
	queue []outMessage // reliable messages that wait until the channel opens, or until SCTP takes more
	bytes atomic.Int64 // bytes of queue; also read without mu
	sent  int64        // bytes handed to dc
	under []int        // sizes of the messages, among those of sent, that are not known to be acknowledged
	done  int64        // bytes of the acknowledged messages
	late  lateness     // of a lossy channel with latest
}

type outMessage struct {
	payload []byte
	flow    *dataFlow // of its sender
}

// use sends over dc, from the time that it opens.
func (o *outChannel) use(dc *webrtc.DataChannel) {
	o.mu.Lock()
	o.dc, o.open = dc, false
	o.sent, o.under, o.done, o.late = 0, nil, 0, lateness{}
	o.mu.Unlock()
	switch {
	case !o.lossy:
		dc.OnBufferedAmountLow(o.pump)
	case o.latest > 0:
		dc.OnBufferedAmountLow(func() { o.allTaken(dc) })
	}
}

// opened sends what has waited for dc to open.
func (o *outChannel) opened(dc *webrtc.DataChannel) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dc == dc && !o.ended {
		o.open = true
		o.pumpLocked()
	}
}

// closed drops the queue when dc has closed.
func (o *outChannel) closed(dc *webrtc.DataChannel) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dc == dc {
		o.dropLocked()
	}
}

// end drops the queue and stops sending for good, because the peer ends.
func (o *outChannel) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dropLocked()
	o.ended = true
}

// dropLocked drops the queue, because the channel has closed.
func (o *outChannel) dropLocked() {
	o.dropped(len(o.queue))
	o.open = false
	o.forgetLocked()
}

// forgetLocked empties the queue.
func (o *outChannel) forgetLocked() {
	for _, m := range o.queue {
		m.flow.release(o, m.payload)
	}
	o.queue = nil
	o.bytes.Store(0)
}

// dropped counts messages that are not sent.
func (o *outChannel) dropped(n int) {
	c := &o.p.engine.counters.reliableDropped
	if o.lossy {
		c = &o.p.engine.counters.lossyDropped
	}
	c.Add(uint64(n))
}

// taken is the number of bytes that the client has acknowledged.
func (o *outChannel) taken() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dc == nil {
		return 0
	}
	return o.sent - int64(o.dc.BufferedAmount())
}

func (o *outChannel) send(m outMessage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.ended:
		o.dropped(1)
	case o.lossy:
		o.sendLossyLocked(m)
	case o.open && len(o.queue) == 0 && o.roomLocked():
		o.writeLocked(m)
	default:
		o.waitLocked(m)
	}
}

// sendLossyLocked sends m at once, or drops it.
func (o *outChannel) sendLossyLocked(m outMessage) {
	if !o.open {
		o.dropped(1)
		return
	}
	buffered, now := o.dc.BufferedAmount(), time.Time{}
	if o.latest > 0 {
		now = time.Now()
		o.late.taken(o.sent-int64(buffered), now)
	}
	switch {
	case buffered > o.most, o.late.full():
		o.dropped(1)
		return
	case buffered > minLateBuffered && o.late.late(now) > o.latest && o.latest > 0:
		o.p.engine.counters.lossyLate.Add(1)
		return
	}
	if o.writeLocked(m) && o.latest > 0 {
		o.late.handed(o.sent, now)
	}
}

// allTaken notes that the client has taken all that dc was given. Without it what a
// seldom message's round trip is would be known only with the next message.
func (o *outChannel) allTaken(dc *webrtc.DataChannel) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dc == dc {
		o.late.taken(o.sent-int64(dc.BufferedAmount()), time.Now())
	}
}

// waitLocked queues a reliable message. A channel that is not open yet holds up no
// sender: above maxReliableEarly its messages are dropped. Messages of the server itself
// are dropped too, while more than MaxDataWaiting of its bytes wait.
func (o *outChannel) waitLocked(m outMessage) {
	e := o.p.engine
	most := int64(maxReliableQueued)
	if !o.open {
		m.flow, most = e.flow, maxReliableEarly
	}
	size := int64(len(m.payload) + messageOverhead)
	fits := o.bytes.Load()+size <= most
	switch {
	case m.flow == e.flow && e.early.Load() > e.cfg.MaxDataWaiting, !fits && !o.open:
		o.dropped(1)
	case !fits && e.cfg.SlowThreshold > 0:
		e.counters.reliableSlow.Add(1)
	case !fits:
		o.tooSlowLocked()
	default:
		o.queue = append(o.queue, m)
		o.bytes.Add(size)
		m.flow.hold(o, m.payload)
		o.pumpLocked()
	}
}

// roomLocked reports whether SCTP should get more messages.
func (o *outChannel) roomLocked() bool {
	buffered := int64(o.dc.BufferedAmount())
	n := 0
	for n < len(o.under) && o.done+int64(o.under[n]) <= o.sent-buffered {
		o.done += int64(o.under[n])
		n++
	}
	o.under = o.under[n:]
	return buffered < maxReliableSent && len(o.under) < maxMessagesSent
}

// pump continues to send when SCTP has few bytes left.
func (o *outChannel) pump() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pumpLocked()
}

func (o *outChannel) pumpLocked() {
	for o.open && len(o.queue) > 0 {
		if !o.roomLocked() {
			low := o.dc.BufferedAmount() / 2
			o.dc.SetBufferedAmountLowThreshold(low)
			if o.dc.BufferedAmount() > low {
				return // pump is called again
			}
			continue
		}
		m := o.queue[0]
		o.queue[0] = outMessage{}
		o.queue = o.queue[1:]
		o.bytes.Add(-int64(len(m.payload) + messageOverhead))
		o.writeLocked(m)
		m.flow.release(o, m.payload)
	}
}

// tooSlow makes a client reconnect that does not take its reliable data, or drops what
// waits for it, if there is a threshold for that.
func (o *outChannel) tooSlow() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tooSlowLocked()
}

func (o *outChannel) tooSlowLocked() {
	if o.ended {
		return
	}
	if o.p.engine.cfg.SlowThreshold > 0 {
		o.p.engine.counters.reliableSlow.Add(uint64(len(o.queue)))
		o.forgetLocked()
		return
	}
	o.dropLocked()
	o.ended = true
	o.p.engine.counters.slowReliable.Add(1)
	o.p.post(func() { o.p.needsReconnect("client does not take its reliable data") })
}

// writeLocked hands m to SCTP, and reports whether it was taken.
func (o *outChannel) writeLocked(m outMessage) bool {
	if err := o.dc.Send(m.payload); err != nil { // the channel closed, or the message is larger than the client accepts
		o.dropped(1)
		o.p.log.Debug("data message not sent", "label", o.label, "bytes", len(m.payload), "error", err)
		return false
	}
	size := max(1, len(m.payload)) // an empty message is sent as one byte (RFC 8831, section 6.6)
	o.sent += int64(size)
	if !o.lossy {
		o.under = append(o.under, size)
	}
	return true
}
