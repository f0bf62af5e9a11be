package downlink

import (
	"slices"
	"sync"
	"time"
)

// louder is by how much a voice must exceed another to replace it, in hundredths of a dB.
const louder = 600

// Voice is an audio stream that may be held back because others are louder.
type Voice interface {
	// Speaker identifies the participant: it is the same for all streams of one
	// participant.
	Speaker() any
	// Heard is the recent loudness, in hundredths of a dB above the lowest level.
	Heard(at time.Time) int64
	// Hold stops the voice because others are louder, or resumes it. It returns false if
	// the stream has ended.
	Hold(back bool) bool
}

// voices are the streams whose sound goes to one subscriber, if only that of the loudest
// participants does.
type voices struct {
	mu     sync.Mutex // guards the following; streams' locks may be taken under it
	most   int        // participants; 0 = no limit
	chosen []Voice    // of at most most participants
}

// places is the number of participants among the chosen streams.
func (v *voices) places() (n int) {
	for i, c := range v.chosen {
		if !slices.ContainsFunc(v.chosen[:i], besides(c)) {
			n++
		}
	}
	return n
}

// besides returns whether a stream is of the same participant as s.
func besides(s Voice) func(o Voice) bool {
	speaker := s.Speaker()
	return func(o Voice) bool { return o.Speaker() == speaker }
}

// has reports whether s may have a place: another stream of its participant has one, or
// one is free.
func (v *voices) has(s Voice) bool {
	return slices.ContainsFunc(v.chosen, besides(s)) || v.places() < v.most
}

// limit sets the largest number of participants. It is called before the first add.
func (v *voices) limit(most int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.most = most
}

// add gives a new voice a place, or holds it back if none is free.
func (v *voices) add(s Voice) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.most == 0:
	case v.has(s):
		v.chosen = append(v.chosen, s)
	default:
		s.Hold(true)
	}
}

func (v *voices) remove(s Voice) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.chosen = slices.DeleteFunc(v.chosen, func(o Voice) bool { return o == s })
}

// compete gives s, which is held back and loud, a free place, or that of the softest
// participant if that one is softer.
func (v *voices) compete(s Voice, at time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if slices.Contains(v.chosen, s) {
		return
	}
	if v.has(s) {
		if s.Hold(false) {
			v.chosen = append(v.chosen, s)
		}
		return
	}
	softest := slices.MinFunc(v.chosen, func(a, b Voice) int { return int(v.participant(a, at) - v.participant(b, at)) })
	if s.Heard(at) >= v.participant(softest, at)+louder && s.Hold(false) {
		gives := besides(softest)
		v.chosen = append(slices.DeleteFunc(v.chosen, func(o Voice) bool {
			if gives(o) {
				o.Hold(true)
			}
			return gives(o)
		}), s)
	}
}

// participant is the loudness of the loudest chosen stream of s's participant.
func (v *voices) participant(s Voice, at time.Time) (heard int64) {
	same := besides(s)
	for _, o := range v.chosen {
		if same(o) {
			heard = max(heard, o.Heard(at))
		}
	}
	return heard
}
