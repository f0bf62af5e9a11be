package media

import "time"

// maxLateMessages bounds what lateness keeps.
const maxLateMessages = 2048

// roundTripMemory is how long the shortest round trip counts: paths change.
const roundTripMemory = 10 * time.Second

// lateness tells how long the oldest message has waited that a client has not taken yet. It
// belongs to the value that embeds it.
type lateness struct {
	under []lateMessage // handed to SCTP and not known to be taken, the oldest first
	// The shortest times from a message's handing over until it was known to be taken: the
	// round trip, where nothing waits. Of the time since, and of the one before.
	shortest, before time.Duration // 0 = not known
	since            time.Time     // when shortest began
}

type lateMessage struct {
	end int64 // the bytes handed over with it and before it
	at  time.Time
}

// handed notes that a message was handed over, with which end bytes have been.
func (l *lateness) handed(end int64, now time.Time) {
	l.under = append(l.under, lateMessage{end, now})
}

// taken notes that the client has taken that many bytes of all.
func (l *lateness) taken(bytes int64, now time.Time) {
	n := 0
	for n < len(l.under) && l.under[n].end <= bytes {
		l.trip(now.Sub(l.under[n].at), now)
		n++
	}
	l.under = l.under[n:]
}

func (l *lateness) trip(d time.Duration, now time.Time) {
	if now.Sub(l.since) > roundTripMemory {
		l.before, l.shortest, l.since = l.shortest, 0, now
	}
	if l.shortest == 0 || d < l.shortest {
		l.shortest = d
	}
}

// full reports that no more is to be kept.
func (l *lateness) full() bool { return len(l.under) >= maxLateMessages }

// late is how long the oldest message has waited, but for the round trip.
func (l *lateness) late(now time.Time) time.Duration {
	if len(l.under) == 0 {
		return 0
	}
	trip := l.shortest
	if l.before != 0 && (trip == 0 || l.before < trip) {
		trip = l.before
	}
	return now.Sub(l.under[0].at) - trip
}
