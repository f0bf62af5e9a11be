package forward

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/media/downlink/allocate"
	"parlor/media/forward/packet"
)

// layerCounters count the packets and requests of a layer.
type layerCounters struct {
	malformed, foreign, duplicates, late, restarts atomic.Uint64
	nacks, keyRequests, keyFrames, rtcpErrors      atomic.Uint64
}

// LayerStats are statistics of a layer, since it began unless said otherwise.
type LayerStats struct {
	SSRC     uint32
	RID      string
	MimeType string
	Quality  livekit.VideoQuality
	Live     bool   // packets came in the last second or so
	Width    uint32 // pixels, as the publisher announced; 0 = unknown, or audio
	Height   uint32

	Packets, Bytes, Lost uint64
	// Dropped packets: malformed; of another payload type, or with a sequence number too
	// far off; received twice.
	Malformed, Foreign, Duplicates uint64
	// Late counts packets that came after packets that follow them.
	Late, Restarts     uint64
	NACKs, KeyRequests uint64 // sent to the publisher
	Frames, KeyFrames  uint64
	RTCPErrors         uint64
	Jitter, RTT        time.Duration
	Loss               float64 // share of packets lost in the last seconds, 0 to 1
	Bitrate            uint64  // bits/s over the last second
	FPS                float64 // over the last second
	SpatialLayers      int
	LastPacket         time.Time // zero: none yet
}

// Stats returns statistics of the received packets.
func (l *Layer) Stats() LayerStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := LayerStats{
		SSRC: l.ssrc, RID: l.cfg.RID, MimeType: l.cfg.Codec.MimeType, Quality: l.cfg.Quality, Live: l.live.Load(),
		Packets: l.rates.packets, Bytes: l.rates.bytes, Lost: l.stream.Lost(),
		Malformed: l.counters.malformed.Load(), Foreign: l.counters.foreign.Load(),
		Duplicates: l.counters.duplicates.Load(), Late: l.counters.late.Load(),
		Restarts: l.counters.restarts.Load(), NACKs: l.counters.nacks.Load(),
		KeyRequests: l.counters.keyRequests.Load(), RTCPErrors: l.counters.rtcpErrors.Load(),
		Frames: l.rates.frames, KeyFrames: l.counters.keyFrames.Load(),
		Jitter:  time.Duration(l.stream.Jitter() * float64(time.Second)),
		Bitrate: l.rates.bitrate, FPS: l.rates.fps,
		SpatialLayers: l.inspector.spatialLayers(),
	}
	s.Loss, _ = l.window.get()
	if l.track.video {
		s.Width, s.Height = l.track.sizes.Load().of(l.cfg.Quality)
	}
	if !s.Live {
		s.Bitrate, s.FPS = 0, 0
	}
	s.RTT = l.rttLocked()
	if at := l.lastArrival.Load(); at != 0 {
		s.LastPacket = l.track.epoch.Add(time.Duration(at))
	}
	return s
}

// rateMeter counts packets, and once a second computes rates.
type rateMeter struct {
	packets, bytes, frames uint64

	timestamp uint32
	since     int64 // start of this second
	bytes0    uint64
	frames0   uint64
	bitrate   uint64
	fps       float64 // of the last second with frames

	// Counts of this second, by spatial and temporal layer:
	parts [allocate.Spatials][allocate.Temporals]part
	key   uint32 // timestamp of the last keyframe that was asked for
	keyed bool   // there was one
	keyAt int64  // when it came
	// excess is what such keyframes cost beyond that, in bits/s over the last seconds.
	excess [allocate.Spatials][allocate.Temporals]float64
	// costs are those of the last three seconds in the middle: a second with a keyframe costs
	// more than the layer, which would be left for it, and taken again for another keyframe.
	// A keyframe that was asked for counts as one frame of the others: it comes because of
	// what subscribers do, and several may come in a row. Where they go on coming, they become a
	// part of what the layer costs.
	costs  costs
	former [3]costs // of the last seconds, the newest first
}

