//go:build !race

package udp

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The race detector makes sync.Pool forget at random, hence not with it.
func TestWritesDoNotAllocate(t *testing.T) {
	c := listen(t, Config{FlushAfter: time.Hour})
	_, a := peer(t, "127.0.0.1:0")
	p := rtpPacket(1150, 1)
	b := c.NewBatch()
	sendBatch := func() {
		for range 7 {
			_, _ = c.WriteToAddrPort(p, a)
			copy(b.Reserve(len(p)), p)
			b.Commit(a, len(p))
		}
		c.Flush()
		b.Flush()
	}
	require.Less(t, testing.AllocsPerRun(200, sendBatch), 0.5)
}
