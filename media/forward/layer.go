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

// How many packets are remembered for subscribers that lose them.
const (
	videoCache = 512
	audioCache = 256
)

// A burst ends with its frame, or when it is this large.
const maxBurst = 48

// trainGap: packets of a frame that come closer than this come in a train, and
// the rest of a frame is waited for.
const trainGap = int64(time.Millisecond)

// formerSource is how long stragglers of a replaced source are dropped.
const formerSource = int64(time.Second)

// Layer is one RTP stream of a track. WriteRTP and Flush are called by one
// goroutine; everything else may be called concurrently.
type Layer struct {
	track  *Track
	cfg    LayerConfig
	index  uint8 // bit of the layer in the forwarders' masks
	family family
	ids    packet.ExtensionMap
	plain  int // payload type of the primary encoding when the codec is RED, -1
	rate   int64

	live        atomic.Bool  // packets come
	stragglers  atomic.Int64 // until when what comes may have been sent before a Stop
	gone        atomic.Bool  // closed
	lastArrival atomic.Int64 // of a packet with payload
	silence     silence
	counters    layerCounters

	// fan is held while packets go out, so that they go in order and Close waits.
	fan      sync.Mutex
	closed   bool // written under fan, or before anybody knows the layer
	burst    []*packet.Packet
	gap      int64 // smoothed time between packets of a frame, ns
	previous int64 // arrival of the packet before
	nacks    []uint16
	level    *audiolevel.Level // audio

	mu         sync.Mutex // guards the following: reception
	ssrc       uint32
	hasSSRC    bool
	former     uint32 // SSRC before the last change
	changed    int64  // when that was
	generation uint32
	stream     *reception.Stream
	ring       *packet.Ring
	missing    *nack.Tracker // nil: do not ask
	inspector  inspector
	report     senderReport
	rates      rateMeter
	window     lossWindow
	judged     int64 // when window was added to
	keyWanted  bool
	keyAsked   int64 // when, 0 = never
	firSeq     uint8
	reported   int64   // when the last receiver report left
	counted    Traffic // of what the totals have
	captured   captureTime
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
	l.ring = packet.NewRing(cache)
	if l.family == redundant {
		l.plain = cfg.Codec.redPrimary()
	}
	l.inspector = inspector{family: l.family, plain: l.plain}
	// RED repairs itself; asking again as well would be paid twice.
	if !cfg.NoNACK && l.family != redundant {
		l.missing = nack.New()
	}
	return l
}

// WriteRTP takes in a whole RTP packet as it came, decrypted. raw is used only
// during the call.
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
	l.recordTWCC(p, arrival)
	ok := l.receive(p)
	l.track.wake() // after lastArrival is stored, which turn looks at before the timer rests
	if !ok {
		p.Release()
		return
	}
	if !l.live.Load() && l.revives(p) {
		l.flush()
		l.live.Store(true)
		l.track.retargetQuietly()
	}
	l.observeLevel(p)
	l.collect(p)
}

// revives reports whether p shows that a layer is sent which had stopped.
func (l *Layer) revives(p *packet.Packet) bool {
	return len(p.Payload()) > 0 && (p.Arrival >= l.stragglers.Load() || p.Frame.Key && p.Frame.Start && !p.Late)
}

// Flush says that the reader has nothing more to read for now: what was held
// back for the rest of its frame leaves. Calling it is optional.
func (l *Layer) Flush() {
	l.fan.Lock()
	defer l.fan.Unlock()
	l.flush()
}

func (l *Layer) recordTWCC(p *packet.Packet, arrival time.Time) {
	if l.cfg.TWCC == nil {
		return
	}
	if e := p.Extension(packet.ExtTransportCC); len(e) == 2 {
		l.cfg.TWCC.Record(uint16(e[0])<<8|uint16(e[1]), arrival, p.Marker)
	}
}

