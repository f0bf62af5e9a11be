package sqlite

import (
	"encoding/json"
	"fmt"

	"parlor/rooms"
	"parlor/rooms/log"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"
)

// roomColumns are a room's columns, in the order of recordRow's fields.
const roomColumns = `sid, name, created_ms, empty_timeout_ms, departure_timeout_ms, max_participants,
	joined_once, empty_since_ms, expires_ms, ended_ms, end_reason, num_participants, num_publishers,
	num_joined, peak_participants, active_recording, version, seq, turn_password, config, metadata`

// recordRow receives a room's row.
type recordRow struct {
	record rooms.Record
	config []byte
}

func (r *recordRow) fields() []any {
	c := &r.record
	return []any{
		&c.SID, &c.Name, &c.CreatedMs, &c.EmptyTimeout, &c.DepartureTimeout, &c.MaxParticipants,
		&c.JoinedOnce, &c.EmptySinceMs, &c.ExpiresMs, &c.EndedMs, &c.EndReason, &c.NumParticipants, &c.NumPublishers,
		&c.NumJoined, &c.PeakParticipants, &c.ActiveRecording, &c.Version, &c.Seq, &c.TurnPassword, &r.config, &c.Metadata,
	}
}

// done returns the record, after the fields are scanned.
func (r *recordRow) done(d *damage) rooms.Record {
	var err error
	if string(r.config) != "{}" {
		err = json.Unmarshal(r.config, &r.record.Config)
	}
	if d.note("settings of room", r.record.SID, err) {
		r.record.Config = rooms.UnreadableConfig(string(r.config))
	}
	return r.record
}

// scanner is a row of a result.
type scanner interface{ Scan(dest ...any) error }

func scanRecord(s scanner, d *damage) (rooms.Record, error) {
	var r recordRow
	if err := s.Scan(r.fields()...); err != nil {
		return rooms.Record{}, err
	}
	return r.done(d), nil
}

// sessionColumns are a session's columns, in the order of scanSession.
const sessionColumns = `sid, room_sid, identity, joined_ms, active_ms, left_ms, reason, permitted_ms, edited_ms, host, info, media`

func scanSession(s scanner, d *damage) (rooms.Session, error) {
	var v rooms.Session
	var info, media []byte
	if err := s.Scan(&v.SID, &v.RoomSID, &v.Identity, &v.JoinedMs, &v.ActiveMs, &v.LeftMs, &v.Reason, &v.PermittedMs, &v.EditedMs, &v.Host, &info, &media); err != nil {
		return rooms.Session{}, err
	}
	v.Info = new(livekit.ParticipantInfo)
	if d.note("session", v.SID, proto.Unmarshal(info, v.Info)) {
		v.Info = &livekit.ParticipantInfo{Sid: v.SID, Identity: v.Identity, JoinedAt: v.JoinedMs / 1000, JoinedAtMs: v.JoinedMs}
		// What was decided is lost with it, so a token decides again.
		v.Damaged, v.PermittedMs, v.EditedMs = true, 0, 0
	}
	if len(media) > 0 && d.note("media of session", v.SID, json.Unmarshal(media, &v.Media)) {
		v.Media = nil
	}
	return v, nil
}

// eventColumns are an event's columns, in the order of eventFields.
const eventColumns = `seq, id, type, room_sid, room_name, room_seq, created_ms, epoch, body`

func eventFields(e *log.Event) []any {
	return []any{&e.Seq, &e.ID, &e.Type, &e.RoomSID, &e.RoomName, &e.RoomSeq, &e.CreatedMs, &e.Epoch, &e.Body}
}

// sessionRow is a session encoded for writing.
type sessionRow struct {
	*rooms.Session
	info  []byte
	media string
}

// changeRow is a change encoded for writing, on the caller's goroutine.
type changeRow struct {
	*rooms.Change
	config   string
	sessions []sessionRow

	dispatches []dispatchRow
	jobs       []jobRow
}

func encodeChange(c *rooms.Change) (changeRow, error) {
	r := changeRow{Change: c}
	if ended := c.Room.EndedMs != 0; ended != (c.Kind == rooms.ChangeEnd) {
		return r, fmt.Errorf("change of kind %d for a room that ends at %d", c.Kind, c.Room.EndedMs)
	}
	r.config = c.Room.Config.Unreadable // stays as it is until somebody sets another
	if r.config == "" {
		config, err := json.Marshal(&c.Room.Config)
		if err != nil {
			return r, fmt.Errorf("marshal settings of room %s: %w", c.Room.SID, err)
		}
		r.config = string(config)
	}
	// Sessions that end are written first, so that an identity is never present twice.
	for _, leaving := range []bool{true, false} {
		for i := range c.Sessions {
			v := &c.Sessions[i]
			if (v.LeftMs != 0) != leaving {
				continue
			}
			info, err := proto.Marshal(v.Info)
			if err != nil {
				return r, fmt.Errorf("marshal session %s: %w", v.SID, err)
			}
			if info == nil {
				info = []byte{} // SQLite would store nil as null
			}
			row := sessionRow{Session: v, info: info}
			if v.Media != nil {
				media, err := json.Marshal(v.Media)
				if err != nil {
					return r, fmt.Errorf("marshal the media of session %s: %w", v.SID, err)
				}
				row.media = string(media)
			}
			r.sessions = append(r.sessions, row)
		}
	}
	return r, r.encodeAgents()
}
