package conformance

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
)

// claims are the claims of an ordinary participant's token; more replaces some.
func claims(room, identity string, more map[string]any) map[string]any {
	now := time.Now().Unix()
	c := map[string]any{
		"iss": apiKey, "sub": identity, "nbf": now - 5, "exp": now + 600,
		"video": map[string]any{"roomJoin": true, "room": room},
	}
	for k, v := range more {
		c[k] = v
	}
	return c
}

// testRefusedTokens: a refusal is an HTTP status with a text, the same on the WebSocket
// routes and on the validate routes.
func testRefusedTokens(t *testing.T) {
	t.Parallel()
	room := roomName(t)
	now := time.Now().Unix()
	long := strings.Repeat("x", 257)
	for _, c := range []struct {
		name, jwt string
		status    int
		text      string
	}{
		{"no token", "", 401, "no permissions to access the room"},
		{"no video grant", sign(t, "HS256", apiSecret, claims(room, "a", map[string]any{"video": nil})), 401, "no permissions to access the room"},
		{"not a token", "nonsense", 401, "invalid authorization token"},
		{"unknown key", sign(t, "HS256", apiSecret, claims(room, "a", map[string]any{"iss": "stranger"})), 401, "invalid API key"},
		{"wrong secret", sign(t, "HS256", "another secret", claims(room, "a", nil)), 401, "invalid token"},
		{"alg none", sign(t, "none", "", claims(room, "a", nil)), 401, ""},
		{"expired", sign(t, "HS256", apiSecret, claims(room, "a", map[string]any{"exp": now - 90})), 401, "expired"},
		{"not valid yet", sign(t, "HS256", apiSecret, claims(room, "a", map[string]any{"nbf": now + 90})), 401, "not valid yet"},
		{"no roomJoin", sign(t, "HS256", apiSecret, claims(room, "a", map[string]any{"video": map[string]any{"room": room}})), 401, "permissions denied"},
		{"no room", sign(t, "HS256", apiSecret, claims("", "a", nil)), 400, "no room name"},
		{"no identity", sign(t, "HS256", apiSecret, claims(room, "", nil)), 400, "identity cannot be empty"},
		{"long identity", sign(t, "HS256", apiSecret, claims(room, long, nil)), 400, "participant identity length exceeds limits: max length 256"},
		{"long room name", sign(t, "HS256", apiSecret, claims(long, "a", nil)), 400, "room name length exceeds limits: max length 256"},
	} {
		t.Run(c.name, func(t *testing.T) {
			check := func(status int, body, where string) {
				t.Helper()
				require.Equal(t, c.status, status, "%s: %s", where, body)
				require.Contains(t, body, c.text, where)
				if c.jwt != "" && !env.reference {
					require.NotContains(t, body, c.jwt, "the token is not echoed")
				}
			}
			for _, path := range []string{"/rtc?" + legacyQuery(), "/rtc/v1?" + joinQuery(t, plainJoin(), false)} {
				ws, status, body := upgrade(t, env.server, path, c.jwt)
				require.Nil(t, ws)
				check(status, body, path)
			}
			for _, path := range []string{"/rtc/validate?" + legacyQuery(), "/rtc/v1/validate?" + joinQuery(t, plainJoin(), false)} {
				status, body, err := fetch(t.Context(), env.server.http()+path, "Authorization", "Bearer "+c.jwt)
				if c.jwt == "" {
					status, body, err = fetch(t.Context(), env.server.http()+path)
				}
				require.NoError(t, err)
				check(status, body, path)
				if c.jwt == "" {
					continue
				}
				// The token may also be in the query.
				status, body, err = fetch(t.Context(), env.server.http()+path+"&access_token="+c.jwt)
				require.NoError(t, err)
				check(status, body, path)
			}
		})
	}
}

func testAcceptedTokens(t *testing.T) {
	t.Parallel()
	room := roomName(t)
	now := time.Now().Unix()
	for name, jwt := range map[string]string{
		"ordinary":                   sign(t, "HS256", apiSecret, claims(room, "a", nil)),
		"expired 20 s ago":           sign(t, "HS256", apiSecret, claims(room, "a", map[string]any{"exp": now - 20})),
		"valid in 20 s":              sign(t, "HS256", apiSecret, claims(room, "a", map[string]any{"nbf": now + 20})),
		"identity in jti":            sign(t, "HS256", apiSecret, claims(room, "", map[string]any{"jti": "a"})),
		"256 bytes of identity":      sign(t, "HS256", apiSecret, claims(room, strings.Repeat("i", 256), nil)),
		"claims that nobody knows":   sign(t, "HS256", apiSecret, claims(room, "a", map[string]any{"future": map[string]any{"x": 1}})),
		"names of other characters":  sign(t, "HS256", apiSecret, claims(room+"/ü 😀", "å/ß 😀", nil)),
		"a kind and some attributes": sign(t, "HS256", apiSecret, claims(room, "a", map[string]any{"kind": "agent", "attributes": map[string]string{"a": "b"}})),
	} {
		for _, path := range []string{"/rtc/validate?" + legacyQuery(), "/rtc/v1/validate?" + joinQuery(t, plainJoin(), true)} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, env.server.http()+path+"&access_token="+jwt, nil)
			require.NoError(t, err)
			req.Header.Set("Origin", "https://example.org")
			res, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			var body bytes.Buffer
			_, err = body.ReadFrom(res.Body)
			require.NoError(t, err)
			res.Body.Close()
			require.Equal(t, 200, res.StatusCode, "%s: %s", name, body.String())
			require.Equal(t, "success", strings.TrimSpace(body.String()))
			require.Equal(t, "*", res.Header.Get("Access-Control-Allow-Origin"))
		}
	}
}

