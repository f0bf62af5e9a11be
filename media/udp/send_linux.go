package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// callMessages and callPieces bound one sendmmsg. Sixteen messages are enough to make
	// the cost of the call small.
	callMessages = 64
	callPieces   = 256
	// busyWait is how long a batch waits, once, for a full send buffer to drain. A
	// real-time packet that waits longer is worth less than the packets behind it.
	busyWait = 5 // ms
	// maxRefused bounds the remembered addresses for which offload was refused.
	maxRefused = 4096
)

// message is struct mmsghdr of sendmmsg(2).
type message struct {
	hdr unix.Msghdr
	len uint32
}

// control is a cmsghdr of UDP_SEGMENT with its value, padded as CMSG_SPACE pads.
type control struct {
	hdr  unix.Cmsghdr
	size uint16
	_    [6]byte
}

// scratch is the buffers of sendmmsg for a batch. They are part of the batch, so that
// they are neither allocated nor shared.
type scratch struct {
	n      int // messages
	pieces int // of iov
	msgs   [callMessages]message
	runOf  [callMessages]int32 // index of the message's run
	firstS [callMessages]int32 // its first segment
	countS [callMessages]int32 // its number of segments
	bytes  [callMessages]int32
	names  [callMessages]unix.RawSockaddrInet6
	ctrls  [callMessages]control
	iov    [callPieces]unix.Iovec

	conn *Conn
	b    *sendBatch
	fd   int
	// call is sendAll bound to this scratch. It is made once, because a method value
	// allocates.
	call func(uintptr)
}

// descriptor is a socket's descriptor. It is used within calls of raw only: so long it stays
// open. The argument of such a call is another one.
type descriptor struct {
	fd  int
	raw syscall.RawConn
}

// path is the capabilities of the system for a socket.
type path struct {
	v6      bool // the socket is AF_INET6
	offload bool
	plain   atomic.Bool // there is no sendmmsg

	// refused is, by address, the longest segment for which offload may still be tried; 0
	// for none. It is copied on write: it is read for each run, and written once per
	// path.
	refused atomic.Pointer[map[netip.Addr]int32]
	// refusedMu serialises the writers.
	refusedMu sync.Mutex
}

