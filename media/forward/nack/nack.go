// Package nack decides which lost packets a receiver asks for again (RFC 4585
// 6.2.1), and when.
package nack

import "time"

// What is asked for, how often and when.
const (
	window      = 100 // packets behind the newest that are still worth asking for
	maxTries    = 5
	minInterval = int64(20 * time.Millisecond)
	maxInterval = int64(400 * time.Millisecond)
	defaultRTT  = int64(70 * time.Millisecond)
)

// missing is a packet that has not come.
type missing struct {
	ext   int64
	next  int64 // when to ask (again)
	asked int64 // when it was asked for last
	wait  int64 // how long to wait after that
	tries int
}

// Tracker knows the packets that are missing from one stream. Times are
// nanoseconds of any one clock. It is not safe for concurrent use.
type Tracker struct {
	missing []missing // by ext, ascending
	rtt     int64
}

// New makes a tracker; its memory never grows.
func New() *Tracker {
	return &Tracker{missing: make([]missing, 0, window), rtt: defaultRTT}
}

// SetRTT says how long a packet that is asked for takes to come.
func (t *Tracker) SetRTT(rtt time.Duration) { t.rtt = max(int64(rtt), int64(time.Millisecond)) }

// RTT is the round trip as told, or as seen from answers.
func (t *Tracker) RTT() time.Duration { return time.Duration(t.rtt) }

// Advance says that the newest packet is ext, after previous: what lies between
// is missing.
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

// forget drops what is at or before ext.
func (t *Tracker) forget(ext int64) {
	n := 0
	for n < len(t.missing) && t.missing[n].ext < ext {
		n++
	}
	if n > 0 {
		t.missing = append(t.missing[:0], t.missing[n:]...)
	}
}

// Arrived says that a late packet came; it reports whether it was missing.
func (t *Tracker) Arrived(ext, now int64) bool {
	for i := range t.missing {
		m := &t.missing[i]
		if m.ext != ext {
			continue
		}
		// One question, one answer: that is a round trip (else it is unknown which
		// question was answered).
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

// Due appends to dst the numbers to ask for now.
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

// Waiting reports whether anything is missing.
func (t *Tracker) Waiting() bool { return len(t.missing) > 0 }

// Reset forgets everything but the round trip.
func (t *Tracker) Reset() { t.missing = t.missing[:0] }
