package program

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"parlor/server/events"
)

const eventsUsage = `Show what happened on a server, and with --follow what happens, until Ctrl-C.

  parlor events                       the newest
  parlor events --room lobby          all of a room that are kept
  parlor events --follow --type participant_joined,participant_left

`

const (
	// tail is how many events are shown by default.
	tail = 50
	// silence is how long a stream may be silent before it counts as dead; the server
	// sends something every 15 s.
	silence = time.Minute
	// again is the time between two tries to reach a server that is away.
	again = 2 * time.Second
	// maxLine bounds a line of a stream.
	maxLine = 8 << 20
)

// follower shows events.
type follower struct {
	clientFlags
	room, kinds, after string
	follow             bool

	server *client
	env    Environment
	cursor string // of the last event that was shown
}

// showEvents shows the event log.
func showEvents(ctx context.Context, env Environment) error {
	l := follower{env: env}
	f := newFlags("parlor events", eventsUsage, clientUsage)
	f.BoolVar(&l.follow, "follow", false, "go on with what happens")
	f.StringVar(&l.room, "room", "", "`name` or id of a room")
	f.StringVar(&l.kinds, "type", "", "`types` of events, with commas between them")
	f.StringVar(&l.after, "after", "", "`cursor` or seq: events after it; 0 is all that are kept")
	l.register(f)
	err := parse(f, env)
	if err != nil {
		return err
	}
	if l.server, err = l.connect(env); err != nil {
		return err
	}
	if err = l.past(ctx); err == nil && l.follow {
		err = l.present(ctx)
	}
	if ctx.Err() != nil && l.follow {
		return nil // this is how a user stops following
	}
	return err
}

func (l *follower) query() url.Values {
	q := url.Values{}
	if l.room != "" {
		q.Set("room", l.room)
	}
	if l.kinds != "" {
		q.Set("type", l.kinds)
	}
	if l.cursor != "" {
		q.Set("after", l.cursor)
	}
	return q
}

// start sets the cursor to the first event to show: as --after says, at the oldest if
// there is a filter, else a few events before the newest.
func (l *follower) start(ctx context.Context) error {
	if l.after != "" && l.after != "0" {
		l.cursor = l.after
		return nil
	}
	if l.after == "0" || l.room != "" || l.kinds != "" {
		return nil
	}
	var page events.Page
	if _, err := l.server.get(ctx, "/events", url.Values{"limit": {"1"}}, &page); err != nil {
		return err
	}
	if from := page.Newest - tail; from >= page.Oldest {
		l.cursor = strconv.FormatInt(from, 10)
	}
	return nil
}

// past shows the events in the log.
func (l *follower) past(ctx context.Context) error {
	if err := l.start(ctx); err != nil {
		return err
	}
	for {
		q := l.query()
		q.Set("limit", "1000")
		var page struct {
			events.Page
			Events []json.RawMessage `json:"events"`
		}
		if _, err := l.server.get(ctx, "/events", q, &page); err != nil {
			return err
		}
		for _, raw := range page.Events {
			if err := l.show(raw); err != nil {
				return err
			}
		}
		l.cursor = page.Cursor
		if page.Next >= page.Newest {
			return nil
		}
	}
}

// present shows new events until ctx ends. A restart of the server only causes a pause.
func (l *follower) present(ctx context.Context) error {
	away := false
	for {
		err := l.stream(ctx, func() {
			if away {
				fmt.Fprintln(l.env.Err, "parlor: the server is back")
			}
			away = false
		})
		if p, ok := errors.AsType[*problemAnswer](err); ok && p.Status < http.StatusInternalServerError && p.Status != http.StatusTooManyRequests {
			return err
		}
		if _, ok := errors.AsType[*outputError](err); ok {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !away && err != nil {
			fmt.Fprintf(l.env.Err, "parlor: %v; waiting for it\n", err)
			away = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(again):
		}
	}
}

// outputError: an event could not be written to the output.
type outputError struct{ err error }

func (e *outputError) Error() string { return e.err.Error() }
func (e *outputError) Unwrap() error { return e.err }

// stream shows the events of one connection of server-sent events (WHATWG HTML, section
// 9.2), and returns nil when it ends. opened is called when the connection stands.
func (l *follower) stream(ctx context.Context, opened func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dead := time.AfterFunc(silence, cancel)
	defer dead.Stop()
	req, err := l.server.request(ctx, http.MethodGet, "/events", l.query(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := l.server.send(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	opened()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	var id, kind, data string
	for lines.Scan() {
		dead.Reset(silence)
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			id = value
		case "event":
			kind = value
		case "data":
			data = value // the server sends data in one line
		case "":
			if value != "" {
				continue // a comment
			}
			if err := l.dispatch(id, kind, data); err != nil {
				return err
			}
			kind, data = "", ""
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("what answers at %s is not Parlor: %w", l.server.base, err)
	}
	return nil // the caller connects again and goes on at the cursor
}

// dispatch handles one event of a stream.
func (l *follower) dispatch(id, kind, data string) error {
	if kind == "gone" {
		p := &problemAnswer{}
		if err := json.Unmarshal([]byte(data), p); err != nil {
			return fmt.Errorf("the server ended the stream: %w", err)
		}
		return p
	}
	if data != "" {
		if err := l.show([]byte(data)); err != nil {
			return err
		}
	}
	if id != "" {
		l.cursor = id
	}
	return nil
}

// show writes an event.
func (l *follower) show(raw []byte) error {
	if l.json {
		if err := writeJSONLine(l.env.Out, raw); err != nil {
			return &outputError{err}
		}
		return nil
	}
	var e events.Event
	if err := json.Unmarshal(raw, &e); err != nil {
		return fmt.Errorf("the server's event cannot be read: %w", err)
	}
	if err := printEvent(l.env.Out, &e); err != nil {
		return &outputError{err}
	}
	return nil
}

// printEvent writes an event in a line.
func printEvent(w io.Writer, e *events.Event) error {
	var what struct {
		Participant struct{ Identity, DisconnectReason string }
		Track       struct{ Source, Type string }
		Room        struct{ EndReason string }
	}
	_ = json.Unmarshal(e.Event, &what) // fields that it lacks are left out
	details := []string{}
	for _, text := range []string{what.Participant.Identity, strings.ToLower(what.Track.Source), strings.ToLower(what.Participant.DisconnectReason)} {
		if text != "" {
			details = append(details, printable(text, cellWidth))
		}
	}
	line := fmt.Sprintf("%-8d %s  %-30s %-24s %s", e.Seq, when(&e.CreatedAt), printable(e.Type, cellWidth), printable(e.Room, cellWidth), strings.Join(details, " "))
	_, err := fmt.Fprintln(w, strings.TrimRight(line, " "))
	return err
}
