package icemux

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"
)

const patience = time.Minute

// tcpRig is a TCPMux on one listener.
type tcpRig struct {
	t        *testing.T
	mux      *TCPMux
	counters TCPCounters
	local    *net.TCPAddr
}

func anywhere(netip.Addr) bool { return true }

func newTCPRig(t *testing.T, change func(*TCPMux)) *tcpRig {
	t.Helper()
	r := &tcpRig{t: t}
	r.mux = NewTCP(TCPConfig{Counters: &r.counters, Log: slog.New(slog.DiscardHandler)})
	if change != nil {
		change(r.mux)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, r.mux.Listen(l, anywhere))
	r.local = l.Addr().(*net.TCPAddr)
	t.Cleanup(func() {
		require.NoError(t, r.mux.Close())
		require.Zero(t, r.counters.Open.Load())
		require.Zero(t, r.counters.Strangers.Load())
	})
	return r
}

func (r *tcpRig) session(ufrag string) net.PacketConn {
	r.t.Helper()
	c, err := r.mux.GetConnByUfrag(ufrag, false, r.local.IP)
	require.NoError(r.t, err)
	return c
}

// dial connects from an address of loopback's.
func (r *tcpRig) dial(from string) *net.TCPConn {
	r.t.Helper()
	c, err := net.DialTCP("tcp4", &net.TCPAddr{IP: net.ParseIP(from)}, r.local)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

func sendFrame(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	_, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	require.NoError(t, err)
}

func nextFrame(t *testing.T, c net.Conn) []byte {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	var head [2]byte
	_, err := io.ReadFull(c, head[:])
	require.NoError(t, err)
	b := make([]byte, binary.BigEndian.Uint16(head[:]))
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	return b
}

// isClosed waits until the server has closed c.
func isClosed(t *testing.T, c net.Conn) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	_, err := c.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, syscall.ETIMEDOUT)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "it is still open")
}

// authenticate has an agent behind the session answer a request of c's.
func (r *tcpRig) authenticate(s net.PacketConn, ufrag string, c net.Conn) net.Addr {
	r.t.Helper()
	m := request(r.t, ufrag)
	sendFrame(r.t, c, m.Raw)
	got, from := next(r.t, s)
	require.Equal(r.t, m.Raw, got)
	answer := success(r.t, m.TransactionID)
	_, err := s.WriteTo(answer, from)
	require.NoError(r.t, err)
	require.Equal(r.t, answer, nextFrame(r.t, c))
	return from
}

// Strangers are few, of all and of each address, and the newest of them is let in, since
// a client is a stranger for a round trip alone. Members do not count among them, and
// nothing that strangers do costs one its place.
func TestStrangersAreFew(t *testing.T) {
	r := newTCPRig(t, nil)
	s := r.session("member")
	member := r.dial("127.0.0.1")
	from := r.authenticate(s, "member", member)
	var first *net.TCPConn
	for i := range 3 * maxStrangersOfNetwork {
		if c := r.dial("127.0.0.1"); i == 0 {
			first = c
		}
	}
	isClosed(t, first)
	require.Eventually(t, func() bool {
		return r.counters.Refused.Load() == 2*maxStrangersOfNetwork && r.counters.Strangers.Load() == maxStrangersOfNetwork
	}, patience, time.Millisecond)
	for network := range maxStrangers / maxStrangersOfNetwork * 2 {
		for range maxStrangersOfNetwork {
			r.dial(fmt.Sprintf("127.0.1.%d", network))
		}
	}
	require.Eventually(t, func() bool { return r.counters.Strangers.Load() == maxStrangers }, patience, time.Millisecond)
	require.LessOrEqual(t, r.counters.Open.Load(), int64(maxStrangers+1))

	late := r.dial("127.0.0.1") // from the address that had most, while all places are taken
	r.authenticate(s, "member", late)
	_, err := s.WriteTo(dtls, from)
	require.NoError(t, err)
	require.Equal(t, dtls, nextFrame(t, member), "it goes on")
}

