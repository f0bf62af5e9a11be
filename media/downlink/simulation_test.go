package downlink

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pion/rtcp"

	"parlor/media/downlink/allocate"
	"parlor/media/downlink/estimate"
	"parlor/media/downlink/feedback"
	"parlor/media/downlink/netsim"
	"parlor/media/downlink/pacer"
	"parlor/media/downlink/sent"
)

// frame is one frame on its way to the model receiver.
type frame struct {
	source        *source
	layer         allocate.Layer
	key           bool
	made          int64
	packets, came int
	dropped       bool
	decoded       int64 // 0 = not yet
	depends       *frame
	dependents    []*frame
}

// packet is one packet of it; without a frame it is audio or padding.
type packet struct {
	frame *frame
	size  int
	kind  sent.Kind
	tries int
}

// source is a camera with simulcast of three layers of three temporal layers.
type source struct {
	s       *subscriber
	id      uint32
	rates   [3]float64 // bits/s of each layer
	rand    *rand.Rand
	count   int
	asked   [3]int64 // when a key frame was asked for, 0 = it is not wanted
	wants   allocate.Layer
	current int8 // spatial layer that is forwarded, -1 = none
	last    [3]*frame
	keyMade int64 // when the last key frame that was offered was made

	decodedAt   int64
	begun       bool
	frames      int
	frozen      time.Duration
	freezes     int
	keyRequests int
	layerTime   map[allocate.Layer]int
	lastKey     int64
	switches    int
	class       allocate.Class
	interval    float64
	pauses      int
}

const frameTime = 33_333 * time.Microsecond

// shares of the bitrate by temporal layer, per frame of its kind.
var temporalOf = [4]int8{0, 2, 1, 2}

func (v *source) tick() bool {
	temporal := temporalOf[v.count%4]
	v.count++
	now := v.s.clock.Now()
	for spatial := range int8(3) {
		key := v.asked[spatial] != 0 && now-v.asked[spatial] >= int64(50*time.Millisecond)
		mean := v.rates[spatial] / 8 * frameTime.Seconds()
		size := mean * []float64{1.6, 0.8, 0.8}[temporal]
		t := temporal
		if key {
			v.asked[spatial], size, t = 0, 5*mean, 0
		}
		size *= 0.85 + 0.3*v.rand.Float64()
		v.forward(spatial, t, key, int(size))
	}
	return true
}

// forward chooses as a forwarder does.
func (v *source) forward(spatial, temporal int8, key bool, size int) {
	want := v.wants
	if want == allocate.None {
		v.current = -1
		return
	}
	if spatial != v.current {
		if spatial != want.Spatial || !key {
			return
		}
		v.current = spatial
		v.switches++
		v.last = [3]*frame{}
	}
	most := want.Temporal
	if want.Spatial < v.current {
		most = 0 // until the key frame of the lower layer
	}
	if temporal > most {
		return
	}
	f := &frame{source: v, layer: allocate.Layer{Spatial: spatial, Temporal: temporal}, key: key, made: v.s.clock.Now()}
	if !key {
		for t := temporal; t >= 0; t-- {
			if l := v.last[t]; l != nil && (t < temporal || t == 0) && (f.depends == nil || l.made > f.depends.made) {
				f.depends = l
			}
		}
		if f.depends == nil {
			f.dropped = true // undecodable from the start
		}
	} else {
		v.last = [3]*frame{}
		v.keyMade = f.made
	}
	v.last[temporal] = f
	f.packets = max((size+1099)/1100, 1)
	for i := range f.packets {
		p := packet{frame: f, size: size/f.packets + 40, kind: sent.Video}
		v.s.offer(p, pacer.Packet{
			Stream: v.id, Size: p.size, Kind: sent.Video, KeyStart: key && i == 0, End: i == f.packets-1, Disposable: temporal == 2,
		})
	}
}

// ask asks for a key frame of the layer that is wanted.
func (v *source) ask(spatial int8) {
	if spatial >= 0 && v.asked[spatial] == 0 {
		v.asked[spatial] = v.s.clock.Now()
		v.keyRequests++
	}
}

