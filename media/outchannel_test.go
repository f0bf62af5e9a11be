package media

import (
	"log/slog"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

// TestDroppedDataIsCountedByItsKind, however it is dropped.
func TestDroppedDataIsCountedByItsKind(t *testing.T) {
	pc, err := webrtc.NewPeerConnection(webrtc.Configuration{})
	require.NoError(t, err)
	defer pc.Close()
	for _, lossy := range []bool{true, false} {
		p := &Peer{engine: &Engine{}, log: slog.New(slog.DiscardHandler)}
		p.engine.flow = newDataFlow(&p.engine.early)
		o := &outChannel{p: p, lossy: lossy, most: maxLossyBuffered}
		o.dc, err = pc.CreateDataChannel("", nil) // it never opens, so that it takes nothing
		require.NoError(t, err)
		m := outMessage{payload: make([]byte, 8), flow: p.engine.flow}
		o.open = true
		o.send(m)
		o.end()
		o.send(m)
		c := &p.engine.counters
		got := map[bool]uint64{true: c.lossyDropped.Load(), false: c.reliableDropped.Load()}
		require.Equal(t, map[bool]uint64{lossy: 2, !lossy: 0}, got)
	}
}

// TestMoreThanFourGigabytesAreCounted on every platform.
func TestMoreThanFourGigabytesAreCounted(t *testing.T) {
	const much = int64(5) << 32
	var l lateness
	now := time.Now()
	l.handed(much, now)
	l.taken(much-1, now)
	require.Equal(t, time.Second, l.late(now.Add(time.Second)))
	l.taken(much, now)
	require.Zero(t, l.late(now.Add(time.Second)))
	o := outChannel{sent: much}
	require.Equal(t, much, o.sent)
}
