//go:build !linux

package udp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// descriptor is a socket's descriptor; the standard library has it.
type descriptor struct{}

// openQueue binds a socket.
func (c *Conn) openQueue(addr string, control func(network, address string, c syscall.RawConn) error) (*queue, error) {
	socket, err := bind(addr, control)
	if err != nil {
		return nil, err
	}
	return &queue{socket: socket}, nil
}

// udpConn is the socket of a queue.
func (q *queue) udpConn() *net.UDPConn { return q.socket.(*net.UDPConn) }

// scratch is the buffers of a system call; here there are none.
type scratch struct{}

// path is the capabilities of the system: it can only send packets one by one.
type path struct{ offload bool }

func (c *Conn) openPath(cfg Config) error {
	socket := c.queues[0].udpConn()
	if err := errors.Join(socket.SetReadBuffer(cfg.Buffer), socket.SetWriteBuffer(cfg.Buffer)); err != nil {
		c.log.Warn("media socket: buffers not enlarged", "wanted", cfg.Buffer, "error", err)
	}
	return nil
}

// openMore opens no more than the first queue: the systems do not share packets evenly, if
// at all.
func (c *Conn) openMore(Config) error { return nil }

// send sends b packet by packet.
func (c *Conn) send(b *sendBatch, _ *queue) {
	for i := range b.runs {
		c.sendOneByOne(b, &b.runs[i])
	}
}

// sendOne sends one packet.
func (c *Conn) sendOne(p []byte, dst netip.AddrPort) (int, error) {
	return c.queues[0].socket.WriteToUDPAddrPort(p, dst)
}

// receiver has no state on these systems.
type receiver struct{}

func (q *queue) openReceiver() {}

// ReadQueue reads a packet of one queue. The source is never a v4-mapped v6 address.
func (c *Conn) ReadQueue(i int, p []byte) (int, netip.AddrPort, error) {
	for {
		n, src, err := c.queues[i].udpConn().ReadFromUDPAddrPort(p)
		if err != nil && (errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)) &&
			!errors.Is(err, os.ErrDeadlineExceeded) {
			continue // an ICMP error for an earlier packet; the mux would end on it
		}
		if err == nil {
			c.count.receiveCalls.Add(1)
			c.count.packetsReceived.Add(1)
			c.count.bytesReceived.Add(uint64(n))
		}
		return n, netip.AddrPortFrom(src.Addr().Unmap(), src.Port()), err
	}
}
