package estimate

import (
	"math"
	"time"

	"parlor/media/downlink/sent"
)

// Constants of the loss bound:
const (
	observationLength  = int64(250 * time.Millisecond)
	observationPackets = 12
	observations       = 20
	observationWeight  = 0.9 // of each observation relative to the next newer one
	ignoredLoss        = 0.02
	mostRandom         = 0.15 // higher random loss is not assumed
	leastRandom        = 0.0005
	towardsMore        = 0.01 // per doubling of the bound and observation, in log-likelihood
)

type observation struct {
	packets, lost float64
	bitrate       float64 // sent, without retransmissions
}

// lossBound finds the bitrate that explains the losses best. With a bound b, a packet
// sent at bitrate r is lost with probability p + (1-p)·max(0, 1-b/r), where p is the
// random loss, which does not depend on the bitrate. It takes the likeliest pair (b, p),
// and prefers the higher of two bounds that explain the losses equally well.
type lossBound struct {
	seen  [observations]observation
	count int
	open  observation
	since int64
	bytes int64
	first bool

	bound  float64 // 0 = none
	random float64
	loss   float64
}

// add takes a packet that was reported for the first time. Retransmissions do not count in
// the bitrate: losses cause them, and are not to be explained by them.
func (l *lossBound) add(r *sent.Result) {
	if !l.first {
		l.since, l.first = r.Sent, true
	}
	l.open.packets++
	if r.Kind != sent.Repeat {
		l.bytes += int64(r.Size)
	}
	if !r.Received {
		l.open.lost++
	}
}

// forget makes the losses unknown. The bound stays.
func (l *lossBound) forget() { *l = lossBound{bound: l.bound} }

// revise takes back a loss.
func (l *lossBound) revise() {
	if l.open.lost > 0 {
		l.open.lost--
	} else if l.count > 0 {
		if last := &l.seen[(l.count-1)%observations]; last.lost > 0 {
			last.lost--
		}
	}
}

// close ends an observation if it is long enough, and reports whether it did.
func (l *lossBound) close(sentAt int64) bool {
	length := sentAt - l.since
	if !l.first || length < observationLength || l.open.packets < observationPackets && length < 8*observationLength {
		return false
	}
	l.open.bitrate = float64(l.bytes*8) / seconds(length)
	l.seen[l.count%observations] = l.open
	l.count++
	l.open, l.bytes, l.since = observation{}, 0, sentAt
	return true
}

// judge sets the bound. known is the bitrate that the other signs allow; acked is the
// bitrate that arrived.
func (l *lossBound) judge(known, acked float64) {
	packets, lost := l.totals()
	if packets > 0 {
		l.loss = lost / packets
	}
	if l.loss < ignoredLoss {
		l.random = l.loss
		if l.bound > 0 {
			if l.bound *= 1.08; l.bound >= known {
				l.bound = 0
			}
		}
		return
	}
	from := l.bound
	if from == 0 {
		from = known
	}
	best, likelihood := 0.0, math.Inf(-1)
	for _, candidate := range [...]float64{from, from * 0.95, from * 1.04, known, acked, acked * 0.93} {
		if candidate < leastBitrate || candidate > known || candidate > from*1.04 && l.bound > 0 {
			continue
		}
		value, random := l.likelihood(candidate, packets)
		if value > likelihood {
			best, likelihood, l.random = candidate, value, random
		}
	}
	switch {
	case best == 0:
	case best >= known:
		l.bound = 0
	default:
		l.bound = best
	}
}

func (l *lossBound) totals() (packets, lost float64) {
	weight := 1.0
	for i := l.count - 1; i >= max(0, l.count-observations); i-- {
		o := &l.seen[i%observations]
		packets += weight * o.packets
		lost += weight * o.lost
		weight *= observationWeight
	}
	return packets, lost
}

// likelihood is the log-likelihood of the observations under a bound, with the random
// loss that maximises it.
func (l *lossBound) likelihood(bound, packets float64) (value, random float64) {
	random = min(max(l.fit(bound), leastRandom), mostRandom)
	weight := 1.0
	for i := l.count - 1; i >= max(0, l.count-observations); i-- {
		o := &l.seen[i%observations]
		p := min(random+(1-random)*excess(bound, o.bitrate), 1-leastRandom)
		value += weight * (o.lost*math.Log(p) + (o.packets-o.lost)*math.Log1p(-p))
		weight *= observationWeight
	}
	return value + towardsMore*packets*math.Log2(bound/leastBitrate), random
}

// fit is the random loss that remains if a bound explains the other losses.
func (l *lossBound) fit(bound float64) float64 {
	var lost, packets float64
	weight := 1.0
	for i := l.count - 1; i >= max(0, l.count-observations); i-- {
		o := &l.seen[i%observations]
		through := o.packets * (1 - excess(bound, o.bitrate))
		packets += weight * through
		lost += weight * (through - (o.packets - o.lost))
		weight *= observationWeight
	}
	if packets <= 0 {
		return 0
	}
	return lost / packets
}

// excess is the share of a bitrate that exceeds a bound.
func excess(bound, bitrate float64) float64 {
	if bitrate <= bound {
		return 0
	}
	return 1 - bound/bitrate
}