// part is what came of one layer, without those below it.
type part struct {
	bytes, frames       uint64
	keyBytes, keyFrames uint64 // the part of these that are keyframes which were asked for
}

// usual is the bytes if the keyframes that were asked for were like the other frames.
func (p *part) usual() float64 {
	if p.frames <= p.keyFrames {
		return float64(p.bytes) // there are no others
	}
	return float64(p.bytes-p.keyBytes) * float64(p.frames) / float64(p.frames-p.keyFrames)
}

// costs are the bitrates of a stream's layers. Each includes all layers below it.
type costs struct {
	measured bool
	bitrates [allocate.Spatials][allocate.Temporals]float64 // bits/s; 0 = the layer does not exist
	fps      [allocate.Spatials][allocate.Temporals]float64
}

// add counts a packet. asked is when a keyframe was asked for last.
func (r *rateMeter) add(p *packet.Packet, asked int64) {
	if r.packets == 0 || !p.Late && p.Timestamp != r.timestamp {
		r.frames++
		r.timestamp = p.Timestamp
	}
	r.packets++
	r.bytes += uint64(p.Size)
	part := &r.parts[min(p.Frame.Spatial, allocate.Spatials-1)][min(p.Frame.Temporal, allocate.Temporals-1)]
	part.bytes += uint64(p.Size)
	if p.Frame.Key && p.Frame.Start && p.Arrival-asked < keyAnswered && (!r.keyed || asked > r.keyAt) {
		r.key, r.keyed, r.keyAt = p.Timestamp, true, p.Arrival // one request excuses one keyframe
	}
	key := r.keyed && p.Timestamp == r.key
	if key {
		part.keyBytes += uint64(p.Size)
	}
	if p.Frame.Start && !p.Late {
		part.frames++
		if key {
			part.keyFrames++
		}
	}
}

// measure computes the costs of a second.
func (r *rateMeter) measure(seconds float64) {
	if r.bytes == r.bytes0 {
		return // not sent now: its last cost is the best guess
	}
	r.former[2], r.former[1] = r.former[1], r.former[0]
	r.former[0] = costs{measured: true}
	c := &r.former[0]
	var all [allocate.Spatials][allocate.Temporals]float64
	for s := range r.parts {
		for t := range r.parts[s] {
			if r.parts[s][t].bytes == 0 {
				continue
			}
			for below := range s + 1 {
				for slower := range t + 1 {
					c.bitrates[s][t] += r.parts[below][slower].usual() * 8 / seconds
					all[s][t] += float64(r.parts[below][slower].bytes) * 8 / seconds
				}
			}
			for slower := range t + 1 {
				c.fps[s][t] += float64(r.parts[s][slower].frames) / seconds
			}
		}
	}
	clear(r.parts[:])
	r.costs = *c
	for s := range c.bitrates {
		for t := range c.bitrates[s] {
			last := []float64{r.former[0].bitrates[s][t], r.former[1].bitrates[s][t], r.former[2].bitrates[s][t]}
			if slices.Min(last) > 0 {
				slices.Sort(last)
				r.costs.bitrates[s][t] = last[1]
			}
			if c.bitrates[s][t] == 0 {
				continue
			}
			excess := &r.excess[s][t]
			*excess += (max(all[s][t]-c.bitrates[s][t], 0) - *excess) / excessSeconds
			r.costs.bitrates[s][t] += *excess
		}
	}
}

// excessSeconds is over how many seconds the excess of keyframes is smoothed.
const excessSeconds = 8

// frameInterval is the time between frames, in ns, in the last second with frames; 0 if
// unknown.
func (r *rateMeter) frameInterval() int64 {
	if r.fps == 0 {
		return 0
	}
	return int64(float64(time.Second) / r.fps)
}

// longestMeasure is the longest time over which rates are measured.
const longestMeasure = int64(3 * time.Second)

