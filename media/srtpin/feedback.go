// Package srtpin opens incoming SRTCP where it leaves the socket, past pion's path
// (mux, ICE agent, DTLS transport, session), on which each packet wakes four
// goroutines.
//
// The noun: [Feedback] opens the transport-wide feedback of one transport. A
// subscriber sends it ten to twenty times a second, far more often than anything else.
// All other SRTCP stays pion's, so that nothing is handled twice.
//
// All clients share the goroutine on which that happens, so each has a budget: reports
// beyond it are dropped before they are decrypted, and counted.
package srtpin

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/srtp/v3"
)

const (
	// maxPacket is the longest packet that is opened. A report of three hundred packets
	// fits; longer ones are rare, and take pion's path.
	maxPacket = 512
	// maxSenders bounds the SSRCs that a client names as the senders of its feedback:
	// something is kept of each. A client has one.
	maxSenders = 16
	// replayWindow is how many SRTCP indices back a packet may still come for the first
	// time (RFC 3711 3.3.2).
	replayWindow = 128
	// maxBurst is how many reports a client may send at once, and another may come each
	// reportInterval. Clients send up to twenty a second; those of a few seconds come
	// at once after a stall of the network.
	maxBurst       = 200
	reportInterval = 10 * time.Millisecond

	header = 4 // bytes of an RTCP packet's header without its sender
	least  = 8 // with its sender: what SRTCP leaves readable
)

// Feedback opens SRTCP packets that are nothing but transport-wide feedback. Its
// method may be called concurrently.
type Feedback struct {
	excess *atomic.Uint64

	// mu guards the following. It is held while the packet's reports are taken.
	mu      sync.Mutex
	context *srtp.Context
	senders []uint32
	opened  [maxPacket]byte
	budget  int       // reports that may come now
	filled  time.Time // when the budget was added to
}

// NewFeedback makes one for a transport whose client encrypts with that master key and
// salt. excess counts the packets that are dropped since the client sends too many.
func NewFeedback(profile srtp.ProtectionProfile, key, salt []byte, excess *atomic.Uint64) (*Feedback, error) {
	c, err := srtp.CreateContext(key, salt, profile, srtp.SRTCPReplayProtection(replayWindow))
	if err != nil {
		return nil, fmt.Errorf("open incoming SRTCP: %w", err)
	}
	return &Feedback{excess: excess, context: c, budget: maxBurst, filled: time.Now()}, nil
}

// Take opens an SRTP or SRTCP packet if it begins with transport-wide feedback, and
// gives each RTCP packet in it to take, which may use it during the call only. It
// reports false for everything that is to go to pion: other packets, feedback that
// comes with other reports in one packet, and what is not authentic. A packet beyond the
// client's budget is dropped: nothing is taken of it, and it is not to go to pion.
func (f *Feedback) Take(packet []byte, take func(report []byte)) bool {
	if len(packet) < least || len(packet) > maxPacket || !isFeedback(packet) {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	sender := binary.BigEndian.Uint32(packet[header:])
	known := slices.Contains(f.senders, sender)
	if !known && len(f.senders) == maxSenders {
		return false
	}
	if !f.affordLocked(time.Now()) {
		f.excess.Add(1)
		return true
	}
	plain, err := f.context.DecryptRTCP(f.opened[:0], packet, nil)
	if err != nil {
		return false
	}
	if !known {
		f.senders = append(f.senders, sender)
	}
	if !onlyFeedback(plain) {
		return false
	}
	for len(plain) > 0 {
		n := size(plain)
		take(plain[:n])
		if plain = plain[n:]; len(plain) > 0 {
			f.budget-- // one more than was paid for; later packets wait for it
		}
	}
	return true
}

// affordLocked takes one report from the budget, if there is one.
func (f *Feedback) affordLocked(now time.Time) bool {
	if n := now.Sub(f.filled) / reportInterval; n > 0 {
		f.budget = min(f.budget+int(min(n, 2*maxBurst)), maxBurst)
		f.filled = f.filled.Add(n * reportInterval)
	}
	if f.budget <= 0 {
		return false
	}
	f.budget--
	return true
}

// isFeedback tells by the two bytes that SRTCP leaves readable what an RTCP packet is.
func isFeedback(packet []byte) bool {
	return packet[0]>>6 == 2 && packet[0]&0x1f == rtcp.FormatTCC &&
		rtcp.PacketType(packet[1]) == rtcp.TypeTransportSpecificFeedback
}

func size(packet []byte) int { return 4 * (int(binary.BigEndian.Uint16(packet[2:])) + 1) }

// onlyFeedback tells whether a compound packet is whole, and has no other reports.
func onlyFeedback(plain []byte) bool {
	for len(plain) >= header && isFeedback(plain) && size(plain) <= len(plain) {
		plain = plain[size(plain):]
	}
	return len(plain) == 0
}
