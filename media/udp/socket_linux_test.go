package udp

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// watcher watches a descriptor as the runtime's poller does.
type watcher struct {
	t  *testing.T
	fd int
}

func watch(t *testing.T, fd int) *watcher {
	instance, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Close(instance)) })
	require.NoError(t, unix.EpollCtl(instance, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET,
	}))
	w := &watcher{t, instance}
	w.told(0)
	return w
}

// told reports whether the kernel has told of anything since the last call, or does so within
// the timeout.
func (w *watcher) told(timeout time.Duration) bool {
	for {
		n, err := unix.EpollWait(w.fd, make([]unix.EpollEvent, 1), int(timeout.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		require.NoError(w.t, err)
		return n > 0
	}
}

// Room to send wakes nobody, each arrival does.
func TestOnlyArrivalsWake(t *testing.T) {
	t.Parallel()
	c := listen(t, Config{FlushAfter: time.Hour})
	u, a := peer(t, "127.0.0.1:0")
	var w, plain *watcher
	s := c.queues[0].socket.(*quietSocket)
	require.NoError(t, s.raw.Control(func(fd uintptr) { w = watch(t, int(fd)) }))
	raw, err := u.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { plain = watch(t, int(fd)) }))

	var outside, woken int // of 50 packets
	for i := range uint32(50) {
		_, err := c.WriteToAddrPort(rtpPacket(1000, i), a)
		require.NoError(t, err)
		c.Flush()
		requireReceives(t, u, rtpPacket(1000, i))
		plain.told(0) // of the arrival
		if w.told(0) {
			woken++
		}
		_, err = u.WriteToUDPAddrPort([]byte("out"), a) // to itself
		require.NoError(t, err)
		requireReceives(t, u, []byte("out"))
		if plain.told(0) {
			outside++
		}
	}
	require.Zero(t, woken)
	require.Equal(t, 50, outside, "other sockets are told")

	to := c.LocalAddr().(*net.UDPAddr).AddrPort()
	for range 3 {
		_, err := u.WriteToUDPAddrPort([]byte("first"), to)
		require.NoError(t, err)
		require.True(t, w.told(time.Minute))
		require.False(t, w.told(0))
		_, err = u.WriteToUDPAddrPort([]byte("second"), to) // while the first one is not read
		require.NoError(t, err)
		require.True(t, w.told(time.Minute))
		buf := make([]byte, 10)
		for _, want := range []string{"first", "second"} {
			n, _, err := c.ReadFromAddrPort(buf)
			require.NoError(t, err)
			require.Equal(t, want, string(buf[:n]))
		}
	}
}

// A packet that is sent by the slow way arrives, or its sender gets an error that says why.
func TestTheSlowWayToSend(t *testing.T) {
	t.Parallel()
	c := listen(t, Config{})
	s := c.queues[0].socket
	u, a := peer(t, "127.0.0.1:0")
	for _, p := range [][]byte{[]byte("one"), {}} {
		n, err := s.WriteToUDPAddrPort(p, a)
		require.NoError(t, err)
		require.Equal(t, len(p), n)
		requireReceives(t, u, p)
	}
	_, err := s.WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort("[::1]:9"))
	require.ErrorContains(t, err, "not an IPv4 address")
	_, err = s.WriteToUDPAddrPort(make([]byte, 70_000), a)
	require.ErrorIs(t, err, unix.EMSGSIZE)

	c6 := listen(t, Config{Addr: "[::1]:0"})
	u6, a6 := peer(t, "[::1]:0")
	for _, zone := range []string{"", "lo", "1"} {
		dst := netip.AddrPortFrom(a6.Addr().WithZone(zone), a6.Port())
		_, err = c6.queues[0].socket.WriteToUDPAddrPort([]byte("six"), dst)
		require.NoError(t, err, zone)
		requireReceives(t, u6, []byte("six"))
	}
	_, err = c6.queues[0].socket.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(a6.Addr().WithZone("none"), 9))
	require.Error(t, err, "no such interface")
	_, err = c6.queues[0].socket.WriteToUDPAddrPort([]byte("x"), netip.AddrPort{})
	require.ErrorContains(t, err, "no destination")
}

// The socket closes whole: a read that waits ends, and both descriptors are free.
func TestASocketClosesWhole(t *testing.T) {
	c, err := Listen(Config{Addr: "127.0.0.1:0", Log: quiet()})
	require.NoError(t, err)
	s := c.queues[0].socket.(*quietSocket)
	ended := make(chan error)
	go func() {
		_, _, err := c.ReadFromAddrPort(make([]byte, 10))
		ended <- err
	}()
	require.NoError(t, c.Close())
	require.ErrorIs(t, <-ended, net.ErrClosed)
	require.Error(t, s.Close())
	_, err = s.WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort("127.0.0.1:9"))
	require.ErrorIs(t, err, net.ErrClosed)
	again, err := Listen(Config{Addr: c.LocalAddr().String(), Log: quiet()})
	require.NoError(t, err, "the port is free")
	require.NoError(t, again.Close())
}

// Where nested epoll instances tell of the first arrival alone, the socket stays the standard
// library's.
func TestSocketsStayWhereEpollDoesNotNest(t *testing.T) {
	t.Parallel()
	require.NoError(t, nests(epollInstance))
	once := func(fd int, events uint32) (int, error) {
		if events&unix.EPOLLET != 0 {
			events |= unix.EPOLLONESHOT
		}
		return epollInstance(fd, events)
	}
	require.ErrorIs(t, nests(once), errNotNested)
}
