package media

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// answerBound is how long STUN servers may take to answer, all of them together.
const answerBound = 3 * time.Second

// headStart is how long a STUN server's answer waits for those of the servers before it.
const headStart = 300 * time.Millisecond

// ExternalAddress returns the address under which this machine appears to the first of
// the STUN servers (host:port) that answers (RFC 8489). It asks all at the same time, and waits
// three seconds for them. Of answers that come within 300 ms that of the first in the list
// counts.
func ExternalAddress(ctx context.Context, servers []string) (netip.Addr, error) {
	_, addr, err := firstAnswer(ctx, servers, func(ctx context.Context, server string) (netip.Addr, error) {
		return askSTUN(ctx, "udp4", server)
	})
	return addr, err
}

// firstAnswer asks STUN servers at the same time, and returns the first that answers and its
// answer, with the head start of those before it. If none answers and one failed in another
// way than by silence, the error says that.
func firstAnswer[T any](ctx context.Context, servers []string, ask func(context.Context, string) (T, error)) (server string, answer T, err error) {
	if len(servers) == 0 {
		return "", answer, errors.New("no STUN servers are configured")
	}
	ctx, cancel := context.WithTimeout(ctx, answerBound)
	defer cancel() // ends the other requests
	answers, errs := make([]T, len(servers)), make([]error, len(servers))
	var asking sync.WaitGroup
	for i := range servers {
		asking.Go(func() {
			if answers[i], errs[i] = ask(ctx, servers[i]); errs[i] != nil {
				return
			}
			if i > 0 {
				select {
				case <-time.After(headStart):
				case <-ctx.Done():
				}
			}
			cancel()
		})
	}
	asking.Wait()
	if i := slices.Index(errs, nil); i >= 0 {
		return servers[i], answers[i], nil
	}
	for i, failure := range errs {
		if err == nil || Silent(err) {
			err = fmt.Errorf("ask %s: %w", servers[i], failure)
		}
	}
	return "", answer, err
}

// NATAddresses are the public addresses under which this machine is reached through a NAT, as
// in most clouds: at most one of each family, out of named, the addresses to which the
// machine's name leads. A family has one if local, the machine's own addresses, has some of
// that family and no public one.
func NATAddresses(named, local []netip.Addr) (out []netip.Addr) {
	for _, four := range []bool{true, false} {
		if !behindNAT(four, local) {
			continue
		}
		if i := slices.IndexFunc(named, func(a netip.Addr) bool { return a.Is4() == four && isPublic(a) }); i >= 0 {
			out = append(out, named[i])
		}
	}
	return out
}

// behindNAT reports whether a machine with those addresses has some of IPv4, or else of IPv6,
// and no public one.
func behindNAT(four bool, local []netip.Addr) bool {
	of := func(a netip.Addr) bool { return a.Is4() == four && !a.IsLoopback() && !a.IsLinkLocalUnicast() }
	return slices.ContainsFunc(local, of) && !slices.ContainsFunc(local, func(a netip.Addr) bool { return of(a) && isPublic(a) })
}

// sharedAddresses are those of NATs of access networks (RFC 6598).
var sharedAddresses = netip.MustParsePrefix("100.64.0.0/10")

func isPublic(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && !sharedAddresses.Contains(a)
}

const (
	// nameInterval is how often ExternalName is looked up, so that an address is followed
	// that changes.
	nameInterval = 5 * time.Minute
	lookupBound  = 3 * time.Second
)

// lookUp takes the addresses to which ExternalName leads for the machine's own, if it is
// behind a NAT. If it is behind none it asks nobody, as a start would wait for the answer.
func (n *network) lookUp(ctx context.Context, present []netip.Addr) {
	if !behindNAT(true, present) && !behindNAT(false, present) {
		n.external, n.due = nil, false
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookupBound)
	defer cancel()
	found, err := n.cfg.lookup(ctx, n.cfg.ExternalName)
	n.due = err != nil
	if err != nil {
		if !n.lost {
			n.cfg.Log.Warn("the server's name cannot be looked up; trying again", "name", n.cfg.ExternalName, "error", err)
		}
		n.lost = true
		return
	}
	n.lost = false
	for i := range found {
		found[i] = found[i].Unmap()
	}
	external := NATAddresses(found, present)
	if len(external) > 0 && !slices.Equal(external, n.external) {
		n.cfg.Log.Info("this machine has no public address: clients are told of those to which its name leads", "name", n.cfg.ExternalName, "addresses", external)
	}
	n.external = external
}

// AnswersSTUN asks the STUN or TURN server at an address, once a second until ctx ends, and
// returns nil when it has answered (RFC 8489). An error that is [syscall.ECONNREFUSED] says that
// no program has that port.
func AnswersSTUN(ctx context.Context, server netip.AddrPort) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		_, err := askSTUN(attempt, "udp", server.String())
		lost := attempt.Err() != nil // the request, or its answer
		cancel()
		if err == nil || !lost || ctx.Err() != nil {
			return err
		}
	}
}
