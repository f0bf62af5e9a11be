package api

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"parlor/rooms"
	"parlor/server/access"
	"parlor/server/problem"
)

// Breakouts divides rooms; see [rooms.Division].
type Breakouts interface {
	MainRoom(ctx context.Context, name string) (rooms.Record, error)
	Divide(ctx context.Context, name string, breakouts []rooms.Breakout, condition func(before []rooms.Breakout) bool) (rooms.Record, error)
	SendOut(ctx context.Context, name string, limit time.Duration) (rooms.Record, error)
	CallBack(ctx context.Context, name string) (rooms.Record, error)
	GoTo(ctx context.Context, name, identity, to string, host bool) error
	TellAll(ctx context.Context, name, topic string, data []byte) error
}

// division is how a room is divided, for its hosts.
type division struct {
	Main       string     `json:"main" doc:"The name of the room that is divided."`
	Open       bool       `json:"open" doc:"People are sent out."`
	CallBackAt *timestamp `json:"call_back_at" doc:"When they are called back; null: no limit was set, and they are after a day."`
	Left       *float64   `json:"seconds_left" doc:"Until then, for those whose clock differs."`
	Breakouts  []breakout `json:"breakouts" doc:"Empty: it is not divided."`
	InMain     []present  `json:"in_main" doc:"Who is in the main room."`
}

// breakout is a breakout room.
type breakout struct {
	Room     string    `json:"room" doc:"The name of the room."`
	Title    string    `json:"title"`
	Assigned []string  `json:"assigned" doc:"Identities."`
	People   []present `json:"people" doc:"Who is in it."`
}

// present is who is in a room.
type present struct {
	Identity   string            `json:"identity"`
	Name       string            `json:"name"`
	Host       bool              `json:"host"`
	Attributes map[string]string `json:"attributes"`
}

func (s *rest) presentIn(ctx context.Context, name string) ([]present, error) {
	members, err := s.Rooms.Members(ctx, name)
	out := []present{}
	for _, m := range members {
		one := present{Identity: m.Info.Identity, Name: m.Info.Name, Host: m.Host, Attributes: m.Info.Attributes}
		if one.Attributes == nil {
			one.Attributes = map[string]string{}
		}
		if !m.Info.GetPermission().GetHidden() {
			out = append(out, one)
		}
	}
	slices.SortFunc(out, func(a, b present) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Identity, b.Identity))
	})
	return out, err
}

func (s *rest) showDivision(ctx context.Context, main *rooms.Record) (division, error) {
	d := main.Config.Division
	out := division{Main: main.Name, Open: d.Open(), Breakouts: []breakout{}}
	out.CallBackAt, out.Left = s.limitOf(d)
	var err error
	if out.InMain, err = s.presentIn(ctx, main.Name); err != nil || d == nil {
		return out, err
	}
	for _, b := range d.Breakouts {
		one := breakout{Room: b.Name, Title: b.Title, Assigned: append([]string{}, b.Assigned...)}
		if one.People, err = s.presentIn(ctx, b.Name); err != nil {
			return out, err
		}
		out.Breakouts = append(out.Breakouts, one)
	}
	return out, nil
}

// breakoutsTag identifies the breakout rooms of a division, and who is assigned: what a PUT
// replaces, and not who is where.
func breakoutsTag(all []rooms.Breakout) string { return entityTag(all) }

// withDivision handles a request by do, which is given the name of the room, and answers with
// how the room is divided then.
func (s *rest) withDivision(do func(r *http.Request, name string) (rooms.Record, error)) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		name, err := pathValue(r, "name")
		if err != nil {
			return err
		}
		main, err := do(r, name)
		if err != nil {
			return err
		}
		out, err := s.showDivision(r.Context(), &main)
		if err != nil {
			return err
		}
		var all []rooms.Breakout
		if d := main.Config.Division; d != nil {
			all = d.Breakouts
		}
		w.Header().Set("ETag", breakoutsTag(all))
		return sendJSON(w, http.StatusOK, out)
	}
}

func (s *rest) getDivision(r *http.Request, name string) (rooms.Record, error) {
	return s.Rooms.MainRoom(r.Context(), name)
}

// divideRequest is the body of PUT …/breakouts.
type divideRequest struct {
	Breakouts []breakoutRequest `json:"breakouts" doc:"50 at most; none end the division, and everybody comes back."`
}

type breakoutRequest struct {
	Room     string   `json:"room,omitempty" doc:"The name of one that there is; without it, it is new."`
	Title    string   `json:"title" doc:"At most 100 bytes."`
	Assigned []string `json:"assigned,omitempty" doc:"Identities, each in one room; at most 500 in all."`
}

