package srtpin

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/pion/rtcp"
	"github.com/pion/srtp/v3"
	"github.com/stretchr/testify/require"

	"parlor/media/srtpout"
)

// rtcpSideOf is a client that encrypts RTCP, pion as its receiver, and an RTCP.
func rtcpSideOf(t testing.TB, profile srtp.ProtectionProfile, key, salt int, rnd *rand.Rand, o ...srtp.ContextOption) (out, in *srtp.Context, f *RTCP) {
	k, s := randomBytes(rnd, key), randomBytes(rnd, salt)
	out, err := srtp.CreateContext(k, s, profile, o...)
	require.NoError(t, err)
	in, err = srtp.CreateContext(k, s, profile, srtp.SRTCPReplayProtection(replayWindow))
	require.NoError(t, err)
	f, err = NewRTCP(profile, k, s, new(atomic.Uint64))
	require.NoError(t, err)
	return out, in, f
}

// randomReport is an RTCP packet of any length.
func randomReport(t testing.TB, rnd *rand.Rand, sender uint32) []byte {
	if rnd.IntN(3) == 0 {
		return report(sender, uint16(rnd.Uint32()))
	}
	p := rtcp.ApplicationDefined{SSRC: sender, Name: "test", Data: randomBytes(rnd, 4*rnd.IntN(300))}
	return marshal(t, &p)
}

// Packets of several senders come in any order, twice, late, and broken: what is taken of
// them, and what is in it, is what pion's own receiver makes of them.
func TestRTCPIsOpenedAsPionDoes(t *testing.T) {
	for _, p := range profiles {
		t.Run(p.profile.String(), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(5, uint64(p.profile)))
			out, in, f := rtcpSideOf(t, p.profile, p.key, p.salt, rnd)
			var kept [][]byte
			taken, refused := 0, 0
			for range 1500 {
				sender := uint32(7 + rnd.IntN(3))
				for range 1 + rnd.IntN(100)*max(0, rnd.IntN(8)-6) { // those before the last are lost
					sealed, err := out.EncryptRTCP(nil, randomReport(t, rnd, sender), nil)
					require.NoError(t, err)
					kept = append(kept, sealed)
				}
				for range 1 + rnd.IntN(3) {
					one := bytes.Clone(kept[max(0, len(kept)-1-rnd.IntN(2)*rnd.IntN(600))])
					switch rnd.IntN(10) {
					case 0:
						one[rnd.IntN(len(one))] ^= byte(1 + rnd.IntN(255))
					case 1:
						one = one[:rnd.IntN(len(one))]
					case 2:
						one = append(one, randomBytes(rnd, 1+rnd.IntN(20))...)
					}
					want, wantErr := in.DecryptRTCP(nil, bytes.Clone(one), nil)
					got, err := openEither(f, one, rnd.IntN(2) == 0)
					require.Equal(t, wantErr == nil, err == nil, "pion: %v, %v", wantErr, err)
					if err != nil {
						refused++
						continue
					}
					taken++
					require.Equal(t, want, got)
				}
			}
			require.Greater(t, taken, 700)
			require.Greater(t, refused, 300)
			require.Len(t, f.senders, 3)
		})
	}
}

// openEither opens a packet in place, or into memory of its own.
func openEither(f *RTCP, packet []byte, inPlace bool) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case len(packet) < least:
		return nil, errMalformed
	case inPlace:
		return f.openLocked(packet[:0], packet)
	}
	before := bytes.Clone(packet)
	plain, err := f.openLocked([]byte("before"), packet)
	if !bytes.Equal(before, packet) {
		panic("the packet was written to")
	}
	return bytes.TrimPrefix(plain, []byte("before")), err
}

// The indices of a sender end with their greatest: what was sent with the first ones does
// not become new again.
func TestIndicesOfRTCPDoNotBeginAnew(t *testing.T) {
	for _, p := range profiles {
		t.Run(p.profile.String(), func(t *testing.T) {
			out, _, f := rtcpSideOf(t, p.profile, p.key, p.salt, rand.New(rand.NewPCG(6, 6)))
			seal := func() []byte {
				sealed, err := out.EncryptRTCP(nil, report(7, 1), nil)
				require.NoError(t, err)
				return sealed
			}
			opens := func(sealed []byte) bool {
				_, err := f.Open(nil, sealed)
				return err == nil
			}
			first, second := seal(), seal()
			require.True(t, opens(first))
			out.SetIndex(7, 1<<30)
			require.True(t, opens(seal()))
			out.SetIndex(7, 1<<31-4)
			late := seal()
			next := seal()
			last := seal()
			require.True(t, opens(last), "the greatest index")
			require.True(t, opens(next) && opens(late), "they are late")
			for _, again := range [][]byte{first, second, late, next, last} {
				require.False(t, opens(again))
			}
		})
	}
}

// A packet may come late by as much as the window, and no more.
func TestTheWindowOfRTCP(t *testing.T) {
	out, _, f := rtcpSideOf(t, profiles[0].profile, 16, 12, rand.New(rand.NewPCG(7, 7)))
	var sealed [][]byte
	for range 3 * replayWindow {
		one, err := out.EncryptRTCP(nil, report(7, 1), nil)
		require.NoError(t, err)
		sealed = append(sealed, one)
	}
	for _, newest := range []int{replayWindow, replayWindow + 63, replayWindow + 64, replayWindow + 65, 3*replayWindow - 1} {
		_, err := f.Open(nil, sealed[newest])
		require.NoError(t, err)
		_, err = f.Open(nil, sealed[newest-replayWindow])
		require.ErrorIs(t, err, errReplayed)
		late := newest - replayWindow + 1
		_, err = f.Open(nil, sealed[late])
		require.NoError(t, err)
		_, err = f.Open(nil, sealed[late])
		require.ErrorIs(t, err, errReplayed)
	}
}

