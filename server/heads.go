package server

import (
	"net/http"
	"strings"
)

// The bounds of a complete head. It is kept for as long as its request runs, which is as long
// as the client likes to read the answer, and its fields take many times their length in
// memory.
const (
	maxFields    = 128
	maxFieldSize = 64 << 10 // of all names and values
	maxURL       = 64 << 10 // but for the signalling routes, whose join_request is longer
)

// modest refuses requests with a head beyond the bounds, and lets go of it. It must be the
// outermost handler, because others pass copies of the request on.
func (c *connections) modest(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, why := 0, ""
		switch fields, size := weigh(r.Header); {
		case fields > maxFields || size > maxFieldSize:
			status, why = http.StatusRequestHeaderFieldsTooLarge, "the request's head has too many or too long fields"
		case len(r.RequestURI) > maxURL && !strings.Contains(r.URL.Path, "/rtc"):
			status, why = http.StatusRequestURITooLong, "the request's address is too long"
		}
		if status == 0 {
			next.ServeHTTP(w, r)
			return
		}
		r.Header, r.RequestURI = http.Header{}, ""
		r.URL.Path, r.URL.RawPath, r.URL.RawQuery = "/", "", ""
		c.refused.WithLabelValues("head").Inc()
		w.Header().Set("Connection", "close")
		http.Error(w, why, status)
	})
}

// weigh is how many values a head has, and how many bytes they and their names are.
func weigh(h http.Header) (fields, size int) {
	for name, values := range h {
		for _, value := range values {
			fields++
			size += len(name) + len(value)
		}
	}
	return fields, size
}
