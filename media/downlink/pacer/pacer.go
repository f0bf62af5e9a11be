// Package pacer says when packets may leave, so that a key frame does not fill the
// queue of a narrow path, and passes them through where there is room.
//
// The nouns:
//
//   - A [Packet] is what the pacer knows of a packet; the packet itself is of a type of
//     the caller.
//   - The debt is the bytes that left faster than the pace. It is paid off at the pace.
//   - A burst passes while nothing waits and the debt stays below what the path carries
//     in some tens of milliseconds: where there is room, bursts stay whole.
//   - A stream is broken when a frame of it was dropped on which others depend. Until
//     its next key frame all of it is dropped, as no receiver could decode it.
//
// Order: audio, then repeats, then video, then padding; within each as they came.
// Audio never waits for the pace, but what it sends counts.
//
// Nothing waits longer than the bound on age: what is older is dropped to the end of
// its frame.
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

// The numbers of pacing.
const (
	// burstTime is how much of what the path carries may leave at once.
	burstTime = 25 * time.Millisecond
	// factor is how much faster than the estimate packets leave when they wait, and
	// hurry how much faster at most when they would become too old else.
	factor = 1.1
	hurry  = 1.3
	// target is the age that the hurry is to keep them below.
	target = 200 * time.Millisecond
	// leastBurst lets two packets leave at once whatever the estimate.
	leastBurst = 2500
	// mostWaiting bounds the packets that wait, per class.
	mostWaiting = 4096
)

// Packet is what the pacer knows of a packet.
type Packet struct {
	Stream   uint32 // its frames depend on each other; the SSRC, say
	Size     int    // bytes
	Kind     sent.Kind
	KeyStart bool // begins a key frame
	End      bool // ends a frame
	// Disposable: no other frame depends on it.
	Disposable bool
	// Needless: it repeats what came before a key frame that was offered since. It leaves
	// only if it need not wait, since it would hold up what follows the key frame.
	Needless bool
}

// Verdict is what is to be done with a packet.
type Verdict uint8

// The verdicts.
const (
	Nothing Verdict = iota // no packet may leave now
	Send
	Queued
	Drop
	// DropAndAsk: as Drop, and a key frame of the stream is to be asked for.
	DropAndAsk
)

type item[T any] struct {
	p    Packet
	at   int64
	v    T
	dead bool // a key frame has made it needless
}

// queue is the packets of one class that wait.
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

// Classes, by what leaves first.
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
	// rest: only what is left of the frame is dropped, since no other depends on it.
	rest bool
	// ask: a key frame has not been asked for yet.
	ask bool
}

// Counters are what the pacer has done.
type Counters struct {
	Passed, Queued, Dropped uint64 // packets
	Broken                  uint64 // how often a key frame was asked for
}

// Pacer paces what leaves on one path. The zero value is ready: it passes everything
// until a rate is set.
type Pacer[T any] struct {
	queues   [classes]queue[T]
	waiting  int
	bytes    int
	rate     float64 // bits/s, 0 = no bound
	emptying bool    // a queue on the way is to be emptied
	handed   bool    // what Next gave out may not have left yet
	debt     float64 // bytes
	paidAt   int64
	broken   []broken
	counters Counters
}

// SetRate sets the pace to what a path is estimated to carry, in bits/s; 0 = no bound.
// emptying: there is a queue on the way that is to be emptied; nothing hurries then, and
// what waits of a stream is dropped when a key frame of it comes.
func (p *Pacer[T]) SetRate(now int64, rate float64, emptying bool) {
	p.pay(now)
	p.rate, p.emptying = rate, emptying
	if rate <= 0 {
		p.debt = 0
	}
}

// Counters are what was done so far.
func (p *Pacer[T]) Counters() Counters { return p.counters }

// Waiting is the packets and bytes that wait.
func (p *Pacer[T]) Waiting() (packets, bytes int) { return p.waiting, p.bytes }

// pay takes off the debt what the path has carried since.
func (p *Pacer[T]) pay(now int64) {
	if passed := now - p.paidAt; passed > 0 {
		p.debt = max(p.debt-p.pace()*float64(passed)/float64(time.Second), 0)
		p.paidAt = now
	}
}

