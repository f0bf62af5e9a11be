package api

import (
	"context"
	"net/http"
	"time"

	"parlor/rooms"
	"parlor/server/problem"
)

// Moderator is what moderators do to a room and its participants.
type Moderator interface {
	Governing(ctx context.Context, name string) (string, error)
	Ban(ctx context.Context, b rooms.Ban) error
	Revoke(ctx context.Context, room, identity string, notBeforeMs int64) error
	MuteAll(ctx context.Context, room string, which rooms.Hold, hold bool) ([]rooms.MutedTrack, error)
	Release(ctx context.Context, room string) error
}

// Moderation reads and lifts the stored bans and revocations.
type Moderation interface {
	Bans(ctx context.Context, roomName, afterIdentity string, limit int) ([]rooms.Ban, error)
	ClearBan(ctx context.Context, roomName, identity string) (bool, error)
	Revocations(ctx context.Context, roomName, afterIdentity string, limit int) ([]rooms.Revocation, error)
	ClearRevocation(ctx context.Context, roomName, identity string) (bool, error)
}

// ban keeps an identity out of every room of the name.
type ban struct {
	Identity  string     `json:"identity"`
	Until     *timestamp `json:"until" doc:"Null: until lifted."`
	CreatedAt *timestamp `json:"created_at"`
	Reason    string     `json:"reason"`
}

func showBan(b *rooms.Ban) ban {
	return ban{Identity: b.Identity, Until: at(b.UntilMs), CreatedAt: at(b.CreatedMs), Reason: b.Reason}
}

// banPage is a page of bans.
type banPage struct {
	Bans       []ban  `json:"bans"`
	NextCursor string `json:"next_cursor,omitempty" doc:"The cursor of the next page; without it this is the last."`
}

// listBans answers with a page of a room name's bans, by identity. The room need not be
// open.
func (s *rest) listBans(w http.ResponseWriter, r *http.Request) error {
	name, err := pathValue(r, "name")
	if err != nil {
		return err
	}
	if name, err = s.Rooms.Governing(r.Context(), name); err != nil {
		return err
	}
	limit, bad := pageSize(r.URL.Query())
	if bad != nil {
		return problem.Fields(*bad)
	}
	list, err := s.Moderation.Bans(r.Context(), name, r.URL.Query().Get("cursor"), limit+1)
	if err != nil {
		return err
	}
	page := banPage{Bans: []ban{}}
	if len(list) > limit {
		list = list[:limit]
		page.NextCursor = list[limit-1].Identity
	}
	for i := range list {
		page.Bans = append(page.Bans, showBan(&list[i]))
	}
	return sendJSON(w, http.StatusOK, page)
}

// banRequest is the body of PUT …/bans/{identity}.
type banRequest struct {
	Until  wireTime `json:"until,omitempty" doc:"When the ban runs out (RFC 3339); without it, never."`
	Reason string   `json:"reason,omitempty"`
}

// ban keeps an identity out, and sends it away if it is in the room.
func (s *rest) ban(w http.ResponseWriter, r *http.Request) error {
	at, err := pathValues(r, "name", "identity")
	if err != nil {
		return err
	}
	var body banRequest
	if err := s.readOptionalJSON(r, &body); err != nil {
		return err
	}
	b := rooms.Ban{
		RoomName: at[0], Identity: at[1], UntilMs: body.Until.ms(), CreatedMs: rooms.NowMs(time.Now()), Reason: body.Reason,
	}
	if b.UntilMs != 0 && b.UntilMs <= b.CreatedMs {
		return problem.Fields(problem.Field{Path: "until", Detail: "must be in the future"})
	}
	if err := s.Rooms.Ban(r.Context(), b); err != nil {
		return err
	}
	return sendJSON(w, http.StatusOK, showBan(&b))
}

func (s *rest) unban(w http.ResponseWriter, r *http.Request) error {
	at, err := pathValues(r, "name", "identity")
	if err != nil {
		return err
	}
	name, err := s.Rooms.Governing(r.Context(), at[0])
	if err != nil {
		return err
	}
	existed, err := s.Moderation.ClearBan(r.Context(), name, at[1])
	switch {
	case err != nil:
		return err
	case !existed:
		return problem.New(http.StatusNotFound, "not_found", "this identity is not banned")
	}
	return sendNothing(w)
}

// revocation is the body of POST …/revocations.
type revocation struct {
	Identity string   `json:"identity" required:"true"`
	Before   wireTime `json:"before,omitempty" doc:"Tokens that are valid from before this time (RFC 3339) are refused; now without it."`
}

// revoke refuses an identity's tokens for rooms of that name. A participant that is in
// the room stays in it.
func (s *rest) revoke(w http.ResponseWriter, r *http.Request) error {
	name, err := pathValue(r, "name")
	if err != nil {
		return err
	}
	var body revocation
	if err := s.readJSON(r, &body); err != nil {
		return err
	}
	if body.Identity == "" {
		return problem.Fields(problem.Field{Path: "identity", Detail: "is missing"})
	}
	before, now := body.Before.ms(), rooms.NowMs(time.Now())
	switch {
	case before == 0:
		before = now
	case before > now+time.Minute.Milliseconds():
		return problem.Fields(problem.Field{Path: "before", Detail: "must not be in the future: tokens that are made until then would be refused too"})
	}
	if err := s.Rooms.Revoke(r.Context(), name, body.Identity, before); err != nil {
		return err
	}
	return sendNothing(w)
}

// revoked tells which tokens of an identity are refused.
type revoked struct {
	Identity string     `json:"identity"`
	Before   *timestamp `json:"before" doc:"Tokens that are valid from before this time are refused."`
}

// revocationPage is a page of revocations.
type revocationPage struct {
	Revocations []revoked `json:"revocations"`
	NextCursor  string    `json:"next_cursor,omitempty" doc:"The cursor of the next page; without it this is the last."`
}

// listRevocations answers with a page of a room name's revocations, by identity. The room
// need not be open.
func (s *rest) listRevocations(w http.ResponseWriter, r *http.Request) error {
	name, err := pathValue(r, "name")
	if err != nil {
		return err
	}
	if name, err = s.Rooms.Governing(r.Context(), name); err != nil {
		return err
	}
	limit, bad := pageSize(r.URL.Query())
	if bad != nil {
		return problem.Fields(*bad)
	}
	list, err := s.Moderation.Revocations(r.Context(), name, r.URL.Query().Get("cursor"), limit+1)
	if err != nil {
		return err
	}
	page := revocationPage{Revocations: []revoked{}}
	if len(list) > limit {
		list = list[:limit]
		page.NextCursor = list[limit-1].Identity
	}
	for _, one := range list {
		page.Revocations = append(page.Revocations, revoked{Identity: one.Identity, Before: at(one.NotBeforeMs)})
	}
	return sendJSON(w, http.StatusOK, page)
}

// liftRevocation lifts a revocation. A ban of the identity stays.
func (s *rest) liftRevocation(w http.ResponseWriter, r *http.Request) error {
	at, err := pathValues(r, "name", "identity")
	if err != nil {
		return err
	}
	name, err := s.Rooms.Governing(r.Context(), at[0])
	if err != nil {
		return err
	}
	existed, err := s.Moderation.ClearRevocation(r.Context(), name, at[1])
	switch {
	case err != nil:
		return err
	case !existed:
		return problem.New(http.StatusNotFound, "not_found", "no tokens of this identity are revoked for rooms of this name")
	}
	return sendNothing(w)
}
