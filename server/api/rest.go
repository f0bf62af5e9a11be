package api

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/go-chi/chi/v5"

	"parlor/rooms"
	"parlor/server/access"
	"parlor/server/admin"
	"parlor/server/problem"
	"parlor/server/ratelimit"
)

// The bounds of a page of a list.
const (
	defaultPage = 100
	maxPage     = 500
)

// rest is the API under /v1. Conventions, for every route:
//
//   - bodies are JSON in snake_case; unknown fields are refused with their paths;
//   - errors are problem details (RFC 9457) with a stable code;
//   - times are RFC 3339 in UTC; timeouts are whole seconds or "never";
//   - lists come in pages: limit, and the cursor from the previous page;
//   - rooms and participants have an ETag (RFC 9110, section 8.8.3) for If-Match;
//   - a POST with an Idempotency-Key is done once: see [replies].
type rest struct {
	Config
	replies *replies
	newest  lastOverview
	tails   atomic.Int64 // streams of the log
	knocks  *knocks
	replica lastReplica
}

// REST returns the API, to be mounted at /v1. It checks credentials itself: a token, or
// an API key and its secret as HTTP Basic.
func REST(c Config) chi.Router {
	s := &rest{Config: c, replies: newReplies(c.Replies), knocks: newKnocks(), replica: lastReplica{turn: make(chan struct{}, 1)}}
	r := chi.NewRouter()
	r.Use(func(next http.Handler) http.Handler { return c.Requests.Addresses(next, http.HandlerFunc(tooOften)) })
	r.Use(func(next http.Handler) http.Handler {
		return c.Verifier.MiddlewareBasic(next, func(w http.ResponseWriter, r *http.Request, err error) {
			attrs := append([]any{"method", r.Method, "path", r.URL.Path}, by(r.Context(), r.RemoteAddr)...)
			c.Log.Info("API call refused", append(attrs, "status", http.StatusUnauthorized, "why", err.Error())...)
			s.Dashboard.Refusals.Add(admin.Refusal{
				What: "call", Call: r.Method + " " + r.URL.Path, Status: http.StatusUnauthorized,
				Address: access.Address(r.RemoteAddr), Agent: r.UserAgent(), Why: err.Error(),
			})
			problem.New(http.StatusUnauthorized, "unauthenticated", "%s", err.Error()).Write(w)
		})
	})
	r.Use(func(next http.Handler) http.Handler { return c.Requests.Keys(next, http.HandlerFunc(tooOften)) })
	r.NotFound(func(w http.ResponseWriter, _ *http.Request) {
		problem.New(http.StatusNotFound, "no_such_route", "there is nothing at this path").Write(w)
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Allow", strings.Join(methodsOf(r, req), ", ")) // RFC 9110, section 15.5.6
		problem.New(http.StatusMethodNotAllowed, "method_not_allowed", "this path does not take this method").Write(w)
	})
	for _, op := range s.operations() {
		var h http.Handler = s.serve(&op)
		if op.bound != nil {
			h = op.bound.Addresses(h, http.HandlerFunc(tooOften))
		}
		r.Method(op.method, op.path, h)
		if op.method == get { // RFC 9110, section 9.3.2; the server leaves the body out
			r.Method(http.MethodHead, op.path, h)
		}
	}
	return r
}

// methodsOf lists the methods of r's path.
func methodsOf(router chi.Routes, r *http.Request) (methods []string) {
	for _, m := range []string{get, http.MethodHead, post, put, patch, del} {
		if router.Match(chi.NewRouteContext(), m, chi.RouteContext(r.Context()).RoutePath) {
			methods = append(methods, m)
		}
	}
	return methods
}

func tooOften(w http.ResponseWriter, _ *http.Request) {
	problem.New(http.StatusTooManyRequests, "rate_limited", "too many requests, try again later").Write(w)
}

// handler answers a request, or returns an error for [asProblem] to answer.
type handler func(http.ResponseWriter, *http.Request) error

