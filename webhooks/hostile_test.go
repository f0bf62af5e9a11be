package webhooks_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/webhooks"
)

// listen serves h on loopback until the test ends.
func listen(t *testing.T, useTLS bool, h http.HandlerFunc, set ...func(*http.Server)) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // its complaints are expected
	s.EnableHTTP2 = useTLS
	for _, f := range set {
		f(s.Config)
	}
	if useTLS {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func hijack(t *testing.T, w http.ResponseWriter) net.Conn {
	c, _, err := w.(http.Hijacker).Hijack()
	require.NoError(t, err)
	return c
}

// reset closes c in a way that makes its peer get a RST.
func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

// TestHostileReceivers: each fails for a number of requests, and then works.
func TestHostileReceivers(t *testing.T) {
	elsewhere := listen(t, false, func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") })
	bad := map[string]http.HandlerFunc{
		"resets at once": func(w http.ResponseWriter, _ *http.Request) { reset(hijack(t, w)) },
		"closes at once": func(w http.ResponseWriter, _ *http.Request) { _ = hijack(t, w).Close() },
		"resets mid-status": func(w http.ResponseWriter, _ *http.Request) {
			c := hijack(t, w)
			fmt.Fprint(c, "HTTP/1.1 20")
			reset(c)
		},
		"speaks nonsense": func(w http.ResponseWriter, _ *http.Request) {
			c := hijack(t, w)
			fmt.Fprint(c, "what?\r\n\r\n")
			_ = c.Close()
		},
		"header without end": func(w http.ResponseWriter, _ *http.Request) {
			c := hijack(t, w)
			defer c.Close()
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\n")
			for {
				if _, err := fmt.Fprint(c, "X-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"); err != nil {
					return
				}
			}
		},
		"100 without end": func(w http.ResponseWriter, _ *http.Request) {
			c := hijack(t, w)
			defer c.Close()
			for {
				if _, err := fmt.Fprint(c, "HTTP/1.1 103 Early Hints\r\n\r\n"); err != nil {
					return
				}
			}
		},
		"hangs": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"switches": func(w http.ResponseWriter, _ *http.Request) {
			c := hijack(t, w)
			fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			_ = c.Close()
		},
		"redirects": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		},
		"404": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) },
		"500 with gigabytes": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			flood(w)
		},
	}
	for name, h := range bad {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := &receiver{t: t}
			var n atomic.Int64
			s := listen(t, false, func(rw http.ResponseWriter, req *http.Request) {
				if n.Add(1) <= 6 {
					_, _ = io.Copy(io.Discard, req.Body) // otherwise the server does not notice the end of the connection
					h(rw, req)
					return
				}
				r.serve(rw, req)
			})
			fast := []time.Duration{10 * time.Millisecond, 20 * time.Millisecond}
			for range 30 {
				fast = append(fast, 50*time.Millisecond)
			}
			w.start(webhooks.Config{
				Endpoints: []webhooks.Endpoint{{URL: s.URL, Ordering: webhooks.Strict}},
				Schedule:  fast, ProbeMin: 10 * time.Millisecond, ProbeMax: 50 * time.Millisecond, Timeout: 500 * time.Millisecond,
			})
			w.room("a", story...)
			w.room("b", story...)
			require.Eventually(t, func() bool { return w.stats().Delivered == 12 }, time.Minute, 5*time.Millisecond)
			w.requireAll(r.took())
			st := w.stats()
			require.NotEmpty(t, st.LastError)
			require.Less(t, len(st.LastError), 600)
		})
	}
}

// flood writes until the write fails.
func flood(w io.Writer) {
	chunk := make([]byte, 1<<20)
	for {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// serve handles a request like [receiver.RoundTrip].
func (r *receiver) serve(w http.ResponseWriter, req *http.Request) {
	resp, err := r.RoundTrip(req)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

// TestWhatFollowsASuccessDoesNotMatter: a 2xx status is a success, whatever the body is,
// and the body costs little.
func TestWhatFollowsASuccessDoesNotMatter(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"gigabytes": func(w http.ResponseWriter, _ *http.Request) { flood(w) },
		"reset": func(w http.ResponseWriter, _ *http.Request) {
			c := hijack(t, w)
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
			reset(c)
		},
		"never ends": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(204 - 4)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"204": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := &receiver{t: t}
			s := listen(t, false, func(rw http.ResponseWriter, req *http.Request) {
				_, err := r.RoundTrip(req)
				require.NoError(t, err)
				h(rw, req)
			})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			w.start(webhooks.Config{Endpoints: []webhooks.Endpoint{{URL: s.URL}}})
			for i := range 4 {
				w.room(fmt.Sprint("room", i))
			}
			require.Eventually(t, func() bool { return w.stats().Delivered == 4 }, time.Minute, 5*time.Millisecond)
			runtime.ReadMemStats(&after)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(32<<20))
			w.requireAll(r.took())
			require.Len(t, r.requests(), 4)
		})
	}
}

