package forward

import (
	"time"

	"parlor/media/downlink/estimate"
)

// DownlinkStats is how the path to a subscriber fares. Bitrates are in bits/s.
type DownlinkStats struct {
	Connected bool
	// Estimate is what may be sent, 0 = no bound is known, and Cause what it is bounded
	// by.
	Estimate float64
	Cause    string
	// Sent, with repeats and padding, and Acknowledged, which is what arrived of it: over
	// the last half second or so; 0 = unknown.
	Sent, Acknowledged float64
	Allocated, Wanted  float64       // what the layers cost that are forwarded, and all that is asked for
	Loss               float64       // share of packets lost in the last seconds, 0 to 1
	RTT                time.Duration // 0 = unknown
	Queue, Jitter      time.Duration // on the way
	Congested          bool          // the queue grows, or is being emptied
	Limited            bool          // Estimate is near what the path was seen not to carry

	Waiting, WaitingBytes int    // that wait for their turn
	Paced, Dropped        uint64 // packets that had to wait, and of those the ones that were too old
	Padding               uint64 // bytes sent to find out whether more fits
	Paused                int    // tracks, now
}

// Stats is how the path fares.
func (d *Downlink) Stats() DownlinkStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	state, divided, pacing := d.control.State(), d.control.Summary(), d.control.Pacing()
	s := DownlinkStats{
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
