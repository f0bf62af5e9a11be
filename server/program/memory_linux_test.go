package program

import (
	"bytes"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestUnmapProgram: the program takes less memory, and runs on.
func TestUnmapProgram(t *testing.T) {
	resident := func() (kilobytes int) {
		status, err := os.ReadFile("/proc/self/status")
		require.NoError(t, err)
		found := regexp.MustCompile(`RssFile:\s+(\d+) kB`).FindSubmatch(status)
		require.NotNil(t, found)
		kilobytes, err = strconv.Atoi(string(found[1]))
		require.NoError(t, err)
		return kilobytes
	}
	before := resident()
	require.NoError(t, unmapProgram())
	require.Less(t, resident(), before*3/4)
	var texts bytes.Buffer
	require.NoError(t, licenses(t.Context(), Environment{Out: &texts}))
	require.NotEmpty(t, texts.String())
}
