package goroutines

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestAGroupIsWaitedForWithinABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group
		require.NoError(t, g.Wait(t.Context()), "nothing was started")
		g.Begin()
		release := make(chan struct{})
		g.Go(func() { <-release })
		over, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, g.Wait(over), context.Canceled)

		var waits Group
		for range 2 {
			waits.Go(func() { require.NoError(t, g.Wait(context.Background())) })
		}
		close(release)
		synctest.Wait()
		require.ErrorIs(t, waits.Wait(over), context.Canceled, "one of the two has not ended")
		g.End()
		require.NoError(t, waits.Wait(context.Background()))
		require.NoError(t, g.Wait(over), "none is left, however little time there is")
	})
}
