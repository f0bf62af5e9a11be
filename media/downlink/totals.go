package downlink

import "sync/atomic"

// Histogram counts measurements by value.
type Histogram struct {
	Bounds []float64
	Counts []uint64 // cumulative: of measurements up to each bound
	Count  uint64
	Sum    float64
}

// histogram counts measurements, by up to 16 bounds.
type histogram struct {
	counts [17]atomic.Uint64
	sum    atomic.Uint64 // in millionths
}

func (h *histogram) observe(bounds []float64, v float64) {
	i := 0
	for i < len(bounds) && v > bounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(uint64(max(v, 0) * 1e6))
}

func (h *histogram) get(bounds []float64) Histogram {
	out := Histogram{Bounds: bounds, Counts: make([]uint64, len(bounds)), Sum: float64(h.sum.Load()) / 1e6}
	for i := range bounds {
		out.Count += h.counts[i].Load()
		out.Counts[i] = out.Count
	}
	out.Count += h.counts[len(bounds)].Load()
	return out
}

// The bounds of the histograms of paths to subscribers: seconds, and shares of packets.
var (
	rttBounds   = []float64{0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2}
	queueBounds = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1}
	lossBounds  = []float64{0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5}
)

// Paths are measurements of the paths to subscribers, about one per second and path.
type Paths struct {
	RTT, Queue Histogram // seconds
	Loss       Histogram // share of packets
}

// Totals count measurements of many paths. The zero value is ready for use. Its methods
// may be called concurrently.
type Totals struct{ rtt, queue, loss histogram }

// Paths returns the measurements.
func (t *Totals) Paths() Paths {
	return Paths{t.rtt.get(rttBounds), t.queue.get(queueBounds), t.loss.get(lossBounds)}
}
