package program

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/server/access"
)

// mint makes a token for ann that was issued at a time.
func (h *house) mint(at time.Time, g *auth.VideoGrant) string {
	g.RoomJoin = true
	token, err := h.verifier.MintFor("devkey", access.Session{}, &auth.ClaimGrants{Identity: "ann", Video: g}, at, time.Hour)
	require.NoError(h.t, err)
	return token
}

// dial connects, or returns the status of the refusal.
func (h *house) dial(query, token string) (*websocket.Conn, int) {
	conn, resp, err := websocket.Dial(h.t.Context(),
		"ws"+strings.TrimPrefix(h.url, "http")+"/rtc?protocol=17&access_token="+token+query, nil)
	if err != nil {
		require.NotNil(h.t, resp, "%v", err)
		return nil, resp.StatusCode
	}
	h.t.Cleanup(func() { _ = conn.CloseNow() })
	conn.SetReadLimit(1 << 20)
	return conn, resp.StatusCode
}

// await reads messages until find returns something.
func (h *house) await(conn *websocket.Conn, find func(*livekit.SignalResponse) string) string {
	for {
		m, err := receive(h.t.Context(), conn)
		require.NoError(h.t, err)
		if found := find(m); found != "" {
			return found
		}
	}
}

// operate makes REST calls with the key and its secret, or with a token.
func (h *house) operate(method, path, body, token string) (int, string) {
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.url+path, strings.NewReader(body))
	require.NoError(h.t, err)
	req.Header.Set("Content-Type", "application/json")
	if req.SetBasicAuth("devkey", "secret"); token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(h.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(h.t, err)
	return resp.StatusCode, string(text)
}

// TestRevocationHoldsForWhatFollows: after the revocation of its token, a participant can
// return neither by a resume nor with a token that the session issued. A participant that
// is in the room stays.
func TestRevocationHoldsForWhatFollows(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"))
	hourAgo := time.Now().Add(-time.Hour)
	first := h.mint(hourAgo, &auth.VideoGrant{Room: "r"})
	conn, _ := h.dial("", first)
	require.NotNil(t, conn)
	fresh := h.await(conn, (*livekit.SignalResponse).GetRefreshToken)
	status, body := h.operate("POST", "/v1/rooms/r/revocations",
		fmt.Sprintf(`{"identity":"ann","before":%q}`, hourAgo.Add(30*time.Minute).Format(time.RFC3339)), "")
	require.Equal(t, 204, status, body)

	stranger, status := h.dial("&reconnect=1", first)
	require.Nil(t, stranger)
	require.Equal(t, 401, status)
	again, _ := h.dial("&reconnect=1", fresh)
	require.NotNil(t, again, "a client in the room that lost its connection")

	for token, want := range map[string]int{first: 401, fresh: 401, h.mint(time.Now(), &auth.VideoGrant{Room: "r"}): 200} {
		status, body = h.get("/rtc/validate?access_token=" + token)
		require.Equal(t, want, status, body)
	}
}

// TestAMovedParticipantIsNoAdmin of the room that it did not choose.
func TestAMovedParticipantIsNoAdmin(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"))
	conn, _ := h.dial("", h.mint(time.Now(), &auth.VideoGrant{Room: "r", RoomAdmin: true, RoomCreate: true, DestinationRoom: "t"}))
	require.NotNil(t, conn)
	fresh := h.await(conn, (*livekit.SignalResponse).GetRefreshToken)
	status, body := h.operate("GET", "/v1/rooms/r/participants", "", fresh)
	require.Equal(t, 200, status, body)

	status, body = h.operate("POST", "/v1/rooms/r/participants/ann/move", `{"room":"s"}`, "")
	require.Equal(t, 204, status, body)
	moved := h.await(conn, func(m *livekit.SignalResponse) string { return m.GetRoomMoved().GetToken() })
	status, body = h.operate("GET", "/v1/rooms/s/participants", "", moved)
	require.Equal(t, 403, status, body)
	status, body = h.operate("DELETE", "/v1/rooms/r", "", moved)
	require.Equal(t, 403, status, body)
	status, body = h.get("/rtc/validate?access_token=" + moved)
	require.Equal(t, 200, status, body)
}

