package rooms

import "context"

// HourMs is the length of an [Hour] in milliseconds.
const HourMs = 3_600_000

// Hour sums up an hour of UTC. The store counts rooms, joins and participants in the
// transactions that change them, so that each counts once.
type Hour struct {
	FromMs                int64 // Unix time
	Opened, Ended, Joined int64 // rooms; participant_joined events
	Peak                  int64 // the most participants of all rooms at one time
	// ParticipantMs is the time that all participants spent in rooms. Time in which no process
	// ran does not count.
	ParticipantMs int64
	Measured
}

// Measured is what the store does not see and is told.
type Measured struct {
	Refused             int64 // joins, calls of the API and tries to sign in
	BytesIn, BytesOut   int64 // of media
	PacketsOut, LostOut int64 // of media, to subscribers
	Scores              int64 // how often the quality of a connection was judged
	ScoreSum            float64
}

// Loss is the share of packets to subscribers that was lost; false if there were none.
func (m *Measured) Loss() (float64, bool) {
	if m.PacketsOut == 0 {
		return 0, false
	}
	return min(float64(m.LostOut)/float64(m.PacketsOut), 1), true
}

// Score is the mean score of the connections, 0 to 5 (best); false if there were none.
func (m *Measured) Score() (float64, bool) {
	if m.Scores == 0 {
		return 0, false
	}
	return m.ScoreSum / float64(m.Scores), true
}

// Add adds what another hour counted, as to a day. The peak is the higher one.
func (h *Hour) Add(other *Hour) {
	h.Opened += other.Opened
	h.Ended += other.Ended
	h.Joined += other.Joined
	h.Peak = max(h.Peak, other.Peak)
	h.ParticipantMs += other.ParticipantMs
	h.Refused += other.Refused
	h.BytesIn += other.BytesIn
	h.BytesOut += other.BytesOut
	h.PacketsOut += other.PacketsOut
	h.LostOut += other.LostOut
	h.Scores += other.Scores
	h.ScoreSum += other.ScoreSum
}

// Hours stores what happened in each hour.
type Hours interface {
	// AddMeasured adds to the hour of atMs what was measured since the last call, and counts
	// the time of those who are in rooms up to then. A call that fails has added nothing.
	AddMeasured(ctx context.Context, atMs int64, m Measured) error
	// Hours returns the hours of a time in which something happened, the oldest first: up to
	// limit that begin at fromMs or later and before beforeMs.
	Hours(ctx context.Context, fromMs, beforeMs int64, limit int) ([]Hour, error)
	// PruneHours deletes up to batch hours that began before beforeMs, and returns how many
	// it deleted.
	PruneHours(ctx context.Context, beforeMs int64, batch int) (int, error)
}
