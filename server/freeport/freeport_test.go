package freeport

import (
	"net"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAPortIsGivenOnceAndNeverOneThatIsTaken(t *testing.T) {
	seen := map[int]bool{}
	for range 100 {
		port, err := Next()
		require.NoError(t, err)
		require.False(t, seen[port])
		seen[port] = true
		require.Less(t, port, 32_768, "systems give others away themselves")
		stream, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		require.NoError(t, err)
		require.NoError(t, stream.Close())
	}
	// The next one is taken: another comes.
	port, err := Next()
	require.NoError(t, err)
	if packets, err := net.ListenPacket("udp", ":"+strconv.Itoa(port+1)); err == nil { // else it is taken already
		defer packets.Close()
	}
	next, err := Next()
	require.NoError(t, err)
	require.NotContains(t, []int{port, port + 1}, next)
}
