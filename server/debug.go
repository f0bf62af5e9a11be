package server

import (
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
)

// debugOnly is the handler of the profiles' own port: net/http/pprof, under the paths that
// LiveKit has too. It tells everything of the process, and a profile costs CPU time, so the
// port is for this machine alone. A page in a browser of this machine cannot ask for
// profiles either, even where its host name leads here (DNS rebinding).
func debugOnly() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		site := r.Header.Get("Sec-Fetch-Site")
		if !ofThisMachine(r.Host) || r.Header.Get("Origin") != "" || site != "" && site != "none" && site != "same-origin" {
			http.Error(w, "ask for it by the address 127.0.0.1, from the machine itself", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// ofThisMachine reports whether a Host header has a loopback address, or the name localhost.
func ofThisMachine(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
