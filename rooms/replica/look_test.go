package replica

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLookTakesNothing: a look at a replica shows its holder, and changes nothing.
func TestLookTakesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "replica")
	url := "file://" + dir
	_, err := Look(t.Context(), url)
	require.ErrorContains(t, err, "no such file or directory")
	require.NoDirExists(t, dir)
	_, err = Look(t.Context(), "ftp://x")
	require.ErrorContains(t, err, "it should be s3 or file")

	d, err := openDirectory(dir, true)
	require.NoError(t, err)
	o := owner{Replica: "r", Epoch: 7, Owner: "process 1 on a", Expires: time.Now().Add(time.Minute).UnixMilli(), TTLMs: 30_000}
	body, err := o.encode()
	require.NoError(t, err)
	_, err = d.writeOwner(t.Context(), body, "")
	require.NoError(t, err)
	s, err := Look(t.Context(), url)
	require.NoError(t, err)
	require.Equal(t, "process 1 on a", s.Owner)
	require.EqualValues(t, 7, s.Epoch)
	require.Equal(t, o.Expires, s.Expires.UnixMilli())
	require.False(t, s.Clocked, "a folder has this machine's clock")
	require.NoError(t, d.close())
}

func TestLookComparesClocks(t *testing.T) {
	s, err := Look(t.Context(), s3URL(t))
	require.NoError(t, err)
	require.True(t, s.Clocked)
	require.Less(t, s.Ahead.Abs(), time.Minute)
	require.Empty(t, s.Owner)
}
