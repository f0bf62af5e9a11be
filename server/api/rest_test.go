package api_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

type roomJSON struct {
	SID              string
	Name             string
	State            string
	CreatedAt        time.Time  `json:"created_at"`
	EmptyTimeout     any        `json:"empty_timeout"`
	DepartureTimeout any        `json:"departure_timeout"`
	MaxParticipants  int        `json:"max_participants"`
	ExpiresAt        *time.Time `json:"expires_at"`
	EmptySince       *time.Time `json:"empty_since"`
	EndedAt          *time.Time `json:"ended_at"`
	EndReason        string     `json:"end_reason"`
	DurationSeconds  float64    `json:"duration_seconds"`
	NumParticipants  int        `json:"num_participants"`
	NumJoined        int        `json:"num_joined"`
	PeakParticipants int        `json:"peak_participants"`
	Metadata         string
	Tags             map[string]string
}

type problemJSON struct {
	Type, Title, Code, Detail string
	Status                    int
	Errors                    []struct{ Path, Detail string }
}

func read[T any](t *testing.T, body string) (v T) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(body), &v), body)
	return v
}

func TestRESTRoom(t *testing.T) {
	h := open(t)
	token := h.token(admin(""))
	resp, body := h.ask("POST", "/v1/rooms", token, "application/json; charset=utf-8",
		`{"name":"a/b c","empty_timeout":"never","departure_timeout":90,"max_participants":4,"metadata":"m","tags":{"k":"v"}}`)
	require.Equal(t, 201, resp.StatusCode, body)
	require.Equal(t, "/v1/rooms/a%2Fb%20c", resp.Header.Get("Location"))
	require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
	tag := resp.Header.Get("ETag")
	require.NotEmpty(t, tag)
	room := read[roomJSON](t, body)
	require.Regexp(t, "^RM_", room.SID)
	require.Equal(t, "open", room.State)
	require.Equal(t, "never", room.EmptyTimeout)
	require.EqualValues(t, 90, room.DepartureTimeout)
	require.Equal(t, 4, room.MaxParticipants)
	require.Equal(t, map[string]string{"k": "v"}, room.Tags)
	require.Nil(t, room.ExpiresAt, "a room that never ends has no deadline")
	require.NotNil(t, room.EmptySince)
	require.WithinDuration(t, time.Now(), room.CreatedAt, 10*time.Second)
	require.NotContains(t, strings.ToLower(body), "turn", "the TURN password stays inside")

	resp, again := h.ask("POST", "/v1/rooms", token, "application/json", `{"name":"a/b c","empty_timeout":5}`)
	require.Equal(t, 200, resp.StatusCode, "a room that exists is returned as it is")
	require.JSONEq(t, body, again)

	location := resp.Header.Get("Location")
	resp, got := h.ask("GET", location, token, "", "")
	require.Equal(t, 200, resp.StatusCode)
	require.JSONEq(t, body, got)
	require.Equal(t, tag, resp.Header.Get("ETag"))

	req, err := http.NewRequestWithContext(t.Context(), "GET", h.URL+location, nil)
	require.NoError(t, err)
	req.SetBasicAuth(key, secret)
	req.Header.Set("If-None-Match", tag)
	resp, got = h.do(req)
	require.Equal(t, 304, resp.StatusCode)
	require.Empty(t, got)
	metadata := "new"
	_, err = h.rooms.Edit(t.Context(), "a/b c", rooms.RoomEdit{Metadata: &metadata})
	require.NoError(t, err)
	resp, _ = h.do(req)
	require.Equal(t, 200, resp.StatusCode, "a change changes the ETag")
	require.NotEqual(t, tag, resp.Header.Get("ETag"))

	resp, got = h.ask("DELETE", location, token, "", "")
	require.Equal(t, 204, resp.StatusCode)
	require.Empty(t, got)
	resp, got = h.ask("GET", location, token, "", "")
	require.Equal(t, 404, resp.StatusCode)
	require.Equal(t, problemJSON{
		Type: "about:blank", Title: "Not Found", Code: "not_found", Status: 404, Detail: "requested room does not exist",
	}, read[problemJSON](t, got))
	require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))

	_, got = h.ask("GET", "/v1/rooms?state=ended", token, "", "")
	ended := read[struct{ Rooms []roomJSON }](t, got).Rooms
	require.Len(t, ended, 1)
	require.Equal(t, "ended", ended[0].State)
	require.Equal(t, "closed", ended[0].EndReason)
	require.NotNil(t, ended[0].EndedAt)
}

