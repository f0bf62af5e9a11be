package emulator

import (
	"encoding/binary"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pass sends packets to an echo behind a relay and returns the numbers of those that
// come back, in their order, until one with the number last does.
func pass(t *testing.T, up, down Conditions, packets int) (numbers []int, back Traffic) {
	t.Helper()
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer server.Close()
	go func() { // ends when server is closed
		b := make([]byte, 2048)
		for {
			n, from, err := server.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = server.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	r, err := New(server.LocalAddr().(*net.UDPAddr).AddrPort())
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	r.SetUp(up)
	r.SetDown(down)
	client, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(r.Addr()))
	require.NoError(t, err)
	defer client.Close()
	b := make([]byte, 500)
	for i := range packets { // so few that no buffer of the system overflows
		binary.BigEndian.PutUint32(b, uint32(i))
		_, err := client.Write(b)
		require.NoError(t, err)
	}
	for end := time.Now().Add(time.Minute); ; {
		require.True(t, time.Now().Before(end), "%d of %d packets came", len(numbers), packets)
		back.add(r.TakeDown())
		if back.Packets+back.Dropped+back.Lost == packets && len(numbers) == back.Packets {
			return numbers, back
		}
		require.NoError(t, client.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		if n, err := client.Read(b); err == nil {
			require.Equal(t, 500, n)
			numbers = append(numbers, int(binary.BigEndian.Uint32(b)))
		}
	}
}

func (t *Traffic) add(o Traffic) {
	t.Packets, t.Bytes, t.Dropped, t.Lost = t.Packets+o.Packets, t.Bytes+o.Bytes, t.Dropped+o.Dropped, t.Lost+o.Lost
	t.LongestWait = max(t.LongestWait, o.LongestWait)
	t.Waits = append(t.Waits, o.Waits...)
}

func TestConditions(t *testing.T) {
	numbers, back := pass(t, Conditions{}, Conditions{Delay: 5 * time.Millisecond}, 100)
	require.Len(t, numbers, 100)
	require.True(t, slices.IsSorted(numbers))
	require.Equal(t, 100*500, back.Bytes)

	numbers, _ = pass(t, Conditions{}, Conditions{Jitter: 50 * time.Millisecond}, 100)
	require.Len(t, numbers, 100)
	require.True(t, slices.IsSorted(numbers), "jitter does not reorder by itself")

	numbers, _ = pass(t, Conditions{}, Conditions{Jitter: 50 * time.Millisecond, Reorder: true}, 100)
	require.Len(t, numbers, 100)
	require.False(t, slices.IsSorted(numbers))

	_, back = pass(t, Conditions{}, Conditions{Burst: 0.2, BurstLength: 5}, 100)
	require.Greater(t, back.Lost, 5)
	require.Less(t, back.Lost, 95)

	_, back = pass(t, Conditions{}, Conditions{Rate: 1e6, Queue: 50 * time.Millisecond}, 100)
	require.NotZero(t, back.Dropped, "what would wait too long is dropped")
	require.LessOrEqual(t, back.LongestWait, 50*time.Millisecond)
	require.Len(t, back.Waits, back.Packets)
}
