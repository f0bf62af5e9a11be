package icemux

import (
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"parlor/media/tcp"
)

// wrapped is a connection that others have begun to read.
type wrapped struct {
	net.Conn
	first  io.Reader
	writes atomic.Int64
}

func (w *wrapped) Read(b []byte) (int, error) {
	if n, err := w.first.Read(b); err == nil {
		return n, nil
	}
	return w.Conn.Read(b)
}

func (w *wrapped) Write(b []byte) (int, error) {
	w.writes.Add(1)
	return w.Conn.Write(b)
}

func (w *wrapped) NetConn() net.Conn { return w.Conn }

// TestAHandedConnectionIsAsGood: the kernel holds as little of a connection that others accepted as
// of one of our own, and takes many packets at a time.
func TestAHandedConnectionIsAsGood(t *testing.T) {
	r := &tcpRig{t: t}
	r.mux = NewTCP(TCPConfig{Counters: &r.counters, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { require.NoError(t, r.mux.Close()) })
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer l.Close()
	r.local = l.Addr().(*net.TCPAddr)
	r.mux.Expect(r.local.AddrPort(), anywhere)
	s := r.session("handed")
	client := r.dial("127.0.0.1")
	beneath, err := l.AcceptTCP()
	require.NoError(t, err)

	ask := request(t, "handed")
	handed := &wrapped{Conn: beneath, first: bytes.NewReader(append(binary.BigEndian.AppendUint16(nil, uint16(len(ask.Raw))), ask.Raw...))}
	r.mux.Hand(handed)
	got, from := next(t, s)
	require.Equal(t, ask.Raw, got)
	raw, err := beneath.SyscallConn()
	require.NoError(t, err)
	var bound int
	var errOption error
	require.NoError(t, raw.Control(func(fd uintptr) {
		bound, errOption = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)
	}))
	require.NoError(t, errOption)
	require.Equal(t, tcp.MaxUnsent, bound)

	answer := success(t, ask.TransactionID)
	_, err = s.WriteTo(answer, from)
	require.NoError(t, err)
	require.Equal(t, answer, nextFrame(t, client))
	for range 8 {
		_, err = s.WriteTo(dtls, from)
		require.NoError(t, err)
	}
	for range 8 {
		require.Equal(t, dtls, nextFrame(t, client))
	}
	require.Zero(t, handed.writes.Load(), "each packet is a call of the system by itself")
	sendFrame(t, client, dtls)
	got, _ = next(t, s)
	require.Equal(t, dtls, got)
}