func (r *rateMeter) tick(now int64) {
	elapsed := now - r.since
	if elapsed < int64(time.Second) {
		return
	}
	if elapsed > longestMeasure {
		// The track's timer has rested: for most of that time no packet came.
		r.since, r.bytes0, r.frames0 = now, r.bytes, r.frames
		clear(r.parts[:])
		return
	}
	seconds := float64(elapsed) / float64(time.Second)
	r.bitrate = uint64(float64(r.bytes-r.bytes0) * 8 / seconds)
	r.measure(seconds)
	if r.frames > r.frames0 {
		r.fps = float64(r.frames-r.frames0) / seconds
	}
	r.since, r.bytes0, r.frames0 = now, r.bytes, r.frames
}

// ForwarderStats are statistics of a subscription, since it began unless said otherwise.
type ForwarderStats struct {
	SSRC          uint32
	Width, Height uint32 // of Current, in pixels; 0 = unknown
	// Wanted is the quality of the settings, Target the one chosen among the live layers
	// and within the path's bandwidth, and Current the one that is forwarded now; OFF =
	// none.
	Wanted, Target, Current livekit.VideoQuality
	// Packets and Bytes (without header extensions) count all sent packets,
	// retransmissions included.
	Packets, Bytes uint64
	Rebuilt        uint64 // packets rebuilt from redundancy
	// Retransmitted packets and their bytes. NACKs counts packets that were asked for,
	// Misses those of them that could not be retransmitted.
	Retransmitted, RetransmittedBytes, NACKs, Misses uint64
	KeyRequests                                      uint64 // PLI and FIR from the subscriber
	Rescues                                          uint64 // requests for keyframes because the subscriber lacks packets that are forgotten
	Dropped                                          uint64 // left out by the choice of layers
	TooLate                                          uint64 // late packets whose place was gone
	Overdue                                          uint64 // packets dropped because they waited too long in the pacer
	WriteErrors, RTCPErrors, Malformed               uint64
	Switches                                         uint64 // of layers
	Pauses                                           uint64 // for want of bandwidth
	Frames                                           uint64
	FPS                                              float64 // over the last second
	FractionLost                                     float64
	Lost                                             uint64
	Jitter, RTT                                      time.Duration
	Bitrate                                          uint64 // bits/s over the last second
	Bandwidth                                        uint64 // bits/s, as estimated for the subscriber's path; 0 = unknown
	Shortfall                                        Shortfall
}

// Shortfall is the reason why less of a track is forwarded than wanted; empty if all of
// it is forwarded.
type Shortfall string

// The reasons:
const (
	Muted       Shortfall = "muted"         // by the publisher or by the server
	NotAskedFor Shortfall = "not_asked_for" // the subscriber does not want the track now
	Paused      Shortfall = "paused"        // not even the lowest layer fits the bandwidth
	Bandwidth   Shortfall = "bandwidth"     // a higher layer does not fit the bandwidth
	NotSent     Shortfall = "not_sent"      // the publisher does not send it
	KeyFrame    Shortfall = "key_frame"     // waiting for the publisher's next keyframe
	Softer      Shortfall = "softer"        // others are louder, and the number of forwarded voices is limited
)

// shortfallLocked is the reason why less than want is forwarded. mu is held.
func (f *Forwarder) shortfallLocked(want livekit.VideoQuality) Shortfall {
	switch {
	case f.track.muted.Load():
		return Muted
	case want == livekit.VideoQuality_OFF:
		return NotAskedFor
	case f.heldBack.Load():
		return Softer
	case f.paused():
		return Paused
	case f.target == nil || !f.target.live.Load():
		return NotSent
	case f.video && f.limit.short && (rank(f.limit.quality) < rank(want) || f.limit.temporal != anyLayer):
		return Bandwidth
	case !f.inStep || f.current != f.target:
		if !f.video {
			return NotSent
		}
		return KeyFrame
	case f.chooseAmong(*f.track.layers.Load(), want, false) != f.target:
		return NotSent
	}
	return ""
}
