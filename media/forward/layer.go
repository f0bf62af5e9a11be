package forward

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"

	"parlor/media/forward/audiolevel"
	"parlor/media/forward/nack"
	"parlor/media/forward/packet"
	"parlor/media/forward/reception"
)

// Packets are kept for retransmission to subscribers for keepFor, which is several round
// trips of a bad network, but no more than so many.
const (
	keepFor    = 2 * time.Second
	videoCache = 1024
	audioCache = 128
)

// A burst ends with its frame, or when it is this large.
const maxBurst = 48

// trainGap: packets of a frame with shorter gaps come in a train, and the layer waits for
// the rest of the frame.
const trainGap = int64(time.Millisecond)

// formerSource is how long late packets of a replaced source are dropped.
const formerSource = int64(time.Second)

// Layer is one RTP stream of a track. One goroutine calls WriteRTP and Flush; all other
// methods may be called concurrently.
type Layer struct {
	track  *Track
	cfg    LayerConfig
	index  uint8 // bit of the layer in the forwarders' masks
	family family
	ids    packet.ExtensionMap
	plain  int // payload type of the primary encoding if the codec is RED; else -1
	rate   int64

	live        atomic.Bool  // packets are coming
	stragglers  atomic.Int64 // until when packets may have been sent before a Stop
	gone        atomic.Bool  // closed
	lastArrival atomic.Int64 // of a packet with payload
	barred      atomic.Int64 // until when packets that come do not show that it is sent again
	silence     silence
	looked      looked
	counters    layerCounters

	// fan is held while packets are forwarded, so that they stay in order and Close waits
	// for them.
	fan      sync.Mutex
	closed   bool // written under fan, or before the layer is shared
	burst    []*packet.Packet
	gap      int64 // smoothed time between packets of a frame, ns
	previous int64 // arrival of the former packet
	// beginsPaid is until when its beginnings have used up what they may divide, see begins.
	beginsPaid int64
	nacks      []uint16
	level      *audiolevel.Level // audio

	mu         sync.Mutex // guards the following: reception
	ssrc       uint32
	hasSSRC    bool
	former     uint32 // SSRC before the last change of SSRC
	changed    int64  // time of that change
	generation uint32
	stream     *reception.Stream
	ring       *packet.Ring
	missing    *nack.Tracker // nil: lost packets are not asked for
	inspector  inspector
	report     senderReport
	rates      rateMeter
	window     lossWindow
	judged     int64 // when window was last added to
	rtt        int64 // to the publisher, ns, as set; 0 = unknown
	keys       keyRequests
	reported   int64   // time of the last receiver report
	counted    Traffic // the counts that are in the totals
	captured   captureTime
	pictures   extent // of keyframes
	rests      bool   // sound that its publisher does not send all the time
}

func newLayer(t *Track, cfg LayerConfig, index uint8) *Layer {
	l := &Layer{
		track:  t,
		cfg:    cfg,
		index:  index,
		family: cfg.Codec.family(),
		ids:    cfg.Ext.known(),
		plain:  -1,
		rate:   cfg.Codec.rate(),
		ssrc:   cfg.SSRC, hasSSRC: cfg.SSRC != 0,
		stream: reception.New(cfg.Codec.ClockRate),
		burst:  make([]*packet.Packet, 0, maxBurst),
	}
	cache := videoCache
	if !t.video {
		cache = audioCache
		l.level = audiolevel.New()
	}
	if cfg.REMB != nil {
		l.ids.Set(cfg.Ext.AbsSendTime, packet.ExtAbsSendTime)
	}
	l.ring = packet.NewRing(cache, keepFor)
	if l.family == redundant {
		l.plain = cfg.Codec.redPrimary()
	}
	l.inspector = inspector{family: l.family, plain: l.plain}
	// RED repairs losses by itself, so asking for packets too would cost twice.
	if !cfg.NoNACK && l.family != redundant {
		l.missing = nack.New()
	}
	return l
}

