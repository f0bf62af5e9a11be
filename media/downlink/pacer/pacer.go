// Package pacer decides when packets may leave, so that a keyframe does not fill the
// queue of a narrow path. Where there is room, packets pass through at once.
//
// The nouns:
//
//   - A [Packet] describes a packet to the pacer. The packet itself has the caller's type.
//   - The debt is the bytes that were sent faster than the pace. It is paid off at the pace.
//   - A burst passes while no packet waits and the debt is below what the path carries in
//     some tens of milliseconds: where there is room, bursts are not split.
//   - A stream is broken if one of its frames was dropped and others depend on it. All its
//     packets are dropped until its next keyframe, because no receiver could decode them.
//
// Order: audio, then retransmissions, then video, then padding; within each in order of
// arrival. Audio never waits for the pace, but its bytes count. It waits only for a moment
// in which the path may have no room even for it.
//
// No packet waits longer than OldestWaiting, or oldestKey while a large keyframe passes: an
// older one is dropped, with the rest of its frame.
//
// Nothing here is safe for concurrent use, and nothing reads a clock: times are
// nanoseconds of any monotonic clock.
package pacer

import (
	"time"

	"parlor/media/downlink/sent"
)

// OldestWaiting is how long a packet may wait.
const OldestWaiting = 250 * time.Millisecond

// oldestKey is how long a packet of video may wait while a keyframe passes that has begun to
// leave, and until those behind it wait for OldestWaiting at most. A large keyframe takes a
// narrow path longer than that. If it were dropped, the next one would be, too, and so on: no
// picture would ever come. While a queue on the path drains, in which sound waits, too, it is
// so for the keyframe after one that was dropped.
const oldestKey = 1200 * time.Millisecond

// failedFor is how long after a keyframe was dropped the next one is another attempt.
const failedFor = int64(3 * time.Second)

// Constants of pacing:
const (
	// burstTime: a burst may have as many bytes as the path carries in this time.
	burstTime = 25 * time.Millisecond
	// factor is how much faster than the estimate waiting packets are sent. hurry is the
	// largest such factor, for packets that would otherwise become too old.
	factor = 1.1
	hurry  = 1.3
	// target is the age below which hurry should keep packets.
	target = 200 * time.Millisecond
	// leastBurst allows two packets at once, whatever the estimate.
	leastBurst = 2500
	// mostWaiting bounds the waiting packets of each class.
	mostWaiting = 4096
)

// Packet describes a packet to the pacer.
type Packet struct {
	Stream   uint32 // packets whose frames depend on each other; for example by SSRC
	Size     int    // bytes
	Kind     sent.Kind
	KeyStart bool // begins a key frame
	Start    bool // begins a frame
	End      bool // ends a frame
	// Disposable: no other frame depends on this one. All packets of a frame say the same.
	Disposable bool
	// Needless: it repeats a packet from before a keyframe that was offered since. It is
	// sent only if it need not wait, because it would delay the packets after the
	// keyframe.
	Needless bool
}

// Verdict says what to do with a packet.
type Verdict uint8

// The verdicts.
const (
	Nothing Verdict = iota // no packet may be sent now
	Send
	Queued
	Drop
	// DropAndAsk: as Drop, and a keyframe of the stream must be requested.
	DropAndAsk
)

type item[T any] struct {
	p    Packet
	at   int64
	v    T
	dead bool // a keyframe has made it needless
}

// queue is the waiting packets of one class.
type queue[T any] struct {
	items []item[T] // a ring; its length is a power of two
	head  int
	n     int
}

func (q *queue[T]) push(it item[T]) bool {
	if q.n == len(q.items) {
		if q.n >= mostWaiting {
			return false
		}
		grown := make([]item[T], max(2*q.n, 64))
		for i := range q.n {
			grown[i] = q.items[(q.head+i)&(len(q.items)-1)]
		}
		q.items, q.head = grown, 0
	}
	q.items[(q.head+q.n)&(len(q.items)-1)] = it
	q.n++
	return true
}

func (q *queue[T]) first() *item[T] { return &q.items[q.head] }

