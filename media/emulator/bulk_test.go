package emulator

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A flow takes what there is of the way, fills its queue, and gives way when less is there.
func TestABulkTakesWhatItCanGet(t *testing.T) {
	r, err := New(netip.MustParseAddrPort("127.0.0.1:9"))
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	const rate = 4e6
	r.SetDown(Conditions{Rate: rate, Queue: 100 * time.Millisecond, Delay: 5 * time.Millisecond})
	b := r.StartBulk(5 * time.Millisecond)
	defer b.Stop()
	require.Eventually(t, func() bool { return r.TakeDown().Dropped > 0 }, time.Minute, 10*time.Millisecond, "it fills the queue")
	bytes := 0
	require.Eventually(t, func() bool {
		bytes += b.Take()
		return bytes > rate/8
	}, time.Minute, 10*time.Millisecond, "it goes on")
	b.Stop()
	b.Take()
	r.TakeDown()
	require.Never(t, func() bool { return r.TakeDown().Packets > 0 }, 50*time.Millisecond, 10*time.Millisecond)
	require.Zero(t, b.Take(), "it has ended")
}
