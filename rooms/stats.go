package rooms

import "context"

// Stats is how many rooms are live and how many are in them.
type Stats struct {
	Live         int // rooms that somebody is in, is expected back in, or asks something of
	Participants int // sessions with a client, dependents and forwarded ones included
	ExpectedBack int // sessions of before the restart whose participants are not back yet
	// DataRefused are packets of participants that were not sent on: they named another
	// sender, or were longer than receivers take with the sender's name in them.
	DataRefused uint64
	Failures    uint64 // times that a room was taken down since its goroutine panicked
}

// Stats returns the figures as of now, at no room's cost.
func (rs *Rooms) Stats() Stats {
	rs.mu.Lock()
	live := len(rs.live)
	rs.mu.Unlock()
	return Stats{
		Live:         live,
		Participants: int(rs.present.Load()),
		ExpectedBack: int(rs.expectedBack.Load()),
		DataRefused:  rs.dataRefused.Load(),
		Failures:     rs.failures.Load(),
	}
}

// tally brings the registry's figures up to what is in r now. It runs on the
// room's goroutine, each time that r has done what was to be done.
func (r *Room) tally(present, expected int) {
	if d := present - r.tallied[0]; d != 0 {
		r.rooms.present.Add(int64(d))
	}
	if d := expected - r.tallied[1]; d != 0 {
		r.rooms.expectedBack.Add(int64(d))
	}
	r.tallied = [2]int{present, expected}
}

// asked is how many live rooms Answer asks.
const asked = 8

// Answer returns when one of the live rooms, of which it asks a few, has answered, or if
// there are none; ctx's error if none does. One room that hangs is no reason to give up the
// others.
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
		if !r.mail.post(letter{run: answer, retired: answer}) {
			return nil // it goes away, which is an answer, too
		}
	}
	select {
	case <-answered:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
