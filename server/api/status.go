package api

import (
	"context"
	"math"
	"net/http"
	"time"

	"parlor/rooms"
	"parlor/rooms/log"
)

// Writer holds figures on the database's writer. Latencies are of transactions, the
// disk's part included, since the start.
type Writer struct {
	Failing   string  `json:"failing,omitempty" doc:"Why the last write failed, or what this answer is made of could not be read; absent if neither did."`
	Queue     int     `json:"queue" doc:"Writes that wait."`
	Commits   uint64  `json:"commits" doc:"Transactions since the start."`
	Failures  uint64  `json:"failures" doc:"Transactions that failed since the start."`
	MeanMs    float64 `json:"commit_mean_ms"`
	P50Ms     float64 `json:"commit_p50_ms" doc:"Half of the transactions took no longer: the bound of a histogram's bucket."`
	P99Ms     float64 `json:"commit_p99_ms" doc:"99 of 100 took no longer."`
	WALBytes  int64   `json:"wal_bytes" doc:"Size of the write-ahead log."`
	Damaged   int64   `json:"damaged_rows" doc:"Rows of which a part could not be read when they were last looked at."`
	SyncError string  `json:"sync_error,omitempty" doc:"Why the last hand-over to the replica failed."`
}

// The states of the lease on a replica.
const (
	LeaseHeld   = "held"
	LeaseUnsure = "unsure" // it was not renewed in time: nothing is written until it is
	LeaseLost   = "lost"
)

// Replica tells the state of the database's replication.
type Replica interface {
	Status() ReplicaStatus
}

// ReplicaStatus is the state of the replication.
type ReplicaStatus struct {
	State        string     `json:"state" enum:"held,unsure,lost" doc:"Of the lease on the replica."`
	Epoch        int64      `json:"epoch" doc:"Grows with each lease, never falls."`
	LeaseExpires *timestamp `json:"lease_expires_at"`
	LagSeconds   float64    `json:"lag_seconds" doc:"Age of the oldest write that the replica does not have, whatever stage it is stuck in; 0 if it has all."`
	// Stage, LastError and FailingSince in Stages belong together: Stage is the first
	// stage that fails.
	Stage       string         `json:"stage,omitempty" enum:"local,generation,upload,check,merge,lease" doc:"The first stage that fails now; absent if none does."`
	LastError   string         `json:"last_error,omitempty" doc:"Why it fails, and what has to be done if it does not heal by itself."`
	Failures    uint64         `json:"failures" doc:"Failures of all stages since the start."`
	Generations uint64         `json:"generations_begun" doc:"Generations that began since the start because the last one could not go on."`
	Stages      []ReplicaStage `json:"stages" doc:"In the order of a write's way to the replica."`
}

// ReplicaStage is the state of one stage of a write's way to the replica.
type ReplicaStage struct {
	Stage        string     `json:"stage" enum:"local,generation,upload,check,merge" doc:"local: out of the write-ahead log into the folder beside the database; generation: a new one begins; upload: to the replica; check: what was uploaded is there; merge: files there are merged."`
	Failures     uint64     `json:"failures" doc:"Since the start."`
	LastError    string     `json:"last_error,omitempty" doc:"Absent if the last try succeeded."`
	FailingSince *timestamp `json:"failing_since"`
}

// SetFailingSince sets when the present failures began; zero = none.
func (s *ReplicaStage) SetFailingSince(t time.Time) {
	if !t.IsZero() {
		s.FailingSince = at(rooms.NowMs(t))
	}
}

// SetLeaseExpires sets when the lease ends if it is not renewed.
func (s *ReplicaStatus) SetLeaseExpires(t time.Time) { s.LeaseExpires = at(rooms.NowMs(t)) }

// overdueAfter is how long after its deadline an open room counts as overdue, because
// ending due rooms takes a moment.
const overdueAfter = 5 * time.Second

// status is the state of the server. A figure that cannot be read is null.
type status struct {
	Version       string              `json:"version"`
	StartedAt     *timestamp          `json:"started_at"`
	UptimeSeconds int64               `json:"uptime_seconds"`
	Rooms         roomFigures         `json:"rooms"`
	Database      *Writer             `json:"database"`
	Replication   *ReplicaStatus      `json:"replication" doc:"Null: the database is not replicated."`
	Certificate   *certificateFigures `json:"certificate" doc:"Null: the server does not speak TLS."`
	Webhooks      *outboxFigures      `json:"webhooks" doc:"Null: the database cannot be read."`
}

// Certificate is the TLS certificate that clients are shown.
type Certificate struct {
	Names     []string  // the names and addresses that it is for, or is to be for
	Until     time.Time // zero = there is none yet
	LastError string    // why it is missing or cannot be renewed; "" = all is well
}

// certificateFigures are a [Certificate] as REST shows it.
type certificateFigures struct {
	Names     []string   `json:"names" doc:"The names and addresses that it is for."`
	ExpiresAt *timestamp `json:"expires_at" doc:"Null: there is none yet."`
	DaysLeft  *int64     `json:"days_left" doc:"Whole days until it expires, negative after that; null: there is none yet."`
	LastError string     `json:"last_error" doc:"Why it is missing or cannot be renewed; empty: all is well."`
}

