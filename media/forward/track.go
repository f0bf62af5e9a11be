package forward

import (
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/media/forward/packet"
	"parlor/rooms"
)

// maxLayers bounds the layers of a track. Simulcast has three; backup codecs add some.
const maxLayers = 32

var _ rooms.MediaTrack = (*Track)(nil)

// Track is a published track. Layers receive its packets, and forwarders send them. All
// methods may be called concurrently. Close ends the track.
type Track struct {
	cfg      TrackConfig
	log      *slog.Logger
	epoch    time.Time // times in the packet path are nanoseconds since epoch
	pool     *packet.Pool
	video    bool
	rtcpSSRC uint32 // sender SSRC of our reports and requests to the publisher

	// The following are copied on write: replaced under mu, read without.
	layers     atomic.Pointer[[]*Layer]
	forwarders atomic.Pointer[[]*Forwarder]
	sizes      atomic.Pointer[layerSizes]

	screen      atomic.Bool // the track is a shared screen
	screenSound atomic.Bool // the track is the sound of a shared screen
	muted       atomic.Bool
	keyAsked    atomic.Int64 // when a keyframe of a layer was asked for last
	mutedAt     atomic.Int64 // when that changed last
	shrunk      atomic.Int64 // when the announced size became smaller; 0: it is as large as ever
	grown       atomic.Int64 // when it became as large as ever again; 0: it has not been smaller
	// regressed: subscribers that can receive a backup codec get it. It is set under mu.
	regressed atomic.Bool
	audio     atomic.Uint32 // bits of the smoothed level as a float32; 0 = not speaking

	loudness  loudness
	qualities dynacast
	turns

	mu     sync.Mutex // guards the following and the replacing of layers and forwarders
	closed bool
	extent extent // the announced size
}

// NewTrack makes a track without layers.
func NewTrack(cfg TrackConfig) *Track {
	t := &Track{
		cfg:      cfg,
		log:      cfg.Log,
		epoch:    time.Now(),
		pool:     cfg.Pool,
		video:    cfg.Kind == livekit.TrackType_VIDEO,
		rtcpSSRC: rand.Uint32(),
	}
	if t.log == nil {
		t.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	t.log = t.log.With("track", cfg.SID)
	if t.pool == nil {
		t.pool = packet.NewPool()
	}
	t.layers.Store(&[]*Layer{})
	t.forwarders.Store(&[]*Forwarder{})
	t.sizes.Store(&layerSizes{})
	t.qualities.init(cfg.Codec, cfg.OnQualities)
	t.begin()
	return t
}

// SID is the track's id, TR_….
func (t *Track) SID() string { return t.cfg.SID }

// Kind is audio or video.
func (t *Track) Kind() livekit.TrackType { return t.cfg.Kind }

// AudioLevel is the smoothed level, from 0 (silence) to 1, and whether it counts as
// speech.
func (t *Track) AudioLevel() (level float32, speaking bool) {
	level = math.Float32frombits(t.audio.Load())
	return level, level > 0
}

// since converts a time to the packet path's: nanoseconds since epoch.
func (t *Track) since(at time.Time) int64 { return int64(at.Sub(t.epoch)) }

// AddLayer adds a stream of packets. For a closed track it returns a closed layer.
func (t *Track) AddLayer(cfg LayerConfig) *Layer {
	t.mu.Lock()
	old := *t.layers.Load()
	l := newLayer(t, cfg, freeIndex(old))
	if t.closed || len(old) >= maxLayers {
		t.mu.Unlock()
		l.closed = true // the layer is not shared yet
		return l
	}
	layers := append(append(make([]*Layer, 0, len(old)+1), old...), l)
	t.layers.Store(&layers)
	regresses := t.isBackup(l) && len(*t.forwarders.Load()) < t.cfg.RegressBelow && !t.regressed.Swap(true)
	t.mu.Unlock()
	at := time.Now()
	// The forwarders turn to the codec of the new layer. Its first layer that begins divides the
	// bandwidth; if others are sent already, none begins.
	if regresses && slices.ContainsFunc(layers, func(l *Layer) bool { return t.isBackup(l) && l.live.Load() }) {
		t.reallocate(at)
	}
	t.retarget()
	t.updateQualities(at)
	return l
}

// isBackup reports whether a layer has another codec than the track's first.
func (t *Track) isBackup(l *Layer) bool { return !l.cfg.Codec.like(t.cfg.Codec) }

// freeIndex is the lowest index without a layer, for the bit masks of the forwarders.
func freeIndex(layers []*Layer) uint8 {
	for i := range uint8(maxLayers) {
		used := false
		for _, l := range layers {
			used = used || l.index == i
		}
		if !used {
			return i
		}
	}
	return maxLayers - 1
}

// AddForwarder starts forwarding to a subscriber. For a closed track it returns a closed
// forwarder.
func (t *Track) AddForwarder(cfg ForwarderConfig) *Forwarder {
	f := newForwarder(t, cfg)
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		f.closed = true // the forwarder is not shared yet
		f.out.End()
		return f
	}
	old := *t.forwarders.Load()
	forwarders := append(append(make([]*Forwarder, 0, len(old)+1), old...), f)
	t.forwarders.Store(&forwarders)
	t.mu.Unlock()
	now := time.Now()
	f.addToDownlink(now)
	f.retarget(t.since(now))
	t.updateQualities(now)
	return f
}

