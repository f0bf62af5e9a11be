package program

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const roomsUsage = `Show the rooms of a server that runs.

  parlor rooms
  parlor rooms --ended --prefix team-

`

// roomAnswer is the part of a room that the commands show.
type roomAnswer struct {
	SID              string     `json:"sid"`
	Name             string     `json:"name"`
	State            string     `json:"state"`
	CreatedAt        *time.Time `json:"created_at"`
	EmptyTimeout     any        `json:"empty_timeout"` // seconds, or "never"
	DepartureTimeout any        `json:"departure_timeout"`
	MaxParticipants  int64      `json:"max_participants"`
	Metadata         string     `json:"metadata"`
	Locked           bool       `json:"locked"`
	Hold             *struct {
		Sources, Except []string
	} `json:"hold"`
	NumParticipants int64      `json:"num_participants"`
	NumPublishers   int64      `json:"num_publishers"`
	ExpiresAt       *time.Time `json:"expires_at"`
	EndedAt         *time.Time `json:"ended_at"`
	EndReason       string     `json:"end_reason"`
}

// notes are the special states of a room.
func (r *roomAnswer) notes() string {
	var all []string
	if r.Locked {
		all = append(all, "locked")
	}
	if r.Hold != nil {
		all = append(all, "held muted")
	}
	return strings.Join(all, ", ")
}

// ends tells when an open room ends.
func (r *roomAnswer) ends(now time.Time) string {
	switch {
	case r.ExpiresAt != nil:
		return "in " + rounded(r.ExpiresAt.Sub(now))
	case r.NumParticipants > 0:
		return ""
	}
	return "never"
}

