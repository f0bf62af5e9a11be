package srtpout

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha1" // negotiated profiles use RFC 3711's HMAC-SHA1
	"encoding/binary"
	"fmt"
	"hash"

	"github.com/pion/srtp/v3"
)

// Labels of the key derivation (RFC 3711, section 4.3.1): those of RTP, and those of RTCP,
// which are labelRTCP more.
const (
	labelEncryption     = 0
	labelAuthentication = 1
	labelSalt           = 2
	labelRTCP           = 3
)

const (
	gcmTag  = 16
	sha1Key = 20
	sha1Tag = 10 // 80 bits
)

func supported(p srtp.ProtectionProfile) bool {
	switch p {
	case srtp.ProtectionProfileAeadAes128Gcm, srtp.ProtectionProfileAeadAes256Gcm,
		srtp.ProtectionProfileAes128CmHmacSha1_80:
		return true
	}
	return false
}

// SessionKeys are what one side encrypts RTP or RTCP with, derived from a master key (RFC
// 3711 4.3). They are not changed, so streams share them.
type SessionKeys struct {
	Block   cipher.Block
	AEAD    cipher.AEAD // nil for AES-CM with HMAC-SHA1
	AuthKey []byte      // of HMAC-SHA1; nil for AES-GCM
	Salt    []byte
}

// Session derives the session keys of RTP. The error is ErrNoKeys if the profile is not
// known.
func (k Keys) Session() (*SessionKeys, error) { return k.session(0) }

// RTCPSession derives the session keys of RTCP, which are others than those of RTP.
func (k Keys) RTCPSession() (*SessionKeys, error) { return k.session(labelRTCP) }

// session derives the session keys whose labels begin at first.
func (k Keys) session(first byte) (*SessionKeys, error) {
	if !supported(k.Profile) {
		return nil, fmt.Errorf("%w: profile %v", ErrNoKeys, k.Profile)
	}
	keyLen, err1 := k.Profile.KeyLen()
	saltLen, err2 := k.Profile.SaltLen()
	if err1 != nil || err2 != nil || len(k.Key) != keyLen || len(k.Salt) != saltLen {
		return nil, fmt.Errorf("%w: keys do not fit the profile", ErrNoKeys)
	}
	master, err := aes.NewCipher(k.Key)
	if err != nil {
		return nil, err
	}
	s := &SessionKeys{Salt: derive(master, k.Salt, first+labelSalt, saltLen)}
	if s.Block, err = aes.NewCipher(derive(master, k.Salt, first+labelEncryption, keyLen)); err != nil {
		return nil, err
	}
	if k.Profile == srtp.ProtectionProfileAes128CmHmacSha1_80 {
		s.AuthKey = derive(master, k.Salt, first+labelAuthentication, sha1Key)
		return s, nil
	}
	s.AEAD, err = cipher.NewGCM(s.Block)
	return s, err
}

// derive derives a session key (RFC 3711, sections 4.3.1 and 4.3.3, with a key derivation
// rate of 0).
func derive(master cipher.Block, salt []byte, label byte, n int) []byte {
	var x [aes.BlockSize]byte
	copy(x[:14], salt)
	x[7] ^= label
	out := make([]byte, 0, n+aes.BlockSize)
	for i := uint16(0); len(out) < n; i++ {
		binary.BigEndian.PutUint16(x[14:], i)
		out = out[:len(out)+aes.BlockSize]
		master.Encrypt(out[len(out)-aes.BlockSize:], x[:])
	}
	return out[:n]
}

// sealer encrypts the packets of one stream.
type sealer struct {
	keys *SessionKeys
	iv   [aes.BlockSize]byte
	mac  hash.Hash // of AES-CM with HMAC-SHA1
	sum  [sha1.Size]byte
	roc  [4]byte
}

func newSealer(k *SessionKeys) sealer {
	s := sealer{keys: k}
	if k.AEAD == nil {
		s.mac = hmac.New(sha1.New, k.AuthKey)
	}
	return s
}

// overhead is how much longer sealing makes a packet, in bytes.
func (s *sealer) overhead() int {
	if s.keys.AEAD != nil {
		return gcmTag
	}
	return sha1Tag
}

// seal appends the encrypted payload to the header in packet[:header], and returns the
// packet's length. packet must have room for it.
func (s *sealer) seal(packet []byte, header int, payload []byte, ssrc uint32, index uint64) int {
	if s.keys.AEAD != nil {
		s.keys.PutNonce(&s.iv, ssrc, index)
		s.keys.AEAD.Seal(packet[header:header], s.iv[:12], payload, packet[:header])
		return header + len(payload) + gcmTag
	}
	s.keys.PutCounter(&s.iv, ssrc, index)
	n := header + len(payload)
	cipher.NewCTR(s.keys.Block, s.iv[:]).XORKeyStream(packet[header:n], payload)
	s.mac.Reset()
	s.mac.Write(packet[:n])
	binary.BigEndian.PutUint32(s.roc[:], uint32(index>>16))
	s.mac.Write(s.roc[:])
	return n + copy(packet[n:n+sha1Tag], s.mac.Sum(s.sum[:0]))
}

// PutNonce puts the nonce of AES-GCM into the first 12 bytes of iv (RFC 7714 8.1): zero,
// SSRC, rollover counter and sequence number, which is what the 48-bit index is made of,
// with the salt. SRTCP's index of 31 bits stands at the same place (RFC 7714 9.1).
func (k *SessionKeys) PutNonce(iv *[aes.BlockSize]byte, ssrc uint32, index uint64) {
	*iv = [aes.BlockSize]byte{}
	binary.BigEndian.PutUint32(iv[2:], ssrc)
	binary.BigEndian.PutUint16(iv[6:], uint16(index>>32))
	binary.BigEndian.PutUint32(iv[8:], uint32(index))
	for i, b := range k.Salt {
		iv[i] ^= b
	}
}

// PutCounter puts the first counter of AES-CM into iv (RFC 3711 4.1.1): salt, SSRC and
// index as a block counter.
func (k *SessionKeys) PutCounter(iv *[aes.BlockSize]byte, ssrc uint32, index uint64) {
	*iv = [aes.BlockSize]byte{}
	binary.BigEndian.PutUint32(iv[4:], ssrc)
	binary.BigEndian.PutUint16(iv[8:], uint16(index>>32))
	binary.BigEndian.PutUint32(iv[10:], uint32(index))
	for i, b := range k.Salt {
		iv[i] ^= b
	}
}
