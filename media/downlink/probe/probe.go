// Package probe finds out whether a path carries more than is sent, before more is sent:
// for some tens of milliseconds, packets are sent faster than the estimate, and their
// arrival shows the bandwidth.
//
// The nouns:
//
//   - A [Cluster] is one probe: a bitrate, a number of bytes, and an id. All packets that are
//     sent while it runs are recorded with the id, media among them.
//   - A [Controller] decides when to probe and how much to send, and computes the result.
//
// A probe is bounded in bytes, in time, and in its share of the estimate. None begins
// while a queue grows or is drained, and a running one ends then.
//
// Nothing here is safe for concurrent use, and nothing reads a clock: times are
// nanoseconds of any monotonic clock.
package probe

import (
	"time"

	"parlor/media/downlink/sent"
)

// Constants of probing:
const (
	length        = int64(25 * time.Millisecond)
	longestLength = int64(100 * time.Millisecond)
	packets       = 8 // at least
	leastSize     = 250
	mostSize      = 1100
	atOnce        = 2_500_000.0 // bits/s; bound of the first probe
	overEstimate  = 3.0         // times the estimate; bound of a probe
	margin        = 1.15        // times the needed bitrate
	interval      = int64(2500 * time.Millisecond)
	longestWait   = int64(4500 * time.Millisecond)
	failedAfter   = int64(4 * time.Second) // congestion so soon after a success is attributed to it
	forgetFailure = int64(30 * time.Second)
	resultAfter   = int64(1500 * time.Millisecond) // later results are ignored
	share         = 0.05                           // of the estimate, averaged until the next probe
	mostLost      = 0.25
	mostQueue     = 50 * time.Millisecond // that a probe makes, if the path carries no more than the estimate
	kept          = 0.9                   // if the path carries the probe, it arrives at this share of the sent rate or faster
	quietQueue    = 30 * time.Millisecond
)

// Cluster is one probe.
type Cluster struct {
	ID      uint8
	Bitrate float64 // bits/s to send at, media included
	Bytes   int     // to send in total
	Size    int     // bytes; largest packet of the probe
}

// Situation is the input of a decision to probe. Bitrates are in bits/s.
type Situation struct {
	Estimate  float64 // bitrate that may be sent
	Need      float64 // bitrate with the next improvement; 0 = no wish is unfulfilled
	Goal      float64 // bitrate if all wishes fitted
	Queue     time.Duration
	Jitter    time.Duration
	Congested bool
}

// Outcome is the result of a probe.
type Outcome struct {
	Cluster Cluster
	Began   int64   // when it was started
	Bitrate float64 // bits/s that the path carried; 0 = not measurable
	Full    bool    // the path carried all that was tried
}

// Controller probes one path. The zero value is ready for use.
type Controller struct {
	cluster  Cluster
	running  bool
	started  bool
	startAt  int64
	leftover int // bytes still to send
	sum      measure

	waiting bool // for the result
	endAt   int64
	lastID  uint8

	nextAt    int64
	wait      int64
	succeeded int64
	failed    int64
	before    struct{ need, estimate float64 }
	probes    uint64
}

// Probes is the number of probes that were started.
func (c *Controller) Probes() uint64 { return c.probes }

// Cluster is the id with which packets that are sent now must be recorded; 0 = none.
func (c *Controller) Cluster() uint8 {
	if c.running {
		return c.cluster.ID
	}
	return 0
}

// Decide begins a probe if one is due. It must be called with each feedback, with each
// change of the wishes, and at the time given by Next.
func (c *Controller) Decide(now int64, s Situation) (begun bool) {
	c.expire(now)
	if s.Congested || s.Queue > quietQueue+s.Jitter {
		c.trouble(now, s.Congested)
		return false
	}
	if c.running || c.waiting || s.Need <= 0 || s.Estimate <= 0 {
		return false
	}
	// The wishes have changed, or the last probe raised the estimate: do not wait.
	changed := !c.started || s.Need > c.before.need*1.05 && s.Estimate >= c.before.estimate
	if now < c.nextAt && (!changed || c.wait > interval) && s.Estimate <= c.before.estimate*1.3 {
		return false
	}
	c.begin(now, s)
	return true
}

// Moved ends a running probe, and has another one begin as soon as a wish is unfulfilled,
// because the path is another one. elsewhere: nothing is known of it, as at first.
func (c *Controller) Moved(elsewhere bool) {
	*c = Controller{started: c.started && !elsewhere, lastID: c.lastID, probes: c.probes}
}

func (c *Controller) begin(now int64, s Situation) {
	most := overEstimate * s.Estimate
	if !c.started {
		most = max(most, atOnce)
	}
	bitrate := min(max(s.Need, s.Goal)*margin, most)
	long := min(length+2*int64(s.Jitter), longestLength)
	if c.started {
		bitrate = min(bitrate, s.Estimate*(1+float64(mostQueue)/float64(long)))
	}
	bytes := max(int(bitrate*float64(long)/float64(8*time.Second)), packets*leastSize)
	c.lastID++
	if c.lastID == 0 {
		c.lastID = 1
	}
	c.cluster = Cluster{ID: c.lastID, Bitrate: bitrate, Bytes: bytes, Size: min(max(bytes/packets, leastSize), mostSize)}
	c.running, c.started, c.startAt, c.leftover = true, true, now, bytes
	c.sum = measure{}
	c.before.need, c.before.estimate = s.Need, s.Estimate
	wait := max(c.wait, interval, int64(float64(bytes*8)/(share*s.Estimate)*float64(time.Second)))
	c.nextAt = now + wait
	c.probes++
}

