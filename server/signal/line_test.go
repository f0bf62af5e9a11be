package signal

import (
	"strings"
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// A client that does not read may make few long messages wait, or many short ones.
func TestSlowClientIsCutOffByBytes(t *testing.T) {
	long := rooms.NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_RefreshToken{
		RefreshToken: strings.Repeat("x", 1<<20),
	}})
	l := &line{metrics: newMetrics(nil)}
	early := 0
	for l.Send(long) {
		early++
	}
	require.LessOrEqual(t, early, queueBytes>>20+1)

	registry := prometheus.NewRegistry()
	l = &line{metrics: newMetrics(registry)}
	ws := newSocket(t.Context(), nil)
	require.True(t, l.attach(ws))
	late := 0
	for l.Send(long) {
		late++
	}
	require.Equal(t, early, late)
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Len(t, families, 1)
	require.EqualValues(t, 1, families[0].GetMetric()[0].GetCounter().GetValue())
	<-ws.done.Done()

	// What is written makes room.
	ws = newSocket(t.Context(), nil)
	require.True(t, ws.push(frame{message: long}))
	f := <-ws.queue
	require.EqualValues(t, len(long.Binary()), ws.bytes.Add(-f.size())+f.size())
	require.Zero(t, ws.bytes.Load())
}
