// Package congestion judges from a receiver's reports how much may be sent to it.
//
// It is deliberately modest: it believes in plenty until the receiver says
// otherwise, by an estimate (REMB) well below what is sent, or by losses, that
// last. Then it names a budget, and after a quiet time raises it step by step
// until it no longer binds; a raise that fails makes the next wait longer.
package congestion

import "time"

// The numbers of the judgement.
const (
	minSent       = 150_000 // bits/s; an estimate of less traffic says nothing
	minBudget     = 80_000
	estimateShare = 0.85 // an estimate below this share of what is sent counts
	estimateFresh = 5 * time.Second
	highLoss      = 0.10
	lossFresh     = 3 * time.Second

	patience    = 1500 * time.Millisecond // how long it must last
	settle      = 2 * time.Second         // between two cuts
	firstWait   = 8 * time.Second         // before a raise
	longestWait = 64 * time.Second
	raiseEvery  = time.Second
	raiseFailed = 10 * time.Second // trouble so soon after a raise is its fault
)

// Estimator is the judgement about one path. It is not safe for concurrent use.
type Estimator struct {
	estimate   float64
	estimateAt time.Time
	loss       float64
	lossAt     time.Time

	budget  float64 // 0 = no bound
	since   time.Time
	cutAt   time.Time
	raiseAt time.Time
	raised  time.Time
	wait    time.Duration
}

// Estimated takes in the receiver's own estimate, in bits/s.
func (e *Estimator) Estimated(bitrate float64, now time.Time) {
	if bitrate <= 0 || bitrate != bitrate {
		return
	}
	e.estimate, e.estimateAt = bitrate, now
}

// Lost takes in the share of packets that a report says were lost.
func (e *Estimator) Lost(share float64, now time.Time) {
	if now.Sub(e.lossAt) > lossFresh {
		e.loss = share
	} else {
		e.loss += (share - e.loss) / 4
	}
	e.lossAt = now
}

// Estimate is the receiver's last estimate, 0 when there is no fresh one.
func (e *Estimator) Estimate(now time.Time) float64 {
	if e.estimateAt.IsZero() || now.Sub(e.estimateAt) > estimateFresh {
		return 0
	}
	return e.estimate
}

// Budget is what may be sent in bits/s, 0 when there is no bound. sent is the
// bitrate of the last second, wanted what would be sent without a bound. It is
// to be called about once a second.
func (e *Estimator) Budget(sent, wanted float64, now time.Time) float64 {
	if ceiling, congested := e.congested(sent, now); congested {
		if e.since.IsZero() {
			e.since = now
		}
		if now.Sub(e.since) >= patience && now.Sub(e.cutAt) >= settle {
			e.cut(ceiling, now)
		}
		return e.budget
	}
	e.since = time.Time{}
	if e.budget == 0 || now.Before(e.raiseAt) {
		return e.budget
	}
	e.budget = e.budget*1.1 + 50_000
	e.raised, e.raiseAt = now, now.Add(raiseEvery)
	if e.budget > wanted*1.2 {
		e.budget = 0
	}
	return e.budget
}

// congested reports whether the path is, and what it seems to carry.
func (e *Estimator) congested(sent float64, now time.Time) (ceiling float64, yes bool) {
	if sent < minSent {
		return 0, false
	}
	ceiling = sent
	if estimate := e.Estimate(now); estimate > 0 && estimate < sent*estimateShare {
		ceiling, yes = estimate, true
	}
	if now.Sub(e.lossAt) <= lossFresh && e.loss > highLoss {
		ceiling, yes = min(ceiling, sent*(1-e.loss)), true
	}
	return ceiling, yes
}

func (e *Estimator) cut(ceiling float64, now time.Time) {
	e.budget = max(ceiling*0.95, minBudget)
	e.cutAt = now
	switch {
	case !e.raised.IsZero() && now.Sub(e.raised) < raiseFailed:
		e.wait = min(2*e.wait, longestWait)
	default:
		e.wait = firstWait
	}
	e.raiseAt = now.Add(e.wait)
}
