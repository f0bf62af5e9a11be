package srtpout

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/pion/srtp/v3"
)

// firstRTCPIndex is the index before a Sender's first SRTCP packet of an SSRC. Pion has
// counted from 0 while there was no Sender, which is for a moment.
const firstRTCPIndex = 1 << 20

// errShortRTCP: the packet has no SSRC.
var errShortRTCP = errors.New("RTCP packet too short")

// rtcpSealer encrypts RTCP.
type rtcpSealer struct {
	mu      sync.Mutex // guards the following. It is held while the socket takes a packet
	context *srtp.Context
	sealed  []byte
}

func newRTCPSealer(k Keys) (*rtcpSealer, error) {
	context, err := srtp.CreateContext(k.Key, k.Salt, k.Profile)
	if err != nil {
		return nil, fmt.Errorf("encrypt outgoing RTCP: %w", err)
	}
	return &rtcpSealer{context: context}, nil
}

// WriteRTCP encrypts a compound packet and gives it to the socket. The packet is not kept.
func (s *Sender) WriteRTCP(packet []byte) error {
	path := s.path.Load()
	if path == nil {
		return ErrNoRemote
	}
	if len(packet) < 8 {
		return errShortRTCP
	}
	r := s.rtcp
	r.mu.Lock()
	defer r.mu.Unlock()
	ssrc := binary.BigEndian.Uint32(packet[4:])
	if _, known := r.context.Index(ssrc); !known {
		r.context.SetIndex(ssrc, firstRTCPIndex)
	}
	sealed, err := r.context.EncryptRTCP(r.sealed[:0], packet, nil)
	if err != nil {
		return fmt.Errorf("encrypt RTCP: %w", err)
	}
	r.sealed = sealed
	_, err = path.socket.WriteToAddrPort(sealed, path.to)
	return err
}
