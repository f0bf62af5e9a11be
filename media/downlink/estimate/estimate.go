package estimate

import (
	"time"

	"parlor/media/downlink/sent"
)

// Cause is what an estimate is bounded by.
type Cause uint8

// The causes.
const (
	Start    Cause = iota // nothing is known yet
	Delay                 // a queue was seen
	Loss                  // losses that the bitrate explains
	Probe                 // a probe found so much, and nothing has contradicted it
	Receiver              // the receiver's own estimate
)

func (c Cause) String() string {
	return [...]string{"start", "delay", "loss", "probe", "receiver"}[min(c, Receiver)]
}

// State is what is judged of a path.
type State struct {
	Bitrate      float64 // bits/s that may be sent; 0 = no bound is known
	Cause        Cause
	Settled      float64       // bits/s that may be sent once the queue there is has been emptied
	Proven       float64       // bits/s of Bitrate that traffic or a probe has shown lately
	Acknowledged float64       // bits/s that arrived lately, 0 = unknown
	Queue        time.Duration // how long packets wait on the way
	Backlog      time.Duration // at least Queue: how long what is on the way will wait
	Jitter       time.Duration // mean difference between packets' times on the way
	Loss         float64       // share of packets lost in the last seconds, 0 to 1
	RTT          time.Duration // 0 = unknown
	Congested    bool          // the queue grows, or is being emptied
	Emptying     bool          // the queue is being emptied
	Limited      bool          // Bitrate is near what the path was seen not to carry
}

// Estimator is the judgement about one path.
type Estimator interface {
	// Feedback takes in what transport-wide feedback newly tells, and how many bytes were
	// sent of which it tells nothing yet.
	Feedback(now int64, results []sent.Result, inFlight int)
	// Probed takes in what a probe measured, in bits/s; full says that the path carried
	// all that was tried.
	Probed(now int64, bitrate float64, full bool)
	// Estimated takes in the receiver's own estimate (REMB), in bits/s.
	Estimated(now int64, bitrate float64)
	// Lost takes in the share of packets that a receiver report says were lost.
	Lost(now int64, share float64)
	// Overdue says that the path, while sending bits/s were sent, held a packet back for so
	// long that it was dropped. It is a queue that has been seen.
	Overdue(now int64, waited time.Duration, sending float64)
	// SetRTT says the round trip that a receiver report tells.
	SetRTT(rtt time.Duration)
	// State judges. sending is the bitrate of the last second, wanted what would be
	// sent without a bound, both in bits/s.
	State(now int64, sending, wanted float64) State
}

var (
	_ Estimator = (*SendSide)(nil)
	_ Estimator = (*Reported)(nil)
)

// seconds is a length of time in seconds.
func seconds(ns int64) float64 { return float64(ns) / float64(time.Second) }
