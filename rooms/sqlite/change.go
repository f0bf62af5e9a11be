package sqlite

import (
	"database/sql"
	"fmt"
	"time"

	"parlor/rooms"
	"parlor/rooms/log"
)

// Submit queues a change; see [rooms.Store]. After Close it calls done on the caller's
// goroutine.
func (s *Store) Submit(c *rooms.Change, done func(rooms.Outcome, error)) {
	row, broken := encodeChange(c)
	var out rooms.Outcome // belongs to the writer
	s.writer.queue.submit(job{
		run: func(t *tx) (err error) {
			switch {
			case c.Pipeline.Aborted():
				return rooms.ErrHeld
			case broken != nil: // it fails in its place in the order
				err = rooms.Errorf(rooms.Internal, "write room %s: %v", c.Room.SID, broken)
			default:
				out, err = t.change(&row)
			}
			if t.final(err) && aborts(err) { // before the next change of the pipeline is run in this transaction
				c.Pipeline.Abort()
			}
			return err
		},
		done: func(err error) {
			if aborts(err) { // the whole transaction failed: before the next transaction
				c.Pipeline.Abort()
			}
			if err != nil {
				done(rooms.Outcome{}, err)
				return
			}
			done(out, nil)
		},
	})
}

// aborts reports whether later changes of the pipeline must not be written after a change
// that ended with err. After ErrEnded they may: a room that has ended refuses them
// anyway.
func aborts(err error) bool { return err != nil && err != rooms.ErrEnded }

func (t *tx) change(c *changeRow) (rooms.Outcome, error) {
	out := rooms.Outcome{Room: c.Room}
	var err error
	switch c.Kind {
	case rooms.ChangeCreate:
		if out.Created, err = t.insertRoom(c, &out.Room); err != nil || !out.Created {
			return out, err
		}
	case rooms.ChangeUpdate, rooms.ChangeEnd:
		if err = t.updateRoom(c, &out.Room); err != nil {
			return out, err
		}
	default:
		return out, rooms.Errorf(rooms.Internal, "write room %s: change of kind %d", c.Room.SID, c.Kind)
	}
	for i := range c.sessions {
		if err := t.putSession(&c.sessions[i]); err != nil {
			return out, err
		}
	}
	for i := range c.Blobs {
		if err := t.putBlob(&c.Blobs[i]); err != nil {
			return out, err
		}
	}
	for _, d := range c.Hosts {
		if _, err := t.exec(`INSERT INTO host (room_sid, identity, host) VALUES (?, ?, ?)
			ON CONFLICT (room_sid, identity) DO UPDATE SET host = excluded.host`, c.Room.SID, d.Identity, d.Host); err != nil {
			return out, err
		}
	}
	if c.NoChat {
		if _, err := t.exec(`DELETE FROM chat WHERE room_sid = ?`, c.Room.SID); err != nil {
			return out, err
		}
	}
	if err := t.putChat(c.Room.SID, c.Chat); err != nil {
		return out, err
	}
	if err := t.putAgents(c); err != nil {
		return out, err
	}
	return out, t.appendEvents(&out.Room, c.Events)
}

// insertRoom inserts the room into the table, or sets r to the open room of that name.
func (t *tx) insertRoom(c *changeRow, r *rooms.Record) (created bool, err error) {
	r.Version, r.Seq = 1, int64(len(c.Events))
	r.NumJoined, r.PeakParticipants = joins(c.Events), r.NumParticipants
	n, err := t.exec(`INSERT INTO room (`+roomColumns+`)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (name) WHERE ended_ms = 0 DO NOTHING`,
		r.SID, r.Name, r.CreatedMs, int64(r.EmptyTimeout), int64(r.DepartureTimeout), r.MaxParticipants,
		r.JoinedOnce, r.EmptySinceMs, r.ExpiresMs, r.EndedMs, string(r.EndReason), r.NumParticipants, r.NumPublishers,
		r.NumJoined, r.PeakParticipants, r.ActiveRecording, r.Version, r.Seq, r.TurnPassword, c.config, r.Metadata)
	if err != nil {
		return false, err
	}
	if n == 1 {
		t.open++
		t.inHour(r.CreatedMs, func(h *rooms.Hour) { h.Opened++ })
		t.populate(int64(r.NumParticipants), rooms.NowMs(time.Now()))
		return true, nil
	}
	var there recordRow
	if err := t.row(there.fields(), `SELECT `+roomColumns+` FROM room WHERE name = ? AND ended_ms = 0`, r.Name); err != nil {
		return false, fmt.Errorf("find open room %q: %w", r.Name, err)
	}
	*r = there.done(t.damage)
	return false, nil
}

