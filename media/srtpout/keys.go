package srtpout

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"sync"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/prf"
	"github.com/pion/dtls/v3/pkg/protocol/extension"
	"github.com/pion/dtls/v3/pkg/protocol/handshake"
	"github.com/pion/srtp/v3"
	"github.com/pion/webrtc/v4"
)

// ErrNoKeys is returned before a handshake is over. It is permanent if we were the DTLS
// client, or if the handshake chose a profile or suite that this package lacks.
var ErrNoKeys = errors.New("no SRTP keys from this DTLS handshake")

// Keys are the SRTP master keys of one side of a transport.
type Keys struct {
	Profile   srtp.ProtectionProfile
	Key, Salt []byte // the master key and salt of that side
}

// Capture learns a transport's keys from its handshake. Its methods may be called
// concurrently.
type Capture struct {
	// mu guards the following.
	mu           sync.Mutex
	serverRandom [handshake.RandomLength]byte
	newHash      func() hash.Hash // of the cipher suite's key derivation
	profile      srtp.ProtectionProfile
	hello        bool // the three above are known
	clientRandom []byte
	masterSecret []byte
}

// Install connects the capture to the handshake of a transport with these settings. The
// settings must be for one peer connection alone.
func (c *Capture) Install(s *webrtc.SettingEngine) {
	s.SetDTLSServerHelloMessageHook(func(m handshake.MessageServerHello) handshake.Message {
		c.serverHello(m)
		return &m
	})
	s.SetDTLSKeyLogWriter(keyLog{c})
}

// serverHello notes the choices of our ServerHello. It is called again when the message
// is retransmitted.
func (c *Capture) serverHello(m handshake.MessageServerHello) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hello = false
	if m.CipherSuiteID == nil {
		return
	}
	c.newHash = derivationHash(dtls.CipherSuiteID(*m.CipherSuiteID))
	c.serverRandom = m.Random.MarshalFixed()
	for _, e := range m.Extensions {
		if u, ok := e.(*extension.UseSRTP); ok && len(u.ProtectionProfiles) == 1 && len(u.MasterKeyIdentifier) == 0 {
			c.profile, c.hello = srtp.ProtectionProfile(u.ProtectionProfiles[0]), c.newHash != nil
		}
	}
}

// derivationHash is the hash of a cipher suite's pseudo-random function (RFC 5246,
// section 5); nil for unknown suites.
func derivationHash(id dtls.CipherSuiteID) func() hash.Hash {
	switch id {
	case dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, dtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		dtls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, dtls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		dtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM, dtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8,
		dtls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, dtls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA:
		return sha256.New
	case dtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, dtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:
		return sha512.New384
	}
	return nil
}

// keyLog parses lines "CLIENT_RANDOM random secret" in hexadecimal, the format of the NSS
// key log.
type keyLog struct{ c *Capture }

func (k keyLog) Write(line []byte) (int, error) {
	f := bytes.Fields(line)
	if len(f) != 3 || string(f[0]) != "CLIENT_RANDOM" {
		return len(line), nil
	}
	random, err1 := hex.AppendDecode(nil, f[1])
	secret, err2 := hex.AppendDecode(nil, f[2])
	if err := errors.Join(err1, err2); err != nil {
		return 0, fmt.Errorf("read a key log line: %w", err)
	}
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	k.c.clientRandom, k.c.masterSecret = random, secret
	return len(line), nil
}

// Keys are the keys of our side after the handshake; before it, ErrNoKeys. They must not
// be used before the transport is connected: only then has the client's identity been
// verified.
func (c *Capture) Keys() (Keys, error) {
	s, err := c.session()
	return Keys{Profile: s.Profile, Key: s.Keys.LocalMasterKey, Salt: s.Keys.LocalMasterSalt}, err
}

// ClientKeys are the keys of the client's side, under the same conditions as Keys.
func (c *Capture) ClientKeys() (Keys, error) {
	s, err := c.session()
	return Keys{Profile: s.Profile, Key: s.Keys.RemoteMasterKey, Salt: s.Keys.RemoteMasterSalt}, err
}

// session derives the keys of both sides.
func (c *Capture) session() (srtp.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.hello || len(c.clientRandom) != handshake.RandomLength || len(c.masterSecret) == 0 {
		return srtp.Config{}, ErrNoKeys
	}
	if !supported(c.profile) {
		return srtp.Config{}, fmt.Errorf("%w: profile %v", ErrNoKeys, c.profile)
	}
	config := srtp.Config{Profile: c.profile}
	if err := config.ExtractSessionKeysFromDTLS(exporter{c}, false); err != nil {
		return srtp.Config{}, fmt.Errorf("derive SRTP keys: %w", err)
	}
	return config, nil
}

// exporter exports keying material (RFC 5705). The capture's mu must be held.
type exporter struct{ c *Capture }

func (e exporter) ExportKeyingMaterial(label string, _ []byte, length int) ([]byte, error) {
	seed := append([]byte(label), e.c.clientRandom...)
	seed = append(seed, e.c.serverRandom[:]...)
	return prf.PHash(e.c.masterSecret, seed, length, e.c.newHash)
}
