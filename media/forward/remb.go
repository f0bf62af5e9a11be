package forward

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pion/rtcp"

	"parlor/media/downlink/estimate"
)

// The estimate is sent each rembInterval, as libwebrtc does, and at once when it falls below
// rembLess of what was sent last. Streams are named that were heard within rembHeard.
const (
	rembInterval = int64(200 * time.Millisecond)
	rembLess     = 0.97
	rembHeard    = int64(2 * time.Second)
	// mostREMBStreams bounds the streams that are known. If a client sends more, the one that
	// was heard longest ago makes room.
	mostREMBStreams = 32
	// gaugeSilent is how long a stream may be silent by whose timestamps queues are found.
	gaugeSilent = int64(time.Second)
)

// REMB estimates the path from a publisher that takes no feedback by packets, and tells it
// the bitrate that the path carries (draft-alvestrand-rmcat-remb-03). Its methods may be
// called concurrently. It has no goroutine: all happens when packets arrive.
//
// When a packet was sent is known by its abs-send-time. From a client that does not send that
// it is guessed by the timestamps of one stream of video: the first packet of each frame
// leaves soon after the time that it names.
type REMB struct {
	send func([]rtcp.Packet) error
	ssrc uint32

	mu       sync.Mutex // guards the following
	epoch    time.Time
	estimate *estimate.ReceiveSide
	streams  []rembStream
	gauge    uint32      // the stream by whose timestamps queues are found; 0 = none
	newest   uint32      // timestamp of gauge
	gaugeAt  int64       // when a packet of gauge came
	clock    senderClock // of abs-send-time, or of gauge
	absolute bool        // clock is of abs-send-time
	toldAt   int64       // 0 = never
	told     float64     // bits/s
	closed   bool
}

// rembStream is a stream of video.
type rembStream struct {
	ssrc  uint32
	heard int64
}

// Received is what a [REMB] needs to know of a packet.
type Received struct {
	SSRC      uint32
	Timestamp uint32
	ClockRate uint32
	// SendTime is the value of abs-send-time; empty: the packet has none.
	SendTime []byte
	Size     int // bytes
	// Media: it is of a stream of video itself, not of sound, nor of a stream that repairs.
	Media bool
}

// NewREMB makes a REMB that sends with send.
func NewREMB(send func([]rtcp.Packet) error) *REMB {
	return &REMB{send: send, ssrc: rand.Uint32(), estimate: estimate.NewReceiveSide()}
}

// Record records the arrival of a packet.
func (r *REMB) Record(p Received, arrival time.Time) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	if r.epoch.IsZero() {
		r.epoch = arrival.Add(-time.Second) // so that no time is 0
	}
	now := max(int64(arrival.Sub(r.epoch)), 1)
	if p.Media {
		r.hear(p.SSRC, now)
	}
	if sentAt, ok := r.sentAt(&p, now); ok {
		r.estimate.Arrived(now, sentAt, p.Size)
	} else {
		r.estimate.Counted(now, p.Size)
	}
	var report []rtcp.Packet
	if bitrate, fresh := r.estimate.Judge(now); fresh && r.due(now, bitrate) {
		report = r.reportLocked(now, bitrate)
	}
	r.mu.Unlock()
	if report != nil {
		// A transport that cannot send is ending, and its owner knows.
		_ = r.send(report)
	}
}

func (r *REMB) due(now int64, bitrate float64) bool {
	return r.toldAt == 0 || now-r.toldAt >= rembInterval || bitrate < rembLess*r.told
}

// hear notes a stream. mu is held.
func (r *REMB) hear(ssrc uint32, now int64) {
	oldest := 0
	for i := range r.streams {
		if r.streams[i].ssrc == ssrc {
			r.streams[i].heard = now
			return
		}
		if r.streams[i].heard < r.streams[oldest].heard {
			oldest = i
		}
	}
	if len(r.streams) < mostREMBStreams {
		r.streams = append(r.streams, rembStream{ssrc, now})
		return
	}
	r.streams[oldest] = rembStream{ssrc, now}
}

// sentAt is when a packet was sent, by the sender's clock; false if that is not known. mu is
// held.
func (r *REMB) sentAt(p *Received, now int64) (int64, bool) {
	if v := p.SendTime; len(v) == 3 {
		if !r.absolute {
			r.absolute, r.clock = true, senderClock{bits: 24, rate: 1 << 18}
		}
		return r.read(uint32(v[0])<<16|uint32(v[1])<<8|uint32(v[2]), now), true
	}
	if r.absolute || !p.Media || p.ClockRate == 0 {
		return 0, false
	}
	if p.SSRC != r.gauge {
		if r.gauge != 0 && now-r.gaugeAt < gaugeSilent {
			return 0, false
		}
		r.gauge, r.clock = p.SSRC, senderClock{bits: 32, rate: int64(p.ClockRate)}
	} else if int32(p.Timestamp-r.newest) <= 0 {
		r.gaugeAt = now
		return 0, false // of a frame whose first packet has come
	}
	r.newest, r.gaugeAt = p.Timestamp, now
	return r.read(p.Timestamp, now), true
}

// read reads the clock, and tells the estimator if it is another one than before. mu is held.
func (r *REMB) read(raw uint32, now int64) int64 {
	first := !r.clock.begun
	sentAt := r.clock.read(raw, now)
	if first {
		r.estimate.Resumed(now, sentAt)
	}
	return sentAt
}

// reportLocked is the report of an estimate; nil if no stream is heard. mu is held.
func (r *REMB) reportLocked(now int64, bitrate float64) []rtcp.Packet {
	var ssrcs []uint32
	for _, s := range r.streams {
		if now-s.heard < rembHeard {
			ssrcs = append(ssrcs, s.ssrc)
		}
	}
	if len(ssrcs) == 0 {
		return nil
	}
	r.toldAt, r.told = now, bitrate
	return []rtcp.Packet{&rtcp.ReceiverEstimatedMaximumBitrate{SenderSSRC: r.ssrc, Bitrate: float32(bitrate), SSRCs: ssrcs}}
}

// Told is the bitrate that the publisher was told last, in bits/s; 0 = none yet.
func (r *REMB) Told() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.told
}

// Close ends the reports.
func (r *REMB) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

// senderClock is a clock of a sender whose count of ticks wraps. How often it wrapped between
// two readings is told by the time between them.
type senderClock struct {
	bits  int   // of a count
	rate  int64 // ticks per second
	raw   uint32
	ticks int64
	at    int64
	begun bool
}

// longestUnread is the longest time between two readings that counts. After it the clock begins
// anew.
const longestUnread = int64(time.Hour)

// read is the time that the clock shows, in ns since its first reading.
func (c *senderClock) read(raw uint32, now int64) int64 {
	passed := max(now-c.at, 0)
	if !c.begun || passed > longestUnread {
		*c = senderClock{bits: c.bits, rate: c.rate, raw: raw, at: now, begun: true}
		return 0
	}
	expected := passed / 1000 * c.rate / 1_000_000
	shift := 32 - c.bits
	off := int32((raw-c.raw-uint32(expected))<<shift) >> shift
	c.ticks += expected + int64(off)
	c.raw, c.at = raw, now
	return c.ticks/c.rate*int64(time.Second) + c.ticks%c.rate*int64(time.Second)/c.rate
}
