package rooms

import (
	"context"
	"errors"

	"github.com/livekit/protocol/livekit"
)

// ErrBanned and ErrRevoked are the answers to a client that tries to join, or
// calls the API by a token for joining.
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

// CanResume fails if the client that asks for its session back is banned, or has a
// token that was revoked: unless the token was given in that very session, since a
// participant that is in the room stays.
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

// Revoke makes tokens of an identity that were issued before notBeforeMs worthless
// for rooms of that name, durably. A participant that is in the room stays.
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