func showCertificate(c *Certificate, now time.Time) *certificateFigures {
	if c == nil {
		return nil
	}
	out := &certificateFigures{Names: c.Names, LastError: c.LastError}
	if out.Names == nil { // the schema does not allow null
		out.Names = []string{}
	}
	if !c.Until.IsZero() {
		days := int64(math.Floor(c.Until.Sub(now).Hours() / 24))
		out.ExpiresAt, out.DaysLeft = at(rooms.NowMs(c.Until)), &days
	}
	return out
}

// roomFigures counts rooms and participants.
type roomFigures struct {
	Open            *int64     `json:"open" doc:"Null, as ended and overdue: the database cannot be read."`
	Ended           *int64     `json:"ended" doc:"Kept as history."`
	Live            int        `json:"live" doc:"Open rooms with something going on."`
	Stuck           int        `json:"stuck" doc:"Of those the ones that have done one thing for 10 s: anything but 0 is a fault."`
	Participants    int        `json:"participants"`
	ExpectedBack    int        `json:"expected_back" doc:"Participants of before the restart who are not back yet."`
	Overdue         *int64     `json:"overdue" doc:"Open rooms whose deadline passed 5 s ago or earlier: anything but 0 is a fault."`
	OldestCreatedAt *timestamp `json:"oldest_created_at" doc:"Of the open room that is open longest."`
}

// outboxFigures are figures on the webhooks, over all endpoints.
type outboxFigures struct {
	Endpoints     int        `json:"endpoints"`
	Failing       int        `json:"failing" doc:"Endpoints whose last attempt failed, or that are paused or disabled."`
	Pending       int64      `json:"pending"`
	Dead          int64      `json:"dead"`
	OldestPending *timestamp `json:"oldest_pending_at"`
}

// getStatus answers with the state of the server. None of it costs a scan. It must work
// above all when something is wrong, so figures that the database does not give are left
// out.
func (s *rest) getStatus(w http.ResponseWriter, r *http.Request) error {
	out, err := s.status(r.Context(), time.Now())
	if err != nil {
		return err
	}
	return sendJSON(w, http.StatusOK, out)
}

// status fails only if nobody waits for it any more.
func (s *rest) status(ctx context.Context, now time.Time) (status, error) {
	live := s.Rooms.Stats()
	out := status{
		Version: s.Version, StartedAt: at(rooms.NowMs(s.Started)), UptimeSeconds: int64(now.Sub(s.Started) / time.Second),
		Rooms: roomFigures{Live: live.Live, Stuck: live.Stuck, Participants: live.Participants, ExpectedBack: live.ExpectedBack},
	}
	if s.Writer != nil {
		figures := s.Writer()
		out.Database = &figures
	}
	if s.Replica != nil {
		replica := s.Replica.Status()
		if replica.Stages == nil { // none while replication starts or ends; the schema does not allow null
			replica.Stages = []ReplicaStage{}
		}
		out.Replication = &replica
	}
	if s.Certificate != nil {
		out.Certificate = showCertificate(s.Certificate(), now)
	}
	err := s.countRooms(ctx, &out.Rooms)
	if err == nil {
		out.Webhooks, err = s.countDeliveries(ctx)
	}
	if err != nil {
		if ctx.Err() != nil {
			return out, err // the caller has gone
		}
		out.Database = out.Database.unread(tell(ctx, s.Log, "status", err).Msg)
	}
	return out, nil
}

// unread is w, which may be nil, with that failure if it has no other.
func (w *Writer) unread(why string) *Writer {
	if w == nil {
		w = &Writer{}
	}
	if w.Failing == "" {
		w.Failing = why
	}
	return w
}

func (s *rest) countRooms(ctx context.Context, out *roomFigures) error {
	open, ended, err := s.Records.CountRooms(ctx)
	if err != nil {
		return err
	}
	out.Open, out.Ended = &open, &ended
	overdue, err := s.Records.CountDue(ctx, s.Rooms.Now().Before(overdueAfter))
	if err != nil {
		return err
	}
	out.Overdue = &overdue
	oldest, err := s.Records.ListRooms(ctx, rooms.RoomQuery{State: rooms.RoomsOpen, Limit: 1})
	if err != nil {
		return err
	}
	if len(oldest) > 0 {
		out.OldestCreatedAt = at(oldest[0].CreatedMs)
	}
	return nil
}

func (s *rest) countDeliveries(ctx context.Context) (*outboxFigures, error) {
	all, err := s.endpoints(ctx)
	if err != nil {
		return nil, err
	}
	out := &outboxFigures{}
	out.add(all)
	return out, nil
}

func (f *outboxFigures) add(all []endpoint) {
	for _, e := range all {
		if e.Reason == log.ReasonRemoved {
			f.Dead += e.Dead
			continue
		}
		f.Endpoints++
		f.Pending += e.Pending
		f.Dead += e.Dead
		if e.FailingSince != nil || e.State != string(log.EndpointOn) {
			f.Failing++
		}
		if t := e.OldestPending; t != nil && (f.OldestPending == nil || time.Time(*t).Before(time.Time(*f.OldestPending))) {
			f.OldestPending = t
		}
	}
}
