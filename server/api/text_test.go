package api_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// Text that would be returned differently is refused, so that two names cannot become
// one.
func TestTextThatIsNotUnicodeIsRefused(t *testing.T) {
	h := open(t)
	require.Equal(t, 201, h.status("POST", "/v1/rooms", `{"name":"r"}`))
	for _, tc := range []struct{ name, method, path, body, field string }{
		{"bytes", "POST", "/v1/rooms", "{\"name\":\"\xff\xfe\"}", "name"},
		{"half a pair", "POST", "/v1/rooms", `{"name":"a\ud800"}`, "name"},
		{"half a pair and more", "POST", "/v1/rooms", `{"name":"\ud800\u0041"}`, "name"},
		{"the other half", "POST", "/v1/rooms", `{"name":"\udc00"}`, "name"},
		{"the halves in a wrong order", "POST", "/v1/rooms", `{"name":"\udc00\ud800"}`, "name"},
		{"inside", "POST", "/v1/rooms", `{"name":"a","tags":{"team":"\ud800"}}`, "tags.team"},
		{"in a list", "POST", "/v1/rooms/r/data", "{\"text\":\"x\",\"to\":[\"a\",\"\xff\"]}", "to[1]"},
		{"in a name of the body", "POST", "/v1/rooms", `{"name":"a","tags":{"\ud800":"red"}}`, "tags"},
		{"hidden by a second of that name", "POST", "/v1/rooms", `{"name":"\ud800","name":"a"}`, "body"},
		{"path", "PUT", "/v1/rooms/r/bans/%ff", "", "identity"},
		{"path with a slash", "PUT", "/v1/rooms/r/bans/a%2fb%ff", "", "identity"},
		{"room in the path", "GET", "/v1/rooms/%c3%28", "", "name"},
		{"query", "GET", "/v1/rooms?name_prefix=%ff", "", "name_prefix"},
		{"query of the log", "GET", "/v1/events?room=%ff", "", "room"},
		{"NUL in the path", "PUT", "/v1/rooms/r/bans/a%00", "", "identity"},
		{"NUL in the query", "GET", "/v1/rooms?name=%00", "", "name"},
		{"NUL in a token", "POST", "/v1/tokens", `{"identity":"a\u0000","room":"r"}`, "identity"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resp, body := h.server(tc.method, tc.path, tc.body)
			require.Equal(t, 400, resp.StatusCode, body)
			p := read[problemJSON](t, body)
			require.Equal(t, "invalid_argument", p.Code)
			require.Len(t, p.Errors, 1)
			require.Equal(t, tc.field, p.Errors[0].Path, body)
		})
	}
	for _, body := range []string{`{"name":"a\u0000"}`, `{"name":"\u0000"}`} {
		resp, got := h.server("POST", "/v1/rooms", body)
		require.Equal(t, 400, resp.StatusCode, got)
		require.Contains(t, got, "NUL")
	}
	status, got := h.twirp("CreateRoom", h.token(admin("r")), `{"name":"a\u0000"}`)
	require.Equal(t, 400, status, got)
	status, got = h.twirp("CreateRoom", h.token(admin("r")), `{"name":"a\ud800"}`)
	require.Equal(t, 400, status, got)
	resp, got := h.server("POST", "/v1/rooms/r/revocations", `{"identity":"a\u0000"}`)
	require.Equal(t, 400, resp.StatusCode, got)
}

func TestTextThatIsUnicodeStaysAsItIs(t *testing.T) {
	h := open(t)
	for name, said := range map[string]string{
		"😀":            `\ud83d\ude00`,
		"\ufffd":       "\ufffd",
		`\ud800`:       `\\ud800`,
		"\U0010ffff é": `\udbff\udfff \u00e9`,
		`a\😀`:          `a\\\ud83d\ude00`,
	} {
		resp, body := h.server("POST", "/v1/rooms", fmt.Sprintf(`{"name":"%s"}`, said))
		require.Equal(t, 201, resp.StatusCode, body)
		require.Equal(t, name, read[roomJSON](t, body).Name)
	}
}