// The ordinary update leaves the end out: SQLite would rewrite every index that mentions
// it.
const (
	updateRoomSet = `UPDATE room SET empty_timeout_ms = ?, departure_timeout_ms = ?, max_participants = ?,
		joined_once = ?, empty_since_ms = ?, expires_ms = ?, num_participants = ?, num_publishers = ?,
		num_joined = num_joined + ?, peak_participants = max(peak_participants, ?),
		active_recording = ?, turn_password = ?, config = ?, metadata = ?, version = version + 1, seq = seq + ?`
	updateRoomWhere  = ` WHERE sid = ? AND ended_ms = 0 RETURNING name, created_ms, num_joined, peak_participants, version, seq`
	updateRoom       = updateRoomSet + updateRoomWhere
	updateRoomAndEnd = updateRoomSet + `, ended_ms = ?, end_reason = ?` + updateRoomWhere
)

// updateRoom writes c's room over the open room's row, and fills r with the columns that
// never change and those that only the store knows.
func (t *tx) updateRoom(c *changeRow, r *rooms.Record) error {
	args := []any{
		int64(r.EmptyTimeout), int64(r.DepartureTimeout), r.MaxParticipants,
		r.JoinedOnce, r.EmptySinceMs, r.ExpiresMs, r.NumParticipants, r.NumPublishers,
		joins(c.Events), r.NumParticipants,
		r.ActiveRecording, r.TurnPassword, c.config, r.Metadata, len(c.Events),
	}
	query := updateRoom
	if c.Kind == rooms.ChangeEnd {
		query = updateRoomAndEnd
		args = append(args, r.EndedMs, string(r.EndReason))
	}
	var before int64
	err := t.row([]any{&before}, `SELECT num_participants FROM room WHERE sid = ? AND ended_ms = 0`, r.SID)
	if err == nil {
		err = t.row([]any{&r.Name, &r.CreatedMs, &r.NumJoined, &r.PeakParticipants, &r.Version, &r.Seq}, query, append(args, r.SID)...)
	}
	if err == sql.ErrNoRows {
		return rooms.ErrEnded
	}
	if err != nil {
		return err
	}
	present := int64(r.NumParticipants)
	if c.Kind == rooms.ChangeEnd {
		if err := t.end(r); err != nil {
			return err
		}
		present = 0
	}
	t.populate(present-before, rooms.NowMs(time.Now()))
	return nil
}

// end counts a room that has ended, and deletes what ends with it.
func (t *tx) end(r *rooms.Record) error {
	t.open--
	t.ended++
	t.inHour(r.EndedMs, func(h *rooms.Hour) { h.Ended++ })
	for _, query := range []string{`DELETE FROM host WHERE room_sid = ?`, `DELETE FROM chat WHERE room_sid = ?`} {
		if _, err := t.exec(query, r.SID); err != nil {
			return err
		}
	}
	return nil
}

// joins counts the participant_joined events.
func joins(events []log.Event) (n int64) {
	for i := range events {
		if events[i].Type == log.ParticipantJoined {
			n++
		}
	}
	return n
}

// putBlob writes or deletes a data blob.
func (t *tx) putBlob(b *rooms.DataBlob) (err error) {
	if b.Contents == nil {
		_, err = t.exec(`DELETE FROM data_blob WHERE session_sid = ? AND key = ?`, b.Session, b.Key)
	} else {
		_, err = t.exec(`INSERT INTO data_blob (session_sid, key, contents) VALUES (?, ?, ?)
			ON CONFLICT (session_sid, key) DO UPDATE SET contents = excluded.contents`, b.Session, b.Key, b.Contents)
	}
	return err
}

