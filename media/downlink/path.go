package downlink

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"

	"parlor/media/downlink/allocate"
	"parlor/media/downlink/feedback"
	"parlor/media/downlink/pacer"
	"parlor/media/downlink/sent"
)

// How often the bandwidth of a path is divided among the streams: while some layer is
// held back, and otherwise.
const (
	divideEvery  = int64(100 * time.Millisecond)
	divideSeldom = int64(900 * time.Millisecond)
)

// mostPadding bounds the packets of a probe that are sent at once.
const mostPadding = 64

// Stream is one of the streams of a path. When its methods are called, the path holds
// none of the locks that a Stream's own calls of the path take, except division and
// serving.
type Stream interface {
	SSRC() uint32
	// Repair is the SSRC of its retransmissions; SSRC if they have none of their own.
	Repair() uint32
	// Video reports whether the stream is video, whose frames depend on each other, and
	// not audio.
	Video() bool
	// Probes reports whether the stream can send packets for a probe, and gets feedback
	// on them.
	Probes() bool
	// Describe is the subscriber's wish for the stream, and the cost of each layer.
	Describe(at time.Time) allocate.Track
	// Decide sets which layer of the stream is forwarded; t is the result of Describe.
	Decide(t *allocate.Track, d *allocate.Decision)
	// Release sends or drops a packet that has waited, by the verdict. ticket is the one
	// with which the packet was offered.
	Release(ticket int32, verdict pacer.Verdict, at time.Time)
	// Pad sends a packet for a probe, of about size bytes at most. It returns false if
	// the stream has ended.
	Pad(size int, at time.Time) bool
	// Over is called after one or more calls of Release or Pad.
	Over()
	// Begin is called when packets can arrive from now on: what was to be sent before was not.
	Begin(at time.Time)
}

// Transport is the transport of a path.
type Transport interface {
	// Flush sends the written packets.
	Flush()
	// WriteRTCP takes RTCP, which leaves with the next Flush. It may be called concurrently.
	WriteRTCP(packets []rtcp.Packet) error
}

// Path is the path to one subscriber, shared by the streams to it. All their packets
// leave on it. It knows the socket and the address, numbers the packets for
// transport-wide congestion control, estimates the bandwidth from the subscriber's
// reports, tells the streams which layers they may forward, and sends probes.
//
// A nil Path is for an output without a bandwidth limit: its packets are not numbered, do
// not wait, and their bitrate is not divided.
//
// Its methods may be called concurrently. It has no goroutine: it acts when packets
// leave, in the ticks of its streams, and in its [Turns]. It has an appointment with these
// while a probe runs, while packets wait in the pacer, after a report with a large change,
// and after the path dropped some. It has none when the last stream is removed and nothing
// waits: nobody waits for a run that has begun, which then finds no stream.
type Path struct {
	transport Transport
	epoch     time.Time     // times are nanoseconds since epoch
	bandwidth atomic.Uint64 // bits/s; 0 = no bound is known

	// out is how packets leave; nil until it is chosen.
	out atomic.Pointer[outgoing]

	// division is held while the bandwidth is divided, so that divisions take effect one
	// after the other.
	division sync.Mutex

	// serving is held while waiting packets and the packets of a probe are sent. It guards
	// sent, which are the streams that have sent some since the last flush.
	serving sync.Mutex
	sent    []Stream

	// paces: packets may have to wait, so they must be offered to the control. It is set
	// under mu.
	paces atomic.Bool
	// probing is how many of its streams probe, and by that make it estimate. Set as paces is.
	probing atomic.Int32
	// lossy: the path loses packets, and not because it is full. Set as paces is.
	lossy atomic.Bool

	// voices are the streams whose sound is forwarded.
	voices voices

	// leaving is held while the packets of a burst are numbered and written, so that
	// packets leave in the order of their numbers, and each SSRC has one writer at a
	// time. It guards number, which is the last assigned one, departed, and way, which is
	// the last known one.
	leaving  sync.Mutex
	number   uint16
	departed []departure
	way      Way

	connected atomic.Bool

	// mu guards the following. It is held only for short times, because the reader of the
	// socket waits for it when feedback comes.
	mu        sync.Mutex
	streams   []Stream
	control   Control[waiting]
	dividedAt int64
	countedAt int64
	due       bool           // a report requires a division
	gaps      []gap          // of packets that the path itself dropped; one per stream at most
	malformed *atomic.Uint64 // counts malformed feedback; nil = not counted
	totals    *Totals        // get the measurements of the path; nil = none
	turns     *Turns         // in which it acts; nil before they are given or needed

	appointed int // index of its appointment with its turns, plus 1; 0 = it has none. Their lock guards it.
}

