package api

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms"
	"parlor/server/access"
	"parlor/server/config"
)

// lobbyNames is how many names are told.
const lobbyNames = 20

// Occupier tells who is in a room.
type Occupier interface {
	Occupants(ctx context.Context, as *rooms.JoinRequest, anyway bool, names int) (rooms.Occupants, error)
}

// lobby is what somebody is told of a room before joining it.
type lobby struct {
	Room     string   `json:"room"`
	People   *int     `json:"people" doc:"How many are in the room, without the caller's own identity, hidden participants, agents and recorders; null if that is not told."`
	Names    []string `json:"names" doc:"Of the first 20 who came, without those who have none; empty also if they are not told."`
	Recorded bool     `json:"recorded" doc:"Somebody records the room; false also if that is not told."`
}

// lobbyRequest is the body of POST /v1/admissions/lobby.
type lobbyRequest struct {
	Secret string `json:"secret" required:"true" doc:"What stands in the link after #invite=."`
}

func (s *rest) lobbyOperations() []operation {
	const summary = " Told are those that would be let in now, as the configuration's room.lobby says, and hosts in any case. " +
		"Nothing is told, with 200, where the room is locked or full, guests wait for a host, or a hook decides who comes in."
	return []operation{
		{
			method: get, path: onRoom + "/lobby", id: "getLobby", tag: "rooms", grant: toEnter,
			summary: "Who is in a room, for somebody who is about to join it." + summary,
			status:  http.StatusOK, answer: lobby{}, bound: s.Looks, handle: s.getLobby,
		},
		{
			method: post, path: "/admissions/lobby", id: "getInvitationLobby", tag: "invitations", grant: toSignIn, open: true, role: access.Look, bound: s.Looks,
			summary: "The same for the bearer of an invitation, whose use is not counted." + summary + " 404 and 410 as of redeemInvitation.",
			body:    lobbyRequest{}, example: `{"secret":"IN_0VcI9zoCcwTsEjEdqXA.c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I"}`,
			status: http.StatusOK, answer: lobby{}, handle: s.getInvitationLobby,
		},
	}
}

// toEnter is the grant to come before a room.
var toEnter = grant{"roomJoin or roomAdmin of the room", func(r *http.Request) error {
	if toAdmin.ensure(r) == nil {
		return nil
	}
	name, err := pathValue(r, "name")
	if err != nil {
		return err
	}
	if room, err := access.EnsureJoin(r.Context()); err != nil || room != name || name == "" {
		return access.ErrDenied
	}
	return nil
}}

func (s *rest) getLobby(w http.ResponseWriter, r *http.Request) error {
	name, err := pathValue(r, "name")
	if err != nil {
		return err
	}
	claims := access.FromContext(r.Context())
	g := claims.Grants
	as := &rooms.JoinRequest{
		Room: name, Info: &livekit.ParticipantInfo{Identity: g.Identity, Name: g.Name, Kind: g.GetParticipantKind()},
		Host: g.Video.RoomAdmin, MayCreate: g.Video.RoomCreate, IssuedMs: claims.IssuedMs(),
	}
	switch {
	case strings.HasPrefix(claims.ID, "PA_"):
		as.Session = claims.ID
	case strings.HasPrefix(claims.ID, "AJ_"):
		as.Job = claims.ID
	}
	return s.tellLobby(w, r, as, toAdmin.ensure(r) == nil, false)
}

func (s *rest) getInvitationLobby(w http.ResponseWriter, r *http.Request) error {
	if err := s.invitationsOn(); err != nil {
		return err
	}
	var body lobbyRequest
	if err := s.readJSON(r, &body); err != nil {
		return err
	}
	found, err := s.invited(r.Context(), body.Secret)
	if err != nil {
		return err
	}
	now := s.now()
	if err := found.Usable(rooms.NowMs(now)); err != nil {
		return gone(err)
	}
	if !s.Verifier.Knows(found.APIKey) {
		return gone(rooms.ErrInvitationRevoked)
	}
	host := found.Role == rooms.RoleHost
	as := &rooms.JoinRequest{
		Room: found.RoomName, Info: &livekit.ParticipantInfo{Identity: invitedIdentity(found.Role)},
		Host: host, IssuedMs: rooms.NowMs(now),
	}
	return s.tellLobby(w, r, as, host, !host)
}

// tellLobby tells who is in the room that as is about. knocks: it waits where the room has a
// waiting room. What it may not know looks like what is not so.
func (s *rest) tellLobby(w http.ResponseWriter, r *http.Request, as *rooms.JoinRequest, host, knocks bool) error {
	out := lobby{Room: as.Room, Names: []string{}}
	if !host && (s.Hooked || as.Info.Identity == "") {
		return sendJSON(w, http.StatusOK, out)
	}
	names := 0
	if host || s.Lobby == config.LobbyNames {
		names = lobbyNames
	}
	found, err := s.Rooms.Occupants(r.Context(), as, host, names)
	if _, refused := errors.AsType[*rooms.Error](err); refused && rooms.ErrorCode(err) != rooms.Internal && rooms.ErrorCode(err) != rooms.Unavailable {
		return sendJSON(w, http.StatusOK, out)
	}
	if err != nil {
		return err
	}
	if knocks && found.WaitingRoom {
		return sendJSON(w, http.StatusOK, out)
	}
	out.Recorded = found.Recorded
	if names > 0 || s.Lobby == config.LobbyCount {
		out.People = &found.Count
		out.Names = append(out.Names, found.Names...)
	}
	return sendJSON(w, http.StatusOK, out)
}
