package api_test

import (
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/stretchr/testify/require"
)

// A host divides a room, sends people out and calls them back; others see where they belong,
// and go there by themselves.
func TestBreakoutRooms(t *testing.T) {
	h := open(t)
	h.mustJoin("all", "hana")
	h.mustJoin("all", "ann")
	h.mustJoin("all", "bob")
	token := func(identity, room string, admin bool) string {
		token, err := h.verifier.Mint(key, &auth.ClaimGrants{Identity: identity, Video: &auth.VideoGrant{RoomJoin: true, Room: room, RoomAdmin: admin}}, time.Hour)
		require.NoError(t, err)
		return token
	}
	host := token("hana", "all", true)
	ask := func(status int, method, path, token, body string) string {
		t.Helper()
		kind := ""
		if body != "" {
			kind = "application/json"
		}
		resp, answer := h.ask(method, "/v1/rooms/"+path, token, kind, body)
		require.Equal(t, status, resp.StatusCode, answer)
		return answer
	}
	type people []struct{ Identity string }
	type shown struct {
		Main, CallBackAt string
		Open             bool
		Breakouts        []struct {
			Room, Title string
			Assigned    []string
			People      people
		}
		InMain people `json:"in_main"`
	}
	type placed struct {
		Open       bool
		CallBackAt *time.Time `json:"call_back_at"`
		Here, Mine *struct{ Room, Title string }
	}
	ask(403, "GET", "all/breakouts", token("ann", "all", false), "")
	d := read[shown](t, ask(200, "GET", "all/breakouts", host, ""))
	require.Empty(t, d.Breakouts)
	require.Len(t, d.InMain, 3)
	ask(409, "POST", "all/breakouts/open", host, "")
	d = read[shown](t, ask(200, "PUT", "all/breakouts", host, `{"breakouts":[{"title":"One","assigned":["ann"]},{"title":"Two"}]}`))
	require.Len(t, d.Breakouts, 2)
	one, two := d.Breakouts[0].Room, d.Breakouts[1].Room
	ask(400, "PUT", "all/breakouts", host, `{"breakouts":[{"title":""}]}`)
	resp, answer := h.ask("GET", "/v1/rooms/all/breakouts", host, "", "")
	require.Equal(t, 200, resp.StatusCode, answer)
	tag := resp.Header.Get("ETag")
	put := func(status int, tag string) {
		t.Helper()
		resp, answer := h.server("PUT", "/v1/rooms/all/breakouts", `{"breakouts":[{"room":"`+one+`","title":"One","assigned":["ann"]},{"room":"`+two+`","title":"Second"}]}`, "If-Match", tag)
		require.Equal(t, status, resp.StatusCode, answer)
	}
	put(200, tag)
	put(412, tag) // another host has changed it meanwhile
	ask(400, "POST", "all/breakouts/open", host, `{"seconds":86401}`)
	d = read[shown](t, ask(200, "POST", "all/breakouts/open", host, `{"seconds":600}`))
	require.True(t, d.Open)
	require.Equal(t, people{{"ann"}}, d.Breakouts[0].People)
	require.Len(t, d.InMain, 2)

	p := read[placed](t, ask(200, "GET", one+"/breakout", token("ann", one, false), ""))
	require.Equal(t, "One", p.Here.Title)
	require.WithinDuration(t, time.Now().Add(10*time.Minute), *p.CallBackAt, time.Minute)
	ask(403, "GET", "all/breakout", token("ann", "all", false), "") // she is not in it
	ask(403, "POST", one+"/breakout", token("ann", one, false), `{"to":"`+two+`"}`)
	ask(404, "POST", "all/breakout", host, `{"to":"nowhere"}`)
	ask(204, "POST", one+"/breakout", token("ann", one, false), "")
	p = read[placed](t, ask(200, "GET", "all/breakout", token("ann", "all", false), ""))
	require.Nil(t, p.Here)
	require.Equal(t, one, p.Mine.Room)
	resp, answer = h.server("POST", "/v1/rooms/all/breakout", "")
	require.Equal(t, 400, resp.StatusCode, "it is nobody's token: %s", answer)
	ask(204, "POST", "all/breakout", host, `{"to":"`+two+`"}`)
	ask(204, "POST", two+"/breakouts/message", token("hana", two, true), `{"text":"five minutes left"}`)
	ask(400, "POST", two+"/breakouts/message", token("hana", two, true), `{"text":""}`)
	d = read[shown](t, ask(200, "POST", two+"/breakouts/close", token("hana", two, true), ""))
	require.False(t, d.Open)
	require.Len(t, d.InMain, 3)
	require.Equal(t, []string{"ann"}, d.Breakouts[0].Assigned)
	d = read[shown](t, ask(200, "PUT", "all/breakouts", host, `{"breakouts":[]}`))
	require.Empty(t, d.Breakouts)
}

// What was decided in the main room of a person holds for its calls through a breakout room.
func TestABreakoutRoomIsNoWayAroundTheMainRoom(t *testing.T) {
	h := open(t)
	for _, identity := range []string{"hana", "ann", "bob"} {
		h.mustJoin("all", identity)
	}
	token := func(identity, room string, admin bool) string {
		token, err := h.verifier.Mint(key, &auth.ClaimGrants{Identity: identity, Video: &auth.VideoGrant{RoomJoin: true, Room: room, RoomAdmin: admin}}, time.Hour)
		require.NoError(t, err)
		return token
	}
	ask := func(status int, method, path, token, body string) string {
		t.Helper()
		kind := ""
		if body != "" {
			kind = "application/json"
		}
		resp, answer := h.ask(method, "/v1/rooms/"+path, token, kind, body)
		require.Equal(t, status, resp.StatusCode, answer)
		return answer
	}
	host := token("hana", "all", true)
	d := read[struct{ Breakouts []struct{ Room string } }](t, ask(200, "PUT", "all/breakouts", host, `{"breakouts":[{"title":"One","assigned":["ann","bob"]}]}`))
	one := d.Breakouts[0].Room
	ask(200, "POST", "all/breakouts/open", host, "")

	root := token("", one, true) // of the app
	// A host of the breakout room is one of the main room, and ceases to be with it.
	ann := token("ann", one, false)
	ask(403, "GET", one+"/breakouts", ann, "")
	ask(204, "PUT", one+"/participants/ann/host", root, "")
	ask(200, "GET", one+"/breakouts", ann, "")
	ask(204, "DELETE", "all/participants/ann/host", host, "")
	ask(403, "GET", one+"/breakouts", ann, "")
	ask(403, "GET", one+"/breakouts", token("ann", one, true), "")

	// Who was sent away from the main room comes back through none, with the tokens of before.
	bob := token("bob", one, false)
	time.Sleep(2 * time.Millisecond) // tokens tell the millisecond
	ask(204, "DELETE", "all/participants/bob?revoke=true", host, "")
	ask(403, "POST", one+"/breakout", bob, "{}")
	before := token("hana", one, true)
	ask(200, "GET", one+"/breakouts", before, "")
	ask(200, "PUT", one+"/bans/hana", root, "{}")
	require.Contains(t, ask(403, "GET", one+"/breakouts", before, ""), "banned")
	require.Contains(t, ask(403, "GET", "all/breakouts", host, ""), "banned")
	root = token("", "all", true)
	require.Contains(t, ask(200, "GET", "all/bans", root, ""), `"hana"`)
	root = token("", one, true)
	require.Contains(t, ask(200, "GET", one+"/bans", root, ""), `"hana"`)
	ask(204, "DELETE", one+"/bans/hana", root, "")
	ask(200, "GET", one+"/breakouts", before, "")
}
