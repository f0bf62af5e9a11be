package downlink

import (
	"slices"
	"sync"
	"time"
)

// louder is how much louder somebody must be to take the place of another, in hundredths
// of a dB.
const louder = 600

// Voice is a stream of sound that may be held back since others are louder.
type Voice interface {
	// Speaker is whose it is: all the streams of one participant have the same.
	Speaker() any
	// Heard is how loud it was lately, in hundredths of a dB above the softest there is.
	Heard(at time.Time) int64
	// Hold has it send nothing since others are louder, or go on. It reports false if it
	// has ended.
	Hold(back bool) bool
}

// voices are whose sound goes to one subscriber, if only that of the loudest does.
type voices struct {
	mu     sync.Mutex // guards the following; streams' locks are taken under it
	most   int        // participants; 0 = everybody's
	chosen []Voice    // of most participants at most
}

// places is how many participants the chosen streams are of.
func (v *voices) places() (n int) {
	for i, c := range v.chosen {
		if !slices.ContainsFunc(v.chosen[:i], besides(c)) {
			n++
		}
	}
	return n
}

// besides tells the streams of the same participant.
func besides(s Voice) func(o Voice) bool {
	speaker := s.Speaker()
	return func(o Voice) bool { return o.Speaker() == speaker }
}

// has reports whether there is room for s: its participant has a place, whatever the number
// of its streams, or one is free.
func (v *voices) has(s Voice) bool {
	return slices.ContainsFunc(v.chosen, besides(s)) || v.places() < v.most
}

// limit says how many are heard at most, before there are any.
func (v *voices) limit(most int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.most = most
}

// add has a new voice take a place, or be held back if there is none.
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

// compete gives s, which is held back and loud, a place that is free or the one of the
// softest, if that is softer.
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

// participant is how loud the loudest of the participant's chosen streams is.
func (v *voices) participant(s Voice, at time.Time) (heard int64) {
	same := besides(s)
	for _, o := range v.chosen {
		if same(o) {
			heard = max(heard, o.Heard(at))
		}
	}
	return heard
}