func (q *queue[T]) pop() item[T] {
	it := q.items[q.head]
	q.items[q.head] = item[T]{}
	q.head = (q.head + 1) & (len(q.items) - 1)
	q.n--
	return it
}

// Classes, in the order of sending:
const (
	audio = iota
	repeats
	video
	padding
	classes
)

func class(k sent.Kind) int {
	switch k {
	case sent.Audio:
		return audio
	case sent.Repeat:
		return repeats
	case sent.Video:
		return video
	}
	return padding
}

// broken is a stream of which a frame was dropped.
type broken struct {
	stream uint32
	// rest: only the rest of the frame is dropped, because no other depends on it.
	rest bool
	// ask: a keyframe has not been requested yet.
	ask bool
}

// passing is a keyframe that has begun to leave.
type passing struct {
	on     bool
	stream uint32
	whole  bool // its last packet has left
	again  bool // the one before was dropped
}

// Counters count the pacer's decisions.
type Counters struct {
	Passed, Queued, Dropped uint64 // packets
	Broken                  uint64 // requests for keyframes
}

// Pacer paces the packets of one path. The zero value is ready for use: it passes all
// packets until a rate is set.
type Pacer[T any] struct {
	queues    [classes]queue[T]
	waiting   int
	bytes     int
	rate      float64 // bits/s, 0 = no bound
	emptying  bool    // a queue on the path is being drained
	suspended int64   // nothing that may wait leaves before this time
	muted     int64   // no audio leaves before this time
	handed    bool    // the packet that Next returned may not have been sent yet
	debt      float64 // bytes
	paidAt    int64
	broken    []broken
	key       passing // the last one
	failed    uint32  // stream of the last keyframe of which the end was dropped
	failedAt  int64   // when that was
	counters  Counters
}

// SetRate sets the estimated bandwidth of the path, in bits/s; 0 = no bound. emptying: a
// queue on the path is being drained. Then no packet hurries, and when a keyframe of a
// stream comes, the waiting packets of the stream are dropped.
func (p *Pacer[T]) SetRate(now int64, rate float64, emptying bool) {
	p.pay(now)
	p.rate, p.emptying = rate, emptying
	if rate <= 0 {
		p.debt = 0
	}
}

// Hold lets no waiting packet leave for a time, except for audio, which does not wait: the
// queue on the path is so long that it may drop what is sent now. It costs nothing,
// because what is sent now would wait there.
func (p *Pacer[T]) Hold(now int64, d time.Duration) {
	p.pay(now)
	if p.rate > 0 {
		p.debt = max(p.debt, p.allowed()+p.pace()*d.Seconds())
	}
}

// Suspend lets no packet leave until a time, except for audio, whatever the rate.
func (p *Pacer[T]) Suspend(until int64) { p.suspended = until }

// Resume ends a suspension.
func (p *Pacer[T]) Resume() { p.suspended = 0 }

// Mute lets no audio leave until a time.
func (p *Pacer[T]) Mute(until int64) { p.muted = until }

// Counters returns the counters.
func (p *Pacer[T]) Counters() Counters { return p.counters }

// Waiting is the number of packets and bytes that wait.
func (p *Pacer[T]) Waiting() (packets, bytes int) { return p.waiting, p.bytes }

// pay reduces the debt by what the path has carried since the last call.
func (p *Pacer[T]) pay(now int64) {
	if passed := now - p.paidAt; passed > 0 {
		p.debt = max(p.debt-p.pace()*float64(passed)/float64(time.Second), 0)
		p.paidAt = now
	}
}

// pace is the bytes per second at which waiting packets are sent.
func (p *Pacer[T]) pace() float64 {
	bytes := p.rate / 8
	if p.emptying {
		return bytes
	}
	if q := &p.queues[video]; q.n > 0 && !p.key.on {
		left := max(int64(target)-(p.paidAt-q.first().at), int64(10*time.Millisecond))
		return min(max(float64(p.bytes)/(float64(left)/float64(time.Second)), factor*bytes), hurry*bytes)
	}
	return factor * bytes
}

// open reports whether the pace permits a packet now.
func (p *Pacer[T]) open() bool {
	return p.paidAt >= p.suspended && (p.rate <= 0 || p.debt <= p.allowed())
}

