//go:build unix && !linux

package sqlite

import (
	"os"
	"testing"
)

// unprivileged runs f, unless the test runs as root, because permissions do not restrict root.
func unprivileged(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() == 0 {
		t.Skip("root may write everything")
	}
	f()
}