func TestRESTPaging(t *testing.T) {
	h := open(t)
	token := h.token(&auth.VideoGrant{RoomList: true})
	for i := range 25 {
		_, err := h.rooms.Create(t.Context(), &livekit.CreateRoomRequest{Name: fmt.Sprintf("room %02d", i)})
		require.NoError(t, err)
	}
	for _, order := range []string{"", "&order=descending", "&name_prefix=room"} {
		var names []string
		cursor, pages := "", 0
		for {
			_, body := h.ask("GET", "/v1/rooms?limit=10&cursor="+cursor+order, token, "", "")
			page := read[struct {
				Rooms      []roomJSON
				NextCursor string `json:"next_cursor"`
			}](t, body)
			for _, r := range page.Rooms {
				names = append(names, r.Name)
			}
			pages++
			if pages == 1 { // a room that ends between two pages does not move the others
				require.NoError(t, h.rooms.Delete(t.Context(), page.Rooms[0].Name, nil))
			}
			if page.NextCursor == "" {
				break
			}
			cursor = page.NextCursor
		}
		require.Equal(t, 3, pages)
		seen := map[string]bool{}
		for _, n := range names {
			require.False(t, seen[n], "%s is listed twice", n)
			seen[n] = true
		}
		require.Len(t, names, 25)
		for n := range seen { // restore the ended ones
			_, err := h.rooms.Create(t.Context(), &livekit.CreateRoomRequest{Name: n})
			require.NoError(t, err)
		}
	}
	_, body := h.ask("GET", "/v1/rooms?limit=25", token, "", "")
	require.NotContains(t, body, "next_cursor", "an exactly full last page has no next")
	_, body = h.ask("GET", "/v1/rooms?name=nobody", token, "", "")
	require.JSONEq(t, `{"rooms":[]}`, body)
}

// TestNameAndPrefixBothHold if both are given.
func TestNameAndPrefixBothHold(t *testing.T) {
	h := open(t)
	for _, name := range []string{"tea", "team", "coffee"} {
		require.Equal(t, 201, h.status("POST", "/v1/rooms", `{"name":"`+name+`"}`))
	}
	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/coffee", ""))
	for query, want := range map[string][]string{
		"name=tea&name_prefix=te":                  {"tea"},
		"name=tea&name_prefix=tea":                 {"tea"},
		"name=tea&name_prefix=team":                nil,
		"name=coffee&name_prefix=co&state=ended":   {"coffee"},
		"name=coffee&name_prefix=te&state=ended":   nil,
		"name=tea&name_prefix=co&state=all":        nil,
		"name=coffee&name_prefix=coffee&state=all": {"coffee"},
	} {
		resp, body := h.server("GET", "/v1/rooms?"+query, "")
		require.Equal(t, 200, resp.StatusCode, body)
		var names []string
		for _, r := range read[struct{ Rooms []struct{ Name string } }](t, body).Rooms {
			names = append(names, r.Name)
		}
		require.Equal(t, want, names, query)
	}
}

