// Package nack decides when a receiver asks again for lost packets (RFC 4585, section
// 6.2.1).
package nack

import "time"

// Limits of the requests:
const (
	window      = 100 // packets further behind the newest are given up
	maxTries    = 5
	minInterval = int64(20 * time.Millisecond)
	maxInterval = int64(400 * time.Millisecond)
	defaultRTT  = int64(70 * time.Millisecond)
)

// missing is a packet that has not arrived.
type missing struct {
	ext   int64
	next  int64 // time of the next request
	asked int64 // time of the last request
	wait  int64 // how long to wait after that
	tries int
}

// Tracker holds the missing packets of one stream. Times are nanoseconds of any one
// clock. It is not safe for concurrent use.
type Tracker struct {
	missing []missing // by ext, ascending
	rtt     int64
}

// New makes a tracker. Its memory does not grow.
func New() *Tracker {
	return &Tracker{missing: make([]missing, 0, window), rtt: defaultRTT}
}

// SetRTT sets the time from a request to its answer.
func (t *Tracker) SetRTT(rtt time.Duration) { t.rtt = max(int64(rtt), int64(time.Millisecond)) }

// RTT is the round-trip time, as set or as measured from answers.
func (t *Tracker) RTT() time.Duration { return time.Duration(t.rtt) }

// Advance notes that the newest packet is ext, after previous: the packets between are
// missing.
func (t *Tracker) Advance(previous, ext, now int64) {
	if len(t.missing) > 0 {
		t.forget(ext - window)
	}
	for m := max(previous+1, ext-window); m < ext; m++ {
		if len(t.missing) == window {
			t.missing = append(t.missing[:0], t.missing[1:]...)
		}
		t.missing = append(t.missing, missing{ext: m, next: now, wait: min(max(t.rtt, minInterval), maxInterval)})
	}
}

// forget drops the packets before ext.
func (t *Tracker) forget(ext int64) {
	n := 0
	for n < len(t.missing) && t.missing[n].ext < ext {
		n++
	}
	if n > 0 {
		t.missing = append(t.missing[:0], t.missing[n:]...)
	}
}

// Arrived notes that a late packet came, and reports whether it was missing.
func (t *Tracker) Arrived(ext, now int64) bool {
	for i := range t.missing {
		m := &t.missing[i]
		if m.ext != ext {
			continue
		}
		// After one request the answer measures the round trip. After several it is
		// unknown which of them was answered.
		if m.tries == 1 {
			sample := now - m.asked
			if sample >= int64(time.Millisecond) && sample <= int64(2*time.Second) {
				t.rtt += (sample - t.rtt) / 8
			}
		}
		t.missing = append(t.missing[:i], t.missing[i+1:]...)
		return true
	}
	return false
}

// Due appends to dst the sequence numbers to ask for now.
func (t *Tracker) Due(now int64, dst []uint16) []uint16 {
	kept := t.missing[:0]
	for _, m := range t.missing {
		if m.next <= now {
			if m.tries == maxTries {
				continue
			}
			m.tries++
			m.asked, m.next = now, now+m.wait
			m.wait = min(m.wait+m.wait/4, maxInterval)
			dst = append(dst, uint16(m.ext))
		}
		kept = append(kept, m)
	}
	t.missing = kept
	return dst
}

// Waiting reports whether any packet is missing.
func (t *Tracker) Waiting() bool { return len(t.missing) > 0 }

// Reset drops the missing packets, and keeps the round-trip time.
func (t *Tracker) Reset() { t.missing = t.missing[:0] }