// WriteRTP takes a whole received RTP packet, decrypted. raw is used only during the
// call.
func (l *Layer) WriteRTP(raw []byte, arrival time.Time) {
	p, err := l.track.pool.Parse(raw, &l.ids)
	if err != nil {
		l.counters.malformed.Add(1)
		return
	}
	p.Arrival = l.track.since(arrival)
	l.fan.Lock()
	defer l.fan.Unlock()
	if l.closed {
		p.Release()
		return
	}
	l.recordArrival(p, arrival)
	ok := l.receive(p)
	l.track.wake() // after lastArrival is stored, which turn reads before the timer rests
	if !ok {
		p.Release()
		return
	}
	if !l.live.Load() && l.revives(p) {
		l.flush()
		l.live.Store(true)
		l.track.begins(l)
	}
	l.observeLevel(p)
	l.collect(p)
}

// revives reports whether p shows that a stopped layer is sent again.
func (l *Layer) revives(p *packet.Packet) bool {
	return len(p.Payload()) > 0 && p.Arrival >= l.barred.Load() && (p.Arrival >= l.stragglers.Load() || p.Frame.Key && p.Frame.Start && !p.Late)
}

// Flush forwards the packets that wait for the rest of their frame, because the caller
// has no more packets for now. Calling it is optional.
func (l *Layer) Flush() {
	l.fan.Lock()
	defer l.fan.Unlock()
	l.flush()
}

func (l *Layer) recordArrival(p *packet.Packet, arrival time.Time) {
	if l.cfg.TWCC == nil || l.cfg.Ext.TransportCC == 0 { // it may be there for sound alone
		if l.cfg.REMB != nil {
			l.cfg.REMB.Record(Received{
				SSRC: p.SSRC, Timestamp: p.Timestamp, ClockRate: l.cfg.Codec.ClockRate,
				SendTime: p.Extension(packet.ExtAbsSendTime), Size: p.Size, Media: l.track.video,
			}, arrival)
		}
		return
	}
	if e := p.Extension(packet.ExtTransportCC); len(e) == 2 {
		l.cfg.TWCC.Record(uint16(e[0])<<8|uint16(e[1]), arrival, p.Marker)
	}
}

// receive adds p to the reception state; false means that p must be dropped.
func (l *Layer) receive(p *packet.Packet) bool {
	l.mu.Lock()
	ok := l.receiveLocked(p)
	l.nacks = l.nacks[:0]
	if l.missing != nil && l.missing.Waiting() {
		l.nacks = l.missing.Due(p.Arrival, l.nacks)
	}
	ssrc := l.ssrc
	request := l.repeatKeyRequestLocked(p.Arrival)
	l.mu.Unlock()
	if len(l.nacks) > 0 {
		l.askAgain(ssrc, l.nacks)
	}
	if request != nil {
		l.writeRTCP(request)
	}
	return ok
}

