// Package reception keeps a receiver's state of an RTP stream: its extended sequence
// number, losses and jitter (RFC 3550, appendix A).
package reception

import "time"

// Bounds on sequence numbers, after RFC 3550, appendix A.1. A packet that is maxDropout
// ahead, or maxMisorder behind, is accepted only if it continues another such packet.
// Then the source has restarted. Packets are asked for again that are up to a thousand behind,
// and the answers take a round trip.
const (
	maxDropout  = 3000
	maxMisorder = 2048
)

// Verdict is the judgement of a packet.
type Verdict uint8

// The verdicts.
const (
	// Next: the packet is ahead of all others.
	Next Verdict = iota
	// Late: the packet is behind, and may be a duplicate.
	Late
	// Duplicate: the packet has the number of the newest one.
	Duplicate
	// Restart: the source began, or began again, with this packet.
	Restart
	// Suspect: the number is too far off to be accepted yet.
	Suspect
)

// Stream is the state of one received stream. It is not safe for concurrent use.
type Stream struct {
	clockRate int64

	started bool
	first   int64 // lowest extended number since the restart
	max     int64
	suspect int32 // number that would confirm a restart; -1 for none

	received uint64 // since the restart, without duplicates

	// Jitter after RFC 3550, appendix A.8, times 16:
	transit   int64
	jitter    int64
	hasJitter bool

	expectedPrior, receivedPrior uint64
	lostBefore                   int64 // lost before the last restart
}

// New makes the state of a stream with that RTP clock rate, in Hz.
func New(clockRate uint32) *Stream {
	return &Stream{clockRate: int64(max(clockRate, 1)), suspect: -1}
}

// Accept extends seq. For Suspect and Duplicate, ext is meaningless.
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
		// This also applies to packets before the first one: packets that overtook them
		// are not a restart.
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

// Reset makes the next packet a restart, because another source took the stream over.
func (s *Stream) Reset() {
	s.lostBefore += max(0, int64(s.expected())-int64(s.received))
	s.started = false
}

// restart begins again at seq. Extended numbers continue upwards, so that packets before
// the restart are not mistaken for later ones.
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

// Count adds an accepted packet, which is not a duplicate, to the statistics. arrival is
// in nanoseconds of any clock. inOrder is false for late packets, which do not count for
// jitter.
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

// Report is the content of a report block (RFC 3550, section 6.4.1).
type Report struct {
	FractionLost uint8 // of 256, since the last report
	TotalLost    uint32
	LastSequence uint32
	Jitter       uint32 // in units of the RTP clock
}

// Report makes a report and begins the next interval; false if no packet has arrived.
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

// Lost is the number of packets that never arrived.
func (s *Stream) Lost() uint64 {
	return uint64(s.lostBefore + max(0, int64(s.expected())-int64(s.received)))
}

// Jitter is the interarrival jitter in seconds.
func (s *Stream) Jitter() float64 {
	return float64(s.jitter) / 16 / float64(s.clockRate)
}

// Transit is how long the newest packet that came in order was on its way, from an unknown point of
// time on: a change of it is a change of the delay. ok is false if none has come.
func (s *Stream) Transit() (delay time.Duration, ok bool) {
	return time.Duration(s.transit * int64(time.Second) / s.clockRate), s.hasJitter
}

// Max is the highest extended sequence number.
func (s *Stream) Max() int64 { return s.max }
