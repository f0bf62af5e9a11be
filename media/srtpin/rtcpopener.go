package srtpin

import (
	"crypto/aes"
	"crypto/hmac"
	"crypto/sha1" // RFC 3711's HMAC-SHA1 is what is negotiated
	"crypto/subtle"
	"encoding/binary"
	"hash"

	"parlor/media/srtpout"
)

const (
	// replayWindow is how many SRTCP indices back a packet may still come for the first
	// time (RFC 3711 3.3.2).
	replayWindow = 128

	indexSize = 4 // bytes of the index with the bit that says that the packet is encrypted
	encrypted = 1 << 31
)

// rtcpOpener opens SRTCP packets (RFC 3711 3.4, RFC 7714 9), by AES-GCM or AES-CM with
// HMAC-SHA1, without an MKI. It allocates nothing. It is not safe for concurrent use.
type rtcpOpener struct {
	keys *srtpout.SessionKeys
	iv   [aes.BlockSize]byte
	aad  [least + indexSize]byte // of AES-GCM
	mac  hash.Hash               // of AES-CM with HMAC-SHA1
	sum  [sha1.Size]byte
	pad  [aes.BlockSize]byte // of the key stream
}

func newRTCPOpener(k *srtpout.SessionKeys) rtcpOpener {
	o := rtcpOpener{keys: k}
	if k.AEAD == nil {
		o.mac = hmac.New(sha1.New, k.AuthKey)
	}
	return o
}

// index is the index that a packet carries. It reports false for what no client sends: a
// packet that is not whole, or that is not encrypted, which is never negotiated (RFC 5764
// 4.1.2).
func (o *rtcpOpener) index(packet []byte) (uint32, bool) {
	end := len(packet) // of the index
	if o.keys.AEAD == nil {
		end -= sha1Tag
	} else if len(packet) < least+gcmTag+indexSize {
		return 0, false
	}
	if end < least+indexSize || packet[0]>>6 != 2 {
		return 0, false
	}
	word := binary.BigEndian.Uint32(packet[end-indexSize:])
	return word &^ encrypted, word&encrypted != 0
}

// open opens a packet that has an index, and appends it to dst, which is packet[:0] or does
// not overlap it. If it fails, packet may be destroyed.
func (o *rtcpOpener) open(dst, packet []byte) ([]byte, error) {
	ssrc := senderOf(packet)
	if o.keys.AEAD != nil {
		end := len(packet) - indexSize
		word := packet[end:]
		copy(o.aad[:], packet[:least])
		copy(o.aad[least:], word)
		o.keys.PutNonce(&o.iv, ssrc, uint64(binary.BigEndian.Uint32(word)&^encrypted))
		plain, err := o.keys.AEAD.Open(append(dst, packet[:least]...), o.iv[:12], packet[least:end], o.aad[:])
		if err != nil {
			return nil, errForged
		}
		return plain, nil
	}
	end := len(packet) - sha1Tag
	o.mac.Reset()
	_, _ = o.mac.Write(packet[:end]) // never fails
	if subtle.ConstantTimeCompare(o.mac.Sum(o.sum[:0])[:sha1Tag], packet[end:]) != 1 {
		return nil, errForged
	}
	end -= indexSize
	o.keys.PutCounter(&o.iv, ssrc, uint64(binary.BigEndian.Uint32(packet[end:])&^encrypted))
	from := len(dst) + least
	plain := append(dst, packet[:end]...)
	o.decipher(plain[from:])
	return plain, nil
}

// decipher deciphers by AES-CM, from the first counter on, which is in iv. The reports are
// short: one block after the other costs less than making a cipher.Stream for each.
func (o *rtcpOpener) decipher(b []byte) {
	for block := uint16(0); len(b) > 0; block++ {
		binary.BigEndian.PutUint16(o.iv[len(o.iv)-2:], block)
		o.keys.Block.Encrypt(o.pad[:], o.iv[:])
		b = b[subtle.XORBytes(b, b, o.pad[:]):]
	}
}

// rtcpSender is a sender of RTCP: which of the last replayWindow packets have come.
type rtcpSender struct {
	ssrc   uint32
	newest uint32    // index
	seen   [2]uint64 // bit n: the packet n before the newest has come
}

// fresh reports whether the packet of an index may be taken. No packet with that index has come,
// and the index is within the window. An index never begins at 0 again: the keys end before
// that (RFC 3711 9.2).
func (s *rtcpSender) fresh(index uint32) bool {
	if index > s.newest {
		return true
	}
	back := s.newest - index
	return back < replayWindow && s.seen[back/64]>>(back%64)&1 == 0
}

// take notes an authentic packet that is fresh.
func (s *rtcpSender) take(index uint32) {
	if index > s.newest {
		n := index - s.newest // shifts by 64 and more leave 0
		s.seen[1] = s.seen[1]<<n | s.seen[0]>>(64-min(n, 64))
		if n > 64 {
			s.seen[1] = s.seen[0] << (n - 64)
		}
		s.seen[0] <<= n
		s.newest = index
	}
	back := s.newest - index
	s.seen[back/64] |= 1 << (back % 64)
}