func (p *Pacer[T]) allowed() float64 { return max(p.rate/8*burstTime.Seconds(), leastBurst) }

// Offer takes a packet. Send: send it now. Queued: v is kept, and Next will return it.
// Drop and DropAndAsk: do not send it.
func (p *Pacer[T]) Offer(now int64, pkt Packet, v T) Verdict {
	p.pay(now)
	// The waiting packets of a stream decide its state first.
	if len(p.broken) > 0 && p.queues[video].n == 0 && !p.mend(&pkt) {
		p.counters.Dropped++
		return p.dropBroken(pkt.Stream)
	}
	if pkt.KeyStart {
		p.supersede(repeats, pkt.Stream)
		if p.emptying {
			p.supersede(video, pkt.Stream)
		}
	}
	if pkt.Kind == sent.Audio && p.queues[audio].n == 0 && p.paidAt >= p.muted || pkt.Kind != sent.Audio && p.waiting == 0 && !p.handed && p.open() {
		p.owe(pkt.Size)
		p.passes(&pkt, 0)
		p.counters.Passed++
		return Send
	}
	if pkt.Needless {
		p.counters.Dropped++
		return Drop
	}
	if !p.queues[class(pkt.Kind)].push(item[T]{p: pkt, at: now, v: v}) {
		p.counters.Dropped++
		return p.breakStream(&pkt)
	}
	p.waiting++
	p.bytes += pkt.Size
	p.counters.Queued++
	return Queued
}

// Next is the next packet to send or drop now; Nothing if there is none. It must be called
// again after that has been done: until then no other packet passes.
func (p *Pacer[T]) Next(now int64) (v T, pkt Packet, verdict Verdict) {
	p.handed = false
	if p.waiting == 0 {
		return v, pkt, Nothing
	}
	p.pay(now)
	for c := range p.queues {
		q := &p.queues[c]
		if q.n == 0 {
			continue
		}
		first := q.first()
		switch {
		case first.dead:
			verdict = Drop
		case len(p.broken) > 0 && !p.mend(&first.p):
			verdict = p.dropBroken(first.p.Stream)
		case now-first.at > p.oldest(&first.p):
			verdict = p.breakStream(&first.p)
		case c == audio && now >= p.muted, c != audio && p.open():
			verdict = Send
		default:
			continue
		}
		it := q.pop()
		p.waiting--
		p.bytes -= it.p.Size
		if verdict == Send {
			p.handed = true
			p.owe(it.p.Size)
			p.passes(&it.p, now-it.at)
		} else {
			p.counters.Dropped++
		}
		return it.v, it.p, verdict
	}
	return v, pkt, Nothing
}

// supersede marks the waiting packets of a stream in a class as needless.
func (p *Pacer[T]) supersede(class int, stream uint32) {
	q := &p.queues[class]
	for i := range q.n {
		if it := &q.items[(q.head+i)&(len(q.items)-1)]; it.p.Stream == stream {
			it.dead = true
		}
	}
}

// oldest is how long a packet may wait, in ns.
func (p *Pacer[T]) oldest(pkt *Packet) int64 {
	if pkt.Kind == sent.Video && p.key.on && (!p.emptying || p.key.again) {
		return int64(oldestKey)
	}
	return int64(OldestWaiting)
}

// passes notes that a packet leaves after it has waited for that long.
func (p *Pacer[T]) passes(pkt *Packet, waited int64) {
	switch k := &p.key; {
	case pkt.Kind != sent.Video:
	case pkt.KeyStart:
		again := pkt.Stream == p.failed && p.paidAt-p.failedAt < failedFor
		*k = passing{on: true, stream: pkt.Stream, whole: pkt.End, again: again}
	case k.whole && waited <= int64(OldestWaiting):
		k.on = false
	case pkt.Stream == k.stream && pkt.End:
		k.whole = true
	}
}

