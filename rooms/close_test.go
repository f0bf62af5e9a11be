package rooms_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// TestRequestsDuringClose: requests are either served or refused as by a stopping server,
// and the rooms that they load do not outlive Close.
func TestRequestsDuringClose(t *testing.T) {
	for range 10 {
		h := newHouse(t)
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				for n := range 5 {
					_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: fmt.Sprintf("room-%d-%d", i, n)})
					if err == nil {
						_, err = h.Participants(t.Context(), fmt.Sprintf("room-%d-%d", i, n)) // loads the room again
					}
					if err != nil {
						require.ErrorIs(t, err, rooms.ErrStopping)
						return
					}
				}
			})
		}
		require.NoError(t, h.Rooms.Close(t.Context()))
		all.Wait()
		_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "late"})
		require.ErrorIs(t, err, rooms.ErrStopping)
		_, err = h.Participants(t.Context(), "room-0-0")
		require.ErrorIs(t, err, rooms.ErrStopping, "no loop begins after Close")
	}
}
