package udp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/pprof"
	"sync"
	"testing"
	"time"

	"github.com/pion/ice/v4"
	"github.com/stretchr/testify/require"
)

var _ ice.AddrPortReaderWriter = (*Conn)(nil)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func listen(t testing.TB, cfg Config) *Conn {
	t.Helper()
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	cfg.Log = quiet()
	c, err := Listen(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// peer is a plain socket at the other end.
func peer(t testing.TB, addr string) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	pc, err := net.ListenPacket("udp", addr)
	require.NoError(t, err)
	u := pc.(*net.UDPConn)
	require.NoError(t, u.SetReadBuffer(4<<20))
	t.Cleanup(func() { _ = u.Close() })
	return u, u.LocalAddr().(*net.UDPAddr).AddrPort()
}

// rtpPacket is n bytes that begin like RTP and carry a number.
func rtpPacket(n int, number uint32) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(uint32(i) * (number + 1))
	}
	p[0] = 0x80
	if n >= 5 {
		binary.BigEndian.PutUint32(p[1:], number)
	}
	return p
}

func requireReceives(t testing.TB, u *net.UDPConn, want []byte) {
	t.Helper()
	buf := make([]byte, 70000)
	require.NoError(t, u.SetReadDeadline(time.Now().Add(30*time.Second)))
	n, err := u.Read(buf)
	require.NoError(t, err)
	require.Equal(t, want, buf[:n])
}

// requireNothing says that nothing has arrived. A packet sent over loopback is in
// the receiver's queue when the send returns.
func requireNothing(t testing.TB, u *net.UDPConn) {
	t.Helper()
	require.NoError(t, u.SetReadDeadline(time.Now().Add(-time.Second)))
	_, err := u.Read(make([]byte, 10))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

var modes = map[string]Config{
	"offload":    {},
	"no offload": {NoOffload: true},
	"plain":      {Plain: true},
	"v6":         {Addr: "[::1]:0"},
	"dual stack": {Addr: ":0"},
}

// peerFor is a loopback address that the mode's socket reaches.
func peerFor(mode string) string {
	if mode == "v6" {
		return "[::1]:0"
	}
	return "127.0.0.1:0"
}

// TestEverythingArrives has several goroutines write to several destinations,
// with sizes that make and break runs, and expects each destination to get its
// packets exactly and in each writer's order.
func TestEverythingArrives(t *testing.T) {
	t.Parallel()
	for name, cfg := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const writers, peers, packets = 4, 6, 200
			c := listen(t, cfg)
			var socks [peers]*net.UDPConn
			var addrs [peers]netip.AddrPort
			for i := range socks {
				socks[i], addrs[i] = peer(t, peerFor(name))
			}
			sizes := []int{1150, 1150, 1150, 1150, 700, 1200, 60, 60}

			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(1, uint64(w)))
					for n := range packets {
						for _, a := range addrs {
							number := uint32(w)<<16 | uint32(n)
							p := rtpPacket(sizes[number%uint32(len(sizes))], number)
							if k, err := c.WriteToAddrPort(p, a); err != nil || k != len(p) {
								t.Errorf("write: %d, %v", k, err)
								return
							}
						}
						if rng.IntN(4) == 0 {
							c.Flush()
						}
					}
					c.Flush()
				})
			}
			for i := range socks {
				wg.Go(func() {
					next := [writers]uint32{}
					buf := make([]byte, 70000)
					_ = socks[i].SetReadDeadline(time.Now().Add(20 * time.Second))
					for got := range writers * packets {
						n, err := socks[i].Read(buf)
						if err != nil {
							t.Errorf("peer %d after %d packets: %v; %+v", i, got, err, c.Stats())
							return
						}
						number := binary.BigEndian.Uint32(buf[1:])
						want := rtpPacket(sizes[number%uint32(len(sizes))], number)
						w := number >> 16
						if string(want) != string(buf[:n]) || number&0xffff != next[w] {
							t.Errorf("peer %d: packet %x of %d bytes, expected %d of writer %d", i, number, n, next[w], w)
							return
						}
						next[w]++
					}
				})
			}
			wg.Wait()

			s := c.Stats()
			require.EqualValues(t, writers*peers*packets, s.PacketsSent)
			require.Zero(t, s.Dropped)
			if cfg.NoOffload || cfg.Plain {
				require.Zero(t, s.OffloadMessages)
			} else if c.path.offload {
				require.NotZero(t, s.OffloadMessages)
				require.Zero(t, s.OffloadRefused)
				require.Less(t, s.SendCalls, s.PacketsSent)
			}
		})
	}
}

