package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWhatIsNotAllowedNamesWhatIs (RFC 9110, section 15.5.6), on every path.
func TestWhatIsNotAllowedNamesWhatIs(t *testing.T) {
	h := open(t)
	for path, methods := range openAPI()["paths"].(object) {
		want := map[string]bool{}
		for method := range methods.(object) {
			want[strings.ToUpper(method)] = true
		}
		if want["GET"] {
			want["HEAD"] = true
		}
		concrete := "/v1" + strings.NewReplacer("{", "", "}", "").Replace(path)
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} {
			if want[method] {
				continue
			}
			resp, _ := h.server(method, concrete, "")
			require.Equal(t, 405, resp.StatusCode, "%s %s", method, path)
			got := map[string]bool{}
			for _, m := range strings.Split(resp.Header.Get("Allow"), ", ") {
				got[m] = true
			}
			require.Equal(t, want, got, "%s %s", method, path)
		}
	}
	resp, _ := h.server("POST", "/v1/rooms/a%2Fb", "")
	require.Equal(t, "GET, HEAD, PATCH, DELETE", resp.Header.Get("Allow"), "a name with a slash")
}

func TestWhatCannotBeReadIsNotPassedOver(t *testing.T) {
	h := open(t)
	ada := h.mustJoin("r", "ada")
	for name, tc := range map[string]struct {
		method, path, body string
		headers            []string
		status             int
		says               string
	}{
		"escape in the query":      {"GET", "/v1/rooms?name=%zz", "", nil, 400, "malformed"},
		"semicolon in the query":   {"DELETE", "/v1/rooms/r/participants/ada?revoke=true;x", "", nil, 400, "malformed"},
		"empty If-Match":           {"PATCH", "/v1/rooms/r", `{"metadata":"x"}`, []string{"If-Match", ""}, 400, "If-Match"},
		"empty If-Match, close":    {"DELETE", "/v1/rooms/r", "", []string{"If-Match", ""}, 400, "If-Match"},
		"body of a removal":        {"DELETE", "/v1/rooms/r/participants/ada", `{"revoke":true}`, nil, 400, `"path":"revoke"`},
		"body of a close":          {"DELETE", "/v1/rooms/r", `{"reason":"x"}`, nil, 400, `"path":"reason"`},
		"body of a resume":         {"POST", "/v1/webhooks/1/resume", `{"reason":"x"}`, nil, 400, `"path":"reason"`},
		"replay from end to start": {"POST", "/v1/webhooks/1/replay", `{"from_seq":2,"to_seq":1}`, nil, 400, `"path":"to_seq"`},
		"long reason of a pause":   {"POST", "/v1/webhooks/1/pause", `{"reason":"` + strings.Repeat("x", 1001) + `"}`, nil, 400, `"path":"reason"`},
	} {
		t.Run(name, func(t *testing.T) {
			resp, body := h.server(tc.method, tc.path, tc.body, tc.headers...)
			require.Equal(t, tc.status, resp.StatusCode, body)
			require.Contains(t, body, tc.says)
		})
	}
	ada.Sync()
	require.False(t, ada.gone())
	_, body := h.server("GET", "/v1/rooms/r", "")
	require.Contains(t, body, `"metadata":""`)
	_, body = h.server("GET", "/v1/webhooks/1", "")
	require.Contains(t, body, `"state":"on"`)

	require.Equal(t, 200, h.status("POST", "/v1/webhooks/1/pause", `{"reason":"`+strings.Repeat("x", 1000)+`"}`))
	require.Equal(t, 200, h.status("POST", "/v1/webhooks/1/resume", `{}`), "an object that says nothing")
	require.Equal(t, 200, h.status("POST", "/v1/webhooks/1/replay", `{"from_seq":1,"to_seq":1}`))
}

// TestARefusedRequestIsMendedUnderItsKey: a request that was refused before it had an
// effect does not use up its Idempotency-Key.
func TestARefusedRequestIsMendedUnderItsKey(t *testing.T) {
	h := open(t)
	for _, refused := range []struct {
		body   string
		status int
	}{{`{}`, 400}, {`{"name":"x","nmae":1}`, 400}, {`{`, 400}} {
		require.Equal(t, refused.status, h.status("POST", "/v1/rooms", refused.body, "Idempotency-Key", "k"))
	}
	require.Equal(t, 415, h.status("POST", "/v1/rooms", `{"name":"x"}`, "Idempotency-Key", "k", "Content-Type", "text/plain"))
	require.Equal(t, 201, h.status("POST", "/v1/rooms", `{"name":"x"}`, "Idempotency-Key", "k"))
	resp, _ := h.server("POST", "/v1/rooms", `{"name":"x"}`, "Idempotency-Key", "k")
	require.Equal(t, 201, resp.StatusCode)
	require.Equal(t, "true", resp.Header.Get("Idempotency-Replayed"))
	require.Equal(t, 422, h.status("POST", "/v1/rooms", `{"name":"y"}`, "Idempotency-Key", "k"), "now it is used")

	// A refusal because of the state is an answer.
	require.Equal(t, 404, h.status("POST", "/v1/rooms/absent/data", `{"text":"x"}`, "Idempotency-Key", "k"))
	resp, _ = h.server("POST", "/v1/rooms/absent/data", `{"text":"x"}`, "Idempotency-Key", "k")
	require.Equal(t, http.StatusNotFound, resp.StatusCode)
	require.Equal(t, "true", resp.Header.Get("Idempotency-Replayed"))
}

// TestNoTokenThatNoJoinTakes: such a token is not issued.
func TestNoTokenThatNoJoinTakes(t *testing.T) {
	h := open(t)
	long := func(n int) string { return strings.Repeat("x", n) }
	for path, tc := range map[string][2]string{ // the largest accepted value, and one too large
		"identity":             {`{"room":"r","identity":"` + long(256) + `"}`, `{"room":"r","identity":"` + long(257) + `"}`},
		"room":                 {`{"identity":"a","room":"` + long(256) + `"}`, `{"identity":"a","room":"` + long(257) + `"}`},
		"destination_room":     {`{"room":"r","room_admin":true,"destination_room":"` + long(256) + `"}`, `{"room":"r","room_admin":true,"destination_room":"` + long(257) + `"}`},
		"name":                 {`{"room":"r","identity":"a","name":"` + long(256) + `"}`, `{"room":"r","identity":"a","name":"` + long(257) + `"}`},
		"metadata":             {`{"room":"r","identity":"a","metadata":"` + long(1000) + `"}`, `{"room":"r","identity":"a","metadata":"` + long(1001) + `"}`},
		"attributes":           {`{"room":"r","identity":"a","attributes":{"k":"` + long(999) + `"}}`, `{"room":"r","identity":"a","attributes":{"k":"` + long(1000) + `"}}`},
		"room_config.metadata": {`{"room":"r","identity":"a","room_config":{"metadata":"` + long(1000) + `"}}`, `{"room":"r","identity":"a","room_config":{"metadata":"` + long(1001) + `"}}`},
		"room_config.tags":     {`{"room":"r","identity":"a","room_config":{"tags":{"k":"` + long(999) + `"}}}`, `{"room":"r","identity":"a","room_config":{"tags":{"k":"` + long(1000) + `"}}}`},
	} {
		require.Equal(t, 201, h.status("POST", "/v1/tokens", tc[0]), path)
		resp, body := h.server("POST", "/v1/tokens", tc[1])
		require.Equal(t, 400, resp.StatusCode, path)
		require.Equal(t, path, read[problemJSON](t, body).Errors[0].Path)
	}
}
