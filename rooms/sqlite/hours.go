package sqlite

import (
	"context"
	"database/sql"

	"parlor/rooms"
)

// mostHours bounds the time that is counted for participants between two writes. A clock
// that is set forward by years must not make a row for each of their hours.
const mostHours = 48

// inHour changes what the transaction adds to the hour of a time.
func (t *tx) inHour(ms int64, change func(*rooms.Hour)) {
	if t.hours == nil {
		t.hours = make(map[int64]rooms.Hour)
	}
	from := ms - ms%rooms.HourMs
	h := t.hours[from]
	change(&h)
	t.hours[from] = h
}

// populate changes the number of participants in all rooms at nowMs.
func (t *tx) populate(by, nowMs int64) {
	if by == 0 {
		return
	}
	t.spend(nowMs)
	t.people = max(0, t.people+by)
	t.inHour(nowMs, func(h *rooms.Hour) { h.Peak = max(h.Peak, t.people) })
}

// spend counts the time that participants spent in rooms until nowMs.
func (t *tx) spend(nowMs int64) {
	since := max(t.spentMs, nowMs-mostHours*rooms.HourMs)
	for t.people > 0 && since < nowMs {
		end := min(nowMs, since-since%rooms.HourMs+rooms.HourMs)
		t.inHour(since, func(h *rooms.Hour) {
			h.ParticipantMs += t.people * (end - since)
			h.Peak = max(h.Peak, t.people)
		})
		since = end
	}
	t.spentMs = nowMs // also if the clock was set back
}

// clockSetBack is how far a time must lie back to say that the clock was set back, in
// milliseconds.
const clockSetBack = 10 * 60_000

const hourColumns = `from_ms, opened, ended, joined, peak, participant_ms, refused, bytes_in, bytes_out, packets_out, lost_out, scores, score_sum`

// flushHours writes what the transaction adds to hours.
func (t *tx) flushHours() error {
	for from, h := range t.hours {
		if _, err := t.exec(`INSERT INTO hour (`+hourColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (from_ms) DO UPDATE SET opened = opened + excluded.opened, ended = ended + excluded.ended,
				joined = joined + excluded.joined, peak = max(peak, excluded.peak),
				participant_ms = participant_ms + excluded.participant_ms, refused = refused + excluded.refused,
				bytes_in = bytes_in + excluded.bytes_in, bytes_out = bytes_out + excluded.bytes_out,
				packets_out = packets_out + excluded.packets_out, lost_out = lost_out + excluded.lost_out,
				scores = scores + excluded.scores, score_sum = score_sum + excluded.score_sum`,
			from, h.Opened, h.Ended, h.Joined, h.Peak, h.ParticipantMs, h.Refused,
			h.BytesIn, h.BytesOut, h.PacketsOut, h.LostOut, h.Scores, h.ScoreSum); err != nil {
			return err
		}
	}
	return nil
}

// AddMeasured adds what was measured to the hour of atMs; see [rooms.Hours].
func (s *Store) AddMeasured(ctx context.Context, atMs int64, m rooms.Measured) error {
	return s.do(ctx, func(t *tx) error {
		// The caller's time is of before it waited for the store, which may have counted more.
		if behind := t.spentMs - atMs; behind <= 0 || behind > clockSetBack {
			t.spend(atMs)
		}
		if m != (rooms.Measured{}) {
			t.inHour(atMs, func(h *rooms.Hour) { h.Add(&rooms.Hour{Measured: m}) })
		}
		return nil
	})
}

// Hours returns hours in which something happened; see [rooms.Hours].
func (s *Store) Hours(ctx context.Context, fromMs, beforeMs int64, limit int) ([]rooms.Hour, error) {
	var all []rooms.Hour
	err := s.each(ctx, func(rs *sql.Rows) error {
		var h rooms.Hour
		err := rs.Scan(&h.FromMs, &h.Opened, &h.Ended, &h.Joined, &h.Peak, &h.ParticipantMs, &h.Refused,
			&h.BytesIn, &h.BytesOut, &h.PacketsOut, &h.LostOut, &h.Scores, &h.ScoreSum)
		all = append(all, h)
		return err
	}, `SELECT `+hourColumns+` FROM hour WHERE from_ms >= ? AND from_ms < ? ORDER BY from_ms LIMIT +?`, fromMs, beforeMs, limit)
	return all, err
}

// PruneHours deletes old hours; see [rooms.Hours].
func (s *Store) PruneHours(ctx context.Context, beforeMs int64, batch int) (int, error) {
	return call(ctx, s, func(t *tx) (int, error) {
		n, err := t.exec(`DELETE FROM hour WHERE from_ms IN (SELECT from_ms FROM hour WHERE from_ms < ? ORDER BY from_ms LIMIT +?)`,
			beforeMs, pageLimit(batch))
		return int(n), err
	})
}