// SetMuted stops or resumes forwarding. Packets that arrive meanwhile still count in
// reports to the publisher.
func (t *Track) SetMuted(muted bool) {
	if t.muted.Swap(muted) == muted {
		return
	}
	t.audio.Store(0)
	at := time.Now()
	now := t.since(at)
	t.mutedAt.Store(now)
	t.stir(now)
	if !muted {
		t.reallocate(at)
	}
	for _, f := range *t.forwarders.Load() {
		f.resync(now)
	}
}

// SetInfo sets the sizes of the layers, and the source of the track.
func (t *Track) SetInfo(info *livekit.TrackInfo) {
	sizes := sizesOf(info)
	t.mu.Lock()
	same := *t.sizes.Swap(sizes) == *sizes
	t.extent.follow(sizes.pixels(), t.since(time.Now()))
	t.shrunk.Store(t.extent.shrunk)
	t.grown.Store(t.extent.grown)
	t.mu.Unlock()
	t.screen.Store(info.GetSource() == livekit.TrackSource_SCREEN_SHARE)
	t.screenSound.Store(info.GetSource() == livekit.TrackSource_SCREEN_SHARE_AUDIO)
	at := time.Now()
	if !same { // another layer may be the one that fits where the video is shown
		t.reallocate(at)
	}
	t.retarget()
	t.updateQualities(at)
}

// Close ends the track, its layers and its forwarders. After it no packet is written and
// no callback starts.
func (t *Track) Close() {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return
	}
	t.closed = true
	t.mu.Unlock()
	t.end()
	for _, l := range *t.layers.Load() {
		l.Close()
	}
	for _, f := range *t.forwarders.Load() {
		f.Close()
	}
}

func (t *Track) removeLayer(gone *Layer) {
	t.mu.Lock()
	var layers []*Layer
	for _, l := range *t.layers.Load() {
		if l != gone {
			layers = append(layers, l)
		}
	}
	t.layers.Store(&layers)
	returns := !slices.ContainsFunc(layers, t.isBackup) && t.regressed.Swap(false)
	t.mu.Unlock()
	at := time.Now()
	if returns { // the forwarders may, to the first codec
		t.reallocate(at)
	}
	t.retarget()
	t.updateQualities(at)
}

func (t *Track) removeForwarder(gone *Forwarder) {
	t.mu.Lock()
	var forwarders []*Forwarder
	for _, f := range *t.forwarders.Load() {
		if f != gone {
			forwarders = append(forwarders, f)
		}
	}
	t.forwarders.Store(&forwarders)
	t.mu.Unlock()
	t.updateQualities(time.Now())
}

