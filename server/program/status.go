package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

const statusUsage = `Show how a server that runs fares. The exit status is 1 if something is wrong with its
database, replica or certificate.

  parlor status

`

// statusAnswer is the part of a server's status that the command shows.
type statusAnswer struct {
	Version       string
	UptimeSeconds int64 `json:"uptime_seconds"`
	Rooms         struct {
		Open         *int64
		Live         int64
		Participants int64
		ExpectedBack int64 `json:"expected_back"`
		Overdue      *int64
		Stuck        int64
	}
	Database *struct {
		Failing string
		P99Ms   float64 `json:"commit_p99_ms"`
		Queue   int64
	}
	Replication *struct {
		State      string
		Epoch      int64
		LagSeconds float64 `json:"lag_seconds"`
		Stage      string
		LastError  string `json:"last_error"`
	}
	Certificate *struct {
		Names     []string
		DaysLeft  *int64 `json:"days_left"`
		LastError string `json:"last_error"`
	}
	Webhooks *struct {
		Endpoints, Failing, Pending, Dead int64
		OldestPending                     *time.Time `json:"oldest_pending_at"`
	}
}

// wrong returns what a person has to look at, as an error; nil if there is nothing.
func (s *statusAnswer) wrong() error {
	var all []error
	if s.Database != nil && s.Database.Failing != "" {
		all = append(all, fmt.Errorf("the database fails: %s", printable(s.Database.Failing, 4*lineWidth)))
	}
	if r := s.Replication; r != nil {
		if r.State != "held" {
			all = append(all, fmt.Errorf("the lease on the replica is %s", printable(r.State, cellWidth)))
		}
		if r.Stage != "" {
			all = append(all, fmt.Errorf("the replica is %.0f s behind: %s fails: %s", r.LagSeconds, printable(r.Stage, cellWidth), printable(r.LastError, 4*lineWidth)))
		}
	}
	if c := s.Certificate; c != nil && c.LastError != "" {
		all = append(all, fmt.Errorf("the certificate: %s", printable(c.LastError, 4*lineWidth)))
	}
	if s.Rooms.Overdue != nil && *s.Rooms.Overdue > 0 {
		all = append(all, fmt.Errorf("%s should have ended", count(*s.Rooms.Overdue, "room")))
	}
	if s.Rooms.Stuck > 0 {
		all = append(all, fmt.Errorf("of the live rooms %d hang", s.Rooms.Stuck))
	}
	return errors.Join(all...)
}

// showStatus shows the state of a server.
func showStatus(ctx context.Context, env Environment) error {
	var c clientFlags
	f := newFlags("parlor status", statusUsage, clientUsage)
	c.register(f)
	if err := parse(f, env); err != nil {
		return err
	}
	server, err := c.connect(env)
	if err != nil {
		return err
	}
	var s statusAnswer
	raw, err := server.get(ctx, "/status", nil, &s)
	if err != nil {
		return err
	}
	if c.json {
		err = writeJSONLine(env.Out, raw)
	} else {
		err = s.print(server.base, env.Out)
	}
	return errors.Join(err, s.wrong())
}

func (s *statusAnswer) print(base string, out io.Writer) (err error) {
	line := func(name, format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(out, "%-13s%s\n", name, printable(fmt.Sprintf(format, args...), lineWidth))
		}
	}
	now := time.Now()
	line("server", "%s, version %s, up for %s", base, s.Version, rounded(time.Duration(s.UptimeSeconds)*time.Second))
	open := "unknown"
	if s.Rooms.Open != nil {
		open = fmt.Sprint(*s.Rooms.Open)
	}
	line("rooms", "%s open, %d with somebody in them", open, s.Rooms.Live)
	line("people", "%d in rooms, %d expected back", s.Rooms.Participants, s.Rooms.ExpectedBack)
	if d := s.Database; d != nil {
		line("database", "99 of 100 commits within %g ms, %d waiting", d.P99Ms, d.Queue)
	}
	switch r := s.Replication; {
	case r == nil:
		line("replica", "none")
	default:
		line("replica", "lease %s, epoch %d, %.1f s behind", r.State, r.Epoch, r.LagSeconds)
	}
	switch c := s.Certificate; {
	case c == nil:
		line("certificate", "none")
	case c.DaysLeft == nil:
		line("certificate", "none yet, for %s", strings.Join(c.Names, ", "))
	default:
		line("certificate", "for %s, %s left", strings.Join(c.Names, ", "), count(*c.DaysLeft, "day"))
	}
	if w := s.Webhooks; w != nil {
		oldest := ""
		if w.OldestPending != nil {
			oldest = ", the oldest for " + ago(w.OldestPending, now)
		}
		line("webhooks", "%s, %d failing; %d pending%s; %d dead", count(w.Endpoints, "endpoint"), w.Failing, w.Pending, oldest, w.Dead)
	}
	return err
}
