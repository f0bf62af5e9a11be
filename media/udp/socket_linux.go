package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// quietSocket is a UDP socket that wakes nobody unless a packet arrives.
//
// The runtime has its descriptors watched for room to write, too. The kernel tells of room each
// time that the network has taken a packet off a queue which is less than half full. So while a
// frame leaves to an audience, a thread would wake for nothing again and again. This descriptor
// is not the runtime's: an epoll instance of its own watches for arrivals alone, and the runtime
// watches that instance.
type quietSocket struct {
	fd    int
	local net.Addr
	// ready is the epoll instance. fd is open as long as ready is, and is used within calls of
	// raw only, for which Close waits.
	ready *os.File
	raw   syscall.RawConn
}

var _ socket = (*quietSocket)(nil)

// quieten takes over a socket of the standard library, which is closed. If the system does
// not permit it, the socket stays as it is.
func quieten(of *net.UDPConn) (socket, error) {
	if err := nests(epollInstance); err != nil {
		return of, err
	}
	raw, err := of.SyscallConn()
	if err != nil {
		return of, err
	}
	fd := -1
	var dupErr error
	if err := raw.Control(func(former uintptr) {
		fd, dupErr = unix.FcntlInt(former, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil || dupErr != nil {
		return of, errors.Join(err, dupErr)
	}
	s := &quietSocket{fd: fd, local: of.LocalAddr()}
	if err := s.watch(); err != nil {
		return of, errors.Join(err, unix.Close(fd))
	}
	if err := of.Close(); err != nil {
		return s, fmt.Errorf("close the former descriptor: %w", err)
	}
	return s, nil
}

// watch opens the epoll instance.
func (s *quietSocket) watch() error {
	// Level-triggered: nobody takes the events from the instance. It is ready as long as the
	// socket is, and the runtime is told of each arrival.
	instance, err := epollInstance(s.fd, unix.EPOLLIN)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(instance, true); err != nil { // so that the runtime watches it
		return errors.Join(fmt.Errorf("watch the socket: %w", err), unix.Close(instance))
	}
	s.ready = os.NewFile(uintptr(instance), "media socket")
	if err := s.ready.SetReadDeadline(time.Time{}); err != nil {
		return errors.Join(fmt.Errorf("wait for the socket: %w", err), s.ready.Close())
	}
	if s.raw, err = s.ready.SyscallConn(); err != nil {
		return errors.Join(err, s.ready.Close())
	}
	return nil
}

// epollInstance opens an epoll instance that watches a descriptor.
func epollInstance(fd int, events uint32) (int, error) {
	instance, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open an epoll instance: %w", err)
	}
	event := unix.EpollEvent{Events: events, Fd: int32(fd)}
	if err := unix.EpollCtl(instance, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return -1, errors.Join(fmt.Errorf("watch by epoll: %w", err), unix.Close(instance))
	}
	return instance, nil
}

// errNotNested is told of a system where an instance that watches another one is told of the
// first arrival alone, as gVisor has it: a socket would be read no more.
var errNotNested = errors.New("epoll instances do not nest")

// nests tries whether an instance that watches another one, as the runtime's does, is told of
// each arrival. open opens an instance.
func nests(open func(fd int, events uint32) (int, error)) (err error) {
	source, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("try epoll: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(source)) }()
	inner, err := open(source, unix.EPOLLIN)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(inner)) }()
	outer, err := open(inner, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|unix.EPOLLET)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(outer)) }()
	value := make([]byte, 8) // of the counter
	value[0] = 1
	for range 3 {
		if _, err := unix.Write(source, value); err != nil {
			return fmt.Errorf("try epoll: %w", err)
		}
		switch n, err := unix.EpollWait(outer, make([]unix.EpollEvent, 1), 0); {
		case err != nil:
			return fmt.Errorf("try epoll: %w", err)
		case n == 0:
			return errNotNested
		}
		if _, err := unix.Read(source, value); err != nil {
			return fmt.Errorf("try epoll: %w", err)
		}
	}
	return nil
}

// LocalAddr is the address that the socket is bound to.
func (s *quietSocket) LocalAddr() net.Addr { return s.local }

// Close waits for calls that use the descriptor, and closes it. Reads end.
func (s *quietSocket) Close() error {
	if err := s.ready.Close(); err != nil {
		return err // it is closed already
	}
	return unix.Close(s.fd)
}

// SetReadDeadline bounds reads.
func (s *quietSocket) SetReadDeadline(t time.Time) error { return s.ready.SetReadDeadline(t) }

// SetWriteDeadline does nothing: a write waits for a few milliseconds at most.
func (s *quietSocket) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline is SetReadDeadline.
func (s *quietSocket) SetDeadline(t time.Time) error { return s.SetReadDeadline(t) }

// WriteToUDPAddrPort sends one packet. If the kernel's queue is full, it waits for room once.
func (s *quietSocket) WriteToUDPAddrPort(p []byte, dst netip.AddrPort) (int, error) {
	to, err := s.sockaddr(dst)
	if err == nil {
		var sendErr error
		err = s.raw.Control(func(uintptr) { sendErr = s.sendTo(p, to) })
		if err != nil {
			err = net.ErrClosed
		} else if sendErr != nil {
			err = os.NewSyscallError("sendto", sendErr)
		}
	}
	if err != nil {
		return 0, &net.OpError{Op: "write", Net: "udp", Source: s.local, Addr: net.UDPAddrFromAddrPort(dst), Err: err}
	}
	return len(p), nil
}

func (s *quietSocket) sendTo(p []byte, to unix.Sockaddr) error {
	for waited := false; ; {
		err := unix.Sendto(s.fd, p, unix.MSG_DONTWAIT, to)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN) && !waited:
			waited = true
			// An error only shortens the wait.
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}, busyWait)
		default:
			return err
		}
	}
}

// sockaddr is dst in the form of the socket's address family.
func (s *quietSocket) sockaddr(dst netip.AddrPort) (unix.Sockaddr, error) {
	a := dst.Addr()
	if local, ok := s.local.(*net.UDPAddr); ok && local.IP.To4() != nil {
		if !a.Is4() && !a.Is4In6() {
			return nil, &net.AddrError{Err: "not an IPv4 address", Addr: a.String()}
		}
		return &unix.SockaddrInet4{Port: int(dst.Port()), Addr: a.Unmap().As4()}, nil
	}
	if !a.IsValid() {
		return nil, &net.AddrError{Err: "no destination"}
	}
	to := &unix.SockaddrInet6{Port: int(dst.Port()), Addr: a.As16()}
	if zone := a.Zone(); zone != "" {
		index, err := strconv.ParseUint(zone, 10, 32)
		if err != nil {
			link, err := net.InterfaceByName(zone)
			if err != nil {
				return nil, err
			}
			index = uint64(link.Index)
		}
		to.ZoneId = uint32(index)
	}
	return to, nil
}
