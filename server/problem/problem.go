// Package problem is what /v1 answers when it cannot do what it was asked: problem
// details of RFC 9457.
package problem

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// RetryAfter is when to try again what is unavailable, in seconds: about what a
// restart takes.
const RetryAfter = "1"

// Problem is an error of the REST API, as it is told. The type is always about:blank, so
// the title is the status' text (section 4.2.1); Code is the stable name to program
// against.
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

// Field is what is wrong with one field or parameter.
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

// Fields is a 400 for a body or query some of whose fields are wrong.
func Fields(wrong ...Field) *Problem {
	p := New(http.StatusBadRequest, "invalid_argument", "%s: %s", wrong[0].Path, wrong[0].Detail)
	p.Errors = wrong
	return p
}

// Write answers with p. A Retry-After that is set already stays.
func (p *Problem) Write(w http.ResponseWriter) {
	h := w.Header()
	switch p.Status {
	case http.StatusUnauthorized:
		// Not Basic, which is taken too: a browser would ask its user for the API key and
		// its secret, remember them, and send them with the forms of any site.
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
	if err != nil { // our own types: only a bug gets here
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone
}
