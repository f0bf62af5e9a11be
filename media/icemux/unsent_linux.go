package icemux

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxUnsent is up to how many bytes the kernel takes that it cannot send yet: what it has
// taken gets old where nobody can drop it. What it has sent, and what the receiver has not
// acknowledged, is not bounded by it, so that it costs no speed.
const maxUnsent = 16 << 10

// limitUnsent bounds what the kernel holds of a TCP connection.
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
