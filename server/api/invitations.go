package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/livekit/protocol/auth"

	"parlor/rooms"
	"parlor/rooms/guid"
	"parlor/server/access"
	"parlor/server/problem"
)

// Invitations are the links that let people in, on disk. What of them cannot be used is told
// by rooms.ErrNoInvitation, rooms.ErrInvitationRevoked, rooms.ErrInvitationExpired and
// rooms.ErrInvitationUsed.
type Invitations interface {
	AddInvitation(ctx context.Context, i rooms.Invitation, most int) error
	FindInvitation(ctx context.Context, id string) (rooms.Invitation, error)
	ListInvitations(ctx context.Context, roomName, afterID string, limit int) ([]rooms.Invitation, error)
	UseInvitation(ctx context.Context, id string, nowMs int64) (rooms.Invitation, error)
	RevokeInvitation(ctx context.Context, id string, nowMs int64) error
}

const (
	// maxInvitations is how many of a room name may be usable at a time.
	maxInvitations = 1000
	// invitedTTL is how long the token of one who was let in can be used to join; less if the
	// invitation ends before. Who is in the room gets newer ones.
	invitedTTL = time.Hour
	// leastTTL is its least: it takes a moment to join.
	leastTTL = 10 * time.Second
)

// invitationRequest is the body of POST …/invitations.
type invitationRequest struct {
	Role      string   `json:"role,omitempty" enum:"host,guest" doc:"guest without it. A host has roomAdmin of the room, and only the API key and its secret make one."`
	Uses      uint32   `json:"uses,omitempty" doc:"How often it can be used; no limit without it."`
	ExpiresAt wireTime `json:"expires_at,omitempty" doc:"From when on it cannot be used (RFC 3339); never without it."`
	Name      string   `json:"name,omitempty" doc:"Whom it is for: the name of those who give none."`
}

// invitation is one as REST shows it, without its secret, which only its maker is told.
type invitation struct {
	ID        string     `json:"id"`
	Room      string     `json:"room"`
	Role      string     `json:"role" enum:"host,guest"`
	Name      string     `json:"name"`
	State     string     `json:"state" enum:"usable,revoked,expired,used"`
	Uses      *int64     `json:"uses" doc:"Null: no limit."`
	Used      int64      `json:"used" doc:"How often it was used."`
	UsedAt    *timestamp `json:"used_at" doc:"The last time; null: never."`
	CreatedAt *timestamp `json:"created_at"`
	CreatedBy string     `json:"created_by" doc:"The identity of the host who made it; empty: the API key."`
	ExpiresAt *timestamp `json:"expires_at" doc:"Null: never."`
	RevokedAt *timestamp `json:"revoked_at" doc:"Null: it was not."`
}

func showInvitation(i *rooms.Invitation, nowMs int64) invitation {
	out := invitation{
		ID: i.ID, Room: i.RoomName, Role: i.Role, Name: i.Name, State: "usable", Used: i.Used, UsedAt: at(i.UsedMs),
		CreatedAt: at(i.CreatedMs), CreatedBy: i.CreatedBy, ExpiresAt: at(i.ExpiresMs), RevokedAt: at(i.RevokedMs),
	}
	if i.Uses != 0 {
		out.Uses = &i.Uses
	}
	if code := unusable(i.Usable(nowMs)); code != "" {
		out.State = code
	}
	return out
}

// unusable is in a word why an invitation cannot be used.
func unusable(err error) string {
	switch {
	case errors.Is(err, rooms.ErrInvitationRevoked):
		return "revoked"
	case errors.Is(err, rooms.ErrInvitationExpired):
		return "expired"
	case errors.Is(err, rooms.ErrInvitationUsed):
		return "used"
	}
	return ""
}

// newInvitation is an invitation that was just made, with what nobody is told again.
type newInvitation struct {
	Invitation invitation `json:"invitation"`
	Secret     string     `json:"secret" doc:"What POST /v1/admissions takes. It is told once, and kept nowhere."`
	Link       string     `json:"link" doc:"The page that takes it, with the secret after the hash, which no server and no log sees."`
}

type invitationPage struct {
	Invitations []invitation `json:"invitations"`
	NextCursor  string       `json:"next_cursor,omitempty" doc:"The cursor of the next page; without it this is the last."`
}

// redeemRequest is the body of POST /v1/admissions.
type redeemRequest struct {
	Secret string `json:"secret" required:"true" doc:"What stands in the link after #invite=."`
	Name   string `json:"name,omitempty" doc:"The name that others see; the invitation's without it."`
	Knock  string `json:"knock,omitempty" doc:"What the answer 202 had, to ask whether a host has decided."`
}

