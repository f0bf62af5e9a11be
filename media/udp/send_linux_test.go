package udp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestOffloadRefused makes the kernel refuse: with checksums switched off
// (SO_NO_CHECK) it does not segment (EINVAL). The packets must arrive all the
// same, and offload is not tried again for that size.
func TestOffloadRefused(t *testing.T) {
	t.Parallel()
	c := listen(t, Config{FlushAfter: time.Hour})
	if !c.path.offload {
		t.Skip("no segmentation offload here")
	}
	var optErr error
	require.NoError(t, c.queues[0].raw.Control(func(uintptr) {
		optErr = unix.SetsockoptInt(c.queues[0].fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1)
	}))
	require.NoError(t, optErr)
	u, a := peer(t, "127.0.0.1:0")
	for round := range uint32(3) {
		for i := range uint32(5) {
			_, err := c.WriteToAddrPort(rtpPacket(1000, 5*round+i), a)
			require.NoError(t, err)
		}
		c.Flush()
		for i := range uint32(5) {
			requireReceives(t, u, rtpPacket(1000, 5*round+i))
		}
	}
	s := c.Stats()
	require.EqualValues(t, 1, s.OffloadRefused, "remembered after the first")
	require.EqualValues(t, 15, s.PacketsSent)
	require.Zero(t, s.OffloadMessages)
	require.Zero(t, s.Dropped)
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	p := path{offload: true}
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	require.True(t, p.offloads(a, 1200))
	p.refuse(a, 1200, unix.EINVAL)
	require.False(t, p.offloads(a, 1200))
	require.True(t, p.offloads(a, 1199), "shorter segments may pass")
	require.True(t, p.offloads(b, 1200))
	p.refuse(a, 1300, unix.EINVAL)
	require.False(t, p.offloads(a, 1200), "the lower limit stays")
	p.refuse(b, 1200, unix.EIO)
	require.False(t, p.offloads(b, 1))
	require.True(t, p.offloads(a, 1199))
	for i := range maxRefused {
		p.refuse(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 1200, unix.EIO)
	}
	require.LessOrEqual(t, len(*p.refused.Load()), maxRefused, "memory is bounded")
}