// When is the time at which Next must be called again; 0 if no packet waits.
func (p *Pacer[T]) When(now int64) int64 {
	if p.waiting == 0 {
		return 0
	}
	p.pay(now)
	at := now
	if p.rate > 0 && p.debt > p.allowed() {
		at += int64((p.debt-p.allowed())/p.pace()*float64(time.Second)) + 1
	}
	at = max(at, p.suspended)
	switch sound := p.queues[audio].n; {
	case sound == p.waiting:
		at = max(p.muted, now)
	case sound > 0:
		at = min(at, max(p.muted, now))
	}
	for i := range p.queues {
		if q := &p.queues[i]; q.n > 0 {
			if q.first().dead {
				return now
			}
			at = min(at, max(q.first().at+p.oldest(&q.first().p)+1, now))
		}
	}
	return at
}

// Sent records bytes that were sent without Offer: those of a probe, which is sent faster
// than the pace on purpose.
func (p *Pacer[T]) Sent(now int64, bytes int) {
	p.pay(now)
	p.owe(bytes)
}

func (p *Pacer[T]) owe(bytes int) {
	if p.rate > 0 {
		p.debt += float64(bytes)
	}
}

// Forget drops the state of a stream. Its packets that wait are still sent.
func (p *Pacer[T]) Forget(stream uint32) {
	if p.key.stream == stream {
		p.key.on = false
	}
	for i := range p.broken {
		if p.broken[i].stream == stream {
			p.remove(i)
			return
		}
	}
}

// End has the packets of a stream that wait dropped, and no keyframe asked for them: nobody
// receives the stream any more.
func (p *Pacer[T]) End(stream uint32) {
	for class := range p.queues {
		p.supersede(class, stream)
	}
}

// breakStream is called for a dropped packet, and marks its stream if frames cannot be
// decoded now.
func (p *Pacer[T]) breakStream(pkt *Packet) Verdict {
	if pkt.Kind == sent.Video && pkt.Stream == p.key.stream {
		if p.key.on && !p.key.whole {
			p.failed, p.failedAt = pkt.Stream, p.paidAt
		}
		p.key.on = false
	}
	switch {
	case pkt.Kind != sent.Video || p.isBroken(pkt.Stream):
		return Drop
	case !pkt.Disposable:
		p.broken = append(p.broken, broken{stream: pkt.Stream})
		p.counters.Broken++
		return DropAndAsk
	case !pkt.End:
		p.broken = append(p.broken, broken{stream: pkt.Stream, rest: true})
	}
	return Drop
}

// Break notes that packets of a stream were lost on the path, and later ones depend on
// them. Packets are dropped until the stream's next keyframe, and the first dropped one
// requests it.
func (p *Pacer[T]) Break(stream uint32) {
	for i := range p.broken {
		if b := &p.broken[i]; b.stream == stream {
			b.ask, b.rest = b.ask || b.rest, false
			return
		}
	}
	p.broken = append(p.broken, broken{stream: stream, ask: true})
}

// Broken reports whether packets of some stream are dropped until its next keyframe.
func (p *Pacer[T]) Broken() bool { return len(p.broken) > 0 }

// dropBroken is the verdict for a packet of a broken stream.
func (p *Pacer[T]) dropBroken(stream uint32) Verdict {
	for i := range p.broken {
		if b := &p.broken[i]; b.stream == stream && b.ask {
			b.ask = false
			p.counters.Broken++
			return DropAndAsk
		}
	}
	return Drop
}

func (p *Pacer[T]) isBroken(stream uint32) bool {
	for i := range p.broken {
		if p.broken[i].stream == stream {
			return true
		}
	}
	return false
}

func (p *Pacer[T]) remove(i int) {
	p.broken[i] = p.broken[len(p.broken)-1]
	p.broken = p.broken[:len(p.broken)-1]
}

// mend reports whether the stream of a packet permits it. A keyframe mends a broken
// stream.
func (p *Pacer[T]) mend(pkt *Packet) bool {
	if pkt.Kind != sent.Video {
		return true
	}
	for i := range p.broken {
		switch b := &p.broken[i]; {
		case b.stream != pkt.Stream:
			continue
		case pkt.KeyStart:
			p.remove(i)
			return true
		case b.rest && (pkt.Start || !pkt.Disposable): // of the next frame: the end of the former did not come
			p.remove(i)
			return true
		case b.rest && pkt.End:
			p.remove(i)
		}
		return false
	}
	return true
}
