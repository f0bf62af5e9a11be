package media

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/pion/stun/v3"

	"parlor/media/icemux"
	"parlor/media/udp"
)

// Reach is whether packets of strangers, to which nothing was sent, reach a port.
type Reach int

// The states of [Reach].
const (
	ReachUnknown Reach = iota // the STUN server has one address alone
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
)

// Seen has the first STUN server (host:port) that answers look at each port of media, from
// the sockets of media themselves. A server with two addresses (RFC 5780) is asked to answer
// from the other one as well, which tells whether packets of strangers arrive.
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
		var all []Sight
		for _, s := range e.net.sockets[:e.net.media] {
			one, err := seen(ctx, s.mux, netip.AddrPortFrom(from, s.port), to)
			if err != nil {
				return nil, err
			}
			all = append(all, one)
		}
		return all, nil
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
		for _, port := range ports {
			one, err := seenUnserved(ctx, netip.AddrPortFrom(from, uint16(port)), to)
			if err != nil {
				return nil, err
			}
			all = append(all, one)
		}
		return all, nil
	})
}

// seenUnserved binds an address, and has a STUN server look at it.
func seenUnserved(ctx context.Context, local, server netip.AddrPort) (one Sight, err error) {
	log := slog.New(slog.DiscardHandler)
	conn, err := udp.Listen(udp.Config{Addr: local.String(), Log: log})
	if err != nil {
		return one, err
	}
	mux := icemux.New(icemux.Config{Counters: new(icemux.Counters), Log: log})
	defer func() { err = errors.Join(err, mux.Close()) }()
	if err := mux.Add(conn); err != nil {
		return one, errors.Join(err, conn.Close())
	}
	return seen(ctx, mux, netip.AddrPortFrom(local.Addr(), conn.Port()), server)
}

// firstSeen asks the servers in turn.
func firstSeen(servers []string, ask func(server string) ([]Sight, error)) ([]Sight, error) {
	err := errors.New("no STUN servers are configured")
	for _, server := range servers {
		all, askErr := ask(server)
		if askErr == nil {
			for i := range all {
				all[i].Server = server
			}
			return all, nil
		}
		err = fmt.Errorf("ask %s: %w", server, askErr)
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
	case err != nil:
		one.Strangers = NotReached
	case answer.Type == stun.BindingSuccess && from.Addr() != server.Addr():
		one.Strangers = Reached
	}
	return one, nil
}
