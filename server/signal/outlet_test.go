package signal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
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
	f, waits := ws.next()
	require.True(t, waits)
	require.EqualValues(t, len(long.Binary()), ws.bytes.Add(-f.size())+f.size())
	require.Zero(t, ws.bytes.Load())
}

// A full queue takes the message that ends the socket, and what is taken from it comes in
// order.
func TestTheLastMessageFitsIntoAFullQueue(t *testing.T) {
	ws := newSocket(t.Context(), nil, newMetrics(nil))
	m := rooms.NewMessage(&livekit.SignalResponse{})
	for range queueLength {
		require.True(t, ws.push(frame{message: m}))
	}
	require.False(t, ws.push(frame{message: m}))
	ws.finish(m)
	require.NoError(t, ws.done.Err(), "it was not cut")
	for range queueLength {
		f, waits := ws.next()
		require.True(t, waits)
		require.False(t, f.last)
	}
	f, waits := ws.next()
	require.True(t, waits && f.last)
	_, waits = ws.next()
	require.False(t, waits)
	for range queueLength + reserved {
		require.True(t, ws.enqueue(frame{message: m, first: true}))
	}
	require.False(t, ws.enqueue(frame{message: m, first: true}))
}

// What a socket needs while nothing waits does not depend on how much may wait.
func TestAnIdleSocketIsSmall(t *testing.T) {
	m := newMetrics(nil)
	var before, after runtime.MemStats
	kept := make([]*socket, 100)
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range kept {
		kept[i] = newSocket(t.Context(), nil, m)
	}
	runtime.ReadMemStats(&after)
	require.Less(t, (after.TotalAlloc-before.TotalAlloc)/uint64(len(kept)), uint64(queueLength*2))
	runtime.KeepAlive(kept)
}

// A client that does not read what is being written is counted, and its socket ends. What was
// written before it in time does not matter.
func TestAWriteThatTakesTooLongEndsTheSocket(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := newMetrics(registry)
	ended := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // the client's side of the test has failed
		}
		ws := newSocket(context.WithoutCancel(r.Context()), conn, m)
		short := rooms.NewMessage(&livekit.SignalResponse{})
		if err := errors.Join(ws.send(short), ws.send(short), ws.writing.Err()); err != nil {
			ended <- fmt.Errorf("too soon: %w", err)
			return
		}
		long := rooms.NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_RefreshToken{
			RefreshToken: strings.Repeat("x", 64<<20), // more than the kernel takes
		}})
		var writer sync.WaitGroup
		writer.Go(ws.write)
		ws.enqueue(frame{message: long, first: true})
		for ws.queue.Len() > 0 || ws.writing.Err() == nil {
			ws.limit.Reset(time.Millisecond)
			time.Sleep(10 * time.Millisecond)
		}
		writer.Wait()
		ended <- ws.done.Err()
	}))
	defer server.Close()
	conn, _, err := websocket.Dial(t.Context(), server.URL, nil)
	require.NoError(t, err)
	defer func() { _ = conn.CloseNow() }() // the server has closed it
	require.ErrorIs(t, <-ended, context.Canceled)
	families, err := registry.Gather()
	require.NoError(t, err)
	require.EqualValues(t, 1, families[0].GetMetric()[0].GetCounter().GetValue())
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
		for ws.queue.Len() == 0 { // it accepts messages until a write has failed
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

// A client that pings as it is told to is not asked whether it is there. One that says nothing
// is, again and again, and one that does not answer either is cut off.
func TestOnlySilentClientsArePinged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		ended := make(chan time.Time, 1)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, err := websocket.Accept(w, r, nil)
			if err != nil {
				return // the client's side of the test has failed
			}
			m := newMetrics(nil)
			s := &session{h: &Handler{metrics: m, decoder: newDecoder(nil)}, ws: newSocket(context.WithoutCancel(r.Context()), conn, m)}
			var writer sync.WaitGroup
			writer.Go(s.ws.write)
			for err == nil {
				_, _, err = s.next()
			}
			ended <- time.Now()
			s.ws.cut()
			writer.Wait()
		})}
		var serving sync.WaitGroup
		defer serving.Wait()
		defer func() { _ = server.Close() }()
		only := &onlyConn{c: make(chan net.Conn, 1), closed: make(chan struct{})}
		only.c <- near
		serving.Go(func() { _ = server.Serve(only) })
		var asked []time.Duration
		var mu sync.Mutex
		answers, last := true, time.Now()
		pings := func() []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(asked)
		}
		conn, _, err := websocket.Dial(t.Context(), "http://parlor/", &websocket.DialOptions{
			HTTPClient: &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return far, nil }}},
			OnPingReceived: func(context.Context, []byte) bool {
				mu.Lock()
				defer mu.Unlock()
				asked = append(asked, time.Since(last))
				return answers
			},
		})
		require.NoError(t, err)
		defer func() { _ = conn.CloseNow() }()
		serving.Go(func() { _, _, _ = conn.Read(context.Background()) }) // ends with the connection
		for range 20 {
			time.Sleep(clientPingInterval * time.Second)
			mu.Lock()
			last = time.Now()
			mu.Unlock()
			require.NoError(t, conn.Write(t.Context(), websocket.MessageBinary, nil))
			require.Empty(t, pings())
		}
		time.Sleep(time.Minute)
		require.Equal(t, []time.Duration{quietTime, quietTime + pingInterval}, pings()[:2])
		require.Len(t, pings(), 6)
		require.Empty(t, ended)
		mu.Lock()
		answers, last = false, time.Now()
		mu.Unlock()
		require.NoError(t, conn.Write(t.Context(), websocket.MessageBinary, nil))
		require.LessOrEqual(t, (<-ended).Sub(last), pingInterval+pingTimeout+lastWords)
	})
}

// onlyConn is a listener that gives one connection.
type onlyConn struct {
	c      chan net.Conn
	closed chan struct{}
}

func (l *onlyConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.c:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *onlyConn) Close() error {
	close(l.closed)
	return nil
}

func (l *onlyConn) Addr() net.Addr { return &net.TCPAddr{} }