func (v *source) decode(f *frame) {
	if f.decoded != 0 || f.came < f.packets || f.dropped || !f.key && (f.depends == nil || f.depends.decoded == 0) {
		if f.depends != nil && f.depends.decoded == 0 && f.came == f.packets {
			f.depends.dependents = append(f.depends.dependents, f)
		}
		return
	}
	now := v.s.clock.Now()
	f.decoded = now
	gap := now - v.decodedAt
	if v.begun {
		usual := v.interval
		if float64(gap) > max(3*usual, usual+150e6) {
			v.freezes++
			v.frozen += time.Duration(gap)
		}
		v.interval += (min(float64(gap), 500e6) - v.interval) / 16
	} else {
		v.interval = float64(frameTime)
	}
	v.begun, v.decodedAt = true, now
	v.frames++
	waiting := f.dependents
	f.dependents = nil
	for _, d := range waiting {
		v.decode(d)
	}
	f.depends = nil
}

// subscriber is a downlink and its receiver, in virtual time.
type subscriber struct {
	clock     *netsim.Clock
	down, up  *netsim.Link
	control   *Control[packet]
	sources   []*source
	voice     bool
	wakeAt    int64
	dividedAt int64
	divisions int
	tracks    []allocate.Track
	allocator allocate.Allocator

	// Of the receiver.
	arrivals          map[int64]int64 // by unwrapped number
	forgotten         int64           // arrivals older than this were deleted, but for some that came late since
	highest, reported int64
	pending           int64 // lowest that came and was not reported, 0 = none
	count             uint8
	report            feedback.Report

	reports time.Duration        // between its reports
	streams map[uint32]*arrivals // not nil: it tells of packets by their streams (RFC 8888)
	voices  int                  // each of 40 kbit/s
	// unnumbered: its sound has no transport-wide numbers, as where they are negotiated for
	// video alone.
	unnumbered bool
	wavering   bool // what is measured of the layers' bitrates is not their mean

	media, voiceSent, voiceLost int64 // bytes, packets
}

// arrivals are those of one stream's packets, by their numbers.
type arrivals struct {
	sent              int64
	at                map[int64]int64
	highest, reported int64
	pending           int64 // lowest that came and was not reported, 0 = none
}

// name gives a packet its place in its stream.
func (s *subscriber) name(p packet) (of *arrivals, number int64) {
	ssrc := uint32(100) // sound
	switch {
	case p.frame != nil:
		ssrc = p.frame.source.id
	case p.kind == sent.Padding:
		ssrc = 200
	}
	of = s.streams[ssrc]
	if of == nil {
		of = &arrivals{at: map[int64]int64{}, sent: 65_500}
		of.reported = of.sent
		s.streams[ssrc] = of
	}
	of.sent++
	s.control.Named(ssrc, uint16(of.sent))
	return of, of.sent
}

// sendStreamReport reports by streams, as pion does.
func (s *subscriber) sendStreamReport() {
	const clockOffset = int64(18*time.Hour + 12*time.Minute + 10*time.Second) // it will wrap
	made := s.clock.Now() + clockOffset
	report := rtcp.CCFeedbackReport{ReportTimestamp: uint32(made/int64(time.Second)<<16 + made%int64(time.Second)<<16/int64(time.Second))}
	for ssrc, of := range s.streams {
		if of.pending == 0 {
			continue
		}
		from := min(of.pending, of.reported+1)
		block := rtcp.CCFeedbackReportBlock{MediaSSRC: ssrc, BeginSequence: uint16(from)}
		for n := from; n <= of.highest; n++ {
			at, came := of.at[n]
			m := rtcp.CCFeedbackMetricBlock{Received: came}
			if came {
				m.ArrivalTimeOffset = uint16(min((s.clock.Now()-at)*1024/int64(time.Second), 0x1ffe))
			}
			block.MetricBlocks = append(block.MetricBlocks, m)
		}
		of.reported, of.pending = of.highest, 0
		report.ReportBlocks = append(report.ReportBlocks, block)
	}
	if len(report.ReportBlocks) == 0 {
		return
	}
	slices.SortFunc(report.ReportBlocks, func(a, b rtcp.CCFeedbackReportBlock) int { return int(a.MediaSSRC) - int(b.MediaSSRC) })
	raw, err := report.Marshal()
	if err != nil {
		panic(err)
	}
	s.up.Send(len(raw)+28, func() {
		var fb feedback.StreamReport
		if err := fb.Parse(raw); err != nil {
			panic(err)
		}
		if s.control.StreamFeedback(s.clock.Now(), &fb) {
			s.divide()
		}
		s.serve()
	})
}

