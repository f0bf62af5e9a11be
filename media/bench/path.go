package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"parlor/media/emulator"
)

// path is the bad network that some subscribers share on the way to one server. The
// methods of a nil path change nothing.
type path struct {
	mu       sync.Mutex // guards the following
	server   netip.AddrPort
	relay    *emulator.Relay // nil before the server's address is known
	down, up emulator.Conditions
}

// set changes the network.
func (p *path) set(down, up emulator.Conditions) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down, p.up = down, up
	if p.relay != nil {
		p.relay.SetDown(down)
		p.relay.SetUp(up)
	}
}

// take returns the traffic to the clients, or with up from them, since the last call.
func (p *path) take(up bool) emulator.Traffic {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.relay == nil:
		return emulator.Traffic{}
	case up:
		return p.relay.TakeUp()
	}
	return p.relay.TakeDown()
}

// startBulk begins a TCP flow on the way to the subscribers, who are connected.
func (p *path) startBulk() *emulator.Bulk {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.relay.StartBulk(p.up.Delay)
}

func (p *path) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.relay == nil {
		return nil
	}
	return p.relay.Close()
}

// rerouted is an SDP or a candidate of the server with the relay's address in place of
// the server's. Candidates that do not lead to the relay are left out.
func (p *path) rerouted(text string) (string, error) {
	if p == nil {
		return text, nil
	}
	var out strings.Builder
	for line := range strings.Lines(text) {
		prefix, candidate, found := strings.Cut(line, "candidate:")
		if !found || strings.Contains(prefix, "end-of-") || strings.HasPrefix(prefix, "a=remote-") {
			out.WriteString(line)
			continue
		}
		fields := strings.Fields(candidate) // foundation component protocol priority address port …
		if len(fields) < 6 || !strings.EqualFold(fields[2], "udp") {
			continue
		}
		addr, err := netip.ParseAddr(fields[4])
		if err != nil || !addr.Is4() {
			continue
		}
		port, err := strconv.ParseUint(fields[5], 10, 16)
		if err != nil {
			return "", fmt.Errorf("the server's candidate %q: %w", candidate, err)
		}
		relay, err := p.to(netip.AddrPortFrom(addr, uint16(port)))
		if err != nil {
			return "", err
		}
		if relay.IsValid() {
			fields[4], fields[5] = relay.Addr().String(), strconv.Itoa(int(relay.Port()))
			out.WriteString(prefix + "candidate:" + strings.Join(fields, " ") + line[len(strings.TrimRight(line, "\r\n")):])
		}
	}
	return out.String(), nil
}

// to is the relay's address for an address of the server; invalid for a second address.
func (p *path) to(server netip.AddrPort) (netip.AddrPort, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.relay == nil {
		relay, err := emulator.New(server)
		if err != nil {
			return netip.AddrPort{}, err
		}
		p.server, p.relay = server, relay
		relay.SetDown(p.down)
		relay.SetUp(p.up)
	}
	switch {
	case server == p.server:
		return p.relay.Addr(), nil
	case server.Port() != p.server.Port():
		return netip.AddrPort{}, errors.New("the server has more than one UDP port for media")
	}
	return netip.AddrPort{}, nil
}

// hidden is an SDP of the client without its candidates: with them the server would
// bypass the relay.
func (p *path) hidden(sdp string) string {
	if p == nil {
		return sdp
	}
	var out strings.Builder
	for line := range strings.Lines(sdp) {
		if !strings.HasPrefix(line, "a=candidate:") {
			out.WriteString(line)
		}
	}
	return out.String()
}

// clean is a network without faults.
func clean() emulator.Conditions {
	return emulator.Conditions{Rate: 20e6, Queue: 300 * time.Millisecond, Delay: 20 * time.Millisecond}
}
