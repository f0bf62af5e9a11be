// Package emulator is a bad network for tests: a UDP relay on this machine with a
// bottleneck in each direction. It needs no privileges and no support of the kernel.
//
// The nouns:
//
//   - A [Relay] stands between clients and one server. Clients get its address in place of
//     the server's; the server sees a separate socket for each client.
//   - A link is one direction, which all clients of the relay share: a queue in front of a
//     bottleneck, and the path behind it.
//   - A [Bulk] is a TCP flow that shares a link with the clients' packets.
//   - [Conditions] are the present properties of a link.
package emulator

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Conditions are the properties of a link. The zero value passes all packets at once.
type Conditions struct {
	Rate  float64       // bits/s with UDP and IP headers; 0 = no bottleneck
	Queue time.Duration // packets that would wait longer at Rate are dropped
	Delay time.Duration // on the path behind the bottleneck
	// Jitter is the largest extra delay, uniformly distributed. With Reorder, packets may
	// overtake each other by it.
	Jitter  time.Duration
	Reorder bool
	Loss    float64 // share of packets lost at random, 0 to 1
	// Burst is the share of packets at which a run of losses begins, and BurstLength the
	// mean length of a run.
	Burst       float64
	BurstLength float64
}

// headers is the length of the IPv4 and UDP headers, in bytes.
const headers = 28

// Traffic counts the packets of a link since the last call.
type Traffic struct {
	Packets, Bytes int // that arrived
	Dropped        int // because the queue was full
	Lost           int // at random
	LongestWait    time.Duration
	// Waits are the times in the queue, one for each packet that arrived.
	Waits []time.Duration
}

// Relay is a bad network in front of one server. Its methods may be called concurrently.
// Its goroutines live until Close.
type Relay struct {
	server   netip.AddrPort
	conn     *net.UDPConn
	down, up *link
	running  sync.WaitGroup

	mu      sync.Mutex // guards the following
	closed  bool
	clients map[netip.AddrPort]*net.UDPConn
}

// New makes a relay to a server on this machine. At first it passes all packets.
func New(server netip.AddrPort) (*Relay, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("listen for clients: %w", err)
	}
	r := &Relay{server: server, conn: conn, down: newLink(), up: newLink(), clients: map[netip.AddrPort]*net.UDPConn{}}
	r.running.Go(r.down.run)
	r.running.Go(r.up.run)
	r.running.Go(r.fromClients)
	return r, nil
}

// Addr is the address that clients should use in place of the server's.
func (r *Relay) Addr() netip.AddrPort { return r.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// SetDown changes the direction to the clients. Packets that wait already are not
// affected.
func (r *Relay) SetDown(c Conditions) { r.down.set(c) }

// SetUp changes the direction to the server.
func (r *Relay) SetUp(c Conditions) { r.up.set(c) }

// TakeDown returns the traffic to the clients since the last call.
func (r *Relay) TakeDown() Traffic { return r.down.take() }

// TakeUp returns the traffic to the server since the last call.
func (r *Relay) TakeUp() Traffic { return r.up.take() }

// Rebind gives each client another socket towards the server, as a NAT does that has lost
// its mapping: the server sees the client at a new port, and what it sends to the former
// one goes nowhere.
func (r *Relay) Rebind() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	for from, c := range r.clients {
		err = errors.Join(err, c.Close())
		delete(r.clients, from) // the next packet opens another
	}
	return err
}

// Close ends the relay. Packets under way are lost.
func (r *Relay) Close() error {
	r.mu.Lock()
	r.closed = true
	err := r.conn.Close()
	for _, c := range r.clients {
		err = errors.Join(err, c.Close())
	}
	r.mu.Unlock()
	close(r.down.stop)
	close(r.up.stop)
	r.running.Wait()
	return err
}

func (r *Relay) fromClients() {
	b := make([]byte, 2048)
	for {
		n, from, err := r.conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if to := r.client(from); to != nil {
			r.up.send(b[:n], func(p []byte) { _, _ = to.Write(p) }) // a failed write is a lost packet
		}
	}
}

// client is the socket that represents a client to the server; nil if it cannot be
// opened.
func (r *Relay) client(from netip.AddrPort) *net.UDPConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.clients[from]
	if c != nil || r.closed {
		return c
	}
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(r.server))
	if err != nil {
		return nil
	}
	r.clients[from] = c
	r.running.Go(func() { r.fromServer(c, from) })
	return c
}