func TestBadCertificateIsAFailure(t *testing.T) {
	w := newWorld(t)
	s := listen(t, true, func(http.ResponseWriter, *http.Request) { t.Error("it was sent") })
	w.start(webhooks.Config{Endpoints: []webhooks.Endpoint{{URL: s.URL}}})
	w.room("a")
	require.Eventually(t, func() bool { return w.stats().Failures == 1 }, time.Minute, 5*time.Millisecond)
	require.Contains(t, w.stats().LastError, "bad certificate")
	require.EqualValues(t, 1, w.stats().Pending)
}

func TestNobodyListens(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	r := &receiver{t: t}
	w.start(webhooks.Config{
		Endpoints: []webhooks.Endpoint{{URL: "http://" + address}},
		ProbeMin:  10 * time.Millisecond, ProbeMax: 20 * time.Millisecond,
	})
	for i := range 20 {
		w.room(fmt.Sprint("room", i), story...)
	}
	require.Eventually(t, func() bool { return w.stats().Failures >= 8 }, time.Minute, time.Millisecond)
	l, err = net.Listen("tcp", address)
	require.NoError(t, err)
	server := &http.Server{Handler: http.HandlerFunc(r.serve)}
	go server.Serve(l) // ended by Close
	defer server.Close()
	// Requests that failed before the endpoint counted as down wait 5 seconds, or for the
	// next due one; the rest is sent at once.
	require.Eventually(t, func() bool { return w.stats().Delivered == 120 }, time.Minute, 5*time.Millisecond)
	w.requireAll(r.took())
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	for _, useTLS := range []bool{false, true} {
		t.Run(fmt.Sprint("tls=", useTLS), func(t *testing.T) {
			w := newWorld(t)
			r := &receiver{t: t}
			var proto, conns atomic.Int64
			s := listen(t, useTLS, func(rw http.ResponseWriter, req *http.Request) {
				proto.Store(int64(req.ProtoMajor))
				r.serve(rw, req)
			}, func(s *http.Server) {
				s.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
					conns.Add(1)
					return ctx
				}
			})
			pool := x509.NewCertPool()
			if useTLS {
				pool.AddCert(s.Certificate())
			}
			w.start(webhooks.Config{
				Endpoints: []webhooks.Endpoint{{URL: s.URL}},
				Transport: webhooks.NewTransport(&tls.Config{RootCAs: pool}, 8),
			})
			for i := range 40 {
				w.room(fmt.Sprint("room", i), story...)
			}
			require.Eventually(t, func() bool { return w.stats().Delivered == 240 }, time.Minute, 5*time.Millisecond)
			w.requireAll(r.took())
			require.Len(t, r.requests(), 240)
			if useTLS {
				require.EqualValues(t, 2, proto.Load(), "HTTP/2")
			}
			// A waiting request dials a connection, and may use another one that becomes
			// free first, so there may be more connections than requests.
			require.Less(t, conns.Load(), int64(60))
		})
	}
}

// TestKeptConnectionThatIsClosedIsNoFailure: servers close idle connections, and a
// request that meets this is sent again at once.
func TestKeptConnectionThatIsClosedIsNoFailure(t *testing.T) {
	w := newWorld(t)
	r := &receiver{t: t}
	var n atomic.Int64
	s := listen(t, false, func(rw http.ResponseWriter, req *http.Request) {
		if n.Add(1) == 2 {
			_ = hijack(t, rw).Close()
			return
		}
		r.serve(rw, req)
	})
	w.start(webhooks.Config{Endpoints: []webhooks.Endpoint{{URL: s.URL}}})
	w.room("a", story[0])
	require.Eventually(t, func() bool { return w.stats().Delivered == 2 }, time.Minute, time.Millisecond)
	require.Zero(t, w.stats().Failures)
	require.EqualValues(t, 3, n.Load())
}

// TestCloseWaitsForWhatItStarted, for requests under way.
func TestCloseWaitsForWhatItStarted(t *testing.T) {
	w := newWorld(t)
	arrived := make(chan struct{}, 100)
	s := listen(t, false, func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	d := webhooks.New(w.config(webhooks.Config{Endpoints: []webhooks.Endpoint{{URL: s.URL}}}))
	require.NoError(t, d.Start(context.Background()))
	for i := range 20 {
		w.room(fmt.Sprint("room", i))
	}
	for range 8 {
		<-arrived
	}
	begin := time.Now()
	d.Close()
	d.Close()
	require.Less(t, time.Since(begin), 5*time.Second)
	require.Zero(t, w.stats().Failures)
	require.EqualValues(t, 20, w.stats().Pending)
}
