package forward

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"

	record "parlor/media/downlink/sent"
	"parlor/media/forward/modelreceiver"
)

// script is a replay in which the receiver recognises every packet, so that the received
// frames can be compared with the owed ones. A subscriber is owed all frames of its
// wanted layer from the layer's first keyframe after the request, and until then those of
// the former layer.
type script struct {
	*play
	described bool
	sources   []*source
	receivers []*modelreceiver.Receiver
	events    []event
	packets   []*stamped
	now       int // index of the present event
	owed      int // frames that were owed so far
	reordered bool

	// The subscriber's wishes:
	want   livekit.VideoQuality // OFF: paused
	muted  bool
	closed bool
	backup bool // it should get the backup codec
	rising bool // the stream is forwarded, but not in the wanted layer

	current *period
	periods []*period

	salt  byte     // of the sources that were added last
	room  int      // the subscriber's room; the tests begin in 0
	rooms []*Track // the other rooms, from 1 on

	// The path to the subscriber:
	random  *rand.Rand
	losing  int // of a thousand packets
	lossy   bool
	breaks  []time.Duration // when earlier packets become impossible to retransmit
	begin   time.Time
	keys    int // keyframes that have begun to arrive
	waiting []rtp.Packet
	nacks   []nackDue
}

// source is one stream of a publisher.
type source struct {
	tape   *tape
	index  int // layer of the tape
	room   int
	backup bool
	layer  *Layer
	ssrc   uint32
	frames map[int]*frameState
	begun  bool          // one of its packets has arrived
	live   bool          // a packet with payload has arrived, of it or of the former source of its layer
	newest int64         // number of the newest packet that arrived
	left   int64         // value of newest when another source was last forwarded
	over   bool          // another source has replaced it
	until  time.Duration // its end
}

// frameState is the state of a frame.
type frameState struct {
	source    *source
	first     int64
	spatial   int
	key       bool
	packets   int
	arrived   int
	begun     bool // the script contains its first packet
	ended     bool
	begins    int // event of its first packet
	complete  int // event
	missing   int // packets that were lost on the path and not retransmitted
	ready     int // event at which all its dependencies had arrived
	at        time.Duration
	decodable bool // by the packets of its source that arrived
	decoded   bool
}

// period is a time in which a source is forwarded.
type period struct {
	source     *source
	from       int64 // number of its first packet
	spatial    int
	begin, end int // events
}

// stamped is a packet of the script.
type stamped struct {
	taped
	source *source
	lost   bool
	came   bool
	keys   int // number of keyframes so far, when it was lost on the path
}

type event struct {
	at     time.Duration
	packet *stamped
	do     func()
}

type nackDue struct {
	at     time.Time
	number uint16
}

const stampSize = 8

// newScript makes a script with a part of a tape.
func newScript(t testing.TB, tp *tape, described bool, from, to time.Duration, r *rand.Rand) *script {
	s := &script{play: newPlay(t, tp, described), described: described, want: livekit.VideoQuality_HIGH, random: r}
	s.receivers = append(s.receivers, s.model)
	s.link = s.deliver
	s.addSources(tp, s.layers, from, to, 0, false, 0, false)
	return s
}

// addSources adds the packets of a tape, beginning at the time after. salt distinguishes
// their SSRCs from those of other sources. far: their numbers are arbitrary.
func (s *script) addSources(tp *tape, layers []*Layer, from, to, after time.Duration, backup bool, salt byte, far bool) []*source {
	var fresh []*source
	for i := range tp.Layers {
		fresh = append(fresh, &source{tape: tp, index: i, backup: backup, layer: layers[i], frames: map[int]*frameState{}, newest: -1, left: -1, until: 1 << 62})
	}
	s.sources = append(s.sources, fresh...)
	for _, p := range tp.window(from, from+time.Duration(s.random.Int64N(int64(to-from))), to, s.random, far) {
		p = p.of(salt)
		p.At += after
		st := &stamped{taped: p, source: fresh[p.layer]}
		if p.p != nil {
			st.stamp(len(s.packets))
			s.packets = append(s.packets, st)
			st.source.note(st)
		}
		s.events = append(s.events, event{at: p.At, packet: st})
	}
	return fresh
}

