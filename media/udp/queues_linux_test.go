package udp

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestQueues: each sender's packets come in one queue, in their order, whatever the others
// send meanwhile, and the queues share the senders. Answers leave from the port that all
// know.
func TestQueues(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		t.Run(addr, func(t *testing.T) {
			t.Parallel()
			const queues, senders, packets = 4, 48, 20
			c := listen(t, Config{Addr: addr, Queues: queues})
			require.Equal(t, queues, c.Queues())
			host := "127.0.0.1:0"
			if addr == "[::1]:0" {
				host = addr
			}
			require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Minute)))

			type heard struct {
				queue   int
				numbers []byte
			}
			var mu sync.Mutex // guards the following
			from := map[netip.AddrPort]*heard{}
			left := senders * packets
			all := make(chan struct{})
			var readers sync.WaitGroup
			for i := range queues {
				readers.Go(func() {
					buf := make([]byte, MaxPacket)
					for {
						n, src, err := c.ReadQueue(i, buf)
						if err != nil {
							return
						}
						mu.Lock()
						h := from[src]
						if h == nil {
							h = &heard{queue: i}
							from[src] = h
						}
						if h.queue != i || n != 1 {
							h.queue = -1
						}
						h.numbers = append(h.numbers, buf[0])
						if left--; left == 0 {
							close(all)
						}
						mu.Unlock()
					}
				})
			}
			var sockets [senders]*net.UDPConn
			var addrs [senders]netip.AddrPort
			for i := range sockets {
				sockets[i], addrs[i] = peer(t, host)
			}
			var want []byte
			for n := range byte(packets) {
				want = append(want, n)
				for i, u := range sockets {
					_, err := u.WriteToUDPAddrPort([]byte{n}, netip.AddrPortFrom(addrs[i].Addr(), c.Port()))
					require.NoError(t, err)
				}
			}
			select {
			case <-all:
			case <-time.After(time.Minute):
				require.FailNow(t, "packets are missing")
			}
			used := map[int]int{}
			for _, a := range addrs {
				require.NotEqual(t, -1, from[a].queue, "a sender changed its queue")
				require.Equal(t, want, from[a].numbers)
				used[from[a].queue]++
			}
			require.Len(t, used, queues, "all queues are used")
			require.EqualValues(t, senders*packets, c.Stats().PacketsReceived)

			buf := make([]byte, MaxPacket)
			for i, u := range sockets {
				_, err := c.WriteToAddrPort(rtpPacket(100, uint32(i)), addrs[i])
				require.NoError(t, err)
				c.Flush()
				require.NoError(t, u.SetReadDeadline(time.Now().Add(time.Minute)))
				_, src, err := u.ReadFromUDPAddrPort(buf)
				require.NoError(t, err)
				require.Equal(t, c.Port(), src.Port())
			}
			require.NoError(t, c.Close())
			readers.Wait() // the end of the port ends all reads
		})
	}
}

// TestAPortIsNotSharedWithAnother: a second Conn on a port is refused, however many queues the
// first has, and however many it wants itself.
func TestAPortIsNotSharedWithAnother(t *testing.T) {
	t.Parallel()
	for first := range 3 {
		for second := range 3 {
			c := listen(t, Config{Queues: first + 1})
			_, err := Listen(Config{Addr: c.LocalAddr().String(), Queues: second + 1, Log: quiet()})
			require.True(t, errors.Is(err, syscall.EADDRINUSE), "%d and %d: %v", first+1, second+1, err)
		}
	}
}