func TestMediaWaitsForFlush(t *testing.T) {
	t.Parallel()
	c := listen(t, Config{FlushAfter: time.Hour})
	u, a := peer(t, "127.0.0.1:0")
	for _, first := range []byte{0, 3, 20, 63, 64, 79, 127, 192, 255} {
		now := []byte{first, 1, 2}
		_, err := c.WriteTo(now, net.UDPAddrFromAddrPort(a))
		require.NoError(t, err)
		requireReceives(t, u, now)
	}
	for i, first := range []byte{128, 191} {
		media := []byte{first, 1, 2}
		_, err := c.WriteTo(media, net.UDPAddrFromAddrPort(a))
		require.NoError(t, err)
		requireNothing(t, u)
		c.Flush()
		requireReceives(t, u, media)
		require.EqualValues(t, 10+i, c.Stats().PacketsSent)
	}
}

func TestBackstop(t *testing.T) {
	t.Parallel()
	c := listen(t, Config{})
	u, a := peer(t, "127.0.0.1:0")
	for i := range uint32(5) { // it is armed again each time
		_, err := c.WriteToAddrPort(rtpPacket(100, i), a)
		require.NoError(t, err)
		requireReceives(t, u, rtpPacket(100, i))
	}
}

// TestBackstopWaitsForWriters: a batch that grows is left to its writer, but not
// for ever.
func TestBackstopWaitsForWriters(t *testing.T) {
	t.Parallel()
	c := listen(t, Config{FlushAfter: time.Hour})
	u, a := peer(t, "127.0.0.1:0")
	for i := range uint32(maxLooks) {
		_, err := c.WriteToAddrPort(rtpPacket(100, i), a)
		require.NoError(t, err)
		require.True(t, c.flushResting(), "it grew")
		requireNothing(t, u)
	}
	_, err := c.WriteToAddrPort(rtpPacket(100, maxLooks), a)
	require.NoError(t, err)
	require.False(t, c.flushResting(), "it has waited enough")
	for i := range uint32(maxLooks + 1) {
		requireReceives(t, u, rtpPacket(100, i))
	}
	_, err = c.WriteToAddrPort(rtpPacket(100, 7), a)
	require.NoError(t, err)
	require.True(t, c.flushResting())
	requireNothing(t, u)
	require.False(t, c.flushResting(), "it rests")
	requireReceives(t, u, rtpPacket(100, 7))
}

func TestFullBatchLeavesByItself(t *testing.T) {
	t.Parallel()
	c := listen(t, Config{FlushAfter: time.Hour})
	u, a := peer(t, "127.0.0.1:0")
	const packets = arenaSize/1200 + 1
	for i := range uint32(packets) {
		_, err := c.WriteToAddrPort(rtpPacket(1200, i), a)
		require.NoError(t, err)
	}
	for i := range uint32(packets - 1) {
		requireReceives(t, u, rtpPacket(1200, i))
	}
	requireNothing(t, u)
}

