package icemux

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxUnsent is how many bytes the kernel accepts that it cannot send yet. Packets in the
// kernel's buffer get old, and the server cannot drop them. The limit does not count bytes
// that are sent but not acknowledged, so it does not reduce the throughput.
const maxUnsent = 16 << 10

// limitUnsent bounds the unsent bytes that the kernel buffers for a TCP connection.
func limitUnsent(c net.Conn) error {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
	})
	if err != nil {
		return err
	}
	return set
}
