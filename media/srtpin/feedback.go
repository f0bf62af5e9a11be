// Package srtpin opens incoming SRTCP where it leaves the socket, past pion's path
// (mux, ICE agent, DTLS transport, session), on which each packet wakes four
// goroutines.
//
// The noun: [Feedback] opens the transport-wide feedback of one transport. A
// subscriber sends it ten to twenty times a second, far more often than anything else.
// All other SRTCP stays pion's, so that nothing is handled twice.
package srtpin

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

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

	header = 4 // bytes of an RTCP packet's header without its sender
	least  = 8 // with its sender: what SRTCP leaves readable
)

// Feedback opens SRTCP packets that are nothing but transport-wide feedback. Its
// method may be called concurrently.
type Feedback struct {
	// mu guards the following. It is held while the packet's reports are taken.
	mu      sync.Mutex
	context *srtp.Context
	senders []uint32
	opened  [maxPacket]byte
}

// NewFeedback makes one for a transport whose client encrypts with that master key and
// salt.
func NewFeedback(profile srtp.ProtectionProfile, key, salt []byte) (*Feedback, error) {
	c, err := srtp.CreateContext(key, salt, profile, srtp.SRTCPReplayProtection(replayWindow))
	if err != nil {
		return nil, fmt.Errorf("open incoming SRTCP: %w", err)
	}
	return &Feedback{context: c}, nil
}

// Take opens an SRTP or SRTCP packet if it begins with transport-wide feedback, and
// gives each RTCP packet in it to take, which may use it during the call only. It
// reports false for everything that is to go to pion: other packets, feedback that
// comes with other reports in one packet, and what is not authentic.
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
		plain = plain[n:]
	}
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