// A connection that shows no request in time, or something else, is closed.
func TestStrangersAreShortLived(t *testing.T) {
	r := newTCPRig(t, func(m *TCPMux) { m.strangerTime = 50 * time.Millisecond })
	silent, slow, unknown := r.dial("127.0.0.1"), r.dial("127.0.0.1"), r.dial("127.0.0.1")
	_, err := slow.Write([]byte{0})
	require.NoError(t, err)
	sendFrame(t, unknown, request(t, "nobody").Raw)
	for _, c := range []*net.TCPConn{silent, slow, unknown} {
		isClosed(t, c)
	}

	r = newTCPRig(t, nil)
	for what, frame := range map[string][]byte{
		"something else": dtls, "no length": {}, "a response": success(t, [12]byte{1}), "no user": request(t, "x").Raw[:20],
	} {
		c := r.dial("127.0.0.1")
		sendFrame(t, c, frame)
		isClosed(t, c)
		require.NotEmpty(t, what)
	}
	long := r.dial("127.0.0.1")
	_, err = long.Write([]byte{0xff, 0xff, 0, 1})
	require.NoError(t, err)
	isClosed(t, long)
}

// A client may connect a moment before its session is there.
func TestAConnectionWaitsForItsSession(t *testing.T) {
	r := newTCPRig(t, nil)
	c := r.dial("127.0.0.1")
	m := request(t, "late")
	sendFrame(t, c, m.Raw)
	require.Eventually(t, func() bool {
		r.mux.mu.Lock()
		defer r.mux.mu.Unlock()
		return len(r.mux.strangers) == 1 && r.mux.strangers[0].ufrag == "late"
	}, patience, time.Millisecond)
	got, _ := next(t, r.session("late"))
	require.Equal(t, m.Raw, got)
	require.Zero(t, r.counters.Strangers.Load())
}

// A ufrag goes over the network in the clear. A connection that names it without the
// password gets nothing, and takes nothing from the client that has both.
func TestTheUfragAloneGivesNothing(t *testing.T) {
	r := newTCPRig(t, nil)
	s := r.session("victim")
	victim := r.dial("127.0.0.1")
	from := r.authenticate(s, "victim", victim)
	for i := range 3 * maxUnproven {
		c := r.dial("127.0.0.2")
		sendFrame(t, c, request(t, "victim").Raw)
		_, stranger := next(t, s) // whose integrity the agent finds wrong
		sendFrame(t, c, dtls)     // which it never sees
		_, err := s.WriteTo(dtls, stranger)
		require.ErrorIs(t, err, errNoConnection)
		switch i % 3 {
		case 0:
			require.NoError(t, c.SetLinger(0)) // a reset
			require.NoError(t, c.Close())
		case 1:
			_, err := c.Write([]byte{0xff, 0xff})
			require.NoError(t, err)
			isClosed(t, c)
		}
	}
	sendFrame(t, victim, dtls)
	got, again := next(t, s)
	require.Equal(t, dtls, got)
	require.Equal(t, from, again)
	_, err := s.WriteTo(dtls, from)
	require.NoError(t, err)
	require.Equal(t, dtls, nextFrame(t, victim))
}

// A connection that is not proven in time is closed, as is one that goes on asking.
func TestUnprovenConnectionsEnd(t *testing.T) {
	r := newTCPRig(t, func(m *TCPMux) { m.unprovenTime = 50 * time.Millisecond })
	s := r.session("a")
	c := r.dial("127.0.0.1")
	sendFrame(t, c, request(t, "a").Raw)
	next(t, s)
	isClosed(t, c)

	r = newTCPRig(t, nil)
	s = r.session("a")
	c = r.dial("127.0.0.1")
	sendFrame(t, c, request(t, "a").Raw)
	for range maxUnprovenPackets - 1 {
		next(t, s)
		sendFrame(t, c, request(t, "a").Raw)
	}
	next(t, s)
	sendFrame(t, c, request(t, "a").Raw)
	isClosed(t, c)
}

// A client that connects again and again is served; the connections that it left behind
// make room.
func TestConnectionsOfASessionAreBounded(t *testing.T) {
	r := newTCPRig(t, nil)
	s := r.session("a")
	var all []*net.TCPConn
	for range 2 * maxProven {
		c := r.dial("127.0.0.1")
		r.authenticate(s, "a", c)
		all = append(all, c)
	}
	for _, c := range all[:maxProven] {
		isClosed(t, c)
	}
	require.EqualValues(t, maxProven, r.counters.Open.Load())
	require.NoError(t, s.Close())
	for _, c := range all[maxProven:] {
		isClosed(t, c)
	}
	_, _, err := s.ReadFrom(make([]byte, 10))
	require.ErrorIs(t, err, io.EOF)
	_, err = s.WriteTo(dtls, r.local)
	require.ErrorIs(t, err, io.ErrClosedPipe)
	require.False(t, r.mux.Has("a"))
}

