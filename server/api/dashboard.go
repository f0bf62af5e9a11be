package api

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"parlor/rooms"
	"parlor/rooms/log"
	"parlor/server/access"
	"parlor/server/admin"
	"parlor/server/config"
	"parlor/server/problem"
)

// Dashboard is what REST has for the dashboard beyond rooms and webhooks. Each part may
// be nil: then nothing is told of it.
type Dashboard struct {
	Sessions    *admin.Sessions // nil = nobody can sign in
	Ring        *admin.Ring
	Refusals    *admin.Refusals
	Audit       log.Audit
	Starts      log.Starts
	StartID     func() int64               // the ID of this process's start; 0 = it has none
	Addresses   func() map[string]string   // of clients, by their participants' ids
	Workers     func() []rooms.AgentWorker // those that are connected, by agent name and id
	Lines       *admin.Lines
	Backups     Backups
	Generations func(ctx context.Context) ([]Generation, error) // of the replica
	Settings    func() []config.Shown                           // the configuration in force, without its secrets
	Certificate func(ctx context.Context) []Check               // how long it holds; asked often
}

// signInRequest is the body of POST …/admin/session.
type signInRequest struct {
	Key    string `json:"key,omitempty" doc:"An API key."`
	Secret string `json:"secret,omitempty" doc:"Its secret."`
	Link   string `json:"link,omitempty" doc:"What a link has behind #link=, in place of key and secret. It works once."`
	Role   string `json:"role,omitempty" enum:"look,moderate,all" doc:"At most this one; without it what the credentials allow."`
}

// adminSession is a session of the dashboard.
type adminSession struct {
	ID        string     `json:"id"`
	Key       string     `json:"key" doc:"The API key that it is of."`
	Role      string     `json:"role" enum:"look,moderate,all"`
	With      string     `json:"with" enum:"key,link" doc:"What was signed in with."`
	Address   string     `json:"address"`
	Agent     string     `json:"agent" doc:"The browser, as it says."`
	CreatedAt *timestamp `json:"created_at"`
	UsedAt    *timestamp `json:"used_at"`
	ExpiresAt *timestamp `json:"expires_at" doc:"At the latest; an hour after its last use it is over, too."`
	Current   bool       `json:"current" doc:"The request's own."`
}

func showAdminSession(a *admin.Session, own string) adminSession {
	return adminSession{
		ID: a.ID, Key: a.APIKey, Role: a.Role.String(), With: a.By, Address: a.Address, Agent: a.Agent,
		CreatedAt: at(rooms.NowMs(a.Created)), UsedAt: at(rooms.NowMs(a.Used)), ExpiresAt: at(rooms.NowMs(a.Expires)),
		Current: a.ID == own,
	}
}

// adminSessionList is the sessions of an API key.
type adminSessionList struct {
	Sessions []adminSession `json:"sessions"`
}

func noSuchSession() error {
	return problem.New(http.StatusNotFound, "not_found", "there is no such session of the dashboard")
}

// signIn begins a session, whose cookie it sets.
func (s *rest) signIn(w http.ResponseWriter, r *http.Request) error {
	var body signInRequest
	if err := s.readJSON(r, &body); err != nil {
		return err
	}
	role, known := access.ParseRole(body.Role)
	if body.Role != "" && !known {
		return problem.Fields(problem.Field{Path: "role", Detail: "must be look, moderate or all"})
	}
	if s.Dashboard.Sessions == nil {
		return problem.New(http.StatusNotFound, "not_found", "%s", admin.ErrClosed)
	}
	one, err := s.Dashboard.Sessions.SignIn(w, r, admin.Credentials{APIKey: body.Key, Secret: body.Secret, Link: body.Link, Role: role})
	if err != nil {
		return s.notSignedIn(w, r, body.Key, err)
	}
	s.note(log.Deed{APIKey: one.APIKey, Session: one.ID, Role: one.Role.String(), Address: one.Address, Call: "signIn"})
	return sendJSON(w, http.StatusCreated, showAdminSession(&one, one.ID))
}

