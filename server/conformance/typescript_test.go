package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGeneratedTypeScriptClient generates a client from the API's description, and
// strictly compiles and runs a tour of the API with it.
func TestGeneratedTypeScriptClient(t *testing.T) {
	t.Parallel()
	parlorOnly(t)
	node, err := exec.LookPath("node")
	if err != nil {
		require.NotEqual(t, "true", os.Getenv("CI"), "node is not installed")
		t.Skip("node is not installed")
	}
	dir, err := filepath.Abs("typescript")
	require.NoError(t, err)
	run := func(program string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PARLOR_URL="+env.server.http(), "PARLOR_KEY="+apiKey, "PARLOR_SECRET="+apiSecret)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s %v: %s", program, args, out)
	}
	run("npm", "ci", "--ignore-scripts")
	status, description, err := fetch(t.Context(), env.server.http()+"/openapi.json")
	require.NoError(t, err)
	require.Equal(t, 200, status)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "openapi.json"), []byte(description), 0o600))
	modules := filepath.Join("node_modules", "%s")
	run(node, fmt.Sprintf(modules, "openapi-typescript/bin/cli.js"), "openapi.json", "-o", "schema.ts")
	run(node, fmt.Sprintf(modules, "typescript/bin/tsc"))
	run(node, filepath.Join("build", "tour.js"))
}
