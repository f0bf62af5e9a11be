package forward

import (
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
	// fade is how fast the loudness decays, in dB per second.
	fade = 30 * fine
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
	loud  atomic.Int32 // loud packets in a row; layers of one track may be read by several goroutines
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
		l.loud.Add(1)
	} else {
		l.loud.Store(0)
	}
}

// hear updates the loudness of the track with the level of a packet. A held-back
// participant that begins to speak competes for a place.
func (t *Track) hear(level, now int64) {
	l := &t.loudness
	l.hear(level, now)
	loud := int(l.loud.Load())
	if loud < onset {
		return
	}
	at := t.epoch.Add(time.Duration(now))
	t.cfg.Voice.hear(at)
	if (loud-onset)%again != 0 {
		return
	}
	for _, f := range *t.forwarders.Load() {
		if f.heldBack.Load() {
			f.downlink.Compete(&f.over, at)
		}
	}
}

// isVoice reports whether the forwarder's sound is a voice, which may be held back. The
// sound of a shared screen is not.
func (f *Forwarder) isVoice() bool { return !f.video && !f.track.screenSound.Load() }

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
