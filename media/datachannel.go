package media

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
	"google.golang.org/protobuf/encoding/protowire"

	"parlor/rooms"
)

// The labels that clients and servers agree on. A message on a channel with any other
// label goes out on the receivers' reliable channels.
const (
	labelReliable  = "_reliable"
	labelLossy     = "_lossy"
	labelDataTrack = "_data_track"
)

// From this signalling protocol on, the data channels of a single peer connection are
// negotiated out of band, with these ids.
const (
	negotiatedChannelsProtocol = 18

	idReliable  uint16 = 100
	idLossy     uint16 = 101
	idDataTrack uint16 = 102
)

// Bounds of channels that a client opens. Each takes a goroutine while it is open. Pion
// keeps some state of each channel after it closed.
const (
	maxOpened     = 128  // at one time
	maxOpenedEver = 4096 // by one peer
)

// sequenceField is DataPacket.sequence.
const sequenceField = 16

// dataChannels are a peer's data channels. Messages to the client go out on the primary
// transport. Messages from the client may come on any channel that the client has.
// Sending takes a channel's lock and pion's, and waits for neither the network nor the
// loop.
type dataChannels struct {
	p       *Peer
	lastSeq atomic.Uint32
	flow    *dataFlow              // what the client sent to others
	out     map[string]*outChannel // by label; never changed

	// mu guards the following.
	mu     sync.Mutex
	reads  sync.WaitGroup                   // goroutines in read; none begins once closed
	opened map[*webrtc.DataChannel]struct{} // channels that the client opened and that are not closed
	ever   int                              // how many channels the client has opened
	closed bool
}

func newDataChannels(p *Peer) *dataChannels {
	d := &dataChannels{p: p, out: map[string]*outChannel{}, opened: map[*webrtc.DataChannel]struct{}{}, flow: newDataFlow(&p.engine.waiting)}
	cfg := &p.engine.cfg
	d.out[labelReliable] = &outChannel{p: p, label: labelReliable}
	d.out[labelLossy] = &outChannel{p: p, label: labelLossy, lossy: true, most: maxLossyBuffered, latest: cfg.LossyLatency}
	d.out[labelDataTrack] = &outChannel{p: p, label: labelDataTrack, lossy: true, most: maxTrackBuffered, latest: cfg.DataTrackLatency}
	return d
}

// close drops messages that wait to be sent. It is called before the transports end, and
// wait after it.
func (d *dataChannels) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	for _, o := range d.out {
		o.end()
	}
}

// wait returns when nothing reads the channels any more.
func (d *dataChannels) wait() { d.reads.Wait() }

// create makes our channels on the transport for which we make the offers.
func (d *dataChannels) create(pc *webrtc.PeerConnection) error {
	return d.createAll(pc, func(string) *webrtc.DataChannelInit { return &webrtc.DataChannelInit{} })
}

// negotiated makes the channels with fixed ids, which both sides open without announcing
// them.
func (d *dataChannels) negotiated(pc *webrtc.PeerConnection) error {
	ids := map[string]uint16{labelReliable: idReliable, labelLossy: idLossy, labelDataTrack: idDataTrack}
	return d.createAll(pc, func(label string) *webrtc.DataChannelInit {
		yes, id := true, ids[label]
		return &webrtc.DataChannelInit{Negotiated: &yes, ID: &id}
	})
}

func (d *dataChannels) createAll(pc *webrtc.PeerConnection, base func(label string) *webrtc.DataChannelInit) error {
	for _, label := range []string{labelReliable, labelLossy, labelDataTrack} {
		init := base(label)
		if label != labelReliable {
			ordered, none := false, uint16(0)
			init.Ordered, init.MaxRetransmits = &ordered, &none
		}
		dc, err := pc.CreateDataChannel(label, init)
		if err != nil {
			return err
		}
		d.follow(dc, d.out[label])
	}
	return nil
}

// accept takes a channel that the client opened. It runs on pion's goroutine.
func (d *dataChannels) accept(dc *webrtc.DataChannel) {
	if !d.mayOpen(dc) {
		_ = dc.Close() // before pion has begun to read it
		return
	}
	out := d.out[dc.Label()]
	if d.p.sub != nil && d.p.cfg.SubscriberPrimary {
		out = nil // this channel only receives: ours are on the other transport
	}
	d.follow(dc, out)
}

