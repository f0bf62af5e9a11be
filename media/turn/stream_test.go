package turn

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/stun/v3"
	pionturn "github.com/pion/turn/v5"
	"github.com/stretchr/testify/require"
)

const patience = time.Minute

// noMedia is a Media that receives nothing.
type noMedia struct{}

func (noMedia) Receives(netip.Addr) bool                       { return false }
func (noMedia) Ours(netip.Addr) bool                           { return false }
func (noMedia) Deliver(_ []byte, _, _ netip.AddrPort) bool     { return false }
func (noMedia) Outside(bool) (bind, known netip.Addr, ok bool) { return loopback(), loopback(), true }

func loopback() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }

func newServer(t *testing.T, change func(*Config)) *Server {
	t.Helper()
	cfg := Config{
		Secret: func(string) string { return "" }, Media: noMedia{}, Loggers: logging.NewDefaultLoggerFactory(), Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// trickle is a connection that gives one byte at a time: first, then again and again others,
// until so many were read, or the server closes it.
type trickle struct {
	net.Conn     // nil: what is not used
	first, again []byte
	closed       chan struct{}

	mu      sync.Mutex // guards the following
	read    int
	deepest int // calls that were on the stack of a Read
	written []byte
	over    bool
}

const (
	tooDeep  = 128
	mostRead = 8 * maxPacket
)

func (c *trickle) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var calls [tooDeep]uintptr
	c.deepest = max(c.deepest, runtime.Callers(0, calls[:]))
	if c.over || c.read == mostRead {
		return 0, io.EOF
	}
	i := c.read
	c.read++
	if i < len(c.first) {
		b[0] = c.first[i]
	} else {
		b[0] = c.again[(i-len(c.first))%len(c.again)]
	}
	return 1, nil
}

func (c *trickle) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.written = append(c.written, b...)
	return len(b), nil
}

func (c *trickle) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.over = true
		close(c.closed)
	}
	return nil
}

func (c *trickle) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 3478} }
func (c *trickle) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5000} }

func (c *trickle) SetWriteDeadline(time.Time) error { return nil }

// serve has a server read what comes by a byte at a time, to the end.
func serve(t *testing.T, first, again []byte) (*trickle, *Server) {
	t.Helper()
	s := newServer(t, nil)
	c := &trickle{first: first, again: again, closed: make(chan struct{})}
	s.ServeConn(c)
	select {
	case <-c.closed:
	case <-time.After(patience):
		require.FailNow(t, "it is open still")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Less(t, c.deepest, tooDeep, "calls within calls")
	return c, s
}

// TestStreamsByteByByte: messages and channel data that come by single bytes are read as others
// are, and cost no more.
func TestStreamsByteByByte(t *testing.T) {
	ask, err := stun.Build(stun.TransactionID, stun.BindingRequest)
	require.NoError(t, err)
	long, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.RawAttribute{Type: 0xc000, Value: make([]byte, maxPacket-100)})
	require.NoError(t, err)
	for name, frames := range map[string][][]byte{
		"messages":                  {ask.Raw},
		"long messages":             {long.Raw, ask.Raw},
		"the least channel data":    {{0x40, 0, 0, 0}, ask.Raw},
		"channel data of a byte":    {{0x4f, 0xff, 0, 1, 0x21, 0x12, 0xa4, 0}, ask.Raw},
		"channel data":              {slices.Concat([]byte{0x40, 1, 0, 100}, make([]byte, 100)), ask.Raw},
		"channel data of each size": {{0x40, 0, 0, 0}, {0x40, 0, 0, 4, 1, 2, 3, 4}, slices.Concat([]byte{0x40, 0, 0, 5}, make([]byte, 8)), ask.Raw},
	} {
		c, s := serve(t, ask.Raw, slices.Concat(frames...))
		require.Equal(t, mostRead, c.read, name)
		require.Zero(t, s.Counters().StreamsRefused.Load(), name)
		answer := &stun.Message{Raw: c.written}
		require.NoError(t, answer.Decode(), name)
		require.Equal(t, stun.BindingSuccess, answer.Type, name)
	}
}

