package srtpout

import (
	"bytes"
	"crypto/rand"
	"net/netip"
	"runtime"
	"sync"
	"testing"

	"github.com/pion/rtp"
	"github.com/pion/srtp/v3"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

var profiles = []srtp.ProtectionProfile{
	srtp.ProtectionProfileAeadAes128Gcm,
	srtp.ProtectionProfileAeadAes256Gcm,
	srtp.ProtectionProfileAes128CmHmacSha1_80,
}

// wire keeps what is sent.
type wire struct {
	mu      sync.Mutex
	packets [][]byte
	to      []netip.AddrPort
}

func (w *wire) WriteToAddrPort(p []byte, dst netip.AddrPort) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.packets = append(w.packets, bytes.Clone(p))
	w.to = append(w.to, dst)
	return len(p), nil
}

func randomKeys(t testing.TB, p srtp.ProtectionProfile) Keys {
	t.Helper()
	keyLen, err := p.KeyLen()
	require.NoError(t, err)
	saltLen, err := p.SaltLen()
	require.NoError(t, err)
	k := Keys{Profile: p, Key: make([]byte, keyLen), Salt: make([]byte, saltLen)}
	_, _ = rand.Read(k.Key)
	_, _ = rand.Read(k.Salt)
	return k
}

var somewhere = netip.MustParseAddrPort("192.0.2.7:1234")

func newSender(t testing.TB, w Socket, k Keys) *Sender {
	t.Helper()
	s, err := NewSender(&Buffers{}, k)
	require.NoError(t, err)
	s.SetPath(w, somewhere)
	return s
}

func header(ssrc uint32, seq uint16) *rtp.Header {
	h := &rtp.Header{Version: 2, PayloadType: 96, SequenceNumber: seq, Timestamp: uint32(seq) * 3000, SSRC: ssrc, Marker: seq%7 == 0}
	_ = h.SetExtension(3, []byte{byte(seq), 1, 2})
	return h
}

// TestPionDecrypts has pion's SRTP take apart what a Sender sends, over two
// wraps of the sequence number, with two streams and packets out of order.
func TestPionDecrypts(t *testing.T) {
	t.Parallel()
	for _, p := range profiles {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			var w wire
			k := randomKeys(t, p)
			s := newSender(t, &w, k)
			peer, err := srtp.CreateContext(k.Key, k.Salt, p, srtp.SRTPReplayProtection(1024))
			require.NoError(t, err)
			seq := uint16(65000)
			for i := range 2600 {
				seq += 53 // wraps twice
				order := []uint16{seq, seq + 2, seq + 1}
				for _, n := range order {
					for _, ssrc := range []uint32{1, 0xfffffffe} {
						payload := bytes.Repeat([]byte{byte(n), byte(i)}, 1+i%600)
						require.NoError(t, s.Stream(ssrc).Write(header(ssrc, n), payload))
						got, err := peer.DecryptRTP(nil, w.packets[0], nil)
						require.NoError(t, err)
						var pkt rtp.Packet
						require.NoError(t, pkt.Unmarshal(got))
						require.Equal(t, payload, pkt.Payload)
						require.Equal(t, n, pkt.SequenceNumber)
						require.Equal(t, ssrc, pkt.SSRC)
						require.Equal(t, []byte{byte(n), 1, 2}, pkt.GetExtension(3))
						w.packets = w.packets[:0]
					}
				}
			}
			require.Equal(t, somewhere, w.to[0])
		})
	}
}

func TestPadding(t *testing.T) {
	t.Parallel()
	for _, p := range profiles {
		var w wire
		k := randomKeys(t, p)
		s := newSender(t, &w, k)
		peer, err := srtp.CreateContext(k.Key, k.Salt, p)
		require.NoError(t, err)
		for i, payload := range [][]byte{{1, 2, 3}, nil} {
			h := header(5, uint16(i))
			h.Padding, h.PaddingSize = true, 100
			require.NoError(t, s.Stream(5).Write(h, payload))
			got, err := peer.DecryptRTP(nil, w.packets[i], nil)
			require.NoError(t, err)
			var pkt rtp.Packet
			require.NoError(t, pkt.Unmarshal(got))
			require.EqualValues(t, 100, pkt.PaddingSize)
			require.Equal(t, len(payload), len(pkt.Payload))
		}
	}
}

