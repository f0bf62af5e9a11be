package sqlite

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"parlor/rooms"

	"github.com/stretchr/testify/require"
)

func TestReadEpoch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "parlor.db")
	s, err := Open(t.Context(), Config{Path: path})
	require.NoError(t, err)
	require.NoError(t, s.SetEpoch(t.Context(), 3))
	require.NoError(t, s.Close(context.Background()))
	epoch, err := ReadEpoch(t.Context(), path)
	require.NoError(t, err)
	require.EqualValues(t, 3, epoch)

	require.NoError(t, os.WriteFile(path, []byte("this is no database, but it is long enough to be mistaken for one by its size"), 0o644))
	_, err = ReadEpoch(t.Context(), path)
	require.ErrorContains(t, err, "not an SQLite database")
}

func TestAllow(t *testing.T) {
	var lost atomic.Bool
	s, err := Open(t.Context(), Config{Path: filepath.Join(t.TempDir(), "parlor.db"), Allow: func() error {
		if lost.Load() {
			return errors.New("the lease is lost")
		}
		return nil
	}})
	require.NoError(t, err)
	create(t, s, "a", 1000)
	lost.Store(true)
	_, err = submit(t, s, rooms.Change{Kind: rooms.ChangeCreate, Room: newRoom("b", 1000)})
	require.Equal(t, rooms.Unavailable, rooms.ErrorCode(err))
	require.NotContains(t, err.Error(), "the lease is lost", "that is for the operator")
	_, err = s.FindOpen(t.Context(), "b")
	require.ErrorIs(t, err, rooms.ErrNoRoom)
	lost.Store(false)
	create(t, s, "b", 1000)
	require.NoError(t, s.Close(context.Background()))
}