func TestRESTErrors(t *testing.T) {
	h := open(t)
	all := h.token(admin(""))
	const js = "application/json"
	for _, tc := range []struct {
		name, method, path, contentType, body string
		status                                int
		code, path1, detail                   string
	}{
		{"no name", "POST", "/v1/rooms", js, `{}`, 400, "invalid_argument", "name", "is missing"},
		{"unknown field", "POST", "/v1/rooms", js, `{"name":"x","nmae":1}`, 400, "invalid_argument", "nmae", "unknown field"},
		{"field in other case", "POST", "/v1/rooms", js, `{"Name":"x"}`, 400, "invalid_argument", "Name", "unknown field"},
		{"wrong type", "POST", "/v1/rooms", js, `{"name":7}`, 400, "invalid_argument", "name", "must be a string"},
		{"wrong type inside", "POST", "/v1/rooms", js, `{"name":"x","tags":{"a":1}}`, 400, "invalid_argument", "tags.a", "must be a string"},
		{"negative", "POST", "/v1/rooms", js, `{"name":"x","max_participants":-1}`, 400, "invalid_argument", "max_participants", "must be a whole number from 0 to 4294967295"},
		{"fraction", "POST", "/v1/rooms", js, `{"name":"x","max_participants":1.5}`, 400, "invalid_argument", "max_participants", "must be a whole number from 0 to 4294967295"},
		{"object", "POST", "/v1/rooms", js, `{"name":"x","tags":[]}`, 400, "invalid_argument", "tags", "must be an object"},
		{"timeout 0", "POST", "/v1/rooms", js, `{"name":"x","empty_timeout":0}`, 400, "invalid_argument", "empty_timeout", `must be whole seconds, at least 1, or "never"`},
		{"timeout text", "POST", "/v1/rooms", js, `{"name":"x","departure_timeout":"soon"}`, 400, "invalid_argument", "departure_timeout", `must be whole seconds, at least 1, or "never"`},
		{"preset", "POST", "/v1/rooms", js, `{"name":"x","preset":"y"}`, 400, "invalid_argument", "", `unknown room preset "y"`},
		{"long name", "POST", "/v1/rooms", js, `{"name":"` + strings.Repeat("x", 300) + `"}`, 400, "invalid_argument", "", "room name length exceeds limits: max length 256"},
		{"not JSON", "POST", "/v1/rooms", js, `{`, 400, "malformed", "", "the body is not JSON"},
		{"trailing", "POST", "/v1/rooms", js, `{"name":"x"} x`, 400, "malformed", "", "the body is not JSON"},
		{"array", "POST", "/v1/rooms", js, `[]`, 400, "malformed", "", "the body must be a JSON object"},
		{"content type", "POST", "/v1/rooms", "text/plain", `{}`, 415, "unsupported_media_type", "", "the body must be application/json"},
		{"too long", "POST", "/v1/rooms", js, `{"name":"` + strings.Repeat("x", 1<<20) + `"}`, 413, "too_large", "", "the body must not be longer than 77536 bytes"},
		{"parameter on POST", "POST", "/v1/rooms?x=1", js, `{"name":"x"}`, 400, "invalid_argument", "x", "unknown parameter"},
		{"limit", "GET", "/v1/rooms?limit=0", "", "", 400, "invalid_argument", "limit", "must be from 1 to 500"},
		{"limit text", "GET", "/v1/rooms?limit=x", "", "", 400, "invalid_argument", "limit", "must be from 1 to 500"},
		{"state", "GET", "/v1/rooms?state=x", "", "", 400, "invalid_argument", "state", "must be open, ended or all"},
		{"order", "GET", "/v1/rooms?order=x", "", "", 400, "invalid_argument", "order", "must be ascending or descending"},
		{"cursor", "GET", "/v1/rooms?cursor=x", "", "", 400, "invalid_argument", "cursor", "is not one that this server gave"},
		{"twice", "GET", "/v1/rooms?limit=1&limit=2", "", "", 400, "invalid_argument", "limit", "is given twice"},
		{"unknown parameter", "GET", "/v1/rooms?lmit=1", "", "", 400, "invalid_argument", "lmit", "unknown parameter"},
		{"absent", "GET", "/v1/rooms/absent", "", "", 404, "not_found", "", "requested room does not exist"},
		{"absent to close", "DELETE", "/v1/rooms/absent", "", "", 404, "not_found", "", "requested room does not exist"},
		{"no route", "GET", "/v1/nope", "", "", 404, "no_such_route", "", "there is nothing at this path"},
		{"no method", "PUT", "/v1/rooms", "", "", 405, "method_not_allowed", "", "this path does not take this method"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resp, body := h.ask(tc.method, tc.path, all, tc.contentType, tc.body)
			p := read[problemJSON](t, body)
			require.Equal(t, tc.status, resp.StatusCode)
			require.Equal(t, tc.status, p.Status)
			require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
			require.Equal(t, tc.code, p.Code)
			if tc.path1 == "" {
				require.Empty(t, p.Errors)
				require.Equal(t, tc.detail, p.Detail)
				return
			}
			require.Len(t, p.Errors, 1, body)
			require.Equal(t, tc.path1, p.Errors[0].Path)
			require.Equal(t, tc.detail, p.Errors[0].Detail)
		})
	}
}

