package estimate

import (
	"time"

	"parlor/media/downlink/sent"
)

// Constants of the estimate by reports:
const (
	reportedLeastSent = 150_000 // bits/s; an estimate at a lower bitrate is ignored
	reportedLeast     = 80_000
	reportedShare     = 0.85 // an estimate below this share of the sent bitrate counts
	reportedFresh     = int64(5 * time.Second)
	reportedHighLoss  = 0.10
	overdueShare      = 0.7 // of the sent bitrate, if the path itself holds packets up
	lossFresh         = int64(3 * time.Second)

	judgeEvery  = int64(900 * time.Millisecond)
	patience    = int64(1500 * time.Millisecond) // how long congestion must last
	settle      = int64(2 * time.Second)         // between two cuts
	firstWait   = int64(8 * time.Second)         // before a raise
	longestWait = int64(64 * time.Second)
	raiseEvery  = int64(time.Second)
	raiseFailed = int64(10 * time.Second) // congestion so soon after a raise is attributed to the raise
)

// Reported estimates by the reports of a receiver without transport-wide feedback. It
// assumes no bound until the receiver shows one for some time, by an estimate well below
// the sent bitrate or by losses. Then it sets a bound, and after a quiet time raises it
// step by step until it does not bind any more. After a raise that fails, the next wait
// is longer. The zero value is ready for use.
type Reported struct {
	estimate   float64
	estimateAt int64
	estimated  bool
	loss       float64
	lossAt     int64
	lost       bool
	rtt        time.Duration

	judgedAt int64
	judged   bool
	bound    float64 // 0 = none
	cause    Cause
	since    int64
	trouble  bool
	cutAt    int64
	cutOnce  bool
	raiseAt  int64
	raisedAt int64
	raised   bool
	wait     int64

	reported, missing int // statuses of transport-wide feedback since the last judgement
}

// Feedback uses only the losses.
func (e *Reported) Feedback(_ int64, results []sent.Result, _ int, _ int64) {
	for i := range results {
		switch r := &results[i]; {
		case r.Revised:
			e.missing = max(e.missing-1, 0)
		default:
			e.reported++
			if !r.Received {
				e.missing++
			}
		}
	}
}

// Probed raises the bound to the result of a probe.
func (e *Reported) Probed(_, _ int64, bitrate float64, _ bool) {
	if e.bound > 0 {
		e.bound = max(e.bound, bitrate)
	}
}

// Estimated takes the receiver's own estimate, in bits/s.
func (e *Reported) Estimated(now int64, bitrate float64) {
	if bitrate > 0 {
		e.estimate, e.estimateAt, e.estimated = bitrate, now, true
	}
}

// Lost takes the share of lost packets in a report.
func (e *Reported) Lost(now int64, share float64) {
	if share != share {
		return
	}
	share = min(max(share, 0), 1)
	if !e.lost || now-e.lossAt > lossFresh {
		e.loss = share
	} else {
		e.loss += (share - e.loss) / 4
	}
	e.lossAt, e.lost = now, true
}

// Overdue cuts at once, to less than the bitrate at which the packet was dropped.
func (e *Reported) Overdue(now int64, _ time.Duration, sending float64) {
	if e.cutOnce && now-e.cutAt < settle {
		return
	}
	if e.bound > 0 {
		sending = min(sending, e.bound)
	}
	e.cut(now, sending*overdueShare, Delay)
}

// SetRTT sets the round-trip time.
func (e *Reported) SetRTT(rtt time.Duration) { e.rtt = rtt }

// State computes the estimate, about once a second.
func (e *Reported) State(now int64, sending, wanted float64) State {
	if !e.judged || now-e.judgedAt >= judgeEvery {
		e.judgedAt, e.judged = now, true
		if e.reported > 0 {
			e.Lost(now, float64(e.missing)/float64(e.reported))
			e.reported, e.missing = 0, 0
		}
		e.judge(now, sending, wanted)
	}
	random := e.loss
	if e.bound > 0 { // the path may be full
		random = 0
	}
	return State{Bitrate: e.bound, Settled: e.bound, Proven: e.bound, Cause: e.cause, Loss: e.loss, Random: random, RTT: e.rtt, Congested: e.trouble, Limited: e.bound > 0}
}

func (e *Reported) judge(now int64, sending, wanted float64) {
	if ceiling, cause, congested := e.congested(now, sending); congested {
		if !e.trouble {
			e.since, e.trouble = now, true
		}
		if now-e.since >= patience && (!e.cutOnce || now-e.cutAt >= settle) {
			e.cut(now, ceiling, cause)
		}
		return
	}
	e.trouble = false
	if e.bound == 0 || now < e.raiseAt {
		return
	}
	e.bound = e.bound*1.1 + 50_000
	e.raisedAt, e.raised, e.raiseAt = now, true, now+raiseEvery
	if e.bound > wanted*1.2 {
		e.bound, e.cause = 0, Start
	}
}

// congested reports whether the path is congested, and the bitrate that it seems to
// carry.
func (e *Reported) congested(now int64, sending float64) (ceiling float64, cause Cause, yes bool) {
	if sending < reportedLeastSent {
		return 0, 0, false
	}
	ceiling = sending
	if e.estimated && now-e.estimateAt <= reportedFresh && e.estimate < sending*reportedShare {
		ceiling, cause, yes = e.estimate, Receiver, true
	}
	if e.lost && now-e.lossAt <= lossFresh && e.loss > reportedHighLoss {
		ceiling, cause, yes = min(ceiling, sending*(1-e.loss)), Loss, true
	}
	return ceiling, cause, yes
}

func (e *Reported) cut(now int64, ceiling float64, cause Cause) {
	e.bound, e.cause = max(ceiling*0.95, reportedLeast), cause
	e.cutAt, e.cutOnce = now, true
	if e.raised && now-e.raisedAt < raiseFailed {
		e.wait = min(2*e.wait, longestWait)
	} else {
		e.wait = firstWait
	}
	e.raiseAt = now + e.wait
}