func (c *Conn) openPath(cfg Config) error {
	var domain, segment int
	var domainErr, segmentErr error
	q := c.queues[0]
	err := q.raw.Control(func(uintptr) {
		domain, domainErr = unix.GetsockoptInt(q.fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		segment, segmentErr = unix.GetsockoptInt(q.fd, unix.SOL_UDP, unix.UDP_SEGMENT)
	})
	if err != nil {
		return err
	}
	if domainErr != nil {
		return fmt.Errorf("ask for the address family: %w", domainErr)
	}
	c.path.v6 = domain == unix.AF_INET6
	c.path.offload = !cfg.NoOffload && segmentErr == nil && segment == 0
	c.path.plain.Store(cfg.Plain)
	if segmentErr != nil {
		c.log.Info("media socket: no segmentation offload on this kernel", "error", segmentErr)
	}
	c.prepare(q, cfg, true)
	return nil
}

// openQueue binds a socket.
func (c *Conn) openQueue(addr string, control func(network, address string, c syscall.RawConn) error) (*queue, error) {
	bound, err := bind(addr, control)
	if err != nil {
		return nil, err
	}
	q := &queue{}
	if q.socket, err = quieten(bound); err != nil {
		c.log.Warn("media socket: threads wake more often than they must", "error", err)
	}
	if quiet, ok := q.socket.(*quietSocket); ok {
		q.descriptor = descriptor{quiet.fd, quiet.raw}
		return q, nil
	}
	if q.raw, err = bound.SyscallConn(); err == nil {
		err = q.raw.Control(func(fd uintptr) { q.fd = int(fd) })
	}
	if err != nil {
		return nil, errors.Join(err, bound.Close())
	}
	return q, nil
}

// prepare sets what every queue's socket needs. tells: what the kernel does not grant is
// logged.
func (c *Conn) prepare(q *queue, cfg Config, tells bool) {
	// The standard library allows broadcast. Media does not need it, and a client could name
	// a broadcast address as its own. If this fails, broadcast stays allowed.
	_ = q.setOption(unix.SO_BROADCAST, 0)
	c.enlarge(q, tells, "receive", cfg.Buffer, unix.SO_RCVBUF, unix.SO_RCVBUFFORCE)
	c.enlarge(q, tells, "send", cfg.Buffer, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE)
}

// setOption sets an option of the socket level.
func (q *queue) setOption(option, value int) error {
	var optErr error
	err := q.raw.Control(func(uintptr) {
		optErr = unix.SetsockoptInt(q.fd, unix.SOL_SOCKET, option, value)
	})
	return errors.Join(err, optErr)
}

// openMore opens all queues but the first, which joins their group only now that it has the
// port: a socket that may share its port from the start would share that of another program,
// too, and each would get a part of the other's packets.
func (c *Conn) openMore(cfg Config) error {
	if cfg.Queues <= 1 {
		return nil
	}
	if err := c.queues[0].setOption(unix.SO_REUSEPORT, 1); err != nil {
		return err
	}
	for len(c.queues) < cfg.Queues {
		q, err := c.openQueue(c.local.String(), sharePort)
		if err != nil {
			return err
		}
		c.prepare(q, cfg, false)
		c.queues = append(c.queues, q)
	}
	return nil
}

// sharePort lets a socket that is not bound yet have a port that others have.
func sharePort(_, _ string, raw syscall.RawConn) error {
	var optErr error
	err := raw.Control(func(fd uintptr) {
		optErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	})
	return errors.Join(err, optErr)
}

// enlarge requests a buffer of want bytes. With CAP_NET_ADMIN the system's maximum does
// not apply.
func (c *Conn) enlarge(q *queue, tells bool, which string, want, option, force int) {
	var got int
	var optErr error
	err := q.raw.Control(func(uintptr) {
		if unix.SetsockoptInt(q.fd, unix.SOL_SOCKET, force, want) != nil {
			optErr = unix.SetsockoptInt(q.fd, unix.SOL_SOCKET, option, want)
		}
		got, _ = unix.GetsockoptInt(q.fd, unix.SOL_SOCKET, option) // on failure 0, which is less than want
	})
	if err == nil {
		err = optErr
	}
	got /= 2 // the kernel includes its own overhead (socket(7))
	if tells && (err != nil || got < want) {
		c.log.Warn("media socket: the kernel grants a smaller buffer than wanted; raise net.core.rmem_max and wmem_max",
			"buffer", which, "wanted", want, "granted", got, "error", err)
	}
}

// single is the buffers of a packet that is sent at once.
type single struct {
	packet []byte
	name   unix.RawSockaddrInet6
	length uint32 // of name
	fd     int
	errno  unix.Errno
	// call is send bound to this single. It is made once, because a method value allocates.
	call func(uintptr)
}

// send bypasses the scheduler, as a read does.
func (o *single) send(uintptr) {
	_, _, o.errno = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(o.fd), uintptr(unsafe.Pointer(&o.packet[0])), uintptr(len(o.packet)),
		unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&o.name)), uintptr(o.length))
}

// sendOne sends one packet. What the kernel does not take at once is left to the socket, which
// waits, resolves zones, and names the error.
func (c *Conn) sendOne(p []byte, dst netip.AddrPort) (int, error) {
	q := c.queues[0]
	if len(p) > 0 && dst.Addr().Zone() == "" && c.path.reaches(dst.Addr()) {
		o, ok := c.singles.Get().(*single)
		if !ok {
			o = &single{}
			o.call = o.send
		}
		o.packet, o.fd, o.length = p, q.fd, putSockaddr(&o.name, dst, c.path.v6)
		err := q.raw.Control(o.call)
		sent := err == nil && o.errno == 0
		o.packet = nil
		c.singles.Put(o)
		if sent {
			return len(p), nil
		}
	}
	return q.socket.WriteToUDPAddrPort(p, dst)
}

