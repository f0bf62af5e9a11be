package media

import (
	"time"

	"parlor/rooms"
)

const (
	// SampleEvery is the time that a [Sample] stands for, or a little more.
	SampleEvery = 10 * time.Second
	// MostSamples is how many samples of a session are kept: a quarter of an hour.
	MostSamples = 90
)

// Sample is how the media of a participant fared for [SampleEvery]. It is small, since
// each participant has [MostSamples].
type Sample struct {
	ToMs             int64   // Unix time
	Up, Down         float32 // bits/s from and to the participant
	Estimate         float32 // bits/s that the path to the participant carries; 0 = unknown
	UpLoss, DownLoss float32 // shares of packets lost
	RTTMs            float32 // 0 = unknown
}

// course has the newest samples of a participant, and the looks that the next is made of.
// It takes no memory before there is a sample.
type course struct {
	ring []Sample
	next int // the oldest, once the ring is full

	up, down rooms.MediaFlow // of those looks
	took     time.Duration
	rtt      float64 // the sum of ms and seconds
	known    time.Duration
}

// add takes a look, and what the path to the participant carries.
func (c *course) add(l *look, estimate float64) {
	took := l.to.Sub(l.from)
	c.took += took
	if l.rtt > 0 {
		c.rtt += inMilliseconds(l.rtt) * took.Seconds()
		c.known += took
	}
	plus(&c.up, &l.up)
	plus(&c.down, &l.down)
	if c.took < SampleEvery {
		return
	}
	seconds := c.took.Seconds()
	s := Sample{
		ToMs: l.to.UnixMilli(), Estimate: float32(estimate),
		Up: float32(float64(c.up.Bytes*8) / seconds), Down: float32(float64(c.down.Bytes*8) / seconds),
		UpLoss: float32(c.up.Loss()), DownLoss: float32(c.down.Loss()),
	}
	if c.known > 0 {
		s.RTTMs = float32(c.rtt / c.known.Seconds())
	}
	c.up, c.down, c.took, c.rtt, c.known = rooms.MediaFlow{}, rooms.MediaFlow{}, 0, 0, 0
	if len(c.ring) < MostSamples {
		c.ring = append(c.ring, s)
		return
	}
	c.ring[c.next] = s
	c.next = (c.next + 1) % MostSamples
}

// Samples are the newest of the participant's media, the oldest first. They go on when it
// is moved to another room.
func (p *Peer) Samples() []Sample {
	p.summary.mu.Lock()
	defer p.summary.mu.Unlock()
	c := &p.summary.course
	all := make([]Sample, 0, len(c.ring))
	return append(append(all, c.ring[c.next:]...), c.ring[:c.next]...)
}

// plus adds what a sample tells.
func plus(sum, f *rooms.MediaFlow) {
	sum.Bytes += f.Bytes
	sum.Packets += f.Packets
	sum.Lost += f.Lost
}