// RTCP that is authentic but not encrypted is refused: it is never negotiated.
func TestPlainRTCPIsRefused(t *testing.T) {
	for _, p := range profiles {
		t.Run(p.profile.String(), func(t *testing.T) {
			out, in, f := rtcpSideOf(t, p.profile, p.key, p.salt, rand.New(rand.NewPCG(8, 8)), srtp.SRTCPNoEncryption())
			sealed, err := out.EncryptRTCP(nil, report(7, 1), nil)
			require.NoError(t, err)
			_, err = in.DecryptRTCP(nil, bytes.Clone(sealed), nil)
			require.NoError(t, err, "it is authentic")
			require.False(t, taken(f, bytes.Clone(sealed), fails(t), fails(t)))
			_, err = f.Open(nil, sealed)
			require.ErrorIs(t, err, errMalformed)
		})
	}
}

// The test vectors of RFC 7714 17.1 and 17.3: a session key as it is, without its
// derivation.
func TestRTCPOpensTheVectorsOfRFC7714(t *testing.T) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		require.NoError(t, err)
		return b
	}
	const (
		header = "81c8000d4d617273"
		plain  = "4e545031" + "4e545032" + "52545020" + "0000042a" + "0000e930" + "4c756e61" + "deadbeefdeadbeefdeadbeefdeadbeefdeadbeef"
		index  = "800005d4"
	)
	for _, v := range []struct{ name, key, sealed string }{
		{"AES-128", "000102030405060708090a0b0c0d0e0f", "63e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda4ce09b4686303ded0bb9275bc84aa45896cf4d2fc5abf87245d9eade"},
		{"AES-256", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be8415f658c61de0476f1b6fad1d1eb30c4446839f57ff6f6cb26ac3be"},
	} {
		t.Run(v.name, func(t *testing.T) {
			block, err := aes.NewCipher(unhex(v.key))
			require.NoError(t, err)
			aead, err := cipher.NewGCM(block)
			require.NoError(t, err)
			f := &RTCP{opener: newRTCPOpener(&srtpout.SessionKeys{Block: block, AEAD: aead, Salt: unhex("517569642070726f2071756f")})}
			got, err := f.Open(nil, unhex(header+v.sealed+index))
			require.NoError(t, err)
			require.Equal(t, header+plain, hex.EncodeToString(got))
		})
	}
}

// Whatever comes is opened or refused, as pion does; what is not encrypted is refused.
func FuzzOpenRTCP(f *testing.F) {
	rnd := rand.New(rand.NewPCG(9, 9))
	type side struct {
		profile   srtp.ProtectionProfile
		key, salt []byte
	}
	var sides []side
	for i, p := range profiles {
		s := side{p.profile, randomBytes(rnd, p.key), randomBytes(rnd, p.salt)}
		sides = append(sides, s)
		for _, o := range [][]srtp.ContextOption{nil, {srtp.SRTCPNoEncryption()}} {
			out, err := srtp.CreateContext(s.key, s.salt, s.profile, o...)
			require.NoError(f, err)
			sealed, err := out.EncryptRTCP(nil, report(7, 1), nil)
			require.NoError(f, err)
			f.Add(uint8(i), sealed)
			f.Add(uint8(i), sealed[:least+sha1Tag+indexSize])
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, packet []byte) {
		s := sides[int(which)%len(sides)]
		in, err := srtp.CreateContext(s.key, s.salt, s.profile)
		require.NoError(t, err)
		want, wantErr := in.DecryptRTCP(nil, bytes.Clone(packet), nil)
		o, err := NewRTCP(s.profile, s.key, s.salt, new(atomic.Uint64))
		require.NoError(t, err)
		got, err := o.Open(nil, packet)
		if err == nil {
			require.NoError(t, wantErr)
			require.Equal(t, want, got)
		} else if wantErr == nil {
			end := len(packet)
			if o.opener.keys.AEAD == nil {
				end -= sha1Tag
			}
			require.Zero(t, binary.BigEndian.Uint32(packet[end-indexSize:])>>31, "it is encrypted")
		}
		var plain []byte
		taken := taken(o, bytes.Clone(packet), func(b []byte) { plain = append(plain, b...) }, func(b []byte) { plain = append(plain, b...) })
		require.False(t, taken && err == nil, "it is taken twice")
	})
}

func BenchmarkTake(b *testing.B) {
	for _, p := range profiles {
		b.Run(p.profile.String(), func(b *testing.B) {
			c, f := newPair(b, p.profile)
			const count = 1000
			var sealed [][]byte
			for i := range uint16(count) {
				sealed = append(sealed, c.encrypt(report(7, i)))
			}
			packet := make([]byte, 0, maxFeedback)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%count == 0 {
					f.senders = f.senders[:0] // they are new again
				}
				f.budget = maxBurst
				packet = append(packet[:0], sealed[i%count]...)
				if !taken(f, packet, func([]byte) {}, nil) {
					b.Fatal("refused")
				}
			}
		})
	}
}
