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

// How often what a path carries is divided among the streams: while something is held
// back, and else.
const (
	divideEvery  = int64(100 * time.Millisecond)
	divideSeldom = int64(900 * time.Millisecond)
)

// mostPadding bounds the packets of a probe that leave at once.
const mostPadding = 64

// Stream is one of the streams that leave on a path. Its methods are called with no lock
// of the path held that a method of the path takes which a Stream may call, but for those
// of one division and of one serving.
type Stream interface {
	SSRC() uint32
	// Video tells what has frames that depend on each other from sound.
	Video() bool
	// Probes reports whether the stream can send packets that nobody asked for, and is
	// told what becomes of them.
	Probes() bool
	// Describe is what the subscriber wants of the stream and what each layer costs.
	Describe(at time.Time) allocate.Track
	// Decide says what of it the path carries; t is what Describe gave.
	Decide(t *allocate.Track, d *allocate.Decision)
	// Release does with a packet that has waited, by the ticket it was offered with, what
	// was decided.
	Release(ticket int32, verdict pacer.Verdict, at time.Time)
	// Pad sends a packet that nobody asked for, of at most size bytes or little more. It
	// reports false when the stream has ended.
	Pad(size int, at time.Time) bool
	// Over says that a number of Releases or Pads is over.
	Over()
}

// Transport is what a path is the downlink of.
type Transport interface {
	// Flush sends the packets that were written.
	Flush()
	// WriteRTCP sends RTCP. It may be called concurrently.
	WriteRTCP(packets []rtcp.Packet) error
}

// Path is the path to one subscriber, shared by the streams to it. All their packets
// leave on it: it knows by what way, numbers them for transport-wide congestion control,
// judges by what the subscriber reports how much the path carries, tells the streams
// which layers they may forward, and sends probes to find out whether more fits.
//
// A nil Path is that of an output to which nothing is narrow: nothing is numbered,
// held back or divided.
//
// Its methods may be called concurrently. It has no goroutine: it acts when packets
// leave, in the turns of its streams, and when its timer fires, which runs while a
// probe does and after a report that changes much.
type Path struct {
	transport Transport
	epoch     time.Time     // times are nanoseconds since it
	bandwidth atomic.Uint64 // bits/s, 0 = no bound known

	// out is how packets leave; nil until that is known.
	out atomic.Pointer[outgoing]

	// division is held while the bitrate is divided, so that one division after the
	// other takes effect. It guards tracks and divided.
	division sync.Mutex
	tracks   []allocate.Track
	divided  []Stream

	// serving is held by the timer's goroutine while it sends what has waited and what a
	// probe needs.
	serving sync.Mutex

	// paces: packets may have to wait, and are offered to the control. It is set under mu.
	paces atomic.Bool

	// voices are whose sound is forwarded.
	voices voices

	// leaving is held while packets of a burst get their numbers and are written: packets
	// leave in the order of their numbers, and one writer at a time is all there is to any
	// SSRC. It guards number, the last one that was given, and departed.
	leaving  sync.Mutex
	number   uint16
	departed []departure

	connected atomic.Bool

	// mu guards the following. It is never held for long: the reader of the socket waits
	// for it when feedback comes.
	mu        sync.Mutex
	streams   []Stream
	control   *Control[waiting]
	report    feedback.Report
	dividedAt int64
	countedAt int64
	due       bool           // a report asks for a division
	gaps      []gap          // what the path itself dropped, at most one of each stream
	malformed *atomic.Uint64 // counts feedback that could not be read; nil = nobody does
	totals    *Totals        // have what is measured of the path; nil = nobody has
	timer     *time.Timer    // nil before the first probe or report that asks for it
}

// departure is a packet that has left and of which the control does not know yet.
type departure struct {
	size int32
	kind sent.Kind
	wide bool // it has a number
}

// mostDepartures bounds how many packets the control does not know of.
const mostDepartures = 64

// waiting is a packet that waits for its turn to leave. Its stream has it, under the
// ticket.
type waiting struct {
	stream Stream
	ticket int32
}

// gap is from where on packets of a stream were dropped on the path.
type gap struct {
	stream uint32
	number uint16
}

// New makes a path of which nothing is known. Nothing is judged before it is Connected.
func New(t Transport) *Path {
	return &Path{
		transport: t, epoch: time.Now().Add(-time.Hour), control: NewControl[waiting](false),
		departed: make([]departure, 0, mostDepartures),
	}
}

// Linked reports whether the packets of a stream are of no use without those before
// them: of video's, but not of its repeats.
func (d *Path) Linked(ssrc uint32) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.streamLocked(ssrc)
	return s != nil && s.Video()
}

// Dropped follows the path dropping packets of a stream from a number on, after the first
// had waited for so long: it carries less than is sent. What follows of video is dropped
// until a key frame comes, which is asked for.
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
	d.wakeLocked(0)
}

// GapOf is from where on packets of a stream were dropped on the path, once.
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

