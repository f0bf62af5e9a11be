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
	seenBound     = 3 * time.Second // for one server
	strangerBound = 2 * time.Second // for its answer from another address
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

// Seen has the first STUN server (host:port) that answers look at each port of media, from
// the sockets of media themselves. A server with two addresses (RFC 5780) is asked to answer
// from the other one as well, which tells whether packets of strangers arrive. If some ports
// were seen and others were not, it returns those and an error.
func (e *Engine) Seen(ctx context.Context, servers []string) ([]Sight, error) {
	return firstSeen(servers, func(server string) ([]Sight, error) {
		to, err := stunAddress(ctx, server)
		if err != nil {
			return nil, err
		}
		if e.net.own(to) {
			return nil, errors.New("it is this server, which does not see itself from outside")
		}
		from, ok := wayOut(to.Addr(), e.net.now.Load().local)
		if !ok {
			return nil, errors.New("media has no IPv4 address")
		}
		sockets := e.net.sockets[:e.net.media]
		return eachPort(len(sockets), func(i int) (Sight, error) {
			return seen(ctx, sockets[i].mux, netip.AddrPortFrom(from, sockets[i].port), to)
		})
	})
}

// SeenFrom is as [Engine.Seen] where no server runs that has the ports.
func SeenFrom(ctx context.Context, ports []int, servers []string) ([]Sight, error) {
	return firstSeen(servers, func(server string) (all []Sight, err error) {
		to, err := stunAddress(ctx, server)
		if err != nil {
			return nil, err
		}
		route, err := new(net.Dialer).DialContext(ctx, "udp4", to.String())
		if err != nil {
			return nil, err
		}
		from := route.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
		_ = route.Close() // nothing was sent on it
		return eachPort(len(ports), func(i int) (Sight, error) {
			return seenUnserved(ctx, netip.AddrPortFrom(from, uint16(ports[i])), to)
		})
	})
}

// eachPort looks at ports at the same time, as those behind a firewall take seconds. It returns
// what was seen, and one of the errors: of the servers before those of binding a port.
func eachPort(n int, look func(i int) (Sight, error)) (all []Sight, err error) {
	sights, errs := make([]Sight, n), make([]error, n)
	places := make(chan struct{}, maxSeen)
	var looking sync.WaitGroup
	for i := range n {
		places <- struct{}{}
		looking.Go(func() {
			defer func() { <-places }()
			sights[i], errs[i] = look(i)
		})
	}
	looking.Wait()
	for i, failure := range errs {
		switch {
		case failure == nil:
			all = append(all, sights[i])
		case err == nil || errors.Is(err, ErrPort):
			err = failure
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

// firstSeen asks the servers in turn, until one has seen a port. The error says more than that
// servers were silent if one of them failed in another way.
func firstSeen(servers []string, ask func(server string) ([]Sight, error)) ([]Sight, error) {
	var err error
	for _, server := range servers {
		all, askErr := ask(server)
		if askErr != nil {
			askErr = fmt.Errorf("ask %s: %w", server, askErr)
		}
		if len(all) > 0 {
			for i := range all {
				all[i].Server = server
			}
			return all, askErr
		}
		if err == nil || Silent(err) {
			err = askErr
		}
	}
	if len(servers) == 0 {
		err = errors.New("no STUN servers are configured")
	}
	return nil, err
}

// stunAddress is the IPv4 address of a STUN server.
func stunAddress(ctx context.Context, server string) (none netip.AddrPort, err error) {
	ctx, cancel := context.WithTimeout(ctx, seenBound)
	defer cancel()
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
	if err != nil {
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
