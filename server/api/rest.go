package api

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/livekit/protocol/livekit"

	"parlor/rooms"
	"parlor/server/access"
)

// The bounds of a page of a list.
const (
	defaultPage = 100
	maxPage     = 500
)

// rest is the API under /v1. Conventions, for every route:
//
//   - bodies are JSON in snake_case; what is not known is refused with its path;
//   - errors are problem details (RFC 9457) with a stable code;
//   - times are RFC 3339 in UTC; timeouts are whole seconds or "never";
//   - lists come in pages: limit, and the cursor that the page before gave;
//   - a resource that changes has an ETag (RFC 9110, section 8.8.3).
type rest struct{ Config }

// REST returns the API, to be mounted at /v1. It checks credentials itself: a
// token, or an API key and its secret as HTTP Basic.
func REST(c Config) chi.Router {
	s := &rest{c}
	r := chi.NewRouter()
	r.Use(func(next http.Handler) http.Handler {
		return c.Verifier.MiddlewareBasic(next, func(w http.ResponseWriter, _ *http.Request, err error) {
			problemf(http.StatusUnauthorized, "unauthenticated", "%s", err.Error()).write(w)
		})
	})
	r.Use(func(next http.Handler) http.Handler { return limitBody(next, c.MaxBody) })
	r.NotFound(func(w http.ResponseWriter, _ *http.Request) {
		problemf(http.StatusNotFound, "no_such_route", "there is nothing at this path").write(w)
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, _ *http.Request) {
		problemf(http.StatusMethodNotAllowed, "method_not_allowed", "this path does not take this method").write(w)
	})
	r.Post("/rooms", s.handle(s.createRoom))
	r.Get("/rooms", s.handle(s.listRooms))
	r.Get("/rooms/{name}", s.handle(s.getRoom))
	r.Delete("/rooms/{name}", s.handle(s.deleteRoom))
	return r
}

// handle answers with the problem that f returns, if any; else f has answered.
func (s *rest) handle(f func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if err := f(w, r); err != nil {
			asProblem(r, s.Log, err).write(w)
		}
	}
}

// createRequest is the body of POST /v1/rooms.
type createRequest struct {
	Name             string            `json:"name"`
	Preset           string            `json:"preset"`
	EmptyTimeout     wireTimeout       `json:"empty_timeout"`
	DepartureTimeout wireTimeout       `json:"departure_timeout"`
	MaxParticipants  uint32            `json:"max_participants"`
	Metadata         string            `json:"metadata"`
	Tags             map[string]string `json:"tags"`
	MinPlayoutDelay  uint32            `json:"min_playout_delay_ms"`
	MaxPlayoutDelay  uint32            `json:"max_playout_delay_ms"`
	SyncStreams      bool              `json:"sync_streams"`
}

// createRoom opens a room: 201. If an open room bears the name already, that one
// is returned as it is: 200, so that a retry does no harm.
func (s *rest) createRoom(w http.ResponseWriter, r *http.Request) error {
	if err := access.EnsureCreate(r.Context()); err != nil {
		return err
	}
	if err := known(r.URL.Query()); err != nil {
		return err
	}
	var body createRequest
	if err := readJSON(r, &body); err != nil {
		return err
	}
	if body.Name == "" {
		return fieldsProblem(fieldProblem{"name", "is missing"})
	}
	req := &livekit.CreateRoomRequest{
		Name:             body.Name,
		RoomPreset:       body.Preset,
		EmptyTimeout:     uint32(body.EmptyTimeout),
		DepartureTimeout: uint32(body.DepartureTimeout),
		MaxParticipants:  body.MaxParticipants,
		Metadata:         body.Metadata,
		Tags:             body.Tags,
		MinPlayoutDelay:  body.MinPlayoutDelay,
		MaxPlayoutDelay:  body.MaxPlayoutDelay,
		SyncStreams:      body.SyncStreams,
	}
	if err := s.withPreset(req); err != nil {
		return err
	}
	began := time.Now().UnixMilli()
	created, err := s.Rooms.Create(r.Context(), req)
	if err != nil {
		return err
	}
	rec, err := s.Records.FindOpen(r.Context(), body.Name)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if created.CreationTimeMs >= began { // by this request, or by one that ran beside it
		status = http.StatusCreated
	}
	w.Header().Set("Location", "/v1/rooms/"+url.PathEscape(rec.Name))
	sendRoom(w, status, &rec)
	return nil
}

// listRooms is a page of rooms, in the order of creation; with a name or prefix
// in the order of names.
func (s *rest) listRooms(w http.ResponseWriter, r *http.Request) error {
	if err := access.EnsureList(r.Context()); err != nil {
		return err
	}
	q, err := roomQuery(r.URL.Query())
	if err != nil {
		return err
	}
	limit := q.Limit
	q.Limit++ // one more tells whether there is a next page
	list, err := s.Records.ListRooms(r.Context(), q)
	if err != nil {
		return err
	}
	page := struct {
		Rooms      []room `json:"rooms"`
		NextCursor string `json:"next_cursor,omitempty"`
	}{Rooms: []room{}}
	if len(list) > limit {
		list = list[:limit]
		page.NextCursor = writeCursor(list[limit-1].Cursor())
	}
	for i := range list {
		page.Rooms = append(page.Rooms, showRoom(&list[i]))
	}
	writeJSON(w, http.StatusOK, "application/json", page)
	return nil
}

