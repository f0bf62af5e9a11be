package forward

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The numbers of hearing.
const (
	// speechLevel is how loud a packet of speech is at least, above the softest there is
	// (RFC 6464: -127 dBov), and assumedLevel what is taken for a level
	// that the publisher does not tell.
	speechLevel  = 82 * fine
	assumedLevel = 87 * fine
	// fine is the parts of a dB that levels are counted in.
	fine = 100
	// comfortNoise is the most bytes of a packet that stands for silence (Opus DTX).
	comfortNoise = 8
	// onset is how many loud packets in a row begin to speak, and again is after how many
	// more the place of another is asked for once more.
	onset = 2
	again = 5
	// fade is how fast what was heard is forgotten, in dB per second, and louder how much
	// louder somebody must be to take the place of another, in dB.
	fade   = 30 * fine
	louder = 6 * fine
	// speaksFor is how long a participant counts as speaking after it was heard, for its
	// video.
	speaksFor = 3 * time.Second
)

// Voice tells when a participant was heard speaking last. All its tracks share one.
type Voice struct {
	epoch time.Time
	heard atomic.Int64 // since epoch, ns; 0 = never
}

// NewVoice makes a voice that was never heard.
func NewVoice() *Voice { return &Voice{epoch: time.Now()} }

func (v *Voice) hear(at time.Time) {
	if v != nil {
		v.heard.Store(max(int64(at.Sub(v.epoch)), 1))
	}
}

// speaking reports whether the participant spoke just now.
func (v *Voice) speaking(at time.Time) bool {
	if v == nil {
		return false
	}
	heard := v.heard.Load()
	return heard != 0 && at.Sub(v.epoch)-time.Duration(heard) < speaksFor
}

// loudness is how loud a track of sound was lately.
type loudness struct {
	value atomic.Int64 // level and, above levelBits, ms of the track's clock
	loud  int          // packets in a row; the layer's reading goroutine alone uses it
}

const levelBits = 14

// at is the level at a time of the track's clock.
func (l *loudness) at(now int64) int64 {
	v := l.value.Load()
	return max(v&(1<<levelBits-1)-fade*(now/int64(time.Millisecond)-v>>levelBits)/1000, 0)
}

// hear takes note of a packet's level.
func (l *loudness) hear(level, now int64) {
	l.value.Store(now/int64(time.Millisecond)<<levelBits | max(level, l.at(now)))
	if level >= speechLevel {
		l.loud++
	} else {
		l.loud = 0
	}
}

// hear follows how loud the track is with a packet of that level, above the
// softest; a participant that speaks up may take the place of another.
func (t *Track) hear(level, now int64) {
	l := &t.loudness
	l.hear(level, now)
	if l.loud < onset {
		return
	}
	at := t.epoch.Add(time.Duration(now))
	t.cfg.Voice.hear(at)
	if (l.loud-onset)%again != 0 {
		return
	}
	for _, f := range *t.forwarders.Load() {
		if f.heldBack.Load() {
			f.downlink.voices.compete(f, at)
		}
	}
}

// voices are whose sound goes to one subscriber, if only that of the loudest does.
type voices struct {
	mu     sync.Mutex   // guards the following; forwarders' locks are taken under it
	most   int          // participants; 0 = everybody's
	chosen []*Forwarder // of most participants at most
}

// places is how many participants the chosen forwarders are of.
func (v *voices) places() (n int) {
	for i, f := range v.chosen {
		if !slices.ContainsFunc(v.chosen[:i], f.besides) {
			n++
		}
	}
	return n
}

// besides reports whether o is of the same participant.
func (f *Forwarder) besides(o *Forwarder) bool {
	return f == o || (f.track.cfg.Voice != nil && f.track.cfg.Voice == o.track.cfg.Voice)
}

// has reports whether there is room for f: its participant has a place, whatever the number
// of its tracks, or one is free.
func (v *voices) has(f *Forwarder) bool {
	return slices.ContainsFunc(v.chosen, f.besides) || v.places() < v.most
}

// limit says how many are heard at most, before there are any.
func (v *voices) limit(most int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.most = most
}

// counts reports whether the forwarder's sound is a voice, which may be held back: the
// sound of a shared screen is none.
func (f *Forwarder) counts() bool { return !f.video && !f.track.screenSound.Load() }

// add has a new forwarder take a place, or be held back if there is none.
func (v *voices) add(f *Forwarder) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.most == 0 || !f.counts():
	case v.has(f):
		v.chosen = append(v.chosen, f)
	default:
		f.hold(true)
	}
}

func (v *voices) remove(f *Forwarder) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.chosen = slices.DeleteFunc(v.chosen, func(o *Forwarder) bool { return o == f })
}

// compete gives f, which is held back and loud, a place that is free or the one of the
// softest, if that is softer.
func (v *voices) compete(f *Forwarder, at time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if slices.Contains(v.chosen, f) {
		return
	}
	if v.has(f) {
		if f.hold(false) {
			v.chosen = append(v.chosen, f)
		}
		return
	}
	softest := slices.MinFunc(v.chosen, func(a, b *Forwarder) int { return int(v.participant(a, at) - v.participant(b, at)) })
	if f.heard(at) >= v.participant(softest, at)+louder && f.hold(false) {
		v.chosen = append(slices.DeleteFunc(v.chosen, func(o *Forwarder) bool {
			gives := softest.besides(o)
			if gives {
				o.hold(true)
			}
			return gives
		}), f)
	}
}

// participant is how loud the loudest of the participant's chosen tracks is.
func (v *voices) participant(f *Forwarder, at time.Time) (heard int64) {
	for _, o := range v.chosen {
		if f.besides(o) {
			heard = max(heard, o.heard(at))
		}
	}
	return heard
}

// heard is how loud the forwarder's track is.
func (f *Forwarder) heard(at time.Time) int64 {
	if f.track.muted.Load() {
		return 0
	}
	return f.track.loudness.at(f.track.since(at))
}

// hold has the forwarder send nothing since others are louder, or go on; false if it has
// ended.
func (f *Forwarder) hold(back bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.heldBack.Store(back)
	f.retargetLocked(false)
	return true
}