func (s *rest) notSignedIn(w http.ResponseWriter, r *http.Request, key string, err error) error {
	p := problem.New(http.StatusUnauthorized, "unauthenticated", "%s", err)
	if often, ok := errors.AsType[*admin.TooOftenError](err); ok {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(often.Wait.Seconds()))))
		p = problem.New(http.StatusTooManyRequests, "rate_limited", "%s", err)
	}
	switch {
	case errors.Is(err, admin.ErrClosed):
		return problem.New(http.StatusNotFound, "not_found", "%s", err)
	case errors.Is(err, admin.ErrForeign):
		p = problem.New(http.StatusForbidden, "permission_denied", "%s", err)
	}
	s.Dashboard.Refusals.Add(admin.Refusal{
		What: "sign-in", Status: p.Status, APIKey: key, Address: access.Address(r.RemoteAddr), Agent: r.UserAgent(), Why: p.Detail,
	})
	return p
}

// ownSession is the session that the request is of.
func (s *rest) ownSession(r *http.Request) (admin.Session, error) {
	c := access.FromContext(r.Context())
	if s.Dashboard.Sessions == nil || c == nil {
		return admin.Session{}, noSuchSession()
	}
	one, ok := s.Dashboard.Sessions.Find(c.Session)
	if !ok {
		return admin.Session{}, noSuchSession()
	}
	return one, nil
}

func (s *rest) getSession(w http.ResponseWriter, r *http.Request) error {
	one, err := s.ownSession(r)
	if err != nil {
		return err
	}
	return sendJSON(w, http.StatusOK, showAdminSession(&one, one.ID))
}

func (s *rest) signOut(w http.ResponseWriter, r *http.Request) error {
	if s.Dashboard.Sessions == nil {
		return noSuchSession()
	}
	s.Dashboard.Sessions.SignOut(w, r)
	return sendNothing(w)
}

func (s *rest) listAdminSessions(w http.ResponseWriter, r *http.Request) error {
	out := adminSessionList{Sessions: []adminSession{}}
	if s.Dashboard.Sessions != nil {
		c := access.FromContext(r.Context())
		all := s.Dashboard.Sessions.List(c.APIKey)
		for i := range all {
			out.Sessions = append(out.Sessions, showAdminSession(&all[i], c.Session))
		}
	}
	return sendJSON(w, http.StatusOK, out)
}

func (s *rest) endAdminSession(w http.ResponseWriter, r *http.Request) error {
	id, err := pathValue(r, "id")
	if err != nil {
		return err
	}
	if s.Dashboard.Sessions == nil || !s.Dashboard.Sessions.Revoke(access.FromContext(r.Context()).APIKey, id) {
		return noSuchSession()
	}
	return sendNothing(w)
}

// linkRequest is the body of POST …/admin/links.
type linkRequest struct {
	Role string `json:"role,omitempty" enum:"look,moderate,all" doc:"all without it."`
	TTL  uint32 `json:"ttl,omitempty" doc:"Seconds in which it can be used, 3600 at most; 600 without it."`
}

// adminLink signs in once.
type adminLink struct {
	Link      string     `json:"link" doc:"The secret."`
	Path      string     `json:"path" doc:"What to open on the server, with the secret."`
	Role      string     `json:"role" enum:"look,moderate,all"`
	ExpiresAt *timestamp `json:"expires_at"`
}

func (s *rest) makeAdminLink(w http.ResponseWriter, r *http.Request) error {
	var body linkRequest
	if err := s.readOptionalJSON(r, &body); err != nil {
		return err
	}
	role, life := access.All, admin.LinkLife
	if body.Role != "" {
		var known bool
		if role, known = access.ParseRole(body.Role); !known {
			return problem.Fields(problem.Field{Path: "role", Detail: "must be look, moderate or all"})
		}
	}
	if body.TTL != 0 {
		life = time.Duration(body.TTL) * time.Second
	}
	if life > admin.MaxLinkLife {
		return problem.Fields(problem.Field{Path: "ttl", Detail: "must not be more than 3600"})
	}
	if s.Dashboard.Sessions == nil {
		return problem.New(http.StatusNotFound, "not_found", "%s", admin.ErrClosed)
	}
	text, expires := s.Dashboard.Sessions.NewLink(access.FromContext(r.Context()).APIKey, role, life)
	return sendJSON(w, http.StatusCreated, adminLink{
		Link: text, Path: "/admin#link=" + text, Role: role.String(), ExpiresAt: at(rooms.NowMs(expires)),
	})
}

// refusal is a join, a call or a try to sign in that was refused.
type refusal struct {
	At       *timestamp `json:"at"`
	What     string     `json:"what" enum:"join,call,sign-in"`
	Call     string     `json:"call,omitempty"`
	Status   int        `json:"status" doc:"Of HTTP."`
	Room     string     `json:"room,omitempty"`
	Identity string     `json:"identity,omitempty"`
	Key      string     `json:"key,omitempty" doc:"The API key, as far as it is known."`
	Address  string     `json:"address"`
	Agent    string     `json:"agent,omitempty"`
	Why      string     `json:"why"`
}

