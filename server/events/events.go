// Package events serves the event log to programs that pull it: GET /v1/events as JSON
// pages, and as server-sent events for clients that accept text/event-stream.
//
// Query parameters:
//
//	after  a cursor, or a seq alone: events after it; "latest" = only events from now
//	       on; without it all that are left in the log. A Last-Event-ID header
//	       overrides it.
//	limit  events in a page, 1 to 1000; 100 without it; streams ignore it
//	room   a room's SID, or a name: all rooms that bore it
//	type   event types, separated by commas or given several times
//
// A page has in "cursor" the value for the next page, and each event of a stream has it
// as its id: SEQ-EPOCH ([log.Cursor]). If the answer would have a gap there is an error
// instead, in the form of RFC 9457: code "pruned" (410) with the "oldest" seq that is
// left, if the requested events are pruned; code "ahead" (409) with the "newest" seq that
// the log has in common with the reader, if the database was restored to an earlier state
// and gives the same numbers again in a higher epoch. A reader that asks with a seq alone
// gets "ahead" only until the log has caught up. A stream that falls behind the pruning
// ends with an event "gone" that has the same data, and so does a stream whose reader
// loses the right to read.
//
// The handler checks no credentials: its caller does, and uses [While] to end streams.
package events

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"parlor/rooms/log"
	"parlor/server/problem"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
	// maxStreams bounds the streams at a time, because each reads the log after every
	// commit. If there are several API keys, one key may have maxOfKey of them, so that
	// it cannot keep the others out.
	maxStreams = 256
	maxOfKey   = maxStreams / 2
)

// Handler serves the event log. It may be used concurrently.
type Handler struct {
	log    *log.Reader
	logger *slog.Logger
	mostOf int // streams that one API key may have

	frames frames // has its own lock

	closing context.Context // ends with close
	close   context.CancelFunc

	mu      sync.Mutex // guards the following
	streams int
	ofKey   map[string]int // streams by API key; no entry is 0
}

var _ http.Handler = (*Handler)(nil)

// New makes a handler for a server with that many API keys.
func New(l *log.Reader, logger *slog.Logger, keys int) *Handler {
	h := &Handler{log: l, logger: logger, mostOf: maxStreams, ofKey: map[string]int{}}
	if keys > 1 {
		h.mostOf = maxOfKey
	}
	h.closing, h.close = context.WithCancel(context.Background())
	return h
}

// Close ends all streams, and those that begin later, because [http.Server.Shutdown]
// would wait for them. Their readers come back with Last-Event-ID.
func (h *Handler) Close() { h.close() }

// Event is an event on the wire.
type Event struct {
	Seq       int64           `json:"seq" doc:"Gapless over all events."`
	ID        string          `json:"id" doc:"The same in webhooks."`
	Type      string          `json:"type"`
	RoomSID   string          `json:"room_sid,omitempty"`
	Room      string          `json:"room,omitempty"`
	RoomSeq   int64           `json:"room_seq,omitempty" doc:"Gapless within the room, from 1."`
	CreatedAt time.Time       `json:"created_at"`
	Epoch     int64           `json:"epoch" doc:"Grows when the database is restored elsewhere; never falls."`
	Event     json.RawMessage `json:"event" doc:"LiveKit's WebhookEvent, as webhooks send it, but for the room's turnPassword."`
}

func wire(e *log.Event) Event {
	w := Event{
		Seq: e.Seq, ID: e.ID, Type: e.Type, RoomSID: e.RoomSID, Room: e.RoomName,
		RoomSeq: e.RoomSeq, CreatedAt: time.UnixMilli(e.CreatedMs).UTC(), Epoch: e.Epoch,
	}
	if json.Valid(e.Body) {
		w.Event = withoutPassword(e.Body)
	}
	return w
}

// withoutPassword is a WebhookEvent without its room's turnPassword. LiveKit's webhooks
// carry it, but no reader of the log needs it.
func withoutPassword(body json.RawMessage) json.RawMessage {
	const name = "turnPassword"
	var event, room map[string]json.RawMessage
	if json.Unmarshal(body, &event) != nil || json.Unmarshal(event["room"], &room) != nil || room[name] == nil {
		return body
	}
	delete(room, name)
	// What was just read can be written.
	event["room"], _ = json.Marshal(room)
	clean, _ := json.Marshal(event)
	return clean
}

