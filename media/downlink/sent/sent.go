// Package sent records the packets sent on a transport, and finds what became of them.
//
// The nouns:
//
//   - A number is a transport-wide sequence number. It is 16 bits on the wire and
//     64 bits here.
//   - A [Record] assigns the numbers, and remembers size, time and kind by number, in 16
//     bytes.
//   - A name is a packet's SSRC and sequence number, by which receivers report that have
//     no transport-wide numbers (RFC 8888).
//   - A [Result] is the receiver's report on one packet.
//   - A cluster is the packets of one probe.
//
// Send times are nanoseconds of one monotonic clock. Arrivals are nanoseconds of the
// receiver's clock, whose origin is unknown.
package sent

import (
	"time"

	"parlor/media/downlink/feedback"
)

// Kind is the purpose of a packet.
type Kind uint8

// The kinds.
const (
	Audio Kind = iota + 1
	Video
	Repeat  // a requested retransmission
	Padding // retransmissions and padding that nobody requested, for probing
)

// The states of an entry, in the bits above its kind.
const (
	kindMask = 0x0f
	missing  = 0x10 // a report said that it had not arrived
	received = 0x20
	repeated = 0x40 // it was sent again under the same number
)

// The ring grows from leastEntries to mostEntries while it would otherwise forget packets
// that may still be reported.
const (
	leastEntries = 64
	mostEntries  = 1 << 14
	reportable   = int64(3 * time.Second)
)

type entry struct {
	at      int64
	number  uint32 // low bits, to distinguish an entry from an older one in its slot
	size    uint16
	kind    uint8 // with the state; 0: no entry
	cluster uint8
}

// Result is what became of a packet.
type Result struct {
	Number   int64
	Sent     int64 // ns of the sender's clock
	Arrived  int64 // ns of the receiver's clock, if Received
	Size     int32 // bytes
	Kind     Kind
	Cluster  uint8 // the probe to which it belongs; 0 = none
	Received bool
	// Revised: an earlier report counted the packet as lost, but it came late.
	Revised bool
}

// Record is the record of one transport. It is not safe for concurrent use.
type Record struct {
	ring    []entry
	next    int64 // number of the next packet
	highest int64 // highest number in a report so far; 0 = none

	reference unwrapper // of transport-wide reports, in units of 64 ms
	names     names

	outstanding int64 // bytes sent after highest
	unknown     uint64
}

// New makes an empty record.
func New() *Record {
	return &Record{ring: make([]entry, leastEntries), next: 1, highest: 0}
}

// Add records a packet that is sent now, and returns its transport-wide number. size is
// the length on the path in bytes, without IP and UDP headers; cluster is the running
// probe; 0 = none.
func (r *Record) Add(now int64, size int, kind Kind, cluster uint8) uint16 {
	n := r.next
	r.next++
	slot := &r.ring[n&int64(len(r.ring)-1)]
	if slot.kind != 0 && now-slot.at < reportable && len(r.ring) < mostEntries {
		r.grow()
		slot = &r.ring[n&int64(len(r.ring)-1)]
	}
	*slot = entry{at: now, number: uint32(n), size: uint16(min(size, 65535)), kind: uint8(kind) & kindMask, cluster: cluster}
	r.outstanding += int64(slot.size)
	return uint16(n)
}

func (r *Record) grow() {
	old := r.ring
	r.ring = make([]entry, 2*len(old))
	for _, e := range old {
		if e.kind != 0 {
			r.ring[int64(e.number)&int64(len(r.ring)-1)] = e
		}
	}
}

// get is the entry of a number; nil if it is forgotten or was never sent.
func (r *Record) get(n int64) *entry {
	if n < 1 || n >= r.next || n < r.next-int64(len(r.ring)) {
		return nil
	}
	e := &r.ring[n&int64(len(r.ring)-1)]
	if e.kind == 0 || e.number != uint32(n) {
		return nil
	}
	return e
}

// Next is the number of the next packet.
func (r *Record) Next() int64 { return r.next }

// InFlight is the number of bytes sent after the last packet in a report.
func (r *Record) InFlight() int { return int(r.outstanding) }

// Oldest is when the first packet after the last one in a report was sent; 0 if there is none.
func (r *Record) Oldest() int64 {
	if e := r.get(r.highest + 1); e != nil {
		return e.at
	}
	return 0
}

