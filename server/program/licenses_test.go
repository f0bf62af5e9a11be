package program

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLicensesAreOfWhatIsRequired compares the notice with go.mod and the page's scripts.
// .ci/licenses.go checks that no module is missing, because that needs go list.
func TestLicensesAreOfWhatIsRequired(t *testing.T) {
	status, shown, errs := command(t, nil, "licenses")
	require.Zero(t, status, errs)
	mod, err := os.ReadFile(filepath.Join(repository, "go.mod"))
	require.NoError(t, err)
	required := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\s+(\S+) (v\S+)`).FindAllStringSubmatch(string(mod), -1) {
		required[m[1]] = m[2]
	}
	named := regexp.MustCompile(`(?m)^(\S+\.\S+/\S+|\S+\.dev/\S+) (v\d\S*)$`).FindAllStringSubmatch(shown, -1)
	require.Greater(t, len(named), 50)
	for _, m := range named {
		require.Equal(t, required[m[1]], m[2], "%s: the notice is of another version than go.mod; run go generate", m[1])
	}
	scripts, err := filepath.Glob(repository + "/static/vendor/*.js.gz")
	require.NoError(t, err)
	require.NotEmpty(t, scripts)
	for _, s := range scripts {
		require.Contains(t, shown, strings.TrimSuffix(filepath.Base(s), ".gz")+"\n", "run go generate")
	}
	require.Contains(t, shown, "the Go runtime and standard library")
	license, err := os.ReadFile(filepath.Join(repository, "LICENSE"))
	require.NoError(t, err)
	require.Contains(t, string(license), "Apache License")
	require.True(t, strings.HasPrefix(shown, "Parlor is under the Apache License 2.0."))
}
