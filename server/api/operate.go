package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"parlor/rooms/log"
	"parlor/server/problem"
	"parlor/webhooks"
)

// Webhooks is what an operator needs of the sender of webhooks.
type Webhooks interface {
	Endpoints(ctx context.Context) ([]webhooks.EndpointStatus, error)
	Deliveries(ctx context.Context, endpointID int64, state log.DeliveryState, beforeSeq int64, limit int) ([]webhooks.DeliveryStatus, error)
	Replay(ctx context.Context, endpointID int64, r log.Replay) (int, error)
	Pause(ctx context.Context, endpointID int64, reason string) error
	Resume(ctx context.Context, endpointID int64) error
	SendTest(ctx context.Context, endpointID int64) (log.Event, error)
}

// endpoint is a receiver of webhooks and its state.
type endpoint struct {
	ID            int64      `json:"id"`
	Name          string     `json:"name,omitempty" doc:"As configured."`
	URL           string     `json:"url" doc:"Without its password and query."`
	Key           string     `json:"key" doc:"The API key whose secret signs."`
	IncludeEvents []string   `json:"include_events"`
	ExcludeEvents []string   `json:"exclude_events"`
	Ordering      string     `json:"ordering" enum:"strict,relaxed"`
	State         string     `json:"state" enum:"on,paused,disabled"`
	Reason        string     `json:"reason,omitempty" doc:"Why it is paused or disabled."`
	Pending       int64      `json:"pending" doc:"Deliveries to be sent."`
	Dead          int64      `json:"dead" doc:"Deliveries that were given up and can be replayed."`
	Delivered     int64      `json:"delivered" doc:"Ever."`
	Failures      int64      `json:"failures" doc:"Failed attempts, ever."`
	SuccessRate   float64    `json:"success_rate"`
	InFlight      int        `json:"in_flight"`
	OldestPending *timestamp `json:"oldest_pending_at" doc:"When the oldest pending event was created."`
	OldestSeq     int64      `json:"oldest_pending_seq,omitempty"`
	LastAttempt   *timestamp `json:"last_attempt_at"`
	LastSuccess   *timestamp `json:"last_success_at"`
	LastStatus    int        `json:"last_status,omitempty" doc:"HTTP status of the last attempt."`
	LastError     string     `json:"last_error,omitempty"`
	FailingSince  *timestamp `json:"failing_since"`
	Down          bool       `json:"down" doc:"It fails so often that it is only probed."`
	NextProbe     *timestamp `json:"next_probe_at"`
	ProbeError    string     `json:"probe_error,omitempty"`

	waits time.Duration // of the oldest pending event
}

func showEndpoint(e *webhooks.EndpointStatus) endpoint {
	return endpoint{
		ID: e.ID, Name: e.Name, URL: e.URL, Key: e.Key, IncludeEvents: notNull(e.Include), ExcludeEvents: notNull(e.Exclude),
		Ordering: string(e.Ordering), State: string(e.State), Reason: e.Reason,
		Pending: e.Pending, Dead: e.Dead, Delivered: e.Delivered, Failures: e.Failures, SuccessRate: e.SuccessRate,
		InFlight: e.InFlight, OldestPending: at(e.OldestPendingMs), OldestSeq: e.OldestSeq,
		LastAttempt: at(e.LastMs), LastSuccess: at(e.LastSuccessMs), LastStatus: e.LastStatus, LastError: e.LastError,
		FailingSince: at(e.FailingSinceMs), Down: e.Down, NextProbe: at(e.NextProbeMs), ProbeError: e.ProbeError, waits: e.Waits,
	}
}

// notNull is l, which is never null on the wire.
func notNull(l []string) []string {
	if l == nil {
		return []string{}
	}
	return l
}

// endpointList is all endpoints.
type endpointList struct {
	Webhooks []endpoint `json:"webhooks"`
}

func (s *rest) endpoints(ctx context.Context) ([]endpoint, error) {
	out := []endpoint{}
	if s.Webhooks == nil {
		return out, nil
	}
	all, err := s.Webhooks.Endpoints(ctx)
	for i := range all {
		out = append(out, showEndpoint(&all[i]))
	}
	return out, err
}

