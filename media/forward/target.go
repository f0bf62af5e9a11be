package forward

import (
	"time"

	"github.com/livekit/protocol/livekit"
)

// How long a layer must be silent, while others are not, before it counts as stopped:
// several of its frames must be missing, and longer than during a short stall of the
// publisher. If a layer came back soon after it counted as stopped, it is given more time
// for a while.
const (
	stoppedFrames  = 5
	stoppedAfter   = int64(250 * time.Millisecond)
	stoppedUnsure  = int64(time.Second) // for an unknown frame rate, or a layer that came back soon
	returnedSoon   = int64(2 * time.Second)
	unsureAfterOne = int64(time.Minute)
)

// silence measures how long a layer sends nothing while others send. Track.turning guards
// it.
type silence struct {
	seen    int64 // arrival of the last packet, at the former tick
	lasts   int64 // how long the others have sent meanwhile
	counted int64 // when lasts was last added to
	stopped int64 // when the layer was found stopped; 0 = never
	unsure  int64 // until when more time is given
}

// judgeLiveness finds layers that have stopped, and reports whether there is a new one. A
// single layer has no other to switch to. If all layers are silent, the track is paused
// and not stopped. So time counts only while another layer sends.
func (t *Track) judgeLiveness(layers []*Layer, now int64) (changed bool) {
	if !t.video || len(layers) < 2 {
		return false
	}
	sent := 0
	for _, l := range layers {
		if l.lastArrival.Load() != l.silence.seen {
			sent++
		}
	}
	for _, l := range layers {
		s := &l.silence
		last := l.lastArrival.Load()
		switch {
		case last != s.seen:
			s.seen, s.lasts = last, 0
			if s.stopped != 0 && l.live.Load() {
				if now-s.stopped < returnedSoon {
					s.unsure = now + unsureAfterOne
				}
				s.stopped = 0
			}
			s.counted = now
		case sent > 0:
			// A pause of all layers must not count for this one: they may resume one
			// after the other.
			s.lasts += min(now-s.counted, l.frameInterval()+int64(tickInterval))
			s.counted = now
		}
		if !l.live.Load() || s.lasts < stoppedAfter {
			continue
		}
		interval := l.frameInterval()
		patience := max(stoppedAfter, stoppedFrames*interval)
		if now < s.unsure || interval == 0 {
			patience = max(patience, stoppedUnsure)
		}
		if s.lasts >= patience {
			l.live.Store(false)
			s.stopped = now
			changed = true
			t.log.Debug("layer stopped", "rid", l.cfg.RID, "quality", l.cfg.Quality)
		}
	}
	return changed
}

// frameInterval is the mean time between frames while the layer was sending, in ns; 0 if
// unknown.
func (l *Layer) frameInterval() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rates.frameInterval()
}

// retarget chooses again which layer to forward, and requests the keyframe that the
// change needs.
func (f *Forwarder) retarget(now int64) {
	f.mu.Lock()
	request, start := f.retargetLocked(false), !f.inStep
	f.mu.Unlock()
	f.request(request, now, start)
}

// request requests a keyframe of l, if that is not nil. start: there is no picture without it.
// Nobody is asked before packets can arrive at the subscriber: the keyframe would be lost, and
// the next one be asked for only when the receiver has missed it.
func (f *Forwarder) request(l *Layer, now int64, start bool) {
	switch {
	case l == nil:
	case f.downlink.Ready():
		l.requestKeyFrame(now, start)
	default:
		l.track.stir(now) // the layer may have to be resumed, which takes time too
	}
}

// begin takes a layer into account of which a packet is about to be forwarded.
// divides: the bandwidth is divided with it.
func (f *Forwarder) begin(l *Layer, at time.Time, divides bool) {
	f.mu.Lock()
	f.beginning |= 1 << l.index
	wanted := f.video && f.wantedLocked() != livekit.VideoQuality_OFF && l.cfg.Codec.carries(*f.codec())
	f.mu.Unlock()
	if divides && wanted && !f.track.muted.Load() {
		f.downlink.Resume(at)
	}
	f.mu.Lock()
	f.retargetLocked(false)
	f.beginning &^= 1 << l.index
	f.mu.Unlock()
}

