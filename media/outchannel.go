package media

import (
	"sync"
	"sync/atomic"

	"github.com/pion/webrtc/v4"
)

// Bounds of what waits to be sent to one client, in bytes.
const (
	maxReliableSent   = 256 << 10 // handed to SCTP and not acknowledged; more waits here
	maxReliableQueued = 16 << 20  // then the client is too slow and starts again
	maxReliableEarly  = 256 << 10 // before the channel opens; more is dropped
	maxLossyBuffered  = 64 << 10  // then lossy messages are dropped

	maxMessagesSent = 2048 // as maxReliableSent, in messages: SCTP keeps more of each than its bytes
)

// outChannel is where messages of one label leave.
type outChannel struct {
	p     *Peer
	label string
	lossy bool

	// mu guards the following; it is held while pion takes a message, which keeps
	// messages in order.
	mu    sync.Mutex
	dc    *webrtc.DataChannel
	open  bool
	ended bool         // for good: nothing more is sent
	queue []outMessage // reliable ones, until the channel opens, and while SCTP has enough
	bytes atomic.Int64 // of queue; read without mu, too
	sent  int          // bytes handed to dc
	under []int        // sizes of those of sent that are not known to be acknowledged
	done  int          // bytes of the others
}

type outMessage struct {
	payload []byte
	flow    *dataFlow // of its sender
}

// use sends over dc from when it opens.
func (o *outChannel) use(dc *webrtc.DataChannel) {
	o.mu.Lock()
	o.dc, o.open = dc, false
	o.sent, o.under, o.done = 0, nil, 0
	o.mu.Unlock()
	dc.OnClose(func() {
		o.closed(dc)
		o.p.data.gone(dc)
	})
	if !o.lossy {
		dc.OnBufferedAmountLow(o.pump)
	}
	dc.OnOpen(func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.dc == dc && !o.ended {
			o.open = true
			o.pumpLocked()
		}
	})
}

// closed follows the end of dc.
func (o *outChannel) closed(dc *webrtc.DataChannel) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dc == dc {
		o.dropLocked()
	}
}

// end gives the channel up for good: its peer ends.
func (o *outChannel) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dropLocked()
	o.ended = true
}

// dropLocked gives up what waits.
func (o *outChannel) dropLocked() {
	o.p.engine.counters.reliableDropped.Add(uint64(len(o.queue)))
	for _, m := range o.queue {
		m.flow.release(o, m.payload)
	}
	o.open, o.queue = false, nil
	o.bytes.Store(0)
}

// taken is how many bytes the client has acknowledged.
func (o *outChannel) taken() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dc == nil {
		return 0
	}
	return o.sent - int(o.dc.BufferedAmount()) // pion's count fits into memory
}

func (o *outChannel) send(m outMessage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.ended:
		o.p.engine.counters.reliableDropped.Add(1)
	case o.lossy:
		if !o.open || o.dc.BufferedAmount() > maxLossyBuffered {
			o.p.engine.counters.lossyDropped.Add(1)
			return
		}
		o.writeLocked(m)
	case o.open && len(o.queue) == 0 && o.roomLocked():
		o.writeLocked(m)
	default:
		o.waitLocked(m)
	}
}

// waitLocked queues a reliable message. For a channel that is not open yet nobody
// is held up: what is too much is dropped. The same holds for what the server
// itself sends while too much waits in all.
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
		e.counters.reliableDropped.Add(1)
	case !fits:
		o.tooSlowLocked()
	default:
		o.queue = append(o.queue, m)
		o.bytes.Add(size)
		m.flow.hold(o, m.payload)
		o.pumpLocked()
	}
}

// roomLocked reports whether SCTP is to have more.
func (o *outChannel) roomLocked() bool {
	buffered := int(o.dc.BufferedAmount()) // pion's count fits into memory
	n := 0
	for n < len(o.under) && o.done+o.under[n] <= o.sent-buffered {
		o.done += o.under[n]
		n++
	}
	o.under = o.under[n:]
	return buffered < maxReliableSent && len(o.under) < maxMessagesSent
}

// pump goes on when SCTP has little left.
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
				return // it is called again
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

// tooSlow ends a client that does not take its reliable data: it starts again.
func (o *outChannel) tooSlow() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tooSlowLocked()
}

func (o *outChannel) tooSlowLocked() {
	if o.ended {
		return
	}
	o.dropLocked()
	o.ended = true
	o.p.engine.counters.slowReliable.Add(1)
	o.p.post(func() { o.p.needsReconnect("client does not take its reliable data") })
}

func (o *outChannel) writeLocked(m outMessage) {
	if err := o.dc.Send(m.payload); err != nil { // closed, or larger than the client accepts
		o.p.engine.counters.reliableDropped.Add(1)
		o.p.log.Debug("data message not sent", "label", o.label, "bytes", len(m.payload), "error", err)
		return
	}
	size := max(1, len(m.payload)) // an empty one is sent as one byte (RFC 8831, section 6.6)
	o.sent += size
	if !o.lossy {
		o.under = append(o.under, size)
	}
}
