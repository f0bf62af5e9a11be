package api_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/server/access"
)

// grants are sufficient and insufficient tokens, by the documented requirement of a
// route. A route with another requirement needs an entry here.
var grants = map[string]struct{ enough, lacking *auth.VideoGrant }{
	"Needs roomCreate.": {
		&auth.VideoGrant{RoomCreate: true},
		&auth.VideoGrant{RoomList: true, RoomAdmin: true, RoomJoin: true, Room: "lobby"},
	},
	"Needs roomList.": {
		&auth.VideoGrant{RoomList: true},
		&auth.VideoGrant{RoomCreate: true, RoomAdmin: true, RoomJoin: true, Room: "lobby"},
	},
	"Needs roomAdmin of the room.": {
		&auth.VideoGrant{RoomAdmin: true, Room: "lobby"},
		&auth.VideoGrant{RoomCreate: true, RoomList: true, RoomJoin: true, Room: "lobby"},
	},
	"Needs roomAdmin of the room, or roomJoin of a participant that is in it.": {
		&auth.VideoGrant{RoomAdmin: true, Room: "lobby"},
		&auth.VideoGrant{RoomCreate: true, RoomList: true, RoomJoin: true, Room: "lobby"}, // who is not in it
	},
	"Needs roomJoin or roomAdmin of the room.": {
		&auth.VideoGrant{RoomAdmin: true, Room: "lobby"},
		&auth.VideoGrant{RoomCreate: true, RoomList: true, Room: "lobby"},
	},
	"Needs roomList, or roomAdmin of the room.": {
		&auth.VideoGrant{RoomAdmin: true, Room: "lobby"},
		&auth.VideoGrant{RoomCreate: true, RoomJoin: true, Room: "lobby"},
	},
	"Needs roomAdmin of the room that room= names; for the whole log, the API key and its secret.": {
		&auth.VideoGrant{RoomAdmin: true, Room: "lobby"},
		&auth.VideoGrant{RoomCreate: true, RoomList: true, RoomJoin: true, Room: "lobby"},
	},
	"Needs the API key and its secret, as HTTP Basic.": {
		nil, // no token suffices
		&auth.VideoGrant{RoomCreate: true, RoomList: true, RoomAdmin: true, RoomJoin: true, Room: "lobby"},
	},
}

// TestEveryRouteIsGuarded reads the routes from the API's description, so that none is
// missed.
func TestEveryRouteIsGuarded(t *testing.T) {
	h := open(t)
	mintAs := func(identity string, v *access.Verifier, apiKey string, g *auth.VideoGrant, ttl time.Duration) string {
		token, err := v.Mint(apiKey, &auth.ClaimGrants{Identity: identity, Video: g}, ttl)
		require.NoError(t, err)
		return "Bearer " + token
	}
	mint := func(v *access.Verifier, apiKey string, g *auth.VideoGrant, ttl time.Duration) string {
		return mintAs("eve", v, apiKey, g, ttl)
	}
	soon := rooms.NowMs(time.Now()) + time.Minute.Milliseconds()
	require.NoError(t, h.rooms.Ban(t.Context(), rooms.Ban{RoomName: "lobby", Identity: "banned"}))
	require.NoError(t, h.rooms.Revoke(t.Context(), "lobby", "revoked", soon))
	basic := func(key, secret string) string {
		r := &http.Request{Header: http.Header{}}
		r.SetBasicAuth(key, secret)
		return r.Header.Get("Authorization")
	}
	all := &auth.VideoGrant{RoomCreate: true, RoomList: true, RoomAdmin: true, RoomJoin: true, Room: "lobby"}
	strangers := access.NewVerifier(map[string]string{"stranger": secret, key: "another-secret-of-thirty-two-chars"})
	bad := map[string]string{
		"no credentials":  "",
		"unknown key":     mint(strangers, "stranger", all, time.Hour),
		"wrong signature": mint(strangers, key, all, time.Hour),
		"expired":         mint(h.verifier, key, all, -2*time.Minute),
		"no token":        "Bearer nonsense",
		"no such scheme":  "Digest x",
		"wrong secret":    basic(key, "another-secret-of-thirty-two-chars"),
		"empty secret":    basic(key, ""),
		"unknown basic":   basic("stranger", secret),
	}
	lobby, err := h.rooms.Create(t.Context(), &livekit.CreateRoomRequest{Name: "lobby"})
	require.NoError(t, err)
	variable := regexp.MustCompile(`{(\w+)}`)
	values := map[string]string{"name": "lobby", "identity": "ada", "track": "TR_x", "sid": lobby.Room.SID, "id": "1", "seq": "1", "event": "EV_x"}
	routes := 0
	for path, methods := range openAPI()["paths"].(object) {
		for method, operation := range methods.(object) {
			routes++
			needs := operation.(object)["description"].(string)
			if needs == "Needs no credentials but those of its body." || needs == "Needs a session of the dashboard." {
				continue // TestRoles and the tests of the dashboard have them
			}
			g, known := grants[needs]
			require.True(t, known, "%s %s: %s", method, path, needs)
			url := "/v1" + variable.ReplaceAllStringFunc(path, func(v string) string {
				require.NotEmpty(t, values[v[1:len(v)-1]], "a value for %s of %s", v, path)
				return values[v[1:len(v)-1]]
			})
			if strings.Contains(needs, "room=") {
				url += "?room=lobby"
			}
			if path == "/live" {
				url += "?after=nonsense" // a stream would not end
			}
			ask := func(credentials string) (int, string) {
				req, err := http.NewRequestWithContext(t.Context(), strings.ToUpper(method), h.URL+url, nil)
				require.NoError(t, err)
				if credentials != "" {
					req.Header.Set("Authorization", credentials)
				}
				resp, body := h.do(req)
				return resp.StatusCode, body
			}
			for name, credentials := range bad {
				status, body := ask(credentials)
				require.Equal(t, 401, status, "%s %s, %s: %s", method, path, name, body)
				require.Contains(t, body, `"code":"unauthenticated"`)
			}
			forbidden := func(name string, g *auth.VideoGrant) {
				status, body := ask(mint(h.verifier, key, g, time.Hour))
				require.Equal(t, 403, status, "%s %s, %s: %s", method, path, name, body)
				require.Contains(t, body, `"code":"permission_denied"`)
			}
			forbidden("missing grant", g.lacking)
			forbidden("no grants", &auth.VideoGrant{})
			if g.enough != nil && g.enough.RoomAdmin {
				forbidden("another room", &auth.VideoGrant{RoomAdmin: true, Room: "another"})
				forbidden("no room", &auth.VideoGrant{RoomAdmin: true})
			}
			for _, standing := range []string{"banned", "revoked"} {
				if g.enough == nil {
					continue
				}
				own := *g.enough
				own.Room = "lobby"
				status, body := ask(mintAs(standing, h.verifier, key, &own, time.Hour))
				require.Equal(t, 403, status, "%s %s, %s: %s", method, path, standing, body)
				require.Contains(t, body, `"code":"`+standing+`"`, "%s %s", method, path)
			}
			if g.enough != nil {
				status, body := ask(mint(h.verifier, key, g.enough, time.Hour))
				require.NotContains(t, []int{401, 403}, status, "%s %s: %s", method, path, body)
			}
			status, body := ask(basic(key, secret))
			require.NotContains(t, []int{401, 403}, status, "%s %s: %s", method, path, body)
		}
	}
	require.Greater(t, routes, 30)
}