// TestTokensInADivision: in a breakout room a participant has the rights that its token gives it
// in the main room, and as long as there.
func TestTokensInADivision(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"))
	hourAgo := time.Now().Add(-time.Hour)
	conn, _ := h.dial("", h.mint(hourAgo, &auth.VideoGrant{Room: "r", RoomAdmin: true, RoomCreate: true}))
	require.NotNil(t, conn)
	h.await(conn, (*livekit.SignalResponse).GetRefreshToken)
	call := func(want int, method, path, body, token string) string {
		t.Helper()
		status, answer := h.operate(method, path, body, token)
		require.Equal(t, want, status, answer)
		return answer
	}
	call(200, "PUT", "/v1/rooms/r/breakouts", `{"breakouts":[{"title":"One","assigned":["ann"]}]}`, "")
	call(200, "POST", "/v1/rooms/r/breakouts/open", "", "")
	moved := h.await(conn, func(m *livekit.SignalResponse) string { return m.GetRoomMoved().GetToken() })
	claims, err := h.verifier.Verify(moved)
	require.NoError(t, err)
	require.True(t, claims.Grants.Video.RoomAdmin)
	require.False(t, claims.Grants.Video.RoomCreate, "it is no right over the room itself")
	one := "/v1/rooms/" + claims.Grants.Video.Room
	call(200, "GET", one+"/breakouts", "", moved)

	// It reconnects there, and is called back.
	conn, _ = h.dial("", moved)
	require.NotNil(t, conn)
	fresh := h.await(conn, (*livekit.SignalResponse).GetRefreshToken)
	call(200, "GET", one+"/breakouts", "", fresh)
	call(200, "POST", one+"/breakouts/close", "", fresh)
	back := h.await(conn, func(m *livekit.SignalResponse) string { return m.GetRoomMoved().GetToken() })
	call(200, "GET", "/v1/rooms/r/breakouts", "", back)

	for _, token := range []string{moved, fresh, back} {
		status, body := h.get("/rtc/validate?access_token=" + token)
		require.NotEqual(t, 401, status, body)
	}
	call(204, "POST", "/v1/rooms/r/revocations", fmt.Sprintf(`{"identity":"ann","before":%q}`, hourAgo.Add(30*time.Minute).Format(time.RFC3339)), "")
	for _, token := range []string{moved, fresh, back} {
		status, body := h.get("/rtc/validate?access_token=" + token)
		require.Equal(t, 401, status, body)
	}
	call(403, "GET", one+"/breakouts", "", moved)
	call(403, "GET", "/v1/rooms/r/breakouts", "", back)
}

// TestAMadeHostsTokenTellsIt to the client, at once, and grants nothing by itself: the room
// is asked whether its bearer still is host, and the next room of the name knows of nothing.
func TestAMadeHostsTokenTellsIt(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"))
	conn, _ := h.dial("", h.mint(time.Now(), &auth.VideoGrant{Room: "r"}))
	require.NotNil(t, conn)
	next := func(want bool) string {
		return h.await(conn, func(m *livekit.SignalResponse) string {
			token := m.GetRefreshToken()
			if token == "" {
				return ""
			}
			read, err := auth.ParseAPIToken(token)
			require.NoError(t, err)
			_, grants, err := read.Verify("secret")
			require.NoError(t, err)
			if grants.Video.RoomAdmin != want {
				return ""
			}
			return token
		})
	}
	asks := func(token string, want int) {
		t.Helper()
		status, body := h.operate("GET", "/v1/rooms/r/participants", "", token)
		require.Equal(t, want, status, body)
	}
	decide := func(method string) {
		t.Helper()
		status, body := h.operate(method, "/v1/rooms/r/participants/ann/host", "", "")
		require.Equal(t, 204, status, body)
	}
	asks(next(false), 403)
	decide("PUT")
	made := next(true)
	asks(made, 200)
	decide("DELETE")
	unmade := next(false)
	asks(made, 403)
	decide("PUT")
	asks(unmade, 200)
	made = next(true)

	status, body := h.operate("DELETE", "/v1/rooms/r", "", "")
	require.Equal(t, 204, status, body)
	conn, status = h.dial("", made)
	require.NotNil(t, conn, "status %d", status)
	next(false)
	asks(made, 403)
}