func (s *rest) listEndpoints(w http.ResponseWriter, r *http.Request) error {
	all, err := s.endpoints(r.Context())
	if err != nil {
		return err
	}
	return sendJSON(w, http.StatusOK, endpointList{all})
}

// endpointOf returns the endpoint that the path names.
func (s *rest) endpointOf(r *http.Request) (endpoint, error) {
	text, err := pathValue(r, "id")
	if err != nil {
		return endpoint{}, err
	}
	id, err := strconv.ParseInt(text, 10, 64)
	if err == nil {
		all, err := s.endpoints(r.Context())
		if err != nil {
			return endpoint{}, err
		}
		for _, e := range all {
			if e.ID == id {
				return e, nil
			}
		}
	}
	return endpoint{}, problem.New(http.StatusNotFound, "not_found", "there is no webhook endpoint %q", text)
}

func (s *rest) getEndpoint(w http.ResponseWriter, r *http.Request) error {
	e, err := s.endpointOf(r)
	if err != nil {
		return err
	}
	return sendJSON(w, http.StatusOK, e)
}

// delivery is an event's delivery to an endpoint.
type delivery struct {
	Seq         int64      `json:"seq"`
	EventID     string     `json:"event_id"`
	Type        string     `json:"type"`
	RoomSID     string     `json:"room_sid,omitempty"`
	Room        string     `json:"room,omitempty"`
	RoomSeq     int64      `json:"room_seq,omitempty"`
	CreatedAt   *timestamp `json:"created_at"`
	State       string     `json:"state" enum:"pending,delivered,dead"`
	Attempts    int        `json:"attempts"`
	NextAttempt *timestamp `json:"next_attempt_at" doc:"Null: waits behind an earlier event of its room, or is done."`
	LastAttempt *timestamp `json:"last_attempt_at"`
	LastStatus  int        `json:"last_status,omitempty"`
	LastError   string     `json:"last_error,omitempty"`
}

// deliveryPage is a page of deliveries.
type deliveryPage struct {
	Deliveries []delivery `json:"deliveries"`
	NextCursor string     `json:"next_cursor,omitempty" doc:"The cursor of the next page; without it this is the last."`
}

func deliveryState(params url.Values, def string) (log.DeliveryState, *problem.Field) {
	name := params.Get("state")
	if name == "" {
		name = def
	}
	for _, s := range []log.DeliveryState{log.DeliveryPending, log.DeliveryDelivered, log.DeliveryDead} {
		if s.String() == name {
			return s, nil
		}
	}
	return 0, &problem.Field{Path: "state", Detail: "must be pending, delivered or dead"}
}

// listDeliveries answers with a page of an endpoint's deliveries in one state, newest
// first.
func (s *rest) listDeliveries(w http.ResponseWriter, r *http.Request) error {
	params := r.URL.Query()
	limit, bad := pageSize(params)
	if bad != nil {
		return problem.Fields(*bad)
	}
	state, bad := deliveryState(params, "pending")
	if bad != nil {
		return problem.Fields(*bad)
	}
	var before int64
	if c := params.Get("cursor"); c != "" {
		var err error
		if before, err = strconv.ParseInt(c, 10, 64); err != nil || before < 1 {
			return problem.Fields(badCursor)
		}
	}
	e, err := s.endpointOf(r)
	if err != nil {
		return err
	}
	found, err := s.Webhooks.Deliveries(r.Context(), e.ID, state, before, limit+1)
	if err != nil {
		return err
	}
	page := deliveryPage{Deliveries: []delivery{}}
	if len(found) > limit {
		found = found[:limit]
		page.NextCursor = strconv.FormatInt(found[limit-1].Seq, 10)
	}
	for _, d := range found {
		page.Deliveries = append(page.Deliveries, delivery{
			Seq: d.Seq, EventID: d.EventID, Type: d.Type, RoomSID: d.RoomSID, Room: d.RoomName, RoomSeq: d.RoomSeq,
			CreatedAt: at(d.CreatedMs), State: d.State, Attempts: d.Attempts, NextAttempt: at(d.NextMs),
			LastAttempt: at(d.LastMs), LastStatus: d.LastStatus, LastError: d.LastError,
		})
	}
	return sendJSON(w, http.StatusOK, page)
}

