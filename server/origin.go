package server

import (
	"net/http"
	"slices"
)

// ownOrigin refuses REST requests that a page of another origin makes with an API key and
// secret that the browser remembers (HTTP Basic): a form needs no preflight. Pages of the
// allowed origins may make them; "*" names none. Tokens need no check, because browsers
// do not send them on their own.
func ownOrigin(allowed []string, next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, _, basic := r.BasicAuth(); basic && !slices.Contains(allowed, r.Header.Get("Origin")) && protection.Check(r) != nil {
			http.Error(w, "a page of another origin must not act with an API key and its secret: use an access token", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// fewParameters refuses queries with more parameters than any route has. The query is
// parsed before the token is verified, because it may hold the token.
func fewParameters(next http.Handler) http.Handler {
	const most = 256
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := 0
		for i := range len(r.URL.RawQuery) {
			if r.URL.RawQuery[i] == '&' {
				n++
			}
		}
		if n >= most {
			http.Error(w, "the query has too many parameters", http.StatusBadRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}