func (r *Relay) fromServer(c *net.UDPConn, to netip.AddrPort) {
	b := make([]byte, 2048)
	for {
		n, err := c.Read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the server's socket is closed at the moment
		}
		r.down.send(b[:n], func(p []byte) { _, _ = r.conn.WriteToUDPAddrPort(p, to) })
	}
}

// link is one direction.
type link struct {
	packets chan packet
	stop    chan struct{}

	mu      sync.Mutex // guards the following
	c       Conditions
	freeAt  time.Time // when the bottleneck will have sent all queued packets
	lastAt  time.Time // when the last packet will arrive
	inBurst bool
	number  uint64
	traffic Traffic
}

type packet struct {
	bytes  []byte
	at     time.Time
	number uint64 // order of arrival at the link
	write  func([]byte)
}

func newLink() *link {
	return &link{packets: make(chan packet, 1<<14), stop: make(chan struct{})}
}

func (l *link) set(c Conditions) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.c = c
}

func (l *link) take() Traffic {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.traffic
	l.traffic = Traffic{}
	return t
}

// send puts a packet on the link, which writes it when it arrives. arrives is false if it
// will not, and way is how long it takes, or would have taken.
func (l *link) send(p []byte, write func([]byte)) (arrives bool, way time.Duration) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.freeAt.Before(now) {
		l.freeAt = now
	}
	wait := l.freeAt.Sub(now)
	if l.c.Rate > 0 {
		if wait > l.c.Queue {
			l.traffic.Dropped++
			return false, wait + l.c.Delay
		}
		l.freeAt = l.freeAt.Add(time.Duration(float64((len(p)+headers)*8) / l.c.Rate * float64(time.Second)))
	}
	if l.loseLocked() {
		l.traffic.Lost++
		return false, wait + l.c.Delay
	}
	at := l.freeAt.Add(l.c.Delay)
	if l.c.Jitter > 0 {
		at = at.Add(rand.N(l.c.Jitter))
	}
	if !l.c.Reorder && at.Before(l.lastAt) {
		at = l.lastAt
	}
	l.lastAt = at
	l.number++
	select {
	case l.packets <- packet{append([]byte(nil), p...), at, l.number, write}:
		l.traffic.Packets++
		l.traffic.Bytes += len(p)
		l.traffic.LongestWait = max(l.traffic.LongestWait, wait)
		l.traffic.Waits = append(l.traffic.Waits, wait)
	default:
		l.traffic.Dropped++
		return false, at.Sub(now)
	}
	return true, at.Sub(now)
}

// loseLocked decides whether a packet is lost. mu is held.
func (l *link) loseLocked() bool {
	lost := l.c.Loss > 0 && rand.Float64() < l.c.Loss
	switch {
	case l.c.Burst <= 0:
		l.inBurst = false
	case l.inBurst:
		l.inBurst = rand.Float64() >= 1/max(l.c.BurstLength, 1)
	default:
		l.inBurst = rand.Float64() < l.c.Burst
	}
	return lost || l.inBurst
}

// run delivers packets when they are due.
func (l *link) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var waiting schedule
	for {
		select {
		case <-l.stop:
			return
		case p := <-l.packets:
			heap.Push(&waiting, p)
		case <-timer.C:
		}
		for len(waiting) > 0 && !waiting[0].at.After(time.Now()) {
			p := heap.Pop(&waiting).(packet)
			p.write(p.bytes)
		}
		if len(waiting) > 0 {
			timer.Reset(time.Until(waiting[0].at))
		}
	}
}

// schedule orders packets by due time, and those of the same time by arrival.
type schedule []packet

func (s schedule) Len() int { return len(s) }
func (s schedule) Less(i, j int) bool {
	return s[i].at.Before(s[j].at) || s[i].at.Equal(s[j].at) && s[i].number < s[j].number
}
func (s schedule) Swap(i, j int) { s[i], s[j] = s[j], s[i] }
func (s *schedule) Push(x any)   { *s = append(*s, x.(packet)) }
func (s *schedule) Pop() any {
	last := len(*s) - 1
	p := (*s)[last]
	(*s)[last] = packet{}
	*s = (*s)[:last]
	return p
}
