// Package server is the edge: the HTTP server with its routes. Its subpackages have what
// the routes need:
//
//   - config reads the configuration.
//   - access verifies tokens and checks grants.
//   - authorize asks the operator's own service whether a client may join.
//   - ratelimit bounds the requests of an address and of an API key.
//   - api is Twirp and REST.
//   - signal is LiveKit's signalling over WebSocket.
//   - agents is LiveKit's protocol for workers of agents.
//   - events is the event log over HTTP.
//   - unpack bounds what input becomes in memory.
//   - door tells HTTP, ICE and TURN apart on one TCP port.
//   - acme keeps TLS certificates.
//
// The edge translates between the wire and the domain, and decides nothing.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parlor/server/access"
	"parlor/server/admin"
	"parlor/server/ratelimit"
)

// The limits of every connection.
const (
	headerTimeout = 10 * time.Second       // for a request's head
	readTimeout   = time.Minute            // for a whole request; a WebSocket is exempt once upgraded
	writeTimeout  = time.Minute            // for an answer to be taken; streaming handlers lift it
	idleTimeout   = 2 * time.Minute        // between two requests
	headGrace     = 100 * time.Millisecond // for a request's head, in a stop
	// maxHeader bounds a request's head. A join_request is in the URL, compressed and in
	// base64.
	maxHeader = 1 << 20
)

// Config is what a [Server] serves. A nil handler means that its route does not exist.
type Config struct {
	Verifier *access.Verifier
	Log      *slog.Logger
	// Metrics is the registry that /metrics shows. The server adds its own metrics.
	Metrics *prometheus.Registry
	// Ready returns nil if the server takes work, or why not. It answers /readyz.
	Ready func(context.Context) error
	// Ails, if given, tells what is wrong while the server takes work; "" is nothing. It
	// is shown in the answer of /readyz.
	Ails func() string

	Page                 http.Handler            // "/" for browsers, and "/static/…"
	RTC, RTCv1           http.Handler            // WebSocket signalling
	Agents               http.Handler            // WebSocket of agents' workers
	Validate, ValidateV1 http.Handler            // whether a join would be let in
	Twirp                map[string]http.Handler // by path prefix
	REST                 http.Handler            // mounted at "/v1"; checks credentials itself
	Documents            map[string]http.Handler // by path: the documentation of REST, for everybody

	// Admin are the sessions of the dashboard, whose page is Dashboard; nil = there is
	// none. AdminApart has it on a port of its own alone.
	Admin      *admin.Sessions
	Dashboard  http.Handler
	AdminApart bool
	// Refusals keeps what is refused for its token; may be nil.
	Refusals *admin.Refusals

	// CORSOrigins are the origins whose pages may call REST; "*" = any.
	CORSOrigins []string
	// TrustedProxies are the proxies whose X-Forwarded-For, X-Forwarded-Proto and
	// X-Forwarded-Prefix are believed.
	TrustedProxies []netip.Prefix
	// Joins limits the signalling routes, Requests limits Twirp; REST has its own limits.
	// nil = no limit.
	Joins, Requests *ratelimit.Limits

	// DevKey, if set, is the API key with which POST /dev/token signs tokens for every
	// caller. It is for development alone.
	DevKey string
	// MetricsOnMain serves /metrics beside everything else, without a password.
	MetricsOnMain bool
	// MetricsUser and MetricsPassword protect /metrics on its own port; both or none.
	MetricsUser, MetricsPassword string
	// TLS, if set, is spoken on the main listeners.
	TLS *tls.Config
	// Plain answers the listeners of plain HTTP; nil: there are none.
	Plain http.Handler
}

// Server is the HTTP server. Its methods may be called concurrently.
type Server struct {
	main    *http.Server
	metrics *http.Server
	plain   *http.Server
	admin   *http.Server
	debug   *http.Server
	open    *connections // of all
	tls     bool         // TLS is spoken by main
}

