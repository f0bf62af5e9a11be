package program

import (
	"context"
	"log/slog"
	"time"

	"parlor/rooms"
	"parlor/rooms/log"
	"parlor/rooms/sqlite"
	"parlor/server/config"
)

// startUpkeep starts the goroutines that prune data, renew certificates and read their
// files again.
func (p *program) startUpkeep() {
	ctx, cancel := context.WithCancel(context.Background())
	p.stopUpkeep = cancel
	kept := log.Retention{Store: p.store, Logger: p.log, MaxAge: time.Duration(p.cfg.Events.MaxAge), MaxEvents: orNone(p.cfg.Events.MaxCount)}
	p.upkeep.Go(func() { kept.Run(ctx) })
	if keep := p.cfg.History; keep != config.Forever {
		p.upkeep.Go(func() { pruneHistory(ctx, p.store, time.Duration(keep), p.log) })
		p.upkeep.Go(func() { pruneSessions(ctx, p.store, time.Duration(keep), p.log) })
	}
	p.upkeep.Go(func() { pruneAgents(ctx, p.store, p.log) })
	p.upkeep.Go(func() { p.ring.Run(ctx) })
	p.upkeep.Go(func() { measure(ctx, p.store, p.measured, func() int { return p.rooms.Stats().Participants }, p.log) })
	p.upkeep.Go(func() { pruneHours(ctx, p.store, p.log) })
	p.upkeep.Go(func() { pruneModeration(ctx, p.store, p.log) })
	p.upkeep.Go(func() { pruneInvitations(ctx, p.store, p.log) })
	if p.keeper != nil {
		p.upkeep.Go(func() { p.keeper.Run(ctx) })
	}
	for _, c := range []*certificate{p.certificate, p.turnCertificate} {
		if c != nil {
			p.upkeep.Go(func() { c.watch(ctx) })
		}
	}
}

// pruneModeration deletes expired bans, and revocations older than any sensible token,
// until ctx ends. Neither is urgent: an expired ban keeps nobody away.
func pruneModeration(ctx context.Context, m rooms.Moderation, log *slog.Logger) {
	const longestToken = 10 * 366 * 24 * time.Hour
	prune(ctx, time.Hour, log, "cannot forget bans that have run out", func() (more bool, err error) {
		now := time.Now()
		_, err = m.PruneModeration(ctx, rooms.NowMs(now), rooms.NowMs(now.Add(-longestToken)))
		return false, err
	})
}

// pruneInvitations deletes invitations that could not be used for a month, until ctx ends.
func pruneInvitations(ctx context.Context, s *sqlite.Store, log *slog.Logger) {
	const keep = 30 * 24 * time.Hour
	prune(ctx, time.Hour, log, "cannot forget old invitations", func() (more bool, err error) {
		_, err = s.PruneInvitations(ctx, rooms.NowMs(time.Now().Add(-keep)))
		return false, err
	})
}

// pruneHistory deletes old ended rooms until ctx ends.
func pruneHistory(ctx context.Context, h rooms.History, keep time.Duration, log *slog.Logger) {
	prune(ctx, 10*time.Minute, log, "cannot forget old rooms", func() (more bool, err error) {
		n, err := h.PruneHistory(ctx, rooms.NowMs(time.Now().Add(-keep)), pruneBatch)
		return n == pruneBatch, err
	})
}

// pruneSessions deletes old sessions of open rooms, which may never end, until ctx ends.
func pruneSessions(ctx context.Context, h rooms.History, keep time.Duration, log *slog.Logger) {
	pruneOpen(ctx, log, "cannot forget old sessions", func(at rooms.RoomCursor) (int, rooms.RoomCursor, error) {
		return h.PruneSessions(ctx, rooms.NowMs(time.Now().Add(-keep)), at, pruneBatch)
	})
}

// pruneAgents deletes old dispatches and jobs of open rooms until ctx ends.
func pruneAgents(ctx context.Context, h rooms.History, log *slog.Logger) {
	pruneOpen(ctx, log, "cannot forget old jobs of agents", func(at rooms.RoomCursor) (int, rooms.RoomCursor, error) {
		return h.PruneAgents(ctx, at, pruneBatch)
	})
}

// pruneOpen calls batch from room to room until ctx ends. It runs seldom, because it looks
// at every open room.
func pruneOpen(ctx context.Context, log *slog.Logger, failure string, batch func(rooms.RoomCursor) (int, rooms.RoomCursor, error)) {
	var at rooms.RoomCursor
	prune(ctx, time.Hour, log, failure, func() (more bool, err error) {
		var n int
		n, at, err = batch(at)
		return n == pruneBatch || at != rooms.RoomCursor{}, err
	})
}

// pruneBatch is how many rows are deleted at a time, so that nobody waits long for it.
const pruneBatch = 500

// prune calls step until nothing is left to delete, and again after every, also after a
// failure. It returns when ctx ends.
func prune(ctx context.Context, every time.Duration, log *slog.Logger, failure string, step func() (more bool, err error)) {
	const pause = 50 * time.Millisecond // between two batches
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		more, err := step()
		if err != nil && ctx.Err() == nil {
			log.Error(failure, "error", err)
		}
		if more && err == nil {
			timer.Reset(pause)
		} else {
			timer.Reset(every)
		}
	}
}