// Unknown counts statuses of packets that were not sent, or are forgotten.
func (r *Record) Unknown() uint64 { return r.unknown }

// Arrived reports whether a report has said that the packet with a number arrived, if the
// packet is remembered.
func (r *Record) Arrived(number uint16) bool {
	last := r.next - 1
	e := r.get(last - int64(uint16(last)-number))
	return e != nil && e.kind&received != 0
}

// Lost reports whether a report has said that the packet with a number did not arrive, and none
// since that it did, if the packet is remembered.
func (r *Record) Lost(number uint16) bool {
	last := r.next - 1
	e := r.get(last - int64(uint16(last)-number))
	return e != nil && e.kind&(missing|received) == missing
}

// Repeated notes that the packet with a number was sent again in the same bytes. If a report
// says later that it arrived, it does not tell which of the two, and nothing follows from the
// time: a packet that was lost stays lost.
func (r *Record) Repeated(number uint16) {
	last := r.next - 1
	if e := r.get(last - int64(uint16(last)-number)); e != nil {
		e.kind |= repeated
	}
}

// Match appends the news of a report about sent packets, in their order. A packet is
// reported once as lost and once as received, and never as lost after that. Packets whose
// reports were lost have no result, nor has the arrival of one that was sent again under its
// number.
func (r *Record) Match(fb *feedback.Report, results []Result) []Result {
	if r.next == 1 || len(fb.Arrivals) == 0 {
		return results
	}
	last := r.next - 1
	base := last + int64(int16(fb.Base-uint16(last)))
	reference := r.reference.unwrap(fb.Reference, 24) * int64(64*time.Millisecond)
	for i, arrival := range fb.Arrivals {
		came := arrival != feedback.NotReceived
		results = r.settle(base+int64(i), came, reference+int64(arrival)*int64(250*time.Microsecond), results)
	}
	return results
}

// settle takes what a report says of one packet, and appends a result if that is news.
func (r *Record) settle(n int64, came bool, arrived int64, results []Result) []Result {
	e := r.get(n)
	if e == nil {
		r.unknown++
		return results
	}
	if n == r.highest+1 { // as acknowledge does, for the usual case
		r.outstanding -= int64(e.size)
		r.highest = n
	} else if n > r.highest {
		r.acknowledge(n)
	}
	state := e.kind & (missing | received)
	if state == received || state == missing && !came {
		return results
	}
	if came && e.kind&repeated != 0 {
		e.kind = e.kind&^missing | received
		return results
	}
	if !came {
		arrived = 0
	}
	results = append(results, Result{
		Number: n, Sent: e.at, Arrived: arrived, Size: int32(e.size), Kind: Kind(e.kind & kindMask), Cluster: e.cluster,
		Received: came, Revised: state == missing,
	})
	if came {
		e.kind = e.kind&^missing | received
	} else {
		e.kind |= missing
	}
	return results
}

// acknowledge removes the packets up to n from those in flight.
func (r *Record) acknowledge(n int64) {
	from := max(r.highest+1, r.next-int64(len(r.ring)))
	if from > r.highest+1 {
		// Some packets were forgotten before they were reported: count the rest.
		r.outstanding = 0
		for i := n + 1; i < r.next; i++ {
			r.outstanding += int64(r.ring[i&int64(len(r.ring)-1)].size)
		}
	} else {
		for i := from; i <= n; i++ {
			r.outstanding -= int64(r.ring[i&int64(len(r.ring)-1)].size)
		}
	}
	r.highest = n
}

// unwrapper extends times of a receiver's clock that wrap. The zero value is ready.
type unwrapper struct {
	last int64
	any  bool
}

// mostWraps is how often a time may wrap, which takes years. A receiver whose clock is further ahead
// lies, and times in nanoseconds would overflow.
const mostWraps = 1 << 12

// unwrap extends a time of so many bits.
func (u *unwrapper) unwrap(at uint32, bits int) int64 {
	if !u.any || u.last >= mostWraps<<bits {
		// Add one wrap, so that an earlier time is not negative.
		u.last, u.any = int64(at)+1<<bits, true
		return u.last
	}
	diff := int32((at-uint32(u.last))<<(32-bits)) >> (32 - bits)
	extended := u.last + int64(diff)
	u.last = max(u.last, extended)
	return extended
}
