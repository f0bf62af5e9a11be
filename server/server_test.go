package server_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/go-chi/chi/v5"
	"github.com/livekit/protocol/auth"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"parlor/server"
	"parlor/server/access"
)

const (
	key    = "APIkey"
	secret = "a-secret-of-thirty-two-characters"
)

func verifier() *access.Verifier { return access.NewVerifier(map[string]string{key: secret}) }

// say answers with its words and who asked.
func say(words string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := "nobody"
		if c := access.FromContext(r.Context()); c != nil {
			who = c.Grants.Identity
		}
		_, _ = io.WriteString(w, words+" for "+who)
	})
}

func complete(log *slog.Logger) server.Config {
	rest := chi.NewRouter()
	rest.Get("/rooms", say("rest").ServeHTTP)
	return server.Config{
		Verifier: verifier(), Log: log, Metrics: prometheus.NewRegistry(),
		Page: say("page"), RTC: say("rtc"), RTCv1: say("rtcv1"), Validate: say("validate"), ValidateV1: say("validatev1"),
		Twirp: map[string]http.Handler{"/twirp/livekit.RoomService/": say("twirp")},
		REST:  rest, Documents: map[string]http.Handler{"/docs": say("docs")}, CORSOrigins: []string{"*"},
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

type request struct {
	method, path, body string
	header             map[string]string
}

func ask(t *testing.T, h http.Handler, q request) *httptest.ResponseRecorder {
	t.Helper()
	if q.method == "" {
		q.method = "GET"
	}
	r := httptest.NewRequestWithContext(t.Context(), q.method, "http://server"+q.path, strings.NewReader(q.body))
	for k, v := range q.header {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestRoutes(t *testing.T) {
	c := complete(quiet())
	h := server.New(c).Handler()
	token, err := c.Verifier.Mint(key, &auth.ClaimGrants{Identity: "ada"}, time.Hour)
	require.NoError(t, err)
	bearer := map[string]string{"Authorization": "Bearer " + token}
	html := map[string]string{"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
	for _, tc := range []struct {
		request
		status int
		body   string
	}{
		{request{path: "/"}, 200, "OK"},
		{request{path: "/", method: "POST"}, 200, "OK"},
		{request{path: "/", method: "HEAD"}, 200, "OK"},
		{request{path: "/", header: html}, 200, "page for nobody"},
		{request{path: "/static/app.js"}, 200, "page for nobody"},
		{request{path: "/healthz"}, 200, "ok\n"},
		{request{path: "/readyz"}, 200, "ready\n"},
		{request{path: "/rtc"}, 200, "rtc for nobody"},
		{request{path: "//rtc", header: bearer}, 200, "rtc for ada"},
		{request{path: "/rtc/"}, 404, "404 page not found\n"},
		{request{path: "/rtc?access_token=" + token}, 200, "rtc for ada"},
		{request{path: "/rtc/v1", header: bearer}, 200, "rtcv1 for ada"},
		{request{path: "/rtc/validate", header: bearer}, 200, "validate for ada"},
		{request{path: "/rtc/v1/validate", header: bearer}, 200, "validatev1 for ada"},
		{request{path: "/rtc", header: map[string]string{"Authorization": "Bearer x"}}, 401, "invalid authorization token\n"},
		{request{path: "/rtc", header: map[string]string{"Authorization": "x"}}, 401, "invalid authorization header. Must start with Bearer \n"},
		{request{path: "/twirp/livekit.RoomService/ListRooms", method: "POST", header: bearer}, 200, "twirp for ada"},
		{request{path: "/twirp/livekit.Nope/X", method: "POST", header: bearer}, 404, "404 page not found\n"},
		{request{path: "/v1/rooms"}, 200, "rest for nobody"},
		{request{path: "/docs"}, 200, "docs for nobody"},
		{request{path: "/docs", method: "HEAD"}, 200, "docs for nobody"},
		{request{path: "/docs", method: "POST"}, 405, "this path takes GET and HEAD\n"},
		{request{path: "/nope"}, 404, "404 page not found\n"},
		{request{path: "/healthz", method: "HEAD"}, 200, "ok\n"}, // net/http keeps the body to itself
		{request{path: "/readyz", method: "HEAD"}, 200, "ready\n"},
		{request{path: "/healthz", method: "PUT"}, 405, "this path takes GET and HEAD\n"},
		{request{path: "/readyz", method: "POST"}, 405, "this path takes GET and HEAD\n"},
		{request{path: "/metrics"}, 404, "404 page not found\n"},
		{request{path: "/dev/token", method: "POST", body: `{"room":"r","identity":"i"}`}, 404, "404 page not found\n"},
	} {
		w := ask(t, h, tc.request)
		require.Equal(t, tc.status, w.Code, "%s %s", tc.method, tc.path)
		require.Equal(t, tc.body, w.Body.String(), "%s %s", tc.method, tc.path)
		if tc.status == 405 {
			require.Equal(t, "GET, HEAD", w.Header().Get("Allow"), "RFC 9110, section 15.5.6")
		}
	}
}

func TestRoutesWithoutAPage(t *testing.T) {
	h := server.New(server.Config{Verifier: verifier(), Log: quiet()}).Handler()
	w := ask(t, h, request{path: "/", header: map[string]string{"Accept": "text/html"}})
	require.Equal(t, "OK", w.Body.String())
	require.Equal(t, 404, ask(t, h, request{path: "/rtc"}).Code)
	require.Equal(t, 404, ask(t, h, request{path: "/static/x"}).Code)
}

func TestReadiness(t *testing.T) {
	c := complete(quiet())
	var unready error
	c.Ready = func(context.Context) error { return unready }
	h := server.New(c).Handler()
	require.Equal(t, 200, ask(t, h, request{path: "/readyz"}).Code)
	unready = errors.New("the database cannot be written")
	w := ask(t, h, request{path: "/readyz"})
	require.Equal(t, 503, w.Code)
	require.Equal(t, "the database cannot be written\n", w.Body.String())
	require.Equal(t, 200, ask(t, h, request{path: "/healthz"}).Code, "alive, if not ready")
}

func TestCORS(t *testing.T) {
	c := complete(quiet())
	c.DevKey = key
	h := server.New(c).Handler()
	preflight := func(path, method string) *httptest.ResponseRecorder {
		return ask(t, h, request{method: "OPTIONS", path: path, header: map[string]string{
			"Origin": "https://app.example", "Access-Control-Request-Method": method,
			"Access-Control-Request-Headers": "authorization, x-custom",
		}})
	}
	for _, path := range []string{"/twirp/livekit.RoomService/ListRooms", "/rtc/validate", "/v1/rooms", "/nope"} {
		w := preflight(path, "POST")
		require.Equal(t, 204, w.Code, path)
		require.Equal(t, "https://app.example", w.Header().Get("Access-Control-Allow-Origin"))
		require.Equal(t, "POST", w.Header().Get("Access-Control-Allow-Methods"))
		require.Equal(t, "authorization, x-custom", w.Header().Get("Access-Control-Allow-Headers"))
		require.Equal(t, "86400", w.Header().Get("Access-Control-Max-Age"))
		require.Empty(t, w.Body.String())
	}
	require.Equal(t, "PUT", preflight("/v1/rooms/r/bans/eve", "PUT").Header().Get("Access-Control-Allow-Methods"))
	w := preflight("/rtc", "PUT")
	require.Equal(t, 204, w.Code)
	require.Empty(t, w.Header().Get("Access-Control-Allow-Origin"), "a method that is not allowed")

	w = ask(t, h, request{path: "/v1/rooms", header: map[string]string{"Origin": "https://app.example"}})
	require.Equal(t, "https://app.example", w.Header().Get("Access-Control-Allow-Origin"))
	require.Equal(t, "*", w.Header().Get("Access-Control-Expose-Headers"))
	require.Contains(t, w.Header().Values("Vary"), "Origin")

	for _, path := range []string{"/rtc/validate", "/rtc/v1/validate"} {
		w = ask(t, h, request{path: path, header: map[string]string{"Authorization": "Bearer x"}})
		require.Equal(t, 401, w.Code)
		require.Equal(t, "*", w.Header().Get("Access-Control-Allow-Origin"), "also when the token is bad")
	}

	w = preflight("/dev/token", "POST")
	require.Empty(t, w.Header().Get("Access-Control-Allow-Origin"), "the page's own route is not for others")
}

func TestDevToken(t *testing.T) {
	c := complete(quiet())
	c.DevKey = key
	h := server.New(c).Handler()
	w := ask(t, h, request{method: "POST", path: "/dev/token", body: `{"room":"r","identity":"ada-1","name":"Ada"}`})
	require.Equal(t, 200, w.Code)
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	_, token, _ := strings.Cut(w.Body.String(), `"token":"`)
	token, _, _ = strings.Cut(token, `"`)
	claims, err := c.Verifier.Verify(token)
	require.NoError(t, err)
	require.Equal(t, "ada-1", claims.Grants.Identity)
	require.Equal(t, "Ada", claims.Grants.Name)
	require.Equal(t, "r", claims.Grants.Video.Room)
	require.True(t, claims.Grants.Video.RoomJoin)
	require.False(t, claims.Grants.Video.RoomAdmin || claims.Grants.Video.RoomCreate || claims.Grants.Video.RoomList)

	for _, body := range []string{"", "{", `{"room":"r"}`, `{"identity":"i"}`, `{"room":"` + strings.Repeat("x", 65<<10) + `"}`} {
		require.Equal(t, 400, ask(t, h, request{method: "POST", path: "/dev/token", body: body}).Code)
	}
	w = ask(t, h, request{
		method: "POST", path: "/dev/token", body: `{"room":"r","identity":"i"}`,
		header: map[string]string{"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
	})
	require.Equal(t, 403, w.Code, "another site's page gets no token")
}

func TestPanicIsAnAnswerAndALogLine(t *testing.T) {
	var logged bytes.Buffer
	c := complete(slog.New(slog.NewTextHandler(&logged, nil)))
	c.RTC = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") })
	c.RTCv1 = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		panic("boom")
	})
	c.Validate = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	h := server.New(c).Handler()
	w := ask(t, h, request{path: "/rtc?access_token="})
	require.Equal(t, 500, w.Code)
	require.Equal(t, "internal error\n", w.Body.String())
	require.Contains(t, logged.String(), "server_test.go")
	require.Equal(t, "half", ask(t, h, request{path: "/rtc/v1"}).Body.String())
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { ask(t, h, request{path: "/rtc/validate"}) })
}

func TestMetrics(t *testing.T) {
	c := complete(quiet())
	c.MetricsOnMain = true
	h := server.New(c).Handler()
	ask(t, h, request{path: "/v1/rooms"})
	ask(t, h, request{path: "/some/random/path"})
	w := ask(t, h, request{path: "/metrics"})
	require.Equal(t, 200, w.Code)
	require.Contains(t, w.Body.String(), `parlor_http_request_duration_seconds_count{route="/v1/rooms",status="200"} 1`)
	require.Contains(t, w.Body.String(), `{route="other",status="404"}`)
	require.NotContains(t, w.Body.String(), "random", "labels are bounded")
}

func TestTokensAreNotLogged(t *testing.T) {
	var logged bytes.Buffer
	h := server.New(complete(slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})))).Handler()
	ask(t, h, request{path: "/rtc?access_token=abc.def.ghi"})
	require.Contains(t, logged.String(), "path=/rtc")
	require.NotContains(t, logged.String(), "abc.def.ghi")
}

