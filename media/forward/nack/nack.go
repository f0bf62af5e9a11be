// Package nack decides when a receiver asks again for lost packets (RFC 4585, section
// 6.2.1).
package nack

import (
	"cmp"
	"slices"
	"time"
)

// Limits of the requests. A packet is asked for while it can still be useful, at the
// distance of the round trip and longer each time. The other limits are for networks that
// were away, for jumps of the numbers, and for publishers that leave numbers out: there are
// no more than window packets missing, and of those that are lost at once only the newest
// are asked for, because without the others a keyframe is needed anyway.
const (
	useful      = int64(time.Second)
	maxTries    = 12
	minInterval = int64(20 * time.Millisecond)
	defaultRTT  = int64(70 * time.Millisecond)
	window      = 1000 // packets further behind the newest are given up
	mostOfAJump = 250
	firstRoom   = 16
)

// missing is a packet that has not arrived.
type missing struct {
	ext   int64
	since int64 // when it was missed, and first asked for
	next  int64 // time of the next request
	asked int64 // time of the last request
	tries int
}

// Tracker holds the missing packets of one stream. Times are nanoseconds of any one
// clock. It is not safe for concurrent use.
type Tracker struct {
	missing []missing // by ext, ascending
	next    int64     // time of the first request that is due, at the latest
	path    int64     // round trip, as set; 0 = unknown
	answer  int64     // smoothed time from a request to its answer
	learnt  bool      // answer is measured
}

// New makes a tracker. It holds at most a thousand packets.
func New() *Tracker { return &Tracker{answer: defaultRTT} }

// SetRTT sets the round-trip time. No answer comes sooner. Answers alone are slow to tell that it
// has become long, and not sure.
func (t *Tracker) SetRTT(rtt time.Duration) {
	if t.path = max(int64(rtt), int64(time.Millisecond)); !t.learnt {
		t.answer = t.path
	}
}

// RTT is the round-trip time, as set or else as measured from answers; 0 = unknown.
func (t *Tracker) RTT() time.Duration {
	if t.path == 0 && t.learnt {
		return time.Duration(t.answer)
	}
	return time.Duration(t.path)
}

// Advance notes that the newest packet is ext, after previous: the packets between are
// missing.
func (t *Tracker) Advance(previous, ext, now int64) {
	if len(t.missing) > 0 && t.missing[0].ext < ext-window {
		n, _ := t.find(ext - window)
		t.missing = slices.Delete(t.missing, 0, n)
	}
	from := max(previous+1, ext-mostOfAJump)
	if from >= ext {
		return
	}
	if t.missing == nil {
		t.missing = make([]missing, 0, firstRoom)
	}
	for m := from; m < ext; m++ {
		t.missing = append(t.missing, missing{ext: m, since: now, next: now})
	}
	t.next = min(t.next, now)
}

// find is the place of a packet, where it is or would be.
func (t *Tracker) find(ext int64) (i int, found bool) {
	return slices.BinarySearchFunc(t.missing, ext, func(m missing, ext int64) int { return cmp.Compare(m.ext, ext) })
}

// Arrived notes that a late packet came, and reports whether it was missing.
func (t *Tracker) Arrived(ext, now int64) bool {
	i, found := t.find(ext)
	if !found {
		return false
	}
	// After one request the answer measures the round trip. After several it is unknown which of
	// them was answered. It may well have been the first: where the round trip has become longer
	// than the distance of the requests, each is answered, and no answer would ever measure it.
	switch m := &t.missing[i]; {
	case m.tries == 1:
		t.learn(now-m.asked, 8)
	case m.tries > 1 && now-m.since > max(t.answer, t.path):
		t.learn(now-m.since, 16)
	}
	t.keep(slices.Delete(t.missing, i, i+1))
	return true
}

// learn takes a sample of the time to an answer with the weight 1/part.
func (t *Tracker) learn(sample, part int64) {
	if sample >= int64(time.Millisecond) && sample <= int64(2*time.Second) {
		t.answer, t.learnt = t.answer+(sample-t.answer)/part, true
	}
}

// Due appends to dst the sequence numbers to ask for now.
func (t *Tracker) Due(now int64, dst []uint16) []uint16 {
	if now < t.next {
		return dst
	}
	kept := t.missing[:0]
	t.next = now + useful
	for _, m := range t.missing {
		if m.next <= now {
			if m.tries == maxTries || now-m.since > useful {
				continue
			}
			wait := max(t.answer, t.path, minInterval)
			if m.tries > 0 {
				wait = max(wait, (m.next-m.asked)*5/4)
			}
			m.tries++
			m.asked, m.next = now, now+wait
			dst = append(dst, uint16(m.ext))
		}
		t.next = min(t.next, m.next)
		kept = append(kept, m)
	}
	t.keep(kept)
	return dst
}

// keep keeps what is missing still, and gives up the memory that a bad time took.
func (t *Tracker) keep(missing []missing) {
	if t.missing = missing; len(missing) == 0 && cap(missing) > 4*firstRoom {
		t.missing = nil
	}
}

// Waiting reports whether any packet is missing.
func (t *Tracker) Waiting() bool { return len(t.missing) > 0 }

// After is how many packets after ext are missing.
func (t *Tracker) After(ext int64) int {
	i, _ := t.find(ext + 1)
	return len(t.missing) - i
}

// Reset drops the missing packets, and keeps what is known of the time that answers take.
func (t *Tracker) Reset() { t.missing = t.missing[:0] }
