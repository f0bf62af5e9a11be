package log

import (
	"context"
	"errors"
	"slices"
	"time"
)

// ErrNoEndpoint: no endpoint has the id, or the configuration does not name it.
var ErrNoEndpoint = errors.New("no such webhook endpoint")

// EndpointState tells whether an [Endpoint] gets events. It is stored as text.
type EndpointState string

// The states of an endpoint.
const (
	// EndpointOn: events are recorded for it and sent.
	EndpointOn EndpointState = "on"
	// EndpointPaused: events are recorded for it and wait.
	EndpointPaused EndpointState = "paused"
	// EndpointDisabled: nothing is recorded for it and nothing sent.
	EndpointDisabled EndpointState = "disabled"
)

// ReasonRemoved is the Reason of an [Endpoint] that the configuration no longer names. It
// is turned on again when the configuration names it again. An endpoint that is disabled
// for any other reason stays so until it is resumed.
const ReasonRemoved = "removed from the configuration"

// Endpoint is a receiver of webhooks. URL, KeyID, Include, Exclude and
// RelaxAfter come from the configuration; the rest is the store's.
type Endpoint struct {
	ID    int64
	URL   string // tells endpoints apart
	KeyID string // the API key whose secret signs what is sent
	// Include names the event types that are sent; "*" is every type. If it is empty, all
	// types that LiveKit sends are sent, except those in Exclude.
	Include, Exclude []string
	// RelaxAfter is the number of failed attempts after which an event no longer
	// holds up the later events of its room. 0 keeps strict order.
	RelaxAfter int

	State       EndpointState
	Reason      string // why it is paused or disabled
	FailSinceMs int64  // when the present run of failures began; 0 = the last attempt succeeded
}

// Wants reports whether events of that type are recorded for e. As with LiveKit,
// Exclude is looked at only if there is no Include.
func (e *Endpoint) Wants(eventType string) bool {
	if len(e.Include) > 0 {
		return slices.Contains(e.Include, eventType) || slices.Contains(e.Include, "*")
	}
	return isFor(eventType, Everybody) && !slices.Contains(e.Exclude, eventType)
}

// DeliveryState is the state of a [Delivery]. It is stored as a number.
type DeliveryState int

// The states of a delivery.
const (
	DeliveryPending   DeliveryState = iota // to be sent, for the first time or again
	DeliveryDelivered                      // the receiver has it
	DeliveryDead                           // given up: a dead letter, which can be replayed
)

func (s DeliveryState) String() string {
	switch s {
	case DeliveryPending:
		return "pending"
	case DeliveryDelivered:
		return "delivered"
	case DeliveryDead:
		return "dead"
	}
	return "unknown"
}

// Delivery is an event on its way to one endpoint.
//
// The pending deliveries of one room to one endpoint are a queue. The first is due at its
// NextMs. The others wait (NextMs 0) until the first is delivered, dead, or has failed as
// often as the endpoint's RelaxAfter allows.
type Delivery struct {
	EndpointID int64
	Seq        int64 // of the event
	Event      Event
	State      DeliveryState
	Attempts   int   // made so far, all failed unless State is delivered
	NextMs     int64 // when it is due; 0 = waits behind an earlier one, or not pending
	LastMs     int64 // when the last attempt ended, or the delivery was given up; 0 = never
	LastStatus int   // HTTP status of the last attempt; 0 = no answer
	LastError  string
}

// DeliveryResult is the outcome of an attempt.
type DeliveryResult struct {
	EndpointID int64
	Seq        int64
	// State is DeliveryDelivered, DeliveryDead, or DeliveryPending to try again at
	// NextMs.
	State  DeliveryState
	NextMs int64
	AtMs   int64 // when the attempt ended
	Status int   // HTTP status; 0 = no answer
	Error  string
}

// DueQuery asks for deliveries that can be sent.
type DueQuery struct {
	EndpointID int64
	NowMs      int64
	MaxSeq     int64   // events after it are not asked for; 0 = no bound
	Exclude    []int64 // event seqs that are in flight
	Limit      int
}

// DeliveryQuery asks for a page of an endpoint's deliveries, newest first.
type DeliveryQuery struct {
	EndpointID int64
	State      DeliveryState
	BeforeSeq  int64 // the page's cursor: deliveries of earlier events; 0 = from the newest
	Limit      int
}

// Replay selects deliveries of an endpoint that are to be sent again. All conditions must
// hold.
type Replay struct {
	EventID  string        // that event only
	FromSeq  int64         // events from it on
	ToSeq    int64         // events up to it; 0 = all
	SinceMs  int64         // events created at or after it
	State    DeliveryState // DeliveryDead or DeliveryDelivered
	AnyState bool          // both, whatever State says
	// Missing also includes events that were never recorded for the endpoint, because it
	// was disabled or its filter differed, if the endpoint wants them now.
	Missing bool
}

