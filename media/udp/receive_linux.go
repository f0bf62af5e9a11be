package udp

import (
	"net"
	"net/netip"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// receiveMessages is how many packets one system call may return.
	receiveMessages = 32
	// receiveErrors is how many errors in a row end a read. A UDP socket also reports
	// errors of other packets, which say nothing about the next one.
	receiveErrors = 1000
)

// receiver holds the packets that a system call returned until they are read.
type receiver struct {
	// mu guards the following. It is held while a read blocks.
	mu   sync.Mutex
	next int // index in msgs of the next packet to return
	n    int // number of packets in msgs
	err  unix.Errno

	msgs  [receiveMessages]message
	names [receiveMessages]unix.RawSockaddrInet6
	iov   [receiveMessages]unix.Iovec
	bufs  [receiveMessages][MaxPacket]byte
	// call is fill bound to this receiver. It is made once, because a method value
	// allocates.
	call func(uintptr) bool
	fd   uintptr
}

func (q *queue) openReceiver() {
	r := &q.receive
	r.call, r.fd = r.fill, uintptr(q.fd)
	for i := range r.msgs {
		r.iov[i].Base = &r.bufs[i][0]
		r.iov[i].SetLen(MaxPacket)
		h := &r.msgs[i].hdr
		h.Iov = &r.iov[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
	}
}

// fill asks the kernel for packets; false means that there are none yet.
func (r *receiver) fill(uintptr) bool {
	for {
		for i := range r.msgs {
			r.msgs[i].hdr.Namelen = unix.SizeofSockaddrInet6
		}
		// Bypass the scheduler: the call never blocks, and notifying the scheduler wakes
		// the thread that watches for blocking calls, which costs more than the call.
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, r.fd,
			uintptr(unsafe.Pointer(&r.msgs[0])), receiveMessages, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			r.next, r.n, r.err = 0, int(n), 0
			return true
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		}
		r.next, r.n, r.err = 0, 0, errno
		return true
	}
}

// ReadQueue reads a packet of one queue. Packets from one address come in one queue, in
// their order, as long as the port is open. The source is never a v4-mapped v6 address. A packet
// longer than MaxPacket is dropped and counted. A packet that does not fit p is
// truncated, as with any datagram socket.
func (c *Conn) ReadQueue(i int, p []byte) (int, netip.AddrPort, error) {
	q := c.queues[i]
	r := &q.receive
	r.mu.Lock()
	defer r.mu.Unlock()
	for failures := 0; ; {
		for r.next < r.n {
			i := r.next
			r.next++
			if r.msgs[i].hdr.Flags&unix.MSG_TRUNC != 0 {
				c.count.tooLong.Add(1)
				continue
			}
			if src, ok := sourceOf(&r.names[i]); ok {
				return copy(p, r.bufs[i][:r.msgs[i].len]), src, nil
			}
		}
		if err := q.raw.Read(r.call); err != nil {
			return 0, netip.AddrPort{}, c.readError(err)
		}
		if r.err != 0 {
			if failures++; failures == receiveErrors {
				return 0, netip.AddrPort{}, r.err
			}
			continue
		}
		failures = 0
		c.countReceived(r)
	}
}

// readError is the error of a read as the net package has it.
func (c *Conn) readError(err error) error {
	select {
	case <-c.done:
		return net.ErrClosed
	default:
		return err
	}
}

// countReceived counts the packets of one call. The receiver's mu is held.
func (c *Conn) countReceived(r *receiver) {
	bytes := uint64(0)
	for i := range r.n {
		bytes += uint64(r.msgs[i].len)
	}
	c.count.receiveCalls.Add(1)
	c.count.packetsReceived.Add(uint64(r.n))
	c.count.bytesReceived.Add(bytes)
}

// sourceOf parses a socket address. The zone of a link-local address is its interface's
// number, which the standard library accepts as a name.
func sourceOf(from *unix.RawSockaddrInet6) (netip.AddrPort, bool) {
	port := (*[2]byte)(unsafe.Pointer(&from.Port))
	n := uint16(port[0])<<8 | uint16(port[1])
	switch from.Family {
	case unix.AF_INET:
		in4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(from))
		return netip.AddrPortFrom(netip.AddrFrom4(in4.Addr), n), true
	case unix.AF_INET6:
		a := netip.AddrFrom16(from.Addr).Unmap()
		if from.Scope_id != 0 && a.IsLinkLocalUnicast() {
			a = a.WithZone(strconv.FormatUint(uint64(from.Scope_id), 10))
		}
		return netip.AddrPortFrom(a, n), true
	}
	return netip.AddrPort{}, false
}
