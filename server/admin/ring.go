package admin

import (
	"context"
	"sync"
	"time"
)

const (
	// SampleEvery is the time that a sample stands for.
	SampleEvery = 10 * time.Second
	samples     = 360 // an hour
)

// Figures are the server's counts at a moment. Those of packets, bytes, CPU and refusals grow
// from the start on.
type Figures struct {
	Live, Participants int
	BytesIn, BytesOut  uint64  // of media
	PacketsOut         uint64  // of media, to subscribers
	LostOut            uint64  // of those
	CPU                float64 // seconds
	Memory             int64   // bytes that the process has in memory
	DiskFree           int64   // bytes; -1 = not known
	WAL                int64   // bytes
	Lag                float64 // of the replica, seconds
	Epoch              int64   // of the lease; 0 = there is no replica
}

// Sample is how the server fared since the sample before.
type Sample struct {
	At                 time.Time
	Live, Participants int
	In, Out            float64 // bits a second
	Loss               float64 // share of packets to subscribers
	CPU                float64 // cores
	Memory             int64
	DiskFree           int64
	WAL                int64
	Lag                float64
	Epoch              int64
}

// Ring has the samples of the last hour. One goroutine, [Ring.Run], takes them; the other
// methods may be called concurrently.
type Ring struct {
	read func() Figures

	mu     sync.Mutex // guards the following
	last   Figures
	lastAt time.Time
	ring   []Sample // from next on the oldest, once it is full
	next   int
}

// NewRing makes a ring of what read tells.
func NewRing(read func() Figures) *Ring { return &Ring{read: read} }

// Run takes samples until ctx ends.
func (r *Ring) Run(ctx context.Context) {
	r.take(time.Now())
	ticker := time.NewTicker(SampleEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			r.take(now)
		}
	}
}

func (r *Ring) take(now time.Time) {
	f := r.read()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.lastAt.IsZero() {
		r.add(since(&r.last, &f, r.lastAt, now))
	}
	r.last, r.lastAt = f, now
}

// add is called with mu held.
func (r *Ring) add(s Sample) {
	if len(r.ring) < samples {
		r.ring = append(r.ring, s)
		return
	}
	r.ring[r.next] = s
	r.next = (r.next + 1) % samples
}

// since is the sample between two moments.
func since(before, now *Figures, from, to time.Time) Sample {
	s := Sample{
		At: to, Live: now.Live, Participants: now.Participants, Memory: now.Memory, DiskFree: now.DiskFree,
		WAL: now.WAL, Lag: now.Lag, Epoch: now.Epoch,
	}
	seconds := to.Sub(from).Seconds()
	if seconds <= 0 {
		return s
	}
	grown := func(a, b uint64) float64 {
		if b < a {
			return 0 // a part was made again
		}
		return float64(b - a)
	}
	s.In = 8 * grown(before.BytesIn, now.BytesIn) / seconds
	s.Out = 8 * grown(before.BytesOut, now.BytesOut) / seconds
	s.CPU = max(0, now.CPU-before.CPU) / seconds
	if packets := grown(before.PacketsOut, now.PacketsOut); packets > 0 {
		s.Loss = min(1, grown(before.LostOut, now.LostOut)/packets)
	}
	return s
}

// Hour is the samples of the last hour, the oldest first.
func (r *Ring) Hour() []Sample {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Sample, 0, len(r.ring))
	for i := range r.ring {
		all = append(all, r.ring[(r.next+i)%len(r.ring)])
	}
	return all
}
