package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms"
	"parlor/server/problem"
)

// Directory lists and changes open rooms.
type Directory interface {
	List(ctx context.Context, names []string) ([]*livekit.Room, error)
	Create(ctx context.Context, req *livekit.CreateRoomRequest, settings ...rooms.Setting) (rooms.Outcome, error)
	Edit(ctx context.Context, name string, e rooms.RoomEdit) (rooms.Record, error)
	Delete(ctx context.Context, name string, condition func(*rooms.Record) bool) error
}

// createRequest is the body of POST /v1/rooms.
type createRequest struct {
	Name             string            `json:"name" required:"true" doc:"Unique among open rooms."`
	Preset           string            `json:"preset,omitempty" doc:"A preset of the configuration, for what is not given here."`
	EmptyTimeout     wireTimeout       `json:"empty_timeout,omitempty" doc:"Seconds that the room stays open until somebody has joined."`
	DepartureTimeout wireTimeout       `json:"departure_timeout,omitempty" doc:"Seconds that the room stays open after the last has left."`
	MaxParticipants  uint32            `json:"max_participants,omitempty" doc:"0: no limit."`
	Metadata         string            `json:"metadata,omitempty"`
	Tags             map[string]string `json:"tags,omitempty"`
	MinPlayoutDelay  uint32            `json:"min_playout_delay_ms,omitempty"`
	MaxPlayoutDelay  uint32            `json:"max_playout_delay_ms,omitempty"`
	SyncStreams      bool              `json:"sync_streams,omitempty"`
	WaitingRoom      bool              `json:"waiting_room,omitempty" doc:"Guests that come by an invitation wait until a host admits them."`
	KeepChat         bool              `json:"keep_chat,omitempty" doc:"The newest messages of the chat are kept until the room ends, for those who come late."`
}

// createRoom opens a room: 201. If an open room bears the name already, that room is
// returned unchanged: 200, so that a retry does no harm.
func (s *rest) createRoom(w http.ResponseWriter, r *http.Request) error {
	var body createRequest
	if err := s.readJSON(r, &body); err != nil {
		return err
	}
	if body.Name == "" {
		return problem.Fields(problem.Field{Path: "name", Detail: "is missing"})
	}
	about(r.Context(), body.Name, "")
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
	out, err := s.Rooms.Create(r.Context(), req, func(c *rooms.RoomConfig) { c.WaitingRoom, c.KeepChat = body.WaitingRoom, body.KeepChat })
	if err != nil {
		return err
	}
	status := http.StatusOK
	if out.Created {
		status = http.StatusCreated
	}
	w.Header().Set("Location", "/v1/rooms/"+url.PathEscape(out.Room.Name))
	return s.sendRoom(w, status, &out.Room)
}

// roomPage is a page of rooms.
type roomPage struct {
	Rooms      []room `json:"rooms"`
	NextCursor string `json:"next_cursor,omitempty" doc:"The cursor of the next page; without it this is the last."`
}

func roomParameters() []parameter {
	return []parameter{
		{name: "limit", doc: "Rooms in a page, 1 to 500; 100 without it.", number: true},
		{name: "cursor", doc: "The next_cursor of the page before."},
		{name: "state", doc: "open without it.", values: []string{"open", "ended", "all"}},
		{name: "name", doc: "Rooms that bear, or bore, this name."},
		{name: "name_prefix", doc: "Rooms whose names begin with this, by name. With name both must hold."},
		{name: "created_after", doc: "Rooms created at this time (RFC 3339) or later."},
		{name: "created_before", doc: "Rooms created before this time (RFC 3339)."},
		{name: "metadata", doc: "Rooms whose metadata is this text."},
		{name: "metadata_field", doc: "Rooms whose metadata is a JSON object with this field: key=value.", many: true},
		{name: "tag", doc: "Rooms with this tag: key=value. With this or metadata a page looks at 2000 rooms at most: it may hold fewer rooms than limit, or none, and still have a next_cursor.", many: true},
		{name: "order", doc: "By creation, or by name with name_prefix; ascending without it.", values: []string{"ascending", "descending"}},
	}
}

// listRooms answers with a page of rooms in the order of creation, or, with a name or
// prefix, in the order of names.
func (s *rest) listRooms(w http.ResponseWriter, r *http.Request) error {
	q, err := roomQuery(r.URL.Query())
	if err != nil {
		return err
	}
	filter, wrong := roomFilterOf(r.URL.Query())
	if wrong != nil {
		return problem.Fields(wrong...)
	}
	list, next, err := s.search(r.Context(), q, &filter)
	if err != nil {
		return err
	}
	page := roomPage{Rooms: []room{}}
	if next != nil {
		page.NextCursor = writeCursor(*next)
	}
	now := s.Rooms.Now()
	for i := range list {
		one := now.InWallTime(list[i])
		page.Rooms = append(page.Rooms, showRoom(&one))
	}
	return sendJSON(w, http.StatusOK, page)
}