func TestBatch(t *testing.T) {
	t.Parallel()
	for name, cfg := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg.FlushAfter = time.Hour
			c := listen(t, cfg)
			u, a := peer(t, peerFor(name))
			b := c.NewBatch()
			b.Flush()
			require.Nil(t, b.Reserve(MaxPacket+1))
			const packets = 300 // more than fit at once
			for i := range uint32(packets) {
				p := rtpPacket(1000, i)
				room := b.Reserve(1100)
				require.Len(t, room, 1100)
				b.Commit(a, copy(room, p)) // less than reserved
			}
			b.Flush()
			for i := range uint32(packets) {
				requireReceives(t, u, rtpPacket(1000, i))
			}
			require.Nil(t, b.b, "an empty batch holds no memory")
			require.Zero(t, c.Stats().Dropped)
		})
	}
}

func TestOversize(t *testing.T) {
	t.Parallel()
	c := listen(t, Config{FlushAfter: time.Hour})
	u, a := peer(t, "127.0.0.1:0")
	_, err := c.WriteToAddrPort(rtpPacket(1000, 1), a)
	require.NoError(t, err)
	long := rtpPacket(MaxPacket+1, 2)
	n, err := c.WriteToAddrPort(long, a)
	require.NoError(t, err)
	require.Equal(t, len(long), n)
	requireReceives(t, u, rtpPacket(1000, 1)) // what came first leaves first
	requireReceives(t, u, long)

	_, err = c.WriteToAddrPort(rtpPacket(70000, 3), a)
	require.Error(t, err)
	require.EqualValues(t, 1, c.Stats().Dropped.TooLong)
}

func TestDropsAreCounted(t *testing.T) {
	t.Parallel()
	c := listen(t, Config{FlushAfter: time.Hour})
	u, a := peer(t, "127.0.0.1:0")
	wrongFamily := netip.MustParseAddrPort("[2001:db8::1]:9")
	for range 3 {
		_, err := c.WriteToAddrPort(rtpPacket(100, 0), wrongFamily)
		require.NoError(t, err)
	}
	_, err := c.WriteToAddrPort(rtpPacket(100, 1), a)
	require.NoError(t, err)
	c.Flush()
	requireReceives(t, u, rtpPacket(100, 1)) // the others' fate is not this one's
	require.EqualValues(t, 3, c.Stats().Dropped.Unreachable)

	_, err = c.WriteToAddrPort(rtpPacket(100, 1), netip.AddrPort{})
	require.Error(t, err)
	_, err = c.WriteTo(rtpPacket(100, 1), nil)
	require.Error(t, err)
	// Port 0 is no destination: the kernel refuses that message alone.
	b := c.NewBatch()
	for i := range uint32(3) {
		copy(b.Reserve(100), rtpPacket(100, i))
		b.Commit(netip.AddrPortFrom(a.Addr(), 0), 100)
		copy(b.Reserve(100), rtpPacket(100, i))
		b.Commit(a, 100)
	}
	b.Flush()
	for i := range uint32(3) {
		requireReceives(t, u, rtpPacket(100, i))
	}
	require.EqualValues(t, 6, c.Stats().Dropped.Unreachable)
}

func TestClosed(t *testing.T) {
	t.Parallel()
	c := listen(t, Config{FlushAfter: time.Hour})
	u, a := peer(t, "127.0.0.1:0")
	_, err := c.WriteToAddrPort(rtpPacket(50, 7), a)
	require.NoError(t, err)
	b := c.NewBatch()
	copy(b.Reserve(50), rtpPacket(50, 8))
	b.Commit(a, 50)

	reading := make(chan error)
	go func() {
		_, _, err := c.ReadFromAddrPort(make([]byte, 100))
		reading <- err
	}()
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	require.ErrorIs(t, <-reading, net.ErrClosed)
	requireReceives(t, u, rtpPacket(50, 7)) // what waited was sent

	_, err = c.WriteToAddrPort(rtpPacket(50, 9), a)
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = c.WriteToAddrPort([]byte{0, 1}, a)
	require.ErrorIs(t, err, net.ErrClosed)
	_, _, err = c.ReadFrom(make([]byte, 100))
	require.ErrorIs(t, err, net.ErrClosed)
	b.Flush()
	c.Flush()
	requireNothing(t, u)
	require.EqualValues(t, 2, c.Stats().Dropped.Closed)
}