// CountMalformed has feedback that cannot be read counted in c.
func (d *Path) CountMalformed(c *atomic.Uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.malformed = c
}

// CountIn has what is measured of the path counted in t.
func (d *Path) CountIn(t *Totals) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.totals = t
}

// count takes what is measured now into the totals.
func (d *Path) count() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.totals == nil || !d.connected.Load() {
		return
	}
	s := d.control.State()
	if s.RTT > 0 { // else nothing was reported yet
		d.totals.rtt.observe(rttBounds, s.RTT.Seconds())
		d.totals.queue.observe(queueBounds, s.Queue.Seconds())
		d.totals.loss.observe(lossBounds, s.Loss)
	}
}

// Since is a time of the path's clock.
func (d *Path) Since(at time.Time) int64 {
	if d == nil {
		return 0
	}
	return int64(at.Sub(d.epoch))
}

// Connected says that packets arrive from now on.
func (d *Path) Connected() {
	d.connected.Store(true)
	d.serve(time.Now())
}

// Add has a stream leave on the path. voice is how loud it is, if it is a voice, which may
// be held back since others are louder; else nil.
func (d *Path) Add(s Stream, voice Voice, at time.Time) {
	d.mu.Lock()
	d.streams = append(d.streams, s)
	if s.Probes() {
		d.control.JudgeBySending()
	}
	d.mu.Unlock()
	if voice != nil {
		d.voices.add(voice)
	}
	d.Reallocate(at)
}

// LimitVoices has the sound of at most so many forwarded, the loudest; 0: everybody's.
// It is to be called before there are streams.
func (d *Path) LimitVoices(most int) { d.voices.limit(most) }

// Compete gives a voice that is held back and loud a place that is free or the one of the
// softest, if that is softer.
func (d *Path) Compete(v Voice, at time.Time) { d.voices.compete(v, at) }

// Remove has a stream leave on the path no more. voice is it as a voice; nil: it is none.
func (d *Path) Remove(s Stream, voice Voice) {
	if voice != nil {
		d.voices.remove(voice)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(d.streams, s); i >= 0 {
		d.streams = slices.Delete(d.streams, i, i+1)
	}
	ssrc := s.SSRC()
	d.control.Forget(ssrc)
	d.gaps = slices.DeleteFunc(d.gaps, func(g gap) bool { return g.stream == ssrc })
	// What waits of it is given back in its turn, which comes soon.
	if len(d.streams) == 0 && d.timer != nil && d.control.When(d.dividedAt) == 0 {
		d.timer.Stop()
	}
}

// Bandwidth is what the path is judged to carry in bits/s, 0 = no bound known.
func (d *Path) Bandwidth() uint64 {
	if d == nil {
		return 0
	}
	return d.bandwidth.Load()
}

// Burst is the packets that one stream writes one after the other. From the first of them
// until End nobody else writes on the path. It is not safe for concurrent use.
type Burst struct {
	path *Path
	open bool // leaving is held
}

// NewBurst makes a burst in which nothing was written.
func (d *Path) NewBurst() Burst { return Burst{path: d} }

// Leave takes note of a packet that is written next, at a time of the path's clock, and
// gives its transport-wide number if it is to have one.
func (b *Burst) Leave(now int64, wide bool, size int, kind sent.Kind) (number uint16, ok bool) {
	if !b.open {
		b.path.leaving.Lock()
		b.open = true
	}
	return b.path.leave(now, wide, size, kind)
}

// End lets others write.
func (b *Burst) End(now int64) {
	if b.open {
		b.path.note(now)
		b.open = false
		b.path.leaving.Unlock()
	}
}

// leave gives a packet that is written now its transport-wide number, if it is to have
// one. leaving is held, and note is called before it is given up.
func (d *Path) leave(now int64, wide bool, size int, kind sent.Kind) (number uint16, ok bool) {
	if !d.connected.Load() {
		return 0, false
	}
	if len(d.departed) == cap(d.departed) {
		d.note(now)
	}
	d.departed = append(d.departed, departure{size: int32(size), kind: kind, wide: wide})
	if !wide {
		return 0, false
	}
	d.number++
	return d.number, true
}

// note has the control know what has left. leaving is held.
func (d *Path) note(now int64) {
	if len(d.departed) == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.departed {
		if p.wide {
			d.control.Leave(now, int(p.size), p.kind)
		} else {
			d.control.Count(now, int(p.size))
		}
	}
	d.departed = d.departed[:0]
}

// Estimated takes in a REMB, in bits/s.
func (d *Path) Estimated(bitrate float64, at time.Time) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.control.Estimated(d.Since(at), bitrate)
}

// Lost takes in what a receiver report tells: the share of packets lost, and the round
// trip, 0 = unknown.
func (d *Path) Lost(share float64, rtt time.Duration, at time.Time) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.control.Report(d.Since(at), share, rtt)
}