func (l *Layer) receiveLocked(p *packet.Packet) bool {
	if want := l.cfg.Codec.PayloadType; want != 0 && p.PayloadType != want && int(p.PayloadType) != l.plain {
		l.counters.foreign.Add(1)
		return false
	}
	if !l.hasSSRC || p.SSRC != l.ssrc {
		if l.generation > 0 {
			// Late packets of the former source must not bring it back.
			if p.SSRC == l.former && p.Arrival-l.changed < formerSource {
				l.counters.foreign.Add(1)
				return false
			}
			l.former, l.changed = l.ssrc, p.Arrival
			l.stream.Reset()
		}
		l.ssrc, l.hasSSRC = p.SSRC, true
		if l.cfg.TWCC != nil {
			l.cfg.TWCC.SetMediaSSRC(p.SSRC)
		}
	}
	previous := l.stream.Max()
	ext, verdict := l.stream.Accept(p.Seq)
	p.Ext, p.Late = ext, verdict == reception.Late
	switch verdict {
	case reception.Suspect:
		l.counters.foreign.Add(1)
		return false
	case reception.Duplicate:
		l.counters.duplicates.Add(1)
		return false
	case reception.Restart:
		l.restart()
	case reception.Next:
		l.noteRest(p, ext == previous+1)
		if l.missing != nil {
			l.missing.Advance(previous, ext, p.Arrival)
		}
	case reception.Late:
		if l.missing != nil {
			l.missing.Arrived(ext, p.Arrival)
		}
	}
	p.Generation = l.generation
	if !l.inspector.inspect(p) {
		// The packet counts as received, because it was, but is not forwarded.
		l.counters.malformed.Add(1)
		l.stream.Count(p.Timestamp, p.Arrival, false)
		return false
	}
	if l.track.video {
		l.captured.follow(p, l.rate)
		if p.Frame.Key && p.Frame.Start && p.Ext > l.pictures.ext {
			l.pictures.ext = p.Ext
			l.pictures.follow(l.inspector.pixels(p), p.Arrival)
		}
	}
	if !l.ring.Put(p) {
		l.counters.duplicates.Add(1)
		return false
	}
	if p.Late && p.HasDD && p.DD.NewStructure && p.DD.Structure == l.inspector.structure {
		l.inspectAgain(p.Ext)
	}
	l.stream.Count(p.Timestamp, p.Arrival, !p.Late)
	l.rates.add(p, l.track.keyAsked.Load())
	if p.Late {
		l.counters.late.Add(1)
	}
	if p.Frame.Key && p.Frame.Start && !p.Late {
		l.counters.keyFrames.Add(1)
		l.keys.answered(p.Arrival, int64(l.rttLocked()))
	}
	if len(p.Payload()) > 0 {
		l.lastArrival.Store(p.Arrival)
	}
	return true
}

// inspectAgain parses the descriptors of the packets after ext that could not be parsed
// before the structure came. Packets do not change once they are shared, so copies take
// their places. Packets whose descriptors could be parsed stay as they are: they may have
// been forwarded, and must be the same when they are retransmitted.
func (l *Layer) inspectAgain(ext int64) {
	last := min(l.stream.Max(), ext+maxCatchUp)
	for ext++; ext <= last; ext++ {
		p := l.ring.Get(uint32(ext))
		if p == nil {
			continue
		}
		if raw := p.Extension(packet.ExtDependencyDescriptor); raw != nil && !p.HasDD && p.Generation == l.generation {
			c := l.track.pool.Copy(p)
			l.inspector.inspectDD(c, raw)
			l.ring.Replace(c)
			c.Release()
		}
		p.Release()
	}
}

// newest is the newest extended sequence number.
func (l *Layer) newest() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stream.Max()
}

// restart begins a new source, and drops the state of the former one.
func (l *Layer) restart() {
	l.pictures.ext = 0
	if l.generation++; l.generation == 1 {
		l.report.generation = 1
		return
	}
	l.counters.restarts.Add(1)
	l.ring.Clear()
	l.inspector.reset()
	l.report, l.captured = senderReport{}, captureTime{}
	if l.missing != nil {
		l.missing.Reset()
	}
}

// observeLevel follows the audio level of the packets (RFC 6464).
func (l *Layer) observeLevel(p *packet.Packet) {
	if l.level == nil || p.Late {
		return
	}
	e := p.Extension(packet.ExtAudioLevel)
	if l.track.muted.Load() {
		return
	}
	if len(e) == 0 {
		if len(p.Payload()) > comfortNoise {
			l.track.hear(assumedLevel, p.Arrival)
		}
		return
	}
	l.track.hear((127-int64(e[0]&0x7f))*fine, p.Arrival)
	if l.level.Observe(e[0]&0x7f, p.Arrival) {
		l.track.setAudioLevel(l.level)
	}
}

// collect adds p to the burst, and flushes the burst if its frame is complete.
//
// Waiting is useful only if the rest of the frame is about to come. If the sender paces
// its packets further apart than trainGap, each packet is forwarded at once.
func (l *Layer) collect(p *packet.Packet) {
	if n := len(l.burst); n > 0 && l.burst[n-1].Timestamp != p.Timestamp {
		l.flush()
	}
	if !p.Frame.Start && !p.Late {
		l.gap += (min(p.Arrival-l.previous, 10*trainGap) - l.gap) / 8
	}
	l.previous = p.Arrival
	l.burst = append(l.burst, p)
	if !l.track.video || p.Marker || p.Late || len(l.burst) == maxBurst || l.gap >= trainGap {
		l.flush()
	}
}

