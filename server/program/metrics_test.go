package program

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"parlor/rooms"
	"parlor/server/config"
)

// TestEveryPromiseHasAGauge compares the README's rules for monitoring with the program's
// metrics: every rule's metric exists.
func TestEveryPromiseHasAGauge(t *testing.T) {
	hooks := newInbox(t)
	hooks.answer("/", http.StatusInternalServerError)
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"),
		config.Setting{Path: "replica", Value: "file://" + filepath.Join(t.TempDir(), "replica"), From: "test"},
		config.Setting{Path: "webhook.urls", Value: hooks.URL + "/", From: "test"},
		config.Setting{Path: "webhook.api_key", Value: "devkey", From: "test"})
	_, err := h.rooms.Create(t.Context(), &livekit.CreateRoomRequest{Name: "r", EmptyTimeout: rooms.WireNever})
	require.NoError(t, err)
	h.get("/healthz") // so that there was a request
	_, metrics := h.get("/metrics")

	readme, err := os.ReadFile(filepath.Join(repository, "README.md"))
	require.NoError(t, err)
	panels, err := os.ReadFile(filepath.Join(repository, "docs", "grafana.json"))
	require.NoError(t, err)
	require.True(t, json.Valid(panels))
	named := regexp.MustCompile(`\bparlor_[a-z_]+`).FindAllString(string(readme)+string(panels), -1)
	require.Greater(t, len(named), 20)
	for _, name := range named {
		require.Regexp(t, `(?m)^`+name+`[ {_]`, metrics)
	}
	for _, line := range []string{
		`parlor_rooms{state="open"} 1`, "parlor_rooms_overdue 0", "parlor_rooms_stuck 0", "parlor_participants_expected_back 0", "parlor_database_failing 0",
		"parlor_replica_lease_held 1", "parlor_replica_epoch 1",
	} {
		require.Contains(t, metrics, line+"\n")
	}
	require.Regexp(t, `(?m)^parlor_webhook_pending{.*} 1$`, metrics)
	require.Regexp(t, `(?m)^parlor_rooms_oldest_seconds 0\.`, metrics)

	_, rules, found := strings.Cut(string(readme), "As rules of Prometheus:\n\n```yaml\n")
	require.True(t, found)
	rules, _, _ = strings.Cut(rules, "```")
	var parsed struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(rules), &parsed))
	dashboard, err := os.ReadFile(filepath.Join(repository, "server", "api", "overview.go"))
	require.NoError(t, err)
	for _, r := range parsed.Groups[0].Rules {
		require.NotEmpty(t, r.Alert)
		require.Contains(t, string(dashboard), `"`+r.Alert+`"`, "the dashboard does not tell of it")
		require.Contains(t, r.Expr, "parlor_", r.Alert)
	}

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.url+"/v1/status", nil)
	require.NoError(t, err)
	req.SetBasicAuth("devkey", "secret")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	var status map[string]map[string]any
	var all map[string]any
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&all))
	b, err := json.Marshal(map[string]any{"rooms": all["rooms"], "database": all["database"], "replication": all["replication"], "webhooks": all["webhooks"]})
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &status))
	for part, fields := range map[string][]string{
		"rooms":       {"open", "live", "expected_back", "overdue", "oldest_created_at"},
		"database":    {"commit_p50_ms", "commit_p99_ms", "queue", "wal_bytes"},
		"replication": {"state", "epoch", "lag_seconds", "lease_expires_at"},
		"webhooks":    {"pending", "dead", "oldest_pending_at", "failing"},
	} {
		for _, field := range fields {
			require.Contains(t, status[part], field)
			require.NotNil(t, status[part][field], field)
		}
	}
}

// TestWhatComesToThePortsIsCounted: connections that are turned away, by port and reason. A
// server without such ports has the same series.
func TestWhatComesToThePortsIsCounted(t *testing.T) {
	at := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	_, port, err := net.SplitHostPort(at)
	require.NoError(t, err)
	set := func(path, value string) config.Setting {
		return config.Setting{Path: path, Value: value, From: "test"}
	}
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"),
		set("turn.enabled", "true"), set("turn.tls_port", port), set("turn.domain", "turn.example"), set("turn.external_tls", "true"),
		set("turn.proxy_protocol", "true"))
	for range 2 {
		conn, err := net.Dial("tcp", at)
		require.NoError(t, err)
		_, err = io.WriteString(conn, "GET / HTTP/1.1\r\n\r\n")
		require.NoError(t, err)
		_, _ = io.ReadAll(conn) // it ends, maybe with a reset
		require.NoError(t, conn.Close())
	}
	require.Eventually(t, func() bool {
		_, metrics := h.get("/metrics")
		return strings.Contains(metrics, `parlor_door_refused_total{door="turn",why="unnamed"} 2`+"\n") &&
			strings.Contains(metrics, `parlor_door_callers{door="turn"} 0`+"\n")
	}, time.Minute, 10*time.Millisecond)
	series := func(h *house) []string {
		_, metrics := h.get("/metrics")
		return regexp.MustCompile(`(?m)^parlor_door_[^ ]+`).FindAllString(metrics, -1)
	}
	with := series(h)
	require.Len(t, with, 2*(1+3+5+1))
	require.Equal(t, with, series(start(t, filepath.Join(t.TempDir(), "parlor.db"))))
}

// TestUDPIsCounted: what comes to the media port, and the system calls that brought it.
func TestUDPIsCounted(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"))
	value := func(series string) (n float64) {
		_, metrics := h.get("/metrics")
		found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(metrics)
		require.NotNil(t, found, series)
		n, err := strconv.ParseFloat(found[1], 64)
		require.NoError(t, err)
		return n
	}
	const in, calls = `parlor_media_udp_packets_total{direction="in"}`, `parlor_media_udp_calls_total{direction="in"}`
	require.Zero(t, value(in))
	const sent = 20
	addrs, _ := h.media.Addrs()
	conn, err := net.Dial("udp", addrs[0].String())
	require.NoError(t, err)
	defer conn.Close()
	for range sent {
		_, err := conn.Write([]byte("a packet of nobody"))
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return value(in) == sent }, time.Minute, 10*time.Millisecond)
	require.InDelta(t, (1.0+sent)/2, value(calls), (sent-1.0)/2)
	for _, why := range []string{"busy", "unreachable", "too-long", "closed", "other"} {
		require.Zero(t, value(`parlor_media_udp_dropped_total{why="`+why+`"}`))
	}
}
