package estimate

import (
	"time"

	"parlor/media/downlink/sent"
)

// Cause is the reason for the bound of an estimate.
type Cause uint8

// The causes.
const (
	Start    Cause = iota // no measurement yet
	Delay                 // a queue was seen
	Loss                  // losses that the bitrate explains
	Probe                 // a probe measured it, and no later measurement contradicts it
	Receiver              // the receiver's own estimate
)

func (c Cause) String() string {
	return [...]string{"start", "delay", "loss", "probe", "receiver"}[min(c, Receiver)]
}

// State is the present estimate of a path.
type State struct {
	Bitrate      float64 // bits/s that may be sent; 0 = no bound is known
	Cause        Cause
	Settled      float64       // bits/s that may be sent once the present queue is drained
	Proven       float64       // the part of Bitrate that traffic or a probe has shown lately, bits/s
	Acknowledged float64       // bits/s that arrived lately; 0 = unknown
	Queue        time.Duration // how long packets wait on the path
	Backlog      time.Duration // how long the packets under way will wait; at least Queue
	Late         time.Duration // how long the report on a packet is overdue, beyond what is usual, if packets wait on the path
	Jitter       time.Duration // mean difference between the transit times of packets
	Loss         float64       // share of packets lost in the last seconds, 0 to 1
	Random       float64       // the part of Loss that the bitrate does not explain, 0 to 1
	RTT          time.Duration // 0 = unknown
	Congested    bool          // the queue grows or is being drained
	Emptying     bool          // the queue is being drained
	// Lengthened is how often the way was found to be longer, which had been taken for a queue.
	Lengthened int
	Limited    bool // Bitrate is near a bitrate that the path was seen not to carry
}

// MostLate is how much later than usual the report on a packet may be on a path that carries what
// is sent.
const MostLate = 20 * time.Millisecond

// Estimator estimates one path.
type Estimator interface {
	// Feedback takes the new results of transport-wide feedback, the number of bytes sent after
	// the last packet of a report, and when the first of them was sent; 0 if there are none.
	Feedback(now int64, results []sent.Result, inFlight int, oldest int64)
	// Probed takes the result of a probe, in bits/s, and when it began. full: the path
	// carried all that was tried.
	Probed(now, began int64, bitrate float64, full bool)
	// Estimated takes the receiver's own estimate (REMB), in bits/s.
	Estimated(now int64, bitrate float64)
	// Lost takes the share of lost packets in a receiver report.
	Lost(now int64, share float64)
	// Overdue notes that the path dropped a packet which it had held back for that long,
	// while sending bits/s were sent. It counts as a queue.
	Overdue(now int64, waited time.Duration, sending float64)
	// SetRTT sets the round-trip time from a receiver report.
	SetRTT(rtt time.Duration)
	// State computes the estimate. sending is the bitrate of the last second, wanted the
	// bitrate without a bound, both in bits/s.
	State(now int64, sending, wanted float64) State
}

var (
	_ Estimator = (*SendSide)(nil)
	_ Estimator = (*Reported)(nil)
)

// seconds converts nanoseconds to seconds.
func seconds(ns int64) float64 { return float64(ns) / float64(time.Second) }