func newSubscriber(clock *netsim.Clock, down, up *netsim.Link, seed uint64, cameras int) *subscriber {
	s := &subscriber{clock: clock, down: down, up: up, control: NewControl[packet](true), arrivals: map[int64]int64{}, voice: true, voices: 1}
	for i := range cameras {
		v := &source{
			s: s, id: uint32(i + 1), rates: [3]float64{150_000, 400_000, 800_000}, rand: rand.New(rand.NewPCG(seed, uint64(i))),
			wants: allocate.None, current: -1, layerTime: map[allocate.Layer]int{}, count: i, class: allocate.Rest,
		}
		s.sources = append(s.sources, v)
		clock.After(time.Duration(i)*3*time.Millisecond, func() { clock.Every(frameTime, v.tick) })
	}
	clock.Every(20*time.Millisecond, func() bool {
		for range s.voices {
			s.offer(packet{size: 100, kind: sent.Audio}, pacer.Packet{Size: 100, Kind: sent.Audio})
		}
		return true
	})
	clock.Every(100*time.Millisecond, func() bool {
		if s.control.Tight() || clock.Now()-s.dividedAt >= divideSeldom { // as Path does
			s.divide()
		}
		return true
	})
	s.reports = 60 * time.Millisecond
	s.reportOn()
	clock.Every(200*time.Millisecond, func() bool { s.watch(); return true })
	s.divide()
	return s
}

// reportOn reports now and then.
func (s *subscriber) reportOn() {
	s.clock.After(s.reports, func() {
		if s.streams != nil {
			s.sendStreamReport()
		} else {
			s.sendReport()
		}
		s.reportOn()
	})
}

func (s *subscriber) describe() []allocate.Track {
	s.tracks = append(s.tracks[:0], allocate.Track{Audio: true, Most: allocate.Layer{}})
	s.tracks[0].Bitrates[0][0] = 40_000 * float64(s.voices)
	for _, v := range s.sources {
		t := allocate.Track{ID: v.id, Class: v.class, CanPause: true, Most: allocate.Layer{Spatial: 2, Temporal: 2}, Now: v.wants, Sizes: [3]int{57_600, 230_400, 921_600}}
		for i, full := range v.rates {
			full *= s.measuredAs(v.id, i)
			overhead := 40 * 8 * (1 + full/8*frameTime.Seconds()/1100) // per frame
			for u, part := range []float64{0.4, 0.6, 1} {
				fps := []float64{7.5, 15, 30}[u]
				t.Bitrates[i][u], t.FPS[i][u] = full*part+overhead*fps, fps
			}
		}
		s.tracks = append(s.tracks, t)
	}
	return s.tracks
}

// measuredAs is the bitrate of a layer, as it was measured in the last second, relative to its
// mean: no two seconds are the same.
func (s *subscriber) measuredAs(id uint32, layer int) float64 {
	if !s.wavering {
		return 1
	}
	second := uint64(s.clock.Now() / int64(time.Second))
	return 0.97 + 0.06*rand.New(rand.NewPCG(second, uint64(id)<<8+uint64(layer))).Float64()
}

func (s *subscriber) divide() {
	s.dividedAt = s.clock.Now()
	s.divisions++
	for i, d := range s.control.Divide(s.clock.Now(), s.describe(), &s.allocator)[1:] {
		v := s.sources[i]
		if d.Reason == allocate.Paused && v.wants != allocate.None {
			v.pauses++
		}
		v.wants = d.Layer
		v.layerTime[allocate.Layer{Spatial: v.current, Temporal: d.Layer.Temporal}]++
		if d.Layer.Spatial != v.current {
			v.ask(d.Layer.Spatial)
		}
	}
	s.serve()
}

// watch asks for a key frame when nothing is decoded.
func (s *subscriber) watch() {
	now := s.clock.Now()
	for _, v := range s.sources {
		if v.wants != allocate.None && v.current >= 0 && now-v.decodedAt > int64(400*time.Millisecond) && now-v.lastKey > int64(500*time.Millisecond) {
			v.lastKey = now
			s.up.Send(60, func() { v.ask(v.wants.Spatial) })
		}
	}
}