// start serves c on loopback; stop shuts it down and returns what Serve did.
func start(t *testing.T, c server.Config) (s *server.Server, main, metrics string, stop func() error) {
	t.Helper()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		return l
	}
	a, b := listen(), listen()
	s = server.New(c)
	done := make(chan error, 1)
	go func() {
		done <- s.Serve(t.Context(), server.Listeners{Main: []net.Listener{a}, Metrics: []net.Listener{b}})
	}()
	return s, a.Addr().String(), b.Addr().String(), func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return errors.Join(s.Shutdown(ctx), <-done)
	}
}

func TestServeAndShutdown(t *testing.T) {
	c := complete(quiet())
	c.MetricsUser, c.MetricsPassword = "prom", "passwd"
	entered, release := make(chan struct{}), make(chan struct{})
	c.RTC = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		_, _ = io.WriteString(w, "finished")
	})
	c.RTCv1 = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		_ = conn.Write(r.Context(), websocket.MessageText, []byte("hello"))
		_ = conn.Close(websocket.StatusNormalClosure, "")
	})
	_, main, metrics, stop := start(t, c)

	conn, _, err := websocket.Dial(t.Context(), "ws://"+main+"/rtc/v1", nil)
	require.NoError(t, err, "a WebSocket comes through the middlewares")
	_, hello, err := conn.Read(t.Context())
	require.NoError(t, err)
	require.Equal(t, "hello", string(hello))
	_ = conn.CloseNow()

	get := func(url, user, password string) int {
		req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
		require.NoError(t, err)
		if user != "" {
			req.SetBasicAuth(user, password)
		}
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		return resp.StatusCode
	}
	require.Equal(t, 401, get("http://"+metrics+"/metrics", "", ""))
	require.Equal(t, 401, get("http://"+metrics+"/metrics", "prom", "x"))
	require.Equal(t, 401, get("http://"+metrics+"/metrics", "x", "passwd"))
	require.Equal(t, 200, get("http://"+metrics+"/metrics", "prom", "passwd"))
	require.Equal(t, 404, get("http://"+metrics+"/v1/rooms", "prom", "passwd"), "nothing else is on that port")

	got := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + main + "/rtc")
		if err != nil {
			got <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		got <- string(body)
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	select {
	case err := <-stopped:
		t.Fatalf("did not wait for the running request: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	require.Equal(t, "finished", <-got)
	require.NoError(t, <-stopped)
	_, err = net.Dial("tcp", main)
	require.Error(t, err)
	http.DefaultClient.CloseIdleConnections()
}

func TestShutdownIsBounded(t *testing.T) {
	c := complete(quiet())
	entered := make(chan struct{})
	c.RTC = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	})
	s, main, _, _ := start(t, c)
	go func() {
		if resp, err := http.Get("http://" + main + "/rtc"); err == nil {
			resp.Body.Close()
		}
	}()
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Shutdown(ctx), context.DeadlineExceeded)
}

