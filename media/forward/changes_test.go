package forward

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
)

// op is one thing that happens in a script, and two numbers that say how.
type op struct{ kind, a, b byte }

const (
	opWant = iota
	opPause
	opMute
	opUnsubscribe
	opLose
	opLoseAndRepeat
	opDelay
	opDelayKey
	opLoseDown
	opRestart
	opReplace
	opBackup
	opCount
)

// add puts an op at a time into the script, which ends at the time end.
func (s *script) add(o op, when, end time.Duration) {
	while := time.Duration(o.a) * 2 * time.Millisecond
	late := time.Duration(1+o.b%90) * time.Millisecond
	switch o.kind % opCount {
	case opWant:
		q := livekit.VideoQuality(o.a % 3)
		s.at(when, func() {
			if s.want != livekit.VideoQuality_OFF {
				s.setWant(q)
			}
		})
	case opPause:
		q := livekit.VideoQuality(o.b % 3)
		s.at(when, func() { s.setWant(livekit.VideoQuality_OFF) })
		s.at(when+while, func() { s.setWant(q) })
	case opMute:
		s.at(when, func() { s.setMuted(true) })
		s.at(when+while, func() { s.setMuted(false) })
	case opUnsubscribe:
		s.at(when, s.unsubscribe)
		s.at(when+while, s.resubscribe)
	case opLose, opLoseAndRepeat:
		packets := s.between(when, end)
		for _, p := range packets[:min(len(packets), 1+int(o.a%5))] {
			if o.kind%opCount == opLose {
				p.lost = true
			} else {
				s.delay(p, late)
			}
		}
	case opDelay:
		for i, p := range s.between(when, when+while) {
			if i%(1+int(o.b%5)) == 0 {
				s.delay(p, late)
			}
		}
	case opDelayKey:
		packets := s.between(when, end)
		if i := slices.IndexFunc(packets, func(p *stamped) bool { return p.key && p.source.index >= int(o.a%2) }); i >= 0 {
			s.delay(packets[i], late)
		}
	case opLoseDown:
		s.lossy = true
		s.at(when, func() { s.losing = int(o.b) })
		s.at(when+while, func() { s.losing = 0 })
	case opRestart:
		s.replace(when, end, false, o.a)
	case opReplace:
		s.replace(when, end, true, o.a)
	case opBackup:
		s.addBackup(when, end, o)
	}
}

// delay lets a packet come later.
func (s *script) delay(p *stamped, by time.Duration) {
	i := slices.IndexFunc(s.events, func(e event) bool { return e.packet == p })
	s.events[i].at = p.At + by
	s.reordered = true
}

// replace ends what the publisher sends and begins other streams: of the same layers
// with other SSRCs, or of layers that are added in their place.
func (s *script) replace(when, end time.Duration, added bool, start byte) {
	var former []*source
	for _, src := range s.sources {
		if !src.backup && src.until > when {
			src.until = when
			former = append(former, src)
		}
	}
	if len(former) == 0 || end-when < 50*time.Millisecond {
		return
	}
	s.breaks = append(s.breaks, when)
	s.salt++
	from := time.Duration(start) * 20 * time.Millisecond
	fresh := s.addSources(s.tape, make([]*Layer, len(s.tape.Layers)), from, from+end-when, when, false, s.salt)
	s.at(when, func() {
		if added {
			for _, l := range s.layers {
				l.Close()
			}
			s.layers = s.addLayers(s.tape)
			for _, src := range former {
				src.over = true
				if s.current != nil && s.current.source == src {
					s.leave()
				}
			}
		}
		for i, l := range s.layers {
			fresh[i].layer = l
		}
	})
}

// addBackup has the publisher send VP8 as well for a while.
func (s *script) addBackup(when, end time.Duration, o op) {
	stop := min(end, when+time.Duration(o.a)*4*time.Millisecond)
	if s.cfg.Backup == (Codec{}) || s.salted(true) || stop-when < 50*time.Millisecond {
		return
	}
	tp := loadTape(s.t, []string{"vp8-simulcast", "vp8-simulcast-temporal"}[o.b%2])
	from := time.Duration(o.b) * 20 * time.Millisecond
	s.salt++
	fresh := s.addSources(tp, make([]*Layer, len(tp.Layers)), from, from+stop-when, when, true, s.salt)
	s.at(when, func() {
		s.backup = true
		for i, l := range s.addLayers(tp) {
			fresh[i].layer = l
		}
	})
	s.breaks = append(s.breaks, stop)
	s.at(stop, func() {
		s.backup = false
		for _, src := range fresh {
			src.over = true
			if s.current != nil && s.current.source == src {
				s.leave()
			}
			if src.layer != nil {
				src.layer.Close()
			}
		}
	})
}

// salted reports whether the script has sources of a backup codec, or not.
func (s *script) salted(backup bool) bool {
	return slices.ContainsFunc(s.sources, func(src *source) bool { return src.backup == backup })
}

// change is one way in which what a subscriber gets is interrupted and goes on.
type change struct {
	name string
	op   func(r *rand.Rand) op
}

func changes() []change {
	brief := func(r *rand.Rand) byte { return byte(r.IntN(3) * r.IntN(100)) } // often within a frame
	plain := func(kind byte) func(r *rand.Rand) op {
		return func(r *rand.Rand) op { return op{kind, brief(r), byte(r.IntN(256))} }
	}
	return []change{
		{"pause", plain(opPause)},
		{"mute", plain(opMute)},
		{"unsubscribe", plain(opUnsubscribe)},
		{"restart", plain(opRestart)},
		{"other layers", plain(opReplace)},
		{"backup codec", func(r *rand.Rand) op { return op{opBackup, byte(100 + r.IntN(100)), byte(r.IntN(256))} }},
		{"key frame late", plain(opDelayKey)},
	}
}