// operation is one line of the API's table: [REST] routes by it, and the OpenAPI document
// is made from it.
type operation struct {
	method, path string // the path beneath /v1
	id           string // the name that generated clients give it
	tag          string
	summary      string
	grant        grant
	query        []parameter
	size         bodySize
	body         any  // zero value of the request's body; nil = none
	optional     bool // the body may be left out
	example      string
	status       int
	alsoOK       bool              // or 200, with the same body
	answer       any               // zero value of the answer's body; nil = none
	accepted     any               // zero value of the body of 202, where that is an answer too; nil = it is not
	stream       bool              // or a stream of server-sent events
	conditional  bool              // takes If-Match
	secret       bool              // the answer must not be stored
	open         bool              // takes its credentials in the body; it takes no Idempotency-Key then
	role         access.Role       // the least that a session of the dashboard needs; see least
	bound        *ratelimit.Limits // a limit for each client address, besides that of all requests; nil = none
	handle       handler
}

// parameter is a query parameter.
type parameter struct {
	name, doc string
	number    bool
	many      bool // may be given more than once
	values    []string
}

// grant is the right that a caller needs.
type grant struct {
	doc    string
	ensure func(*http.Request) error
}

// least is the least role that a session of the dashboard needs for op: looking is what
// can be got.
func (op *operation) least() access.Role {
	switch {
	case op.role != access.NoRole:
		return op.role
	case op.method == get:
		return access.Look
	}
	return access.All
}

// serve handles op. It checks the grant first, so that a caller without it learns nothing
// else.
func (s *rest) serve(op *operation) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		r = r.WithContext(context.WithValue(r.Context(), subjectKey{}, &subject{}))
		if err := s.run(op, w, r); err != nil {
			p := asProblem(r, s.Log, err)
			s.tellDone(op, r, p)
			p.Write(w)
			return
		}
		s.tellDone(op, r, nil)
	}
}

func (s *rest) run(op *operation, w http.ResponseWriter, r *http.Request) error {
	if err := access.EnsureRole(r.Context(), op.least()); err != nil {
		return err
	}
	ctx, err := s.asDecided(r.Context())
	if err != nil {
		return err
	}
	r = r.WithContext(ctx)
	if err := op.grant.ensure(r); err != nil {
		return err
	}
	if err := s.admissible(r.Context()); err != nil {
		return err
	}
	if err := readable(r); err != nil {
		return err
	}
	params, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil { // the part that could be read may not be all that was meant
		return problem.New(http.StatusBadRequest, "malformed", "the query is not escaped correctly")
	}
	if err := op.known(params); err != nil {
		return err
	}
	if err := limitBody(w, r, op.size.bytes(&s.Config, true)); err != nil {
		return s.Guard.Refused("rest", bodyProblem(err))
	}
	if key := r.Header.Get("Idempotency-Key"); key != "" && op.method == http.MethodPost && !op.open {
		return s.Guard.Refused("rest", s.replies.once(w, r, key, op.secret, s.Log, func(w http.ResponseWriter, r *http.Request) error {
			return s.do(op, w, r)
		}))
	}
	return s.do(op, w, r)
}

// do handles a request; an operation without a body refuses one that says something.
func (s *rest) do(op *operation, w http.ResponseWriter, r *http.Request) error {
	if op.body == nil {
		if err := s.readOptionalJSON(r, &struct{}{}); err != nil {
			return s.Guard.Refused("rest", err)
		}
	}
	return s.Guard.Refused("rest", op.handle(w, r))
}

