package srtpin

import (
	"bytes"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/srtp/v3"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink/feedback"
)

// client encrypts RTCP as a client does, with pion.
type client struct {
	t       testing.TB
	context *srtp.Context
}

func newPair(t testing.TB, profile srtp.ProtectionProfile) (*client, *RTCP) {
	t.Helper()
	keyLen, err := profile.KeyLen()
	require.NoError(t, err)
	saltLen, err := profile.SaltLen()
	require.NoError(t, err)
	key, salt := make([]byte, keyLen), make([]byte, saltLen)
	key[0], salt[0] = 1, 2
	c, err := srtp.CreateContext(key, salt, profile)
	require.NoError(t, err)
	f, err := NewRTCP(profile, key, salt, new(atomic.Uint64))
	require.NoError(t, err)
	return &client{t, c}, f
}

func (c *client) encrypt(plain []byte) []byte {
	c.t.Helper()
	out, err := c.context.EncryptRTCP(nil, plain, nil)
	require.NoError(c.t, err)
	return out
}

func report(sender uint32, base uint16) []byte {
	r := feedback.Report{Base: base, Arrivals: []int32{0, 4, feedback.NotReceived, 9}}
	return r.Append(nil, sender, 0)
}

func marshal(t testing.TB, p rtcp.Packet) []byte {
	t.Helper()
	b, err := p.Marshal()
	require.NoError(t, err)
	return b
}

func TestFeedbackIsOpened(t *testing.T) {
	for _, profile := range []srtp.ProtectionProfile{
		srtp.ProtectionProfileAeadAes128Gcm, srtp.ProtectionProfileAeadAes256Gcm, srtp.ProtectionProfileAes128CmHmacSha1_80,
	} {
		t.Run(profile.String(), func(t *testing.T) {
			c, f := newPair(t, profile)
			var got [][]byte
			take := func(b []byte) { got = append(got, append([]byte(nil), b...)) }

			one := c.encrypt(report(7, 1))
			require.True(t, taken(f, bytes.Clone(one), take, fails(t)))
			require.Equal(t, [][]byte{report(7, 1)}, got)
			require.False(t, taken(f, one, take, fails(t)), "the same packet again is a replay")

			got = nil
			require.True(t, taken(f, c.encrypt(append(report(7, 5), report(7, 9)...)), take, fails(t)), "two reports in one packet")
			require.Equal(t, [][]byte{report(7, 5), report(7, 9)}, got)
		})
	}
}

func TestAllElseIsNoFeedback(t *testing.T) {
	c, f := newPair(t, srtp.ProtectionProfileAeadAes128Gcm)
	nack := marshal(t, &rtcp.TransportLayerNack{SenderSSRC: 7, MediaSSRC: 1, Nacks: []rtcp.NackPair{{PacketID: 3}}})
	receiver := marshal(t, &rtcp.ReceiverReport{SSRC: 7})
	forged := c.encrypt(report(7, 1))
	forged[len(forged)-6] ^= 1
	for name, packet := range map[string][]byte{
		"an RTP packet":                     append([]byte{0x80, 111}, make([]byte, 40)...),
		"a request to send again":           c.encrypt(nack),
		"a receiver report":                 c.encrypt(receiver),
		"feedback behind a receiver report": c.encrypt(append(receiver, report(7, 1)...)),
		"feedback that was changed":         forged,
		"a header alone":                    report(7, 1)[:8],
		"nothing":                           nil,
	} {
		t.Run(name, func(t *testing.T) {
			require.False(t, taken(f, packet, fails(t), fails(t)))
		})
	}
	shorter := report(7, 1)
	shorter[3]++ // it says that it is longer than it is
	for _, others := range [][]byte{shorter, append(report(7, 1), nack...)} {
		var got []byte
		require.True(t, taken(f, c.encrypt(others), fails(t), func(b []byte) { got = append(got, b...) }))
		require.Equal(t, others, got, "what is not feedback alone is for others")
	}
}

func fails(t *testing.T) func([]byte) { return func([]byte) { require.Fail(t, "taken") } }

// All SRTCP can be opened, once, by whatever profile.
func TestRTCPIsOpened(t *testing.T) {
	for _, profile := range []srtp.ProtectionProfile{
		srtp.ProtectionProfileAeadAes128Gcm, srtp.ProtectionProfileAeadAes256Gcm, srtp.ProtectionProfileAes128CmHmacSha1_80,
	} {
		t.Run(profile.String(), func(t *testing.T) {
			c, f := newPair(t, profile)
			receiver := marshal(t, &rtcp.ReceiverReport{SSRC: 7})
			for range 10 {
				sealed := c.encrypt(receiver)
				require.True(t, IsRTCP(sealed) && !IsRTP(sealed) && f.Knows(sealed))
				got, err := f.Open(make([]byte, 0, 100), sealed)
				require.NoError(t, err)
				require.Equal(t, receiver, got)
				_, err = f.Open(nil, sealed)
				require.Error(t, err, "a replay")
			}
			for n := range receiver {
				_, err := f.Open(nil, receiver[:n])
				require.Error(t, err)
			}
		})
	}
}

