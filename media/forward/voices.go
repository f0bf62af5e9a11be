package forward

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Constants of the choice of voices:
const (
	// speechLevel is the lowest level of a packet of speech, above the lowest level of
	// RFC 6464 (-127 dBov). assumedLevel is the level of packets without one.
	speechLevel  = 82 * fine
	assumedLevel = 87 * fine
	// fine is the number of parts of a dB in which levels are counted.
	fine = 100
	// comfortNoise is the largest size of a packet of silence (Opus DTX), in bytes.
	comfortNoise = 8
	// onset is the number of loud packets in a row that begin speech. After each again
	// more of them, a held-back voice competes once more.
	onset = 2
	again = 5
	// fade is how fast the loudness decays, in dB per second. louder is by how many dB a
	// voice must exceed another to replace it.
	fade   = 30 * fine
	louder = 6 * fine
	// speaksFor is how long after its last speech a participant counts as speaking, for
	// its video.
	speaksFor = 3 * time.Second
)

// Voice is the time of a participant's last speech. All its tracks share one.
type Voice struct {
	epoch time.Time
	heard atomic.Int64 // since epoch, ns; 0 = never
}

// NewVoice makes the Voice of a participant that has not spoken.
func NewVoice() *Voice { return &Voice{epoch: time.Now()} }

func (v *Voice) hear(at time.Time) {
	if v != nil {
		v.heard.Store(max(int64(at.Sub(v.epoch)), 1))
	}
}

// speaking reports whether the participant spoke within speaksFor.
func (v *Voice) speaking(at time.Time) bool {
	if v == nil {
		return false
	}
	heard := v.heard.Load()
	return heard != 0 && at.Sub(v.epoch)-time.Duration(heard) < speaksFor
}

// loudness is the recent loudness of a track.
type loudness struct {
	value atomic.Int64 // level, and above levelBits the ms of the track's clock
	loud  int          // loud packets in a row; belongs to the layer's reading goroutine
}

const levelBits = 14

// at is the level at a time of the track's clock, after decay.
func (l *loudness) at(now int64) int64 {
	v := l.value.Load()
	return max(v&(1<<levelBits-1)-fade*(now/int64(time.Millisecond)-v>>levelBits)/1000, 0)
}

// hear updates the loudness with the level of a packet.
func (l *loudness) hear(level, now int64) {
	l.value.Store(now/int64(time.Millisecond)<<levelBits | max(level, l.at(now)))
	if level >= speechLevel {
		l.loud++
	} else {
		l.loud = 0
	}
}

// hear updates the loudness of the track with the level of a packet. A held-back
// participant that begins to speak competes for a place.
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

// voices are the forwarders whose sound goes to one subscriber, if only that of the
// loudest participants does.
type voices struct {
	mu     sync.Mutex   // guards the following; forwarders' mu may be taken under it
	most   int          // participants; 0 = no limit
	chosen []*Forwarder // of at most most participants
}

// places is the number of participants among the chosen forwarders.
func (v *voices) places() (n int) {
	for i, f := range v.chosen {
		if !slices.ContainsFunc(v.chosen[:i], f.besides) {
			n++
		}
	}
	return n
}

// besides reports whether o is of the same participant as f.
func (f *Forwarder) besides(o *Forwarder) bool {
	return f == o || (f.track.cfg.Voice != nil && f.track.cfg.Voice == o.track.cfg.Voice)
}

// has reports whether f may have a place: another track of its participant has one, or
// one is free.
func (v *voices) has(f *Forwarder) bool {
	return slices.ContainsFunc(v.chosen, f.besides) || v.places() < v.most
}

// limit sets the largest number of participants. It is called before the first add.
func (v *voices) limit(most int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.most = most
}

// counts reports whether the forwarder's sound is a voice, which may be held back. The
// sound of a shared screen is not.
func (f *Forwarder) counts() bool { return !f.video && !f.track.screenSound.Load() }

// add gives a new forwarder a place, or holds it back if none is free.
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

// compete gives f, which is held back and loud, a free place, or that of the softest
// participant if that one is softer.
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

// participant is the loudness of the loudest chosen track of f's participant.
func (v *voices) participant(f *Forwarder, at time.Time) (heard int64) {
	for _, o := range v.chosen {
		if f.besides(o) {
			heard = max(heard, o.heard(at))
		}
	}
	return heard
}

// heard is the loudness of the forwarder's track.
func (f *Forwarder) heard(at time.Time) int64 {
	if f.track.muted.Load() {
		return 0
	}
	return f.track.loudness.at(f.track.since(at))
}

// hold stops sending f's sound because others are louder, or resumes it; false if f is
// closed.
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