// New makes a server; nothing runs before [Server.Serve].
func New(c Config) *Server {
	open := newConnections(c.TrustedProxies, c.Metrics)
	watched := observe(c.Metrics, c.Log)
	s := &Server{
		open:    open,
		main:    newHTTP(c.Log, routes(&c, watched)),
		metrics: newHTTP(c.Log, metricsOnly(&c)),
		plain:   newHTTP(c.Log, c.Plain),
		admin:   newHTTP(c.Log, adminOnly(&c, watched)),
		debug:   newHTTP(c.Log, debugOnly()),
		tls:     c.TLS != nil,
	}
	s.debug.ReadTimeout, s.debug.WriteTimeout = 0, 0 // a profile takes as long as it is asked for
	s.main.TLSConfig, s.admin.TLSConfig = c.TLS, c.TLS
	for _, one := range s.all() {
		one.ConnState, one.Handler = open.state, open.modest(one.Handler)
	}
	return s
}

func (s *Server) all() []*http.Server {
	return []*http.Server{s.main, s.metrics, s.plain, s.admin, s.debug}
}

func newHTTP(log *slog.Logger, h http.Handler) *http.Server {
	// HTTP/2 alone is left out: the heads of one connection's streams would take as much
	// memory as those of hundreds of connections, which are counted. WebSockets need HTTP/1.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Protocols:         &protocols,
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		// Its messages are about clients that send garbage.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// Listeners are the listeners of a [Server].
type Listeners struct {
	// Main serves everything but metrics, over TLS if there is a certificate. Decrypted
	// serves the same where TLS has ended already.
	Main, Decrypted []net.Listener
	Metrics         []net.Listener
	Plain           []net.Listener // of Config.Plain
	Admin           []net.Listener // of the dashboard alone, over TLS as Main
	Debug           []net.Listener // of profiles
}

// Serve serves until [Server.Shutdown], and then returns nil. If a listener fails, it
// closes all of them and returns the failure. It closes the listeners in any case. ctx is
// the parent of every request's context.
func (s *Server) Serve(ctx context.Context, on Listeners) error {
	base := func(net.Listener) context.Context { return ctx }
	for _, one := range s.all() {
		one.BaseContext = base
	}

	// Each goroutine ends when its listener does, and is waited for here.
	var serving sync.WaitGroup
	failed := make(chan error, len(on.Main)+len(on.Decrypted)+len(on.Metrics)+len(on.Plain)+len(on.Admin)+len(on.Debug))
	run := func(srv *http.Server, l net.Listener, overTLS bool) {
		serving.Go(func() {
			if err := s.serve(srv, l, overTLS); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve %s: %w", l.Addr(), err)
				_ = s.Close() // ends the others; its error would be this failure again
			}
		})
	}
	for _, l := range on.Main {
		run(s.main, l, s.tls)
	}
	for _, l := range on.Decrypted {
		run(s.main, l, false)
	}
	for _, l := range on.Metrics {
		run(s.metrics, l, false)
	}
	for _, l := range on.Plain {
		run(s.plain, l, false)
	}
	for _, l := range on.Admin {
		run(s.admin, l, s.tls)
	}
	for _, l := range on.Debug {
		run(s.debug, l, false)
	}
	serving.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

func (s *Server) serve(srv *http.Server, l net.Listener, overTLS bool) error {
	l = s.open.listen(l)
	if overTLS {
		return srv.ServeTLS(l, "", "") // the certificate is in TLSConfig
	}
	return srv.Serve(l)
}

// Shutdown closes the listeners and waits for running requests until ctx ends, then cuts
// off the rest. It does not wait for WebSockets: their handlers must end them first.
// Requests whose head is still on its way have [headGrace].
func (s *Server) Shutdown(ctx context.Context) error {
	defer time.AfterFunc(headGrace, s.open.dismiss).Stop()
	var err error
	for _, one := range s.all() {
		err = errors.Join(err, one.Shutdown(ctx))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("wait for running requests: %w", err), s.Close())
	}
	return nil
}

// Close closes all connections at once.
func (s *Server) Close() error {
	var err error
	for _, one := range s.all() {
		err = errors.Join(err, one.Close())
	}
	return err
}
