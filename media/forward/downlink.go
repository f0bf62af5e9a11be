package forward

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/media/downlink"
	"parlor/media/downlink/allocate"
	"parlor/media/downlink/feedback"
	"parlor/media/downlink/pacer"
	record "parlor/media/downlink/sent"
	"parlor/media/forward/packet"
)

// How often what a path carries is divided among the tracks: while something is held
// back, and else.
const (
	divideEvery  = int64(100 * time.Millisecond)
	divideSeldom = int64(900 * time.Millisecond)
)

// mostPadding bounds the packets of a probe that leave at once.
const mostPadding = 64

// Downlink is the path to one subscriber, shared by the forwarders to it. All their
// packets leave through it: it numbers them for transport-wide congestion control,
// judges by what the subscriber reports how much the path carries, tells the
// forwarders which layers they may forward, and sends probes to find out whether
// more fits (package downlink).
//
// A nil Downlink is that of an output to which nothing is narrow: nothing is numbered,
// held back or divided.
//
// Its methods may be called concurrently. It has no goroutine: it acts when packets
// leave, in the turns of its forwarders, and when its timer fires, which runs while a
// probe does and after a report that changes much.
type Downlink struct {
	epoch     time.Time     // times are nanoseconds since it
	bandwidth atomic.Uint64 // bits/s, 0 = no bound known

	// division is held while the bitrate is divided, so that one division after the
	// other takes effect. It guards tracks and divided.
	division sync.Mutex
	tracks   []allocate.Track
	divided  []*Forwarder

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
	mu         sync.Mutex
	forwarders []*Forwarder
	control    *downlink.Control[queued]
	report     feedback.Report
	dividedAt  int64
	countedAt  int64
	due        bool           // a report asks for a division
	gaps       []gap          // what the path itself dropped, at most one of each stream
	malformed  *atomic.Uint64 // counts feedback that could not be read; nil = nobody does
	totals     *Totals        // have what is measured of the path; nil = nobody has
	timer      *time.Timer    // nil before the first probe or report that asks for it
}

// departure is a packet that has left and of which the control does not know yet.
type departure struct {
	size int32
	kind record.Kind
	wide bool // it has a number
}

// mostDepartures bounds how many packets the control does not know of.
const mostDepartures = 64

// limit is what of a track the path carries. A quality of OFF: nothing, it is paused.
type limit struct {
	quality  livekit.VideoQuality
	temporal uint8
	decided  allocate.Layer
}

func noLimit() limit {
	return limit{quality: livekit.VideoQuality_HIGH, temporal: anyLayer, decided: allocate.None}
}

// NewDownlink makes a downlink of which nothing is known. Nothing is judged before it
// is Connected.
func NewDownlink() *Downlink {
	return &Downlink{
		epoch: time.Now().Add(-time.Hour), control: downlink.NewControl[queued](false),
		departed: make([]departure, 0, mostDepartures),
	}
}

// queued is a packet that waits for its turn to leave. p is held for it.
type queued struct {
	f    *Forwarder
	p    *packet.Packet
	s    sent
	kind record.Kind
}

// gap is from where on packets of a stream were dropped on the path.
type gap struct {
	stream uint32
	number uint16
}

// Linked reports whether the packets of a stream are of no use without those before
// them: of video's, but not of its repeats.
func (d *Downlink) Linked(ssrc uint32) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.writerOfLocked(ssrc)
	return f != nil && f.video
}