// flush forwards the burst, forwarder by forwarder, so that the state of each is touched
// once per burst. fan is held.
func (l *Layer) flush() {
	if len(l.burst) == 0 {
		return
	}
	if !l.track.muted.Load() {
		at := time.Now()
		b := burst{layer: l, packets: l.burst, at: at, sendTime: absSendTime(at)}
		forwarders := *l.track.forwarders.Load()
		bit := uint32(1) << l.index
		for _, f := range forwarders {
			if f.listens.Load()&bit != 0 {
				f.writeBurst(&b)
			}
		}
		for _, f := range forwarders {
			f.flush()
		}
	}
	for i, p := range l.burst {
		p.Release()
		l.burst[i] = nil
	}
	l.burst = l.burst[:0]
}

// get returns a remembered packet, retained for the caller; or nil.
func (l *Layer) get(ext uint32, generation uint16) *packet.Packet {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.ring.Get(ext)
	if p != nil && uint16(p.Generation) != generation {
		p.Release()
		return nil
	}
	return p
}

// Close ends the layer. No packet of it is forwarded after it.
func (l *Layer) Close() {
	l.fan.Lock()
	if l.closed {
		l.fan.Unlock()
		return
	}
	l.closed = true
	for _, p := range l.burst {
		p.Release()
	}
	l.burst = nil
	l.fan.Unlock()
	l.gone.Store(true)
	l.live.Store(false)
	l.mu.Lock()
	l.ring.Clear()
	l.countLocked()
	l.mu.Unlock()
	l.track.removeLayer(l)
}

// Forwarders is the number of forwarders of the layer's track.
func (l *Layer) Forwarders() int { return len(*l.track.forwarders.Load()) }

// spatialLayers is the number of spatial layers of the stream, as far as known.
func (l *Layer) spatialLayers() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inspector.spatialLayers()
}

// HandleRTCP takes the publisher's RTCP about this stream.
func (l *Layer) HandleRTCP(packets []rtcp.Packet) {
	now := l.track.since(time.Now())
	for _, p := range packets {
		switch p := p.(type) {
		case *rtcp.SenderReport:
			l.mu.Lock()
			if !l.hasSSRC || p.SSRC == l.ssrc {
				l.report = senderReport{ntp: p.NTPTime, rtp: p.RTPTime, at: now, valid: true, generation: l.generation}
			}
			l.mu.Unlock()
		case *rtcp.Goodbye:
			l.mu.Lock()
			own := l.hasSSRC && slices.Contains(p.Sources, l.ssrc)
			l.mu.Unlock()
			if own {
				l.Stop()
			}
		}
	}
}

// stragglerTime is how long after a Stop packets may arrive that were sent before it:
// they may take another path than the signal, or be retransmissions.
const stragglerTime = int64(100 * time.Millisecond)

// Stop is called when the publisher says that it no longer sends the layer: by RTCP BYE
// (RFC 3550, section 6.6) or in its session description (RFC 8853, section 5.2).
// Forwarders switch from a stopped layer of video at once to the next best layer that is
// sent. The publisher may send the layer again later.
func (l *Layer) Stop() {
	l.stragglers.Store(l.track.since(time.Now()) + stragglerTime)
	if l.track.video && l.live.Swap(false) {
		l.track.retarget()
	}
}

// senderReport is the last sender report of the layer.
func (l *Layer) senderReport() senderReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.report
}

// better reports whether a has a higher quality than b.
func better(a, b *Layer) bool { return rank(a.cfg.Quality) > rank(b.cfg.Quality) }

// isHigh reports whether the layer is not the lowest.
func (l *Layer) isHigh() bool { return l.cfg.Quality != livekit.VideoQuality_LOW }
