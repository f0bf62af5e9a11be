package forward

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"

	"parlor/media/forward/congestion"
)

// judgeEvery is how often a downlink is judged.
const judgeEvery = time.Second

// Downlink is what is known of the path to one subscriber, shared by the
// forwarders to it: it numbers their packets for transport-wide congestion
// control, and when the path does not carry all, it tells them which quality
// they may forward at most. It never pauses one.
//
// Its methods may be called concurrently. It has no goroutine: it is judged in
// the turns of its forwarders.
type Downlink struct {
	transport atomic.Uint32 // last transport-wide sequence number
	budget    atomic.Uint64 // bits/s, 0 = no bound

	mu         sync.Mutex // guards the following
	forwarders []*Forwarder
	estimator  congestion.Estimator
	limit      float64 // bits/s, whatever is reported; 0 = none
	judgedAt   time.Time
	// Of transport-wide feedback since the last judgement.
	reported, missing int
}

// NewDownlink makes a downlink of which nothing is known.
func NewDownlink() *Downlink { return &Downlink{} }

func (d *Downlink) add(f *Forwarder) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forwarders = append(d.forwarders, f)
}

func (d *Downlink) remove(f *Forwarder) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(d.forwarders, f); i >= 0 {
		d.forwarders = slices.Delete(d.forwarders, i, i+1)
	}
}

// nextTransport is the next transport-wide sequence number.
func (d *Downlink) nextTransport() uint16 { return uint16(d.transport.Add(1)) }

// Bandwidth is what the path is judged to carry in bits/s, 0 = no bound known.
func (d *Downlink) Bandwidth() uint64 { return d.budget.Load() }

// estimated takes in a REMB.
func (d *Downlink) estimated(bitrate float64, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.estimator.Estimated(bitrate, now)
}

// lost takes in the loss that a receiver report tells.
func (d *Downlink) lost(share float64, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.estimator.Lost(share, now)
}

// feedback takes in transport-wide feedback: of the losses alone so far.
func (d *Downlink) feedback(fb *rtcp.TransportLayerCC) {
	total, received := int(fb.PacketStatusCount), min(len(fb.RecvDeltas), int(fb.PacketStatusCount))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reported += total
	d.missing += total - received
}

// tick judges the path when it is time.
func (d *Downlink) tick(now time.Time) {
	d.mu.Lock()
	if now.Sub(d.judgedAt) < judgeEvery*9/10 {
		d.mu.Unlock()
		return
	}
	d.judgedAt = now
	if d.reported > 0 {
		d.estimator.Lost(float64(d.missing)/float64(d.reported), now)
		d.reported, d.missing = 0, 0
	}
	forwarders := slices.Clone(d.forwarders)
	d.mu.Unlock()

	shares := sharesOf(forwarders)
	var sent, wanted float64
	for i := range shares {
		sent += shares[i].sent
		wanted += shares[i].cost(shares[i].want)
	}
	d.mu.Lock()
	budget := d.estimator.Budget(sent, wanted, now)
	if d.limit > 0 && (budget == 0 || budget > d.limit) {
		budget = d.limit
	}
	d.mu.Unlock()
	d.budget.Store(uint64(budget))
	allocate(shares, budget)
}

// Limit bounds, in bits/s, what the path is judged to carry; 0 leaves it to what is
// reported of it. It holds from the next judgement on.
func (d *Downlink) Limit(bitrate uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.limit = float64(bitrate)
}

// reallocate divides the budget anew when somebody wants something else.
func (d *Downlink) reallocate() {
	budget := float64(d.budget.Load())
	if budget == 0 {
		return
	}
	d.mu.Lock()
	forwarders := slices.Clone(d.forwarders)
	d.mu.Unlock()
	allocate(sharesOf(forwarders), budget)
}

// share is one forwarder's part in a budget.
type share struct {
	forwarder *Forwarder
	sent      float64 // bits/s in the last second
	want      livekit.VideoQuality
	allowed   livekit.VideoQuality
	costs     [livekit.VideoQuality_HIGH + 1]float64 // bits/s by quality
	fixed     bool                                   // audio: nothing to choose
}

func (s *share) cost(q livekit.VideoQuality) float64 {
	if q == livekit.VideoQuality_OFF {
		return 0
	}
	return s.costs[q]
}

func sharesOf(forwarders []*Forwarder) []share {
	shares := make([]share, 0, len(forwarders))
	for _, f := range forwarders {
		shares = append(shares, f.share())
	}
	return shares
}

// allocate lowers the costliest video until all fits, but none below the lowest
// quality, and lets the forwarders know.
func allocate(shares []share, budget float64) {
	var total float64
	for i := range shares {
		s := &shares[i]
		s.allowed = s.want
		total += s.cost(s.want)
	}
	for budget > 0 && total > budget {
		var costliest *share
		for i := range shares {
			s := &shares[i]
			if s.fixed || s.allowed == livekit.VideoQuality_OFF || s.allowed == livekit.VideoQuality_LOW {
				continue
			}
			if costliest == nil || s.cost(s.allowed) > costliest.cost(costliest.allowed) {
				costliest = s
			}
		}
		if costliest == nil {
			break
		}
		total -= costliest.cost(costliest.allowed)
		costliest.allowed--
		total += costliest.cost(costliest.allowed)
	}
	for i := range shares {
		s := &shares[i]
		limit := s.allowed
		if s.fixed || s.allowed == s.want {
			limit = livekit.VideoQuality_HIGH
		}
		s.forwarder.setLimit(limit)
	}
}

// setLimit is the highest quality that the path carries.
func (f *Forwarder) setLimit(limit livekit.VideoQuality) {
	f.mu.Lock()
	changed := f.limit != limit
	f.limit = limit
	f.mu.Unlock()
	if changed {
		f.retarget(f.track.since(time.Now()))
	}
}

// spatialCosts is what part of a stream's bitrate its spatial layers up to each
// quality have, when one stream carries three: their own is not measured.
func spatialCosts() [livekit.VideoQuality_HIGH + 1]float64 { return [...]float64{0.15, 0.4, 1} }

// share is what the forwarder wants and what each quality costs.
func (f *Forwarder) share() share {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := share{forwarder: f, sent: float64(f.stats.Bitrate), want: f.wantedLocked(), fixed: !f.video}
	if f.closed || f.track.muted.Load() {
		s.want = livekit.VideoQuality_OFF
	}
	layers := *f.track.layers.Load()
	for q := range s.costs {
		l := f.chooseAmong(layers, livekit.VideoQuality(q), true)
		if l == nil {
			continue
		}
		s.costs[q] = l.bitrate()
		if f.video && l.spatialLayers() > 1 && f.alone(l) {
			s.costs[q] *= spatialCosts()[q]
		}
	}
	return s
}

// bitrate is what came in the last second, in bits/s.
func (l *Layer) bitrate() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return float64(l.rates.bitrate)
}