// refusalList is the newest refusals.
type refusalList struct {
	Total    uint64    `json:"total" doc:"Since the start."`
	Refusals []refusal `json:"refusals"`
}

func (s *rest) listRefusals(w http.ResponseWriter, _ *http.Request) error {
	newest, total := s.Dashboard.Refusals.List()
	out := refusalList{Total: total, Refusals: make([]refusal, 0, len(newest))}
	for _, n := range newest {
		out.Refusals = append(out.Refusals, refusal{
			At: at(rooms.NowMs(n.At)), What: n.What, Call: n.Call, Status: n.Status, Room: n.Room, Identity: n.Identity,
			Key: n.APIKey, Address: n.Address, Agent: n.Agent, Why: n.Why,
		})
	}
	return sendJSON(w, http.StatusOK, out)
}

// setting is a key of the configuration in force.
type setting struct {
	Key   string `json:"key"`
	Value string `json:"value" doc:"As YAML has it, on one line; *** stands for a secret."`
	Set   bool   `json:"set" doc:"It is not the default."`
	Doc   string `json:"doc" doc:"What it means."`
}

// settingList is the configuration in force.
type settingList struct {
	Settings []setting `json:"settings"`
}

func (s *rest) getConfiguration(w http.ResponseWriter, _ *http.Request) error {
	out := settingList{Settings: []setting{}}
	if s.Dashboard.Settings != nil {
		for _, one := range s.Dashboard.Settings() {
			out.Settings = append(out.Settings, setting{one.Key, one.Value, one.Set, one.Doc})
		}
	}
	return sendJSON(w, http.StatusOK, out)
}

// deed is a line of the audit.
type deed struct {
	ID          int64      `json:"id"`
	At          *timestamp `json:"at"`
	Key         string     `json:"key" doc:"The API key that it was done with."`
	Identity    string     `json:"identity,omitempty" doc:"Of the token."`
	Session     string     `json:"session,omitempty" doc:"Of the dashboard."`
	Role        string     `json:"role,omitempty" doc:"Of that session."`
	Address     string     `json:"address"`
	Call        string     `json:"call" doc:"The operation's id here, or Twirp's method."`
	Path        string     `json:"path,omitempty" doc:"Method and path."`
	Room        string     `json:"room,omitempty"`
	Participant string     `json:"participant,omitempty" doc:"Whom it was done to."`
}

// deedPage is a page of the audit.
type deedPage struct {
	Deeds      []deed `json:"deeds"`
	NextCursor string `json:"next_cursor,omitempty" doc:"The cursor of the next page; without it this is the last."`
}

func (s *rest) listDeeds(w http.ResponseWriter, r *http.Request) error {
	params := r.URL.Query()
	limit, bad := pageSize(params)
	if bad != nil {
		return problem.Fields(*bad)
	}
	q := log.DeedQuery{Room: params.Get("room"), Limit: limit + 1}
	switch params.Get("of") {
	case "":
	case "dashboard":
		q.Dashboard = true
	default:
		return problem.Fields(problem.Field{Path: "of", Detail: "must be dashboard"})
	}
	if c := params.Get("cursor"); c != "" {
		var err error
		if q.Before, err = strconv.ParseInt(c, 10, 64); err != nil || q.Before < 1 {
			return problem.Fields(badCursor)
		}
	}
	page := deedPage{Deeds: []deed{}}
	if s.Dashboard.Audit == nil {
		return sendJSON(w, http.StatusOK, page)
	}
	found, err := s.Dashboard.Audit.Deeds(r.Context(), q)
	if err != nil {
		return err
	}
	if len(found) > limit {
		found = found[:limit]
		page.NextCursor = strconv.FormatInt(found[limit-1].ID, 10)
	}
	for _, d := range found {
		page.Deeds = append(page.Deeds, deed{
			ID: d.ID, At: at(d.AtMs), Key: d.APIKey, Identity: d.Identity, Session: d.Session, Role: d.Role, Address: d.Address,
			Call: d.Call, Path: d.Path, Room: d.Room, Participant: d.Participant,
		})
	}
	return sendJSON(w, http.StatusOK, page)
}
