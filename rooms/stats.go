package rooms

import (
	"context"
	"time"
)

// Stats counts live rooms and their participants.
type Stats struct {
	Stuck        int // rooms that have done one thing for 10 s: they hang
	Live         int // rooms that have participants, expect participants back, or answer a request
	Participants int // sessions with a client, dependents and forwarded ones included
	ExpectedBack int // sessions of before the restart whose participants have not come back yet
	// DataRefused counts packets of participants that were not forwarded: they named
	// another sender, or became too long with the sender's identity in them.
	DataRefused uint64
	// DataTrackMalformed and DataTrackUnknown are packets of data tracks that were not sent
	// on: they could not be read, or had a handle that their sender publishes nothing under.
	DataTrackMalformed, DataTrackUnknown uint64
	DataBlobs                            BlobStats
	ChatUnkept                           ChatStats
	// Scores counts how often the quality of a connection was judged, and ScoreSum is the sum
	// of the scores, 0 to 5 (best).
	Scores   uint64
	ScoreSum float64
	Failures uint64 // rooms that were taken down because their goroutine panicked
}

// BlobStats counts requests to store or fetch a data blob that were refused, by why.
type BlobStats struct {
	Off       uint64 // by the configuration
	Invalid   uint64
	Limit     uint64 // there would be too many, or they would be too large
	Rate      uint64 // the participant, or its room, stores too much in too short a time
	Missing   uint64 // no such blob, or participant
	Unwritten uint64 // the database failed
}

// ChatStats counts chat messages that a room did not keep, by why.
type ChatStats struct {
	TooLong   uint64
	Invalid   uint64 // not UTF-8, or not put together as it should be
	Rate      uint64 // the participant wrote too much in too short a time
	Unwritten uint64 // the database failed, or too much waited for it
}

// Stats returns the figures of now. It asks no room.
func (rs *Rooms) Stats() Stats {
	rs.mu.Lock()
	live, stuck, now := len(rs.live), 0, time.Now()
	for _, r := range rs.live {
		if r.stuck(now) {
			stuck++
		}
	}
	rs.mu.Unlock()
	return Stats{
		Live:         live,
		Stuck:        stuck,
		Participants: int(rs.present.Load()),
		ExpectedBack: int(rs.expectedBack.Load()),
		DataRefused:  rs.dataRefused.Load(),
		Failures:     rs.failures.Load(),
		Scores:       rs.scores.Load(), ScoreSum: float64(rs.scoreSum.Load()) / scoreUnit,

		ChatUnkept: ChatStats{
			TooLong: rs.chatUnkept[chatTooLong].Load(), Invalid: rs.chatUnkept[chatInvalid].Load(),
			Rate: rs.chatUnkept[chatTooFast].Load(), Unwritten: rs.chatUnkept[chatUnwritten].Load(),
		},

		DataTrackMalformed: rs.dataTrackMalformed.Load(), DataTrackUnknown: rs.dataTrackUnknown.Load(),
		DataBlobs: BlobStats{
			Off: rs.blobs.off.Load(), Invalid: rs.blobs.invalid.Load(), Limit: rs.blobs.limit.Load(),
			Rate: rs.blobs.rate.Load(), Missing: rs.blobs.missing.Load(), Unwritten: rs.blobs.unwritten.Load(),
		},
	}
}

// scoreUnit is the fineness in which scores are summed up.
const scoreUnit = 1000

// tally updates the registry's figures with r's. It runs on the room's goroutine after
// each round.
func (r *Room) tally(present, expected int) {
	if d := present - r.tallied[0]; d != 0 {
		r.rooms.present.Add(int64(d))
	}
	if d := expected - r.tallied[1]; d != 0 {
		r.rooms.expectedBack.Add(int64(d))
	}
	r.tallied = [2]int{present, expected}
}

// asked is how many live rooms Answer asks at most.
const asked = 8

// Answer asks a few of the live rooms and returns when the first has answered, or at once
// if there are none. It fails with ctx's error if none answers. One room that hangs alone
// does not make it fail.
func (rs *Rooms) Answer(ctx context.Context) error {
	rs.mu.Lock()
	some := make([]*Room, 0, asked)
	for _, r := range rs.live {
		if some = append(some, r); len(some) == asked {
			break
		}
	}
	rs.mu.Unlock()
	if len(some) == 0 {
		return nil
	}
	answered := make(chan struct{}, len(some))
	answer := func() { answered <- struct{}{} }
	for _, r := range some {
		if !r.mail.Post(letter{run: answer, retired: answer}) {
			return nil // the room is going away, which shows that it works
		}
	}
	select {
	case <-answered:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