// pace is the bytes per second that leave while packets wait.
func (p *Pacer[T]) pace() float64 {
	bytes := p.rate / 8
	if p.emptying {
		return bytes
	}
	if q := &p.queues[video]; q.n > 0 {
		left := max(int64(target)-(p.paidAt-q.first().at), int64(10*time.Millisecond))
		return min(max(float64(p.bytes)/(float64(left)/float64(time.Second)), factor*bytes), hurry*bytes)
	}
	return factor * bytes
}

// open reports whether the pace lets a packet leave.
func (p *Pacer[T]) open() bool { return p.rate <= 0 || p.debt <= p.allowed() }

func (p *Pacer[T]) allowed() float64 { return max(p.rate/8*burstTime.Seconds(), leastBurst) }

// Offer takes a packet. Send: it is to be sent now. Queued: v is kept, and Next will
// give it back. Drop and DropAndAsk: it is not to be sent.
func (p *Pacer[T]) Offer(now int64, pkt Packet, v T) Verdict {
	p.pay(now)
	// What a stream has waiting decides about its state first.
	if len(p.broken) > 0 && p.queues[video].n == 0 && !p.mend(&pkt) {
		p.counters.Dropped++
		return p.dropBroken(pkt.Stream)
	}
	if pkt.Kind == sent.Audio || p.waiting == 0 && !p.handed && p.open() {
		p.owe(pkt.Size)
		p.counters.Passed++
		return Send
	}
	switch {
	case pkt.KeyStart:
		p.supersede(repeats, pkt.Stream)
		if p.emptying {
			p.supersede(video, pkt.Stream)
		}
	case pkt.Needless:
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

// Next is the next packet that is to be sent or dropped now; Nothing when none is. It is
// called again once that has been done: until then no other packet passes it.
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
		case now-first.at > int64(OldestWaiting):
			verdict = p.breakStream(&first.p)
		case p.open():
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
		} else {
			p.counters.Dropped++
		}
		return it.v, it.p, verdict
	}
	return v, pkt, Nothing
}

// supersede has what waits of a stream in a class dropped.
func (p *Pacer[T]) supersede(class int, stream uint32) {
	q := &p.queues[class]
	for i := range q.n {
		if it := &q.items[(q.head+i)&(len(q.items)-1)]; it.p.Stream == stream {
			it.dead = true
		}
	}
}

// When is when Next is to be called again, 0 when nothing waits.
func (p *Pacer[T]) When(now int64) int64 {
	if p.waiting == 0 {
		return 0
	}
	p.pay(now)
	at := now
	if !p.open() {
		at += int64((p.debt-p.allowed())/p.pace()*float64(time.Second)) + 1
	}
	for i := range p.queues {
		if q := &p.queues[i]; q.n > 0 {
			if q.first().dead {
				return now
			}
			at = min(at, max(q.first().at+int64(OldestWaiting)+1, now))
		}
	}
	return at
}

// Sent takes note of bytes that left without having been offered: those of a probe,
// which leaves faster than the pace by its nature.
func (p *Pacer[T]) Sent(now int64, bytes int) {
	p.pay(now)
	p.owe(bytes)
}

func (p *Pacer[T]) owe(bytes int) {
	if p.rate > 0 {
		p.debt += float64(bytes)
	}
}

// Forget drops what is known of a stream that ended. What waits of it still leaves.
func (p *Pacer[T]) Forget(stream uint32) {
	for i := range p.broken {
		if p.broken[i].stream == stream {
			p.remove(i)
			return
		}
	}
}

// breakStream judges a packet that is dropped: what it leaves undecodable.
func (p *Pacer[T]) breakStream(pkt *Packet) Verdict {
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

// Break says that packets of a stream were lost on the path, on which those that follow
// depend: until its next key frame they are dropped, and the first of them asks for one.
func (p *Pacer[T]) Break(stream uint32) {
	for i := range p.broken {
		if b := &p.broken[i]; b.stream == stream {
			b.ask, b.rest = b.ask || b.rest, false
			return
		}
	}
	p.broken = append(p.broken, broken{stream: stream, ask: true})
}

// Broken reports whether packets of any stream are dropped until its next key frame.
func (p *Pacer[T]) Broken() bool { return len(p.broken) > 0 }

// dropBroken judges a packet of a broken stream.
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

// mend reports whether a packet may be sent as far as its stream is concerned: a key
// frame mends a broken one.
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
		case b.rest && pkt.End:
			p.remove(i)
		}
		return false
	}
	return true
}
