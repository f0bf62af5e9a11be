package srtpin

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha1" // RFC 3711's HMAC-SHA1 is what is negotiated
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"hash"

	"parlor/media/srtpout"
)

const (
	rtpHeader = 12 // bytes of an RTP header without CSRCs and extensions
	gcmTag    = 16
	sha1Tag   = 10 // 80 bits
)

var (
	errMalformed = errors.New("malformed SRTP packet")
	errForged    = errors.New("SRTP packet is not authentic")
	errReplayed  = errors.New("SRTP packet has come before")
)

// Opener opens the SRTP packets of one transport (RFC 3711, RFC 7714), by AES-GCM or
// AES-CM with HMAC-SHA1, without an MKI. It is not safe for concurrent use.
type Opener struct {
	keys *srtpout.SessionKeys
	iv   [aes.BlockSize]byte
	mac  hash.Hash // of AES-CM with HMAC-SHA1
	sum  [sha1.Size]byte
	roc  [4]byte
}

// NewOpener makes the Opener of a transport whose client encrypts with these keys.
func NewOpener(keys srtpout.Keys) (*Opener, error) {
	k, err := keys.Session()
	if err != nil {
		return nil, err
	}
	o := &Opener{keys: k}
	if k.AEAD == nil {
		o.mac = hmac.New(sha1.New, k.AuthKey)
	}
	return o, nil
}

// IsRTP tells RTP from RTCP and all else by the first two bytes (RFC 7983, RFC 5761 4),
// where there is a whole RTP header.
func IsRTP(packet []byte) bool {
	return len(packet) >= rtpHeader && packet[0]>>6 == 2 && !isRTCP(packet)
}

// IsRTCP tells RTCP from all else by the first two bytes, where there is a whole header.
func IsRTCP(packet []byte) bool {
	return len(packet) >= least && packet[0]>>6 == 2 && isRTCP(packet)
}

func isRTCP(packet []byte) bool { return packet[1] >= 192 && packet[1] <= 223 }

// SSRC is the SSRC of an RTP packet.
func SSRC(packet []byte) uint32 { return binary.BigEndian.Uint32(packet[8:]) }

// Number is the sequence number of an RTP packet.
func Number(packet []byte) uint16 { return binary.BigEndian.Uint16(packet[2:]) }

// Open opens an RTP packet with that index in place. If it fails, packet is destroyed.
func (o *Opener) Open(packet []byte, index uint64) ([]byte, error) {
	header := headerSize(packet)
	if header == 0 {
		return nil, errMalformed
	}
	if o.keys.AEAD != nil {
		if len(packet) < header+gcmTag {
			return nil, errMalformed
		}
		o.keys.PutNonce(&o.iv, SSRC(packet), index)
		payload, err := o.keys.AEAD.Open(packet[header:header], o.iv[:12], packet[header:], packet[:header])
		if err != nil {
			return nil, errForged
		}
		return packet[:header+len(payload)], nil
	}
	n := len(packet) - sha1Tag
	if n < header {
		return nil, errMalformed
	}
	o.mac.Reset()
	_, _ = o.mac.Write(packet[:n]) // never fails
	binary.BigEndian.PutUint32(o.roc[:], uint32(index>>16))
	_, _ = o.mac.Write(o.roc[:]) // never fails
	if subtle.ConstantTimeCompare(o.mac.Sum(o.sum[:0])[:sha1Tag], packet[n:]) != 1 {
		return nil, errForged
	}
	o.keys.PutCounter(&o.iv, SSRC(packet), index)
	cipher.NewCTR(o.keys.Block, o.iv[:]).XORKeyStream(packet[header:n], packet[header:n])
	return packet[:n], nil
}

// headerSize is the bytes of an RTP packet's header with CSRCs and extensions (RFC 3550
// 5.1), 0 if it is not whole.
func headerSize(packet []byte) int {
	if len(packet) < rtpHeader {
		return 0
	}
	n := rtpHeader + 4*int(packet[0]&0x0f)
	if packet[0]&0x10 != 0 {
		if len(packet) < n+4 {
			return 0
		}
		n += 4 + 4*int(binary.BigEndian.Uint16(packet[n+2:]))
	}
	if len(packet) < n {
		return 0
	}
	return n
}
