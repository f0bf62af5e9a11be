package icemux

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/pion/stun/v3"
)

const (
	// bindingsPerSecond bounds the answers of one socket to Binding requests of nobody, so
	// that it neither costs CPU time nor serves to flood others.
	bindingsPerSecond = 50
	// askInterval is how often [Mux.Ask] repeats a request.
	askInterval = 500 * time.Millisecond
)

// bindings counts the answers of a second.
type bindings struct {
	since time.Time
	given int
}

// answerBinding answers a Binding request that names no session: what address it came from
// (RFC 8489). By that another machine finds out whether packets reach the port.
func (p *port) answerBinding(m *stunMessage, src netip.AddrPort, now time.Time) {
	if p.cfg.Own != nil && p.cfg.Own(src) {
		p.cfg.Counters.Own.Add(1)
		return
	}
	p.mu.Lock()
	if now.Sub(p.bindings.since) >= time.Second {
		p.bindings = bindings{since: now}
	}
	p.bindings.given++
	over := p.bindings.given > bindingsPerSecond
	p.mu.Unlock()
	if over {
		p.cfg.Counters.Unknown.Add(1)
		return
	}
	answer, err := stun.Build(stun.NewTransactionIDSetter(m.id), stun.BindingSuccess,
		&stun.XORMappedAddress{IP: src.Addr().AsSlice(), Port: int(src.Port())})
	if err == nil {
		_, _ = p.socket.WriteToAddrPort(answer.Raw, src) // it asks again
	}
}

// isBinding reports whether a message is a Binding request of nobody, with no attribute that
// an answer must follow.
func (m *stunMessage) isBinding(packet []byte) bool {
	const (
		bindingRequest = 0x0001
		optional       = 0x8000 // attributes from there on may be ignored
	)
	if binary.BigEndian.Uint16(packet) != bindingRequest {
		return false
	}
	for rest := m.attrs; len(rest) >= 4; {
		size := int(binary.BigEndian.Uint16(rest[2:]))
		if size > len(rest)-4 || binary.BigEndian.Uint16(rest) < optional {
			return false
		}
		rest = rest[min(4+(size+3)&^3, len(rest)):]
	}
	return true
}

// inquiry is the answer to a request of [Mux.Ask].
type inquiry struct {
	packet []byte
	from   netip.AddrPort
}

// Ask sends a STUN request from the socket with a local address, again and again until an
// answer comes, from wherever it comes, or ctx ends.
func (m *Mux) Ask(ctx context.Context, local netip.AddrPort, request *stun.Message, to netip.AddrPort) (*stun.Message, netip.AddrPort, error) {
	all := m.snapshot()
	i := slices.IndexFunc(all, func(p *port) bool { return canonical(p.local.AddrPort()) == canonical(local) })
	if i < 0 {
		return nil, netip.AddrPort{}, fmt.Errorf("no socket has the local address %v", local)
	}
	p, id := all[i], transaction(request.TransactionID)
	answered := make(chan inquiry, 1)
	p.mu.Lock()
	p.inquiries[id] = answered
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.inquiries, id)
		p.mu.Unlock()
	}()
	again := time.NewTicker(askInterval)
	defer again.Stop()
	for {
		if _, err := p.socket.WriteToAddrPort(request.Raw, to); err != nil {
			return nil, netip.AddrPort{}, err
		}
		select {
		case a := <-answered:
			answer := &stun.Message{Raw: a.packet}
			return answer, a.from, answer.Decode()
		case <-again.C:
		case <-ctx.Done():
			return nil, netip.AddrPort{}, ctx.Err()
		}
	}
}

// inquiredLocked passes an answer on to [Mux.Ask]; false: nobody has asked.
func (p *port) inquiredLocked(m *stunMessage, packet []byte, src netip.AddrPort) bool {
	answered := p.inquiries[m.id]
	if answered == nil {
		return false
	}
	select {
	case answered <- inquiry{bytes.Clone(packet), src}:
	default: // the first one counts
	}
	return true
}