// send hands b to the kernel by the socket of q. Failures are counted.
func (c *Conn) send(b *sendBatch, q *queue) {
	if c.path.plain.Load() {
		for i := range b.runs {
			c.sendOneByOne(b, &b.runs[i])
		}
		return
	}
	o := &b.out
	if o.call == nil {
		o.b = b
		o.call = o.sendAll
	}
	o.conn, o.fd = c, q.fd
	// Control, not Write: Write would serialise the shards on the descriptor's write lock
	// and wait without bound.
	if err := q.raw.Control(o.call); err != nil {
		c.drop(net.ErrClosed, len(b.segs))
	}
	o.conn = nil
}

// sendAll sends every run of the batch.
func (o *scratch) sendAll(uintptr) {
	s := sending{o: o, fd: o.fd}
	for i := range o.b.runs {
		r := &o.b.runs[i]
		if r.dst.Addr().Zone() != "" {
			o.conn.sendOneByOne(o.b, r) // the socket resolves zones
			continue
		}
		if !o.conn.path.reaches(r.dst.Addr()) {
			o.conn.count.unreachable.Add(uint64(r.count))
			continue
		}
		if r.count > 1 && o.conn.path.offloads(r.dst.Addr(), r.size) {
			s.add(int32(i), r.first, r.count, r.bytes)
			continue
		}
		for j := r.first; j >= 0; j = o.b.segs[j].next {
			s.add(int32(i), j, 1, o.b.segs[j].len)
		}
	}
	s.flush()
}

// reaches reports whether the socket supports the address's family.
func (p *path) reaches(a netip.Addr) bool {
	return a.Is4() || a.Is4In6() || p.v6 && a.IsValid()
}

// offloads reports whether segments of size bytes to a may be sent as one message.
func (p *path) offloads(a netip.Addr, size int32) bool {
	if !p.offload {
		return false
	}
	m := p.refused.Load()
	if m == nil {
		return true
	}
	limit, known := (*m)[a]
	return !known || size <= limit
}

// refuse remembers that offload to a was refused for segments of size bytes. EINVAL
// concerns segments longer than the path's MTU; EIO concerns all, because the device
// cannot compute checksums.
func (p *path) refuse(a netip.Addr, size int32, err unix.Errno) {
	limit := size - 1
	if err == unix.EIO {
		limit = 0
	}
	p.refusedMu.Lock()
	defer p.refusedMu.Unlock()
	next := make(map[netip.Addr]int32)
	if m := p.refused.Load(); m != nil && len(*m) < maxRefused {
		for k, v := range *m {
			next[k] = v
		}
	}
	if old, known := next[a]; !known || limit < old {
		next[a] = limit
	}
	p.refused.Store(&next)
}

// sending is the sending of one batch: messages are added, and sent callMessages at a
// time.
type sending struct {
	o      *scratch
	fd     int
	waited bool // for a full send buffer
	broken bool // it stayed full: the remaining packets are dropped
}

// add makes one message of count segments, beginning with first.
func (s *sending) add(runIndex, first, count, bytes int32) {
	o := s.o
	if o.n == callMessages || o.pieces+int(count) > callPieces {
		s.flush()
	}
	r := &o.b.runs[runIndex]
	i := o.n
	m := &o.msgs[i]
	*m = message{}
	o.runOf[i], o.firstS[i], o.countS[i], o.bytes[i] = runIndex, first, count, bytes

	start := o.pieces
	o.addPieces(first, count)
	m.hdr.Iov = &o.iov[start]
	m.hdr.SetIovlen(o.pieces - start)

	m.hdr.Name = (*byte)(unsafe.Pointer(&o.names[i]))
	m.hdr.Namelen = putSockaddr(&o.names[i], r.dst, o.conn.path.v6)
	if count > 1 {
		ctl := &o.ctrls[i]
		ctl.hdr.Level = unix.SOL_UDP
		ctl.hdr.Type = unix.UDP_SEGMENT
		ctl.hdr.SetLen(unix.CmsgLen(2))
		ctl.size = uint16(r.size)
		m.hdr.Control = (*byte)(unsafe.Pointer(ctl))
		m.hdr.SetControllen(unix.CmsgSpace(2))
	}
	o.n++
}