// TestHeadIsGetWithoutItsBody, on every GET route, with the same credentials.
func TestHeadIsGetWithoutItsBody(t *testing.T) {
	h := open(t)
	ada := h.mustJoin("lobby", "ada")
	ada.publish()
	_, body := h.server("PATCH", "/v1/rooms/lobby", `{"metadata":"x"}`) // is written after what ada has changed
	sid := read[struct{ SID string }](t, body).SID
	paths := []string{"/rooms?limit=1&name=lobby", "/rooms/absent", "/rooms?limit=no"}
	for path, methods := range openAPI()["paths"].(object) {
		if methods.(object)["get"] != nil {
			if path == "/live" {
				path += "?after=nonsense" // a stream would not end
			}
			paths = append(paths, strings.NewReplacer("{name}", "lobby", "{identity}", "ada", "{sid}", sid, "{id}", "1").Replace(path))
		}
	}
	require.Greater(t, len(paths), 12)
	for _, path := range paths {
		got, _ := h.server("GET", "/v1"+path, "")
		head, body := h.server("HEAD", "/v1"+path, "")
		require.Equal(t, got.StatusCode, head.StatusCode, path)
		require.Equal(t, got.Header.Get("Content-Type"), head.Header.Get("Content-Type"), path)
		require.Equal(t, got.Header.Get("ETag"), head.Header.Get("ETag"), path)
		require.Empty(t, body, path)
		require.Equal(t, 401, h.unknown("HEAD", "/v1"+path), path)
	}
	// A HEAD request for a stream is answered at once.
	require.Equal(t, 200, h.status("HEAD", "/v1/events", "", "Accept", "text/event-stream"))
	require.Equal(t, 405, h.status("HEAD", "/v1/tokens", ""))
}

// unknown is the status of a request without credentials.
func (h *house) unknown(method, path string) int {
	h.t.Helper()
	resp, _ := h.ask(method, path, "", "", "")
	return resp.StatusCode
}

// TestPagesDoNotShift while rooms are created and end: a room that exists all the time is
// seen once.
func TestPagesDoNotShift(t *testing.T) {
	h := open(t)
	for i := range 120 {
		require.Equal(t, 201, h.status("POST", "/v1/rooms", fmt.Sprintf(`{"name":"stays-%03d"}`, i)))
	}
	var stop atomic.Bool
	done := make(chan struct{})
	go func() { // ends by stop, for which the test waits
		defer close(done)
		for i := 0; !stop.Load(); i++ {
			name := fmt.Sprintf("stays-%03d-not", i%120) // between the others by name, after them by time
			h.status("POST", "/v1/rooms", fmt.Sprintf(`{"name":%q}`, name))
			h.status("DELETE", "/v1/rooms/"+name, "")
		}
	}()
	for _, query := range []string{"", "&order=descending", "&name_prefix=stays", "&state=all", "&name_prefix=stays&order=descending"} {
		seen := map[string]int{}
		for cursor := ""; ; {
			resp, body := h.server("GET", "/v1/rooms?limit=7"+query+"&cursor="+cursor, "")
			require.Equal(t, 200, resp.StatusCode, body)
			page := read[struct {
				Rooms      []struct{ Name string }
				NextCursor string `json:"next_cursor"`
			}](t, body)
			for _, r := range page.Rooms {
				seen[r.Name]++
			}
			if cursor = page.NextCursor; cursor == "" {
				break
			}
			if query == "&state=all" && len(seen) >= 120 && seen["stays-119"] > 0 {
				break // the rest is a growing history
			}
		}
		for i := range 120 {
			require.Equal(t, 1, seen[fmt.Sprintf("stays-%03d", i)], "%s: stays-%03d", query, i)
		}
	}
	stop.Store(true)
	<-done
}
