package api_test

import (
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestALongCallIsNotCutOff by the server's own request timeouts.
func TestALongCallIsNotCutOff(t *testing.T) {
	h := open(t)
	h.mustJoin("r", "bob")
	h.Server.Close()
	h.Server = httptest.NewUnstartedServer(h.routes(h.config))
	h.Config.ReadTimeout, h.Config.WriteTimeout = 300*time.Millisecond, 300*time.Millisecond
	h.Start()

	resp, body := h.server("POST", "/v1/rooms/r/participants/bob/rpc", `{"method":"m","timeout":1}`)
	require.Equal(t, 503, resp.StatusCode, body)
	require.Contains(t, body, "did not answer")
	resp, body = h.ask("POST", "/twirp/livekit.RoomService/PerformRpc", h.token(admin("r")), "application/json",
		`{"room":"r","destination_identity":"bob","method":"m","response_timeout_ms":1000}`)
	require.Equal(t, 503, resp.StatusCode, body)
	require.Contains(t, body, "did not answer")
}
