// Package srtpin opens incoming SRTP and SRTCP where it leaves the socket, past pion's
// path (mux, ICE agent, DTLS transport, session), on which each packet wakes four
// goroutines.
//
// The nouns:
//
//   - An [Opener] opens the SRTP of one transport, in place.
//   - A [Window] tells the packets of one SSRC that have come from those that have not.
//   - An [RTCP] opens the SRTCP of one transport. Congestion control feedback, transport-wide
//     or by stream (RFC 8888), comes from a subscriber ten to twenty times a second, far
//     more often than anything else, and can be opened for itself ([RTCP.Take]).
//
// All clients share the goroutine on which feedback is taken, so each has a budget: feedback
// beyond it is dropped, and counted. To open one costs a small part of taking it. Other
// reports that are taken there use the same budget ([RTCP.Affords]).
package srtpin

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/srtp/v3"

	"parlor/media/srtpout"
)

const (
	// maxFeedback is the longest packet that Take opens. A report of three hundred packets
	// fits; longer ones are rare.
	maxFeedback = 512
	// maxSenders bounds the SSRCs that a client names as the senders of its RTCP, since
	// some memory is kept for each. A client has one for its feedback, and one for each
	// stream that it sends.
	maxSenders = 64
	// maxBurst is how many reports a client may send at once, and another may come each
	// reportInterval. Clients send up to twenty a second; those of a few seconds come
	// at once after a stall of the network.
	maxBurst       = 200
	reportInterval = 10 * time.Millisecond

	header = 4 // bytes of an RTCP packet's header without its sender
	least  = 8 // with its sender: what SRTCP leaves readable
)

// RTCP opens the SRTCP packets of one transport. Its methods may be called concurrently.
type RTCP struct {
	excess *atomic.Uint64

	// mu guards the following. It is held while the packet's reports are taken.
	mu      sync.Mutex
	opener  rtcpOpener
	senders []rtcpSender
	budget  int       // reports that may come now
	filled  time.Time // when the budget was added to
}

// NewRTCP makes the RTCP of a transport whose client encrypts with that master key and
// salt. excess counts the packets that are dropped since the client sends too many.
func NewRTCP(profile srtp.ProtectionProfile, key, salt []byte, excess *atomic.Uint64) (*RTCP, error) {
	keys, err := srtpout.Keys{Profile: profile, Key: key, Salt: salt}.RTCPSession()
	if err != nil {
		return nil, fmt.Errorf("open incoming SRTCP: %w", err)
	}
	return &RTCP{excess: excess, opener: newRTCPOpener(keys), budget: maxBurst, filled: time.Now()}, nil
}

// Take opens an SRTCP packet if it begins with congestion control feedback, and gives each
// RTCP packet in it to take, which may use it during the call only; if there are other
// reports in it, all of it goes to others. It reports false for other packets, and an error
// for what is not authentic, or came before. Only what is authentic counts towards the
// client's budget: everybody can send in the client's name. A packet beyond the budget is
// dropped. The packet is opened in place.
func (f *RTCP) Take(packet []byte, take, others func(plain []byte)) (feedback bool, err error) {
	if len(packet) < least || len(packet) > maxFeedback || !isFeedback(packet) {
		return false, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.knowsLocked(packet) {
		return false, nil
	}
	plain, err := f.openLocked(packet[:0], packet)
	if err != nil {
		return true, err
	}
	if !f.affordLocked(time.Now()) {
		f.excess.Add(1)
		return true, nil
	}
	if !onlyFeedback(plain) {
		others(plain)
		return true, nil
	}
	for len(plain) > 0 {
		n := size(plain)
		take(plain[:n])
		if plain = plain[n:]; len(plain) > 0 {
			f.budget-- // one more than was paid for; later packets wait for it
		}
	}
	return true, nil
}

// Knows reports whether packets of this SRTCP packet's sender are opened here. If a client
// has too many senders, the packets of the others are to be opened elsewhere.
func (f *RTCP) Knows(packet []byte) bool {
	if len(packet) < least {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.knowsLocked(packet)
}

func (f *RTCP) knowsLocked(packet []byte) bool {
	return len(f.senders) < maxSenders || f.senderLocked(senderOf(packet)) != nil
}

// senderLocked is what is known of a sender; nil if no authentic packet of it has come.
func (f *RTCP) senderLocked(ssrc uint32) *rtcpSender {
	for i := range f.senders {
		if f.senders[i].ssrc == ssrc {
			return &f.senders[i]
		}
	}
	return nil
}

// Open opens an SRTCP packet and appends it to dst, which must not overlap it, unless it is
// packet[:0].
func (f *RTCP) Open(dst, packet []byte) ([]byte, error) {
	if len(packet) < least {
		return nil, errMalformed
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.openLocked(dst, packet)
}

func (f *RTCP) openLocked(dst, packet []byte) ([]byte, error) {
	ssrc := senderOf(packet)
	s := f.senderLocked(ssrc)
	if s == nil && len(f.senders) >= maxSenders {
		return nil, errForged
	}
	index, ok := f.opener.index(packet)
	if !ok {
		return nil, errMalformed
	}
	if s != nil && !s.fresh(index) {
		return nil, errReplayed
	}
	plain, err := f.opener.open(dst, packet)
	if err != nil {
		return nil, err
	}
	if s != nil {
		s.take(index)
	} else {
		f.senders = append(f.senders, rtcpSender{ssrc: ssrc, newest: index, seen: [2]uint64{1, 0}})
	}
	return plain, nil
}

// Affords takes one report from the client's budget, and reports whether there was one.
func (f *RTCP) Affords() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.affordLocked(time.Now())
}

// senderOf is the SSRC of the sender of an RTCP packet's first report.
func senderOf(packet []byte) uint32 { return binary.BigEndian.Uint32(packet[header:]) }

// affordLocked takes one report from the budget, if there is one.
func (f *RTCP) affordLocked(now time.Time) bool {
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
	format := packet[0] & 0x1f
	return packet[0]>>6 == 2 && (format == rtcp.FormatTCC || format == rtcp.FormatCCFB) &&
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
