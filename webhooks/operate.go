package webhooks

import (
	"context"
	"fmt"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms/log"
)

const (
	defaultPage = 100
	maxPage     = 1000
)

// EndpointStatus is the state of an endpoint. Times are Unix milliseconds; zero values
// are left out.
type EndpointStatus struct {
	ID       int64             `json:"id"`
	Name     string            `json:"name,omitempty"`
	URL      string            `json:"url"` // without password and query
	Key      string            `json:"key"`
	Include  []string          `json:"include_events,omitempty"`
	Exclude  []string          `json:"exclude_events,omitempty"`
	Ordering Ordering          `json:"ordering"`
	State    log.EndpointState `json:"state"`
	Reason   string            `json:"reason,omitempty"`

	Pending         int64   `json:"pending"`
	Dead            int64   `json:"dead"`
	Delivered       int64   `json:"delivered"` // ever
	Failures        int64   `json:"failures"`  // failed attempts, ever
	SuccessRate     float64 `json:"success_rate"`
	InFlight        int     `json:"in_flight"` // requests under way
	OldestPendingMs int64   `json:"oldest_pending_ms,omitempty"`
	OldestSeq       int64   `json:"oldest_pending_seq,omitempty"`
	// Waits is how long that event has waited, however the wall clock was set meanwhile.
	Waits         time.Duration `json:"-"`
	LastMs        int64         `json:"last_attempt_ms,omitempty"`
	LastSuccessMs int64         `json:"last_success_ms,omitempty"`
	LastStatus    int           `json:"last_status,omitempty"`
	LastError     string        `json:"last_error,omitempty"`

	FailingSinceMs int64  `json:"failing_since_ms,omitempty"`
	Down           bool   `json:"down"` // the breaker is open: the endpoint is probed
	NextProbeMs    int64  `json:"next_probe_ms,omitempty"`
	ProbeError     string `json:"probe_error,omitempty"` // of the last probe
}

// DeliveryStatus is the state of one event's delivery to one endpoint.
type DeliveryStatus struct {
	Seq        int64  `json:"seq"`
	EventID    string `json:"event_id"`
	Type       string `json:"type"`
	RoomSID    string `json:"room_sid,omitempty"`
	RoomName   string `json:"room,omitempty"`
	RoomSeq    int64  `json:"room_seq,omitempty"`
	CreatedMs  int64  `json:"created_ms"`
	State      string `json:"state"`
	Attempts   int    `json:"attempts"`
	NextMs     int64  `json:"next_ms,omitempty"` // 0 = waits behind an earlier event
	LastMs     int64  `json:"last_ms,omitempty"`
	LastStatus int    `json:"last_status,omitempty"`
	LastError  string `json:"last_error,omitempty"`
}

// Endpoints returns the state of every endpoint, also of those that the configuration no
// longer names.
func (d *Dispatcher) Endpoints(ctx context.Context) ([]EndpointStatus, error) {
	stats, err := d.store.EndpointStats(ctx)
	if err != nil {
		return nil, fmt.Errorf("read webhook endpoints: %w", err)
	}
	out := make([]EndpointStatus, 0, len(stats))
	for _, s := range stats {
		e := statusOf(&s)
		e.Waits = d.metrics.age(&e, time.Now())
		if w := d.workers[s.Endpoint.ID]; w != nil {
			w.do(ctx, func() { w.describe(&e) }) // a worker that has ended adds nothing
		}
		out = append(out, e)
	}
	return out, nil
}

func statusOf(s *log.EndpointStats) EndpointStatus {
	e := EndpointStatus{
		ID: s.Endpoint.ID, URL: redact(s.Endpoint.URL), Key: s.Endpoint.KeyID,
		Include: s.Endpoint.Include, Exclude: s.Endpoint.Exclude,
		Ordering: Strict, State: s.Endpoint.State, Reason: s.Endpoint.Reason,
		Pending: s.Pending, Dead: s.Dead, Delivered: s.Delivered, Failures: s.Failures, SuccessRate: 1,
		OldestPendingMs: s.OldestPendingMs, OldestSeq: s.OldestSeq,
		LastMs: s.LastMs, LastSuccessMs: s.LastSuccessMs, LastStatus: s.LastStatus, LastError: s.LastError,
		FailingSinceMs: s.Endpoint.FailSinceMs,
	}
	if s.Endpoint.RelaxAfter > 0 {
		e.Ordering = Relaxed
	}
	if n := s.Delivered + s.Failures; n > 0 {
		e.SuccessRate = float64(s.Delivered) / float64(n)
	}
	return e
}

