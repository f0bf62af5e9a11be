package api_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// host is a token with which its bearer may join a room, and moderate it through the API.
func (h *house) host(identity, room string) string {
	h.t.Helper()
	token, err := h.verifier.Mint(key, &auth.ClaimGrants{
		Identity: identity, Video: &auth.VideoGrant{RoomJoin: true, RoomAdmin: true, Room: room, DestinationRoom: "side"},
	}, time.Hour)
	require.NoError(h.t, err)
	return token
}

func TestASentAwayHostRulesNoMore(t *testing.T) {
	h := open(t)
	host := h.host("host", "sec")
	as := func(method, path, body string) (int, string) {
		kind := ""
		if body != "" {
			kind = "application/json"
		}
		resp, got := h.ask(method, "/v1/rooms/sec"+path, host, kind, body)
		return resp.StatusCode, got
	}
	h.mustJoin("sec", "ada")
	status, body := as("GET", "/participants", "")
	require.Equal(t, 200, status, body)

	refused := func(code string) {
		t.Helper()
		for _, call := range []struct{ method, path, body string }{
			{"GET", "/participants", ""},
			{"PATCH", "", `{"metadata":"mine"}`},
			{"DELETE", "/revocations/host", ""},
			{"DELETE", "/bans/host", ""},
		} {
			status, body := as(call.method, call.path, call.body)
			require.Equal(t, 403, status, "%s %s: %s", call.method, call.path, body)
			require.Contains(t, body, `"code":"`+code+`"`)
		}
		status, body := h.twirp("UpdateRoomMetadata", host, `{"room":"sec","metadata":"mine"}`)
		require.Equal(t, 403, status, body)
		var e struct {
			Code string
			Meta map[string]string
		}
		require.NoError(t, json.Unmarshal([]byte(body), &e))
		require.Equal(t, "permission_denied", e.Code)
		require.Equal(t, code, e.Meta["reason"])
	}
	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/sec/participants/host?revoke=true", ""))
	refused("revoked")
	require.Equal(t, 200, h.status("PUT", "/v1/rooms/sec/bans/host", ""))
	refused("banned")
	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/sec/revocations/host", ""))
	refused("banned")
	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/sec/bans/host", ""))
	status, body = as("GET", "/participants", "")
	require.Equal(t, 200, status, body)
}

// Every method of RoomService, so that none is missed.
func TestNoTwirpCallTakesABannedToken(t *testing.T) {
	h := open(t)
	require.NoError(t, h.rooms.Ban(t.Context(), rooms.Ban{RoomName: "sec", Identity: "host"}))
	token, err := h.verifier.Mint(key, &auth.ClaimGrants{Identity: "host", Video: &auth.VideoGrant{
		RoomCreate: true, RoomList: true, RoomAdmin: true, Room: "sec", DestinationRoom: "side",
	}}, time.Hour)
	require.NoError(t, err)
	methods := livekit.File_livekit_room_proto.Services().ByName("RoomService").Methods()
	require.Greater(t, methods.Len(), 10)
	for i := range methods.Len() {
		status, body := h.twirp(string(methods.Get(i).Name()), token, `{"room":"sec","destinationRoom":"side"}`)
		require.Equal(t, 403, status, "%s: %s", methods.Get(i).Name(), body)
		require.Contains(t, body, `"reason":"banned"`, "%s", methods.Get(i).Name())
	}
}

// A ban applies to its room, and also where the token would move participants into it.
func TestAdmissionIsThatOfTheRoom(t *testing.T) {
	h := open(t)
	h.mustJoin("sec", "ada")
	require.NoError(t, h.rooms.Ban(t.Context(), rooms.Ban{RoomName: "side", Identity: "host"}))
	host := h.host("host", "sec")
	resp, body := h.ask("GET", "/v1/rooms/sec/participants", host, "", "")
	require.Equal(t, 200, resp.StatusCode, body)
	for _, how := range []string{"move", "forward"} {
		resp, body := h.ask("POST", "/v1/rooms/sec/participants/ada/"+how, host, "application/json", `{"room":"side"}`)
		require.Equal(t, 403, resp.StatusCode, body)
		require.Contains(t, body, `"code":"banned"`)
	}
	for _, method := range []string{"MoveParticipant", "ForwardParticipant"} {
		status, body := h.twirp(method, host, `{"room":"sec","identity":"ada","destinationRoom":"side"}`)
		require.Equal(t, 403, status, body)
		require.Contains(t, body, `"reason":"banned"`)
	}
	// A server's token has no identity, so it cannot be banned.
	server, err := h.verifier.Mint(key, &auth.ClaimGrants{Video: &auth.VideoGrant{RoomAdmin: true, Room: "side"}}, time.Hour)
	require.NoError(t, err)
	resp, body = h.ask("DELETE", "/v1/rooms/side/bans/host", server, "", "")
	require.Equal(t, 204, resp.StatusCode, body)
}
