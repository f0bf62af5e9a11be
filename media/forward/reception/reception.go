// Package reception keeps what a receiver knows of an RTP stream: its extended
// sequence number, losses and jitter (RFC 3550, appendix A).
package reception

// Bounds on sequence numbers, after RFC 3550 A.1: a packet further ahead than
// maxDropout or further behind than maxMisorder is believed only when the next
// one continues it, and then the source has restarted.
const (
	maxDropout  = 3000
	maxMisorder = 600
)

// Verdict is what to make of a packet.
type Verdict uint8

// The verdicts.
const (
	// Next: it is ahead of all that came before.
	Next Verdict = iota
	// Late: it is behind, and may be a duplicate.
	Late
	// Duplicate of the newest packet.
	Duplicate
	// Restart: the source began again with this packet, or for the first time.
	Restart
	// Suspect: too far off to be believed yet.
	Suspect
)

// Stream is the state of one received stream. It is not safe for concurrent use.
type Stream struct {
	clockRate int64

	started bool
	first   int64 // lowest extended number since the restart
	max     int64
	suspect int32 // the number that would confirm a restart, -1 for none

	received uint64 // since the restart, without duplicates

	// Jitter by RFC 3550 A.8, times 16.
	transit   int64
	jitter    int64
	hasJitter bool

	expectedPrior, receivedPrior uint64
	lostBefore                   int64 // lost before the last restart
}

// New makes the state of a stream with that RTP clock, in Hz.
func New(clockRate uint32) *Stream {
	return &Stream{clockRate: int64(max(clockRate, 1)), suspect: -1}
}

// Accept extends seq. With Suspect or Duplicate, ext is of no use.
func (s *Stream) Accept(seq uint16) (ext int64, v Verdict) {
	if !s.started {
		s.restart(seq)
		return s.max, Restart
	}
	ahead := int16(seq - uint16(s.max))
	switch {
	case ahead == 0:
		return s.max, Duplicate
	case ahead > 0 && ahead < maxDropout:
		s.suspect = -1
		s.max += int64(ahead)
		return s.max, Next
	case ahead < 0 && ahead > -maxMisorder:
		// Before the first one, too: what overtook it is no restart.
		ext = s.max + int64(ahead)
		s.first = min(s.first, ext)
		return ext, Late
	case s.suspect == int32(seq):
		s.restart(seq)
		return s.max, Restart
	default:
		s.suspect = int32(seq + 1)
		return 0, Suspect
	}
}

// Reset makes the next packet a restart: another source took the stream over.
func (s *Stream) Reset() {
	s.lostBefore += max(0, int64(s.expected())-int64(s.received))
	s.started = false
}

// restart begins again at seq. Extended numbers go on upwards, so that packets
// of before are never taken for packets of after.
func (s *Stream) restart(seq uint16) {
	if s.started {
		s.lostBefore += max(0, int64(s.expected())-int64(s.received))
	}
	base := (s.max>>16 + 2) << 16
	s.started, s.suspect = true, -1
	s.max = base + int64(seq)
	s.first = s.max
	s.received, s.expectedPrior, s.receivedPrior = 0, 0, 0
	s.hasJitter = false
}

// Count takes an accepted packet that is no duplicate into the statistics.
// arrival is in nanoseconds of any clock; inOrder is false for late packets,
// which say nothing about jitter.
func (s *Stream) Count(timestamp uint32, arrival int64, inOrder bool) {
	s.received++
	if !inOrder {
		return
	}
	now := arrival / 1000 * s.clockRate / 1_000_000
	transit := int64(int32(uint32(now) - timestamp))
	if s.hasJitter {
		d := transit - s.transit
		// A step of more than five seconds is a new timestamp base, not jitter.
		if d = max(d, -d); d < 5*s.clockRate {
			s.jitter += d - (s.jitter+8)>>4
		}
	}
	s.transit, s.hasJitter = transit, true
}

func (s *Stream) expected() uint64 {
	if !s.started {
		return 0
	}
	return uint64(s.max - s.first + 1)
}

// Report is what a receiver report says (RFC 3550 6.4.1).
type Report struct {
	FractionLost uint8 // of 256, since the last report
	TotalLost    uint32
	LastSequence uint32
	Jitter       uint32 // in units of the RTP clock
}

// Report makes a report and begins the next interval.
func (s *Stream) Report() (r Report, ok bool) {
	if !s.started {
		return r, false
	}
	expected := s.expected()
	interval, got := expected-s.expectedPrior, int64(s.received-s.receivedPrior)
	s.expectedPrior, s.receivedPrior = expected, s.received
	if lost := int64(interval) - got; interval > 0 && lost > 0 {
		r.FractionLost = uint8(min(lost<<8/int64(interval), 255))
	}
	r.TotalLost = uint32(min(s.Lost(), 0x7fffff))
	r.LastSequence = uint32(s.max)
	r.Jitter = uint32(s.jitter >> 4)
	return r, true
}

// Lost is how many packets never came.
func (s *Stream) Lost() uint64 {
	return uint64(s.lostBefore + max(0, int64(s.expected())-int64(s.received)))
}

// Jitter is the interarrival jitter in seconds.
func (s *Stream) Jitter() float64 {
	return float64(s.jitter) / 16 / float64(s.clockRate)
}

// Max is the highest extended sequence number.
func (s *Stream) Max() int64 { return s.max }