// What is remembered of a client's senders is bounded.
func TestSendersAreBounded(t *testing.T) {
	c, f := newPair(t, srtp.ProtectionProfileAeadAes128Gcm)
	n := 0
	for sender := range uint32(1000) {
		f.budget = maxBurst
		if taken(f, c.encrypt(report(sender, 1)), func([]byte) {}, fails(t)) {
			n++
		}
	}
	require.Equal(t, maxSenders, n)
	require.True(t, taken(f, c.encrypt(report(1, 2)), func([]byte) {}, fails(t)), "a sender that is known goes on")
}

// No report that comes costs memory, by whatever profile and on whichever way it is opened.
func TestOpeningRTCPAllocatesNothing(t *testing.T) {
	for _, p := range profiles {
		t.Run(p.profile.String(), func(t *testing.T) {
			c, f := newPair(t, p.profile)
			packets := make([][]byte, 0, 800)
			for i := range uint16(800) {
				packets = append(packets, c.encrypt(report(7, i)))
			}
			next, got := 0, 0
			take := func([]byte) { got++ }
			require.Zero(t, testing.AllocsPerRun(300, func() {
				f.budget = maxBurst
				if taken(f, packets[next], take, nil) {
					next++
				}
			}))
			require.Equal(t, 301, got)
			into := make([]byte, 0, maxFeedback)
			require.Zero(t, testing.AllocsPerRun(300, func() {
				if _, err := f.Open(into, packets[next]); err == nil {
					next++
				}
			}))
			require.Equal(t, 602, next)
		})
	}
}

// A client that floods is bounded, and counted. Its reports are taken again as soon as it
// sends no more than clients do; many in one packet count as many.
func TestFloodsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := newPair(t, srtp.ProtectionProfileAeadAes128Gcm)
		took := 0
		send := func(reports int) {
			var plain []byte
			for i := range reports {
				plain = append(plain, report(7, uint16(i))...)
			}
			require.True(t, taken(f, c.encrypt(plain), func([]byte) { took++ }, fails(t)))
		}
		for range 10 * maxBurst {
			send(1)
		}
		require.Equal(t, maxBurst, took)
		require.EqualValues(t, 9*maxBurst, f.excess.Load())

		took = 0
		time.Sleep(time.Second)
		for range 10 * maxBurst {
			send(1)
		}
		require.EqualValues(t, time.Second/reportInterval, took, "of a second")

		time.Sleep(time.Hour)
		excess := f.excess.Load()
		took = 0
		for range 200 {
			send(1)
			time.Sleep(20 * time.Millisecond)
		}
		require.Equal(t, 200, took)
		require.Equal(t, excess, f.excess.Load(), "it is no flood")

		took = 0
		for range 10 * maxBurst {
			send(10)
		}
		require.LessOrEqual(t, took, maxBurst+10)
	})
}

// taken reports whether Take took an authentic packet.
func taken(f *RTCP, packet []byte, take, others func([]byte)) bool {
	feedback, err := f.Take(packet, take, others)
	return feedback && err == nil
}

// Everybody can send in a client's name. What is not authentic costs the client nothing of
// its budget, however much comes.
func TestForgeriesSpendNoBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := newPair(t, srtp.ProtectionProfileAeadAes128Gcm)
		first := c.encrypt(report(7, 0))
		require.True(t, taken(f, bytes.Clone(first), func([]byte) {}, fails(t)))
		for i := range 10 * maxBurst {
			forged := c.encrypt(report(7, uint16(i)))
			forged[12] ^= 1
			feedback, err := f.Take(forged, fails(t), fails(t))
			require.True(t, feedback)
			require.ErrorIs(t, err, errForged)
			_, err = f.Take(bytes.Clone(first), fails(t), fails(t))
			require.ErrorIs(t, err, errReplayed)
		}
		n := 0
		for i := range maxBurst - 1 {
			require.True(t, taken(f, c.encrypt(report(7, uint16(i))), func([]byte) { n++ }, fails(t)))
		}
		require.Equal(t, maxBurst-1, n)
		require.Zero(t, f.excess.Load())
		require.True(t, taken(f, c.encrypt(report(7, 0)), fails(t), fails(t)), "it is dropped")
		require.EqualValues(t, 1, f.excess.Load())
	})
}