// TestShutdownWaitsForNoRequestThatDoesNotCome: browsers connect in advance, and some heads never
// end.
func TestShutdownWaitsForNoRequestThatDoesNotCome(t *testing.T) {
	_, main, metrics, stop := start(t, complete(quiet()))
	for _, sent := range []string{"", "GET / HTTP/1.1\r\nHost:"} {
		for _, address := range []string{main, metrics} {
			conn, err := net.Dial("tcp", address)
			require.NoError(t, err)
			defer conn.Close()
			_, err = io.WriteString(conn, sent)
			require.NoError(t, err)
		}
	}
	require.NoError(t, stop(), "as if nobody were there")
}

func TestServeFailsWhenAListenerDoes(t *testing.T) {
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		return l
	}
	broken, whole := listen(), listen()
	require.NoError(t, broken.Close())
	err := server.New(complete(quiet())).Serve(t.Context(), server.Listeners{Main: []net.Listener{broken, whole}})
	require.ErrorContains(t, err, "use of closed network connection")
	_, err = net.Dial("tcp", whole.Addr().String())
	require.Error(t, err, "the other listener is closed, too")
}

func TestTLS(t *testing.T) {
	cert, pool := selfSigned(t)
	c := complete(quiet())
	c.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	_, main, _, stop := start(t, c)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "parlor.test"}}}
	resp, err := client.Get("https://" + main + "/")
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, "OK", string(body))
	client.CloseIdleConnections()
	require.NoError(t, stop())
}

