package api_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/server/access"
	"parlor/server/config"
	"parlor/server/ratelimit"
)

type lobbyJSON struct {
	Room     string
	People   *int
	Names    []string
	Recorded bool
}

// String is what is told, in short.
func (l lobbyJSON) String() string {
	people := "null"
	if l.People != nil {
		people = fmt.Sprint(*l.People)
	}
	return fmt.Sprintf("%s %v %v", people, l.Names, l.Recorded)
}

const nothing = "null [] false"

// names has a participant join under a name.
func (h *house) names(room, identity, name string, kind livekit.ParticipantInfo_Kind, hidden bool) {
	h.t.Helper()
	g := &guest{}
	p, _, err := h.rooms.Join(h.t.Context(), rooms.JoinRequest{
		Room: room, Protocol: 17, Outlet: g, IssuedMs: rooms.NowMs(time.Now()),
		Info: &livekit.ParticipantInfo{Identity: identity, Name: name, Kind: kind, Permission: &livekit.ParticipantPermission{Hidden: hidden}},
	})
	require.NoError(h.t, err)
	require.NoError(h.t, p.Enter(noMedia{g}, func(*rooms.Participant, rooms.Snapshot) {}))
}

// openLobby is a house where people are in the room board, and what the lobby tells of it.
func openLobby(t *testing.T, edit func(*inviting)) *inviting {
	h := openInviting(t)
	h.config.Lobby = config.LobbyNames
	if edit != nil {
		edit(h)
	}
	h.Close()
	h.serve(h.config)
	h.names("board", "ada", "<b>Ada</b>", livekit.ParticipantInfo_STANDARD, false)
	h.names("board", "nameless", "", livekit.ParticipantInfo_STANDARD, false)
	h.names("board", "spy", "Spy", livekit.ParticipantInfo_STANDARD, true)
	h.names("board", "bot", "Bot", livekit.ParticipantInfo_AGENT, false)
	return h
}

func (i *inviting) look(token string) told {
	i.t.Helper()
	return i.shown("GET", "/v1/rooms/board/lobby", token, "")
}

func (i *inviting) lookBy(secret string) told {
	i.t.Helper()
	return i.shown("POST", "/v1/admissions/lobby", "", fmt.Sprintf(`{"secret":%q}`, secret))
}

// told is what a look has told: that, in short, or the code of a problem.
type told struct {
	status int
	what   string
}

func (i *inviting) shown(method, path, token, body string) told {
	i.t.Helper()
	resp, answer := i.ask(method, path, token, "application/json", body)
	require.Equal(i.t, "no-store", resp.Header.Get("Cache-Control"))
	if resp.StatusCode != 200 {
		return told{resp.StatusCode, read[problemJSON](i.t, answer).Code}
	}
	l := read[lobbyJSON](i.t, answer)
	require.Equal(i.t, "board", l.Room)
	return told{200, l.String()}
}

func (i *inviting) grant(identity, room string, g auth.VideoGrant) string {
	i.t.Helper()
	g.Room = room
	token, err := i.verifier.Mint(key, &auth.ClaimGrants{Identity: identity, Video: &g}, time.Hour)
	require.NoError(i.t, err)
	return token
}

// The lobby names the people in the room, but for hidden ones, to a caller that the room would
// let in at once. A token or an invitation for something else tells nothing.
func TestTheLobbyTellsThoseWhoMayJoin(t *testing.T) {
	h := openLobby(t, nil)
	const all = "2 [<b>Ada</b>] false"
	join := auth.VideoGrant{RoomJoin: true}
	guests, hosts := h.invite("board", `{"uses":1}`), h.invite("board", `{"role":"host"}`)
	require.Equal(t, told{200, all}, h.look(h.grant("eve", "board", join)))
	require.Equal(t, told{200, all}, h.lookBy(guests.Secret))
	require.Equal(t, told{200, all}, h.lookBy(hosts.Secret))
	require.Equal(t, told{200, "1 [] false"}, h.look(h.grant("ada", "board", join)))
	require.Equal(t, 200, h.status("GET", "/v1/rooms/board/lobby", ""))
	require.Zero(t, h.list("board")[0].Used+h.list("board")[1].Used, "no use is counted")

	for who, token := range map[string]string{
		"for another room":      h.grant("eve", "plain", join),
		"that is not for rooms": h.grant("eve", "board", auth.VideoGrant{}),
		"for no room":           h.grant("eve", "", join),
		"that lists rooms":      h.grant("", "", auth.VideoGrant{RoomList: true}),
	} {
		require.Equal(t, 403, h.look(token).status, "a token %s", who)
	}
	require.Equal(t, 401, h.look("").status)
	require.Equal(t, told{200, nothing}, h.look(h.grant("", "board", join)))

	h.names("board", "tape", "Tape", livekit.ParticipantInfo_EGRESS, true)
	require.Equal(t, told{200, "2 [<b>Ada</b>] true"}, h.lookBy(guests.Secret))

	status, answer := h.redeem(guests.Secret)
	require.Equal(t, 201, status)
	admitted := read[admissionJSON](t, answer).Token
	require.Equal(t, told{410, "invitation_used"}, h.lookBy(guests.Secret))
	require.Equal(t, told{200, "2 [<b>Ada</b>] true"}, h.look(admitted))
	require.Equal(t, told{404, "invitation_unknown"}, h.lookBy(guests.Secret+"x"))
	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/board/invitations/"+hosts.Invitation.ID, ""))
	require.Equal(t, told{410, "invitation_revoked"}, h.lookBy(hosts.Secret))
	hosts = h.invite("board", `{"role":"host"}`)
	past := h.invite("board", `{"expires_at":"2100-01-01T00:00:00Z"}`)
	h.now.Add(time.Duration(80 * 365 * 24 * time.Hour).Milliseconds())
	require.Equal(t, told{410, "invitation_expired"}, h.lookBy(past.Secret))

	h.Close()
	h.config.Verifier = access.NewVerifier(map[string]string{"other": secret})
	h.serve(h.config)
	require.Equal(t, told{410, "invitation_revoked"}, h.lookBy(hosts.Secret), "the server has its key no more")
}