// known refuses query parameters that the operation does not have, that are given twice,
// or that are not text. Every operation has access_token.
func (op *operation) known(params url.Values) error {
	var wrong []problem.Field
	for name, values := range params {
		at := slices.IndexFunc(op.query, func(p parameter) bool { return p.name == name })
		switch {
		case at < 0 && name != "access_token":
			wrong = append(wrong, problem.Field{Path: name, Detail: "unknown parameter"})
		case len(values) > 1 && (at < 0 || !op.query[at].many):
			wrong = append(wrong, problem.Field{Path: name, Detail: "is given twice"})
		case slices.ContainsFunc(values, func(v string) bool { return unreadable(v) != "" }):
			wrong = append(wrong, problem.Field{Path: name, Detail: notUnicode + " without a NUL"})
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	slices.SortFunc(wrong, func(a, b problem.Field) int { return strings.Compare(a.Path, b.Path) })
	return problem.Fields(wrong...)
}

// The grants.
var (
	toCreate = grant{"roomCreate", func(r *http.Request) error { return access.EnsureCreate(r.Context()) }}
	toList   = grant{"roomList", func(r *http.Request) error { return access.EnsureList(r.Context()) }}
	toAdmin  = grant{"roomAdmin of the room", func(r *http.Request) error {
		name, err := pathValue(r, "name")
		if err != nil {
			return err
		}
		if name == "" { // a token of no room administers none
			return access.ErrDenied
		}
		return access.EnsureAdmin(r.Context(), name)
	}}
	toSee = grant{"roomList, or roomAdmin of the room", func(r *http.Request) error {
		if access.EnsureList(r.Context()) == nil {
			return nil
		}
		return toAdmin.ensure(r)
	}}
	// Events show participants, so roomList is not enough. A room name that looks like an
	// SID would let its admin read another room's events.
	toPull = grant{"roomAdmin of the room that room= names; for the whole log, the API key and its secret", func(r *http.Request) error {
		if toOperate.ensure(r) == nil {
			return nil
		}
		room := r.URL.Query().Get("room")
		if room == "" || strings.HasPrefix(room, "RM_") {
			return access.ErrDenied
		}
		return access.EnsureAdmin(r.Context(), room)
	}}
	toSignIn  = grant{"no credentials but those of its body", func(*http.Request) error { return nil }}
	toSession = grant{"a session of the dashboard", func(r *http.Request) error {
		if c := access.FromContext(r.Context()); c == nil || c.Session == "" {
			return access.ErrDenied
		}
		return nil
	}}
	toOperate = grant{"the API key and its secret, as HTTP Basic", func(r *http.Request) error {
		if c := access.FromContext(r.Context()); c == nil || !c.Server {
			return access.ErrDenied
		}
		return nil
	}}
)

// toRecall is the grant for the past sessions of a room that may have ended: roomAdmin of
// a room of its name. A token without that is not told whether the room exists.
func (s *rest) toRecall() grant {
	return grant{"roomAdmin of the room", func(r *http.Request) error {
		if toOperate.ensure(r) == nil {
			return nil
		}
		if access.FromContext(r.Context()) == nil {
			return access.ErrDenied
		}
		rec, err := s.recordBySID(r)
		if rooms.ErrorCode(err) == rooms.NotFound {
			return access.ErrDenied
		}
		if err != nil {
			return err
		}
		return access.EnsureAdmin(r.Context(), rec.Name)
	}}
}

// pathValue is a variable of the path. The router matches the escaped path if there is
// one, so that a name may contain a slash.
func pathValue(r *http.Request, name string) (string, error) {
	value := chi.URLParam(r, name)
	if r.URL.RawPath == "" {
		return value, nil
	}
	value, err := url.PathUnescape(value)
	if err != nil {
		return "", problem.New(http.StatusBadRequest, "malformed", "the path is not escaped correctly")
	}
	return value, nil
}

// pathValues are several variables of the path.
func pathValues(r *http.Request, names ...string) ([]string, error) {
	values := make([]string, len(names))
	for i, name := range names {
		var err error
		if values[i], err = pathValue(r, name); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// pageSize reads the parameter limit.
func pageSize(params url.Values) (int, *problem.Field) {
	s := params.Get("limit")
	if s == "" {
		return defaultPage, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxPage {
		return 0, &problem.Field{Path: "limit", Detail: "must be from 1 to " + strconv.Itoa(maxPage)}
	}
	return n, nil
}

func sendJSON(w http.ResponseWriter, status int, v any) error {
	problem.WriteJSON(w, status, "application/json", v)
	return nil
}

func sendNothing(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}