// retargetLocked chooses the layer, and returns it if a keyframe of it is needed.
// patient: the former choice had the time to take effect.
func (f *Forwarder) retargetLocked(patient bool) *Layer {
	if f.current != nil && f.current.gone.Load() {
		f.stop()
	}
	want := f.allowedLocked()
	f.target = nil
	if want != livekit.VideoQuality_OFF {
		f.target = f.choose(want)
	}
	if f.target == nil {
		f.stop()
		f.listen()
		return nil
	}
	f.listen()
	if !f.video {
		return nil
	}
	source := f.target
	if f.inStep || f.broken {
		source = f.current // it is forwarded until the target's keyframe
	}
	f.selector.want(f.bounds(source, f.steppingDown()))
	if !f.target.live.Load() {
		return nil
	}
	if f.target != f.current || !f.inStep || f.selector.needsKey(uint8(f.target.spatialLayers()-1), patient) {
		return f.target
	}
	return nil
}

// allowedLocked is the wanted quality within the path's bandwidth; OFF for audio that is
// held back.
func (f *Forwarder) allowedLocked() livekit.VideoQuality {
	want := f.wantedLocked()
	switch {
	case f.heldBack.Load():
		return livekit.VideoQuality_OFF
	case want != livekit.VideoQuality_OFF && rank(f.limit.quality) < rank(want):
		return f.limit.quality
	}
	return want
}

// steppingDown reports whether the path cannot carry the forwarded layer, and the
// forwarder waits for a keyframe of a lower one.
func (f *Forwarder) steppingDown() bool {
	return f.inStep && f.current != nil && f.current != f.target && f.limit.short && f.limit.quality != livekit.VideoQuality_HIGH && better(f.current, f.target)
}

// bounds are the highest spatial and temporal layers of l to forward. While the forwarder
// steps down, only the lowest temporal layer is forwarded.
func (f *Forwarder) bounds(l *Layer, steppingDown bool) (spatial, temporal uint8) {
	if steppingDown {
		return anyLayer, 0
	}
	return f.spatialBound(l, f.allowedLocked()), min(f.temporalBound(l), f.limit.temporal)
}

// choose is the layer for a quality: the best live layer that is not above it, else the
// lowest live layer. If no layer is live, the same holds among all layers.
func (f *Forwarder) choose(want livekit.VideoQuality) *Layer {
	layers := *f.track.layers.Load()
	if l := f.chooseAmong(layers, want, true); l != nil {
		return l
	}
	return f.chooseAmong(layers, want, false)
}

func (f *Forwarder) chooseAmong(layers []*Layer, want livekit.VideoQuality, live bool) (best *Layer) {
	codec := *f.codec()
	for _, l := range layers {
		if !l.cfg.Codec.carries(codec) || live && !l.live.Load() {
			continue
		}
		switch {
		case best == nil:
			best = l
		case rank(best.cfg.Quality) > rank(want):
			if rank(l.cfg.Quality) < rank(best.cfg.Quality) {
				best = l
			}
		case rank(l.cfg.Quality) <= rank(want) && better(l, best):
			best = l
		}
	}
	return best
}

// oneStream reports whether the codec that is forwarded has one layer.
func (f *Forwarder) oneStream() bool {
	streams := 0
	for _, l := range *f.track.layers.Load() {
		if l.cfg.Codec.carries(*f.codec()) {
			streams++
		}
	}
	return streams == 1
}

// spatialBound is the highest spatial layer of l for a quality. If the stream is one of
// several, its size is its quality, so there is no bound.
func (f *Forwarder) spatialBound(l *Layer, want livekit.VideoQuality) uint8 {
	if want >= livekit.VideoQuality_HIGH || !f.alone(l) {
		return anyLayer
	}
	return uint8(want)
}

// alone reports whether l is the only layer of its codec.
func (f *Forwarder) alone(l *Layer) bool {
	for _, other := range *f.track.layers.Load() {
		if other != l && other.cfg.Codec.carries(*f.codecOf(l)) {
			return false
		}
	}
	return true
}

// temporalBound is the highest temporal layer of l that the wanted frame rate needs. It
// assumes that each temporal layer doubles the rate.
func (f *Forwarder) temporalBound(l *Layer) uint8 {
	if f.settings.FPS == 0 {
		return anyLayer
	}
	fps, top := l.frameRate()
	if fps == 0 || top == 0 {
		return anyLayer
	}
	for top > 0 && fps/2 >= float64(f.settings.FPS) {
		fps /= 2
		top--
	}
	return top
}

// frameRate is the layer's frames per second and its highest temporal layer.
func (l *Layer) frameRate() (fps float64, temporal uint8) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rates.fps, l.inspector.maxTemporal
}
