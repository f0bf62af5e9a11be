package media

import (
	"sync"
	"sync/atomic"
	"time"

	"parlor/media/srtpin"
)

// source is the state of an SSRC of a client, which lasts as long as the transport: the
// packets that have arrived, and whether the intake or pion decrypts them.
//
// Pion decrypts the packets of a new SSRC, because pion finds out to which section they
// belong. Once that is known, and pion has returned the last packet that it was given, the
// intake decrypts them. That never changes back, because from then on pion's rollover
// counter is out of date. Both share one window against replays.
type source struct {
	ours   atomic.Bool               // the intake decrypts
	stream atomic.Pointer[rtpStream] // nil: pion has closed it

	// mu guards the following.
	mu       sync.Mutex
	window   srtpin.Window
	taker    taker
	attached bool
	// shown is the number of the last packet that pion was given, if any, and given is the
	// number of the last packet that pion returned and the stream has taken, if any.
	shown, given       uint16
	anyShown, anyGiven bool
	toldAt             time.Time // time of the last call of taker.again
}

// mostSources is how many SSRCs a client may use as long as a transport lives, since some
// memory is kept for each, so that nothing is replayed. A client that toggles a simulcast
// camera uses six. With more it has to reconnect, by which its keys become others.
const mostSources = 1 << 15

// source returns the source of an SSRC, and makes it if it is new. It is called for
// authentic packets only, whose SSRCs the credit bounds.
func (in *ingress) source(ssrc uint32) *source {
	in.mu.Lock()
	s := in.sources[ssrc]
	if s == nil {
		s = &source{}
		s.stream.Store(in.streams[ssrc])
		in.sources[ssrc] = s
	}
	var flooded func()
	if len(in.sources) > mostSources {
		flooded, in.flooded = in.flooded, nil
	}
	in.mu.Unlock()
	if flooded != nil {
		flooded()
	}
	return s
}

// known returns the source of an SSRC, nil if no authentic packet of it has arrived.
func (in *ingress) known(ssrc uint32) *source {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.sources[ssrc]
}

// attach sets the taker of the packets.
func (s *source) attach(t taker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taker, s.attached = t, true
}

// came records a packet that pion has decrypted; false if the packet was taken already.
func (s *source) came(packet []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.window.Take(s.window.Index(srtpin.Number(packet)))
}

// passed records that the stream has taken a packet of pion's.
func (s *source) passed(packet []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.given, s.anyGiven = srtpin.Number(packet), true
}

// mayOpen reports whether the intake is to decrypt a packet. If not, pion is given it.
func (s *source) mayOpen(packet []byte) bool {
	if s.ours.Load() {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.attached && s.anyShown && s.anyGiven && s.given == s.shown {
		s.ours.Store(true)
		return true
	}
	s.shown, s.anyShown = srtpin.Number(packet), true
	return false
}

// fresh returns the index of an encrypted packet; false if it must not be taken.
func (s *source) fresh(packet []byte) (index uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	index = s.window.Index(srtpin.Number(packet))
	return index, s.window.Fresh(index)
}

// take records a packet that the intake has decrypted; false if it must not be taken.
func (s *source) take(index uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.window.Take(index)
}

// wide reports whether each packet causes much work.
func (s *source) wide() bool {
	s.mu.Lock()
	wide := s.taker.wide
	s.mu.Unlock()
	return wide != nil && wide()
}

// comesAgain tells the taker that packets arrive although pion has closed the stream.
func (s *source) comesAgain(now time.Time) {
	s.mu.Lock()
	again := s.taker.again
	if now.Sub(s.toldAt) < time.Second {
		again = nil
	} else {
		s.toldAt = now
	}
	s.mu.Unlock()
	if again != nil {
		again()
	}
}