// TestFramesThatAreNone: a frame that is too long, or is not TURN's, ends the connection after
// its head was read.
func TestFramesThatAreNone(t *testing.T) {
	cookie := []byte{0x21, 0x12, 0xa4, 0x42}
	ids := make([]byte, 12)
	for name, first := range map[string][]byte{
		"a long message":     slices.Concat([]byte{0, 1, 0xff, 0xfc}, cookie, ids),
		"long channel data":  {0x40, 0, 0xff, 0xfc},
		"a message too long": slices.Concat([]byte{0, 1, 0x08, 0x00}, cookie, ids),
		"no message":         slices.Concat([]byte{0, 1, 0, 0, 1, 2, 3, 4}, ids),
		"a message's number": slices.Concat([]byte{0x10, 1, 0, 0}, cookie, ids),
		"HTTP":               []byte("GET / HTTP/1.1\r\n\r\n"),
		// A reader that looks for the cookie alone takes these for the head of a message,
		// and waits for a length that never comes.
		"channel data that is a message": slices.Concat([]byte{0x40, 0, 0, 16}, cookie, ids, []byte{0, 1, 0xff, 0xfc}, cookie, ids),
		"short channel data, a message":  slices.Concat([]byte{0x40, 0, 0, 4}, cookie, []byte{0x40, 0, 0, 8}, ids[:8]),
	} {
		c, s := serve(t, first, []byte{0x40, 0, 0, 0})
		require.LessOrEqual(t, c.read, 20, name)
		require.EqualValues(t, 1, s.Counters().StreamsRefused.Load(), name)
		require.Empty(t, c.written, name)
	}
}

// silent is a connection that says nothing.
type silent struct {
	net.Conn
	remote net.TCPAddr
	closed chan struct{}
	once   sync.Once
}

func (c *silent) Read([]byte) (int, error) {
	<-c.closed
	return 0, io.EOF
}

func (c *silent) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *silent) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 3478} }
func (c *silent) RemoteAddr() net.Addr { return &c.remote }

func (c *silent) isOpen() bool {
	select {
	case <-c.closed:
		return false
	default:
		return true
	}
}

// connect has silent connections come from an address.
func connect(s *Server, from byte, n int) (all []*silent) {
	for i := range n {
		c := &silent{remote: net.TCPAddr{IP: net.IPv4(192, 0, 2, from), Port: 1000 + i}, closed: make(chan struct{})}
		s.ServeConn(c)
		all = append(all, c)
	}
	return all
}

func areOpen(all []*silent) (n int) {
	for _, c := range all {
		if c.isOpen() {
			n++
		}
	}
	return n
}

// TestStrangersGiveWay: connections without a relay have a bound for each network and one for
// all. The newest is let in: in place of the oldest of its network, or of the network with most.
func TestStrangersGiveWay(t *testing.T) {
	s := newServer(t, nil)
	crowd := connect(s, 1, 3*maxStrangersOfNetwork)
	require.Zero(t, areOpen(crowd[:2*maxStrangersOfNetwork]))
	require.Equal(t, maxStrangersOfNetwork, areOpen(crowd[2*maxStrangersOfNetwork:]))
	require.EqualValues(t, maxStrangersOfNetwork, s.Counters().Streams.Load())
	require.EqualValues(t, 2*maxStrangersOfNetwork, s.Counters().StreamsRefused.Load())

	few := connect(s, 2, maxStrangersOfNetwork-1)
	for i := range maxStrangers / maxStrangersOfNetwork {
		connect(s, 3+byte(i), maxStrangersOfNetwork-1)
	}
	require.EqualValues(t, maxStrangers, s.Counters().Streams.Load())
	one := connect(s, 100, 1)
	require.EqualValues(t, maxStrangers, s.Counters().Streams.Load())
	require.Equal(t, 1, areOpen(one))
	require.NotZero(t, areOpen(few))
}

// TestStrangersBehindALoadBalancer: where all have one address, there is a bound of all alone.
func TestStrangersBehindALoadBalancer(t *testing.T) {
	s := newServer(t, func(c *Config) { c.PerNetwork = -1 })
	all := connect(s, 1, maxStrangers+1)
	require.False(t, all[0].isOpen())
	require.Equal(t, maxStrangers, areOpen(all))
	require.EqualValues(t, 1, s.Counters().StreamsRefused.Load())
}

// TestAddressesOfRelays: an address of relays alone belongs to them at every port, also at one
// without a relay.
func TestAddressesOfRelays(t *testing.T) {
	s := newServer(t, nil)
	for _, addr := range []string{"192.0.0.8:5000", "[100::8]:5000"} {
		require.True(t, s.Relays(netip.MustParseAddrPort(addr)), addr)
	}
	for _, addr := range []string{"192.0.0.9:5000", "127.0.0.1:5000", "[100::9]:5000"} {
		require.False(t, s.Relays(netip.MustParseAddrPort(addr)), addr)
	}
	// One of a relay that leads to other peers has a socket's address.
	s = newServer(t, func(c *Config) { c.Allow = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")} })
	s.Begin("PA_a")
	relay, addr, err := generator{s}.AllocatePacketConn(pionturn.AllocateListenerConfig{UserID: "PA_a", Network: "udp4"})
	require.NoError(t, err)
	require.True(t, s.Relays(addrPort(addr)))
	require.NoError(t, relay.Close())
	require.False(t, s.Relays(addrPort(addr)))
}