// Feedback takes in an RTCP packet of transport-wide feedback
// (draft-holmer-rmcat-transport-wide-cc-extensions-01). One that is malformed is
// counted and dropped. It does not wait for anything that is sent.
func (d *Path) Feedback(raw []byte) {
	now := d.Since(time.Now())
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.report.Parse(raw) != nil {
		if d.malformed != nil {
			d.malformed.Add(1)
		}
		return
	}
	defer d.judgedLocked()
	if d.control.Feedback(now, &d.report) || now-d.dividedAt >= divideEvery && d.control.Tight() {
		d.due = true
		d.wakeLocked(0)
	} else if next := d.control.When(now); next != 0 {
		d.wakeLocked(time.Duration(max(next-now, 0)))
	}
}

// act does what is due when the timer fires.
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

// judgedLocked follows a new judgement.
func (d *Path) judgedLocked() { d.paces.Store(d.control.Paces()) }

// Paces reports whether packets may have to wait, and are to be offered. A nil path paces
// nothing.
func (d *Path) Paces() bool { return d != nil && d.paces.Load() }

// Offer asks at a time of the path's clock whether a packet may leave now
// ([pacer.Send]). If not it waits ([pacer.Queued]), and s is told by the ticket when its
// turn has come, or it is dropped.
func (d *Path) Offer(now int64, p pacer.Packet, s Stream, ticket int32) pacer.Verdict {
	d.mu.Lock()
	defer d.mu.Unlock()
	verdict := d.control.Offer(now, p, waiting{s, ticket})
	if verdict == pacer.Queued {
		d.paces.Store(true)
		d.wakeLocked(time.Duration(max(d.control.When(now)-now, leastWait)))
	}
	return verdict
}

// leastWait is how long packets wait at least that have to, so that they leave some at
// a time.
const leastWait = int64(3 * time.Millisecond)

// drain sends what has waited for its turn. serving is held.
func (d *Path) drain(at time.Time) {
	now := d.Since(at)
	var last Stream
	for {
		d.mu.Lock()
		v, _, verdict := d.control.Next(now)
		d.judgedLocked()
		d.mu.Unlock()
		if last != nil && v.stream != last {
			last.Over()
		}
		if last = v.stream; verdict == pacer.Nothing {
			return
		}
		v.stream.Release(v.ticket, verdict, at)
	}
}

// Tick is the turn of one of the streams, once a second.
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

// Limit bounds, in bits/s, what is divided among the streams; 0 leaves it to what is
// judged of the path.
func (d *Path) Limit(bitrate uint64) {
	d.mu.Lock()
	d.control.Limit(float64(bitrate))
	d.mu.Unlock()
	at := time.Now()
	d.divide(at)
	d.serve(at)
}

// Reallocate divides when a subscriber wants something else.
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
	d.mu.Lock()
	d.divided = append(d.divided[:0], d.streams...)
	d.mu.Unlock()
	d.tracks = d.tracks[:0]
	for _, s := range d.divided {
		d.tracks = append(d.tracks, s.Describe(at))
	}
	d.mu.Lock()
	d.dividedAt = d.Since(at)
	decisions := d.control.Divide(d.dividedAt, d.tracks)
	d.bandwidth.Store(uint64(d.control.Bound()))
	d.judgedLocked()
	d.mu.Unlock()
	for i, s := range d.divided {
		s.Decide(&d.tracks[i], &decisions[i])
	}
	clear(d.divided)
}

// serve has the timer send what waits and what a probe needs, if there is any.
func (d *Path) serve(at time.Time) {
	now := d.Since(at)
	d.mu.Lock()
	defer d.mu.Unlock()
	if next := d.control.When(now); next != 0 && d.connected.Load() {
		d.wakeLocked(time.Duration(max(next-now, 0)))
	}
}

// probe sends what a running probe needs now. serving is held.
func (d *Path) probe(at time.Time) {
	var over Stream
	goesOn := true
	for range mostPadding {
		d.mu.Lock()
		s, size := d.dueLocked(d.Since(at))
		d.mu.Unlock()
		if s == nil {
			goesOn = false // dueLocked has set the timer, if more is to come
			break
		}
		if !s.Pad(size, at) { // it is closed, and will be removed
			break
		}
		over = s
	}
	if over != nil {
		over.Over()
	}
	if goesOn {
		d.mu.Lock()
		d.wakeForNextLocked(d.Since(at))
		d.mu.Unlock()
	}
}

// dueLocked is the stream that is to send a packet of a probe now, and the packet's
// size; without one it sets the timer for the next.
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

// wakeForNextLocked sets the timer for what is to leave next, not at once.
func (d *Path) wakeForNextLocked(now int64) {
	if next := d.control.When(now); next != 0 {
		d.wakeLocked(time.Duration(max(next-now, int64(time.Millisecond))))
	}
}

func (d *Path) wakeLocked(after time.Duration) {
	if d.timer == nil {
		d.timer = time.AfterFunc(after, d.act)
		return
	}
	d.timer.Reset(after)
}
