package api

import (
	"errors"
	"log/slog"
	"net/http"

	"parlor/rooms"
	eventlog "parlor/rooms/log"
	"parlor/server/access"
	"parlor/server/problem"
)

// refused is the problem of a body that was not decoded, with the error of unpack that
// caused it.
type refused struct {
	*problem.Problem
	why error
}

func (r *refused) Unwrap() []error { return []error{r.Problem, r.why} }

// asProblem is the one place that maps errors to REST's problems.
func asProblem(r *http.Request, log *slog.Logger, err error) *problem.Problem {
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return p
	}
	if errors.Is(err, access.ErrDenied) {
		if access.FromContext(r.Context()) == nil {
			return problem.New(http.StatusUnauthorized, "unauthenticated",
				"this needs an access token as Bearer, or an API key and its secret as Basic")
		}
		return problem.New(http.StatusForbidden, "permission_denied", "the token lacks the grant that this needs")
	}
	if errors.Is(err, rooms.ErrRoomFull) {
		// RFC 9110, section 15.5.10: the state conflicts; 429 would blame the caller's
		// pace.
		return problem.New(http.StatusConflict, "room_full", "%s", rooms.ErrRoomFull.Msg)
	}
	if errors.Is(err, rooms.ErrDataTooLarge) {
		return problem.New(http.StatusRequestEntityTooLarge, "too_large", "%s", rooms.ErrDataTooLarge.Msg)
	}
	if errors.Is(err, eventlog.ErrNoEndpoint) {
		return problem.New(http.StatusNotFound, "not_found", "%s", err)
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
	return problem.New(status, string(e.Code), "%s", e.Msg)
}