// Page is a page on the wire.
type Page struct {
	Events []Event `json:"events"`
	Next   int64   `json:"next" doc:"The seq up to which there is nothing more. With before: what to ask before for older events; 0 = there are none."`
	Cursor string  `json:"cursor" doc:"What to ask for the next page after: next, and its epoch. With before: the end of the log."`
	Oldest int64   `json:"oldest" doc:"The oldest seq that is left."`
	Newest int64   `json:"newest"`
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		problem.New(http.StatusMethodNotAllowed, "method_not_allowed", "the log can only be read").Write(w)
		return
	}
	q, p := h.query(r)
	if p != nil {
		p.Write(w)
		return
	}
	w.Header().Add("Vary", "Accept")
	if wantsStream(r) {
		h.stream(w, r, q)
		return
	}
	if q.Before > 0 {
		h.pageBefore(w, r, q)
		return
	}
	h.page(w, r, q)
}

func wantsStream(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/event-stream")
}

// query reads the request's query.
func (h *Handler) query(r *http.Request) (log.Query, *problem.Problem) {
	v := r.URL.Query()
	q := log.Query{Room: v.Get("room"), Limit: defaultLimit}
	for _, list := range v["type"] {
		for t := range strings.SplitSeq(list, ",") {
			t = strings.TrimSpace(t)
			switch {
			case t == "" || slices.Contains(q.Types, t):
			case !log.IsType(t): // each type is looked up by itself
				return q, problem.New(http.StatusBadRequest, "invalid_argument", "type must be of %s", strings.Join(log.Names(), ", "))
			default:
				q.Types = append(q.Types, t)
			}
		}
	}
	if s := v.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxLimit {
			return q, problem.New(http.StatusBadRequest, "invalid_argument", "limit must be a number from 1 to 1000")
		}
		q.Limit = n
	}
	if s := v.Get("before"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if s == "latest" {
			n, err = math.MaxInt64, nil
		}
		if err != nil || n < 1 || v.Get("after") != "" || wantsStream(r) {
			return q, problem.New(http.StatusBadRequest, "invalid_argument", "before must be the seq of an event, or latest, without after; a stream goes forwards only")
		}
		q.Before = n
		return q, nil
	}
	after := v.Get("after")
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		after = id
	}
	var err error
	switch after {
	case "":
		q.After, err = h.log.Oldest(r.Context())
	case "latest":
		q.After, err = h.log.Newest(r.Context())
	default:
		c, err := log.ParseCursor(after)
		if err != nil {
			return q, problem.New(http.StatusBadRequest, "invalid_argument", "after must be a cursor, the seq of an event, or latest")
		}
		q.After, q.Epoch = c.Seq, c.Epoch
	}
	if err != nil {
		return q, h.asProblem(r, err)
	}
	return q, nil
}

func (h *Handler) page(w http.ResponseWriter, r *http.Request, q log.Query) {
	p, err := h.log.Page(r.Context(), q)
	if err != nil {
		h.asProblem(r, err).Write(w)
		return
	}
	writePage(w, p, p.Next.Seq)
}

func (h *Handler) pageBefore(w http.ResponseWriter, r *http.Request, q log.Query) {
	p, older, err := h.log.PageBefore(r.Context(), q)
	if err != nil {
		h.asProblem(r, err).Write(w)
		return
	}
	writePage(w, p, older)
}

func writePage(w http.ResponseWriter, p log.Page, next int64) {
	out := Page{Events: make([]Event, len(p.Events)), Next: next, Cursor: p.Next.String(), Oldest: p.Oldest, Newest: p.Newest}
	for i := range p.Events {
		out.Events[i] = wire(&p.Events[i])
	}
	problem.WriteJSON(w, http.StatusOK, "application/json", out)
}

// asProblem maps an error to the problem for the reader.
func (h *Handler) asProblem(r *http.Request, err error) *problem.Problem {
	if e, ok := errors.AsType[*log.PrunedError](err); ok {
		p := problem.New(http.StatusGone, "pruned", "%s", e)
		p.Oldest = &e.Oldest
		return p
	}
	if e, ok := errors.AsType[*log.AheadError](err); ok {
		p := problem.New(http.StatusConflict, "ahead", "%s", e)
		p.Newest = &e.Newest
		return p
	}
	if p, ok := errors.AsType[*problem.Problem](err); ok { // from While
		return p
	}
	if r.Context().Err() == nil {
		h.logger.Error("cannot read the event log", "error", err)
	}
	return problem.New(http.StatusInternalServerError, "internal", "internal error")
}
