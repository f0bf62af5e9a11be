package rooms

import (
	"context"
	"sync/atomic"
	"time"
)

// A room ends after its timeout has passed, however the wall clock is set meanwhile. So
// deadlines are times of a steady clock: it begins as the wall clock and then counts the time
// that passes, whatever the wall clock shows.
//
// What it counts by goes on from process to process for as long as the machine runs. The
// database tells where the steady clock stands by that ([ClockState]), and so a restart or a
// crash leaves deadlines as exact as they were, even if the wall clock was set meanwhile.
// Between two boots, or two machines, the wall clock alone tells how much time has passed. Then
// the steady clock goes on from it, as far ahead of it as it was.
//
// A machine that has just booted may have a wrong clock, which is set right a minute later. So
// a deadline that counts from before the boot goes by the wall clock, as that is set, and one
// that counts from later goes by the time that passes. Both hold: the earlier one was right by
// the earlier clock, and the later one never meant the wrong clock.

// ClockState is what the database keeps of the steady clock. Its times are nanoseconds, those
// of the wall clock since 1970. The zero value is that of a database whose deadlines are all
// times of the wall clock.
type ClockState struct {
	Boot    string // names what Elapsed counts from; "" = nothing that a later process could know
	Elapsed int64  // when this was written
	Base    int64  // the steady clock shows this and what has elapsed
	Ahead   int64  // of the wall clock, as last noted
	// SinceMs is what the steady clock showed when this boot was first seen, and OldAhead how
	// far ahead of the wall clock deadlines are that count from before.
	SinceMs  int64
	OldAhead int64
}

// ClockJump is what happens to the rows of a database when its steady clock goes on from the
// wall clock: those that counted from before BeforeMs, the boot before the one that has ended,
// go by the wall clock too, which then was ByMs further from them than it is from the others.
type ClockJump struct {
	BeforeMs, ByMs int64
	// JobsMs is until when jobs wait at most. They only ever wait for a minute.
	JobsMs int64
}

// ClockStore keeps the state of the steady clock.
type ClockStore interface {
	// Clock returns the state, and the latest moment from which a deadline counts.
	Clock(ctx context.Context) (s ClockState, latestMs int64, err error)
	// SetClock writes the state, and does the jump with it; nil = there is none.
	SetClock(ctx context.Context, s ClockState, jump *ClockJump) error
}

// Instant is a moment as the clocks show it, in Unix milliseconds.
type Instant struct {
	WallMs int64 // what the wall clock shows
	Ms     int64 // what the steady clock shows, which deadlines count from
	// OldMs is what deadlines are judged by that count from before SinceMs.
	SinceMs, OldMs int64

	aheadMs, oldAheadMs int64
}

// InstantOf is an instant at which all clocks show the same.
func InstantOf(ms int64) Instant { return Instant{WallMs: ms, Ms: ms, OldMs: ms} }

// For is what a deadline is judged by that counts from sinceMs.
func (i Instant) For(sinceMs int64) int64 {
	if sinceMs < i.SinceMs {
		return i.OldMs
	}
	return i.Ms
}

// sameWithin is how far two clocks may be apart and count as the same, in milliseconds.
const sameWithin = 1000

// Uniform reports whether all deadlines are judged by the same.
func (i Instant) Uniform() bool { return abs(i.OldMs-i.Ms) <= sameWithin }

// Deadline is a room's deadline in terms of Ms; 0 if it has none.
func (i Instant) Deadline(r *Record) int64 {
	if r.ExpiresMs == 0 {
		return 0
	}
	return r.ExpiresMs + i.Ms - i.For(r.EmptySinceMs)
}

// Before is the instant that long before i.
func (i Instant) Before(d time.Duration) Instant {
	i.WallMs, i.Ms, i.OldMs = i.WallMs-d.Milliseconds(), i.Ms-d.Milliseconds(), i.OldMs-d.Milliseconds()
	return i
}

// Shown is what the wall clock shows, as it is set now, at ms of the clock that a deadline
// counts by which counts from sinceMs; 0 for 0. It changes only when the wall clock is set.
func (i Instant) Shown(sinceMs, ms int64) int64 {
	switch {
	case ms == 0:
		return 0
	case sinceMs < i.SinceMs:
		return ms - i.oldAheadMs
	}
	return ms - i.aheadMs
}

// InWallTime is r with times of the wall clock. Rows of ended rooms are so.
func (i Instant) InWallTime(r Record) Record {
	if r.Open() {
		since := r.EmptySinceMs
		r.EmptySinceMs, r.ExpiresMs = i.Shown(since, since), i.Shown(since, r.ExpiresMs)
	}
	return r
}