func (s *rest) divide(r *http.Request, name string) (rooms.Record, error) {
	unchanged, err := condition(r, breakoutsTag)
	if err != nil {
		return rooms.Record{}, err
	}
	var body divideRequest
	if err := s.readJSON(r, &body); err != nil {
		return rooms.Record{}, err
	}
	all := make([]rooms.Breakout, 0, len(body.Breakouts))
	for _, b := range body.Breakouts {
		all = append(all, rooms.Breakout{Name: b.Room, Title: b.Title, Assigned: b.Assigned})
	}
	return s.Rooms.Divide(r.Context(), name, all, unchanged)
}

// sendOutRequest is the body of POST …/breakouts/open.
type sendOutRequest struct {
	Seconds uint32 `json:"seconds,omitempty" doc:"How long they stay, 86400 at most; without it, until they are called back, and a day at most."`
}

func (s *rest) sendOut(r *http.Request, name string) (rooms.Record, error) {
	var body sendOutRequest
	if err := s.readOptionalJSON(r, &body); err != nil {
		return rooms.Record{}, err
	}
	limit := time.Duration(body.Seconds) * time.Second
	if limit > rooms.LongestBreakouts {
		return rooms.Record{}, problem.Fields(problem.Field{Path: "seconds", Detail: "must not be more than 86400"})
	}
	return s.Rooms.SendOut(r.Context(), name, limit)
}

func (s *rest) callBack(r *http.Request, name string) (rooms.Record, error) {
	return s.Rooms.CallBack(r.Context(), name)
}

// tellRequest is the body of POST …/breakouts/message.
type tellRequest struct {
	Text string `json:"text" doc:"At most 1000 bytes. The page shows it to everybody, after the name of the participant whose token it was sent with."`
}

func (s *rest) tellDivision(w http.ResponseWriter, r *http.Request) error {
	name, err := pathValue(r, "name")
	if err != nil {
		return err
	}
	var body tellRequest
	if err := s.readJSON(r, &body); err != nil {
		return err
	}
	if body.Text == "" || len(body.Text) > 1000 {
		return problem.Fields(problem.Field{Path: "text", Detail: "must have 1 to 1000 bytes"})
	}
	if identity := access.FromContext(r.Context()).Grants.Identity; identity != "" {
		shown := identity
		if info, err := s.Rooms.Participant(r.Context(), name, identity); err == nil {
			shown = cmp.Or(info.Name, identity)
		}
		body.Text = shown + ": " + body.Text
	}
	if err := s.Rooms.TellAll(r.Context(), name, "parlor.message", []byte(body.Text)); err != nil {
		return err
	}
	return sendNothing(w)
}

// limitOf is when people are called back, and the seconds until then; nil without a limit.
func (s *rest) limitOf(d *rooms.Division) (*timestamp, *float64) {
	until, left := d.Limit(s.Rooms.Now())
	if until == 0 {
		return nil, nil
	}
	seconds := max(0, left.Seconds())
	return at(until), &seconds
}

// placement is what a participant is told of the division of its room.
type placement struct {
	Main       string     `json:"main" doc:"The name of the room that is divided, or of the room itself."`
	Open       bool       `json:"open" doc:"People are sent out."`
	CallBackAt *timestamp `json:"call_back_at" doc:"When they are called back; null: no limit was set."`
	Left       *float64   `json:"seconds_left" doc:"Until then, for those whose clock differs."`
	Here       *place     `json:"here" doc:"The breakout room that this is; null: it is none."`
	Mine       *place     `json:"mine" doc:"The breakout room that the participant is assigned to; null: none."`
}

// place is a breakout room as its people see it.
type place struct {
	Room  string `json:"room" doc:"The name of the room."`
	Title string `json:"title"`
}

func placeOf(b *rooms.Breakout) *place {
	if b == nil {
		return nil
	}
	return &place{b.Name, b.Title}
}

func (s *rest) getPlacement(w http.ResponseWriter, r *http.Request) error {
	name, err := pathValue(r, "name")
	if err != nil {
		return err
	}
	main, err := s.Rooms.MainRoom(r.Context(), name)
	if err != nil {
		return err
	}
	d := main.Config.Division
	out := placement{Main: main.Name, Open: d.Open(), Here: placeOf(d.Find(name))}
	if name != main.Name && out.Here == nil { // it is not of the division any more
		out.Here = &place{Room: name}
	}
	out.CallBackAt, out.Left = s.limitOf(d)
	if identity := access.FromContext(r.Context()).Grants.Identity; identity != "" {
		out.Mine = placeOf(d.Of(identity))
	}
	return sendJSON(w, http.StatusOK, out)
}

