package rooms

import "time"

// summaryInterval is how often a room writes the media summaries of its sessions, so that
// a crash loses no more than that.
const summaryInterval = time.Minute

// MediaSummary summarises the media of a session since its media connected, accurate to
// some seconds. It does not change once made.
type MediaSummary struct {
	ConnectedMs int64
	TCPMs       int64 // of ConnectedMs: over TCP
	Up, Down    MediaFlow
	RTTMs       float64 // the mean round-trip time
	RTTKnownMs  int64   // of ConnectedMs: with a known round-trip time; 0 = never
	// LayerMs is how long video was forwarded in each quality, summed over the tracks
	// that the session wanted and that were sent: none, low, medium, high.
	LayerMs [4]int64
	Worst   MediaMinute
}

// MediaFlow is the media of all tracks in one direction.
type MediaFlow struct {
	FlowingMs   int64 // time in which packets were sent
	Bytes       uint64
	Packets     uint64 // sent, including lost ones
	Lost        uint64
	NACKs       uint64 // packets that the receiver asked for again
	KeyRequests uint64 // keyframes that the receiver asked for, as decoders do after losses
}

// Loss is the share of lost packets, 0 to 1.
func (f *MediaFlow) Loss() float64 {
	if f.Packets == 0 {
		return 0
	}
	return min(float64(f.Lost)/float64(f.Packets), 1)
}

// Bitrate is the mean bitrate of the time in which packets were sent, in bits/s.
func (f *MediaFlow) Bitrate() float64 {
	if f.FlowingMs == 0 {
		return 0
	}
	return float64(f.Bytes*8) * 1000 / float64(f.FlowingMs)
}

// MediaMinute summarises the media of one minute, or of the whole time if that is
// shorter.
type MediaMinute struct {
	FromMs, ToMs int64   // Unix time; both 0 = no data
	Score        float64 // the mean score of the connection, 0 to 5 (best)
	RTTMs        float64 // 0 = unknown
	// Shares of packets lost, and bits/s:
	UpLoss, DownLoss       float64
	UpBitrate, DownBitrate float64
}

// Plus is the summary of two parts of a session, either of which may be nil.
func (s *MediaSummary) Plus(other *MediaSummary) *MediaSummary {
	if s == nil {
		return other
	}
	if other == nil {
		return s
	}
	sum := *s
	sum.ConnectedMs += other.ConnectedMs
	sum.TCPMs += other.TCPMs
	sum.Up.add(&other.Up)
	sum.Down.add(&other.Down)
	if known := s.RTTKnownMs + other.RTTKnownMs; known > 0 {
		sum.RTTMs = (s.RTTMs*float64(s.RTTKnownMs) + other.RTTMs*float64(other.RTTKnownMs)) / float64(known)
		sum.RTTKnownMs = known
	}
	for i := range sum.LayerMs {
		sum.LayerMs[i] += other.LayerMs[i]
	}
	if other.Worst.ToMs != 0 && (s.Worst.ToMs == 0 || other.Worst.Score < s.Worst.Score) {
		sum.Worst = other.Worst
	}
	return &sum
}

func (f *MediaFlow) add(other *MediaFlow) {
	f.FlowingMs += other.FlowingMs
	f.Bytes += other.Bytes
	f.Packets += other.Packets
	f.Lost += other.Lost
	f.NACKs += other.NACKs
	f.KeyRequests += other.KeyRequests
}

// mediaSoFar is the summary of p's session, including the time before a restart.
func (p *Participant) mediaSoFar() *MediaSummary {
	if p.peer == nil {
		return p.mediaBefore
	}
	return p.mediaBefore.Plus(p.peer.Summary())
}

// writeSummaries writes the media summaries of the participants. If the room cannot write
// now, it skips them.
func (r *Room) writeSummaries(now time.Time) {
	r.summarised = now
	if r.unwritable() {
		return
	}
	var sessions []Session
	for _, p := range r.participants {
		if !p.admitted || p.peer == nil || p.peer.Summary() == nil {
			continue
		}
		sessions = append(sessions, p.session(r.rec.SID))
	}
	if len(sessions) > 0 {
		r.fact(sessions, nil)
	}
}