func TestNoIndexTwice(t *testing.T) {
	t.Parallel()
	var w wire
	s := newSender(t, &w, randomKeys(t, profiles[0]))
	require.NoError(t, s.Stream(1).Write(header(1, 10), []byte{1}))
	require.ErrorIs(t, s.Stream(1).Write(header(1, 10), []byte{1}), errUsed)
	require.NoError(t, s.Stream(1).Write(header(1, 10+window), []byte{1}))
	require.ErrorIs(t, s.Stream(1).Write(header(1, 10), []byte{1}), errStale)
	require.ErrorIs(t, s.Stream(1).Write(header(1, 60000), []byte{1}), errStale, "before the first")
	require.Len(t, w.packets, 2)
	require.Error(t, s.Stream(2).Write(header(1, 1), nil), "another's SSRC")
}

// TestRepeats sends a packet again where retransmissions have no SSRC of their own:
// byte by byte the same ciphertext, and nothing else under its index.
func TestRepeats(t *testing.T) {
	t.Parallel()
	var w wire
	s := newSender(t, &w, randomKeys(t, profiles[0]))
	st := s.Stream(1)
	st.AllowRepeats(64)
	for n := range uint16(100) {
		require.NoError(t, st.Write(header(1, n), []byte{byte(n)}))
	}
	require.NoError(t, st.Write(header(1, 50), []byte{50}))
	require.Equal(t, w.packets[50], w.packets[100])
	require.ErrorIs(t, st.Write(header(1, 50), []byte{51}), errUsed)
	changed := header(1, 50)
	changed.Extensions = nil
	require.NoError(t, changed.SetExtension(3, []byte{9, 9, 9}))
	require.ErrorIs(t, st.Write(changed, []byte{50}), errUsed)
	require.ErrorIs(t, st.Write(header(1, 20), []byte{20}), errUsed, "too old to know whether it is the same")
	require.Len(t, w.packets, 101)
}

// A transport lives for days, and its subscriptions come and go, each with SSRCs of its
// own.
func TestEndedStreamsCostNothing(t *testing.T) {
	const streams = 5000
	s := newSender(t, nowhere{}, randomKeys(t, profiles[0]))
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for ssrc := range uint32(streams) {
		st := s.Stream(ssrc)
		st.AllowRepeats(512)
		for n := range uint16(3) {
			require.NoError(t, st.Write(header(ssrc, n), []byte{1}))
		}
		require.EqualValues(t, ssrc+1, s.Retire(ssrc))
	}
	require.Less(t, (float64(heap())-float64(before))/streams, 100.0, "bytes for each")
	runtime.KeepAlive(s)
}

func TestRetiredSSRCGoesOnWhereItEnded(t *testing.T) {
	t.Parallel()
	var w wire
	k := randomKeys(t, profiles[0])
	s := newSender(t, &w, k)
	old := s.Stream(1)
	for _, n := range []uint16{65000, 20, 21} { // the number wraps: the last index is 1<<16 + 21
		require.NoError(t, old.Write(header(1, n), []byte{1}))
	}
	s.Retire(1)
	s.Retire(2) // it was never written: nothing is remembered
	require.ErrorIs(t, old.Write(header(1, 22), []byte{1}), ErrRetired)

	again := s.Stream(1)
	again.AllowRepeats(64)
	for _, n := range []uint16{21, 20, 5, 65000} {
		require.Error(t, again.Write(header(1, n), []byte{1}), "number %d was used, or may have been", n)
	}
	require.NoError(t, again.Write(header(1, 22), []byte{1}))
	require.Zero(t, s.Retire(2))
	peer, err := srtp.CreateContext(k.Key, k.Salt, k.Profile)
	require.NoError(t, err)
	for _, p := range w.packets {
		_, err := peer.DecryptRTP(nil, p, nil)
		require.NoError(t, err)
	}
	require.Len(t, w.packets, 4)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	var w wire
	s, err := NewSender(&Buffers{}, randomKeys(t, profiles[0]))
	require.NoError(t, err)
	require.ErrorIs(t, s.Stream(1).Write(header(1, 1), nil), ErrNoRemote)
	s.SetPath(&w, somewhere)
	require.ErrorIs(t, s.Stream(1).Write(header(1, 1), make([]byte, maxPacket)), ErrTooLong)
	require.NoError(t, s.Stream(1).Write(header(1, 1), make([]byte, maxPacket-gcmTag-20)), "refused packets use no index")
	require.Equal(t, somewhere, s.Remote())
	s.SetPath(&w, netip.AddrPort{})
	require.False(t, s.Remote().IsValid())
	require.ErrorIs(t, s.Stream(1).Write(header(1, 2), nil), ErrNoRemote)

	_, err = NewSender(&Buffers{}, Keys{Profile: srtp.ProtectionProfileNullHmacSha1_80})
	require.ErrorIs(t, err, ErrNoKeys)
	_, err = NewSender(&Buffers{}, Keys{Profile: profiles[0], Key: make([]byte, 15), Salt: make([]byte, 12)})
	require.ErrorIs(t, err, ErrNoKeys)
}