// The connections of all sessions are bounded. Where many of them are one session's, it
// gives them up for others; where each session has one, no more are let in until one ends.
func TestConnectionsOfAllSessionsAreBounded(t *testing.T) {
	const most = 6
	r := newTCPRig(t, func(m *TCPMux) { m.maxMembers = most })
	one, crowd := r.session("one"), r.session("crowd")
	victim := r.dial("127.0.0.1")
	from := r.authenticate(one, "one", victim)
	var many []*net.TCPConn
	for range most - 1 {
		c := r.dial("127.0.0.2")
		r.authenticate(crowd, "crowd", c)
		many = append(many, c)
	}
	for i, c := range many[:most-2] {
		ufrag := fmt.Sprint("late", i)
		r.authenticate(r.session(ufrag), ufrag, r.dial("127.0.0.1"))
		isClosed(t, c)
	}
	require.EqualValues(t, most-2, r.counters.Refused.Load())
	require.EqualValues(t, most, r.counters.Open.Load())
	last := r.session("last")
	refused := r.dial("127.0.0.1")
	sendFrame(t, refused, request(t, "last").Raw)
	isClosed(t, refused)
	require.EqualValues(t, most-1, r.counters.Refused.Load())

	sendFrame(t, victim, dtls)
	got, again := next(t, one)
	require.Equal(t, dtls, got)
	require.Equal(t, from, again)
	_, err := one.WriteTo(dtls, from)
	require.NoError(t, err)
	require.Equal(t, dtls, nextFrame(t, victim))

	require.NoError(t, crowd.Close())
	isClosed(t, many[most-2])
	require.Eventually(t, func() bool { return r.counters.Open.Load() == most-1 }, patience, time.Millisecond)
	r.authenticate(last, "last", r.dial("127.0.0.1"))
}

// What a receiver does not take is bounded, and others do not wait for it.
func TestAReceiverThatDoesNotRead(t *testing.T) {
	r := newTCPRig(t, nil)
	slow, quick := r.session("slow"), r.session("quick")
	c, d := r.dial("127.0.0.1"), r.dial("127.0.0.1")
	toSlow, toQuick := r.authenticate(slow, "slow", c), r.authenticate(quick, "quick", d)
	packet := make([]byte, 1200)
	require.Eventually(t, func() bool { _, err := slow.WriteTo(packet, toSlow); return err != nil }, patience, time.Microsecond)
	require.NotZero(t, r.counters.Overflow.Load())
	_, err := quick.WriteTo(packet, toQuick)
	require.NoError(t, err)
	require.Equal(t, packet, nextFrame(t, d))
	require.Equal(t, packet, nextFrame(t, c), "what waits is sent in time")
}

// outOfFiles fails as a listener does whose process has no file descriptor left.
type outOfFiles struct {
	net.Listener
	mu   sync.Mutex // guards left
	left int
}

func (l *outOfFiles) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	l.mu.Lock()
	fail := l.left > 0
	l.left--
	l.mu.Unlock()
	if fail && err == nil {
		_ = conn.Close()
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	return conn, err
}

// A listener that ran out of file descriptors says so once, gives strangers' back, and
// goes on.
func TestAcceptingOutlivesAShortageOfFiles(t *testing.T) {
	r := newTCPRig(t, nil)
	stranger := r.dial("127.0.0.1")
	require.Eventually(t, func() bool { return r.counters.Strangers.Load() == 1 }, patience, time.Millisecond)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	log := &lockedBuilder{}
	r.mux.cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	require.NoError(t, r.mux.Listen(&outOfFiles{Listener: l, left: 3}, func(netip.Addr) bool { return false }))
	for range 3 {
		c, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		isClosed(t, c)
		require.NoError(t, c.Close())
	}
	isClosed(t, stranger)
	r.local = l.Addr().(*net.TCPAddr)
	r.dial("127.0.0.1")
	require.Eventually(t, func() bool { return r.counters.Strangers.Load() == 1 }, patience, time.Millisecond)
	require.EqualValues(t, 3, r.counters.Failures.Load())
	require.Equal(t, 1, strings.Count(log.String(), "level=ERROR"), log)
	require.Contains(t, log.String(), "accepted again")
}

type lockedBuilder struct {
	mu sync.Mutex // guards b
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// watching is a Media with one linked stream.
type watching struct {
	linked uint32
	mu     sync.Mutex // guards told
	told   [][2]uint32
}

func (w *watching) Linked(ssrc uint32) bool { return ssrc == w.linked }

func (w *watching) Dropped(ssrc uint32, number uint16, _ time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, [2]uint32{ssrc, uint32(number)})
}