// stride is how many frames the replays go on by from one try to the next.
const stride = 4

// Whatever interrupts what a subscriber gets, and wherever in its frames: all that
// is forwarded can be decoded, and all from the next key frame on is forwarded.
func TestGoesOnAfterEveryChange(t *testing.T) {
	everyScript(t, func(t *testing.T, tp *tape, described bool, r *rand.Rand) {
		for n, at := range tp.positions() {
			if n%stride != 0 {
				continue
			}
			c := changes()[n/stride%len(changes())]
			when := tp.packets[at].At
			from := max(0, when-lead)
			s := newScript(t, tp, described, from, when+trail, r)
			o := c.op(r)
			s.add(o, when-from, when-from+trail)
			s.run(fmt.Sprintf("%s at %v (%v)", c.name, when, o))
		}
	})
}

// The first packet of a key frame comes late, after others that follow it.
// Receivers that had the stream and ones that waited for that key frame get it, and
// all frames from it on.
func TestKeyFrameWhoseBeginningComesLate(t *testing.T) {
	everyScript(t, func(t *testing.T, tp *tape, described bool, r *rand.Rand) {
		for n, at := range tp.positions() {
			p := tp.packets[at]
			if !p.key || p.layer != len(tp.Layers)-1 {
				continue
			}
			from := max(0, p.At-lead)
			for _, waits := range []bool{false, true} {
				s := newScript(t, tp, described, from, p.At+trail, r)
				if waits {
					s.at(0, func() { s.setWant(livekit.VideoQuality_OFF) })
					s.at(p.At-from-time.Microsecond, func() { s.setWant(livekit.VideoQuality_HIGH) })
				}
				s.add(op{opDelayKey, byte(p.layer), byte(59)}, p.At-from, p.At-from+trail)
				s.run(fmt.Sprintf("position %d at %v, waits %t", n, p.At, waits))
			}
		}
	})
}

// maxOps is how many ops of a script are played.
const maxOps = 10

// runScript plays what bytes say.
func runScript(t *testing.T, tapes []*tape, b []byte) {
	if len(b) < 4 {
		return
	}
	tp := tapes[int(b[0])%len(tapes)]
	described := b[1]&1 == 0
	from := time.Duration(b[2]) * 20 * time.Millisecond
	length := 2 * time.Second
	r := rand.New(rand.NewPCG(uint64(b[3]), 1))
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, tp, described, from, from+length, r)
		what := fmt.Sprintf("%s descriptors %t from %v", tp.name, described, from)
		if b[1]&2 != 0 {
			s.at(0, func() { s.setWant(livekit.VideoQuality_LOW) })
		}
		var ops [][]byte
		for b := b[4:]; len(b) >= 4 && len(ops) < maxOps; b = b[4:] {
			ops = append(ops, b[:4])
		}
		slices.SortStableFunc(ops, func(a, b []byte) int { return cmp.Compare(a[1], b[1]) })
		for _, b := range ops {
			o, when := op{b[0] % opCount, b[2], b[3]}, time.Duration(b[1])*length/256
			s.add(o, when, length)
			what += fmt.Sprintf("; %v at %v", o, when)
		}
		s.run(what)
	})
}

func loadTapes(t testing.TB) (tapes []*tape) {
	for _, name := range tapeNames(t) {
		tapes = append(tapes, loadTape(t, name))
	}
	return tapes
}

// Losses, reorderings and switches at random, one on top of the other.
func TestGoesOnAfterRandomChanges(t *testing.T) {
	tapes := loadTapes(t)
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		b := make([]byte, 4+4*(1+r.IntN(5)))
		for i := range b {
			b[i] = byte(r.IntN(256))
		}
		runScript(t, tapes, b)
		if t.Failed() {
			t.Fatalf("seed %d: %v", seed, b)
		}
	}
}

// FuzzSwitchPoints looks for points at which a switch, a loss or a reordering leaves
// the subscriber with less than it is owed.
func FuzzSwitchPoints(f *testing.F) {
	tapes := loadTapes(f)
	for i := range tapes {
		tape := byte(i)
		f.Add([]byte{tape, 0, 40, 1, opWant, 100, 0, 0, opWant, 104, 2, 0, opLoseAndRepeat, 101, 3, 40})
		f.Add([]byte{tape, 1, 60, 2, opPause, 90, 20, 2, opDelayKey, 80, 1, 50, opLose, 120, 1, 0})
		f.Add([]byte{tape, 2, 80, 3, opRestart, 90, 20, 2, opMute, 92, 30, 0, opLoseDown, 140, 200, 60})
		f.Add([]byte{tape, 0, 90, 4, opBackup, 60, 120, 2, opWant, 100, 0, 0, opUnsubscribe, 110, 40, 0})
		f.Add([]byte{tape, 0, 20, 5, opReplace, 70, 30, 2, opDelay, 60, 120, 40})
	}
	// A frame that went out late was the newest, and the next source began before it.
	f.Add([]byte{54, 107, 196, 40, 8, 161, 52, 60, 117, 217, 149, 215, 162, 11, 167, 160, 45, 203, 81, 35})
	f.Fuzz(func(t *testing.T, b []byte) { runScript(t, tapes, b) })
}
