package lockfile_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"parlor/rooms/lockfile"
)

// One open file has the lock, and its content can be read by others meanwhile.
func TestTry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := lockfile.Open(path, 0o644)
	require.NoError(t, err)
	_, err = first.WriteString("mine")
	require.NoError(t, err)
	for range 2 {
		got, err := lockfile.Try(first)
		require.NoError(t, err)
		require.True(t, got)
		second, err := lockfile.Open(path, 0o644)
		require.NoError(t, err)
		got, err = lockfile.Try(second)
		require.NoError(t, err)
		require.False(t, got)
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, "mine", string(content))
		require.NoError(t, first.Close())
		got, err = lockfile.Try(second)
		require.NoError(t, err)
		require.True(t, got)
		require.NoError(t, second.Close())
		first, err = lockfile.Open(path, 0o644)
		require.NoError(t, err)
	}
	require.NoError(t, first.Close())

	one, err := lockfile.ID(path)
	require.NoError(t, err)
	again, err := lockfile.ID(path)
	require.NoError(t, err)
	require.Equal(t, one, again)
	_, err = lockfile.ID(path + ".missing")
	require.ErrorIs(t, err, os.ErrNotExist)
}