// withdrawRequest is the body of POST /v1/admissions/withdraw.
type withdrawRequest struct {
	Secret string `json:"secret" required:"true" doc:"What stands in the link after #invite=."`
	Knock  string `json:"knock" required:"true" doc:"What the answer 202 had."`
}

// admission is what an invitation is exchanged for.
type admission struct {
	Token     string     `json:"token"`
	Identity  string     `json:"identity"`
	Name      string     `json:"name"`
	Room      string     `json:"room"`
	Role      string     `json:"role" enum:"host,guest"`
	ExpiresAt *timestamp `json:"expires_at" doc:"Until when the token can be used to join."`
}

func (s *rest) invitationOperations() []operation {
	const tag = "invitations"
	return []operation{
		{
			method: post, path: onRoom + "/invitations", id: "createInvitation", tag: tag, grant: toAdmin, role: access.All,
			summary: "Make a link that lets people into whatever room bears the name, without a token of an application. The room need not be open. Hosts only the API key and its secret may invite. 404 (code invitations_off) unless the configuration has invitations: true.",
			body:    invitationRequest{}, optional: true, example: `{"role":"guest","uses":10,"expires_at":"2030-01-31T12:00:00Z"}`,
			status: http.StatusCreated, answer: newInvitation{}, secret: true, handle: s.createInvitation,
		},
		{
			method: get, path: onRoom + "/invitations", id: "listInvitations", tag: tag, grant: toAdmin,
			summary: "The invitations of a room name, usable or not, in the order of their making. Those that cannot be used any more are forgotten after 30 days.",
			query:   pageParameters(), status: http.StatusOK, answer: invitationPage{}, handle: s.listInvitations,
		},
		{
			method: get, path: "/invitations", id: "listAllInvitations", tag: tag, grant: toOperate,
			summary: "The invitations of all room names.",
			query:   pageParameters(), status: http.StatusOK, answer: invitationPage{}, handle: s.listInvitations,
		},
		{
			method: del, path: onRoom + "/invitations/{id}", id: "revokeInvitation", tag: tag, grant: toAdmin,
			summary: "Take an invitation back; a host's only the API key and its secret may. Who was let in stays, and may come back with the token for up to an hour.",
			status:  http.StatusNoContent, handle: s.revokeInvitation,
		},
		{
			method: post, path: "/admissions", id: "redeemInvitation", tag: tag, grant: toSignIn, open: true, role: access.Look, bound: s.Redeem,
			summary: "Exchange an invitation for a token to join, which counts one use. 202 if the open room has a waiting room and the invitation is a guest's: ask again every few seconds with the knock of the answer; a host's decision is 201 or 403 (code knock_refused). 429 (code too_many_knocks) if too many wait. 404 (code invitation_unknown); 410 (code invitation_revoked, invitation_expired or invitation_used).",
			body:    redeemRequest{}, example: `{"secret":"IN_0VcI9zoCcwTsEjEdqXA.c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I","name":"Ada"}`,
			status: http.StatusCreated, answer: admission{}, accepted: waiting{}, secret: true, handle: s.redeemInvitation,
		},
		{
			method: post, path: "/admissions/withdraw", id: "withdrawKnock", tag: tag, grant: toSignIn, open: true, role: access.Look, bound: s.Redeem,
			summary: "Wait no more: hosts do not see the bearer of the knock any longer. A knock that is not known is no error.",
			body:    withdrawRequest{}, example: `{"secret":"IN_0VcI9zoCcwTsEjEdqXA.c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I","knock":"KN_x.c2VjcmV0"}`,
			status: http.StatusNoContent, handle: s.withdraw,
		},
		{
			method: get, path: onRoom + "/knocks", id: "listKnocks", tag: tag, grant: toAdmin,
			summary: "Who waits before a room that has a waiting room, in the order of coming: 100 at most. They are forgotten a minute and a half after they stop asking.",
			status:  http.StatusOK, answer: knockList{}, handle: s.listKnocks,
		},
		{
			method: post, path: onRoom + "/knocks/admit", id: "admitAllKnocks", tag: tag, grant: toAdmin,
			summary: "Let in everybody who waits now.",
			status:  http.StatusNoContent, handle: s.admitAll,
		},
		{
			method: post, path: onRoom + "/knocks/{id}/admit", id: "admitKnock", tag: tag, grant: toAdmin,
			summary: "Let in one who waits.",
			status:  http.StatusNoContent, handle: s.decide(knockAdmitted),
		},
		{
			method: post, path: onRoom + "/knocks/{id}/refuse", id: "refuseKnock", tag: tag, grant: toAdmin,
			summary: "Send away one who waits.",
			status:  http.StatusNoContent, handle: s.decide(knockRefused),
		},
	}
}

// now is the time by which invitations expire.
func (c *Config) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

func (s *rest) invitationsOn() error {
	if s.Invitations == nil {
		return problem.New(http.StatusNotFound, "invitations_off", "this server has no invitations: set invitations to true in its configuration")
	}
	return nil
}