// of is the packet with the salt of another source.
func (p taped) of(salt byte) taped {
	at := 8
	if p.RTCP {
		at = 4
	}
	for _, raw := range []*[]byte{&p.Raw, &p.whole} {
		if *raw != nil {
			*raw = slices.Clone(*raw)
			binary.BigEndian.PutUint32((*raw)[at:], binary.BigEndian.Uint32((*raw)[at:])^uint32(salt)<<24)
		}
	}
	return p
}

// stamp writes the packet's index at the end of the payload. The bytes before it stop
// parsers that search payloads for units.
func (p *stamped) stamp(index int) {
	for _, raw := range []*[]byte{&p.Raw, &p.whole} {
		if *raw != nil {
			b := append(*raw, 0xff, 0xff, 0xff, 0xff)
			*raw = binary.BigEndian.AppendUint32(b, uint32(index))
		}
	}
}

func (src *source) note(p *stamped) {
	f := src.frames[p.frame]
	if f == nil {
		f = &frameState{source: src, first: p.seq, spatial: int(p.p.Frame.Spatial), at: p.At}
		src.frames[p.frame] = f
	}
	f.packets++
	f.first = min(f.first, p.seq)
	f.begun = f.begun || p.start
	f.ended = f.ended || p.end
	f.key = f.key || p.key
}

// at schedules an action.
func (s *script) at(when time.Duration, do func()) {
	s.events = append(s.events, event{at: when, do: do})
}

// between are the packets with payload within a time.
func (s *script) between(from, to time.Duration) (list []*stamped) {
	for _, p := range s.packets {
		if p.At >= from && p.At < to {
			list = append(list, p)
		}
	}
	return list
}

// setWant sets the subscriber's wish; OFF for none.
func (s *script) setWant(q livekit.VideoQuality) {
	if q == s.want || s.closed {
		return
	}
	s.rising = s.svc() && (s.rising || s.current != nil) && q != livekit.VideoQuality_OFF
	if q == livekit.VideoQuality_OFF || s.want == livekit.VideoQuality_OFF || s.svc() {
		s.leave()
	}
	s.want = q
	s.f.SetSettings(Settings{Quality: q, Disabled: q == livekit.VideoQuality_OFF})
}

func (s *script) setMuted(muted bool) {
	if s.muted == muted {
		return
	}
	if s.room == 0 {
		s.rising = false
		s.leave()
	}
	s.muted = muted
	s.track.SetMuted(muted)
}

func (s *script) unsubscribe() {
	if s.closed {
		return
	}
	s.rising = false
	s.leave()
	s.closed = true
	s.f.Close()
}

func (s *script) resubscribe() {
	if !s.closed {
		return
	}
	s.subscribe(s.described)
	s.receivers = append(s.receivers, s.model)
	s.closed, s.want = false, livekit.VideoQuality_HIGH
	s.waiting, s.nacks = nil, nil
}

// move moves the subscriber to another room, where it subscribes to a track.
func (s *script) move(room int, to *Track) {
	s.unsubscribe()
	s.room, s.watched = room, to
	s.resubscribe()
}

func (s *script) svc() bool { return len(s.tape.Layers) == 1 }

// leave ends the period.
func (s *script) leave() {
	if s.current == nil {
		return
	}
	s.current.end = s.now
	s.current.source.left = s.current.source.newest
	s.current = nil
}

// target is the wanted source when a packet arrives: the best one among the layers that
// have not stopped, or among all if all have.
func (s *script) target(p *stamped) *source {
	if s.muted && s.room == 0 || s.closed || s.want == livekit.VideoQuality_OFF {
		return nil
	}
	revives := p.key || p.source.layer.track.since(time.Now()) >= p.source.layer.stragglers.Load()
	if best := s.best(func(src *source) bool { return src == p.source && revives || src.layer.live.Load() }); best != nil {
		return best
	}
	return s.best(func(*source) bool { return true })
}

// best is the best source among those for which may returns true.
func (s *script) best(may func(*source) bool) (best *source) {
	for _, src := range s.sources {
		if src.room != s.room || src.over || src.backup != (s.backup && s.room == 0) || !src.live || !may(src) {
			continue
		}
		switch {
		case len(src.tape.Layers) == 1:
			return src
		case best == nil, best.index > int(s.want) && src.index < best.index, src.index <= int(s.want) && src.index > best.index:
			best = src
		}
	}
	return best
}

