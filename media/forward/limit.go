package forward

import (
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/media/downlink/allocate"
)

// limit is what of a track may be forwarded. A quality of OFF: nothing, it is paused.
type limit struct {
	quality  livekit.VideoQuality
	temporal uint8
	decided  allocate.Layer
	short    bool // the path carries no more; otherwise no more was there to divide for
}

func noLimit() limit {
	return limit{quality: livekit.VideoQuality_HIGH, temporal: anyLayer, decided: allocate.None}
}

// limitOf is what a decision leaves of a track. What the decision did not count, because it
// was not wanted or not sent, has no bandwidth: it is not forwarded before the next division.
// one: the track is one stream. Its spatial layers begin without notice.
func limitOf(t *allocate.Track, d *allocate.Decision, one bool) limit {
	l := noLimit()
	l.decided = d.Layer
	switch d.Reason {
	case allocate.Paused:
		l.quality, l.short = livekit.VideoQuality_OFF, true
		return l
	case allocate.Unwanted:
		l.quality = livekit.VideoQuality_LOW
		return l
	case allocate.Absent:
		if d.Layer == allocate.None || !one {
			l.quality = livekit.VideoQuality(max(highestSent(t), 0))
		}
		return l
	case allocate.Bandwidth:
	default:
		return l
	}
	l.quality, l.short = livekit.VideoQuality(d.Layer.Spatial), true
	for higher := d.Layer.Temporal + 1; higher < allocate.Temporals; higher++ {
		if t.Bitrates[d.Layer.Spatial][higher] > 0 {
			l.temporal = uint8(d.Layer.Temporal)
		}
	}
	return l
}

// highestSent is the highest spatial layer of a track that is sent; -1 = none.
func highestSent(t *allocate.Track) int {
	for spatial := allocate.Spatials - 1; spatial >= 0; spatial-- {
		for _, bitrate := range t.Bitrates[spatial] {
			if bitrate > 0 {
				return spatial
			}
		}
	}
	return -1
}

// setLimit says what the path carries.
func (f *Forwarder) setLimit(l limit) {
	f.mu.Lock()
	changed := f.limit.quality != l.quality || f.limit.temporal != l.temporal
	f.limit = l
	var request *Layer
	if changed {
		if f.paused() {
			f.state = livekit.StreamState_PAUSED
			f.stats.Pauses++
		}
		if request = f.retargetLocked(false); request != nil && f.beginning>>request.index&1 != 0 {
			request = nil
		}
	}
	start := !f.inStep
	f.mu.Unlock()
	f.request(request, f.track.since(time.Now()), start)
	if changed {
		f.tellState()
	}
}

// paused reports whether nothing is forwarded for want of bandwidth. mu is held.
func (f *Forwarder) paused() bool { return f.limit.quality == livekit.VideoQuality_OFF }

// tellState tells the subscriber whether video comes, if that has changed.
func (f *Forwarder) tellState() {
	if f.cfg.OnStreamState == nil {
		return
	}
	f.telling.Lock()
	defer f.telling.Unlock()
	f.mu.Lock()
	state, told := f.state, f.stateTold
	f.stateTold = state
	closed := f.closed
	f.mu.Unlock()
	if state != told && !closed {
		f.cfg.OnStreamState(state)
	}
}

// RepeatState tells again whether video comes, as it was told last, to a subscriber that
// may have missed it.
func (f *Forwarder) RepeatState() {
	if f.cfg.OnStreamState == nil {
		return
	}
	f.telling.Lock()
	defer f.telling.Unlock()
	f.mu.Lock()
	told, closed := f.stateTold, f.closed
	f.mu.Unlock()
	if told != untoldState && !closed {
		f.cfg.OnStreamState(told)
	}
}

// untoldState is a stream's state before its first packet.
const untoldState livekit.StreamState = -1

// Costs until they are measured: of sound in all, of a picture per pixel.
const (
	soundCost = 40_000.0 // bits/s
	pixelCost = 1.8      // bits/s
)

// largeSide is the shorter side from which on a picture counts as shown large, in
// pixels.
const largeSide = 540

// describe is what the forwarder wants and what each layer costs.
func (f *Forwarder) describe(at time.Time) allocate.Track {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := allocate.Track{
		ID: f.cfg.SSRC, Audio: !f.video, Class: allocate.Rest, CanPause: f.cfg.CanPause, Most: allocate.None, Now: f.limit.decided,
	}
	want := f.wantedLocked()
	if f.closed || f.track.muted.Load() || want == livekit.VideoQuality_OFF || f.heldBack.Load() {
		return t
	}
	if !f.video {
		t.Most = allocate.Layer{}
		if t.Bitrates[0][0] = float64(f.stats.Bitrate); f.stats.Bitrate == 0 && f.inStep {
			t.Bitrates[0][0] = soundCost
		}
		return t
	}
	switch s := &f.settings; {
	case f.track.screen.Load():
		t.Class = allocate.Screen
	case f.track.cfg.Voice.speaking(at):
		t.Class = allocate.Speaker
	case s.Priority != 0, min(s.Width, s.Height) >= largeSide:
		t.Class = allocate.Pinned
	}
	t.Priority = f.settings.Priority
	t.Most = allocate.Layer{Spatial: int8(rank(want) - rank(livekit.VideoQuality_LOW)), Temporal: allocate.Temporals - 1}
	sizes := f.track.sizes.Load()
	for q := range t.Sizes {
		t.Sizes[q] = int(sizes.width[q]) * int(sizes.height[q])
	}
	for _, l := range *f.track.layers.Load() {
		q := int(l.cfg.Quality)
		if !l.cfg.Codec.carries(*f.codec()) || !l.live.Load() || q >= allocate.Spatials {
			continue
		}
		c, layers := l.costs()
		switch {
		case !c.measured:
			pixels := t.Sizes[q]
			if pixels == 0 {
				pixels = 320 * 180 << (2 * q)
			}
			t.Bitrates[q][0] = pixelCost * float64(pixels)
		case layers > 1 && f.alone(l):
			t.Bitrates, t.FPS = c.bitrates, c.fps
		default:
			t.Bitrates[q], t.FPS[q] = c.whole()
		}
	}
	return t
}

// costs are what the layers of the stream cost, and how many spatial ones there are.
func (l *Layer) costs() (costs, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rates.costs, l.inspector.spatialLayers()
}

// whole is what the temporal layers cost with all spatial layers.
func (c *costs) whole() (bitrates, fps [allocate.Temporals]float64) {
	for s := range c.bitrates {
		for t, b := range c.bitrates[s] {
			if b > 0 {
				bitrates[t] = max(bitrates[t], b)
				fps[t] = max(fps[t], c.fps[s][t])
			}
		}
	}
	return bitrates, fps
}