// InvitationLink is the link of an invitation: the page's address, with the secret after the
// hash, which no server and no log sees.
func InvitationLink(page, secret string) string { return page + "#invite=" + secret }

func (s *rest) createInvitation(w http.ResponseWriter, r *http.Request) error {
	if err := s.invitationsOn(); err != nil {
		return err
	}
	room, err := pathValue(r, "name")
	if err != nil {
		return err
	}
	var body invitationRequest
	if err := s.readOptionalJSON(r, &body); err != nil {
		return err
	}
	if body.Role == "" {
		body.Role = rooms.RoleGuest
	}
	if body.Role == rooms.RoleHost && toOperate.ensure(r) != nil {
		return access.ErrDenied
	}
	now := s.now()
	if err := s.checkInvitation(room, &body, rooms.NowMs(now)); err != nil {
		return err
	}
	claims := access.FromContext(r.Context())
	i := rooms.Invitation{
		ID: guid.New("IN_"), RoomName: room, Role: body.Role, Name: body.Name, APIKey: claims.APIKey,
		CreatedBy: claims.Grants.Identity, CreatedMs: rooms.NowMs(now), Uses: int64(body.Uses), ExpiresMs: body.ExpiresAt.ms(),
	}
	out := newInvitation{Secret: i.NewSecret()}
	if err := s.Invitations.AddInvitation(r.Context(), i, maxInvitations); err != nil {
		return err
	}
	out.Invitation = showInvitation(&i, i.CreatedMs)
	out.Link = InvitationLink(s.pageOf(r), out.Secret)
	s.Log.Info("invitation made", append([]any{"id", i.ID, "room", i.RoomName, "role", i.Role}, by(r.Context(), r.RemoteAddr)...)...)
	return sendJSON(w, http.StatusCreated, out)
}

func (s *rest) checkInvitation(room string, body *invitationRequest, nowMs int64) error {
	var wrong []problem.Field
	add := func(bad bool, path, detail string) {
		if bad {
			wrong = append(wrong, problem.Field{Path: path, Detail: detail})
		}
	}
	add(strings.ContainsRune(room, 0), "room", hasNUL)
	add(strings.ContainsRune(body.Name, 0), "name", hasNUL)
	add(body.Role != rooms.RoleHost && body.Role != rooms.RoleGuest, "role", "must be host or guest")
	add(body.ExpiresAt.ms() != 0 && body.ExpiresAt.ms() <= nowMs, "expires_at", "must be in the future")
	long := tokenRequest{Room: room, Name: body.Name}
	wrong = append(wrong, long.tooLong(&s.Limits)...)
	if wrong != nil {
		return problem.Fields(wrong...)
	}
	return nil
}

// pageOf is where people open the page: the configuration's domain, or the address by which
// the caller reached the server, as a proxy in front says it.
func (s *rest) pageOf(r *http.Request) string {
	if s.Page != "" {
		return s.Page
	}
	u := url.URL{Scheme: "http", Host: r.Host, Path: path.Join("/", r.Header.Get("X-Forwarded-Prefix"))}
	if u.Path != "/" {
		u.Path += "/"
	}
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		u.Scheme = "https"
	}
	return u.String()
}

func (s *rest) listInvitations(w http.ResponseWriter, r *http.Request) error {
	if err := s.invitationsOn(); err != nil {
		return err
	}
	params := r.URL.Query()
	limit, bad := pageSize(params)
	if bad != nil {
		return problem.Fields(*bad)
	}
	room, err := pathValue(r, "name") // "" where there is none in the path: all rooms
	if err != nil {
		return err
	}
	list, err := s.Invitations.ListInvitations(r.Context(), room, params.Get("cursor"), limit+1)
	if err != nil {
		return err
	}
	page := invitationPage{Invitations: []invitation{}}
	if len(list) > limit {
		list = list[:limit]
		page.NextCursor = list[limit-1].ID
	}
	for i := range list {
		page.Invitations = append(page.Invitations, showInvitation(&list[i], rooms.NowMs(s.now())))
	}
	return sendJSON(w, http.StatusOK, page)
}

func (s *rest) revokeInvitation(w http.ResponseWriter, r *http.Request) error {
	if err := s.invitationsOn(); err != nil {
		return err
	}
	at, err := pathValues(r, "name", "id")
	if err != nil {
		return err
	}
	found, err := s.Invitations.FindInvitation(r.Context(), at[1])
	if err == nil && found.RoomName != at[0] {
		err = rooms.ErrNoInvitation
	}
	if err != nil {
		return err
	}
	if found.Role != rooms.RoleGuest && toOperate.ensure(r) != nil {
		return access.ErrDenied
	}
	if err := s.Invitations.RevokeInvitation(r.Context(), found.ID, rooms.NowMs(s.now())); err != nil {
		return err
	}
	return sendNothing(w)
}