// appear handles the first packet of a source, which may be only padding: the former
// source of its layer has ended.
func (s *script) appear(src *source) {
	if src.begun {
		return
	}
	src.begun = true
	for _, other := range s.sources {
		if other != src && other.layer == src.layer && !other.over && other.begun {
			other.over, src.live = true, other.live
			if s.current != nil && s.current.source == other {
				s.leave()
			}
		}
	}
}

// arrive updates which frames ought to be forwarded.
func (s *script) arrive(p *stamped) {
	src := p.source
	p.came, src.live = true, true
	overtaken := src.newest - p.seq
	f := src.frames[p.frame]
	if p.start {
		f.begins = s.now
	}
	if f.arrived++; f.arrived == f.packets {
		f.complete = s.now
	}
	target := s.target(p)
	if src != target || s.current != nil && s.current.source == src || !p.key || p.seq <= src.left || overtaken > maxCatchUp {
		return
	}
	if s.rising && overtaken > 0 {
		return // its parts that were left out do not come any more
	}
	s.rising = false
	s.leave()
	s.current = &period{source: src, from: p.seq, begin: s.now, end: 1 << 30, spatial: int(s.want)}
	s.periods = append(s.periods, s.current)
}

// deliver passes a packet to the receiver, or loses it.
func (s *script) deliver(h *rtp.Header, payload []byte) {
	// Receivers drop packets that come before the structure that they need, so the
	// structure's packet is not lost.
	p := s.stampOf(payload)
	if h.SSRC == s.cfg.SSRC && s.losing > 0 && (p == nil || !p.key) && !s.breaking() && s.random.IntN(1000) < s.losing {
		s.nacks = append(s.nacks, nackDue{time.Now().Add(repeatAfter), h.SequenceNumber})
		if p != nil {
			p.source.frames[p.frame].missing++
			p.keys = s.keys
		}
		return
	}
	switch {
	case p == nil:
	case h.SSRC != s.cfg.SSRC && p.keys == s.keys:
		p.source.frames[p.frame].missing--
	case p.key:
		s.keys++
	}
	if s.model.Write(h, payload, record.Video) != nil {
		s.t.Error("the receiver refuses a packet")
	}
}

// repeatAfter is the time after which a packet that was lost on the path is requested
// again.
const repeatAfter = 20 * time.Millisecond

// breaking reports whether a packet that is lost now could not be retransmitted.
func (s *script) breaking() bool {
	now := time.Since(s.begin)
	return slices.ContainsFunc(s.breaks, func(at time.Duration) bool { return now <= at && at <= now+10*repeatAfter })
}

func (s *script) repair() {
	for len(s.nacks) > 0 && !s.nacks[0].at.After(time.Now()) {
		n := s.nacks[0].number
		s.nacks = s.nacks[1:]
		s.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: s.cfg.SSRC, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{n})}})
	}
}