// departure is a packet that has left and that the control has not recorded yet.
type departure struct {
	size     int32
	kind     sent.Kind
	wide     bool // it has a transport-wide number
	named    bool // the receiver reports on it by these:
	ssrc     uint32
	sequence uint16
	again    uint16 // the number of the same packet, which left before; 0 = none
}

// Departing is a packet that leaves next.
type Departing struct {
	Size int // bytes
	Kind sent.Kind
	Wide bool // it is to have a transport-wide number
	// Named: the receiver reports on it by SSRC and sequence number (RFC 8888).
	Named    bool
	SSRC     uint32
	Sequence uint16
	// Again is the transport-wide number of the same packet, which left before and is
	// repeated in the same bytes; 0 = it is not. It takes no other number.
	Again uint16
}

// mostDepartures bounds the packets that the control has not recorded yet.
const mostDepartures = 64

// waiting is a packet in the pacer. Its stream keeps the packet itself, by the ticket.
type waiting struct {
	stream Stream
	ticket int32
}

// gap is the number from which on packets of a stream were dropped on the path.
type gap struct {
	stream uint32
	number uint16
}

// New makes a path without measurements. It estimates nothing before Connected.
func New(t Transport) *Path {
	return &Path{
		transport: t, epoch: time.Now().Add(-time.Hour), control: *NewControl[waiting](false),
		departed: make([]departure, 0, mostDepartures),
	}
}

// Linked reports whether the packets of a stream are useless without the former ones.
// This holds for video, but not for its retransmissions.
func (d *Path) Linked(ssrc uint32) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.streamLocked(ssrc)
	return s != nil && s.Video()
}

// Dropped notes that the path dropped packets of a stream from a number on, after the
// first one had waited for that long: the bandwidth is lower than the sent bitrate. Later
// packets of video are dropped until a keyframe comes: the stream's next packet is refused
// with DropAndAsk, and its forwarder requests one.
func (d *Path) Dropped(ssrc uint32, number uint16, waited time.Duration) {
	now := d.Since(time.Now())
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.streamLocked(ssrc)
	broken := s != nil && s.Video()
	if broken {
		if i := slices.IndexFunc(d.gaps, func(g gap) bool { return g.stream == ssrc }); i < 0 {
			d.gaps = append(d.gaps, gap{ssrc, number})
		}
	}
	d.control.Overdue(now, ssrc, waited, broken)
	d.judgedLocked()
	d.due = true
	d.wakeLocked(now)
}

// GapOf is the number from which on packets of a stream were dropped on the path. It
// reports each gap once.
func (d *Path) GapOf(ssrc uint32) (number uint16, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.gaps, func(g gap) bool { return g.stream == ssrc })
	if i < 0 {
		return 0, false
	}
	number = d.gaps[i].number
	d.gaps = slices.Delete(d.gaps, i, i+1)
	return number, true
}

func (d *Path) streamLocked(ssrc uint32) Stream {
	for _, s := range d.streams {
		if s.SSRC() == ssrc {
			return s
		}
	}
	return nil
}

// CountMalformed makes c count malformed feedback.
func (d *Path) CountMalformed(c *atomic.Uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.malformed = c
}

// CountIn makes t collect the measurements of the path.
func (d *Path) CountIn(t *Totals) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.totals = t
}

// count adds the present measurements to the totals.
func (d *Path) count() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.totals == nil || !d.connected.Load() {
		return
	}
	s := d.control.State()
	if s.RTT > 0 { // otherwise there was no report yet
		d.totals.rtt.observe(rttBounds, s.RTT.Seconds())
		d.totals.queue.observe(queueBounds, s.Queue.Seconds())
		d.totals.loss.observe(lossBounds, s.Loss)
	}
}

// Since converts a time to the path's clock.
func (d *Path) Since(at time.Time) int64 {
	if d == nil {
		return 0
	}
	return int64(at.Sub(d.epoch))
}

// Connected is called when packets can arrive.
func (d *Path) Connected() {
	d.connected.Store(true)
	d.mu.Lock()
	streams := slices.Clone(d.streams)
	d.mu.Unlock()
	at := time.Now()
	for _, s := range streams {
		s.Begin(at)
	}
	d.serve(at)
}

// Ready reports whether packets can arrive, as they can always on a nil path.
func (d *Path) Ready() bool { return d == nil || d.connected.Load() }

