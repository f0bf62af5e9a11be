package media

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	piontransport "github.com/pion/transport/v5"
	"github.com/pion/transport/v5/stdnet"
)

// networkInterface is an interface that is up, with its addresses.
type networkInterface struct {
	name     string
	loopback bool
	addrs    []netip.Addr
}

// systemInterfaces asks the operating system for its interfaces.
func systemInterfaces() ([]networkInterface, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []networkInterface
	for _, i := range list {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // the interface went away meanwhile
		}
		made := networkInterface{name: i.Name, loopback: i.Flags&net.FlagLoopback != 0}
		for _, a := range addrs {
			if prefix, ok := a.(*net.IPNet); ok {
				if addr, ok := netip.AddrFromSlice(prefix.IP); ok {
					made.addrs = append(made.addrs, addr.Unmap())
				}
			}
		}
		out = append(out, made)
	}
	return out, nil
}

// bindRetry is the time until another attempt to bind an address that could not be bound.
// A new IPv6 address cannot be bound for a second or two, until duplicate address
// detection ends (RFC 4862, section 5.4).
const bindRetry = time.Second

// pollInterval is how often the machine's addresses are listed where the system does not
// report changes. Listing them takes less than a millisecond.
const pollInterval = 10 * time.Second

func pollChanges(ctx context.Context, changed func()) {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		changed()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// follow adapts the sockets to the machine's addresses until ctx ends.
func (n *network) follow(ctx context.Context) {
	changes := make(chan struct{}, 1)
	n.following.Go(func() {
		n.cfg.changes(ctx, n.cfg.Log, func() {
			select {
			case changes <- struct{}{}:
			default:
			}
		})
	})
	again := time.NewTimer(bindRetry)
	again.Stop() // an attempt is due only when an address cannot be bound, or the name not be looked up
	defer again.Stop()
	names := time.NewTicker(nameInterval)
	defer names.Stop()
	if !n.named() {
		names.Stop()
	}
	if n.due {
		again.Reset(bindRetry)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes:
		case <-again.C:
		case <-names.C:
			n.due = true
		}
		if !n.refresh(ctx) {
			again.Reset(bindRetry)
		}
	}
}

// refresh binds and advertises the machine's present addresses. It returns false if some
// of them cannot be bound yet.
func (n *network) refresh(ctx context.Context) bool {
	list, err := n.cfg.interfaces()
	if err != nil {
		n.cfg.Log.Warn("the machine's addresses cannot be listed; keeping to the last", "error", err)
		return false
	}
	n.list(list)
	present := n.presentOf(list)
	was := n.now.Load()
	if slices.Equal(present, n.present) && len(was.local) > 0 && !n.unbound && !n.due {
		return true
	}
	if !slices.Equal(present, n.present) || n.due {
		n.present = present
		n.discover(ctx, present)
	}
	now, err := n.advertised(present)
	if err != nil { // for example, the network is down
		now = &addresses{}
	}
	n.unbound = !n.keep(now)
	if !slices.Equal(was.local, now.local) || !maps.Equal(was.external, now.external) {
		n.cfg.Log.Info("the addresses of media have changed", "before", was.local, "now", now.local)
	}
	return !n.unbound && !n.due
}

// presentOf lists the bindable addresses that an interface has now, and loopback.
func (n *network) presentOf(list []networkInterface) []netip.Addr {
	return slices.DeleteFunc(n.bindable(list), func(a netip.Addr) bool {
		return !a.IsLoopback() && !slices.ContainsFunc(list, func(i networkInterface) bool { return slices.Contains(i.addrs, a) })
	})
}

// keep binds the addresses of now that are not bound yet, and closes the sockets of
// addresses that now lacks. It removes from now the addresses that cannot be bound, and
// then returns false.
func (n *network) keep(now *addresses) bool {
	fresh := make([][]boundConn, len(n.sockets))
	kept := slices.DeleteFunc(slices.Clone(now.local), func(a netip.Addr) bool {
		if slices.Contains(n.now.Load().local, a) {
			return false
		}
		for i, s := range n.sockets {
			c, err := s.bind(a)
			if err != nil {
				n.cfg.Log.Debug("an address cannot be bound yet", "address", a, "error", err)
				for j := range n.sockets[:i] {
					last := len(fresh[j]) - 1
					_ = fresh[j][last].Close() // nothing was sent on it
					fresh[j] = fresh[j][:last]
				}
				return true
			}
			fresh[i] = append(fresh[i], c)
		}
		return false
	})
	all := len(kept) == len(now.local)
	now.local = kept
	closing := make([][]boundConn, len(n.sockets))
	for i, s := range n.sockets {
		var conns []boundConn
		for _, c := range *s.conns.Load() {
			if slices.Contains(kept, c.local) {
				conns = append(conns, c)
			} else {
				closing[i] = append(closing[i], c)
			}
		}
		conns = append(conns, fresh[i]...)
		s.conns.Store(&conns)
	}
	n.now.Store(now)
	for i, s := range n.sockets {
		for _, c := range fresh[i] {
			if err := s.add(c); err != nil {
				n.cfg.Log.Error("cannot receive media on an address", "address", c.local, "error", err)
			}
		}
		for _, c := range closing[i] {
			if err := s.remove(c); err != nil {
				n.cfg.Log.Warn("close the media socket of an address that went", "address", c.local, "error", err)
			}
			sum := s.gone.Load().Add(c.Stats())
			s.gone.Store(&sum)
		}
	}
	return all
}

// boundNet is the network as pion sees it: the machine has the bound addresses, and no
// others.
type boundNet struct {
	piontransport.Net
	n *network
}

// forPion is a network whose only interface has the bound addresses, so that ICE agents
// gather candidates from these alone.
func (n *network) forPion() piontransport.Net { return &boundNet{&stdnet.Net{}, n} }

// Interfaces implements transport.Net.
func (b *boundNet) Interfaces() ([]*piontransport.Interface, error) {
	i := piontransport.NewInterface(net.Interface{Index: 1, MTU: 1500, Name: "media", Flags: net.FlagUp})
	for _, a := range b.n.now.Load().local {
		i.AddAddress(&net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())})
	}
	return []*piontransport.Interface{i}, nil
}