// Due is how many bytes of the probe to send now (0 for none), and when to ask again (0
// if no probe runs). Media that is sent counts too: see Sent.
func (c *Controller) Due(now int64) (bytes, size int, again int64) {
	c.expire(now)
	if !c.running {
		return 0, 0, 0
	}
	should := min(int(c.cluster.Bitrate*float64(now-c.startAt)/float64(8*time.Second))+c.cluster.Size, c.cluster.Bytes)
	left := should - (c.cluster.Bytes - c.leftover)
	if left > 0 {
		return left, c.cluster.Size, now
	}
	return 0, c.cluster.Size, now + int64(float64((1-left)*8)/c.cluster.Bitrate*float64(time.Second))
}

// Sent records bytes that were sent with the running probe's id.
func (c *Controller) Sent(now int64, bytes int) {
	if !c.running {
		return
	}
	if c.leftover -= bytes; c.leftover <= 0 {
		c.end(now)
	}
}

func (c *Controller) end(now int64) {
	c.running, c.waiting, c.endAt = false, true, now
}

// Next is the latest time of the next call of Decide; 0 if it depends on a change.
func (c *Controller) Next(now int64, s Situation) int64 {
	if s.Need <= 0 {
		return 0
	}
	return max(c.nextAt, now)
}

// expire ends a probe or a wait that takes too long.
func (c *Controller) expire(now int64) {
	if c.running && now-c.startAt > 4*longestLength {
		c.end(now)
	}
	if c.waiting && now-c.endAt > resultAfter {
		c.waiting = false
	}
}

// trouble ends a running probe. If the path becomes congested after a probe succeeded,
// the next probe waits longer.
func (c *Controller) trouble(now int64, congested bool) {
	if c.running {
		c.end(now)
	}
	if !congested {
		return
	}
	if c.succeeded != 0 && now-c.succeeded < failedAfter {
		c.wait = min(max(2*c.wait, 2*interval), longestWait)
		c.failed, c.succeeded = now, 0
		c.nextAt = now + c.wait
	}
}

// Feedback takes the results of packets. ok reports whether they complete a probe.
func (c *Controller) Feedback(now int64, results []sent.Result) (o Outcome, ok bool) {
	if c.wait > interval && now-c.failed > forgetFailure {
		c.wait = interval
	}
	if !c.running && !c.waiting {
		return Outcome{}, false
	}
	after := false
	for i := range results {
		r := &results[i]
		switch {
		case r.Cluster == c.cluster.ID:
			c.sum.add(r)
		case c.waiting && r.Sent > c.endAt, c.waiting && c.sum.count() > 0 && r.Cluster == 0 && r.Number > c.sum.highest:
			after = true
		}
	}
	if !c.waiting || !after && c.sum.bytes+c.sum.lostBytes < c.cluster.Bytes-c.leftover {
		return Outcome{}, false
	}
	c.waiting = false
	o = Outcome{Cluster: c.cluster, Began: c.startAt}
	o.Bitrate, o.Full = c.sum.bitrate()
	if o.Bitrate >= c.before.need {
		c.succeeded = now
	}
	return o, true
}

// measure sums up the packets of a cluster.
type measure struct {
	n, lost          int
	bytes, lostBytes int
	firstSent        int64
	lastSent         int64
	firstArrived     int64
	lastArrived      int64
	firstSize        int // of the packet that arrived first
	lastSize         int // of the packet that was sent last
	highest          int64
}

func (m *measure) count() int { return m.n + m.lost }

func (m *measure) add(r *sent.Result) {
	m.highest = max(m.highest, r.Number)
	size := int(r.Size)
	if !r.Received {
		m.lost++
		m.lostBytes += size
		return
	}
	if r.Revised {
		m.lost--
		m.lostBytes -= size
	}
	if m.n == 0 || r.Sent < m.firstSent {
		m.firstSent = r.Sent
	}
	if m.n == 0 || r.Arrived < m.firstArrived {
		m.firstArrived, m.firstSize = r.Arrived, size
	}
	if m.n == 0 || r.Sent >= m.lastSent {
		m.lastSent, m.lastSize = r.Sent, size
	}
	m.lastArrived = max(m.lastArrived, r.Arrived)
	if m.n == 0 {
		m.lastArrived = r.Arrived
	}
	m.n++
	m.bytes += size
}

// bitrate is the bitrate that the path carried. full reports whether it kept up with the
// sender.
func (m *measure) bitrate() (bitrate float64, full bool) {
	if m.n < packets/2 || float64(m.lost) > mostLost*float64(m.count()) || m.lastSent <= m.firstSent {
		return 0, false
	}
	// A few lost packets count as if they had arrived: the estimator decides whether
	// losses are random.
	bytes := m.bytes + m.lostBytes
	sending := bitrateOf(bytes-m.lastSize, m.lastSent-m.firstSent)
	if m.lastArrived <= m.firstArrived {
		return sending, true
	}
	if arriving := bitrateOf(bytes-m.firstSize, m.lastArrived-m.firstArrived); arriving < kept*sending {
		return 0.95 * arriving, false
	}
	return sending, true
}

func bitrateOf(bytes int, ns int64) float64 {
	return float64(bytes*8) / (float64(ns) / float64(time.Second))
}