// showRooms lists rooms.
func showRooms(ctx context.Context, env Environment) error {
	var c clientFlags
	var ended bool
	var prefix string
	f := newFlags("parlor rooms", roomsUsage, clientUsage)
	f.BoolVar(&ended, "ended", false, "rooms that have ended, in place of those that are open")
	f.StringVar(&prefix, "prefix", "", "rooms whose names begin with this `text`")
	c.register(f)
	if err := parse(f, env); err != nil {
		return err
	}
	server, err := c.connect(env)
	if err != nil {
		return err
	}
	query := url.Values{"limit": {"500"}}
	if ended {
		query.Set("state", "ended")
	}
	if prefix != "" {
		query.Set("name_prefix", prefix)
	}
	if c.json {
		return server.rooms(ctx, query, func(raw []json.RawMessage) error {
			for _, room := range raw {
				if err := writeJSONLine(env.Out, room); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return server.listRooms(ctx, query, ended, env.Out)
}

// rooms calls page for every page of a list of rooms.
func (c *client) rooms(ctx context.Context, query url.Values, page func([]json.RawMessage) error) error {
	for {
		var answer struct {
			Rooms      []json.RawMessage
			NextCursor string `json:"next_cursor"`
		}
		if _, err := c.get(ctx, "/rooms", query, &answer); err != nil {
			return err
		}
		if err := page(answer.Rooms); err != nil || answer.NextCursor == "" {
			return err
		}
		query.Set("cursor", answer.NextCursor)
	}
}

func (c *client) listRooms(ctx context.Context, query url.Values, ended bool, out io.Writer) error {
	head := []string{"NAME", "PEOPLE", "PUBLISHING", "OPENED", "ENDS", "NOTES"}
	if ended {
		head = []string{"NAME", "SID", "OPENED", "ENDED", "WHY"}
	}
	t, now, found := newTable(out, head...), time.Now(), false
	err := c.rooms(ctx, query, func(page []json.RawMessage) error {
		for _, raw := range page {
			var r roomAnswer
			if err := json.Unmarshal(raw, &r); err != nil {
				return err
			}
			found = true
			if ended {
				t.row(r.Name, r.SID, when(r.CreatedAt), when(r.EndedAt), r.EndReason)
				continue
			}
			t.row(r.Name, fmt.Sprint(r.NumParticipants), fmt.Sprint(r.NumPublishers), when(r.CreatedAt), r.ends(now), r.notes())
		}
		return nil
	})
	switch {
	case found:
		return errors.Join(t.flush(), err)
	case err == nil:
		_, err = fmt.Fprintln(out, "no rooms")
	}
	return err
}

const roomUsage = `Show who is in a room of a server that runs, or act on the room.

  parlor room lobby
  parlor room lobby --lock            nobody new may join
  parlor room lobby --mute            mute everybody who can be heard
  parlor room lobby --mute --hold     and keep it so
  parlor room lobby --close           everybody is sent away

`

// roomRequest holds the command line's flags about a room.
type roomRequest struct {
	clientFlags
	name                string
	close, lock, unlock bool
	mute, hold, release bool
	remove              string
	server              *client
	out                 io.Writer
}

// showRoom shows a room, or acts on it.
func showRoom(ctx context.Context, env Environment) error {
	r := roomRequest{out: env.Out}
	f := newFlags("parlor room", roomUsage, clientUsage)
	f.BoolVar(&r.close, "close", false, "close the room")
	f.BoolVar(&r.lock, "lock", false, "let nobody new join")
	f.BoolVar(&r.unlock, "unlock", false, "let people join again")
	f.BoolVar(&r.mute, "mute", false, "mute what can be heard")
	f.BoolVar(&r.hold, "hold", false, "with --mute: what is published later, too, and nobody can unmute")
	f.BoolVar(&r.release, "release", false, "end a hold")
	f.StringVar(&r.remove, "remove", "", "send a participant away, by its `identity`")
	r.register(f)
	names, err := parseArguments(f, env, 1)
	if err != nil {
		return err
	}
	if len(names) == 0 || names[0] == "" {
		fmt.Fprintln(env.Err, "the room's name is missing; see parlor room --help")
		return errUsage
	}
	r.name = names[0]
	act, wrong := r.action()
	if wrong != "" {
		fmt.Fprintf(env.Err, "%s; see parlor room --help\n", wrong)
		return errUsage
	}
	if r.server, err = r.connect(env); err != nil {
		return err
	}
	return act(ctx)
}

// action returns what to do, or what is wrong with the flags.
func (r *roomRequest) action() (act func(context.Context) error, wrong string) {
	act = r.show
	given := 0
	for _, a := range []struct {
		given bool
		act   func(context.Context) error
	}{
		{r.close, r.doClose}, {r.lock, r.doLock}, {r.unlock, r.doLock}, {r.mute, r.doMute},
		{r.release, r.doRelease}, {r.remove != "", r.doRemove},
	} {
		if a.given {
			act = a.act
			given++
		}
	}
	switch {
	case given > 1:
		return nil, "only one of --close, --lock, --unlock, --mute, --release and --remove can be done at a time"
	case r.hold && !r.mute:
		return nil, "--hold is for --mute"
	}
	return act, ""
}

func (r *roomRequest) path(more string) string { return "/rooms/" + inPath(r.name) + more }

// done reports what was done, or the answer as JSON if there is one.
func (r *roomRequest) done(raw []byte, format string, args ...any) error {
	if r.json {
		if len(raw) == 0 {
			return nil
		}
		return writeJSONLine(r.out, raw)
	}
	_, err := fmt.Fprintf(r.out, "%s "+format+"\n", append([]any{printable(r.name, lineWidth)}, args...)...)
	return err
}

func (r *roomRequest) doClose(ctx context.Context) error {
	raw, err := r.server.call(ctx, http.MethodDelete, r.path(""), nil, nil, nil)
	if err != nil {
		return err
	}
	return r.done(raw, "is closed")
}

func (r *roomRequest) doLock(ctx context.Context) error {
	raw, err := r.server.call(ctx, http.MethodPatch, r.path(""), nil, map[string]bool{"locked": r.lock}, nil)
	if err != nil {
		return err
	}
	if r.lock {
		return r.done(raw, "is locked: nobody new may join")
	}
	return r.done(raw, "is open to newcomers")
}

func (r *roomRequest) doMute(ctx context.Context) error {
	var answer struct {
		Tracks []struct{ Identity string }
	}
	raw, err := r.server.call(ctx, http.MethodPost, r.path("/mute"), nil, map[string]bool{"hold": r.hold}, &answer)
	if err != nil {
		return err
	}
	held := ""
	if r.hold {
		held = ", and stays so until --release"
	}
	return r.done(raw, "is muted: %s%s", count(int64(len(answer.Tracks)), "track"), held)
}

func (r *roomRequest) doRelease(ctx context.Context) error {
	raw, err := r.server.call(ctx, http.MethodDelete, r.path("/mute"), nil, nil, nil)
	if err != nil {
		return err
	}
	return r.done(raw, "is not held muted")
}

func (r *roomRequest) doRemove(ctx context.Context) error {
	raw, err := r.server.call(ctx, http.MethodDelete, r.path("/participants/"+inPath(r.remove)), nil, nil, nil)
	if err != nil {
		return err
	}
	return r.done(raw, "is without %s", printable(r.remove, lineWidth))
}

// participantAnswer is the part of a participant that the commands show.
type participantAnswer struct {
	Identity, Name, State, Kind string
	JoinedAt                    *time.Time `json:"joined_at"`
	Tracks                      []struct {
		SID, Name, Type, Source string
		Muted                   bool
	}
}

// tracks lists what the participant publishes.
func (p *participantAnswer) tracks() string {
	var all []string
	for _, t := range p.Tracks {
		what := t.Source
		if what == "" || what == "unknown" {
			what = t.Type
		}
		what = strings.ReplaceAll(what, "_", " ")
		if t.Muted {
			what += " (muted)"
		}
		all = append(all, what)
	}
	return strings.Join(all, ", ")
}

func (r *roomRequest) show(ctx context.Context) error {
	var room roomAnswer
	rawRoom, err := r.server.get(ctx, r.path(""), nil, &room)
	if err != nil {
		return err
	}
	var people struct{ Participants []participantAnswer }
	rawPeople, err := r.server.get(ctx, r.path("/participants"), nil, &people)
	if err != nil {
		return err
	}
	if r.json {
		both, err := json.Marshal(map[string]json.RawMessage{"room": rawRoom, "people": rawPeople})
		if err != nil {
			return err
		}
		return writeJSONLine(r.out, both)
	}
	now := time.Now()
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(r.out, "%-12s%s\n", name, printable(value, lineWidth)) // the table's flush reports errors
		}
	}
	line("room", room.Name)
	line("sid", room.SID)
	line("opened", when(room.CreatedAt))
	line("ends", room.ends(now))
	line("state", room.notes())
	if room.MaxParticipants > 0 {
		line("room for", fmt.Sprint(room.MaxParticipants))
	}
	line("metadata", room.Metadata)
	line("people", fmt.Sprint(len(people.Participants)))
	if len(people.Participants) == 0 {
		return nil
	}
	fmt.Fprintln(r.out)
	t := newTable(r.out, "IDENTITY", "NAME", "STATE", "HERE", "PUBLISHES")
	for _, p := range people.Participants {
		t.row(p.Identity, p.Name, p.State, ago(p.JoinedAt, now), p.tracks())
	}
	return t.flush()
}