// replayRequest is the body of POST …/replay. All conditions must hold; without any, all
// dead letters are replayed.
type replayRequest struct {
	EventID string   `json:"event_id,omitempty" doc:"This event only."`
	FromSeq seq      `json:"from_seq,omitempty" doc:"Events from this seq on."`
	ToSeq   seq      `json:"to_seq,omitempty" doc:"Events up to this seq."`
	Since   wireTime `json:"since,omitempty" doc:"Events created at this time (RFC 3339) or later."`
	State   string   `json:"state,omitempty" enum:"dead,delivered,any" doc:"dead without it, but any with event_id."`
	Missing bool     `json:"missing,omitempty" doc:"Also events that were never recorded for this endpoint, if it wants them now."`
}

// replayed tells how many deliveries are pending again.
type replayed struct {
	Replayed int `json:"replayed"`
}

func (s *rest) replay(w http.ResponseWriter, r *http.Request) error {
	var body replayRequest
	if err := s.readOptionalJSON(r, &body); err != nil {
		return err
	}
	e, err := s.endpointOf(r)
	if err != nil {
		return err
	}
	q := log.Replay{
		EventID: body.EventID, FromSeq: int64(body.FromSeq), ToSeq: int64(body.ToSeq), SinceMs: body.Since.ms(),
		State: log.DeliveryDead, Missing: body.Missing, AnyState: body.State == "" && body.EventID != "",
	}
	switch body.State {
	case "", "dead":
	case "delivered":
		q.State = log.DeliveryDelivered
	case "any":
		q.AnyState = true
	default:
		return problem.Fields(problem.Field{Path: "state", Detail: "must be dead, delivered or any"})
	}
	if q.ToSeq != 0 && q.ToSeq < q.FromSeq {
		return problem.Fields(problem.Field{Path: "to_seq", Detail: "must not be less than from_seq"})
	}
	n, err := s.Webhooks.Replay(r.Context(), e.ID, q)
	if err != nil {
		return err
	}
	return sendJSON(w, http.StatusOK, replayed{n})
}

// maxReason bounds the reason of a pause in bytes, as a ban's reason is bounded.
const maxReason = 1000

// pauseRequest is the body of POST …/pause.
type pauseRequest struct {
	Reason string `json:"reason,omitempty"`
}

func (s *rest) pause(w http.ResponseWriter, r *http.Request) error {
	var body pauseRequest
	if err := s.readOptionalJSON(r, &body); err != nil {
		return err
	}
	if len(body.Reason) > maxReason {
		return problem.Fields(problem.Field{Path: "reason", Detail: "must not be longer than " + strconv.Itoa(maxReason) + " bytes"})
	}
	return s.change(w, r, func(id int64) error { return s.Webhooks.Pause(r.Context(), id, body.Reason) })
}

func (s *rest) resume(w http.ResponseWriter, r *http.Request) error {
	return s.change(w, r, func(id int64) error { return s.Webhooks.Resume(r.Context(), id) })
}

// change changes an endpoint and answers with its new state.
func (s *rest) change(w http.ResponseWriter, r *http.Request, do func(id int64) error) error {
	e, err := s.endpointOf(r)
	if err != nil {
		return err
	}
	if err := do(e.ID); err != nil {
		return err
	}
	return s.getEndpoint(w, r)
}

// testEvent identifies the event that was written.
type testEvent struct {
	ID  string `json:"id"`
	Seq int64  `json:"seq"`
}

// sendTest sends a test event to that endpoint alone, through the outbox like any other
// event: 202. The endpoint's deliveries show the outcome.
func (s *rest) sendTest(w http.ResponseWriter, r *http.Request) error {
	e, err := s.endpointOf(r)
	if err != nil {
		return err
	}
	sent, err := s.Webhooks.SendTest(r.Context(), e.ID)
	if err != nil {
		return err
	}
	return sendJSON(w, http.StatusAccepted, testEvent{sent.ID, sent.Seq})
}
