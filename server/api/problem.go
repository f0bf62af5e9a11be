package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"parlor/rooms"
	eventlog "parlor/rooms/log"
	"parlor/server/access"
)

// problem is an error of the REST API: problem details of RFC 9457. The type is
// always about:blank, so the title is the status' text (section 4.2.1); Code is
// the stable name to program against.
type problem struct {
	Type   string         `json:"type"`
	Title  string         `json:"title"`
	Status int            `json:"status"`
	Code   string         `json:"code" doc:"Stable: the name to program against."`
	Detail string         `json:"detail"`
	Errors []fieldProblem `json:"errors,omitempty" doc:"What is wrong with which field or parameter."`
	Oldest int64          `json:"oldest,omitempty" doc:"With code pruned: the oldest seq that is left."`
	Newest int64          `json:"newest,omitempty" doc:"With code ahead: the newest seq."`
}

// fieldProblem is what is wrong with one field or parameter.
type fieldProblem struct {
	Path   string `json:"path"`
	Detail string `json:"detail"`
}

func (p *problem) Error() string { return p.Detail }

// refused is a problem with a body that was not decoded, and which of unpack's errors
// that was.
type refused struct {
	*problem
	why error
}

func (r *refused) Unwrap() []error { return []error{r.problem, r.why} }

func problemf(status int, code, format string, args ...any) *problem {
	return &problem{
		Type: "about:blank", Title: http.StatusText(status),
		Status: status, Code: code, Detail: fmt.Sprintf(format, args...),
	}
}

// fieldsProblem is a 400 for a body or query some of whose fields are wrong.
func fieldsProblem(wrong ...fieldProblem) *problem {
	p := problemf(http.StatusBadRequest, "invalid_argument", "%s: %s", wrong[0].Path, wrong[0].Detail)
	p.Errors = wrong
	return p
}

// asProblem is the one place that says what a failure is in REST.
func asProblem(r *http.Request, log *slog.Logger, err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	if errors.Is(err, access.ErrDenied) {
		if access.FromContext(r.Context()) == nil {
			return problemf(http.StatusUnauthorized, "unauthenticated",
				"this needs an access token as Bearer, or an API key and its secret as Basic")
		}
		return problemf(http.StatusForbidden, "permission_denied", "the token lacks the grant that this needs")
	}
	if errors.Is(err, rooms.ErrRoomFull) {
		// RFC 9110, section 15.5.10: the state is in the way; 429 would be the caller's pace.
		return problemf(http.StatusConflict, "room_full", "%s", rooms.ErrRoomFull.Msg)
	}
	if errors.Is(err, rooms.ErrDataTooLarge) {
		return problemf(http.StatusRequestEntityTooLarge, "too_large", "%s", rooms.ErrDataTooLarge.Msg)
	}
	if errors.Is(err, eventlog.ErrNoEndpoint) {
		return problemf(http.StatusNotFound, "not_found", "%s", err)
	}
	e := tell(r.Context(), log, r.Method+" "+r.URL.Path, err)
	status := http.StatusInternalServerError
	switch e.Code {
	case rooms.NotFound:
		status = http.StatusNotFound
	case rooms.Exists:
		status = http.StatusConflict
	case rooms.Invalid:
		status = http.StatusBadRequest
	case rooms.Denied:
		status = http.StatusForbidden
	case rooms.Precondition:
		status = http.StatusConflict
		if r.Header.Get("If-Match") != "" {
			status = http.StatusPreconditionFailed
		}
	case rooms.Exhausted:
		status = http.StatusTooManyRequests
	case rooms.Unavailable:
		status = http.StatusServiceUnavailable
	case rooms.Internal:
	}
	return problemf(status, string(e.Code), "%s", e.Msg)
}

func (p *problem) write(w http.ResponseWriter) {
	h := w.Header()
	switch p.Status {
	case http.StatusUnauthorized:
		// Not Basic, which is taken too: a browser would ask its user for the API key and
		// its secret, remember them, and send them with the forms of any site.
		h.Set("WWW-Authenticate", `Bearer realm="parlor"`)
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", retryAfter)
	}
	writeJSON(w, p.Status, "application/problem+json", p)
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil { // our own types: only a bug gets here
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone
}
