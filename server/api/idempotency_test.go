package api_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/stretchr/testify/require"
)

// again serves the same database again, as after a restart.
func (h *house) again() {
	h.Server.Close()
	h.serve(h.config)
}

// TestIdempotencyKeysOutliveARestart, so that no request is executed twice. No secret is
// stored for it.
func TestIdempotencyKeysOutliveARestart(t *testing.T) {
	h := open(t)
	ada := h.mustJoin("r", "ada")
	const data = "/v1/rooms/r/data"
	require.Equal(t, 204, h.status("POST", data, `{"text":"once"}`, "Idempotency-Key", "k"))
	created, first := h.server("POST", "/v1/rooms", `{"name":"x"}`, "Idempotency-Key", "k")
	require.Equal(t, 201, created.StatusCode)
	_, secret := h.server("POST", "/v1/tokens", `{"room":"r","identity":"eve"}`, "Idempotency-Key", "k")
	require.Equal(t, 204, h.status("DELETE", "/v1/rooms/x", ""))

	h.again()
	resp, _ := h.server("POST", data, `{"text":"once"}`, "Idempotency-Key", "k")
	require.Equal(t, 204, resp.StatusCode)
	require.Equal(t, "true", resp.Header.Get("Idempotency-Replayed"))
	ada.Sync()
	require.Equal(t, 1, ada.received())
	resp, body := h.server("POST", "/v1/rooms", `{"name":"x"}`, "Idempotency-Key", "k")
	require.Equal(t, 201, resp.StatusCode)
	require.Equal(t, first, body)
	for _, name := range []string{"Content-Type", "ETag", "Location"} {
		require.Equal(t, created.Header.Get(name), resp.Header.Get(name), name)
	}
	require.Equal(t, 404, h.status("GET", "/v1/rooms/x", ""), "nothing was done")
	require.Equal(t, 422, h.status("POST", data, `{"text":"other"}`, "Idempotency-Key", "k"))
	require.Equal(t, 204, h.status("POST", data, `{"text":"other"}`, "Idempotency-Key", "k2"))
	resp, body = h.server("POST", "/v1/tokens", `{"room":"r","identity":"eve"}`, "Idempotency-Key", "k")
	require.Empty(t, resp.Header.Get("Idempotency-Replayed"), "tokens are not stored")
	require.NotEmpty(t, body)
	require.NotEmpty(t, secret)
}

// TestTwirpRetries: a request with an Idempotency-Key is executed once in Twirp too, and
// only a permitted caller gets its answer.
func TestTwirpRetries(t *testing.T) {
	h := open(t)
	ada := h.mustJoin("r", "ada")
	may, mayNot := h.token(admin("r")), h.token(admin("another"))
	call := func(token, body string) (*http.Response, string) {
		req, err := http.NewRequestWithContext(t.Context(), "POST", h.URL+"/twirp/livekit.RoomService/SendData", strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", "k")
		return h.do(req)
	}
	const once = `{"room":"r","data":"b25jZQ=="}`
	resp, _ := call(mayNot, once)
	require.Equal(t, 401, resp.StatusCode)
	for range 2 {
		resp, body := call(may, once)
		require.Equal(t, 200, resp.StatusCode, body)
		h.again()
	}
	ada.Sync()
	require.Equal(t, 1, ada.received())
	resp, _ = call(mayNot, once)
	require.Equal(t, 401, resp.StatusCode)
	resp, body := call(may, `{"room":"r","data":"b3RoZXI="}`)
	require.Equal(t, 412, resp.StatusCode)
	require.Contains(t, body, "failed_precondition")
}

// TestAReplayIsForWhoMayStillAsk: neither a token that was revoked meanwhile nor another
// identity with the same grants gets the stored answer.
func TestAReplayIsForWhoMayStillAsk(t *testing.T) {
	h := open(t)
	ada := h.mustJoin("r", "ada")
	call := func(identity string) int {
		token, err := h.verifier.Mint(key, &auth.ClaimGrants{Identity: identity, Video: admin("r")}, time.Hour)
		require.NoError(t, err)
		req, err := http.NewRequestWithContext(t.Context(), "POST", h.URL+"/twirp/livekit.RoomService/SendData", strings.NewReader(`{"room":"r","data":"b25jZQ=="}`))
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", "k")
		resp, _ := h.do(req)
		return resp.StatusCode
	}
	require.Equal(t, 200, call("bob"))
	require.Equal(t, 200, call("bob"))
	require.Equal(t, 200, call("eve"))
	ada.Sync()
	require.Equal(t, 2, ada.received(), "bob's once, and eve's own")
	require.Equal(t, 200, h.status("PUT", "/v1/rooms/r/bans/bob", `{}`))
	require.Equal(t, 403, call("bob"))
}
