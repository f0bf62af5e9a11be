package udp

import (
	"errors"
	"net"
	"syscall"
)

// drop counts n packets that were not sent because of err.
func (c *Conn) drop(err error, n int) {
	to := &c.count.other
	switch {
	case errors.Is(err, net.ErrClosed):
		to = &c.count.closed
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
		to = &c.count.busy
	case errors.Is(err, syscall.EMSGSIZE):
		to = &c.count.tooLong
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH),
		errors.Is(err, syscall.ENETDOWN), errors.Is(err, syscall.EHOSTDOWN),
		errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES),
		errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT),
		errors.Is(err, syscall.EINVAL):
		to = &c.count.unreachable
	}
	if ae := new(net.AddrError); errors.As(err, &ae) {
		to = &c.count.unreachable // an address of the other family
	}
	to.Add(uint64(n))
}

// sendOneByOne sends a run packet by packet. Errors are counted.
func (c *Conn) sendOneByOne(b *sendBatch, r *run) {
	for i := r.first; i >= 0; i = b.segs[i].next {
		_, _ = c.writeNow(b.packet(i), r.dst) // counted in writeNow; the next packet may succeed
	}
}