// run performs the script and checks the received frames.
func (s *script) run(what string) {
	s.t.Helper()
	slices.SortStableFunc(s.events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	s.begin = time.Now()
	for i, e := range s.events {
		time.Sleep(time.Until(s.begin.Add(e.at)))
		s.now = i
		s.repair()
		switch p := e.packet; {
		case e.do != nil:
			e.do()
		case p.lost || p.At >= p.source.until:
		case p.RTCP && p.source.layer != nil:
			if decoded, err := rtcp.Unmarshal(p.Raw); err == nil {
				p.source.layer.HandleRTCP(decoded)
			}
		default:
			if p.source.layer == nil {
				continue
			}
			if !p.source.over {
				s.appear(p.source)
			}
			if p.p != nil && !p.source.over {
				s.arrive(p)
			}
			p.source.newest = max(p.source.newest, p.seq) // padding counts
			p.source.layer.WriteRTP(p.Raw, time.Now())
			p.source.layer.Flush()
		}
	}
	for range 5 {
		time.Sleep(50 * time.Millisecond)
		s.repair()
	}
	time.Sleep(time.Second)
	for _, r := range s.receivers {
		r.Tick()
	}
	s.judge(what)
	for _, t := range append(s.rooms, s.track) {
		t.Close()
	}
}

// stampOf is the script's packet for a payload.
func (s *script) stampOf(payload []byte) *stamped {
	if len(payload) < stampSize {
		return nil
	}
	i := int(binary.BigEndian.Uint32(payload[len(payload)-4:]))
	if i >= len(s.packets) {
		return nil
	}
	return s.packets[i]
}

func (s *script) frameOf(f *modelreceiver.Frame) *frameState {
	p := s.stampOf(f.Payloads()[0])
	if p == nil {
		return nil
	}
	return p.source.frames[p.frame]
}

// broken reports whether packets of f were lost on the path. Without descriptors, the
// layers of an AV1 picture are one frame.
func (s *script) broken(f *modelreceiver.Frame) bool {
	return slices.ContainsFunc(f.Payloads(), func(b []byte) bool {
		p := s.stampOf(b)
		return p != nil && p.source.frames[p.frame].missing > 0
	})
}

// maxStale is by how much a frame may be older than the last shown one: layers have
// different delays.
const maxStale = 200 * time.Millisecond

func (s *script) judge(what string) {
	s.t.Helper()
	for _, src := range s.sources {
		s.decodeAll(src)
	}
	for _, r := range s.receivers {
		frames := r.Frames()
		slices.SortStableFunc(frames, func(a, b modelreceiver.Frame) int { return cmp.Compare(a.First, b.First) })
		var last uint32
		var newest time.Duration
		any := false
		for i := range frames {
			f := &frames[i]
			known := s.frameOf(f)
			if known == nil {
				require.False(s.t, f.Decoded.IsZero(), "%s: a frame that the forwarder made cannot be decoded", what)
				continue
			}
			if f.Decoded.IsZero() {
				if known.decodable && !s.interrupted(known) {
					require.Fail(s.t, what, "frame %d of %s (timestamp %d, at %v, key %t, spatial %d, temporal %d): %s",
						i, known.source.name(), f.Timestamp, known.at, f.Key, f.Spatial, f.Temporal, f.Why)
				}
				continue
			}
			known.decoded = true
			if any {
				require.GreaterOrEqual(s.t, int32(f.Timestamp-last), int32(0), "%s: frame %d goes back in time", what, i)
			}
			any, last = true, f.Timestamp
			require.GreaterOrEqual(s.t, known.at, newest-maxStale, "%s: frame %d is older than one before", what, i)
			newest = max(newest, known.at)
		}
		require.Empty(s.t, slices.DeleteFunc(slices.Clone(r.Dropped()), func(why string) bool {
			return s.reordered && strings.Contains(why, "older than the last one") || // it came too late
				s.lossy && strings.Contains(why, "cannot be read") // a keyframe came before it
		}), what)
	}
	for _, p := range s.periods {
		tops := p.tops()
		for _, f := range p.source.frames {
			if f.first < p.from || !f.decodable || f.ready >= p.end || f.spatial != tops(f.first) {
				continue
			}
			s.owed++
			if !f.decoded {
				require.Fail(s.t, what, "frame of %s at %v (packet %d, key %t, spatial %d) is missing in the period from %v to %v",
					p.source.name(), f.at, f.first, f.key, f.spatial, s.events[p.begin].at, s.events[min(p.end, len(s.events)-1)].at)
			}
		}
	}
}

func (src *source) name() string {
	return fmt.Sprintf("%s layer %d (backup %t, %d)", src.tape.name, src.index, src.backup, src.ssrc)
}

// tops is the owed spatial layer at each packet: the highest wanted one that the stream
// has from one keyframe to the next.
func (p *period) tops() func(first int64) int {
	if len(p.source.tape.Layers) > 1 {
		return func(int64) int { return 0 }
	}
	want := p.spatial
	if want >= int(livekit.VideoQuality_HIGH) {
		want = 255
	}
	var keys []int64
	top := map[int64]int{}
	for _, f := range p.source.frames {
		if f.key {
			keys = append(keys, f.first)
		}
	}
	slices.Sort(keys)
	keyOf := func(first int64) int64 {
		i, found := slices.BinarySearch(keys, first)
		switch {
		case found:
			return keys[i]
		case i == 0:
			return -1
		}
		return keys[i-1]
	}
	for _, f := range p.source.frames {
		if k := keyOf(f.first); f.spatial <= want {
			top[k] = max(top[k], f.spatial)
		}
	}
	return func(first int64) int { return top[keyOf(first)] }
}

// interrupted reports whether the subscription changed while dependencies of f were
// missing.
func (s *script) interrupted(f *frameState) bool {
	for i := f.complete + 1; i <= f.ready && i < len(s.events); i++ {
		if s.events[i].do != nil || slices.ContainsFunc(s.periods, func(p *period) bool { return p.end == i }) {
			return true
		}
	}
	return false
}

// decodeAll determines which frames of a source can be decoded from the arrived packets.
func (s *script) decodeAll(src *source) {
	now := time.Now()
	cfg := modelreceiver.Config{Now: func() time.Time {
		now = now.Add(time.Second) // no more packets will come
		return now
	}}
	if s.described {
		cfg.DescriptorID = src.tape.DescriptorID
	}
	var packets []*stamped
	for _, p := range s.packets {
		if p.source == src && p.came {
			packets = append(packets, p)
		}
	}
	slices.SortStableFunc(packets, func(a, b *stamped) int { return cmp.Compare(a.seq, b.seq) })
	var direct *modelreceiver.Receiver
	for _, p := range packets {
		var h rtp.Header
		raw := p.Raw
		if p.whole != nil {
			raw = p.whole
		}
		n, err := h.Unmarshal(raw)
		require.NoError(s.t, err)
		if direct == nil {
			src.ssrc, cfg.SSRC = h.SSRC, h.SSRC
			cfg.Codecs = map[uint8]string{h.PayloadType: src.tape.MimeType}
			direct = modelreceiver.New(cfg)
		}
		require.NoError(s.t, direct.Write(&h, raw[n:], record.Video))
	}
	if direct == nil {
		return
	}
	known := map[int64]*frameState{}
	var before *frameState
	whole := 0 // event at which all layers of the frames so far had arrived
	for _, f := range direct.Frames() {
		k := s.frameOf(&f)
		known[f.ID()] = k
		k.decodable = !f.Decoded.IsZero() && k.begun && k.ended && k.arrived == k.packets && !s.broken(&f)
		if s.described && k.key && src.begunBefore(k) {
			// Receivers have a newer structure, and drop this frame's own.
			k.decodable = false
		}
		k.ready = k.complete
		need := func(other *frameState) {
			switch {
			case other == nil:
			case !other.decodable:
				k.decodable = false
			default:
				k.ready = max(k.ready, other.ready)
			}
		}
		ids, chained := f.Needs()
		for _, id := range ids {
			need(known[id])
		}
		if chained {
			// The left-out part of the former frame leaves no trace.
			need(before)
			k.ready = max(k.ready, whole)
		}
		before = k
		for _, b := range f.Payloads() {
			p := s.stampOf(b)
			whole = max(whole, p.source.frames[p.frame].complete)
		}
	}
	src.leaveOutOverdue()
}

// begunBefore reports whether a keyframe that follows f began to arrive before f.
func (src *source) begunBefore(f *frameState) bool {
	for _, other := range src.frames {
		if other.key && other.first > f.first && other.arrived > 0 && other.begins < f.begins {
			return true
		}
	}
	return false
}

// leaveOutOverdue marks as undecodable all frames that are complete, with their
// dependencies, only after a frame that follows them.
func (src *source) leaveOutOverdue() {
	var frames []*frameState
	for _, f := range src.frames {
		if f.decodable {
			frames = append(frames, f)
		}
	}
	slices.SortFunc(frames, func(a, b *frameState) int { return cmp.Compare(b.first, a.first) })
	next := 1 << 30 // event at which a later frame was ready
	for _, f := range frames {
		f.decodable = f.ready <= next
		next = min(next, f.ready)
	}
}

// everyScript runs a test for each recording, with descriptors and without.
func everyScript(t *testing.T, test func(t *testing.T, tp *tape, described bool, r *rand.Rand)) {
	everyTape(t, func(t *testing.T, tp *tape, described bool) {
		test(t, tp, described, rand.New(rand.NewPCG(uint64(len(tp.name)), uint64(tp.name[0]))))
	})
}
