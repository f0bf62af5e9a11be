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

// maxLayers bounds the layers of a track: simulcast has three, backup codecs
// and hostile clients some more.
const maxLayers = 32

var _ rooms.MediaTrack = (*Track)(nil)

// Track is a published track: its layers come in, its forwarders go out. All
// methods may be called concurrently. Close ends everything.
type Track struct {
	cfg      TrackConfig
	log      *slog.Logger
	epoch    time.Time // times in the packet path are nanoseconds since it
	pool     *packet.Pool
	video    bool
	rtcpSSRC uint32 // sender of our reports and requests to the publisher

	// Copy on write: replaced under mu, read without.
	layers     atomic.Pointer[[]*Layer]
	forwarders atomic.Pointer[[]*Forwarder]
	sizes      atomic.Pointer[layerSizes]

	screen      atomic.Bool // it shows a screen
	screenSound atomic.Bool // it is the sound of what is shown
	muted       atomic.Bool
	// regressed: subscribers that can get a backup codec get it. It is set under mu.
	regressed atomic.Bool
	audio     atomic.Uint32 // bits of the smoothed level as float32; 0 = not speaking

	loudness  loudness
	qualities dynacast
	turns

	mu     sync.Mutex // guards the following and the replacing of layers and forwarders
	closed bool
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

// SID is the track's TR_… id.
func (t *Track) SID() string { return t.cfg.SID }

// Kind is audio or video.
func (t *Track) Kind() livekit.TrackType { return t.cfg.Kind }

// AudioLevel is the smoothed level, 0 (silence) to 1, and whether it counts as
// speaking.
func (t *Track) AudioLevel() (level float32, speaking bool) {
	level = math.Float32frombits(t.audio.Load())
	return level, level > 0
}

// since is a time of the packet path.
func (t *Track) since(at time.Time) int64 { return int64(at.Sub(t.epoch)) }

// AddLayer adds a stream of packets. Of a closed track it returns a closed layer.
func (t *Track) AddLayer(cfg LayerConfig) *Layer {
	t.mu.Lock()
	old := *t.layers.Load()
	l := newLayer(t, cfg, freeIndex(old))
	if t.closed || len(old) >= maxLayers {
		t.mu.Unlock()
		l.closed = true // nobody else knows it yet
		return l
	}
	layers := append(append(make([]*Layer, 0, len(old)+1), old...), l)
	t.layers.Store(&layers)
	if t.isBackup(l) && len(*t.forwarders.Load()) < t.cfg.RegressBelow {
		t.regressed.Store(true)
	}
	t.mu.Unlock()
	t.retarget()
	t.updateQualities(time.Now())
	return l
}

// isBackup tells layers of another codec than the track's first.
func (t *Track) isBackup(l *Layer) bool { return !l.cfg.Codec.like(t.cfg.Codec) }

// freeIndex is the lowest index that no layer has, for the bit masks of the
// forwarders.
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

// AddForwarder begins to forward to a subscriber. Of a closed track it returns a
// closed forwarder.
func (t *Track) AddForwarder(cfg ForwarderConfig) *Forwarder {
	f := newForwarder(t, cfg)
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		f.closed = true // nobody else knows it yet
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

// SetMuted stops or resumes forwarding. What is received meanwhile still counts
// for reports to the publisher.
func (t *Track) SetMuted(muted bool) {
	if t.muted.Swap(muted) == muted {
		return
	}
	t.audio.Store(0)
	now := t.since(time.Now())
	t.stir(now)
	for _, f := range *t.forwarders.Load() {
		f.resync(now)
	}
}

// SetInfo tells the sizes of the layers.
func (t *Track) SetInfo(info *livekit.TrackInfo) {
	t.sizes.Store(sizesOf(info))
	t.screen.Store(info.GetSource() == livekit.TrackSource_SCREEN_SHARE)
	t.screenSound.Store(info.GetSource() == livekit.TrackSource_SCREEN_SHARE_AUDIO)
	t.retarget()
	t.updateQualities(time.Now())
}

// Close ends the track, its layers and its forwarders. After it nothing is
// written and no callback is made, but for those that are being made.
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
	if !slices.ContainsFunc(layers, t.isBackup) {
		t.regressed.Store(false)
	}
	t.mu.Unlock()
	t.retarget()
	t.updateQualities(time.Now())
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

// retarget lets every forwarder choose again.
func (t *Track) retarget() {
	now := t.since(time.Now())
	for _, f := range *t.forwarders.Load() {
		f.retarget(now)
	}
}

// retargetQuietly is retarget for when packets of the new choice are about to
// go out: they may be a key frame, and if not, then one is asked for.
func (t *Track) retargetQuietly() {
	for _, f := range *t.forwarders.Load() {
		f.mu.Lock()
		f.retargetLocked(false)
		f.mu.Unlock()
	}
}

// tick does what is due.
func (t *Track) tick(at time.Time) {
	t.turning.Lock()
	defer t.turning.Unlock()
	t.tickLocked(at)
}

// tickLocked does what is due. turning is held.
func (t *Track) tickLocked(at time.Time) {
	now := t.since(at)
	layers := *t.layers.Load()
	if t.judgeLiveness(layers, now) {
		t.retarget()
	}
	for _, l := range layers {
		l.tick(now)
	}
	// A tenth of the forwarders at each tick, so that each has its turn once a
	// second and their reports do not leave all at once.
	forwarders := *t.forwarders.Load()
	const turns = int(time.Second / tickInterval)
	for i := t.ticks % turns; i < len(forwarders); i += turns {
		forwarders[i].tick(at, now)
	}
	t.ticks++
	t.qualities.tick(at)
}

// updateQualities recomputes what anybody wants, for the publisher. It follows all that
// changes layers, forwarders or what they want.
func (t *Track) updateQualities(at time.Time) {
	t.stir(t.since(at))
	if t.cfg.OnQualities != nil {
		t.qualities.update(t.wanted, at)
	}
}

// RepeatQualities tells again which qualities are wanted, as they were told last, to
// a publisher that may have missed it.
func (t *Track) RepeatQualities() { t.qualities.repeat() }

// wanted is the highest quality that anybody wants of each codec.
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
