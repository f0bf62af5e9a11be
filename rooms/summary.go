package rooms

import "time"

// summaryInterval is how often a room writes how the media of its sessions has fared, so
// that a crash costs the history no more than that.
const summaryInterval = time.Minute

// MediaSummary is how the media of a session has fared, from its connection on, to within
// some seconds. It is immutable once made.
type MediaSummary struct {
	ConnectedMs int64
	TCPMs       int64 // of ConnectedMs: its media went over TCP
	Up, Down    MediaFlow
	RTTMs       float64 // the mean round trip
	RTTKnownMs  int64   // of ConnectedMs: the round trip was known; 0 = it never was
	// LayerMs is how long video was forwarded to it in which quality, added up over the
	// tracks that it asked for and that were sent: nothing, low, medium, high.
	LayerMs [4]int64
	Worst   MediaMinute
}

// MediaFlow is what went in one direction over all tracks.
type MediaFlow struct {
	FlowingMs   int64 // how long something went
	Bytes       uint64
	Packets     uint64 // that were sent, with those lost
	Lost        uint64
	NACKs       uint64 // packets that the receiver asked for again
	KeyRequests uint64 // key frames that the receiver asked for, as decoders do that have lost one
}

// Loss is the share of the packets that was lost, 0 to 1.
func (f *MediaFlow) Loss() float64 {
	if f.Packets == 0 {
		return 0
	}
	return min(float64(f.Lost)/float64(f.Packets), 1)
}

// Bitrate is that of the time in which something went, in bits/s.
func (f *MediaFlow) Bitrate() float64 {
	if f.FlowingMs == 0 {
		return 0
	}
	return float64(f.Bytes*8) * 1000 / float64(f.FlowingMs)
}

// MediaMinute is how media fared for a minute, or for all of a shorter time.
type MediaMinute struct {
	FromMs, ToMs int64   // Unix time; both 0 = there is none
	Score        float64 // the mean score of the connection, 0 to 5, the best
	RTTMs        float64 // 0 = unknown
	// Shares of packets lost, and bits/s.
	UpLoss, DownLoss       float64
	UpBitrate, DownBitrate float64
}

// Plus is how a session's media fared in two parts of it, one of which may be nil.
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

// mediaSoFar is how the media of p's session has fared, before a restart, too.
func (p *Participant) mediaSoFar() *MediaSummary {
	if p.peer == nil {
		return p.mediaBefore
	}
	return p.mediaBefore.Plus(p.peer.Summary())
}

// writeSummaries writes how the media of those who are here has fared. A room that has
// more urgent things to write leaves it out.
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
