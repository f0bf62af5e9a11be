package media

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/stun/v3"

	"parlor/media/icemux"
	"parlor/media/udp"
)

// Reach is whether packets of strangers, to which nothing was sent, reach a port.
type Reach int

// The states of [Reach].
const (
	ReachUnknown Reach = iota // the STUN server has one address alone, or time was too short
	Reached
	NotReached
)

// Sight is how a STUN server sees a port of media.
type Sight struct {
	Server    string
	Port      uint16
	Mapped    netip.AddrPort // the port's address for the server
	Strangers Reach
}

const (
	seenBound     = 3 * time.Second // for the answer to a port
	strangerBound = 2 * time.Second // for that from another address
	// maxSeen is how many ports are looked at at the same time.
	maxSeen = 64
)

// ErrPort is the error of a port of media that cannot be bound.
var ErrPort = errors.New("a port of media cannot be bound")

// Silent reports whether an error of asking STUN servers is that they have not answered, and
// nothing else.
func Silent(err error) bool {
	var name *net.DNSError
	return errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &name)
}

// ErrUnanswered is the error of a port of media that a STUN server has not answered, though it
// answers this machine.
var ErrUnanswered = errors.New("no answer arrives there")

// Seen has the first STUN server (host:port) that answers look at each port of media, from
// the sockets of media themselves. A server with two addresses (RFC 5780) is asked to answer
// from the other one as well, which tells whether packets of strangers arrive. If some ports
// were seen and others were not, it returns those and an error.
func (e *Engine) Seen(ctx context.Context, servers []string) ([]Sight, error) {
	server, to, err := firstAnswer(ctx, servers, func(ctx context.Context, server string) (netip.AddrPort, error) {
		to, err := stunAddress(ctx, server)
		if err == nil && e.net.own(to) {
			err = errors.New("it is this server, which does not see itself from outside")
		}
		if err == nil {
			_, err = askSTUN(ctx, "udp4", to.String())
		}
		return to, err
	})
	if err != nil {
		return nil, err
	}
	from, ok := wayOut(to.Addr(), e.net.now.Load().local)
	if !ok {
		return nil, errors.New("media has no IPv4 address")
	}
	sockets := e.net.sockets[:e.net.media]
	return eachPort(server, len(sockets), func(i int) (Sight, error) {
		return seen(ctx, sockets[i].mux, netip.AddrPortFrom(from, sockets[i].port), to)
	})
}

// SeenFrom is as [Engine.Seen] where no server runs that has the ports.
func SeenFrom(ctx context.Context, ports []int, servers []string) ([]Sight, error) {
	server, to, err := firstAnswer(ctx, servers, func(ctx context.Context, server string) (netip.AddrPort, error) {
		to, err := stunAddress(ctx, server)
		if err == nil {
			_, err = askSTUN(ctx, "udp4", to.String())
		}
		return to, err
	})
	if err != nil {
		return nil, err
	}
	route, err := new(net.Dialer).DialContext(ctx, "udp4", to.String())
	if err != nil {
		return nil, err
	}
	from := route.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
	_ = route.Close() // nothing was sent on it
	return eachPort(server, len(ports), func(i int) (Sight, error) {
		return seenUnserved(ctx, netip.AddrPortFrom(from, uint16(ports[i])), to)
	})
}

// eachPort has a server look at ports at the same time, as those behind a firewall take seconds.
// It returns what was seen, and one of the errors: of the server before those of binding a port.
func eachPort(server string, n int, look func(i int) (Sight, error)) (all []Sight, err error) {
	sights, errs := make([]Sight, n), make([]error, n)
	places := make(chan struct{}, maxSeen)
	var looking sync.WaitGroup
	for i := range n {
		places <- struct{}{}
		looking.Go(func() {
			defer func() { <-places }()
			sights[i], errs[i] = look(i)
			sights[i].Server = server
		})
	}
	looking.Wait()
	for i, failure := range errs {
		switch {
		case failure == nil:
			all = append(all, sights[i])
		case err == nil || errors.Is(err, ErrPort):
			err = fmt.Errorf("ask %s: %w", server, failure)
		}
	}
	return all, err
}

// seenUnserved binds an address, and has a STUN server look at it.
func seenUnserved(ctx context.Context, local, server netip.AddrPort) (one Sight, err error) {
	log := slog.New(slog.DiscardHandler)
	conn, err := udp.Listen(udp.Config{Addr: local.String(), Log: log})
	if err != nil {
		return one, fmt.Errorf("%w: %w", ErrPort, err)
	}
	mux := icemux.New(icemux.Config{Counters: new(icemux.Counters), Log: log})
	defer func() { err = errors.Join(err, mux.Close()) }()
	if err := mux.Add(conn); err != nil {
		return one, errors.Join(err, conn.Close())
	}
	return seen(ctx, mux, netip.AddrPortFrom(local.Addr(), conn.Port()), server)
}

// stunAddress is the IPv4 address of a STUN server.
func stunAddress(ctx context.Context, server string) (none netip.AddrPort, err error) {
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		return none, err
	}
	number, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return none, err
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", host)
	if err != nil {
		return none, err
	}
	return netip.AddrPortFrom(found[0].Unmap(), uint16(number)), nil
}

// seen has a STUN server look at a socket.
func seen(ctx context.Context, mux *icemux.Mux, local, server netip.AddrPort) (one Sight, err error) {
	one.Port = local.Port()
	first, cancel := context.WithTimeout(ctx, seenBound)
	defer cancel()
	request, err := stun.Build(stun.TransactionID, stun.BindingRequest)
	if err != nil {
		return one, err
	}
	answer, _, err := mux.Ask(first, local, request, server)
	switch {
	case err != nil && first.Err() != nil && ctx.Err() == nil:
		return one, fmt.Errorf("UDP port %d: %w", one.Port, ErrUnanswered)
	case err != nil:
		return one, err
	}
	var mapped stun.XORMappedAddress
	if err := mapped.GetFrom(answer); err != nil {
		return one, err
	}
	ip, ok := netip.AddrFromSlice(mapped.IP)
	if !ok {
		return one, fmt.Errorf("%v is not an address", mapped.IP)
	}
	one.Mapped = netip.AddrPortFrom(ip.Unmap(), uint16(mapped.Port))
	var other stun.OtherAddress
	if other.GetFrom(answer) != nil || other.IP.Equal(server.Addr().AsSlice()) {
		return one, nil
	}
	// From another address and another port (RFC 5780, section 7.2).
	changed, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.RawAttribute{Type: stun.AttrChangeRequest, Value: []byte{0, 0, 0, 6}})
	if err != nil {
		return one, err
	}
	second, cancel := context.WithTimeout(ctx, strangerBound)
	defer cancel()
	answer, from, err := mux.Ask(second, local, changed, server)
	switch {
	case err != nil && second.Err() == nil:
		return one, err
	case err != nil && ctx.Err() != nil: // the answer may have come later
	case err != nil:
		one.Strangers = NotReached
	case answer.Type == stun.BindingSuccess && from.Addr() != server.Addr():
		one.Strangers = Reached
	}
	return one, nil
}