// goRequest is the body of POST …/breakout.
type goRequest struct {
	To string `json:"to,omitempty" doc:"The name of a breakout room; without it, the main room."`
}

func (s *rest) goTo(w http.ResponseWriter, r *http.Request) error {
	name, err := pathValue(r, "name")
	if err != nil {
		return err
	}
	var body goRequest
	if err := s.readOptionalJSON(r, &body); err != nil {
		return err
	}
	identity := access.FromContext(r.Context()).Grants.Identity
	if identity == "" {
		return problem.New(http.StatusBadRequest, "no_identity", "only the token of a participant of the room moves it: use …/participants/{identity}/move")
	}
	main, err := s.Rooms.Governing(r.Context(), name)
	if err != nil {
		return err
	}
	for _, room := range []string{main, body.To} {
		if err := s.admissibleIn(r.Context(), room); err != nil {
			return err
		}
	}
	if err := s.Rooms.GoTo(r.Context(), name, identity, body.To, toAdmin.ensure(r) == nil); err != nil {
		return err
	}
	return sendNothing(w)
}

func (s *rest) breakoutOperations() []operation {
	const tag = "breakouts"
	return []operation{
		{
			method: get, path: onRoom + "/breakouts", id: "getDivision", tag: tag, grant: toAdmin,
			summary: "How a room is divided into breakout rooms, and who is where. Here and below the room is the divided one, or any of its breakout rooms: a host of it runs the division, unless the main room has decided otherwise. Bans, revocations and decisions on who is host are those of the main room in all of them.",
			status:  http.StatusOK, answer: division{}, handle: s.withDivision(s.getDivision),
		},
		{
			method: put, path: onRoom + "/breakouts", id: "divideRoom", tag: tag, grant: toAdmin,
			summary: "Set the breakout rooms of a room, and who is assigned to which. It moves nobody yet; while people are sent out, those go to their rooms whose assignment has changed. It ends with the room. If-Match, with the ETag of the division, makes it conditional: the breakout rooms and who is assigned are as they were.",
			body:    divideRequest{}, size: bodySize{base: listBody}, conditional: true, example: `{"breakouts":[{"title":"Room 1","assigned":["ada"]},{"title":"Room 2"}]}`,
			status: http.StatusOK, answer: division{}, handle: s.withDivision(s.divide),
		},
		{
			method: post, path: onRoom + "/breakouts/open", id: "openBreakouts", tag: tag, grant: toAdmin,
			summary: "Send those who are assigned to their breakout rooms, with their tracks and without a reconnect. Meanwhile the room stays open although it may be empty. Once more it only sets the limit anew.",
			body:    sendOutRequest{}, optional: true, example: `{"seconds":600}`,
			status: http.StatusOK, answer: division{}, handle: s.withDivision(s.sendOut),
		},
		{
			method: post, path: onRoom + "/breakouts/close", id: "closeBreakouts", tag: tag, grant: toAdmin,
			summary: "Call everybody back. Who cannot be moved at once is moved as soon as it can be. The breakout rooms and who is assigned stay for the next time.",
			status:  http.StatusOK, answer: division{}, handle: s.withDivision(s.callBack),
		},
		{
			method: post, path: onRoom + "/breakouts/message", id: "tellBreakouts", tag: tag, grant: toAdmin,
			summary: "Send a message to everybody in the room and its breakout rooms.",
			body:    tellRequest{}, example: `{"text":"five minutes left"}`,
			status: http.StatusNoContent, handle: s.tellDivision,
		},
		{
			method: get, path: onRoom + "/breakout", id: "getPlacement", tag: tag, grant: s.toRead(),
			summary: "What a participant may know of the division: whether people are sent out, until when, in which breakout room it is and to which it is assigned. Data of the topic parlor.breakout tells that this has changed.",
			status:  http.StatusOK, answer: placement{}, handle: s.getPlacement,
		},
		{
			method: post, path: onRoom + "/breakout", id: "goToBreakout", tag: tag, grant: s.toRead(),
			summary: "Move the bearer of the token by its own wish: back to the main room, to the breakout room that it is assigned to, and a host to any.",
			body:    goRequest{}, optional: true, example: `{"to":"breakout-abc"}`,
			status: http.StatusNoContent, handle: s.goTo,
		},
	}
}
