package rooms

import (
	"context"
	"errors"
)

// ErrBanned and ErrRevoked are the errors for a client that tries to join, or that calls
// the API with a token for joining.
var (
	ErrBanned  = &Error{Denied, "this identity is banned from the room"}
	ErrRevoked = &Error{Denied, "this token has been revoked: ask for a new one"}
)

// Admissible checks a token for a room against the stored bans and revocations. It
// returns [ErrBanned], [ErrRevoked], or nil if the token's bearer may join. issuedMs is
// the token's not-before time, in Unix ms. In a breakout room those of its main room hold, too.
func (rs *Rooms) Admissible(ctx context.Context, room, identity string, issuedMs int64) error {
	if rs.cfg.Moderation == nil {
		return nil
	}
	main, err := rs.mainOf(ctx, room)
	if err == nil && main.Name != "" {
		err = rs.admissible(ctx, main.Name, identity, issuedMs)
	}
	if err != nil {
		return err
	}
	return rs.admissible(ctx, room, identity, issuedMs)
}

func (rs *Rooms) admissible(ctx context.Context, room, identity string, issuedMs int64) error {
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

// CanResume returns an error if the client that resumes is banned or its token is
// revoked. A revoked token is still accepted if it was issued in that very session,
// because a revocation does not remove participants from a room.
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

// Ban refuses an identity in rooms of that name until b.UntilMs, and removes it if it is
// in the room. In a breakout room it is a ban from the main room; either way it holds in all
// rooms of the division.
func (rs *Rooms) Ban(ctx context.Context, b Ban) error {
	if rs.cfg.Moderation == nil {
		return Errorf(Unavailable, "bans cannot be stored here")
	}
	if err := rs.checkBan(&b); err != nil {
		return err
	}
	var err error
	if b.RoomName, err = rs.Governing(ctx, b.RoomName); err != nil {
		return err
	}
	if err := rs.cfg.Moderation.SetBan(ctx, b); err != nil {
		return err
	}
	if err = rs.removeFromAll(ctx, b.RoomName, b.Identity); ErrorCode(err) == NotFound {
		return nil
	}
	return err
}

// Expel revokes the tokens of an identity from before a time, see [Rooms.Revoke], and removes it
// from the room and from all rooms of its division. It fails with [ErrNoParticipant] if the
// identity is in none.
func (rs *Rooms) Expel(ctx context.Context, room, identity string, notBeforeMs int64) error {
	if err := rs.Revoke(ctx, room, identity, notBeforeMs); err != nil {
		return err
	}
	return rs.removeFromAll(ctx, room, identity)
}

// removeFromAll sends an identity away from a room and from all rooms of its division, also if
// it is on its way from one of them to another.
func (rs *Rooms) removeFromAll(ctx context.Context, room, identity string) error {
	ctx = context.WithoutCancel(ctx) // what is decided holds, also if the caller goes while it waits
	defer rs.turns.of(identity)()
	names, err := rs.meeting(ctx, room)
	if err != nil {
		return err
	}
	var errs error
	was := false
	for _, name := range names {
		err := rs.remove(ctx, name, identity, func(string) bool { return true })
		switch {
		case err == nil:
			was = true
		case ErrorCode(err) != NotFound:
			errs = errors.Join(errs, err)
		}
	}
	if errs == nil && !was {
		return ErrNoParticipant
	}
	return errs
}

// checkBan rejects bans that could never apply, or that are too long to store.
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

// Revoke durably invalidates the tokens of an identity for rooms of that name that were
// issued before notBeforeMs, in a breakout room those for its main room. A participant that is
// in the room stays.
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
	room, err := rs.Governing(ctx, room)
	if err != nil {
		return err
	}
	return rs.cfg.Moderation.SetRevocation(ctx, room, identity, notBeforeMs)
}