// TestCloseAmongWriters closes under load: nothing may hang or race.
func TestCloseAmongWriters(t *testing.T) {
	t.Parallel()
	c := listen(t, Config{})
	_, a := peer(t, "127.0.0.1:0")
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			b := c.NewBatch()
			for i := uint32(0); ; i++ {
				copy(b.Reserve(100), rtpPacket(100, i))
				b.Commit(a, 100)
				if i%16 == 0 {
					b.Flush()
				}
				_, err := c.WriteToAddrPort(rtpPacket(900+w, i), a)
				if err != nil {
					return
				}
				_ = c.Stats()
			}
		})
	}
	for c.Stats().PacketsSent < 1000 {
		c.Flush()
	}
	require.NoError(t, c.Close())
	wg.Wait()
}

func TestReceive(t *testing.T) {
	t.Parallel()
	for name, cfg := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := listen(t, cfg)
			u, a := peer(t, peerFor(name))
			port := c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
			to := netip.AddrPortFrom(a.Addr(), port)

			want := []string{}
			for i := range 100 { // more than one call brings
				want = append(want, fmt.Sprintf("packet %d", i))
				_, err := u.WriteToUDPAddrPort([]byte(want[i]), to)
				require.NoError(t, err)
			}
			_, err := u.WriteToUDPAddrPort(make([]byte, MaxPacket+1), to) // dropped
			require.NoError(t, err)
			_, err = u.WriteToUDPAddrPort([]byte("last"), to)
			require.NoError(t, err)

			buf := make([]byte, MaxPacket)
			require.NoError(t, c.SetReadDeadline(time.Now().Add(30*time.Second)))
			for _, w := range append(want, "last") {
				n, src, err := c.ReadFromAddrPort(buf)
				require.NoError(t, err)
				require.Equal(t, a, src)
				require.Equal(t, w, string(buf[:n]))
			}
			s := c.Stats()
			require.EqualValues(t, 102, s.PacketsReceived)
			require.EqualValues(t, 1, s.Dropped.TooLong)
			require.Less(t, s.ReceiveCalls, s.PacketsReceived)

			require.NoError(t, c.SetReadDeadline(time.Now().Add(-time.Second)))
			_, _, err = c.ReadFrom(buf)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded, "a timeout is one")
		})
	}
}

func TestListenFails(t *testing.T) {
	t.Parallel()
	_, err := Listen(Config{Addr: "192.0.2.1:0", Log: quiet()})
	require.ErrorContains(t, err, "listen for media")
	c := listen(t, Config{})
	_, err = Listen(Config{Addr: c.LocalAddr().String(), Log: quiet()})
	require.Error(t, err, "the port is taken")
}

// BenchmarkSend sends frames of 7 packets to 60 destinations; what is told is one
// packet's cost.
func BenchmarkSend(b *testing.B) {
	for name, cfg := range map[string]Config{"offload": {}, "mmsg": {NoOffload: true}, "plain": {Plain: true}} {
		b.Run(name, func(b *testing.B) {
			cfg.FlushAfter = time.Hour
			c := listen(b, cfg)
			addrs := make([]netip.AddrPort, 60)
			for i := range addrs {
				_, addrs[i] = peer(b, "127.0.0.1:0")
			}
			p := rtpPacket(1150, 1)
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				_, _ = c.WriteToAddrPort(p, addrs[i/7%60])
				if i%420 == 419 {
					c.Flush()
				}
			}
			c.Flush()
		})
	}
}

// TestMain fails when a Conn's goroutine outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	var stacks bytes.Buffer
	for deadline := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		stacks.Reset()
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		if !bytes.Contains(stacks.Bytes(), []byte("(*Conn)")) {
			os.Exit(code)
		}
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "goroutines leaked:\n%s", &stacks)
			os.Exit(1)
		}
	}
}