// retarget lets every forwarder choose its layer again.
func (t *Track) retarget() {
	now := t.since(time.Now())
	for _, f := range *t.forwarders.Load() {
		f.retarget(now)
	}
}

// beginsEvery is how often the beginning of a layer divides the bandwidth of all its subscribers,
// beyond the first beginsCredit times.
const (
	beginsEvery  = int64(500 * time.Millisecond)
	beginsCredit = 8
)

// begins divides the bandwidth with a layer that is sent from now on, and lets every
// forwarder choose again. A packet of the layer is about to be forwarded. It may be a
// keyframe, so none is requested; if it is not, the forwarder requests one.
func (t *Track) begins(l *Layer) {
	at := time.Now()
	now := t.since(at)
	// A publisher may end and begin a layer with each packet. What a division did not count gets
	// no bandwidth until the next one.
	divides := l.beginsPaid-now <= beginsCredit*beginsEvery
	if divides {
		l.beginsPaid = max(l.beginsPaid, now) + beginsEvery
	}
	for _, f := range *t.forwarders.Load() {
		f.begin(l, at, divides)
	}
}

// reallocate divides the bandwidth of all subscribers again, before the forwarders of a
// track choose: what may be forwarded of it may have become more.
func (t *Track) reallocate(at time.Time) {
	if !t.video {
		return
	}
	for _, f := range *t.forwarders.Load() {
		f.downlink.Resume(at)
	}
}

// tick does the periodic work.
func (t *Track) tick(at time.Time) {
	t.turning.Lock()
	defer t.turning.Unlock()
	t.tickLocked(at)
}

// tickLocked does the periodic work. turning is held.
func (t *Track) tickLocked(at time.Time) {
	now := t.since(at)
	layers := *t.layers.Load()
	if t.judgeLiveness(layers, now) {
		t.retarget()
	}
	for _, l := range layers {
		l.tick(now)
	}
	// Each tick serves a tenth of the forwarders, so that each is served once a second
	// and their reports do not leave all at once.
	forwarders := *t.forwarders.Load()
	const turns = int(time.Second / tickInterval)
	first := t.ticks % turns
	for i := first; i < len(forwarders); i += turns {
		forwarders[i].tick(at, now)
	}
	for i := first; i < len(forwarders); i += turns {
		forwarders[i].flush() // what all of them report leaves at once
	}
	t.ticks++
	if t.video && t.cfg.OnQualities != nil {
		t.relieve(layers, at)
	}
	t.qualities.tick(at)
}

// updateQualities recomputes the demand, for the publisher. It must be called after each
// change of layers, forwarders or their wishes.
func (t *Track) updateQualities(at time.Time) {
	t.stir(t.since(at))
	if t.cfg.OnQualities != nil {
		t.qualities.update(t.wanted, at)
	}
}

// RepeatQualities tells the publisher again what it was told last, because it may have
// missed it.
func (t *Track) RepeatQualities() { t.qualities.repeat() }

// wanted is, for each codec, the highest quality that a subscriber wants.
func (t *Track) wanted() map[string]livekit.VideoQuality {
	want := make(map[string]livekit.VideoQuality)
	for _, l := range *t.layers.Load() {
		want[codecName(l.cfg.Codec)] = livekit.VideoQuality_OFF
	}
	if len(want) == 0 {
		want[codecName(t.cfg.Codec)] = livekit.VideoQuality_OFF
	}
	if !t.video && !t.regressed.Load() {
		want[codecName(t.cfg.Codec)] = livekit.VideoQuality_HIGH
	}
	for _, f := range *t.forwarders.Load() {
		name := codecName(*f.codec())
		q := f.wanted()
		if !t.video && q != livekit.VideoQuality_OFF {
			q = livekit.VideoQuality_HIGH
		}
		if old, ok := want[name]; !ok || rank(q) > rank(old) {
			want[name] = q
		}
	}
	return want
}
