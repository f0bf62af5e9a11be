package api_test

import (
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/stretchr/testify/require"
)

// Who may run a room is decided there: one who was made host may with the token that it has,
// and one who is none any more may not, whatever its token says.
func TestTheRoomDecidesWhoRunsIt(t *testing.T) {
	h := open(t)
	of := func(identity string, g auth.VideoGrant) string {
		g.RoomJoin, g.Room = true, "sec"
		token, err := h.verifier.Mint(key, &auth.ClaimGrants{Identity: identity, Video: &g}, time.Hour)
		require.NoError(t, err)
		return token
	}
	ada := of("ada", auth.VideoGrant{})
	bob := of("bob", auth.VideoGrant{RoomAdmin: true, RoomCreate: true, DestinationRoom: "side"})
	viewer, err := h.verifier.Mint(key, &auth.ClaimGrants{Identity: "ada", Video: &auth.VideoGrant{Room: "sec"}}, time.Hour)
	require.NoError(t, err)
	h.mustJoin("sec", "ada")
	h.mustJoin("sec", "bob")
	h.mustJoin("sec", "eve")

	calls := []struct{ method, path, body string }{
		{"GET", "/participants", ""},
		{"PATCH", "", `{"metadata":"mine"}`},
		{"PUT", "/participants/eve/host", ""},
		{"DELETE", "/participants/eve/host", ""},
		{"GET", "/stats", ""},
		{"GET", "/participants/eve/samples", ""},
		{"DELETE", "/mute", ""},
	}
	may := func(who, token string, want bool) {
		t.Helper()
		for _, c := range calls {
			kind := ""
			if c.body != "" {
				kind = "application/json"
			}
			resp, body := h.ask(c.method, "/v1/rooms/sec"+c.path, token, kind, c.body)
			if want {
				require.Less(t, resp.StatusCode, 300, "%s: %s %s: %s", who, c.method, c.path, body)
			} else {
				require.Equal(t, 403, resp.StatusCode, "%s: %s %s: %s", who, c.method, c.path, body)
			}
		}
		resp, body := h.ask("GET", "/v1/events?room=sec", token, "", "")
		require.Equal(t, want, resp.StatusCode == 200, body)
		status, body := h.twirp("UpdateRoomMetadata", token, `{"room":"sec","metadata":"mine"}`)
		require.Equal(t, want, status == 200, body)
	}
	may("ada", ada, false)
	may("bob", bob, true)
	resp, body := h.ask("PUT", "/v1/rooms/sec/participants/ada/host", bob, "", "")
	require.Equal(t, 204, resp.StatusCode, body)
	may("ada", ada, true)
	may("a token of ada that is not for joining", viewer, false)
	resp, body = h.ask("GET", "/v1/rooms/other/participants", ada, "", "")
	require.Equal(t, 403, resp.StatusCode, body)

	type shown struct{ Host bool }
	_, body = h.server("GET", "/v1/rooms/sec/participants/ada", "")
	require.True(t, read[shown](t, body).Host)
	resp, _ = h.server("GET", "/v1/rooms/sec/participants/eve", "")
	tag := resp.Header.Get("ETag")
	require.Equal(t, 204, h.status("PUT", "/v1/rooms/sec/participants/eve/host", ""))
	require.Equal(t, 412, h.status("PATCH", "/v1/rooms/sec/participants/eve", `{"name":"Eve"}`, "If-Match", tag), "the tag tells of it")

	resp, body = h.ask("DELETE", "/v1/rooms/sec/participants/bob/host", ada, "", "")
	require.Equal(t, 204, resp.StatusCode, body)
	may("bob", bob, false)
	resp, body = h.ask("DELETE", "/v1/rooms/sec", bob, "", "")
	require.Equal(t, 403, resp.StatusCode, "nor may it close rooms: %s", body)
	status, body := h.twirp("MoveParticipant", bob, `{"room":"sec","identity":"eve","destination_room":"side"}`)
	require.Equal(t, 401, status, body)

	require.Equal(t, 404, h.status("PUT", "/v1/rooms/sec/participants/nobody/host", ""))
	require.Equal(t, 404, h.status("PUT", "/v1/rooms/none/participants/ada/host", ""))
	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/sec", ""))
	h.mustJoin("sec", "eve")
	may("ada in the next room of the name", ada, false)
	may("bob in the next room of the name", bob, true)
}

// Both decisions stand in the audit.
func TestAuditTellsWhoMadeAHost(t *testing.T) {
	f := openFront(t)
	f.mustJoin("board", "ada")
	token := f.host("bob", "board")
	f.ask("PUT", "/v1/rooms/board/participants/ada/host", token, "", "")
	f.ask("DELETE", "/v1/rooms/board/participants/ada/host", token, "", "")
	type deeds struct {
		Deeds []struct{ Identity, Call, Room, Participant string }
	}
	var got deeds
	require.Eventually(t, func() bool { // it is written soon after
		_, body := f.server("GET", "/v1/audit?room=board", "")
		got = read[deeds](t, body)
		return len(got.Deeds) == 2
	}, time.Minute, 10*time.Millisecond)
	require.Equal(t, deeds{[]struct{ Identity, Call, Room, Participant string }{
		{"bob", "unmakeHost", "board", "ada"}, {"bob", "makeHost", "board", "ada"},
	}}, got)
}
