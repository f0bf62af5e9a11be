package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
)

// goReceiver is a program around the README's Go receiver.
const goReceiver = `package main

import "net/http"

func main() { http.ListenAndServe(":8080", http.HandlerFunc(hooks)) }
`

// TestReceiversOfTheReadme runs the three receivers in the README, with another port, and
// sends each the events of a room.
func TestReceiversOfTheReadme(t *testing.T) {
	parlorOnly(t)
	t.Parallel()
	node, err := exec.LookPath("node")
	if err != nil {
		require.NotEqual(t, "true", os.Getenv("CI"), "node is not installed")
		t.Skip("node is not installed")
	}
	require.NoError(t, nodeModules())
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	require.NoError(t, err)
	section := regexp.MustCompile(`(?s)\n## Webhooks\n.*?\n## `).FindString(string(readme))
	code := regexp.MustCompile("(?s)```(go|js)\n(.*?)```").FindAllStringSubmatch(section, -1)
	require.Len(t, code, 3)
	ports, err := freePorts(len(code))
	require.NoError(t, err)
	dir, err := os.MkdirTemp("node", "readme-") // the scripts find their modules there
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })

	urls := make([]string, len(code))
	for i, block := range code {
		urls[i] = fmt.Sprintf("http://127.0.0.1:%d/hooks", ports[i])
		at := func(text string) []byte { return []byte(strings.ReplaceAll(text, "8080", fmt.Sprint(ports[i]))) }
		name := filepath.Join(dir, fmt.Sprintf("receiver-%d", i))
		if block[1] == "go" {
			require.NoError(t, os.WriteFile(name+".go", []byte("package main\n\n"+block[2]), 0o600))
			require.NoError(t, os.WriteFile(name+"-main.go", at(goReceiver), 0o600))
			receive(t, "go", "run", name+".go", name+"-main.go")
		} else {
			require.NoError(t, os.WriteFile(name+".mjs", at(block[2]), 0o600))
			receive(t, node, name+".mjs")
		}
	}
	for _, url := range urls {
		eventuallyWithin(t, 6*patience, url+" answers, and takes nothing that is not signed", func() bool {
			status, err := forge(t.Context(), url)
			return err == nil && status == http.StatusUnauthorized
		})
	}
	const key, secret = "myapp", "a-secret-of-at-least-32-characters"
	s := startServer(t, settings{
		"keys":    map[string]string{apiKey: apiSecret, key: secret},
		"webhook": map[string]any{"api_key": key, "urls": urls},
	})
	api := roomService(s)
	_, err = api.CreateRoom(t.Context(), &livekit.CreateRoomRequest{Name: "für alle"})
	require.NoError(t, err)
	_, err = api.DeleteRoom(t.Context(), &livekit.DeleteRoomRequest{Room: "für alle"})
	require.NoError(t, err)
	eventually(t, "every receiver has taken both events", func() bool {
		var all struct {
			Webhooks []struct{ Delivered, Failures int }
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.http()+"/v1/webhooks", nil)
		require.NoError(t, err)
		req.SetBasicAuth(key, secret)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&all))
		require.Len(t, all.Webhooks, len(urls))
		for _, w := range all.Webhooks {
			require.Zero(t, w.Failures)
			if w.Delivered != 2 {
				return false
			}
		}
		return true
	})
}

// receive runs a receiver until the test ends.
func receive(t *testing.T, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // "go run" has a child
	log := &logBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended
		_ = cmd.Wait()                                      // killed
		if t.Failed() {
			t.Logf("%s %v:\n%s", program, args, log)
		}
	})
}

// forge posts an unsigned event.
func forge(ctx context.Context, url string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(`{"event":"room_started"}`))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/webhook+json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}