func TestRemoteOf(t *testing.T) {
	t.Parallel()
	c := func(addr string, p webrtc.ICEProtocol) *webrtc.ICECandidate {
		return &webrtc.ICECandidate{Address: addr, Port: 5000, Protocol: p, Typ: webrtc.ICECandidateTypeHost}
	}
	local := c("10.0.0.1", webrtc.ICEProtocolUDP)
	to, ok := RemoteOf(&webrtc.ICECandidatePair{Local: local, Remote: c("::ffff:10.0.0.2", webrtc.ICEProtocolUDP)})
	require.True(t, ok)
	require.Equal(t, netip.MustParseAddrPort("10.0.0.2:5000"), to)
	for _, bad := range []*webrtc.ICECandidatePair{
		nil, {}, {Local: local},
		{Local: local, Remote: c("abc.local", webrtc.ICEProtocolUDP)},
		{Local: local, Remote: c("10.0.0.2", webrtc.ICEProtocolTCP)},
		{Local: c("10.0.0.1", webrtc.ICEProtocolTCP), Remote: c("10.0.0.2", webrtc.ICEProtocolUDP)},
	} {
		_, ok := RemoteOf(bad)
		require.False(t, ok)
	}
}

// TestConcurrentWriters has many goroutines write to the same and other streams
// while the address changes; every packet must leave once and decrypt.
func TestConcurrentWriters(t *testing.T) {
	t.Parallel()
	var w wire
	k := randomKeys(t, profiles[0])
	s := newSender(t, &w, k)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for n := range uint16(200) {
				if err := s.Stream(uint32(g)).Write(header(uint32(g), n), []byte{1, 2, 3}); err != nil {
					t.Error(err)
				}
				_ = s.Stream(99).Write(header(99, n), []byte{7}) // one of them wins
				s.SetPath(&w, somewhere)
			}
		})
	}
	wg.Wait()
	require.Len(t, w.packets, 5*200)
	peer, err := srtp.CreateContext(k.Key, k.Salt, k.Profile)
	require.NoError(t, err)
	for _, p := range w.packets {
		_, err := peer.DecryptRTP(nil, p, nil)
		require.NoError(t, err)
	}
}

type nowhere struct{}

func (nowhere) WriteToAddrPort(p []byte, _ netip.AddrPort) (int, error) { return len(p), nil }

// BenchmarkWrite is a packet's way through a Stream, and through pion's context.
func BenchmarkWrite(b *testing.B) {
	for _, p := range profiles {
		k := randomKeys(b, p)
		h, payload := header(1, 1), make([]byte, 1150)
		b.Run("ours/"+p.String(), func(b *testing.B) {
			st := newSender(b, nowhere{}, k).Stream(1)
			b.ReportAllocs()
			for b.Loop() {
				h.SequenceNumber++
				if err := st.Write(h, payload); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("pion/"+p.String(), func(b *testing.B) {
			c, err := srtp.CreateContext(k.Key, k.Salt, p)
			require.NoError(b, err)
			var buf, plain [1500]byte
			b.ReportAllocs()
			for b.Loop() {
				h.SequenceNumber++
				n, err := h.MarshalTo(plain[:])
				if err != nil {
					b.Fatal(err)
				}
				n += copy(plain[n:], payload)
				if _, err := c.EncryptRTP(buf[:0], plain[:n], h); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
