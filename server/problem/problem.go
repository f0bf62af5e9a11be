// Package problem has the errors of /v1: problem details of RFC 9457.
package problem

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// RetryAfter is when to retry after an "unavailable", in seconds: about the duration of a
// restart.
const RetryAfter = "1"

// Problem is an error of the REST API on the wire. Its type is always about:blank, so the
// title is the status' text (section 4.2.1). Programs should use Code, which is stable.
type Problem struct {
	Type   string  `json:"type"`
	Title  string  `json:"title"`
	Status int     `json:"status"`
	Code   string  `json:"code" doc:"Stable: the name to program against."`
	Detail string  `json:"detail"`
	Errors []Field `json:"errors,omitempty" doc:"What is wrong with which field or parameter."`
	Oldest *int64  `json:"oldest,omitempty" doc:"With code pruned: the oldest seq that is left."`
	Newest *int64  `json:"newest,omitempty" doc:"With code ahead: the newest seq."`
}

// Field tells what is wrong with one field or parameter.
type Field struct {
	Path   string `json:"path"`
	Detail string `json:"detail"`
}

func (p *Problem) Error() string { return p.Detail }

// New makes a problem; its detail is the formatted text.
func New(status int, code, format string, args ...any) *Problem {
	return &Problem{
		Type: "about:blank", Title: http.StatusText(status),
		Status: status, Code: code, Detail: fmt.Sprintf(format, args...),
	}
}

// Fields is a 400 for a body or query with those wrong fields.
func Fields(wrong ...Field) *Problem {
	p := New(http.StatusBadRequest, "invalid_argument", "%s: %s", wrong[0].Path, wrong[0].Detail)
	p.Errors = wrong
	return p
}

// Write answers with p. It keeps a Retry-After that is set already.
func (p *Problem) Write(w http.ResponseWriter) {
	h := w.Header()
	switch p.Status {
	case http.StatusUnauthorized:
		// Not Basic, although it is accepted too: a browser would ask its user for the
		// API key and its secret, remember them, and send them with the forms of any
		// site.
		h.Set("WWW-Authenticate", `Bearer realm="parlor"`)
	case http.StatusServiceUnavailable:
		if h.Get("Retry-After") == "" {
			h.Set("Retry-After", RetryAfter)
		}
	}
	WriteJSON(w, p.Status, "application/problem+json", p)
}

// WriteJSON answers with v.
func WriteJSON(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil { // the server's own types: only a bug gets here
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone
}
