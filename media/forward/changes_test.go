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
	"github.com/pion/rtcp"
)

// op is an event of a script, with two numbers as parameters.
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
	opMove
	opRepublish
	opStop
)

// opOf is the op for a byte. Bytes keep their meaning when ops are added, so that earlier
// findings can be replayed.
func opOf(b byte) byte {
	const added = 252
	if b < added {
		return b % opMove
	}
	return opMove + (b-added)%3
}

// add adds an op at a time to a script that ends at the time end.
func (s *script) add(o op, when, end time.Duration) {
	while := time.Duration(o.a) * 2 * time.Millisecond
	late := time.Duration(1+o.b%90) * time.Millisecond
	switch o.kind {
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
			if o.kind == opLose {
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
	case opMove:
		s.addRoom(when, when+while, end, o.b)
	case opRepublish:
		s.republish(when, end, o.a)
	case opStop:
		s.stopLayer(when, when+while, int(o.b))
	}
}

// delay makes a packet arrive later.
func (s *script) delay(p *stamped, by time.Duration) {
	i := slices.IndexFunc(s.events, func(e event) bool { return e.packet == p })
	s.events[i].at = p.At + by
	s.reordered = true
}

// replace ends the publisher's streams and begins others: of the same layers with other
// SSRCs, or of added layers in their place.
func (s *script) replace(when, end time.Duration, added bool, start byte) {
	any := false
	for _, src := range s.sources {
		if src.room == 0 && !src.backup && src.until > when {
			src.until, any = when, true
		}
	}
	if !any || end-when < 50*time.Millisecond {
		return
	}
	s.breaks = append(s.breaks, when)
	s.salt++
	from := time.Duration(start) * 20 * time.Millisecond
	fresh := s.addSources(s.tape, make([]*Layer, len(s.tape.Layers)), from, from+end-when, when, false, s.salt, false)
	s.at(when, func() {
		if added {
			for _, src := range s.sources {
				if !slices.Contains(s.layers, src.layer) {
					continue
				}
				src.over = true
				if s.current != nil && s.current.source == src {
					s.leave()
				}
			}
			for _, l := range s.layers {
				l.Close()
			}
			s.layers = s.addLayers(s.track, s.tape)
		}
		for i, l := range s.layers {
			fresh[i].layer = l
		}
	})
}

// stopLayer makes the publisher stop a layer with RTCP BYE, and send it again later.
func (s *script) stopLayer(when, again time.Duration, layer int) {
	of := func(src *source) bool { return src.room == 0 && !src.backup && src.index == layer%len(s.tape.Layers) }
	for _, p := range s.between(when, again) {
		p.lost = p.lost || of(p.source)
	}
	s.at(when, func() {
		for _, src := range s.sources {
			if of(src) && src.begun && !src.over {
				src.layer.HandleRTCP([]rtcp.Packet{&rtcp.Goodbye{Sources: []uint32{src.layer.Stats().SSRC}}})
			}
		}
	})
}

// addRoom moves the subscriber to another room for a while, whose publisher was there
// before it.
func (s *script) addRoom(when, back, end time.Duration, start byte) {
	begin, from := max(0, when-300*time.Millisecond), time.Duration(start)*20*time.Millisecond
	t := s.newTrack()
	s.rooms = append(s.rooms, t)
	room := len(s.rooms)
	s.salt++
	for _, src := range s.addSources(s.tape, s.addLayers(t, s.tape), from, from+max(end-begin, 50*time.Millisecond), begin, false, s.salt, true) {
		src.room = room
	}
	s.breaks = append(s.breaks, when, back)
	s.at(when, func() { s.move(room, t) })
	s.at(back, func() { s.move(0, s.track) })
}

// republish makes the publisher end its track and publish another one, with unrelated
// numbers.
func (s *script) republish(when, end time.Duration, start byte) {
	if end-when < 50*time.Millisecond {
		return
	}
	for _, src := range s.sources {
		if src.room == 0 {
			src.until = min(src.until, when)
		}
	}
	s.breaks = append(s.breaks, when)
	s.salt++
	from := time.Duration(start) * 20 * time.Millisecond
	fresh := s.addSources(s.tape, make([]*Layer, len(s.tape.Layers)), from, from+end-when, when, false, s.salt, true)
	s.at(when, func() {
		watching := s.room == 0 && !s.closed
		if watching {
			s.unsubscribe()
		}
		for _, src := range s.sources {
			src.over = src.over || src.room == 0 && !slices.Contains(fresh, src) && src.until <= when
		}
		s.track.Close()
		s.track, s.muted, s.backup = s.newTrack(), false, false
		s.layers = s.addLayers(s.track, s.tape)
		for i, l := range s.layers {
			fresh[i].layer = l
		}
		if s.room == 0 {
			s.watched = s.track
		}
		if watching {
			s.resubscribe()
		}
	})
}

// addBackup makes the publisher send VP8 as well for a while.
func (s *script) addBackup(when, end time.Duration, o op) {
	stop := min(end, when+time.Duration(o.a)*4*time.Millisecond)
	if s.cfg.Backup == (Codec{}) || s.salted(true) || stop-when < 50*time.Millisecond {
		return
	}
	tp := loadTape(s.t, []string{"vp8-simulcast", "vp8-simulcast-temporal"}[o.b%2])
	from := time.Duration(o.b) * 20 * time.Millisecond
	s.salt++
	fresh := s.addSources(tp, make([]*Layer, len(tp.Layers)), from, from+stop-when, when, true, s.salt, false)
	s.at(when, func() {
		s.backup = true
		for i, l := range s.addLayers(s.track, tp) {
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

// salted reports whether the script has additional sources, of a backup codec or not.
func (s *script) salted(backup bool) bool {
	return slices.ContainsFunc(s.sources, func(src *source) bool { return src.backup == backup })
}

// change is one way in which a subscriber's stream is interrupted and continues.
type change struct {
	name string
	op   func(r *rand.Rand) op
}

func changes() []change {
	brief := func(r *rand.Rand) byte { return byte(r.IntN(3) * r.IntN(100)) } // often within one frame
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
		{"another room", plain(opMove)},
		{"published again", plain(opRepublish)},
		{"stopped", plain(opStop)},
	}
}

// stride is the number of frames between the positions of two replays.
const stride = 4

// Whatever interrupts a subscriber's stream, at whatever frame: all forwarded frames can
// be decoded, and all frames from the next keyframe on are forwarded.
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

// The first packet of a keyframe comes late, after packets that follow it. Receivers that
// had the stream, and receivers that waited for that keyframe, get it and all frames
// after it.
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

// maxOps is the largest number of ops of a script that are performed.
const maxOps = 10

// tapes are the recordings, and the tapes derived from them.
type tapes struct{ recorded, made []*tape }

// of is the tape for two bytes.
func (t *tapes) of(index, kind byte) *tape {
	const made = 0xf0
	if kind >= made {
		return t.made[int(index)%len(t.made)]
	}
	return t.recorded[int(index)%len(t.recorded)]
}

// runScript performs the script that the bytes describe.
func runScript(t *testing.T, all *tapes, b []byte) {
	if len(b) < 4 {
		return
	}
	tp := all.of(b[0], b[1])
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
			o, when := op{opOf(b[0]), b[2], b[3]}, time.Duration(b[1])*length/256
			s.add(o, when, length)
			what += fmt.Sprintf("; %v at %v", o, when)
		}
		s.run(what)
	})
}

func loadTapes(t testing.TB) *tapes {
	all := &tapes{}
	for _, name := range tapeNames(t) {
		all.recorded = append(all.recorded, loadTape(t, name))
	}
	for _, name := range madeTapes {
		all.made = append(all.made, loadTape(t, name))
	}
	return all
}

// Losses, reorderings and switches at random, in combination.
func TestGoesOnAfterRandomChanges(t *testing.T) {
	all := loadTapes(t)
	const plain, more = 300, 150
	for seed := range uint64(plain + more) {
		r := rand.New(rand.NewPCG(seed, 3))
		b := make([]byte, 4+4*(1+r.IntN(5)))
		for i := range b {
			b[i] = byte(r.IntN(256))
		}
		if seed >= plain { // including rare ops
			if seed%2 == 0 {
				b[1] |= 0xf0
			}
			for i := 4; i < len(b); i += 4 {
				if r.IntN(3) == 0 {
					b[i] |= 0xfc
				}
			}
		}
		runScript(t, all, b)
		if t.Failed() {
			t.Fatalf("seed %d: %v", seed, b)
		}
	}
}

// FuzzSwitchPoints searches for points at which a switch, a loss or a reordering deprives
// the subscriber of frames that it is owed.
func FuzzSwitchPoints(f *testing.F) {
	all := loadTapes(f)
	for i := range all.recorded {
		tape := byte(i)
		f.Add([]byte{tape, 0, 40, 1, opWant, 100, 0, 0, opWant, 104, 2, 0, opLoseAndRepeat, 101, 3, 40})
		f.Add([]byte{tape, 1, 60, 2, opPause, 90, 20, 2, opDelayKey, 80, 1, 50, opLose, 120, 1, 0})
		f.Add([]byte{tape, 2, 80, 3, opRestart, 90, 20, 2, opMute, 92, 30, 0, opLoseDown, 140, 200, 60})
		f.Add([]byte{tape, 0, 90, 4, opBackup, 60, 120, 2, opWant, 100, 0, 0, opUnsubscribe, 110, 40, 0})
		f.Add([]byte{tape, 0, 20, 5, opReplace, 70, 30, 2, opDelay, 60, 120, 40})
		f.Add([]byte{tape, 0, 20, 5, 252, 70, 100, 2, 253, 100, 40, 40, 252, 180, 30, 40})
		f.Add([]byte{tape, 0, 20, 5, 254, 70, 100, 2, opDelay, 60, 30, 70, 254, 160, 10, 1})
	}
	for i := range all.made {
		tape := byte(i)
		f.Add([]byte{tape, 0xf1, 30, 5, opWant, 60, 0, 0, opDelay, 90, 100, 40, opWant, 130, 2, 0})
		f.Add([]byte{tape, 0xf1, 30, 5, opMute, 60, 90, 0, 252, 110, 40, 9, opRestart, 160, 2, 0, 253, 200, 0, 0})
	}
	// A frame that was forwarded late was the newest, and the next source began before
	// it.
	f.Add([]byte{54, 107, 196, 40, 8, 161, 52, 60, 117, 217, 149, 215, 162, 11, 167, 160, 45, 203, 81, 35})
	// A frame of a layer that was left out came late, when the layer was forwarded again.
	f.Add([]byte{62, 102, 47, 183, 194, 250, 199, 237, 7, 103, 116, 188, 239, 204, 118, 234, 232, 218, 108, 194, 166, 11, 86, 138, 114, 177, 138, 18, 228, 140, 115, 160, 76, 53, 92, 222, 66, 143, 189, 246})
	// The padding for a late packet that was left out was lost, and was not sent again.
	f.Add([]byte{28, 187, 107, 154, 120, 33, 45, 216, 5, 225, 16, 209, 140, 106, 193, 236, 106, 164, 255, 147, 242, 132, 15, 105, 174, 63, 207, 172})
	f.Add([]byte{163, 131, 180, 0, 228, 32, 125, 241, 119, 110, 54, 166, 169, 202, 231, 241, 196, 103, 230, 244, 136, 18, 120, 196, 54, 14, 191, 167, 233, 36, 181, 172, 49, 200, 67, 68, 20, 12, 236, 95})
	f.Add([]byte{226, 83, 177, 20, 174, 146, 149, 15, 179, 206, 58, 53, 80, 31, 121, 179, 246, 25, 150, 19, 207, 228, 162, 1, 156, 89, 250, 155})
	// A packet of the former codec was retransmitted after the first packet of the next
	// codec.
	f.Add([]byte{174, 189, 133, 196, 197, 237, 81, 114, 35, 61, 253, 50, 242, 113, 220, 133, 75, 234, 67, 16, 80, 22, 214, 206, 242, 253, 57, 188, 234, 204, 159, 230, 242, 114, 240, 72})
	f.Add([]byte{55, 217, 217, 226, 23, 163, 205, 101, 32, 22, 47, 63, 96, 74, 89, 108, 68, 140, 130, 155, 41, 252, 190, 98, 72, 157, 140, 106, 211, 206, 11, 116, 21, 239, 88, 1, 72, 74, 249, 9})
	f.Add([]byte{56, 99, 148, 81, 16, 176, 170, 23, 112, 191, 127, 167, 168, 123, 157, 88, 56, 4, 138, 212, 59, 59, 243, 43, 0, 95, 63, 68, 104, 74, 91, 74, 193, 120, 64, 201, 40, 129, 191, 29})
	f.Add([]byte{87, 59, 247, 178, 68, 201, 63, 225, 215, 204, 243, 109, 42, 180, 71, 242, 221, 0, 233, 245, 210, 126, 225, 147})
	// A source began with padding, and a late packet of the former source came after it.
	f.Add([]byte{32, 90, 203, 4, 40, 238, 6, 218, 233, 187, 129, 130, 113, 41, 76, 3, 9, 191, 214, 215, 63, 31, 146, 121})
	f.Add([]byte{152, 175, 53, 116, 174, 180, 66, 65, 222, 118, 154, 86, 77, 9, 66, 168, 221, 35, 12, 87, 31, 121, 226, 234, 10, 13, 156, 3, 69, 199, 9, 149, 206, 90, 160, 173})
	f.Add([]byte{34, 48, 173, 48, 35, 220, 65, 48, 57, 48, 48, 48, 55, 32, 48, 48})
	// A stream whose structure was lost continued with unwanted layers, while the
	// forwarder waited for another codec.
	f.Add([]byte{8, 67, 12, 36, 138, 68, 71, 184, 28, 55, 104, 190, 107, 237, 39, 197, 132, 154, 135, 134, 100, 166, 236, 239})
	// A late packet came after its layer had been replaced twice.
	f.Add([]byte{64, 188, 2, 39, 225, 139, 242, 60, 211, 20, 77, 49, 96, 94, 238, 62, 90, 169, 63, 105, 150, 129, 112, 94, 20, 183, 172, 208, 187, 87, 75, 44, 162, 116, 71, 172, 154, 141, 6, 54})
	// The part of the former frame that was left out came after the source had changed.
	f.Add([]byte{37, 75, 120, 21, 251, 66, 162, 147, 246, 42, 32, 35, 234, 101, 222, 167, 54, 194, 73, 133, 120, 81, 194, 169, 205, 158, 213, 247, 246, 67, 163, 67, 0, 158, 227, 105, 212, 228, 140, 157})
	// A keyframe began to arrive after a later keyframe.
	f.Add([]byte{92, 150, 247, 15, 78, 64, 195, 90, 102, 81, 199, 237})
	f.Add([]byte{169, 144, 128, 246, 248, 36, 160, 147, 21, 251, 157, 182, 38, 243, 208, 31, 66, 95, 196, 141, 194, 194, 239, 129})
	// A layer stopped for a while, and returned.
	f.Add([]byte{21, 172, 104, 112, 84, 208, 201, 67, 96, 178, 236, 204})
	// A layer's next source began with padding, before those of the other layers.
	f.Add([]byte{162, 37, 130, 203, 105, 124, 3, 169, 210, 88, 238, 55, 108, 47, 207, 122, 160, 219, 22, 239, 95, 158, 211, 238, 242, 220, 105, 181, 224, 104, 204, 97, 58, 22, 37, 176})
	f.Fuzz(func(t *testing.T, b []byte) { runScript(t, all, b) })
}