// receive takes p into the reception state; false means that it is to be dropped.
func (l *Layer) receive(p *packet.Packet) bool {
	l.mu.Lock()
	ok := l.receiveLocked(p)
	l.nacks = l.nacks[:0]
	if l.missing != nil && l.missing.Waiting() {
		l.nacks = l.missing.Due(p.Arrival, l.nacks)
	}
	ssrc := l.ssrc
	l.mu.Unlock()
	if len(l.nacks) > 0 {
		l.askAgain(ssrc, l.nacks)
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
			// Stragglers of the source before must not bring it back.
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
		// Counted as received, since it was, but nobody gets it.
		l.counters.malformed.Add(1)
		l.stream.Count(p.Timestamp, p.Arrival, false)
		return false
	}
	if l.track.video {
		l.captured.follow(p, l.rate)
	}
	if !l.ring.Put(p) {
		l.counters.duplicates.Add(1)
		return false
	}
	if p.Late && p.HasDD && p.DD.NewStructure && p.DD.Structure == l.inspector.structure {
		l.inspectAgain(p.Ext)
	}
	l.stream.Count(p.Timestamp, p.Arrival, !p.Late)
	l.rates.add(p)
	if p.Late {
		l.counters.late.Add(1)
	}
	if p.Frame.Key && p.Frame.Start && !p.Late {
		l.counters.keyFrames.Add(1)
		l.keyWanted = false
	}
	if len(p.Payload()) > 0 {
		l.lastArrival.Store(p.Arrival)
	}
	return true
}

// inspectAgain reads the descriptors of the packets after ext that could not be
// read before the structure came. Packets do not change once they are shared, so
// copies take their places. Those that could be read are left as they are: they may
// have been forwarded, and are to be sent again as they were.
func (l *Layer) inspectAgain(ext int64) {
	last := min(l.stream.Max(), ext+maxCatchUp)
	for ext++; ext <= last; ext++ {
		p := l.ring.Get(ext)
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

// restart begins a new source: what belonged to the one before is forgotten.
func (l *Layer) restart() {
	if l.generation++; l.generation == 1 {
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

// observeLevel follows who is speaking (RFC 6464).
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

// collect holds p back for the rest of its frame, or sends what is held.
//
// Waiting is worth while only if the rest is about to come: a sender that paces
// its packets further apart than trainGap is forwarded packet by packet.
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

// flush forwards what is held: forwarder by forwarder, packet by packet, so that
// the state of each is touched once a burst. fan is held.
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

// get returns a remembered packet, held for the caller, or nil.
func (l *Layer) get(ext int64, generation uint32) *packet.Packet {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.ring.Get(ext)
	if p != nil && p.Generation != generation {
		p.Release()
		return nil
	}
	return p
}

// Close ends the layer. After it nothing is forwarded from it.
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

// spatialLayers is how many spatial layers the stream carries, as far as known.
func (l *Layer) spatialLayers() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inspector.spatialLayers()
}

// HandleRTCP takes in what the publisher reports of this stream.
func (l *Layer) HandleRTCP(packets []rtcp.Packet) {
	now := l.track.since(time.Now())
	for _, p := range packets {
		switch p := p.(type) {
		case *rtcp.SenderReport:
			l.mu.Lock()
			if !l.hasSSRC || p.SSRC == l.ssrc {
				l.report = senderReport{ntp: p.NTPTime, rtp: p.RTPTime, at: now, valid: true}
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

// stragglerTime is how long after a Stop packets may come that were sent before it: they
// may take another way than the word of it, or be repeats.
const stragglerTime = int64(100 * time.Millisecond)

// Stop follows the publisher's word that it does not send the layer any more, as RTCP BYE
// (RFC 3550 6.6) and its session descriptions (RFC 8853 5.2) say it. Forwarders leave a
// layer of video at once for the next best one that is sent. The publisher may send the
// layer again later; then it is a layer as before.
func (l *Layer) Stop() {
	if !l.track.video {
		return
	}
	l.stragglers.Store(l.track.since(time.Now()) + stragglerTime)
	if l.live.Swap(false) {
		l.track.retarget()
	}
}

// senderReport is the last sender report of the layer.
func (l *Layer) senderReport() senderReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.report
}

// better orders layers by quality.
func better(a, b *Layer) bool { return rank(a.cfg.Quality) > rank(b.cfg.Quality) }

// isHigh reports whether the layer is more than the lowest.
func (l *Layer) isHigh() bool { return l.cfg.Quality != livekit.VideoQuality_LOW }
