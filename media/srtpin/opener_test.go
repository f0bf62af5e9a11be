package srtpin

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"math/rand/v2"
	"testing"

	"github.com/pion/rtp"
	"github.com/pion/srtp/v3"
	"github.com/stretchr/testify/require"

	"parlor/media/srtpout"
)

var profiles = []struct {
	profile   srtp.ProtectionProfile
	key, salt int
}{
	{srtp.ProtectionProfileAeadAes128Gcm, 16, 12},
	{srtp.ProtectionProfileAeadAes256Gcm, 32, 12},
	{srtp.ProtectionProfileAes128CmHmacSha1_80, 16, 14},
}

// sideOf is a client that encrypts, pion as its receiver, and an Opener.
func sideOf(t testing.TB, profile srtp.ProtectionProfile, key, salt int, rnd *rand.Rand) (out, in *srtp.Context, o *Opener) {
	k := srtpout.Keys{Profile: profile, Key: randomBytes(rnd, key), Salt: randomBytes(rnd, salt)}
	out, err := srtp.CreateContext(k.Key, k.Salt, profile)
	require.NoError(t, err)
	in, err = srtp.CreateContext(k.Key, k.Salt, profile, srtp.SRTPReplayProtection(ReplayWindow))
	require.NoError(t, err)
	o, err = NewOpener(k)
	require.NoError(t, err)
	return out, in, o
}

func randomBytes(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// randomPacket is an RTP packet with all that a header can have.
func randomPacket(t testing.TB, rnd *rand.Rand, ssrc uint32, seq uint16) []byte {
	p := rtp.Packet{Header: rtp.Header{
		Version: 2, Marker: rnd.IntN(2) == 0, PayloadType: uint8(rnd.IntN(64)), SequenceNumber: seq, Timestamp: rnd.Uint32(), SSRC: ssrc,
	}, Payload: randomBytes(rnd, rnd.IntN(1300))}
	for range rnd.IntN(4) {
		p.CSRC = append(p.CSRC, rnd.Uint32())
	}
	for id := range rnd.IntN(5) {
		require.NoError(t, p.SetExtension(uint8(id+1), randomBytes(rnd, 1+rnd.IntN(16))))
	}
	raw, err := p.Marshal()
	require.NoError(t, err)
	return raw
}

// take opens a packet as the receive path does.
func take(o *Opener, w *Window, sealed []byte) ([]byte, bool) {
	i := w.Index(Number(sealed))
	if !w.Fresh(i) {
		return nil, false
	}
	plain, err := o.Open(sealed, i)
	return plain, err == nil && w.Take(i)
}

// Packets of one stream come in any order, twice, late, over rollovers, and broken: what
// is taken of them, and what is in it, is what pion's own receiver makes of them.
func TestOpensAsPionDoes(t *testing.T) {
	for _, p := range profiles {
		t.Run(p.profile.String(), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(1, uint64(p.profile)))
			out, in, o := sideOf(t, p.profile, p.key, p.salt, rnd)
			var w Window
			var kept [][]byte
			seq, taken := uint16(65000), 0
			for range 6000 {
				switch step := rnd.IntN(100); {
				case step < 90:
					seq++
				case step < 95:
					seq += uint16(rnd.IntN(700)) // a gap
				default:
					seq += uint16(rnd.IntN(20_000))
				}
				plain := randomPacket(t, rnd, 7, seq)
				sealed, err := out.EncryptRTP(nil, plain, nil)
				require.NoError(t, err)
				kept = append(kept, sealed)
				for range 1 + rnd.IntN(3) {
					one := bytes.Clone(kept[max(0, len(kept)-1-rnd.IntN(2)*rnd.IntN(900))])
					switch rnd.IntN(10) {
					case 0:
						one[rnd.IntN(len(one))] ^= byte(1 + rnd.IntN(255))
					case 1:
						one = one[:rnd.IntN(len(one))]
					}
					if !IsRTP(one) {
						continue // it goes to pion
					}
					if SSRC(one) != 7 {
						_, err := o.Open(one, 0)
						require.Error(t, err, "another SSRC is not authentic")
						continue
					}
					want, err := in.DecryptRTP(nil, bytes.Clone(one), nil)
					got, ok := take(o, &w, one)
					require.Equal(t, err == nil, ok, "pion: %v", err)
					if ok {
						taken++
						require.Equal(t, want, got)
					}
				}
			}
			require.Greater(t, taken, 3000)
			require.Greater(t, w.newest>>16, uint64(2), "the counter has rolled over")
		})
	}
}

// The test vectors of RFC 7714 16.1.1 and 16.2.1: a session key as it is, without its
// derivation.
func TestOpensTheVectorsOfRFC7714(t *testing.T) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		require.NoError(t, err)
		return b
	}
	const (
		header = "8040f17b8041f8d35501a0b2"
		plain  = "47616c6c696120657374206f6d6e69732064697669736120696e207061727465732074726573"
	)
	for _, v := range []struct{ name, key, sealed string }{
		{"AES-128", "000102030405060708090a0b0c0d0e0f", "f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833899d7f27beb16a9152cf765ee4390cce"},
		{"AES-256", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "32b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b7aa3db36dfffd6b0f9bb7878d7a76c13"},
	} {
		t.Run(v.name, func(t *testing.T) {
			block, err := aes.NewCipher(unhex(v.key))
			require.NoError(t, err)
			aead, err := cipher.NewGCM(block)
			require.NoError(t, err)
			o := &Opener{keys: &srtpout.SessionKeys{Block: block, AEAD: aead, Salt: unhex("517569642070726f2071756f")}}
			got, err := o.Open(unhex(header+v.sealed), 0xf17b)
			require.NoError(t, err)
			require.Equal(t, header+plain, hex.EncodeToString(got))
		})
	}
}

// Whatever comes is opened or refused.
func FuzzOpen(f *testing.F) {
	rnd := rand.New(rand.NewPCG(3, 3))
	out, _, _ := sideOf(f, profiles[0].profile, 16, 12, rnd)
	sealed, err := out.EncryptRTP(nil, randomPacket(f, rnd, 7, 1), nil)
	require.NoError(f, err)
	f.Add(sealed)
	f.Add([]byte{0x9f, 0x60, 0, 1})
	f.Add(append([]byte{0x90, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0xbe, 0xde, 0xff, 0xff}, make([]byte, 40)...))
	var openers []*Opener
	for _, p := range profiles {
		_, _, o := sideOf(f, p.profile, p.key, p.salt, rnd)
		openers = append(openers, o)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		if IsRTP(packet) && IsRTCP(packet) {
			t.Fatal("it is both")
		}
		if !IsRTP(packet) {
			return
		}
		for _, o := range openers {
			var w Window
			if _, ok := take(o, &w, bytes.Clone(packet)); ok {
				t.Fatal("a forged packet is taken")
			}
		}
	})
}

// A packet is opened without allocating.
func TestOpenAllocatesNothing(t *testing.T) {
	rnd := rand.New(rand.NewPCG(4, 4))
	out, _, o := sideOf(t, profiles[0].profile, 16, 12, rnd)
	var sealed [][]byte
	for seq := range uint16(1100) {
		s, err := out.EncryptRTP(nil, randomPacket(t, rnd, 7, seq), nil)
		require.NoError(t, err)
		sealed = append(sealed, s)
	}
	var w Window
	next := 0
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if _, ok := take(o, &w, sealed[next]); !ok {
			t.Error("it is refused")
		}
		next++
	}))
}
