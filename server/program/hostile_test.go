package program

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/server/config"
)

// metric is the value of a metric in /metrics, by its name and labels.
func (h *house) metric(name string) float64 {
	_, body := h.get("/metrics")
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (.*)$`).FindStringSubmatch(body)
	if found == nil {
		return 0
	}
	v, err := strconv.ParseFloat(found[1], 64)
	require.NoError(h.t, err)
	return v
}

// pings checks that a client is in its room and gets answers. It skips earlier messages.
func (h *house) pings(conn *websocket.Conn) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	at := time.Now().UnixNano()
	require.NoError(h.t, send(ctx, conn, &livekit.SignalRequest{Message: &livekit.SignalRequest_PingReq{PingReq: &livekit.Ping{Timestamp: at}}}))
	for {
		m, err := receive(ctx, conn)
		require.NoError(h.t, err)
		if m.GetPongResp().GetLastPingTimestamp() == at {
			return
		}
	}
}

// withMedia connects a participant's media until the test ends. A participant without
// media is removed after a minute.
func (h *house) withMedia(conn *websocket.Conn) {
	h.t.Helper()
	pc, err := newPeerConnection()
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = pc.Close() }) // the server may have closed it first
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	var once sync.Once
	pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) {
		if s == webrtc.PeerConnectionStateConnected {
			once.Do(func() { // the loop below ends with its answer
				_ = send(ctx, conn, &livekit.SignalRequest{Message: &livekit.SignalRequest_PingReq{PingReq: &livekit.Ping{Timestamp: 1}}})
			})
		}
	})
	for {
		m, err := receive(ctx, conn)
		require.NoError(h.t, err)
		if m.GetPongResp() != nil {
			return
		}
		require.NoError(h.t, negotiate(ctx, conn, pc, m))
	}
}

// noLimits removes the limits on one address's joins in these tests.
var noLimits = []config.Setting{
	{Path: "limit.joins_per_address", Value: "100000", From: "test"},
	{Path: "limit.joins_per_key", Value: "100000", From: "test"},
}

// TestHalfOpenJoins: clients that join and stay silent, or vanish at once, do not affect
// the others, and leave no state.
func TestHalfOpenJoins(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"), noLimits...)
	witness, _ := h.dial("", issue(t, "--room", "r", "--identity", "witness"))
	require.NotNil(t, witness)
	h.withMedia(witness)
	h.pings(witness)
	tokens := make([]string, 20)
	for i := range tokens {
		tokens[i] = issue(t, "--room", "r", "--identity", fmt.Sprint("half-", i))
	}
	http.DefaultClient.CloseIdleConnections()
	before := runtime.NumGoroutine()
	address := strings.TrimPrefix(h.url, "http://")
	for round := range 10 {
		var silent []*websocket.Conn
		for i, token := range tokens {
			if i%2 == 0 { // the sender vanishes before the answer
				conn, err := net.Dial("tcp", address)
				require.NoError(t, err)
				_, err = fmt.Fprintf(conn, "GET /rtc?protocol=17&access_token=%s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\n"+
					"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", token, address)
				require.NoError(t, err)
				require.NoError(t, conn.Close())
				continue
			}
			conn, status := h.dial("", token)
			require.NotNil(t, conn, status)
			silent = append(silent, conn)
		}
		if round%2 == 0 {
			h.pings(witness)
		}
		for _, conn := range silent {
			require.NoError(t, conn.CloseNow())
		}
	}
	require.Eventually(t, func() bool {
		_, body := h.operate("GET", "/v1/rooms/r/participants", "", "")
		http.DefaultClient.CloseIdleConnections()
		return strings.Count(body, `"identity"`) == 1 && h.media.Stats().Peers == 1 && runtime.NumGoroutine() <= before+10
	}, 2*time.Minute, 20*time.Millisecond, "what half-open joins left")
	require.GreaterOrEqual(t, h.metric(`parlor_signal_connects_total{result="joined"}`), 100.0)
	h.pings(witness)
}

// TestSlowSignallingReader: only the client that does not read its messages is
// disconnected; the others get all messages.
func TestSlowSignallingReader(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"))
	dialer := net.Dialer{}
	slowHTTP := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(4096)
		}
		return conn, err
	}}}
	defer slowHTTP.CloseIdleConnections()
	slow, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(h.url, "http")+"/rtc?protocol=17&access_token="+
		issue(t, "--room", "r", "--identity", "slow"), &websocket.DialOptions{HTTPClient: slowHTTP})
	require.NoError(t, err)
	defer slow.CloseNow()
	witness, _ := h.dial("", issue(t, "--room", "r", "--identity", "witness"))
	require.NotNil(t, witness)
	witness.SetReadLimit(4 << 20)
	h.withMedia(witness)
	service := livekit.NewRoomServiceProtobufClient(h.url, http.DefaultClient)
	filler := strings.Repeat("x", 400_000)
	for i := range 80 { // more than may wait for a client
		text := fmt.Sprint(i, filler)
		_, err := service.UpdateRoomMetadata(as(t.Context(), "r"), &livekit.UpdateRoomMetadataRequest{Room: "r", Metadata: text})
		require.NoError(t, err)
		h.await(witness, func(m *livekit.SignalResponse) string {
			if m.GetRoomUpdate().GetRoom().GetMetadata() == text {
				return text
			}
			return ""
		})
	}
	require.Eventually(t, func() bool { return h.metric("parlor_signal_slow_clients_total") > 0 }, time.Minute, 10*time.Millisecond)
	h.pings(witness)
}
