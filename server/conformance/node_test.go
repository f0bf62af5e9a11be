package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// nodeModules installs the modules of the scripts in node/, once for all tests.
var nodeModules = sync.OnceValue(func() error {
	there := exec.Command("npm", "ls", "--depth=0") // fails if anything is missing
	there.Dir = "node"
	if there.Run() == nil {
		return nil
	}
	install := exec.Command("npm", "ci", "--ignore-scripts")
	install.Dir = "node"
	if out, err := install.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w: %s", err, out)
	}
	return nil
})

// TestNode runs the tests in node/ against a server of their own. They use LiveKit's Node
// SDKs, which contain WebRTC's engine and codecs.
func TestNode(t *testing.T) {
	t.Parallel()
	node, err := exec.LookPath("node")
	if err != nil {
		require.NotEqual(t, "true", os.Getenv("CI"), "node is not installed")
		t.Skip("node is not installed")
	}
	dir, err := filepath.Abs("node")
	require.NoError(t, err)
	require.NoError(t, nodeModules())

	ports, err := freePorts(1)
	require.NoError(t, err)
	s := startServer(t, settings{"webhook": map[string]any{
		"api_key": apiKey, "urls": []string{fmt.Sprintf("http://127.0.0.1:%d/", ports[0])},
	}, "room": map[string]any{"enable_remote_unmute": true}})
	cmd := exec.CommandContext(t.Context(), node, "main.js")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(),
		"PARLOR_URL="+s.http(), "PARLOR_KEY="+apiKey, "PARLOR_SECRET="+apiSecret,
		fmt.Sprintf("PARLOR_WEBHOOK_PORT=%d", ports[0]))
	out, err := cmd.CombinedOutput()
	t.Logf("node:\n%s", out)
	require.NoError(t, err)
	closing := regexp.MustCompile(`(?m)^(\d+) passed, 0 failed$`).FindStringSubmatch(strings.TrimSpace(string(out)))
	require.NotNil(t, closing, "the closing line")
	require.NotEqual(t, "0", closing[1])
}