// steady is the steady clock.
type steady struct {
	wall    func() time.Time
	elapsed func() time.Duration
	boot    string
	state   atomic.Pointer[ClockState]
}

func newSteady(wall func() time.Time, elapsed func() time.Duration, boot string) *steady {
	if wall == nil {
		wall = time.Now
	}
	if elapsed == nil {
		began := time.Now()
		elapsed, boot = func() time.Duration { return time.Since(began) }, ""
	}
	c := &steady{wall: wall, elapsed: elapsed, boot: boot}
	c.resume(ClockState{}, 0)
	return c
}

// both reads the two clocks at the same time.
func (c *steady) both() (wall, elapsed int64) {
	for range 10 { // the process may have stood still between the readings
		before := c.elapsed()
		wall = c.wall().UnixNano()
		after := c.elapsed()
		elapsed = int64(after)
		if after-before < 10*time.Millisecond {
			break
		}
	}
	return wall, elapsed
}

func (c *steady) now() Instant {
	wall, elapsed := c.both()
	s := c.state.Load()
	const ms = int64(time.Millisecond)
	return Instant{
		WallMs: wall / ms, Ms: (s.Base + elapsed) / ms, SinceMs: s.SinceMs, OldMs: (wall + s.OldAhead) / ms,
		aheadMs: s.Ahead / ms, oldAheadMs: s.OldAhead / ms,
	}
}

// resume goes on from what the database has. A jump is returned if only the wall clock tells
// how much time has passed since; latestMs is what the steady clock has certainly shown
// already.
func (c *steady) resume(saved ClockState, latestMs int64) (next ClockState, jump *ClockJump) {
	wall, elapsed := c.both()
	if c.boot != "" && c.boot == saved.Boot && elapsed >= saved.Elapsed {
		c.state.Store(&saved)
		c.look()
		return *c.state.Load(), nil
	}
	const ms = int64(time.Millisecond)
	start := wall + saved.Ahead
	if start < latestMs*ms { // it never goes back, so that SinceMs divides what was before from what comes
		start = (latestMs + 1) * ms
	}
	next = ClockState{
		Boot: c.boot, Elapsed: elapsed, Base: start - elapsed, Ahead: start - wall,
		SinceMs: start / ms, OldAhead: saved.Ahead,
	}
	c.state.Store(&next)
	return next, &ClockJump{
		BeforeMs: saved.SinceMs, ByMs: (saved.Ahead - saved.OldAhead) / ms,
		JobsMs: start/ms + mostBackoff.Milliseconds(),
	}
}

// look notes how far ahead of the wall clock the steady clock is, if that has changed. It
// returns by how much the wall clock was set; 0 = it was not.
func (c *steady) look() time.Duration {
	wall, elapsed := c.both()
	s := *c.state.Load()
	ahead := s.Base + elapsed - wall
	by := time.Duration(s.Ahead - ahead)
	if abs(by.Milliseconds()) <= sameWithin {
		return 0
	}
	s.Ahead, s.Elapsed = ahead, elapsed
	c.state.Store(&s)
	return by
}

// Now is the moment by the clocks that deadlines are judged by.
func (rs *Rooms) Now() Instant { return rs.clock.now() }

// openClock goes on from what the database tells of the steady clock.
func (rs *Rooms) openClock(ctx context.Context) (written bool, err error) {
	saved, latestMs, err := rs.cfg.Store.Clock(ctx)
	if err != nil {
		return false, err
	}
	next, jump := rs.clock.resume(saved, latestMs)
	if next == saved {
		return true, nil
	}
	err = rs.cfg.Store.SetClock(ctx, next, jump)
	if err != nil && (jump == nil || jump.ByMs == 0) && ctx.Err() == nil {
		rs.log.Error("cannot write down the clock, trying again", "error", err)
		return false, nil
	}
	return err == nil, err
}

// clockEvery is the time between two looks at whether the wall clock was set.
const clockEvery = 5 * time.Second

// watchClock writes down when the wall clock was set, for times after the next boot.
func (rs *Rooms) watchClock(written bool) {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for {
		select {
		case <-rs.life.Done():
			return
		case <-tick.C:
		}
		if by := rs.clock.look(); by != 0 {
			written = false
			if abs(by.Milliseconds()) > 2*sameWithin { // else it may be a clock that runs fast or slow
				rs.log.Warn("the wall clock was set; rooms end when their time has passed all the same", "by", by.Round(time.Millisecond))
			}
		}
		if !written {
			written = rs.cfg.Store.SetClock(rs.life, *rs.clock.state.Load(), nil) == nil // else the next look tries again
		}
	}
}

func abs(n int64) int64 { return max(n, -n) }