func (s *subscriber) offer(p packet, described pacer.Packet) {
	now := s.clock.Now()
	switch s.control.Offer(now, described, p) {
	case pacer.Send:
		s.send(p)
	case pacer.Drop:
		s.dropped(p)
	case pacer.DropAndAsk:
		s.dropped(p)
		p.frame.source.ask(p.frame.source.wants.Spatial)
	}
	s.serve()
}

func (s *subscriber) dropped(p packet) {
	if p.frame != nil {
		p.frame.dropped = true
	}
}

// serve sends what may leave, and comes back when more may.
func (s *subscriber) serve() {
	now := s.clock.Now()
	for {
		p, _, verdict := s.control.Next(now)
		if verdict == pacer.Nothing {
			break
		}
		switch verdict {
		case pacer.Send:
			s.send(p)
		case pacer.DropAndAsk:
			s.dropped(p)
			p.frame.source.ask(p.frame.source.wants.Spatial)
		default:
			s.dropped(p)
		}
	}
	for bytes, size := s.control.Probe(now); bytes > 0; bytes, size = s.control.Probe(now) {
		s.send(packet{size: size, kind: sent.Padding})
	}
	if at := s.control.When(now); at != 0 && (s.wakeAt <= now || at < s.wakeAt) {
		s.wakeAt = max(at, now+1)
		wake := s.wakeAt
		s.clock.At(wake, func() {
			if s.wakeAt == wake {
				s.wakeAt = 0
				s.serve()
			}
		})
	}
}

func (s *subscriber) send(p packet) {
	now := s.clock.Now()
	if p.kind == sent.Audio && s.unnumbered {
		s.control.Count(now, p.size)
		s.media += int64(p.size)
		s.voiceSent++
		if !s.down.Send(p.size, func() {}) {
			s.voiceLost++
		}
		return
	}
	number := s.control.Leave(now, p.size, p.kind)
	if p.kind != sent.Padding {
		s.media += int64(p.size)
	}
	if p.kind == sent.Audio {
		s.voiceSent++
	}
	var of *arrivals
	var named int64
	if s.streams != nil {
		of, named = s.name(p)
	}
	queue := s.down.QueueDelay()
	arrives := s.down.Send(p.size, func() {
		if of != nil {
			of.at[named], of.highest = s.clock.Now(), max(of.highest, named)
			if of.pending == 0 || named < of.pending {
				of.pending = named
			}
		}
		s.receive(number, p)
	})
	if arrives {
		return
	}
	if p.kind == sent.Audio {
		s.voiceLost++
	}
	if p.frame == nil || p.tries >= 4 {
		return
	}
	// The receiver sees the gap with the next packet and asks again.
	p.tries++
	p.kind = sent.Repeat
	s.clock.After(queue+s.down.Conditions().Delay+15*time.Millisecond+time.Duration(p.tries-1)*s.down.Conditions().Delay, func() {
		s.up.Send(60, func() {
			if !p.frame.dropped && s.clock.Now()-p.frame.made < int64(time.Second) {
				s.offer(p, pacer.Packet{
					Stream: p.frame.source.id, Size: p.size, Kind: sent.Repeat, Needless: p.frame.made < p.frame.source.keyMade,
				})
			}
		})
	})
}

func (s *subscriber) receive(number uint16, p packet) {
	n := s.highest + int64(int16(number-uint16(s.highest)))
	if s.highest == 0 {
		n = int64(number)
		s.reported = 0
	}
	s.highest = max(s.highest, n)
	s.arrivals[n] = s.clock.Now()
	if s.pending == 0 || n < s.pending {
		s.pending = n
	}
	if f := p.frame; f != nil {
		f.came++
		if f.came == f.packets {
			f.source.decode(f)
		}
	}
}

