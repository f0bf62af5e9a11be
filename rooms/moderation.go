package rooms

import (
	"context"
	"errors"

	"github.com/livekit/protocol/livekit"
)

// ErrBanned and ErrRevoked are said to whoever tries to join, or calls the API
// by a token for joining.
var (
	ErrBanned  = &Error{Denied, "this identity is banned from the room"}
	ErrRevoked = &Error{Denied, "this token has been revoked: ask for a new one"}
)

// Admissible holds a token for a room against the bans and revocations on disk:
// [ErrBanned], [ErrRevoked], or nil if its bearer may join. issuedMs is the token's
// not-before time.
func (rs *Rooms) Admissible(ctx context.Context, room, identity string, issuedMs int64) error {
	if rs.cfg.Moderation == nil {
		return nil
	}
	banned, revokedMs, err := rs.cfg.Moderation.Admission(ctx, room, identity)
	switch {
	case err != nil:
		return err
	case banned:
		return ErrBanned
	case revokedMs > 0 && issuedMs < revokedMs:
		return ErrRevoked
	}
	return nil
}

// CanResume fails if who asks for its session back is banned, or has a token that
// was revoked: unless the token was given in that very session, since who is in
// the room stays.
func (rs *Rooms) CanResume(ctx context.Context, req *JoinRequest) error {
	err := rs.Admissible(ctx, req.Room, req.Info.Identity, req.IssuedMs)
	if !errors.Is(err, ErrRevoked) || req.Session == "" {
		return err
	}
	if now, e := rs.Participant(ctx, req.Room, req.Info.Identity); e != nil || now.Sid != req.Session {
		return err
	}
	return nil
}

// Ban refuses an identity in rooms of that name until b.UntilMs, and sends it
// away if it is there.
func (rs *Rooms) Ban(ctx context.Context, b Ban) error {
	if rs.cfg.Moderation == nil {
		return Errorf(Unavailable, "bans cannot be stored here")
	}
	if err := rs.checkBan(&b); err != nil {
		return err
	}
	if err := rs.cfg.Moderation.SetBan(ctx, b); err != nil {
		return err
	}
	err := rs.Remove(ctx, &livekit.RoomParticipantIdentity{Room: b.RoomName, Identity: b.Identity})
	if ErrorCode(err) == NotFound {
		return nil
	}
	return err
}

// checkBan keeps what can never matter, or is too long, out of the database.
func (rs *Rooms) checkBan(b *Ban) error {
	const longest = 1000
	if err := rs.checkRoomName(b.RoomName); err != nil {
		return err
	}
	if len(b.Reason) > longest {
		return Errorf(Invalid, "the reason is longer than %d bytes", longest)
	}
	return rs.checkIdentity(b.Identity)
}

// checkTags holds a room's tags against what attributes are held against.
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

// RoomEdit is a change of an open room; nil leaves a field as it is.
type RoomEdit struct {
	Metadata         *string
	EmptyTimeout     *Timeout
	DepartureTimeout *Timeout
	MaxParticipants  *uint32
	Locked           *bool
	Tags             map[string]string
	// If refuses the change with [Precondition] unless it holds for the room as it is;
	// nil demands nothing. It must neither change the record nor wait.
	If func(*Record) bool
}

// Edit changes an open room. If it stands empty its deadline moves with its
// timeouts.
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
		if e.Tags != nil {
			rec.Config.Tags = e.Tags
		}
		rec.SetDeadline()
	})
}

// holds puts the condition of a conditional change to the room as its row shows it;
// nil demands nothing.
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

// Revoke makes tokens of an identity that were issued before notBeforeMs worthless
// for rooms of that name, durably. Who is in the room stays.
func (rs *Rooms) Revoke(ctx context.Context, room, identity string, notBeforeMs int64) error {
	if rs.cfg.Moderation == nil {
		return Errorf(Unavailable, "revocations cannot be stored here")
	}
	if err := rs.checkRoomName(room); err != nil {
		return err
	}
	if err := rs.checkIdentity(identity); err != nil {
		return err
	}
	return rs.cfg.Moderation.SetRevocation(ctx, room, identity, notBeforeMs)
}