// describe adds what only the worker knows. It runs in the worker's loop.
func (w *worker) describe(e *EndpointStatus) {
	e.Name = w.target.name
	e.InFlight = w.active
	e.FailingSinceMs = w.failSince
	e.Down = w.breaker.open
	if w.breaker.open && w.state == log.EndpointOn {
		e.NextProbeMs = w.breaker.until.UnixMilli()
		e.ProbeError = w.probeErr
	}
}

// Deliveries returns a page of an endpoint's deliveries in that state, newest first, of
// events before beforeSeq; 0 begins at the newest.
func (d *Dispatcher) Deliveries(ctx context.Context, endpointID int64, state log.DeliveryState, beforeSeq int64, limit int) ([]DeliveryStatus, error) {
	if limit <= 0 {
		limit = defaultPage
	}
	found, err := d.store.ListDeliveries(ctx, log.DeliveryQuery{
		EndpointID: endpointID, State: state, BeforeSeq: beforeSeq, Limit: min(limit, maxPage),
	})
	if err != nil {
		return nil, fmt.Errorf("read webhook deliveries: %w", err)
	}
	out := make([]DeliveryStatus, len(found))
	for i, f := range found {
		out[i] = DeliveryStatus{
			Seq: f.Seq, EventID: f.Event.ID, Type: f.Event.Type,
			RoomSID: f.Event.RoomSID, RoomName: f.Event.RoomName, RoomSeq: f.Event.RoomSeq,
			CreatedMs: f.Event.CreatedMs, State: f.State.String(), Attempts: f.Attempts, NextMs: f.NextMs,
			LastMs: f.LastMs, LastStatus: f.LastStatus, LastError: f.LastError,
		}
	}
	return out, nil
}

// Replay makes deliveries pending again: one event, a range, or all dead letters. They
// are sent at once, with the same ids and bodies, each room's in order. It returns how
// many.
func (d *Dispatcher) Replay(ctx context.Context, endpointID int64, r log.Replay) (int, error) {
	if _, err := d.worker(endpointID); err != nil {
		return 0, err
	}
	if r.State == log.DeliveryPending {
		r.State = log.DeliveryDead
	}
	n, err := d.store.Replay(ctx, endpointID, r, time.Now().UnixMilli())
	if err != nil {
		return 0, fmt.Errorf("replay webhook deliveries: %w", err)
	}
	return n, nil
}

// Pause stops sending to an endpoint; its events are recorded. Requests that are under
// way continue.
func (d *Dispatcher) Pause(ctx context.Context, endpointID int64, reason string) error {
	return d.setState(ctx, endpointID, log.EndpointPaused, reason)
}

// Resume begins to send again to an endpoint that was paused or disabled.
func (d *Dispatcher) Resume(ctx context.Context, endpointID int64) error {
	return d.setState(ctx, endpointID, log.EndpointOn, "")
}

func (d *Dispatcher) setState(ctx context.Context, id int64, s log.EndpointState, reason string) error {
	w, err := d.worker(id)
	if err != nil {
		return err
	}
	if err := d.store.SetEndpointState(ctx, id, s, reason); err != nil {
		return fmt.Errorf("set the webhook endpoint's state: %w", err)
	}
	// The state is on disk: tell the worker even if the caller no longer waits.
	if !w.do(context.WithoutCancel(ctx), func() { w.setState(s) }) {
		return ErrClosed
	}
	return nil
}

// SendTest sends an event of the type [log.WebhookTest] to that endpoint alone, through
// the outbox like any other event, and returns the event as logged.
func (d *Dispatcher) SendTest(ctx context.Context, endpointID int64) (log.Event, error) {
	if _, err := d.worker(endpointID); err != nil {
		return log.Event{}, err
	}
	e := log.New(&livekit.WebhookEvent{Event: log.WebhookTest}, time.Now())
	seq, err := d.store.SendTest(ctx, endpointID, e)
	if err != nil {
		return log.Event{}, fmt.Errorf("write a test event: %w", err)
	}
	e.Seq = seq
	return e, nil
}

// worker returns the worker of an endpoint in the configuration.
func (d *Dispatcher) worker(id int64) (*worker, error) {
	w := d.workers[id]
	if w == nil {
		return nil, fmt.Errorf("%w with the id %d in the configuration", log.ErrNoEndpoint, id)
	}
	return w, nil
}