// invited is the invitation that a link's text is of, whether it can be used or not. Unknown
// ids and wrong secrets are answered alike, and the secret is compared in constant time.
func (s *rest) invited(ctx context.Context, text string) (rooms.Invitation, error) {
	id, secret, _ := strings.Cut(text, ".")
	found, err := s.Invitations.FindInvitation(ctx, id)
	if err != nil && !errors.Is(err, rooms.ErrNoInvitation) {
		return rooms.Invitation{}, err
	}
	hash := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(hash[:], found.SecretHash[:]) != 1 || err != nil {
		return rooms.Invitation{}, problem.New(http.StatusNotFound, "invitation_unknown", "there is no such invitation: open the whole link that you were sent")
	}
	if found.CreatedBy != "" { // the links of a host that was sent away end with it
		err := s.Rooms.Admissible(ctx, found.RoomName, found.CreatedBy, found.CreatedMs)
		if errors.Is(err, rooms.ErrBanned) || errors.Is(err, rooms.ErrRevoked) {
			return rooms.Invitation{}, gone(rooms.ErrInvitationRevoked)
		}
		if err != nil { // nobody is let in before that is known
			return rooms.Invitation{}, err
		}
	}
	return found, nil
}

// gone answers the bearer of an invitation that cannot be used. Other errors stay.
func gone(err error) error {
	if why := unusable(err); why != "" {
		return problem.New(http.StatusGone, "invitation_"+why, "%s", err.Error())
	}
	return err
}

// redeemInvitation lets somebody in. Why an invitation cannot be used only its bearer is told.
func (s *rest) redeemInvitation(w http.ResponseWriter, r *http.Request) error {
	if err := s.invitationsOn(); err != nil {
		return err
	}
	var body redeemRequest
	if err := s.readJSON(r, &body); err != nil {
		return err
	}
	if strings.ContainsRune(body.Name, 0) {
		return problem.Fields(problem.Field{Path: "name", Detail: hasNUL})
	}
	if most := s.Limits.MaxParticipantName; most > 0 && len(body.Name) > most {
		return problem.Fields(problem.Field{Path: "name", Detail: "must not be longer than " + strconv.Itoa(most) + " bytes"})
	}
	found, err := s.invited(r.Context(), body.Secret)
	if err != nil {
		return err
	}
	now := s.now()
	entry, err := s.enter(r, &found, &body, now)
	if err != nil {
		return err
	}
	if entry.waiting != nil {
		return sendJSON(w, http.StatusAccepted, entry.waiting)
	}
	if entry.answer != nil { // the first did not arrive
		return sendJSON(w, http.StatusCreated, entry.answer)
	}
	used, err := s.Invitations.UseInvitation(r.Context(), found.ID, rooms.NowMs(now))
	if err != nil {
		s.knocks.failed(entry.knock, unusable(err) == "")
		return gone(err)
	}
	out, err := s.admit(&used, entry.name, now)
	if err != nil {
		s.knocks.failed(entry.knock, false)
		return err
	}
	s.knocks.entered(entry.knock, out)
	s.Log.Info("invitation used", "id", used.ID, "room", used.RoomName, "role", used.Role, "participant", out.Identity, "used", used.Used, "address", access.Address(r.RemoteAddr))
	return sendJSON(w, http.StatusCreated, out)
}

// invitedIdentity is an identity that nobody else has.
func invitedIdentity(role string) string {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails, by its contract
	return role + "-" + hex.EncodeToString(random[:])
}

// admit makes a token for one who was let in, under an identity that nobody else has.
func (s *rest) admit(i *rooms.Invitation, name string, now time.Time) (*admission, error) {
	out := &admission{Identity: invitedIdentity(i.Role), Name: name, Room: i.RoomName, Role: i.Role}
	if out.Name == "" {
		out.Name = i.Name
	}
	ttl := invitedTTL
	if left := i.ExpiresMs - rooms.NowMs(now); i.ExpiresMs != 0 && left < invitedTTL.Milliseconds() {
		ttl = max(leastTTL, time.Duration(left)*time.Millisecond)
	}
	var err error
	out.Token, err = s.Verifier.Mint(i.APIKey, &auth.ClaimGrants{
		Identity: out.Identity, Name: out.Name,
		Video: &auth.VideoGrant{RoomJoin: true, Room: i.RoomName, RoomAdmin: i.Role == rooms.RoleHost},
	}, ttl)
	if err != nil { // the configuration does not have the key any more
		return nil, gone(rooms.ErrInvitationRevoked)
	}
	out.ExpiresAt = at(rooms.NowMs(time.Now().Add(ttl)))
	return out, nil
}