func (w *watching) dropped() [][2]uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.told)
}

// Media that has waited for too long is dropped: of a voice what is too old, of a picture
// all up to the packet with which its sender is told. What has to arrive does.
func TestNoOldMediaWaitsForAReceiver(t *testing.T) {
	const picture, voice = 1, 2
	var clock atomic.Int64 // ms
	r := newTCPRig(t, func(m *TCPMux) { m.now = func() time.Time { return time.UnixMilli(clock.Load()) } })
	s, c := r.session("slow"), r.dial("127.0.0.1")
	require.NoError(t, c.SetReadBuffer(8<<10))
	to := r.authenticate(s, "slow", c)
	media := &watching{linked: picture}
	r.mux.Watch("slow", media)
	send := func(b []byte) {
		_, err := s.WriteTo(b, to)
		require.NoError(t, err)
	}
	rtp := func(ssrc uint32, number uint16) []byte {
		b := make([]byte, 100)
		b[0], b[1] = 0x80, 96
		binary.BigEndian.PutUint16(b[2:], number)
		binary.BigEndian.PutUint32(b[8:], ssrc)
		return b
	}

	// Until the kernel takes no more.
	conn := r.mux.sessions["slow"][0].member(canonical(c.LocalAddr().(*net.TCPAddr).AddrPort()))
	waiting, same := 0, 0
	require.Eventually(t, func() bool {
		conn.mu.Lock()
		now := conn.queued
		conn.mu.Unlock()
		if now < maxTCPQueue/2 {
			send(make([]byte, 1200))
			same = 0
		} else if same++; now != waiting {
			waiting, same = now, 0
		}
		return same == 100
	}, patience, time.Millisecond)

	send(rtp(picture, 1))
	send(rtp(voice, 1))
	send(dtls)
	clock.Add(200)
	send(rtp(picture, 2))
	send(rtp(voice, 2))
	require.Empty(t, media.dropped())
	clock.Add(51)
	send(rtp(voice, 3))
	require.Equal(t, [][2]uint32{{voice, 1}}, media.dropped())
	send(rtp(picture, 3)) // which cannot be decoded
	require.Equal(t, [][2]uint32{{voice, 1}, {picture, 1}}, media.dropped())
	send(rtp(picture, 4)) // its sender knows
	require.EqualValues(t, 4, r.counters.Overdue.Load())
	require.Zero(t, r.counters.Overflow.Load())

	var got [][2]uint32
	handshake := false
	for len(got) < 3 {
		b := nextFrame(t, c)
		handshake = handshake || string(b) == string(dtls)
		if isRTP(b) {
			got = append(got, [2]uint32{ssrcOf(b), uint32(numberOf(b))})
		}
	}
	require.Equal(t, [][2]uint32{{voice, 2}, {voice, 3}, {picture, 4}}, got)
	require.True(t, handshake)
}

// A pair over TCP does not become valid at once for an agent that chooses the pair, since
// its checks wait. All else goes on, so do the checks of an agent that does not choose.
func TestChecksOverTCPWaitForUDP(t *testing.T) {
	r := newTCPRig(t, nil)
	s, err := r.mux.For(nil, time.Hour).GetConnByUfrag("a", false, r.local.IP)
	require.NoError(t, err)
	c := r.dial("127.0.0.1")
	m := request(t, "a")
	sendFrame(t, c, m.Raw)
	_, from := next(t, s)
	check := func(role stun.Setter) []byte {
		m, err := stun.Build(stun.BindingRequest, stun.TransactionID, role)
		require.NoError(t, err)
		return m.Raw
	}
	controlled, last := check(ice.AttrControlled(1)), check(ice.AttrControlling(1))
	for _, b := range [][]byte{check(ice.AttrControlling(1)), last, controlled, success(t, m.TransactionID)} {
		_, err := s.WriteTo(b, from)
		require.NoError(t, err)
	}
	require.Equal(t, controlled, nextFrame(t, c))
	require.Equal(t, success(t, m.TransactionID), nextFrame(t, c))

	r.mux.sessions["a"][0].members[0].release()
	require.Equal(t, last, nextFrame(t, c))
	_, err = s.WriteTo(check(ice.AttrControlling(1)), from)
	require.NoError(t, err)
	nextFrame(t, c)
}
