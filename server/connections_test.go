package server_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"parlor/server"
)

// serving is a server on a port of 127.0.0.1.
func serving(t *testing.T, c server.Config) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := server.New(c)
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), server.Listeners{Main: []net.Listener{l}}) }() // ends with Close
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.NoError(t, <-served)
	})
	return l.Addr().String()
}

// dialFrom connects from that address of this machine.
func dialFrom(t *testing.T, from, to string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.DialContext(t.Context(), "tcp", to)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// asks sends a request on conn and returns the answer's status.
func asks(t *testing.T, conn net.Conn) int {
	t.Helper()
	_, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}

func counted(t *testing.T, r *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := r.Gather()
	require.NoError(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

// TestSilentConnectionsAreBounded for each address: others connect as before, and what
// is too much is told so.
func TestSilentConnectionsAreBounded(t *testing.T) {
	c := complete(quiet())
	address := serving(t, c)
	var silent []net.Conn
	for range 300 {
		silent = append(silent, dialFrom(t, "127.0.0.1", address))
	}
	answer := make([]byte, 12)
	_, err := io.ReadFull(silent[299], answer)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 503", string(answer))
	require.Equal(t, 200, asks(t, dialFrom(t, "127.0.0.2", address)))
	require.Equal(t, 200, asks(t, silent[0]), "and so do those that were there first")
	require.Eventually(t, func() bool {
		return counted(t, c.Metrics, "parlor_http_connections_refused_total", "waiting") == 44
	}, time.Minute, time.Millisecond)
	for _, conn := range silent {
		require.NoError(t, conn.Close())
	}
	require.Eventually(t, func() bool { return counted(t, c.Metrics, "parlor_http_connections_waiting", "") <= 1 }, time.Minute, time.Millisecond)
	require.Equal(t, 200, asks(t, dialFrom(t, "127.0.0.1", address)))
}

// TestLongHeadsAreBounded: a few long heads may be unfinished at one time. Further
// long ones are refused, and ordinary requests notice nothing.
func TestLongHeadsAreBounded(t *testing.T) {
	c := complete(quiet())
	address := serving(t, c)
	head := "GET /rtc?join_request=" + strings.Repeat("x", 900<<10)
	refused := 0
	for range 40 {
		conn := dialFrom(t, "127.0.0.1", address)
		_, _ = io.WriteString(conn, head) // refused before its end, or held
		if counted(t, c.Metrics, "parlor_http_connections_refused_total", "head") > 0 {
			refused++
		}
		require.Equal(t, 200, asks(t, dialFrom(t, "127.0.0.1", address)))
	}
	require.Eventually(t, func() bool {
		return counted(t, c.Metrics, "parlor_http_connections_refused_total", "head") >= 32
	}, time.Minute, time.Millisecond)
	require.Positive(t, refused)
	long := dialFrom(t, "127.0.0.2", address)
	_, err := io.WriteString(long, head+" HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(long), nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 200, resp.StatusCode, "a long head of another address is taken")
}