// EndpointStats are an endpoint's figures. Reading them costs a few index look-ups.
type EndpointStats struct {
	Endpoint        Endpoint
	Pending         int64 // deliveries
	Dead            int64
	Delivered       int64 // ever
	Failures        int64 // failed attempts, ever
	OldestPendingMs int64 // when the oldest pending event was created; 0 = none pends
	OldestSeq       int64 // the oldest pending event
	LastMs          int64 // when the last attempt ended
	LastSuccessMs   int64
	LastStatus      int
	LastError       string // of the last failed attempt
}

// Query asks for events in the order of their seq.
type Query struct {
	After int64 // events after this seq
	// Before, if not 0, asks for the newest events before this seq, the newest first.
	Before int64
	Epoch  int64 // epoch of the event After, as the reader knows it; 0 = not known
	Limit  int
	Room   string   // a room's SID, or a name: all rooms that bore it; "" = all
	Types  []string // empty = all
}

// Store is the log's storage, as its readers see it.
type Store interface {
	// Events returns events in the order of their seq, or against it with [Query.Before].
	Events(ctx context.Context, q Query) ([]Event, error)
	// SeqRange returns the seqs of the oldest and the newest event that can be
	// read. Before the first event both are 0; when all are pruned oldest is
	// newest+1.
	SeqRange(ctx context.Context) (oldest, newest int64, err error)
	// Watch returns a channel that gets a token after each commit that wrote events or
	// made deliveries due. Tokens coalesce: after one, look again. cancel releases the
	// channel; it is not closed.
	Watch() (c <-chan struct{}, cancel func())
	// PruneEvents deletes up to batch events with their deliveries: those created before
	// olderThanMs, and the oldest beyond maxRows (0 = no bound). An event with a pending
	// delivery stays, and so do all later events; a dead letter younger than olderThanMs
	// keeps its event. It returns the number deleted: below batch means that there are no
	// more.
	PruneEvents(ctx context.Context, olderThanMs, maxRows int64, batch int) (int, error)
}

// Outbox is the store as the sender of webhooks sees it. Writes go through the store's
// one queue, in order with the changes of rooms, and return when they are on disk. Calls
// for an endpoint that does not exist fail with [ErrNoEndpoint].
type Outbox interface {
	Store

	// SyncEndpoints brings the stored endpoints in line with the configuration, and
	// returns the configured ones with their ids, in the order given. Endpoints that the
	// configuration no longer names become disabled ([ReasonRemoved]), and their pending
	// deliveries become dead letters.
	SyncEndpoints(ctx context.Context, configured []Endpoint, nowMs int64) ([]Endpoint, error)
	// SetEndpointState pauses, disables or resumes an endpoint, with the reason. Its
	// pending deliveries stay pending.
	SetEndpointState(ctx context.Context, endpointID int64, s EndpointState, reason string) error

	// DueHeads returns deliveries that can be sent now, the longest due first, whatever
	// the endpoint's state.
	DueHeads(ctx context.Context, q DueQuery) ([]Delivery, error)
	// PullIn makes pending deliveries due at nowMs that wait for a time which was set by a
	// clock that has been set back since: those that were never tried and are not due, those
	// whose last attempt lies in the future, and those that wait longer than longest. It
	// returns how many.
	PullIn(ctx context.Context, endpointID, nowMs int64, longest time.Duration) (int, error)
	// NextDue is when the next delivery after afterMs falls due; 0 = there is none.
	NextDue(ctx context.Context, endpointID, afterMs int64) (int64, error)
	// FinishDeliveries records the outcomes of attempts. A failure of a delivery that is
	// no longer pending is ignored.
	FinishDeliveries(ctx context.Context, results []DeliveryResult) error
	// BoundPending makes dead letters of an endpoint's oldest pending deliveries, with
	// that reason, until at most max are pending. It returns how many.
	BoundPending(ctx context.Context, endpointID, max, nowMs int64, reason string) (int, error)
	// SendTest writes e, which belongs to no room, and a delivery to that endpoint alone,
	// whatever its filter. It returns the event's seq.
	SendTest(ctx context.Context, endpointID int64, e Event) (int64, error)
	// Replay makes deliveries pending again, due at nowMs, with their attempts reset. It
	// refuses a disabled endpoint, which would never send them. It returns how many.
	Replay(ctx context.Context, endpointID int64, r Replay, nowMs int64) (int, error)

	// ListDeliveries returns a page of an endpoint's deliveries, newest first,
	// without their events' bodies.
	ListDeliveries(ctx context.Context, q DeliveryQuery) ([]Delivery, error)
	// EndpointStats returns the figures of every endpoint, removed ones included.
	EndpointStats(ctx context.Context) ([]EndpointStats, error)
}