// TestOneRequestAtATime: HTTP/2 is not offered, whichever listeners there are. Clients that
// would like it get HTTP/1.1, also beside connections that come decrypted.
func TestOneRequestAtATime(t *testing.T) {
	cert, pool := selfSigned(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "parlor.test"}, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	for range 10 {
		c := complete(quiet())
		c.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1", "another"}}
		var on [2]net.Listener
		for i := range on {
			var err error
			on[i], err = net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
		}
		s := server.New(c)
		served := make(chan error, 1)
		go func() {
			served <- s.Serve(t.Context(), server.Listeners{Main: on[:1], Decrypted: on[1:]})
		}()
		for _, url := range []string{"https://" + on[0].Addr().String(), "http://" + on[1].Addr().String()} {
			resp, err := client.Get(url + "/healthz")
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, []int{200, 1}, []int{resp.StatusCode, resp.ProtoMajor})
		}
		client.CloseIdleConnections()
		require.NoError(t, s.Close())
		require.NoError(t, <-served)
	}
}

// TestHeadsAreModest: a head with very many or long fields, and a long address but that of a
// join, are refused.
func TestHeadsAreModest(t *testing.T) {
	c := complete(quiet())
	on, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	srv := server.New(c)
	go func() { served <- srv.Serve(t.Context(), server.Listeners{Main: []net.Listener{on}}) }()
	defer func() {
		require.NoError(t, srv.Close())
		require.NoError(t, <-served)
	}()
	ask := func(path string, fields, length int) int {
		req, err := http.NewRequest(http.MethodGet, "http://"+on.Addr().String()+path, nil)
		require.NoError(t, err)
		for i := range fields {
			req.Header.Add(fmt.Sprintf("X-%d", i%7), strings.Repeat("a", length))
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		return resp.StatusCode
	}
	require.Equal(t, 200, ask("/healthz", 100, 100))
	require.Equal(t, 431, ask("/healthz", 140, 1))
	require.Equal(t, 200, ask("/healthz", 1, 60_000))
	require.Equal(t, 431, ask("/healthz", 2, 40_000))
	long := strings.Repeat("a", 70_000)
	require.Equal(t, 414, ask("/healthz?a="+long, 0, 0))
	require.NotEqual(t, 414, ask("/rtc/validate?join_request="+long, 0, 0))
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"parlor.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, pool
}

// TestCORSOfRESTCanBeNarrowed to some origins or none; LiveKit's routes stay open.
func TestCORSOfRESTCanBeNarrowed(t *testing.T) {
	c := complete(quiet())
	c.CORSOrigins = []string{"https://app.example"}
	h := server.New(c).Handler()
	for _, tc := range []struct{ path, origin, want string }{
		{"/v1/rooms", "https://app.example", "https://app.example"},
		{"/v1/rooms", "https://evil.example", ""},
		{"/v1", "https://evil.example", ""},
		{"//v1/rooms", "https://evil.example", ""},
		{"/twirp/livekit.RoomService/ListRooms", "https://evil.example", "https://evil.example"},
		{"/v1x", "https://evil.example", "https://evil.example"},
	} {
		w := ask(t, h, request{path: tc.path, header: map[string]string{"Origin": tc.origin}})
		require.Equal(t, tc.want, w.Header().Get("Access-Control-Allow-Origin"), tc)
		w = ask(t, h, request{method: "OPTIONS", path: tc.path, header: map[string]string{"Origin": tc.origin, "Access-Control-Request-Method": "GET"}})
		require.Equal(t, 204, w.Code)
		require.Equal(t, tc.want, w.Header().Get("Access-Control-Allow-Origin"), tc)
		require.Equal(t, tc.want != "", w.Header().Get("Access-Control-Allow-Methods") != "", tc)
	}
}