// sendReport reports as libwebrtc does: from the earliest packet that came since.
func (s *subscriber) sendReport() {
	if s.pending == 0 {
		return
	}
	from := min(s.pending, s.reported+1)
	const clockOffset = int64(1234567 * time.Microsecond)
	reference := (s.arrivals[s.pending] + clockOffset) / int64(64*time.Millisecond)
	s.report = feedback.Report{Base: uint16(from), Reference: uint32(reference) & 0xffffff, Count: s.count, Arrivals: s.report.Arrivals[:0]}
	s.count++
	for n := from; n <= s.highest; n++ {
		at, ok := s.arrivals[n]
		if !ok {
			s.report.Arrivals = append(s.report.Arrivals, feedback.NotReceived)
			continue
		}
		s.report.Arrivals = append(s.report.Arrivals, int32((at+clockOffset-reference*int64(64*time.Millisecond))/int64(250*time.Microsecond)))
	}
	for s.forgotten = min(s.forgotten, from); s.forgotten < s.highest-2000; s.forgotten++ {
		delete(s.arrivals, s.forgotten)
	}
	s.reported, s.pending = s.highest, 0
	raw := s.report.Append(nil, 1, 2)
	s.up.Send(len(raw)+28, func() {
		var fb feedback.Report
		if fb.Parse(raw) == nil {
			if s.control.Feedback(s.clock.Now(), &fb) {
				s.divide()
			}
			s.serve()
		}
	})
}

// oracle is the bitrate of the best layers that a rate carries.
func (s *subscriber) oracle(rate float64) float64 {
	tracks := slices.Clone(s.describe())
	for i := range tracks {
		if !tracks[i].Audio {
			tracks[i].Now = allocate.None
		}
	}
	var a allocate.Allocator
	_, sum := a.Divide(tracks, rate, 0)
	return sum.Bitrate
}

// measured is what a phase came to.
type measured struct {
	media       float64 // bits/s
	steady      float64 // bits/s in the second half
	estimate    estimate.State
	median, p95 time.Duration
	dropped     int
	freezes     int
	frozen      time.Duration
	fps         float64
	keys        int
	switches    int
	pauses      int
	probes      float64 // share of what was sent
	voiceLost   float64
	layer       allocate.Layer
	reached     time.Duration // until the best layers were forwarded for good, -1 = never
}

// phase runs until a time and says what it came to; rate is what the path carries, 0
// for what is unbounded.
func (s *subscriber) phase(length time.Duration, rate float64) (m measured) {
	begin := time.Duration(s.clock.Now())
	s.down.TakeDelays()
	dropped, media, probed, voice, lost := s.down.Dropped, s.media, s.control.Probed(), s.voiceSent, s.voiceLost
	var frames, freezes, keys, switches, pauses int
	var frozen time.Duration
	for _, v := range s.sources {
		frames, freezes, keys, switches, frozen = frames+v.frames, freezes+v.freezes, keys+v.keyRequests, switches+v.switches, frozen+v.frozen
		pauses += v.pauses
	}
	best := s.oracle(rate)
	m.reached = -1
	step := 100 * time.Millisecond
	var half int64
	for at := begin + step; at <= begin+length; at += step {
		s.clock.Run(at)
		if at <= begin+length/2 {
			half = s.media
		}
		if s.control.Summary().Bitrate >= 0.95*best {
			if m.reached < 0 {
				m.reached = at - begin
			}
		} else {
			m.reached = -1
		}
	}
	m.media = float64((s.media-media)*8) / length.Seconds()
	m.steady = float64((s.media-half)*8) / (length / 2).Seconds()
	m.estimate = s.control.State()
	delays := s.down.TakeDelays()
	slices.Sort(delays)
	if n := len(delays); n > 0 {
		m.median, m.p95 = delays[n/2], delays[n*95/100]
	}
	m.dropped = s.down.Dropped - dropped
	for _, v := range s.sources {
		m.fps += float64(v.frames)
		m.freezes += v.freezes
		m.frozen += v.frozen
		m.keys += v.keyRequests
		m.switches += v.switches
		m.pauses += v.pauses
	}
	m.fps = (m.fps - float64(frames)) / length.Seconds() / float64(max(len(s.sources), 1))
	m.freezes -= freezes
	m.frozen -= frozen
	m.keys -= keys
	m.switches -= switches
	m.pauses -= pauses
	m.probes = float64(s.control.Probed()-probed) * 8 / length.Seconds() / m.media
	if voice := s.voiceSent - voice; voice > 0 {
		m.voiceLost = float64(s.voiceLost-lost) / float64(voice)
	}
	if len(s.sources) > 0 {
		m.layer = s.sources[0].wants
	}
	return m
}
