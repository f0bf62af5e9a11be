package conformance

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/livekit/protocol/auth"
	"github.com/stretchr/testify/require"
)

// authorized is an HTTP client that sends a token with every request.
type authorized struct{ jwt string }

func bearer(t *testing.T, grant *auth.VideoGrant) authorized {
	t.Helper()
	return authorized{token(t, "service", grant)}
}

func (a authorized) Do(req *http.Request) (*http.Response, error) {
	req.Header.Set("Authorization", "Bearer "+a.jwt)
	return http.DefaultClient.Do(req)
}

// testTwirpJSON makes calls as programs without an SDK do.
func testTwirpJSON(t *testing.T) {
	t.Parallel()
	room := roomName(t)
	everything := token(t, "service", &auth.VideoGrant{RoomCreate: true, RoomList: true, RoomAdmin: true, Room: room})
	post := func(method, contentType, jwt, body string) (int, http.Header, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
			env.server.http()+"/twirp/livekit."+method, bytes.NewBufferString(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", contentType)
		if jwt != "" {
			req.Header.Set("Authorization", "Bearer "+jwt)
		}
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return res.StatusCode, res.Header, string(text)
	}
	const mime = "application/json"

	status, header, body := post("RoomService/CreateRoom", mime, everything,
		`{"name":"`+room+`","empty_timeout":77,"departureTimeout":33,"someday":{"a":1}}`)
	require.Equal(t, 200, status, body)
	require.Equal(t, mime, header.Get("Content-Type"))
	var created map[string]any
	require.NoError(t, json.Unmarshal([]byte(body), &created))
	require.Equal(t, room, created["name"])
	require.EqualValues(t, 77, created["empty_timeout"], "snake case out, both cases in")
	require.EqualValues(t, 33, created["departure_timeout"])
	require.IsType(t, "", created["creation_time"], "64 bits travel as strings")
	require.Contains(t, created, "num_participants", "zero values are written out")

	status, _, body = post("RoomService/ListParticipants", mime, everything, `{"room":"`+room+`"}`)
	require.Equal(t, 200, status)
	require.JSONEq(t, `{"participants":[]}`, body)

	status, _, body = post("RoomService/DeleteRoom", mime, everything, `{"room":"`+room+`"}`)
	require.Equal(t, 200, status)
	require.JSONEq(t, `{}`, body)

	for _, c := range []struct {
		name, method, mime, jwt, body string
		status                        int
		code, msg                     string
	}{
		{"malformed", "RoomService/ListRooms", mime, everything, `{"names":`, 400, "malformed", ""},
		{"unknown method", "RoomService/Nonsense", mime, everything, `{}`, 404, "bad_route", ""},
		{"content type", "RoomService/ListRooms", "text/plain", everything, `{}`, 404, "bad_route", ""},
		{"no token", "RoomService/ListRooms", mime, "", `{}`, 401, "unauthenticated", "permissions denied"},
		{"absent room", "RoomService/DeleteRoom", mime, everything, `{"room":"absent"}`, 404, "not_found", "requested room does not exist"},
	} {
		status, _, body := post(c.method, c.mime, c.jwt, c.body)
		require.Equal(t, c.status, status, "%s: %s", c.name, body)
		var e struct{ Code, Msg string }
		require.NoError(t, json.Unmarshal([]byte(body), &e), "%s: %s", c.name, body)
		require.Equal(t, c.code, e.Code, c.name)
		require.Contains(t, e.Msg, c.msg, c.name)
	}

	status, header, body = post("RoomService/ListRooms", mime, "not.a.token", `{}`)
	require.Equal(t, 401, status)
	require.Contains(t, header.Get("Content-Type"), "text/plain")
	require.Contains(t, body, "invalid authorization token")
	status, _, _ = post("NoService/ListRooms", mime, everything, `{}`)
	require.Equal(t, 501, status, "a service that is not here says so")

	// A GET is not a call.
	res, err := http.Get(env.server.http() + "/twirp/livekit.RoomService/ListRooms")
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, 404, res.StatusCode)
}

func testCORS(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/twirp/livekit.RoomService/ListRooms", "/rtc/validate", "/rtc/v1/validate"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, env.server.http()+path, nil)
		require.NoError(t, err)
		req.Header.Set("Origin", "https://example.org")
		req.Header.Set("Access-Control-Request-Method", "POST")
		req.Header.Set("Access-Control-Request-Headers", "authorization,content-type")
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, http.StatusNoContent, res.StatusCode)
		require.Contains(t, []string{"*", "https://example.org"}, res.Header.Get("Access-Control-Allow-Origin"))
		require.Equal(t, "authorization,content-type", strings.ToLower(res.Header.Get("Access-Control-Allow-Headers")))
		require.Equal(t, "86400", res.Header.Get("Access-Control-Max-Age"))
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	status, body, err := fetch(t.Context(), env.server.http()+"/")
	require.NoError(t, err)
	require.Equal(t, 200, status)
	require.Equal(t, "OK", strings.TrimSpace(body))
	status, _, err = fetch(t.Context(), env.server.http()+"/no/such/thing")
	require.NoError(t, err)
	require.Equal(t, 404, status)
	if env.reference {
		return
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		status, _, err = fetch(t.Context(), env.server.http()+path)
		require.NoError(t, err)
		require.Equal(t, 200, status, path)
	}
}
