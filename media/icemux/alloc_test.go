//go:build !race

package icemux

import (
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The race detector makes sync.Pool forget at random, hence not with it.
func TestMediaOverTCPDoesNotAllocate(t *testing.T) {
	now := time.Now()
	r := newTCPRig(t, func(m *TCPMux) { m.now = func() time.Time { return now } }) // else packets expire on a loaded machine
	s := r.session("a")
	c := r.dial("127.0.0.1")
	from := r.authenticate(s, "a", c)
	to, err := netip.ParseAddrPort(from.String())
	require.NoError(t, err)
	session, ok := r.mux.Socket("a", to)
	require.True(t, ok)
	video, voice := make([]byte, 1200), make([]byte, 160)
	video[0], voice[0] = 0x80, 0x80
	got := make([]byte, 7*(2+len(video))+2+len(voice))
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	frame := func() {
		for range 7 {
			_, _ = session.WriteToAddrPort(video, to)
		}
		_, _ = session.WriteToAddrPort(voice, to)
		if _, err := io.ReadFull(c, got); err != nil {
			t.Error(err)
		}
	}
	for range 100 { // fill the pools and the queue
		frame()
	}
	require.Less(t, testing.AllocsPerRun(300, frame), 0.5)
}
