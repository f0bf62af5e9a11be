package tcp

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// MaxUnsent is how many bytes the kernel accepts that it cannot send yet. Packets in the
// kernel's buffer get old, and the server cannot drop them. The limit does not count bytes
// that are sent but not acknowledged, so it does not reduce the throughput.
const MaxUnsent = 16 << 10

// LimitUnsent bounds the unsent bytes that the kernel buffers for a TCP connection to
// [MaxUnsent].
func LimitUnsent(c net.Conn) error {
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
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, MaxUnsent)
	})
	if err != nil {
		return err
	}
	return set
}