// Who would have to wait, or would be refused, is told nothing, and cannot tell an empty room
// from a full one. Hosts know in any case.
func TestTheLobbyTellsNobodyElse(t *testing.T) {
	h := openLobby(t, nil)
	const all = "2 [<b>Ada</b>] false"
	eve := h.grant("eve", "board", auth.VideoGrant{RoomJoin: true})
	boss := h.grant("boss", "board", auth.VideoGrant{RoomJoin: true, RoomAdmin: true})
	guests, hosts := h.invite("board", ""), h.invite("board", `{"role":"host"}`)
	set := func(body string) {
		t.Helper()
		require.Equal(t, 200, h.status("PATCH", "/v1/rooms/board", body))
	}
	hostsKnow := func() {
		t.Helper()
		require.Equal(t, told{200, all}, h.look(boss))
		require.Equal(t, told{200, all}, h.lookBy(hosts.Secret))
	}

	set(`{"waiting_room":true}`)
	require.Equal(t, told{200, nothing}, h.lookBy(guests.Secret))
	require.Equal(t, told{200, all}, h.look(eve))
	hostsKnow()
	knock := h.waits(guests.Secret, "", "Gus")
	require.Equal(t, told{200, nothing}, h.lookBy(guests.Secret))
	ids, _ := h.knocks(boss)
	require.Equal(t, 204, h.do(boss, "POST", "/knocks/"+ids[0]+"/admit", ""))
	_, answer := h.knock(guests.Secret, knock, "Gus")
	require.Equal(t, told{200, all}, h.look(read[admissionJSON](t, answer).Token))

	set(`{"waiting_room":false,"locked":true}`)
	require.Equal(t, told{200, nothing}, h.look(eve))
	require.Equal(t, told{200, nothing}, h.lookBy(guests.Secret))
	hostsKnow()
	set(`{"locked":false,"max_participants":2}`)
	require.Equal(t, told{200, nothing}, h.look(eve))
	require.Equal(t, told{200, nothing}, h.lookBy(guests.Secret))
	hostsKnow()
	set(`{"max_participants":9}`)
	require.Equal(t, told{200, all}, h.look(eve))

	require.Equal(t, 200, h.status("PUT", "/v1/rooms/board/bans/eve", ""))
	require.Equal(t, told{403, "banned"}, h.look(eve))
}

// The configuration decides what those who are no hosts are told, and where a hook decides who
// comes in it is nothing.
func TestWhatTheLobbyTells(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*inviting)
		want string
	}{
		"names":   {func(h *inviting) { h.config.Lobby = config.LobbyNames }, "2 [<b>Ada</b>] false"},
		"count":   {func(h *inviting) { h.config.Lobby = config.LobbyCount }, "2 [] false"},
		"nothing": {func(h *inviting) { h.config.Lobby = config.LobbyNothing }, nothing},
		"unset":   {func(h *inviting) { h.config.Lobby = "" }, nothing},
		"hook":    {func(h *inviting) { h.config.Hooked = true }, nothing},
	} {
		t.Run(name, func(t *testing.T) {
			h := openLobby(t, c.edit)
			require.Equal(t, told{200, c.want}, h.look(h.grant("eve", "board", auth.VideoGrant{RoomJoin: true})))
			require.Equal(t, told{200, c.want}, h.lookBy(h.invite("board", "").Secret))
			require.Equal(t, told{200, "2 [<b>Ada</b>] false"}, h.look(h.grant("boss", "board", auth.VideoGrant{RoomAdmin: true})))
			require.Equal(t, told{200, "2 [<b>Ada</b>] false"}, h.lookBy(h.invite("board", `{"role":"host"}`).Secret))
		})
	}
}

// Looking is bounded for each address, by GET, HEAD and POST together, and is nothing that was
// done: neither the audit nor the log of calls has it.
func TestLooksAreBounded(t *testing.T) {
	h := openLobby(t, func(h *inviting) {
		h.config.Looks = ratelimit.New(ratelimit.Config{What: "lobby", PerAddress: 1, Burst: 3 * time.Second})
	})
	guests := h.invite("board", "")
	eve := h.grant("eve", "board", auth.VideoGrant{RoomJoin: true})
	require.Equal(t, told{200, "2 [<b>Ada</b>] false"}, h.look(eve))
	resp, _ := h.ask("HEAD", "/v1/rooms/board/lobby", eve, "", "")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, told{200, "2 [<b>Ada</b>] false"}, h.lookBy(guests.Secret))
	for _, c := range [][3]string{{"GET", "/v1/rooms/board/lobby", ""}, {"HEAD", "/v1/rooms/board/lobby", ""}, {"POST", "/v1/admissions/lobby", fmt.Sprintf(`{"secret":%q}`, guests.Secret)}} {
		refused := false
		for range 1000 { // as many come as are faster than one a second
			if resp, _ := h.ask(c[0], c[1], eve, "application/json", c[2]); resp.StatusCode == 429 {
				refused = true
				break
			}
		}
		require.True(t, refused, c[0])
	}
	h.Close()
	require.NotContains(t, h.log.String(), "lobby")
}
