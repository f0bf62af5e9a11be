package program

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"parlor/server/config"
)

func TestConnectionsAreBounded(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"), config.Setting{Path: "limit.max_connections", Value: "1", From: "test"})
	connect := func(identity string) (*websocket.Conn, *http.Response) {
		conn, resp, err := websocket.Dial(t.Context(), strings.Replace(h.url, "http", "ws", 1)+"/rtc?access_token="+issue(t, "--room", "r", "--identity", identity), nil)
		if err != nil {
			require.NotNil(t, resp, "%v", err)
		}
		return conn, resp
	}
	first, _ := connect("ada")
	require.NotNil(t, first)
	none, resp := connect("bob")
	require.Nil(t, none)
	require.Equal(t, 503, resp.StatusCode)
	require.NotEmpty(t, resp.Header.Get("Retry-After"))
	require.NoError(t, first.CloseNow())
	require.Eventually(t, func() bool {
		conn, _ := connect("bob")
		if conn != nil {
			_ = conn.CloseNow()
		}
		return conn != nil
	}, time.Minute, 10*time.Millisecond)
}

// TestRatesAreBounded on every protocol, with each one's form of the refusal.
func TestRatesAreBounded(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"),
		config.Setting{Path: "limit.requests_per_address", Value: "1", From: "test"},
		config.Setting{Path: "limit.joins_per_key", Value: "1", From: "test"},
		config.Setting{Path: "limit.burst", Value: "1s", From: "test"})
	var resp *http.Response
	for range 50 { // a busy machine may take a second between two
		var err error
		resp, err = http.Get(h.url + "/v1/rooms")
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		if resp.StatusCode == http.StatusTooManyRequests {
			break
		}
	}
	require.Equal(t, 429, resp.StatusCode)
	require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
	require.NotEmpty(t, resp.Header.Get("Retry-After"))

	token := issue(t, "--room", "r", "--identity", "ada")
	var status int
	var body string
	for range 50 {
		if status, body = h.get("/rtc/validate?access_token=" + token); status != http.StatusOK {
			break
		}
	}
	require.Equal(t, 503, status, "clients take 4xx for a final no")
	require.Contains(t, body, "too many connects")
	_, body = h.get("/metrics")
	require.Contains(t, body, `parlor_rate_limited_total{by="address",what="requests"} `)
	require.Contains(t, body, `parlor_rate_limited_total{by="key",what="joins"} `)
}