func roomQuery(params url.Values) (rooms.RoomQuery, error) {
	q := rooms.RoomQuery{Name: params.Get("name"), NamePrefix: params.Get("name_prefix")}
	var wrong []problem.Field
	switch params.Get("state") {
	case "", "open":
		q.State = rooms.RoomsOpen
	case "ended":
		q.State = rooms.RoomsEnded
	case "all":
		q.State = rooms.RoomsAll
	default:
		wrong = append(wrong, problem.Field{Path: "state", Detail: "must be open, ended or all"})
	}
	switch params.Get("order") {
	case "", "ascending":
	case "descending":
		q.Descending = true
	default:
		wrong = append(wrong, problem.Field{Path: "order", Detail: "must be ascending or descending"})
	}
	for name, to := range map[string]*int64{"created_after": &q.CreatedFromMs, "created_before": &q.CreatedBeforeMs} {
		if v := params.Get(name); v != "" {
			t, err := time.Parse(time.RFC3339, v)
			if err != nil {
				wrong = append(wrong, problem.Field{Path: name, Detail: notATime})
			}
			*to = t.UnixMilli()
		}
	}
	var bad *problem.Field
	if q.Limit, bad = pageSize(params); bad != nil {
		wrong = append(wrong, *bad)
	}
	if s := params.Get("cursor"); s != "" {
		var ok bool
		if q.After, ok = readCursor(s); !ok {
			wrong = append(wrong, badCursor)
		}
	}
	if len(wrong) > 0 {
		return q, problem.Fields(wrong...)
	}
	return q, nil
}

const notATime = "must be a time such as 2026-01-31T12:00:00Z"

var badCursor = problem.Field{Path: "cursor", Detail: "is not one that this server gave"}

// A cursor is opaque to clients. It tells where the previous page ended.
func writeCursor[T any](c T) string {
	b, _ := json.Marshal(c) // strings and numbers always marshal
	return base64.RawURLEncoding.EncodeToString(b)
}

func readCursor(s string) (c rooms.RoomCursor, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || json.Unmarshal(b, &c) != nil || c.SID == "" {
		return rooms.RoomCursor{}, false
	}
	return c, true
}

