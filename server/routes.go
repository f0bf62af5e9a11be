package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"io"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"parlor/server/access"
	"parlor/server/admin"
	"parlor/server/api"
)

// routes is the main handler. The order of the middlewares is LiveKit's: recovery, CORS,
// a doubled first slash, credentials.
func routes(c *Config, watched func(http.Handler) http.Handler) http.Handler {
	r := chi.NewRouter()
	r.Use(clientAddress(c.TrustedProxies), watched, recovery(c.Log), cors(c.CORSOrigins), validateCORS, fewParameters)
	r.NotFound(http.NotFound)
	r.MethodNotAllowed(http.NotFound) // LiveKit answers 404 to everything that it does not know

	r.Handle("/healthz", readable(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") })))
	r.Handle("/readyz", readable(ready(c.Ready, c.Ails)))
	if c.MetricsOnMain && c.Metrics != nil {
		r.Handle("/metrics", readable(metricsHandler(c)))
	}
	r.HandleFunc("/", front(c.Page))
	if c.Page != nil {
		r.Handle("/static/*", c.Page)
	}
	if c.DevKey != "" {
		// A site that a developer visits must not fetch a token.
		r.Method(http.MethodPost, "/dev/token", http.NewCrossOriginProtection().Handler(devToken(c)))
	}
	if c.REST != nil {
		rest := c.REST
		if c.Admin != nil && !c.AdminApart {
			r.Handle("/admin", readable(c.Dashboard))
			rest = c.Admin.Middleware(rest)
		}
		r.Mount("/v1", ownOrigin(c.CORSOrigins, rest))
	}
	for path, h := range c.Documents {
		r.Handle(path, readable(h))
	}
	r.Group(func(r chi.Router) {
		r.Use(limited(c.Joins.Addresses, tooOften), verified(c, "connect refused"), limited(c.Joins.Keys, tooOften))
		handle := func(path string, h http.Handler) {
			if h != nil {
				r.Handle(path, h)
			}
		}
		handle("/rtc", c.RTC)
		handle("/rtc/v1", c.RTCv1)
		handle("/agent", c.Agents)
		handle("/rtc/validate", c.Validate)
		handle("/rtc/v1/validate", c.ValidateV1)
	})
	r.Group(func(r chi.Router) {
		r.Use(limited(c.Requests.Addresses, api.TwirpTooOften), verified(c, "API call refused"), limited(c.Requests.Keys, api.TwirpTooOften))
		for prefix, h := range c.Twirp {
			r.Handle(prefix+"*", h)
		}
	})
	return singleSlash(r)
}

// adminOnly is what the dashboard's own port serves: the page, and the API that it speaks.
func adminOnly(c *Config, watched func(http.Handler) http.Handler) http.Handler {
	r := chi.NewRouter()
	r.Use(clientAddress(c.TrustedProxies), watched, recovery(c.Log), fewParameters)
	r.NotFound(http.NotFound)
	r.MethodNotAllowed(http.NotFound)
	if c.Admin == nil || c.REST == nil {
		return r
	}
	r.Handle("/", http.RedirectHandler("/admin", http.StatusFound))
	r.Handle("/admin", readable(c.Dashboard))
	if c.Page != nil {
		r.Handle("/static/*", c.Page)
	}
	r.Mount("/v1", ownOrigin(nil, c.Admin.Middleware(c.REST)))
	return r
}

// readable is h for GET and HEAD; other methods get 405 with the allowed ones (RFC 9110,
// section 15.5.6). net/http leaves out the body of an answer to HEAD.
func readable(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "this path takes GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// limited makes a middleware of a rate limit.
func limited(bound func(next, refuse http.Handler) http.Handler, refuse http.HandlerFunc) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler { return bound(next, refuse) }
}

// verified verifies the tokens of requests. It logs requests with a bad token, because
// the handlers behind it never see them. No line has the token.
func verified(c *Config, message string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return c.Verifier.MiddlewareRefusing(next, func(w http.ResponseWriter, r *http.Request, err error) {
			// A refused client asks /rtc/validate for the reason; that refusal is logged
			// already.
			if !strings.HasSuffix(r.URL.Path, "/validate") {
				c.Log.Info(message, "path", r.URL.Path, "status", http.StatusUnauthorized, "why", err.Error(),
					"address", access.Address(r.RemoteAddr), "agent", r.UserAgent())
				what := "join"
				if strings.HasPrefix(r.URL.Path, "/twirp/") {
					what = "call"
				}
				c.Refusals.Add(admin.Refusal{
					What: what, Call: r.URL.Path, Status: http.StatusUnauthorized,
					Address: access.Address(r.RemoteAddr), Agent: r.UserAgent(), Why: err.Error(),
				})
			}
			http.Error(w, err.Error(), http.StatusUnauthorized)
		})
	}
}

// tooOften answers 503 and not 429: many versions of LiveKit's clients take any 4xx as
// final, and would not come back after a restart, when all clients come back at once.
func tooOften(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "too many connects, try again later", http.StatusServiceUnavailable)
}

// front answers "/": with the page for clients that ask for HTML, and with OK for all
// others, as LiveKit does for load balancers.
func front(page http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Accept")
		if page != nil && strings.Contains(r.Header.Get("Accept"), "text/html") {
			page.ServeHTTP(w, r)
			return
		}
		text(w, http.StatusOK, "OK")
	}
}

func ready(check func(context.Context) error, ails func() string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if check != nil {
			if err := check(r.Context()); err != nil {
				text(w, http.StatusServiceUnavailable, err.Error()+"\n")
				return
			}
		}
		answer := "ready\n"
		if ails != nil {
			if what := ails(); what != "" {
				answer = "ready, but " + what + "\n"
			}
		}
		text(w, http.StatusOK, answer)
	}
}

func text(w http.ResponseWriter, status int, s string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, s) // the client may be gone
}

// singleSlash removes one of two slashes at a path's front, which clients make of a base
// URL that ends in a slash.
func singleSlash(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "//") {
			u := *r.URL
			u.Path = u.Path[1:]
			u.RawPath = strings.TrimPrefix(u.RawPath, "/")
			r2 := *r
			r2.URL = &u
			r = &r2
		}
		next.ServeHTTP(w, r)
	})
}

func metricsHandler(c *Config) http.Handler {
	// A collector that fails, as of a damaged database, must not hide the others.
	return promhttp.HandlerFor(c.Metrics, promhttp.HandlerOpts{Registry: c.Metrics, ErrorHandling: promhttp.ContinueOnError})
}

// metricsOnly is the handler of the metrics' own port.
func metricsOnly(c *Config) http.Handler {
	mux := http.NewServeMux()
	if c.Metrics == nil {
		return mux
	}
	h := metricsHandler(c)
	if c.MetricsUser != "" {
		h = basicAuth(h, c.MetricsUser, c.MetricsPassword)
	}
	mux.Handle("GET /metrics", h)
	return mux
}

// basicAuth requires a name and a password (RFC 7617), compared in constant time.
func basicAuth(next http.Handler, user, password string) http.Handler {
	hash := func(s string) []byte { h := sha256.Sum256([]byte(s)); return h[:] }
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, p, _ := r.BasicAuth()
		sameUser := subtle.ConstantTimeCompare(hash(u), hash(user))
		if sameUser&subtle.ConstantTimeCompare(hash(p), hash(password)) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="metrics"`)
			http.Error(w, "this needs the user name and password of prometheus in the configuration", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}