// Add adds a stream to the path. voice is the stream as a voice that may be held back
// because others are louder; nil if it is not one.
func (d *Path) Add(s Stream, voice Voice, at time.Time) {
	d.mu.Lock()
	d.streams = append(d.streams, s)
	if s.Probes() {
		d.probing.Add(1)
		d.control.JudgeBySending()
	}
	d.mu.Unlock()
	if voice != nil {
		d.voices.add(voice)
	}
	d.Reallocate(at)
}

// ActIn has the path act in t; without it, it has turns of its own. It must be called before
// the first Add.
func (d *Path) ActIn(t *Turns) { d.turns = t }

// LimitVoices limits the forwarded voices to those of the loudest participants; 0 is no
// limit. It must be called before the first Add.
func (d *Path) LimitVoices(most int) { d.voices.limit(most) }

// Compete gives a voice that is held back and loud a free place, or that of the softest
// one if that is softer.
func (d *Path) Compete(v Voice, at time.Time) { d.voices.compete(v, at) }

// Remove removes a stream that has ended from the path. voice is the stream as a voice; nil if
// it is not one. None of its packets that wait are sent.
func (d *Path) Remove(s Stream, voice Voice) {
	if voice != nil {
		d.voices.remove(voice)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.control.End(s.SSRC())
	d.control.End(s.Repair())
	d.setAsideLocked(s)
}

// SetAside removes a stream that is added again soon. Its packets that wait are sent.
func (d *Path) SetAside(s Stream) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.setAsideLocked(s)
}

func (d *Path) setAsideLocked(s Stream) {
	if i := slices.Index(d.streams, s); i >= 0 {
		d.streams = slices.Delete(d.streams, i, i+1)
		if s.Probes() {
			d.probing.Add(-1)
		}
	}
	ssrc := s.SSRC()
	d.control.Forget(ssrc)
	d.control.Forget(s.Repair())
	d.gaps = slices.DeleteFunc(d.gaps, func(g gap) bool { return g.stream == ssrc })
	// Its waiting packets are released in their turn, which comes soon.
	if len(d.streams) == 0 && d.turns != nil && d.control.When(d.dividedAt) == 0 {
		d.turns.cancel(d)
	}
}

// Bandwidth is the estimated bandwidth in bits/s; 0 = no bound is known.
func (d *Path) Bandwidth() uint64 {
	if d == nil {
		return 0
	}
	return d.bandwidth.Load()
}

// Estimates reports whether the path estimates its bandwidth by congestion control feedback,
// which it does for pictures. Then sound is part of it: its packets come regularly, also where
// there are few of a picture.
func (d *Path) Estimates() bool { return d != nil && d.probing.Load() > 0 }

// Burst is packets that one stream writes one after the other. From the first Leave until
// End no other stream writes on the path. It is not safe for concurrent use.
type Burst struct {
	path *Path
	open bool // leaving is held
}

// NewBurst makes an empty burst.
func (d *Path) NewBurst() Burst { return Burst{path: d} }

// Leave records a packet that is written next, at a time of the path's clock. It returns the
// number under which the receiver's reports on it are recorded, 0 if there are none, and
// whether the packet carries it.
func (b *Burst) Leave(now int64, p Departing) (number uint16, wide bool) {
	if !b.open {
		b.path.leaving.Lock()
		b.open = true
	}
	return b.path.leave(now, p)
}

// End lets other streams write.
func (b *Burst) End(now int64) {
	if b.open {
		b.path.note(now)
		b.open = false
		b.path.leaving.Unlock()
	}
}

// leave assigns the transport-wide number of a packet that is written now, if the receiver
// reports on it. A packet that reports name by its stream takes one, too, and does not carry
// it: the record of what was sent has one order. Both begin with 1 and take the same packets
// in the same order, because leaving is held until note is called. So the record's numbers
// are these.
func (d *Path) leave(now int64, p Departing) (number uint16, wide bool) {
	if !d.connected.Load() {
		return 0, false
	}
	if len(d.departed) == cap(d.departed) {
		d.note(now)
	}
	d.departed = append(d.departed, departure{
		size: int32(p.Size), kind: p.Kind, wide: p.Wide || p.Named, named: p.Named, ssrc: p.SSRC, sequence: p.Sequence,
		again: p.Again,
	})
	if !p.Wide && !p.Named {
		return 0, false
	}
	d.number++
	return d.number, p.Wide
}