// putSession updates the session with that SID, or inserts it. The update, which is the
// usual case, leaves out the columns that are in indexes. The blobs of a session that has
// left end with it.
func (t *tx) putSession(v *sessionRow) error {
	if v.LeftMs != 0 {
		if _, err := t.exec(`DELETE FROM data_blob WHERE session_sid = ?`, v.SID); err != nil {
			return err
		}
	}
	n, err := t.exec(`UPDATE session SET active_ms = ?, left_ms = ?, reason = ?, permitted_ms = ?, edited_ms = ?, host = ?, info = ?, media = ?
		WHERE sid = ? AND room_sid = ? AND identity = ? AND joined_ms = ?`,
		v.ActiveMs, v.LeftMs, int32(v.Reason), v.PermittedMs, v.EditedMs, v.Host, v.info, v.media, v.SID, v.RoomSID, v.Identity, v.JoinedMs)
	if err != nil || n == 1 {
		return err
	}
	_, err = t.exec(`INSERT INTO session (`+sessionColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (sid) DO UPDATE SET room_sid = excluded.room_sid, identity = excluded.identity,
			joined_ms = excluded.joined_ms, active_ms = excluded.active_ms, left_ms = excluded.left_ms,
			reason = excluded.reason, permitted_ms = excluded.permitted_ms, edited_ms = excluded.edited_ms,
			host = excluded.host, info = excluded.info, media = excluded.media`,
		v.SID, v.RoomSID, v.Identity, v.JoinedMs, v.ActiveMs, v.LeftMs, int32(v.Reason), v.PermittedMs, v.EditedMs, v.Host, v.info, v.media)
	return err
}

// appendEvents writes a room's events, which r.Seq already counts, and their deliveries.
func (t *tx) appendEvents(r *rooms.Record, events []log.Event) error {
	for i := range events {
		e := events[i] // a copy: the change belongs to the caller
		e.RoomSID, e.RoomName = r.SID, r.Name
		e.RoomSeq = r.Seq - int64(len(events)-1-i)
		if err := t.appendEvent(&e); err != nil {
			return err
		}
		if err := t.deliver(&e); err != nil {
			return err
		}
	}
	return nil
}

// appendEvent gives e its seq and epoch and writes it.
func (t *tx) appendEvent(e *log.Event) error {
	t.eventSeq++
	e.Seq, e.Epoch = t.eventSeq, t.epoch
	body := e.Body
	if body == nil {
		body = []byte{}
	}
	t.news = true
	if e.Type == log.ParticipantJoined {
		t.inHour(e.CreatedMs, func(h *rooms.Hour) { h.Joined++ })
	}
	_, err := t.exec(`INSERT INTO event (`+eventColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		e.Seq, e.ID, e.Type, e.RoomSID, e.RoomName, e.RoomSeq, e.CreatedMs, e.Epoch, body)
	return err
}

// endDueMax bounds how many rooms one transaction ends.
const endDueMax = 1000

// dueRoom is a room whose deadline has come, at its place among them.
type dueRoom struct {
	record                 rooms.Record
	expiresMs, sinceMs, id int64
}

// endDue ends rooms whose deadline has come, each by itself: one that cannot be ended keeps
// no other open. stuck is why some could not be.
func (t *tx) endDue(now rooms.Instant, limit int) (ended []rooms.Record, stuck, err error) {
	var after dueRoom
	for len(ended) < limit {
		due, err := t.due(now, after, limit-len(ended))
		if err != nil || len(due) == 0 {
			return ended, stuck, err
		}
		for i := range due {
			r := &due[i].record
			err := t.attempt("due", func() error { return t.endDueRoom(r, now) })
			switch {
			case err == nil:
				ended = append(ended, *r)
			case isOwnFault(err) && !isContext(err):
				if stuck == nil { // the first is told, since there may be many
					stuck = fmt.Errorf("end room %s: %w", r.SID, err)
				}
			default:
				return nil, nil, err
			}
		}
		after = due[len(due)-1]
	}
	return ended, stuck, nil
}

// due returns rooms whose deadline has come, the longest due first, from behind after.
func (t *tx) due(now rooms.Instant, after dueRoom, limit int) (due []dueRoom, err error) {
	where, args := isDue(now)
	err = t.rows(func(rs *sql.Rows) error {
		var row recordRow
		var d dueRoom
		err := rs.Scan(append(row.fields(), &d.id)...)
		d.record = row.done(t.damage)
		d.expiresMs, d.sinceMs = d.record.ExpiresMs, d.record.EmptySinceMs
		due = append(due, d)
		return err
	}, `SELECT `+roomColumns+`, id FROM room WHERE `+where+` AND (expires_ms, empty_since_ms, id) > (?, ?, ?)
		ORDER BY expires_ms, empty_since_ms, id LIMIT +?`, append(args, after.expiresMs, after.sinceMs, after.id, limit)...)
	return due, err
}

// endDueRoom ends r, whose deadline has come.
func (t *tx) endDueRoom(r *rooms.Record, at rooms.Instant) error {
	now := time.UnixMilli(at.WallMs)
	*r = at.InWallTime(*r)
	r.EndedMs, r.EndReason = at.WallMs, r.DueReason()
	events, err := t.endJobs(r, now)
	if err != nil {
		return err
	}
	events = append(events, rooms.RoomFinished(r, now))
	r.Version++
	r.Seq += int64(len(events))
	_, err = t.exec(`UPDATE room SET empty_since_ms = ?, expires_ms = ?, ended_ms = ?, end_reason = ?, version = ?, seq = ? WHERE sid = ?`,
		r.EmptySinceMs, r.ExpiresMs, r.EndedMs, string(r.EndReason), r.Version, r.Seq, r.SID)
	if err != nil {
		return err
	}
	if err := t.end(r); err != nil {
		return err
	}
	return t.appendEvents(r, events)
}