func testRefusedRequests(t *testing.T) {
	t.Parallel()
	room := roomName(t)
	jwt := token(t, "alice", join(room))
	bomb := wrappedQuery(t, &livekit.WrappedJoinRequest{
		Compression: livekit.WrappedJoinRequest_GZIP, JoinRequest: zip(t, make([]byte, 8<<20))})
	metadata, attributes := plainJoin(), plainJoin()
	metadata.Metadata = "m"
	attributes.ParticipantAttributes = map[string]string{"a": "b"}
	for _, c := range []struct {
		name, path string
		status     int
		text       string
	}{
		{"no join request", "/rtc/v1", 400, "join_request is required"},
		{"base64", "/rtc/v1?join_request=%21%21%21", 400, "cannot base64 decode wrapped join request"},
		{"protobuf", "/rtc/v1?join_request=" + url.QueryEscape(base64.URLEncoding.EncodeToString([]byte("\xff\xff\xff"))), 400, "cannot unmarshal wrapped join request"},
		{"gzip", "/rtc/v1?" + wrappedQuery(t, &livekit.WrappedJoinRequest{
			Compression: livekit.WrappedJoinRequest_GZIP, JoinRequest: []byte("not gzip")}), 400, ""},
		{"gzip cut short", "/rtc/v1?" + wrappedQuery(t, &livekit.WrappedJoinRequest{
			Compression: livekit.WrappedJoinRequest_GZIP, JoinRequest: zip(t, bytes.Repeat([]byte("xyz"), 99))[:12]}), 400, "cannot read decompressed join request"},
		{"gzip bomb", "/rtc/v1?" + bomb, 400, ""},
		{"inner protobuf", "/rtc/v1?" + wrappedQuery(t, &livekit.WrappedJoinRequest{JoinRequest: []byte("\xff\xff\xff")}), 400, "cannot unmarshal join request"},
		{"metadata", "/rtc/v1?" + joinQuery(t, metadata, false), 401, "no permissions to access the room"},
		{"attributes", "/rtc/v1?" + joinQuery(t, attributes, true), 401, "no permissions to access the room"},
	} {
		ws, status, body := upgrade(t, env.server, c.path, jwt)
		require.Nil(t, ws, c.name)
		require.Equal(t, c.status, status, "%s: %s", c.name, body)
		require.Contains(t, body, c.text, c.name)
		status, body, err := fetch(t.Context(),
			env.server.http()+strings.Replace(c.path, "/rtc/v1", "/rtc/v1/validate", 1), "Authorization", "Bearer "+jwt)
		require.NoError(t, err)
		require.Equal(t, c.status, status, "%s, validated: %s", c.name, body)
	}
}

func testRoutes(t *testing.T) {
	t.Parallel()
	room := roomName(t)
	jwt := token(t, "alice", join(room))

	// Without an upgrade the route is not found.
	status, body, err := fetch(t.Context(), env.server.http()+"/rtc?"+legacyQuery(), "Authorization", "Bearer "+jwt)
	require.NoError(t, err)
	require.Equal(t, 404, status)
	require.Empty(t, body)
	ws, status, _ := upgrade(t, env.server, "/rtc/?"+legacyQuery(), jwt)
	require.Nil(t, ws)
	require.Equal(t, 404, status)

	// Old clients send an additional slash.
	dial(t, env.server, "//rtc?"+legacyQuery(), jwt).joined(t)
	// Only the join request decides for one peer connection.
	require.False(t, dial(t, env.server, "/rtc?"+joinQuery(t, plainJoin(), true), jwt).joined(t).SubscriberPrimary)
	// The token in the query.
	dial(t, env.server, "/rtc?"+legacyQuery("access_token", jwt), "").joined(t)

	// Attributes that cannot be decoded are ignored on the WebSocket.
	allowed := token(t, "bob", &auth.VideoGrant{RoomJoin: true, Room: room, CanUpdateOwnMetadata: ptr(true)})
	status, _, err = fetch(t.Context(), env.server.http()+"/rtc/validate?"+legacyQuery("attributes", "!!!"), "Authorization", "Bearer "+allowed)
	require.NoError(t, err)
	require.Equal(t, 400, status)
	dial(t, env.server, "/rtc?"+legacyQuery("attributes", "!!!"), allowed).joined(t)
	good := base64.URLEncoding.EncodeToString([]byte(`{"color":"red"}`))
	j := dial(t, env.server, "/rtc?"+legacyQuery("attributes", good), allowed).joined(t)
	require.Equal(t, map[string]string{"color": "red"}, j.Participant.Attributes)
	request := plainJoin()
	request.ParticipantAttributes = map[string]string{"color": "blue"}
	request.Metadata = "m"
	j = dial(t, env.server, "/rtc/v1?"+joinQuery(t, request, true), allowed).joined(t)
	require.Equal(t, map[string]string{"color": "blue"}, j.Participant.Attributes)
	require.Equal(t, "m", j.Participant.Metadata)
}

func TestRoomFull(t *testing.T) {
	t.Parallel()
	room := roomName(t)
	_, err := roomService(env.server).CreateRoom(t.Context(), &livekit.CreateRoomRequest{Name: room, MaxParticipants: 1})
	require.NoError(t, err)
	dual.join(t, room, "alice")
	ws, status, body := upgrade(t, env.server, "/rtc?"+legacyQuery(), token(t, "bob", join(room)))
	require.Nil(t, ws)
	require.GreaterOrEqual(t, status, 400, body)
	// A participant that is in the room may join again.
	dual.join(t, room, "alice")
}
