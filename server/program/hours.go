package program

import (
	"context"
	"log/slog"
	"time"

	"parlor/rooms"
)

const (
	// measureEvery is how much of what is measured a crash loses at most.
	measureEvery = time.Minute
	keepHours    = 400 * 24 * time.Hour
)

// measured is what was counted since the start.
func (p *program) measured() rooms.Measured {
	live, m := p.rooms.Stats(), p.media.Stats()
	return rooms.Measured{
		Refused: int64(p.refusals.Total()),
		BytesIn: int64(m.Audio.Received.Bytes + m.Video.Received.Bytes), BytesOut: int64(m.Audio.Sent.Bytes + m.Video.Sent.Bytes),
		PacketsOut: int64(m.Audio.Sent.Packets + m.Video.Sent.Packets), LostOut: int64(m.Audio.Sent.Lost + m.Video.Sent.Lost),
		Scores: int64(live.Scores), ScoreSum: live.ScoreSum,
	}
}

// grown is what came to total since last. A count that has become less was begun again.
func grown(last, total rooms.Measured) rooms.Measured {
	return rooms.Measured{
		Refused: max(0, total.Refused-last.Refused),
		BytesIn: max(0, total.BytesIn-last.BytesIn), BytesOut: max(0, total.BytesOut-last.BytesOut),
		PacketsOut: max(0, total.PacketsOut-last.PacketsOut), LostOut: max(0, total.LostOut-last.LostOut),
		Scores: max(0, total.Scores-last.Scores), ScoreSum: max(0, total.ScoreSum-last.ScoreSum),
	}
}

// measure writes what total counts, and the time of those who are in rooms, to the hours
// until ctx ends, and once more then. A server on which nothing happens writes nothing.
func measure(ctx context.Context, s rooms.Hours, total func() rooms.Measured, people func() int, log *slog.Logger) {
	// A stop does not end what is being written, because it would not be known then whether it
	// was. After a while it does: nothing is written from then on.
	work, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(requestsBound, end) })()
	var last rooms.Measured
	add := func() {
		all := total()
		news := grown(last, all)
		if news == (rooms.Measured{}) && people() == 0 {
			return
		}
		if err := s.AddMeasured(work, rooms.NowMs(time.Now()), news); err != nil {
			if ctx.Err() == nil {
				log.Warn("the figures of this hour cannot be written, and are when that works again", "error", err)
			}
			return
		}
		last = all
	}
	ticker := time.NewTicker(measureEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			add()
			return
		case <-ticker.C:
			add()
		}
	}
}

// pruneHours deletes the figures of old hours until ctx ends.
func pruneHours(ctx context.Context, s rooms.Hours, log *slog.Logger) {
	prune(ctx, time.Hour, log, "cannot forget the figures of old hours", func() (more bool, err error) {
		n, err := s.PruneHours(ctx, rooms.NowMs(time.Now().Add(-keepHours)), pruneBatch)
		return n == pruneBatch, err
	})
}
