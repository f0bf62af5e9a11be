package program

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"parlor/server/admin"
	"parlor/server/config"
)

// signIn tries to sign in to the dashboard there, and returns the status.
func signIn(t *testing.T, url, body string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/admin/session", strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(admin.Header, "1")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	return resp.StatusCode
}

const devSignIn = `{"key":"devkey","secret":"secret"}`

func TestAdminLinkSignsIn(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"))
	link := strings.TrimSpace(h.ask("admin-link", "--role", "look"))
	secret, found := strings.CutPrefix(link, h.url+"/admin#link=")
	require.True(t, found, link)
	require.Equal(t, 201, signIn(t, h.url, fmt.Sprintf(`{"link":%q}`, secret)))
	require.Equal(t, 401, signIn(t, h.url, fmt.Sprintf(`{"link":%q}`, secret)), "once")
	require.Equal(t, 201, signIn(t, h.url, devSignIn))
	status, page := h.get("/admin")
	require.Equal(t, 200, status)
	require.Contains(t, page, "/static/admin/main.js")
	status, _, errs := command(t, nil, "admin-link", "--dev", "--url", h.url, "--valid", "2h")
	require.Equal(t, 1, status, errs)
	shown, out, _ := command(t, nil, "admin-link", "--dev", "--url", h.url, "--json")
	require.Zero(t, shown)
	require.Contains(t, out, `"role":"all"`)
}

func TestDashboardCanBeTurnedOff(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"), config.Setting{Path: "admin", Value: "false", From: "test"})
	status, _ := h.get("/admin")
	require.Equal(t, 404, status)
	require.Equal(t, 404, signIn(t, h.url, devSignIn))
	failed, _, errs := command(t, nil, "admin-link", "--dev", "--url", h.url)
	require.Equal(t, 1, failed)
	require.Contains(t, errs, "there is no dashboard")
	require.Contains(t, h.ask("status"), "version", "the API is there")
}

func TestPartsOnPortsOfTheirOwn(t *testing.T) {
	port, profiles := freePort(t), freePort(t)
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"), config.Setting{Path: "admin_port", Value: fmt.Sprint(port), From: "test"},
		config.Setting{Path: "debug_handler.port", Value: fmt.Sprint(profiles), From: "test"})
	profile := func(host string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/goroutine?debug=1", profiles), nil)
		require.NoError(t, err)
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(body)
	}
	status, body := profile(fmt.Sprintf("127.0.0.1:%d", profiles))
	require.Equal(t, 200, status)
	require.Contains(t, body, "parlor/rooms.")
	status, _ = profile("attacker.example")
	require.Equal(t, 403, status, "a page whose name leads here")
	foreign, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/profile?seconds=60", profiles), nil)
	require.NoError(t, err)
	foreign.Header.Set("Sec-Fetch-Site", "cross-site")
	resp, err := http.DefaultClient.Do(foreign)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 403, resp.StatusCode, "a page of another site")
	status, _ = h.get("/debug/pprof/")
	require.Equal(t, 404, status)
	status, _ = h.get("/admin")
	require.Equal(t, 404, status)
	require.Equal(t, 404, signIn(t, h.url, devSignIn))
	apart := fmt.Sprintf("http://127.0.0.1:%d", port)
	require.Equal(t, 201, signIn(t, apart, devSignIn))
	for path, want := range map[string]int{"/admin": 200, "/static/admin/main.js": 200, "/rtc": 404, "/twirp/livekit.RoomService/ListRooms": 404, "/metrics": 404} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, apart+path, nil)
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, want, resp.StatusCode, path)
	}
}

func TestConfigurationIsShownWithoutItsSecrets(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"),
		config.Setting{Path: "replica", Value: "file://" + filepath.Join(t.TempDir(), "replica"), From: "test"},
		config.Setting{Path: "webhook.urls", Value: "https://user:hidden-word@app.example/hook?token=hidden-word", From: "test"},
		config.Setting{Path: "webhook.api_key", Value: "devkey", From: "test"},
		config.Setting{Path: "rtc.turn_servers", Value: "[{host: turn.example, port: 3478, protocol: udp, username: me, credential: hidden-word}]", From: "test"},
		config.Setting{Path: "webhook.endpoints", Value: "[{url: 'https://b.example/?k=hidden-word', secrets: [whsec_aGlkZGVuLXdvcmQtaGlkZGVuLXdvcmQtaGlkZGVu]}]", From: "test"})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.url+"/v1/configuration", nil)
	require.NoError(t, err)
	req.SetBasicAuth("devkey", "secret")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	text := string(body)
	require.Equal(t, 200, resp.StatusCode, text)
	require.NotContains(t, text, "hidden-word")
	require.NotContains(t, text, "whsec_a")
	require.NotContains(t, text, "devkey: secret")
	for _, part := range []string{`app.example/hook`, "turn.example", "b.example", `"key":"room.empty_timeout","value":"300"`, `"value":"{devkey: '***'}"`, `"key":"admin","value":"true","set":false`} {
		require.Contains(t, text, part)
	}
}