// note tells the control of the packets that have left. leaving is held.
func (d *Path) note(now int64) {
	if len(d.departed) == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.departed {
		if !p.wide {
			d.control.Count(now, int(p.size))
			if p.again != 0 {
				d.control.Repeated(p.again)
			}
			continue
		}
		d.control.Leave(now, int(p.size), p.kind)
		if p.named {
			d.control.Named(p.ssrc, p.sequence)
		}
	}
	d.departed = d.departed[:0]
}

// Arrived reports whether the receiver has reported that a packet arrived, by the number that
// Leave returned for it.
func (d *Path) Arrived(number uint16) bool {
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.control.record.Arrived(number)
}

// Missed reports whether the receiver has told that the packet with a transport-wide number did not
// arrive.
func (d *Path) Missed(number uint16) bool {
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.control.record.Lost(number)
}

// Estimated takes a REMB, in bits/s.
func (d *Path) Estimated(bitrate float64, at time.Time) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.control.Estimated(d.Since(at), bitrate)
}

// Lost takes the content of a receiver report: the share of lost packets, and the
// round-trip time; 0 = unknown.
func (d *Path) Lost(share float64, rtt time.Duration, at time.Time) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.control.Report(d.Since(at), share, rtt)
}

// Feedback takes an RTCP packet of transport-wide feedback
// (draft-holmer-rmcat-transport-wide-cc-extensions-01). A malformed packet is counted and
// dropped. Feedback does not wait for packets that are being sent.
func (d *Path) Feedback(raw []byte) { d.feedback(d.Since(time.Now()), raw) }

func (d *Path) feedback(now int64, raw []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	changed, err := d.takeLocked(now, raw)
	if err != nil {
		if d.malformed != nil {
			d.malformed.Add(1)
		}
		return
	}
	defer d.judgedLocked()
	if changed || now-d.dividedAt >= divideEvery && d.control.Tight() {
		d.due = true
		d.wakeLocked(now)
	} else if next := d.control.When(now); next != 0 {
		d.wakeLocked(next)
	}
}

// takeLocked gives feedback to the control. changed: the estimate has changed much.
func (d *Path) takeLocked(now int64, raw []byte) (changed bool, err error) {
	r := readings.Get().(*reading)
	defer readings.Put(r)
	streams := feedback.IsStreams(raw)
	if streams {
		err = r.streams.Parse(raw)
	} else {
		err = r.report.Parse(raw)
	}
	if err != nil {
		return false, err
	}
	d.control.lend(r.results)
	if streams {
		changed = d.control.StreamFeedback(now, &r.streams)
	} else {
		changed = d.control.Feedback(now, &r.report)
	}
	r.results = d.control.take()
	return changed, nil
}

// act does what is due. acted must be called after it.
func (d *Path) act() {
	at := time.Now()
	d.mu.Lock()
	due := d.due
	d.due = false
	d.mu.Unlock()
	if due {
		d.divide(at)
	}
	d.serving.Lock()
	defer d.serving.Unlock()
	d.drain(at)
	d.probe(at)
}

// acted ends what act began.
func (d *Path) acted() {
	d.serving.Lock()
	defer d.serving.Unlock()
	for _, s := range d.sent {
		s.Over()
	}
	clear(d.sent)
	d.sent = d.sent[:0]
}

// sends notes that a stream sends packets. serving is held.
func (d *Path) sends(s Stream) {
	if !slices.Contains(d.sent, s) {
		d.sent = append(d.sent, s)
	}
}

// judgedLocked takes over a new estimate.
func (d *Path) judgedLocked() {
	d.paces.Store(d.control.Paces())
	d.lossy.Store(d.control.Lossy())
}

// Lossy reports whether the path loses packets although it has room.
func (d *Path) Lossy() bool { return d != nil && d.lossy.Load() }

// Paces reports whether packets may have to wait, so that they must be offered. On a nil
// path they never wait.
func (d *Path) Paces() bool { return d != nil && d.paces.Load() }

// Offer asks whether a packet may leave now, at a time of the path's clock
// ([pacer.Send]). If it must wait ([pacer.Queued]), s gets the ticket back when the
// packet may leave, or must be dropped.
func (d *Path) Offer(now int64, p pacer.Packet, s Stream, ticket int32) pacer.Verdict {
	d.mu.Lock()
	defer d.mu.Unlock()
	verdict := d.control.Offer(now, p, waiting{s, ticket})
	if verdict == pacer.Queued {
		d.paces.Store(true)
		d.wakeLocked(max(d.control.When(now), now+leastWait))
	}
	return verdict
}

// leastWait is the shortest wait of a packet that has to wait, so that several leave
// together.
const leastWait = int64(3 * time.Millisecond)