// Dropped follows the path dropping packets of a stream from a number on, after the first
// had waited for so long: it carries less than is sent. What follows of video is dropped
// until a key frame comes, which is asked for.
func (d *Downlink) Dropped(ssrc uint32, number uint16, waited time.Duration) {
	now := d.since(time.Now())
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.writerOfLocked(ssrc)
	broken := f != nil && f.video
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

// gapOf is from where on packets of a stream were dropped on the path, once.
func (d *Downlink) gapOf(ssrc uint32) (number uint16, ok bool) {
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

func (d *Downlink) writerOfLocked(ssrc uint32) *Forwarder {
	for _, f := range d.forwarders {
		if f.cfg.SSRC == ssrc {
			return f
		}
	}
	return nil
}

// CountMalformed has feedback that cannot be read counted in c.
func (d *Downlink) CountMalformed(c *atomic.Uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.malformed = c
}

// CountIn has what is measured of the path counted in t.
func (d *Downlink) CountIn(t *Totals) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.totals = t
}

// count takes what is measured now into the totals.
func (d *Downlink) count() {
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

// since is a time of the downlink's clock.
func (d *Downlink) since(at time.Time) int64 {
	if d == nil {
		return 0
	}
	return int64(at.Sub(d.epoch))
}

// Connected says that packets arrive from now on.
func (d *Downlink) Connected() {
	d.connected.Store(true)
	d.serve(time.Now())
}

func (d *Downlink) add(f *Forwarder, at time.Time) {
	d.mu.Lock()
	d.forwarders = append(d.forwarders, f)
	if f.probes() {
		d.control.JudgeBySending()
	}
	d.mu.Unlock()
	d.voices.add(f)
	d.reallocate(at)
}

// addToDownlink adds f to its downlink, unless f is closed: its track may end meanwhile.
func (f *Forwarder) addToDownlink(at time.Time) {
	if f.downlink == nil {
		return
	}
	f.downlink.add(f, at)
	f.mu.Lock()
	closed := f.closed
	f.mu.Unlock()
	if closed { // Close may have removed it before it was added
		f.downlink.remove(f)
	}
}

// LimitVoices has the sound of at most so many forwarded, the loudest; 0: everybody's.
// It is to be called before there are forwarders.
func (d *Downlink) LimitVoices(most int) { d.voices.limit(most) }

func (d *Downlink) remove(f *Forwarder) {
	d.voices.remove(f)
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(d.forwarders, f); i >= 0 {
		d.forwarders = slices.Delete(d.forwarders, i, i+1)
	}
	d.control.Forget(f.cfg.SSRC)
	d.gaps = slices.DeleteFunc(d.gaps, func(g gap) bool { return g.stream == f.cfg.SSRC })
	// What waits of it is given back in its turn, which comes soon.
	if len(d.forwarders) == 0 && d.timer != nil && d.control.When(d.dividedAt) == 0 {
		d.timer.Stop()
	}
}

// Bandwidth is what the path is judged to carry in bits/s, 0 = no bound known.
func (d *Downlink) Bandwidth() uint64 {
	if d == nil {
		return 0
	}
	return d.bandwidth.Load()
}

// leave gives a packet that is written now its transport-wide number, if it is to have
// one. leaving is held, and note is called before it is given up.
func (d *Downlink) leave(now int64, wide bool, size int, kind record.Kind) (number uint16, ok bool) {
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
func (d *Downlink) note(now int64) {
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

// estimated takes in a REMB.
func (d *Downlink) estimated(bitrate float64, at time.Time) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.control.Estimated(d.since(at), bitrate)
}

// lost takes in what a receiver report tells: the share of packets lost, and the round
// trip, 0 = unknown.
func (d *Downlink) lost(share float64, rtt time.Duration, at time.Time) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.control.Report(d.since(at), share, rtt)
}

// Feedback takes in an RTCP packet of transport-wide feedback
// (draft-holmer-rmcat-transport-wide-cc-extensions-01). One that is malformed is
// counted and dropped. It does not wait for anything that is sent.
func (d *Downlink) Feedback(raw []byte) {
	now := d.since(time.Now())
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
func (d *Downlink) act() {
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
func (d *Downlink) judgedLocked() { d.paces.Store(d.control.Paces()) }

// offer asks whether a packet may leave now. If not it waits, or is dropped. f's lock
// is held.
func (d *Downlink) offer(f *Forwarder, p *packet.Packet, s *sent, kind record.Kind) (now bool) {
	described := pacer.Packet{
		Stream: f.cfg.SSRC, Size: p.Size, Kind: kind, KeyStart: beginsKey(p) && kind == record.Video, End: s.marker,
		Needless: kind == record.Repeat && f.extended(s.out) < f.keyAt,
	}
	d.mu.Lock()
	verdict := d.control.Offer(f.now, described, queued{f, p, *s, kind})
	if verdict == pacer.Queued {
		p.Retain()
		d.paces.Store(true)
		d.wakeLocked(time.Duration(max(d.control.When(f.now)-f.now, leastWait)))
	}
	d.mu.Unlock()
	switch verdict {
	case pacer.Send:
		return true
	case pacer.Drop, pacer.DropAndAsk:
		f.overdue(s, kind, verdict == pacer.DropAndAsk)
		if verdict == pacer.DropAndAsk {
			f.waiting = s.layer
		}
	}
	return false
}

// extended is the number that a packet of the last ones left with, unwrapped. mu is held.
func (f *Forwarder) extended(number uint16) int64 {
	last := f.numbers.LastOut()
	return last - int64(uint16(last)-number)
}

// beginsKey reports whether a picture begins with p that needs no other: in SVC its lowest
// layer.
func beginsKey(p *packet.Packet) bool { return p.Frame.Key && p.Frame.Start && p.Frame.Spatial == 0 }

// leastWait is how long packets wait at least that have to, so that they leave some at
// a time.
const leastWait = int64(3 * time.Millisecond)

// drain sends what has waited for its turn. serving is held.
func (d *Downlink) drain(at time.Time) {
	sendTime, now := absSendTime(at), d.since(at)
	var last *Forwarder
	for {
		d.mu.Lock()
		v, _, verdict := d.control.Next(now)
		d.judgedLocked()
		d.mu.Unlock()
		if last != nil && v.f != last {
			last.flush()
		}
		if last = v.f; verdict == pacer.Nothing {
			return
		}
		v.f.release(&v, verdict, sendTime, now)
		if verdict == pacer.DropAndAsk {
			v.s.layer.requestKeyFrame(v.f.track.since(at))
		}
		v.p.Release()
	}
}

// release does with a packet that has waited what was decided.
func (f *Forwarder) release(v *queued, verdict pacer.Verdict, sendTime [3]byte, now int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.over.left()
	switch {
	case f.closed:
	case verdict == pacer.Send:
		f.now = now
		if v.kind != record.Repeat {
			if s := f.remembered(v.s.out); s != nil {
				s.sendTime = sendTime
			}
		} else if !f.hasRTX {
			sendTime = v.s.sendTime // as it left the first time, see answerOne
		}
		f.emit(v.p, &v.s, sendTime, v.kind)
	default:
		f.overdue(&v.s, v.kind, verdict == pacer.DropAndAsk)
	}
}

// remembered is what is remembered of the packet of that number, nil if nothing is.
func (f *Forwarder) remembered(number uint16) *sent {
	if s := &f.history[number&uint16(len(f.history)-1)]; s.used && s.out == number {
		return s
	}
	return nil
}

// overdue follows a packet that is not sent since it waited for too long. broken: what
// comes until the next key frame depends on it. mu is held.
func (f *Forwarder) overdue(s *sent, kind record.Kind, broken bool) {
	f.stats.Overdue++
	if kind == record.Repeat {
		return
	}
	if s := f.remembered(s.out); s != nil {
		s.used = false // it is not repeated either
	}
	if !broken {
		return
	}
	f.inStep = false
	// What the path dropped is not repeated either.
	first, ok := f.downlink.gapOf(f.cfg.SSRC)
	for last := uint16(f.numbers.LastOut()); ok && int16(last-first) >= 0; first++ {
		if s := f.remembered(first); s != nil {
			s.used = false
		}
	}
}

// deliver sends a packet now or, where the path is narrow, in its turn. mu is held.
func (f *Forwarder) deliver(p *packet.Packet, s *sent, sendTime [3]byte, kind record.Kind) {
	if d := f.downlink; d == nil || !d.paces.Load() || d.offer(f, p, s, kind) {
		f.emit(p, s, sendTime, kind)
	}
}

// tick is the turn of one of the forwarders.
func (d *Downlink) tick(at time.Time) {
	if d == nil {
		return
	}
	d.mu.Lock()
	now := d.since(at)
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

// Limit bounds, in bits/s, what is divided among the tracks; 0 leaves it to what is
// judged of the path.
func (d *Downlink) Limit(bitrate uint64) {
	d.mu.Lock()
	d.control.Limit(float64(bitrate))
	d.mu.Unlock()
	at := time.Now()
	d.divide(at)
	d.serve(at)
}

// reallocate divides when a subscriber wants something else.
func (d *Downlink) reallocate(at time.Time) {
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

// divide decides which layers are forwarded, and tells the forwarders.
func (d *Downlink) divide(at time.Time) {
	d.division.Lock()
	defer d.division.Unlock()
	d.mu.Lock()
	d.divided = append(d.divided[:0], d.forwarders...)
	d.mu.Unlock()
	d.tracks = d.tracks[:0]
	for _, f := range d.divided {
		d.tracks = append(d.tracks, f.describe(at))
	}
	d.mu.Lock()
	d.dividedAt = d.since(at)
	decisions := d.control.Divide(d.dividedAt, d.tracks)
	d.bandwidth.Store(uint64(d.control.Bound()))
	d.judgedLocked()
	d.mu.Unlock()
	for i, f := range d.divided {
		if f.video {
			f.setLimit(limitOf(&d.tracks[i], &decisions[i]))
		}
	}
	clear(d.divided)
}

// limitOf is what a decision leaves of a track.
func limitOf(t *allocate.Track, d *allocate.Decision) limit {
	l := noLimit()
	l.decided = d.Layer
	switch d.Reason {
	case allocate.Paused:
		l.quality = livekit.VideoQuality_OFF
		return l
	case allocate.Bandwidth:
	default:
		return l
	}
	l.quality = livekit.VideoQuality(d.Layer.Spatial)
	for higher := d.Layer.Temporal + 1; higher < allocate.Temporals; higher++ {
		if t.Bitrates[d.Layer.Spatial][higher] > 0 {
			l.temporal = uint8(d.Layer.Temporal)
		}
	}
	return l
}

// serve has the timer send what waits and what a probe needs, if there is any.
func (d *Downlink) serve(at time.Time) {
	now := d.since(at)
	d.mu.Lock()
	defer d.mu.Unlock()
	if next := d.control.When(now); next != 0 && d.connected.Load() {
		d.wakeLocked(time.Duration(max(next-now, 0)))
	}
}

// probe sends what a running probe needs now. serving is held.
func (d *Downlink) probe(at time.Time) {
	var flush *Forwarder
	goesOn := true
	for range mostPadding {
		d.mu.Lock()
		f, size := d.dueLocked(d.since(at))
		d.mu.Unlock()
		if f == nil {
			goesOn = false // dueLocked has set the timer, if more is to come
			break
		}
		if !f.pad(size, at) { // it is closed, and will be removed
			break
		}
		flush = f
	}
	if flush != nil {
		flush.flush()
	}
	if goesOn {
		d.mu.Lock()
		d.wakeForNextLocked(d.since(at))
		d.mu.Unlock()
	}
}

// dueLocked is the forwarder that is to send a packet of a probe now, and the packet's
// size; without one it sets the timer for the next.
func (d *Downlink) dueLocked(now int64) (*Forwarder, int) {
	if i := slices.IndexFunc(d.forwarders, (*Forwarder).probes); i >= 0 && d.connected.Load() {
		if bytes, size := d.control.Probe(now); bytes > 0 {
			return d.forwarders[i], size
		}
	} else if waiting, _ := d.control.Waiting(); waiting == 0 {
		return nil, 0
	}
	d.wakeForNextLocked(now)
	return nil, 0
}

// wakeForNextLocked sets the timer for what is to leave next, not at once.
func (d *Downlink) wakeForNextLocked(now int64) {
	if next := d.control.When(now); next != 0 {
		d.wakeLocked(time.Duration(max(next-now, int64(time.Millisecond))))
	}
}

func (d *Downlink) wakeLocked(after time.Duration) {
	if d.timer == nil {
		d.timer = time.AfterFunc(after, d.act)
		return
	}
	d.timer.Reset(after)
}

// probes reports whether the forwarder can send packets that nobody asked for, and is
// told what becomes of them.
func (f *Forwarder) probes() bool { return f.video && f.hasRTX && f.cfg.Ext.TransportCC != 0 }

// recent is how many packets back a probe repeats.
const recent = 64

// pad sends a packet that nobody asked for: a recent one again, of at most size bytes
// or little more, or one that is empty but for padding. It reports false when the
// forwarder is closed.
func (f *Forwarder) pad(size int, at time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.over.left()
	if f.closed {
		return false
	}
	f.now = f.downlink.since(at)
	sendTime := absSendTime(at)
	last := f.numbers.LastOut()
	if f.padded > last || f.padded <= last-recent {
		f.padded = last - recent/2
	}
	for range recent / 2 {
		f.padded++
		if f.padded > last {
			f.padded = last - recent/2
		}
		s := &f.history[uint16(f.padded)&uint16(len(f.history)-1)]
		if !s.used || s.out != uint16(f.padded) || s.layer == nil {
			continue
		}
		p := s.layer.get(s.ext, s.generation)
		if p == nil {
			continue
		}
		fits := p.Size <= size+size/4
		if fits {
			f.emit(p, s, sendTime, record.Padding)
		}
		p.Release()
		if fits {
			return true
		}
	}
	f.emitPadding(min(size, 255), sendTime)
	return true
}

// setLimit says what the path carries.
func (f *Forwarder) setLimit(l limit) {
	f.mu.Lock()
	changed := f.limit.quality != l.quality || f.limit.temporal != l.temporal
	f.limit = l
	var request *Layer
	if changed {
		if f.paused() {
			f.state = livekit.StreamState_PAUSED
			f.stats.Pauses++
		}
		request = f.retargetLocked(false)
	}
	f.mu.Unlock()
	if request != nil {
		request.requestKeyFrame(f.track.since(time.Now()))
	}
	if changed {
		f.tellState()
	}
}

// paused reports whether nothing is forwarded for want of bandwidth. mu is held.
func (f *Forwarder) paused() bool { return f.limit.quality == livekit.VideoQuality_OFF }

// tellState tells the subscriber whether video comes, if that has changed.
func (f *Forwarder) tellState() {
	if f.cfg.OnStreamState == nil {
		return
	}
	f.telling.Lock()
	defer f.telling.Unlock()
	f.mu.Lock()
	state, told := f.state, f.stateTold
	f.stateTold = state
	closed := f.closed
	f.mu.Unlock()
	if state != told && !closed {
		f.cfg.OnStreamState(state)
	}
}

// RepeatState tells again whether video comes, as it was told last, to a subscriber that
// may have missed it.
func (f *Forwarder) RepeatState() {
	if f.cfg.OnStreamState == nil {
		return
	}
	f.telling.Lock()
	defer f.telling.Unlock()
	f.mu.Lock()
	told, closed := f.stateTold, f.closed
	f.mu.Unlock()
	if told != untoldState && !closed {
		f.cfg.OnStreamState(told)
	}
}

// untoldState is a stream's state before its first packet.
const untoldState livekit.StreamState = -1

// Costs until they are measured: of sound in all, of a picture per pixel.
const (
	soundCost = 40_000.0 // bits/s
	pixelCost = 1.8      // bits/s
)

// largeSide is the shorter side from which on a picture counts as shown large, in
// pixels.
const largeSide = 540

// describe is what the forwarder wants and what each layer costs.
func (f *Forwarder) describe(at time.Time) allocate.Track {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := allocate.Track{
		ID: f.cfg.SSRC, Audio: !f.video, Class: allocate.Rest, CanPause: f.cfg.CanPause, Most: allocate.None, Now: f.limit.decided,
	}
	want := f.wantedLocked()
	if f.closed || f.track.muted.Load() || want == livekit.VideoQuality_OFF || f.heldBack.Load() {
		return t
	}
	if !f.video {
		t.Most = allocate.Layer{}
		if t.Bitrates[0][0] = float64(f.stats.Bitrate); f.stats.Bitrate == 0 && f.inStep {
			t.Bitrates[0][0] = soundCost
		}
		return t
	}
	switch s := &f.settings; {
	case f.track.screen.Load():
		t.Class = allocate.Screen
	case f.track.cfg.Voice.speaking(at):
		t.Class = allocate.Speaker
	case min(s.Width, s.Height) >= largeSide:
		t.Class = allocate.Pinned
	}
	t.Priority = f.settings.Priority
	t.Most = allocate.Layer{Spatial: int8(rank(want) - rank(livekit.VideoQuality_LOW)), Temporal: allocate.Temporals - 1}
	sizes := f.track.sizes.Load()
	for q := range t.Sizes {
		t.Sizes[q] = int(sizes.width[q]) * int(sizes.height[q])
	}
	for _, l := range *f.track.layers.Load() {
		q := int(l.cfg.Quality)
		if !l.cfg.Codec.carries(*f.codec()) || !l.live.Load() || q >= allocate.Spatials {
			continue
		}
		c, layers := l.costs()
		switch {
		case !c.measured:
			pixels := t.Sizes[q]
			if pixels == 0 {
				pixels = 320 * 180 << (2 * q)
			}
			t.Bitrates[q][0] = pixelCost * float64(pixels)
		case layers > 1 && f.alone(l):
			t.Bitrates, t.FPS = c.bitrates, c.fps
		default:
			t.Bitrates[q], t.FPS[q] = c.whole()
		}
	}
	return t
}

// costs are what the layers of the stream cost, and how many spatial ones there are.
func (l *Layer) costs() (costs, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rates.costs, l.inspector.spatialLayers()
}

// whole is what the temporal layers cost with all spatial layers.
func (c *costs) whole() (bitrates, fps [allocate.Temporals]float64) {
	for s := range c.bitrates {
		for t, b := range c.bitrates[s] {
			if b > 0 {
				bitrates[t] = max(bitrates[t], b)
				fps[t] = max(fps[t], c.fps[s][t])
			}
		}
	}
	return bitrates, fps
}