// getRoom answers with the open room of that name. The room's own admin may see it too.
func (s *rest) getRoom(w http.ResponseWriter, r *http.Request) error {
	name, err := pathValue(r, "name")
	if err != nil {
		return err
	}
	rec, err := s.Records.FindOpen(r.Context(), name)
	if err != nil {
		return err
	}
	// RFC 9110, section 13.1.2, for the one form of this server's ETags.
	if tag := roomTag(&rec); r.Header.Get("If-None-Match") == tag {
		w.Header().Set("ETag", tag)
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return s.sendRoom(w, http.StatusOK, &rec)
}

// editRequest is the body of PATCH /v1/rooms/{name}. Absent fields stay as they are.
type editRequest struct {
	Metadata         *string           `json:"metadata,omitempty"`
	EmptyTimeout     *wireTimeout      `json:"empty_timeout,omitempty"`
	DepartureTimeout *wireTimeout      `json:"departure_timeout,omitempty"`
	MaxParticipants  *uint32           `json:"max_participants,omitempty" doc:"0: no limit. Nobody who is in the room is sent away."`
	Locked           *bool             `json:"locked,omitempty" doc:"Nobody new may join."`
	WaitingRoom      *bool             `json:"waiting_room,omitempty" doc:"Guests that come by an invitation wait until a host admits them. false admits those that wait."`
	KeepChat         *bool             `json:"keep_chat,omitempty" doc:"The newest messages of the chat are kept until the room ends, for those who come late. false deletes what was kept."`
	Tags             map[string]string `json:"tags,omitempty" doc:"All of them: those that are not given are deleted."`
}

func (s *rest) editRoom(w http.ResponseWriter, r *http.Request) error {
	name, err := pathValue(r, "name")
	if err != nil {
		return err
	}
	unchanged, err := condition(r, roomTag)
	if err != nil {
		return err
	}
	var body editRequest
	if err := s.readJSON(r, &body); err != nil {
		return err
	}
	rec, err := s.Rooms.Edit(r.Context(), name, rooms.RoomEdit{
		Metadata:         body.Metadata,
		EmptyTimeout:     body.EmptyTimeout.domain(),
		DepartureTimeout: body.DepartureTimeout.domain(),
		MaxParticipants:  body.MaxParticipants,
		Locked:           body.Locked,
		WaitingRoom:      body.WaitingRoom,
		KeepChat:         body.KeepChat,
		Tags:             body.Tags,
		If:               unchanged,
	})
	if err != nil {
		return err
	}
	return s.sendRoom(w, http.StatusOK, &rec)
}

// deleteRoom closes the open room of that name: 204. Its participants are sent away.
func (s *rest) deleteRoom(w http.ResponseWriter, r *http.Request) error {
	name, err := pathValue(r, "name")
	if err != nil {
		return err
	}
	unchanged, err := condition(r, roomTag)
	if err != nil {
		return err
	}
	if err := s.Rooms.Delete(r.Context(), name, unchanged); err != nil {
		return err
	}
	return sendNothing(w)
}

// condition is the condition of If-Match (RFC 9110, section 13.1.1) on a resource whose
// entity tag tagOf tells. It is nil without the header, and for "*", because a missing
// room is not found anyway.
func condition[T any](r *http.Request, tagOf func(T) string) (func(T) bool, error) {
	tags := r.Header.Values("If-Match")
	tag := strings.Join(tags, ",")
	if len(tags) == 0 || tag == "*" {
		return nil, nil
	}
	if tag == "" || strings.Contains(tag, ",") {
		return nil, problem.New(http.StatusBadRequest, "malformed", "If-Match must be one entity tag")
	}
	// A proxy that compresses answers makes their tags weak. These are of the state, and not of
	// the bytes.
	tag = strings.TrimPrefix(tag, "W/")
	return func(now T) bool { return tagOf(now) == tag }, nil
}

// entityTag identifies the shown state of a resource: it changes with what the resource
// shows, and with nothing else.
func entityTag(shown any) string {
	b, _ := json.Marshal(shown) // the same value is sent, where a failure would show
	sum := sha256.Sum256(b)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`
}

// roomTag identifies the room's state, however the wall clock is set.
func roomTag(r *rooms.Record) string { return entityTag(showRoom(r)) }

func (s *rest) sendRoom(w http.ResponseWriter, status int, rec *rooms.Record) error {
	w.Header().Set("ETag", roomTag(rec))
	shown := s.Rooms.Now().InWallTime(*rec)
	return sendJSON(w, status, showRoom(&shown))
}

// getHistory answers with a room by its SID, open or ended.
func (s *rest) getHistory(w http.ResponseWriter, r *http.Request) error {
	rec, err := s.recordBySID(r)
	if err != nil {
		return err
	}
	return s.sendRoom(w, http.StatusOK, &rec)
}

func (s *rest) recordBySID(r *http.Request) (rooms.Record, error) {
	sid, err := pathValue(r, "sid")
	if err != nil {
		return rooms.Record{}, err
	}
	return s.Records.GetBySID(r.Context(), sid)
}

// sessionPage is a page of sessions.
type sessionPage struct {
	Sessions   []session `json:"sessions"`
	NextCursor string    `json:"next_cursor,omitempty" doc:"The cursor of the next page; without it this is the last."`
}

// sessionCursor tells where a page of sessions ended.
type sessionCursor struct {
	JoinedMs int64
	SID      string
}

// listSessions answers with a page of a room's sessions, in the order of joining.
func (s *rest) listSessions(w http.ResponseWriter, r *http.Request) error {
	limit, bad := pageSize(r.URL.Query())
	if bad != nil {
		return problem.Fields(*bad)
	}
	var after sessionCursor
	if c := r.URL.Query().Get("cursor"); c != "" {
		b, err := base64.RawURLEncoding.DecodeString(c)
		if err != nil || json.Unmarshal(b, &after) != nil {
			return problem.Fields(badCursor)
		}
	}
	rec, err := s.recordBySID(r)
	if err != nil {
		return err
	}
	list, err := s.Records.ListSessions(r.Context(), rooms.SessionQuery{
		RoomSID: rec.SID, AfterJoinedMs: after.JoinedMs, AfterSID: after.SID, Limit: limit + 1,
	})
	if err != nil {
		return err
	}
	page := sessionPage{Sessions: []session{}}
	if len(list) > limit {
		list = list[:limit]
		last := list[limit-1]
		page.NextCursor = writeCursor(sessionCursor{last.JoinedMs, last.SID})
	}
	for i := range list {
		page.Sessions = append(page.Sessions, showSession(&list[i]))
	}
	return sendJSON(w, http.StatusOK, page)
}
