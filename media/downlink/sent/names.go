package sent

import (
	"cmp"
	"slices"
	"time"

	"parlor/media/downlink/feedback"
)

// A ring of names grows from least to most while it would forget what may still be
// reported.
const (
	leastNames = 32
	mostNames  = 1 << 13
)

// names are by what name packets left that have one. The zero value has none.
type names struct {
	streams   map[uint32][]name // by SSRC: rings by sequence number
	timestamp unwrapper         // of reports, in units of 1/65536 s
	told      []told            // by the report that is matched
}

// name is the packet that left with a sequence number of a stream.
type name struct {
	number   uint32 // low bits of the packet's transport-wide number
	sequence uint16
	used     bool
}

// told is what a report tells of a packet.
type told struct {
	number, arrived int64
	came            bool
}

// Name says by which SSRC and sequence number a receiver tells of the packet that was
// added last. A name that is used again, as a repeat does that has no stream of its own,
// is the later packet's.
func (r *Record) Name(ssrc uint32, sequence uint16) {
	if r.names.streams == nil {
		r.names.streams = map[uint32][]name{}
	}
	ring := r.names.streams[ssrc]
	if ring == nil {
		ring = make([]name, leastNames)
		r.names.streams[ssrc] = ring
	}
	slot := &ring[int(sequence)&(len(ring)-1)]
	if slot.used && slot.sequence != sequence && len(ring) < mostNames && r.young(slot) {
		old := ring
		ring = make([]name, 2*len(old))
		for _, n := range old {
			if n.used {
				ring[int(n.sequence)&(len(ring)-1)] = n
			}
		}
		r.names.streams[ssrc] = ring
		slot = &ring[int(sequence)&(len(ring)-1)]
	}
	*slot = name{number: uint32(r.next - 1), sequence: sequence, used: true}
}

// young reports whether a packet may still be told of.
func (r *Record) young(n *name) bool {
	e, last := r.get(r.extended(n)), r.get(r.next-1)
	return e != nil && last != nil && last.at-e.at < reportable
}

// extended is a name's transport-wide number.
func (r *Record) extended(n *name) int64 {
	last := r.next - 1
	return last - int64(uint32(last)-n.number)
}

// Forget drops the names of a stream that ended.
func (r *Record) Forget(ssrc uint32) { delete(r.names.streams, ssrc) }

// MatchStreams is Match for a report that tells of packets by their names. Their results
// come in the order of their numbers. Packets of which it is told that they came, but not
// when, have none.
func (r *Record) MatchStreams(fb *feedback.StreamReport, results []Result) []Result {
	if len(r.names.streams) == 0 {
		return results
	}
	made := r.names.timestamp.unwrap(fb.Timestamp, 32)
	at := made>>16*int64(time.Second) + made&0xffff*int64(time.Second)>>16
	all := r.names.told[:0]
	for _, s := range fb.Streams {
		ring := r.names.streams[s.SSRC]
		if ring == nil {
			r.unknown += uint64(s.To - s.From)
			continue
		}
		for i, arrival := range fb.Arrivals[s.From:s.To] {
			sequence := s.Begin + uint16(i)
			n := &ring[int(sequence)&(len(ring)-1)]
			if !n.used || n.sequence != sequence {
				r.unknown++
				continue
			}
			t := told{number: r.extended(n), came: arrival != feedback.NotReceived}
			switch {
			case arrival == feedback.Untimed:
				if t.number > r.highest && r.get(t.number) != nil { // a name outlives the record
					r.acknowledge(t.number)
				}
				continue
			case t.came:
				t.arrived = at - int64(arrival)*int64(time.Second)/1024
			}
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b told) int { return cmp.Compare(a.number, b.number) })
	for _, t := range all {
		results = r.settle(t.number, t.came, t.arrived, results)
	}
	r.names.told = all
	return results
}