// addPieces lists the memory of count segments. Adjacent segments are one piece.
func (o *scratch) addPieces(first, count int32) {
	end := int32(-1)
	for j := first; count > 0; count-- {
		g := o.b.segs[j]
		if g.off == end {
			v := &o.iov[o.pieces-1]
			v.SetLen(int(v.Len) + int(g.len))
		} else {
			v := &o.iov[o.pieces]
			v.Base = &o.b.arena[g.off]
			v.SetLen(int(g.len))
			o.pieces++
		}
		end = g.off + g.len
		j = g.next
	}
}

// putSockaddr writes dst in the kernel's form, and returns its length. A v6 socket takes
// v4 addresses in v4-mapped form.
func putSockaddr(to *unix.RawSockaddrInet6, dst netip.AddrPort, v6 bool) uint32 {
	port := (*[2]byte)(unsafe.Pointer(&to.Port))
	if v6 {
		*to = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: dst.Addr().As16()}
		port[0], port[1] = byte(dst.Port()>>8), byte(dst.Port())
		return unix.SizeofSockaddrInet6
	}
	*to = unix.RawSockaddrInet6{}
	in4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(to)) // the shorter of the two structures; their beginnings are the same
	in4.Family = unix.AF_INET
	in4.Addr = dst.Addr().Unmap().As4()
	port[0], port[1] = byte(dst.Port()>>8), byte(dst.Port())
	return unix.SizeofSockaddrInet4
}

// flush sends the added messages.
func (s *sending) flush() {
	o := s.o
	for at := 0; at < o.n; {
		if s.broken {
			o.conn.count.busy.Add(uint64(o.countS[at]))
			at++
			continue
		}
		sent, errno := sendmmsg(s.fd, o.msgs[at:o.n])
		o.conn.count.sendCalls.Add(1)
		if errno == 0 && sent > 0 {
			o.account(at, sent)
			at += sent
			continue
		}
		at += s.fail(at, errno)
	}
	o.n, o.pieces = 0, 0
}

// account counts sent messages.
func (o *scratch) account(at, sent int) {
	var packets, bytes, offMessages, offPackets uint64
	for i := at; i < at+sent; i++ {
		packets += uint64(o.countS[i])
		bytes += uint64(o.bytes[i])
		if o.countS[i] > 1 {
			offMessages++
			offPackets += uint64(o.countS[i])
		}
	}
	n := &o.conn.count
	n.packetsSent.Add(packets)
	n.bytesSent.Add(bytes)
	if offMessages > 0 {
		n.offloadMessages.Add(offMessages)
		n.offloadPackets.Add(offPackets)
	}
}

// fail handles the message that the kernel refused, and returns how many messages are
// done: 0 to try it again, else 1.
func (s *sending) fail(at int, errno unix.Errno) int {
	o := s.o
	c := o.conn
	r := &o.b.runs[o.runOf[at]]
	switch {
	case errno == unix.EINTR:
		return 0
	case errno == unix.EAGAIN || errno == unix.ENOBUFS || errno == unix.ENOMEM:
		if s.waited {
			s.broken = true
			return 0
		}
		s.waited = true
		// An error only shortens the wait.
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}, busyWait)
		return 0
	case errno == unix.ENOSYS:
		c.path.plain.Store(true)
		c.log.Warn("media socket: no sendmmsg on this system, packets leave one by one")
		s.oneByOne(at)
		return 1
	case o.countS[at] > 1 && (errno == unix.EINVAL || errno == unix.EIO || errno == unix.EMSGSIZE || errno == unix.EOPNOTSUPP):
		c.path.refuse(r.dst.Addr(), r.size, errno)
		c.count.offloadRefused.Add(1)
		s.oneByOne(at)
		return 1
	}
	c.drop(errno, int(o.countS[at]))
	return 1
}

// oneByOne sends each segment of a message separately.
func (s *sending) oneByOne(at int) {
	o := s.o
	dst := o.b.runs[o.runOf[at]].dst
	j := o.firstS[at]
	for range o.countS[at] {
		_, _ = o.conn.writeNow(o.b.packet(j), dst) // counted in writeNow; the next packet may succeed
		j = o.b.segs[j].next
	}
}

// sendmmsg never blocks. It returns how many messages were sent. The error is that of the
// first message, and only if none was sent. It bypasses the scheduler, as a read does.
func sendmmsg(fd int, msgs []message) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd),
		uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
