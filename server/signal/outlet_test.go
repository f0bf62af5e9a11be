package signal

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/livekit"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// For a client that does not read, only a few long messages may wait, or many short ones.
func TestSlowClientIsCutOffByBytes(t *testing.T) {
	long := rooms.NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_RefreshToken{
		RefreshToken: strings.Repeat("x", 1<<20),
	}})
	registry := prometheus.NewRegistry()
	o := &outlet{metrics: newMetrics(registry)}
	ws := newSocket(t.Context(), nil, o.metrics)
	require.True(t, o.attach(ws))
	late := 0
	for o.Send(long) {
		late++
	}
	require.Equal(t, queueBytes>>20, late)
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Len(t, families, 1)
	require.EqualValues(t, 1, families[0].GetMetric()[0].GetCounter().GetValue())
	<-ws.done.Done()

	// Written messages make room.
	ws = newSocket(t.Context(), nil, o.metrics)
	require.True(t, ws.push(frame{message: long}))
	f := <-ws.queue
	require.EqualValues(t, len(long.Binary()), ws.bytes.Add(-f.size())+f.size())
	require.Zero(t, ws.bytes.Load())
}

// A client whose socket is closed because it does not read has lost it, and the room is
// told. One that has attached another meanwhile has not.
func TestACutSocketIsLost(t *testing.T) {
	o := &outlet{metrics: newMetrics(nil)}
	cut, next := newSocket(t.Context(), nil, o.metrics), newSocket(t.Context(), nil, o.metrics)
	fill := func(ws *socket) {
		require.True(t, o.attach(ws))
		require.True(t, o.Attached())
		for o.Send(rooms.NewMessage(&livekit.SignalResponse{})) {
		}
		<-ws.done.Done()
		require.False(t, o.Attached())
		require.False(t, o.Send(rooms.NewMessage(&livekit.SignalResponse{})))
	}
	fill(cut)
	require.True(t, o.detach(cut), "the room must be told")
	require.False(t, o.detach(cut), "once")
	fill(next)
	require.True(t, o.attach(newSocket(t.Context(), nil, o.metrics)))
	require.False(t, o.detach(next))
	require.True(t, o.Attached())
}

// The leave of a client that closes at once, with unread messages of ours, is still read,
// even though the client cannot be written to any more.
func TestGoodbyeIsHeardWhenNothingCanBeWritten(t *testing.T) {
	failed, heard := make(chan struct{}), make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // the client's side of the test has failed
		}
		ws := newSocket(context.WithoutCancel(r.Context()), conn, newMetrics(nil))
		var writer sync.WaitGroup
		writer.Go(ws.write)
		for len(ws.queue) == 0 { // it accepts messages until a write has failed
			ws.push(frame{message: rooms.NewMessage(&livekit.SignalResponse{})})
			time.Sleep(time.Millisecond)
		}
		close(failed)
		_, b, err := conn.Read(ws.done)
		heard <- fmt.Sprint(string(b), err)
		ws.cut()
		writer.Wait()
	}))
	defer server.Close()
	conn, _, err := websocket.Dial(t.Context(), server.URL, nil)
	require.NoError(t, err)
	require.NoError(t, conn.Write(t.Context(), websocket.MessageBinary, []byte("goodbye")))
	require.NoError(t, conn.CloseNow())
	<-failed
	require.Equal(t, "goodbye<nil>", <-heard)
}
