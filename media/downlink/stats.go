package downlink

import (
	"time"

	"parlor/media/downlink/estimate"
)

// Stats are statistics of the path to a subscriber. Bitrates are in bits/s.
type Stats struct {
	Connected bool
	// Estimate is the bitrate that may be sent; 0 = no bound is known. Cause is the
	// reason for the bound.
	Estimate float64
	Cause    string
	// Sent includes retransmissions and padding. Acknowledged is the part of it that
	// arrived. Both are over about the last half second; 0 = unknown.
	Sent, Acknowledged float64
	Allocated, Wanted  float64       // cost of the layers that are forwarded, and of all that are wanted
	Loss               float64       // share of packets lost in the last seconds, 0 to 1
	RTT                time.Duration // 0 = unknown
	Queue, Jitter      time.Duration // on the path
	Congested          bool          // the queue grows, or is being drained
	Limited            bool          // Estimate is near a bitrate that the path was seen not to carry

	Waiting, WaitingBytes int    // packets that wait in the pacer, and their bytes
	Paced, Dropped        uint64 // packets that had to wait; those of them that were dropped as too old
	Padding               uint64 // bytes sent to probe for more bandwidth
	Paused                int    // tracks paused now
}

// Stats returns statistics of the path.
func (d *Path) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	state, divided, pacing := d.control.State(), d.control.Summary(), d.control.Pacing()
	s := Stats{
		Connected: d.connected.Load(), Estimate: d.control.Bound(), Cause: state.Cause.String(),
		Sent: d.control.Sending(), Acknowledged: state.Acknowledged, Allocated: divided.Bitrate, Wanted: divided.Goal,
		Loss: state.Loss, RTT: state.RTT, Queue: state.Queue, Jitter: state.Jitter,
		Congested: state.Congested, Limited: state.Limited,
		Paced: pacing.Queued, Dropped: pacing.Dropped, Padding: d.control.Probed(), Paused: divided.Paused,
	}
	if s.Estimate == 0 {
		s.Cause = estimate.Start.String()
	}
	s.Waiting, s.WaitingBytes = d.control.Waiting()
	return s
}