func roomQuery(params url.Values) (rooms.RoomQuery, error) {
	q := rooms.RoomQuery{Limit: defaultPage}
	if err := known(params, "limit", "cursor", "state", "name", "name_prefix", "order"); err != nil {
		return q, err
	}
	q.Name, q.NamePrefix = params.Get("name"), params.Get("name_prefix")
	var wrong []fieldProblem
	switch params.Get("state") {
	case "", "open":
		q.State = rooms.RoomsOpen
	case "ended":
		q.State = rooms.RoomsEnded
	case "all":
		q.State = rooms.RoomsAll
	default:
		wrong = append(wrong, fieldProblem{"state", "must be open, ended or all"})
	}
	switch params.Get("order") {
	case "", "ascending":
	case "descending":
		q.Descending = true
	default:
		wrong = append(wrong, fieldProblem{"order", "must be ascending or descending"})
	}
	if s := params.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxPage {
			wrong = append(wrong, fieldProblem{"limit", "must be from 1 to " + strconv.Itoa(maxPage)})
		}
		q.Limit = n
	}
	if s := params.Get("cursor"); s != "" {
		var ok bool
		if q.After, ok = readCursor(s); !ok {
			wrong = append(wrong, fieldProblem{"cursor", "is not one that this server gave"})
		}
	}
	if len(wrong) > 0 {
		return q, fieldsProblem(wrong...)
	}
	return q, nil
}

// known refuses query parameters that a route does not take, and those given
// twice. access_token is every route's.
func known(params url.Values, names ...string) error {
	var wrong []fieldProblem
	for name, values := range params {
		switch {
		case name != "access_token" && !slices.Contains(names, name):
			wrong = append(wrong, fieldProblem{name, "unknown parameter"})
		case len(values) > 1:
			wrong = append(wrong, fieldProblem{name, "is given twice"})
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	slices.SortFunc(wrong, func(a, b fieldProblem) int {
		if a.Path < b.Path {
			return -1
		}
		return 1
	})
	return fieldsProblem(wrong...)
}

// A cursor is opaque to clients: where the page before ended.
func writeCursor(c rooms.RoomCursor) string {
	b, _ := json.Marshal(c) // strings and a number: cannot fail
	return base64.RawURLEncoding.EncodeToString(b)
}

func readCursor(s string) (c rooms.RoomCursor, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || json.Unmarshal(b, &c) != nil || c.SID == "" {
		return rooms.RoomCursor{}, false
	}
	return c, true
}

// getRoom is the open room of that name. A room's own admin may see it, too.
func (s *rest) getRoom(w http.ResponseWriter, r *http.Request) error {
	name, err := roomName(r)
	if err != nil {
		return err
	}
	if err := access.EnsureAdmin(r.Context(), name); err != nil {
		if err := access.EnsureList(r.Context()); err != nil {
			return err
		}
	}
	if err := known(r.URL.Query()); err != nil {
		return err
	}
	rec, err := s.Records.FindOpen(r.Context(), name)
	if err != nil {
		return err
	}
	// RFC 9110, section 13.1.2, for the one form that our own ETags take.
	if r.Header.Get("If-None-Match") == etag(&rec) {
		w.Header().Set("ETag", etag(&rec))
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	sendRoom(w, http.StatusOK, &rec)
	return nil
}

// deleteRoom closes the open room of that name: 204. Everybody in it is sent
// away.
func (s *rest) deleteRoom(w http.ResponseWriter, r *http.Request) error {
	name, err := roomName(r)
	if err != nil {
		return err
	}
	if err := access.EnsureCreate(r.Context()); err != nil {
		return err
	}
	if err := known(r.URL.Query()); err != nil {
		return err
	}
	if r.Header.Get("If-Match") != "" {
		// Looking first and closing then would be the very race it is to prevent.
		return problemf(http.StatusNotImplemented, "unsupported", "If-Match is not supported for closing a room")
	}
	if err := s.Rooms.Delete(r.Context(), name); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func sendRoom(w http.ResponseWriter, status int, rec *rooms.Record) {
	w.Header().Set("ETag", etag(rec))
	writeJSON(w, status, "application/json", showRoom(rec))
}

// roomName is the name in the path. The router matches the escaped path where
// there is one, so that a name may hold a slash.
func roomName(r *http.Request) (string, error) {
	name := chi.URLParam(r, "name")
	if r.URL.RawPath == "" {
		return name, nil
	}
	name, err := url.PathUnescape(name)
	if err != nil {
		return "", problemf(http.StatusBadRequest, "malformed", "the room's name is not escaped correctly")
	}
	return name, nil
}
