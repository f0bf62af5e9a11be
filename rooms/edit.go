package rooms

import "context"

// RoomEdit is a change of an open room; nil leaves a field as it is.
type RoomEdit struct {
	Metadata         *string
	EmptyTimeout     *Timeout
	DepartureTimeout *Timeout
	MaxParticipants  *uint32
	Locked           *bool
	WaitingRoom      *bool
	KeepChat         *bool // false deletes what was kept
	Tags             map[string]string
	// If refuses the change with [Precondition] unless it holds for the room as it is;
	// nil demands nothing. It must neither change the record nor wait.
	If func(*Record) bool
}

// Edit changes an open room. If the room is empty, its deadline moves with its timeouts.
func (rs *Rooms) Edit(ctx context.Context, name string, e RoomEdit) (Record, error) {
	if e.Metadata != nil {
		if err := rs.checkMetadata(*e.Metadata); err != nil {
			return Record{}, err
		}
	}
	if err := rs.checkTags(e.Tags); err != nil {
		return Record{}, err
	}
	return rs.edit(ctx, name, e.If, func(rec *Record) {
		set(&rec.Metadata, e.Metadata)
		set(&rec.EmptyTimeout, e.EmptyTimeout)
		set(&rec.DepartureTimeout, e.DepartureTimeout)
		set(&rec.MaxParticipants, e.MaxParticipants)
		set(&rec.Config.Locked, e.Locked)
		set(&rec.Config.WaitingRoom, e.WaitingRoom)
		set(&rec.Config.KeepChat, e.KeepChat)
		if e.Tags != nil {
			rec.Config.Tags = e.Tags
		}
		if e.Locked != nil || e.WaitingRoom != nil || e.KeepChat != nil || e.Tags != nil {
			rec.Config.Readable()
		}
		rec.SetDeadline()
	})
}

// holds checks the condition of a conditional change against the room's row; nil demands
// nothing.
func (r *Room) holds(condition func(*Record) bool) error {
	if condition == nil {
		return nil
	}
	if row := r.row(); !condition(&row) {
		return Errorf(Precondition, "the room has changed, or is another of this name")
	}
	return nil
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// checkTags checks a room's tags against the limit for attributes.
func (rs *Rooms) checkTags(tags map[string]string) error {
	size := 0
	for k, v := range tags {
		size += len(k) + len(v)
	}
	if most := rs.cfg.Limits.MaxAttributes; most > 0 && size > most {
		return Errorf(Invalid, "the room's tags are longer than %d bytes together", most)
	}
	return nil
}
