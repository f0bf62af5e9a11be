package media

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestMediaThatDoesNotConnectIsWarnedOf(t *testing.T) {
	var log lockedBuffer
	e, err := NewEngine(Config{
		BindAddresses: []string{"127.0.0.1"}, LoopbackCandidate: true, JoinTimeout: 50 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	told := &events{ch: make(chan occurrence, 16)}
	p, err := e.NewPeer(PeerConfig{SID: "PA_1", Identity: "ann", SinglePC: true, Signals: unheard{}, Events: told})
	require.NoError(t, err)
	told.wait(t, "disconnected")
	p.Close()
	require.Eventually(t, func() bool { return bytes.Contains([]byte(log.String()), []byte("media did not connect")) }, time.Minute, time.Millisecond)
	require.Contains(t, log.String(), "never described its media")

	require.Contains(t, likelyCause(true, 0, webrtc.ICEConnectionStateChecking), "told no address")
	require.Contains(t, likelyCause(true, 3, webrtc.ICEConnectionStateFailed), "firewall")
	require.Contains(t, likelyCause(true, 3, webrtc.ICEConnectionStateConnected), "DTLS")
}
