package rooms_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// TestRoomsAnswer: there is an answer while a room is live that is not stuck, or while no
// room is live.
func TestRoomsAnswer(t *testing.T) {
	h := newHouse(t)
	require.NoError(t, h.Answer(t.Context()), "nothing can hang")
	h.join("stuck", "ada")
	require.NoError(t, h.Answer(t.Context()))

	in, release, held := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		held <- h.Rooms.Delete(t.Context(), "stuck", func(*rooms.Record) bool {
			close(in)
			<-release
			return false
		})
	}()
	<-in
	bounded, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, h.Answer(bounded), context.DeadlineExceeded)
	h.join("well", "bob")
	require.NoError(t, h.Answer(t.Context()), "one room that hangs is no reason to give up the others")
	close(release)
	require.Error(t, <-held)
	require.NoError(t, h.Answer(t.Context()))
}