// drain sends the waiting packets whose turn has come. serving is held.
func (d *Path) drain(at time.Time) {
	now := d.Since(at)
	for {
		d.mu.Lock()
		v, _, verdict := d.control.Next(now)
		d.judgedLocked()
		d.mu.Unlock()
		if verdict == pacer.Nothing {
			return
		}
		v.stream.Release(v.ticket, verdict, at)
		d.sends(v.stream)
	}
}

// Tick is called by each of the streams once a second.
func (d *Path) Tick(at time.Time) {
	if d == nil {
		return
	}
	d.mu.Lock()
	now := d.Since(at)
	due, count := now-d.dividedAt >= divideSeldom, now-d.countedAt >= divideSeldom
	if count {
		d.countedAt = now
	}
	d.mu.Unlock()
	if count {
		d.count()
	}
	if due {
		d.divide(at)
		d.serve(at)
	}
}

// Limit bounds the divided bandwidth, in bits/s, in addition to the estimate; 0 removes
// the limit.
func (d *Path) Limit(bitrate uint64) {
	d.mu.Lock()
	d.control.Limit(float64(bitrate))
	d.mu.Unlock()
	at := time.Now()
	d.divide(at)
	d.serve(at)
}

// Reallocate divides again after a change of a subscriber's wishes.
func (d *Path) Reallocate(at time.Time) {
	if d == nil {
		return
	}
	d.mu.Lock()
	bound := d.control.Bound()
	d.mu.Unlock()
	if bound > 0 {
		d.divide(at)
		d.serve(at)
	}
}

// divide decides which layers are forwarded, and tells the streams.
func (d *Path) divide(at time.Time) {
	d.division.Lock()
	defer d.division.Unlock()
	v := scratches.Get().(*scratch)
	defer scratches.Put(v)
	d.mu.Lock()
	v.streams = append(v.streams[:0], d.streams...)
	d.mu.Unlock()
	v.tracks = v.tracks[:0]
	for _, s := range v.streams {
		v.tracks = append(v.tracks, s.Describe(at))
	}
	d.mu.Lock()
	d.dividedAt = d.Since(at)
	decisions := d.control.Divide(d.dividedAt, v.tracks, &v.allocator)
	d.bandwidth.Store(uint64(d.control.Bound()))
	d.judgedLocked()
	d.mu.Unlock()
	for i, s := range v.streams {
		s.Decide(&v.tracks[i], &decisions[i])
	}
	clear(v.streams)
}

// serve makes the appointment for waiting packets and for a probe, if there are any.
func (d *Path) serve(at time.Time) {
	now := d.Since(at)
	d.mu.Lock()
	defer d.mu.Unlock()
	if next := d.control.When(now); next != 0 && d.connected.Load() {
		d.wakeLocked(next)
	}
}

// probe sends the due packets of a running probe. serving is held.
func (d *Path) probe(at time.Time) {
	goesOn := true
	for range mostPadding {
		d.mu.Lock()
		s, size := d.dueLocked(d.Since(at))
		d.mu.Unlock()
		if s == nil {
			goesOn = false // dueLocked has made the appointment, if more packets are to come
			break
		}
		if !s.Pad(size, at) { // the stream is closed, and will be removed
			break
		}
		d.sends(s)
	}
	if goesOn {
		d.mu.Lock()
		d.wakeForNextLocked(d.Since(at))
		d.mu.Unlock()
	}
}

// dueLocked is the stream that should send a packet of a probe now, and the size of the
// packet. If there is none, it makes the appointment for the next.
func (d *Path) dueLocked(now int64) (Stream, int) {
	if i := slices.IndexFunc(d.streams, Stream.Probes); i >= 0 && d.connected.Load() {
		if bytes, size := d.control.Probe(now); bytes > 0 {
			return d.streams[i], size
		}
	} else if waiting, _ := d.control.Waiting(); waiting == 0 {
		return nil, 0
	}
	d.wakeForNextLocked(now)
	return nil, 0
}

// wakeForNextLocked makes the appointment for the next packet, at least a millisecond ahead.
func (d *Path) wakeForNextLocked(now int64) {
	if next := d.control.When(now); next != 0 {
		d.wakeLocked(max(next, now+int64(time.Millisecond)))
	}
}

// wakeLocked has the path act in the first turn from a time on.
func (d *Path) wakeLocked(at int64) {
	if d.turns == nil {
		d.turns = NewTurns(nil)
	}
	d.turns.set(d, d.epoch.Add(time.Duration(at)))
}