func TestRESTGrants(t *testing.T) {
	h := open(t)
	_, err := h.rooms.Create(t.Context(), &livekit.CreateRoomRequest{Name: "r"})
	require.NoError(t, err)
	header := func(g *auth.VideoGrant) string { return "Bearer " + h.token(g) }
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }

	type result struct{ create, list, get, del int }
	for _, tc := range []struct {
		name, header string
		want         result
	}{
		{"none", "", result{401, 401, 401, 401}},
		{"garbage", "Bearer x", result{401, 401, 401, 401}},
		{"wrong secret", basic(key + ":x"), result{401, 401, 401, 401}},
		{"wrong scheme", "Digest x", result{401, 401, 401, 401}},
		{"nothing granted", header(&auth.VideoGrant{}), result{403, 403, 403, 403}},
		{"join", header(&auth.VideoGrant{RoomJoin: true, Room: "r"}), result{403, 403, 403, 403}},
		{"admin", header(&auth.VideoGrant{RoomAdmin: true, Room: "r"}), result{403, 403, 200, 403}},
		{"admin of another", header(&auth.VideoGrant{RoomAdmin: true, Room: "x"}), result{403, 403, 403, 403}},
		{"list", header(&auth.VideoGrant{RoomList: true}), result{403, 200, 200, 403}},
		{"create", header(&auth.VideoGrant{RoomCreate: true}), result{200, 403, 403, 404}},
		{"key and secret", basic(key + ":" + secret), result{200, 200, 200, 404}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			status := func(method, path, body string) int {
				req, err := http.NewRequestWithContext(t.Context(), method, h.URL+path, strings.NewReader(body))
				require.NoError(t, err)
				req.Header.Set("Content-Type", "application/json")
				if tc.header != "" {
					req.Header.Set("Authorization", tc.header)
				}
				resp, got := h.do(req)
				if resp.StatusCode == 401 {
					require.Equal(t, []string{`Bearer realm="parlor"`}, resp.Header.Values("WWW-Authenticate"), "a browser would ask for Basic and remember it")
					require.Equal(t, "unauthenticated", read[problemJSON](t, got).Code)
				}
				if resp.StatusCode == 403 {
					require.Equal(t, "permission_denied", read[problemJSON](t, got).Code)
				}
				return resp.StatusCode
			}
			time.Sleep(2 * time.Millisecond) // so that r is older than the next request
			require.Equal(t, tc.want, result{
				create: status("POST", "/v1/rooms", `{"name":"r"}`),
				list:   status("GET", "/v1/rooms", ""),
				get:    status("GET", "/v1/rooms/r", ""),
				del:    status("DELETE", "/v1/rooms/absent", ""),
			})
		})
	}
	t.Run("token in the query", func(t *testing.T) {
		resp, _ := h.ask("GET", "/v1/rooms?access_token="+h.token(&auth.VideoGrant{RoomList: true}), "", "", "")
		require.Equal(t, 200, resp.StatusCode)
	})
}
