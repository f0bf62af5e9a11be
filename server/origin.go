package server

import (
	"net/http"
	"slices"
)

// ownOrigin refuses what a page of another origin has a browser send to REST with an
// API key and its secret that the browser remembers (HTTP Basic): a form needs no
// preflight. Pages of the origins in allowed may; "*" does not name any, and a token
// is nothing that a browser sends by itself.
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

// fewParameters refuses queries with more parameters than any route has. They are
// parsed before the token is read, which may stand among them.
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
