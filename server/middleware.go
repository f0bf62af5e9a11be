package server

import (
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/prometheus/client_golang/prometheus"
)

// recovery turns a handler's panic into a 500, if nothing was answered yet, and a log
// line with the stack. It leaves http.ErrAbortHandler to net/http. It must run inside
// observe, whose writer it uses.
func recovery(log *slog.Logger) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				v := recover()
				if v == nil {
					return
				}
				if v == http.ErrAbortHandler { // net/http compares it this way
					panic(v)
				}
				log.Error("panic in a handler", "method", r.Method, "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
				if answer, ok := w.(middleware.WrapResponseWriter); ok && answer.Status() == 0 {
					http.Error(w, "internal error", http.StatusInternalServerError)
				}
			}()
			next.ServeHTTP(w, r)
		})
	}
}

// observe counts requests by route and status, and logs them at debug level without their
// query, which may have a token.
func observe(registry *prometheus.Registry, log *slog.Logger) func(http.Handler) http.Handler {
	requests := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "parlor_http_request_duration_seconds",
		Help:    "Time to answer HTTP requests, by route and status. A WebSocket counts when it ends.",
		Buckets: []float64{.001, .005, .025, .1, .5, 2.5, 10, 60},
	}, []string{"route", "status"})
	if registry != nil {
		registry.MustRegister(requests)
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
			began := time.Now()
			defer func() { // also when the handler panics
				route := chi.RouteContext(r.Context()).RoutePattern()
				if route == "" {
					route = "other"
				}
				took, status := time.Since(began), answer.Status()
				requests.WithLabelValues(route, statusLabel(status)).Observe(took.Seconds())
				log.Debug("request", "method", r.Method, "path", r.URL.Path, "status", status, "took", took)
			}()
			next.ServeHTTP(answer, r)
		})
	}
}

// statusLabel is the label of a status; 0 is a connection that a handler took over.
func statusLabel(status int) string {
	if status == 0 {
		return "upgraded"
	}
	return strconv.Itoa(status)
}

// corsMethod reports whether pages of every origin may use a method. Tokens, not origins,
// keep strangers out.
func corsMethod(m, path string) bool {
	switch m {
	case http.MethodOptions, http.MethodHead, http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete:
		return true
	}
	return m == http.MethodPut && isREST(path) // no route of LiveKit has PUT
}

func isREST(path string) bool { return path == "/v1" || strings.HasPrefix(path, "/v1/") }

// cors lets pages of any origin use the server, except REST, which only pages of the
// given origins may use ("*" = any). It answers preflights (Fetch standard, section 3.2)
// as LiveKit does: with 204, everything echoed, cached for a day.
func cors(rest []string) func(http.Handler) http.Handler {
	allowed := func(origin, path string) bool {
		return origin != "" && !noCORS(path) &&
			(!isREST(path) || slices.Contains(rest, "*") || slices.Contains(rest, origin))
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			origin := r.Header.Get("Origin")
			method := r.Header.Get("Access-Control-Request-Method")
			preflight := r.Method == http.MethodOptions && method != ""
			h.Add("Vary", "Origin")
			if preflight {
				h.Add("Vary", "Access-Control-Request-Method")
				h.Add("Vary", "Access-Control-Request-Headers")
			}
			ok := allowed(origin, r.URL.Path)
			if ok {
				h.Set("Access-Control-Allow-Origin", origin)
			}
			switch {
			case !preflight:
				if ok {
					h.Set("Access-Control-Expose-Headers", "*")
				}
				next.ServeHTTP(w, r)
				return
			case ok && corsMethod(method, r.URL.Path):
				h.Set("Access-Control-Allow-Methods", method)
				if headers := r.Header.Get("Access-Control-Request-Headers"); headers != "" {
					h.Set("Access-Control-Allow-Headers", headers)
				}
				h.Set("Access-Control-Max-Age", "86400")
			case ok:
				h.Del("Access-Control-Allow-Origin")
			}
			w.WriteHeader(http.StatusNoContent)
		})
	}
}

// noCORS reports whether a route is for the server's own page alone.
func noCORS(path string) bool { return strings.HasPrefix(path, "/dev/") }

// validateCORS lets every origin read the validate routes, also when an earlier handler
// answers: a page asks there why its WebSocket was refused.
func validateCORS(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/rtc/validate" || r.URL.Path == "/rtc/v1/validate" {
			w.Header().Set("Access-Control-Allow-Origin", "*")
		}
		next.ServeHTTP(w, r)
	})
}