// follow has out, if any, use dc, and reads dc from the time that it opens until it
// closes.
func (d *dataChannels) follow(dc *webrtc.DataChannel, out *outChannel) {
	closed := func() {
		if out != nil {
			out.closed(dc)
		}
		d.gone(dc)
	}
	if out != nil {
		out.use(dc)
	}
	dc.OnClose(closed) // of a channel that never opened
	dc.OnOpen(func() {
		raw, err := dc.Detach()
		if err != nil {
			return // the peer ends
		}
		if out != nil {
			out.opened(dc)
		}
		d.begin(func() {
			defer closed()
			d.read(dc.Label(), raw)
		})
	})
}

// begin starts a goroutine that reads, unless the peer ends.
func (d *dataChannels) begin(read func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.reads.Go(read)
	}
}

// mayOpen notes that the client opened dc. A client that opens too many channels must
// reconnect.
func (d *dataChannels) mayOpen(dc *webrtc.DataChannel) bool {
	d.mu.Lock()
	d.ever++
	ok := len(d.opened) < maxOpened && d.ever <= maxOpenedEver && !d.closed
	if ok {
		d.opened[dc] = struct{}{}
	}
	d.mu.Unlock()
	if !ok {
		d.p.engine.counters.channelFloods.Add(1)
		d.p.post(func() { d.p.needsReconnect("too many data channels") })
	}
	return ok
}

// gone forgets a channel that closed.
func (d *dataChannels) gone(dc *webrtc.DataChannel) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.opened, dc)
}

// smallMessage is the size of a channel's own buffer. Longer messages are read into a
// borrowed one: most channels are silent.
const smallMessage = 1 << 10

// read passes messages of a channel on, until the channel closes. If the room or the
// receivers are slow, this client waits, and no other client does. All channels of the
// client wait together, because SCTP has one receive window for all of them.
func (d *dataChannels) read(label string, channel interface {
	ReadDataChannel(b []byte) (n int, text bool, err error)
}) {
	small := make([]byte, smallMessage)
	for {
		n, _, err := channel.ReadDataChannel(small)
		message := small
		var large *[]byte
		if errors.Is(err, io.ErrShortBuffer) { // the message stays where it is
			large = d.p.engine.largeBuffer()
			message = *large
			n, _, err = channel.ReadDataChannel(message)
		}
		if err == nil {
			message = bytes.Clone(message[:n])
		}
		if large != nil {
			d.p.engine.messages.Put(large)
		}
		switch {
		case errors.Is(err, io.ErrShortBuffer):
			d.tooLong()
			return
		case err != nil:
			return
		}
		d.take(label, message)
	}
}

// largeBuffer lends a buffer for the longest message that is taken. It goes back to
// messages.
func (e *Engine) largeBuffer() *[]byte {
	if b, ok := e.messages.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, rooms.MaxDataPacket)
	return &b
}

// take passes a message on.
func (d *dataChannels) take(label string, message []byte) {
	if d.p.closing.Load() {
		return
	}
	if !d.p.dataAllowed.Load() {
		d.p.engine.counters.dataRefused.Add(1)
		return
	}
	switch label {
	case labelLossy:
		d.p.cfg.Events.Data(livekit.DataPacket_LOSSY, message)
	case labelDataTrack:
		d.p.cfg.Events.DataTrack(message)
	case labelReliable:
		d.flow.pass(d.p.engine, d.p.stop, func() {
			d.noteSequence(message)
			d.p.cfg.Events.Data(livekit.DataPacket_RELIABLE, message)
		})
	default:
		d.flow.pass(d.p.engine, d.p.stop, func() { d.p.cfg.Events.Message(message) })
	}
}

// tooLong makes a client reconnect that sends longer messages than our session
// description allows (a=max-message-size, RFC 8841, section 6).
func (d *dataChannels) tooLong() {
	d.p.engine.counters.dataRefused.Add(1)
	d.p.post(func() { d.p.needsReconnect("a data message is longer than the server takes") })
}

func (d *dataChannels) noteSequence(packet []byte) {
	if seq := packetSequence(packet); seq > d.lastSeq.Load() {
		d.lastSeq.Store(seq)
	}
}

// packetSequence reads a DataPacket's sequence without decoding the rest; 0 if there is
// none, or if b is no DataPacket.
func packetSequence(b []byte) uint32 {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0
		}
		b = b[n:]
		if num == sequenceField && typ == protowire.VarintType {
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return 0
			}
			return uint32(v)
		}
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return 0
		}
		b = b[n:]
	}
	return 0
}

// send queues a message. The sender is nil for messages of the server itself.
func (d *dataChannels) send(sender *Peer, label string, payload []byte) {
	if d.p.closing.Load() {
		return
	}
	flow := d.p.engine.flow
	if sender != nil {
		flow = sender.data.flow
	}
	d.out[label].send(outMessage{payload, flow})
}
