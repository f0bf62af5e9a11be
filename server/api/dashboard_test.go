package api_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/server/access"
	dashboard "parlor/server/admin"
	"parlor/server/api"
	"parlor/server/ratelimit"
)

// front is the API with a dashboard before it, as a browser sees it.
type front struct {
	*house
	sessions *dashboard.Sessions
	refusals *dashboard.Refusals
}

func openFront(t *testing.T) *front {
	t.Helper()
	h := open(t)
	f := &front{
		house:    h,
		sessions: dashboard.NewSessions(h.verifier, ratelimit.New(ratelimit.Config{What: "sign-in", PerAddress: 1, Burst: 10 * time.Second}), false, slog.New(slog.DiscardHandler)),
		refusals: &dashboard.Refusals{},
	}
	c := h.config
	c.Dashboard = api.Dashboard{
		Sessions: f.sessions, Refusals: f.refusals, Audit: h.store, Ring: dashboard.NewRing(func() dashboard.Figures { return dashboard.Figures{} }),
	}
	h.config = c
	mux := http.NewServeMux()
	mux.Handle("/twirp/", h.routes(c))
	mux.Handle("/v1/", f.sessions.Middleware(h.routes(c)))
	h.Server = httptest.NewServer(mux)
	t.Cleanup(h.Server.Close)
	return f
}

// as sends a request as a browser's page would, with the cookie of a session.
func (f *front) as(cookie *http.Cookie, method, path, body string, headers ...string) (*http.Response, string) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.URL+path, strings.NewReader(body))
	require.NoError(f.t, err)
	req.Header.Set(dashboard.Header, "1")
	req.Header.Set("Origin", f.URL)
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if cookie != nil {
		req.AddCookie(cookie)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Del(headers[i])
		if headers[i+1] != "" {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	return f.do(req)
}

// signIn is the cookie of a new session with that role.
func (f *front) signIn(role string) *http.Cookie {
	f.t.Helper()
	resp, body := f.as(nil, "POST", "/v1/admin/session", fmt.Sprintf(`{"key":%q,"secret":%q,"role":%q}`, key, secret, role))
	require.Equal(f.t, 201, resp.StatusCode, body)
	require.Len(f.t, resp.Cookies(), 1)
	return resp.Cookies()[0]
}

func TestSignInGivesACookieThatOnlyThisPageCanUse(t *testing.T) {
	f := openFront(t)
	c := f.signIn("")
	require.True(t, c.HttpOnly)
	require.Equal(t, http.SameSiteStrictMode, c.SameSite)
	require.Equal(t, "/", c.Path)
	require.Empty(t, c.Domain)
	require.False(t, c.Secure, "this is plain HTTP")
	require.NotContains(t, c.Value, secret)

	resp, body := f.as(c, "GET", "/v1/admin/session", "")
	require.Equal(t, 200, resp.StatusCode, body)
	require.Contains(t, body, `"role":"all"`)
	require.NotContains(t, body, c.Value)
	resp, _ = f.as(c, "GET", "/v1/rooms", "")
	require.Equal(t, 200, resp.StatusCode)

	over, _ := f.as(nil, "POST", "/v1/admin/session", fmt.Sprintf(`{"key":%q,"secret":%q}`, key, secret), "X-Forwarded-Proto", "https")
	require.True(t, over.Cookies()[0].Secure)
	require.Equal(t, "__Host-parlor-admin", over.Cookies()[0].Name, "no other host can set it")

	f.as(c, "DELETE", "/v1/admin/session", "")
	resp, _ = f.as(c, "GET", "/v1/rooms", "")
	require.Equal(t, 401, resp.StatusCode, "signed out")
}

// A page of another site has the browser's cookie at most; neither a form nor a script of
// it can send the header.
func TestForgedRequestsAreRefused(t *testing.T) {
	f := openFront(t)
	c := f.signIn("all")
	for name, headers := range map[string][]string{
		"a form":                            {dashboard.Header, "", "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"},
		"a form, without fetch metadata":    {dashboard.Header, "", "Sec-Fetch-Site", "", "Origin", "https://evil.example"},
		"no header":                         {dashboard.Header, ""},
		"another site":                      {"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"},
		"another host of the site":          {"Sec-Fetch-Site", "same-site", "Origin", "http://sub.localhost"},
		"another origin, no fetch metadata": {"Sec-Fetch-Site", "", "Origin", "https://evil.example"},
		"no origin of its own":              {"Sec-Fetch-Site", "", "Origin", "null"},
	} {
		for _, call := range [][2]string{{"POST", "/v1/rooms"}, {"GET", "/v1/rooms"}, {"DELETE", "/v1/admin/session"}} {
			body := ""
			if call[0] == "POST" {
				body = `{"name":"forged"}`
			}
			resp, answer := f.as(c, call[0], call[1], body, headers...)
			require.Equal(t, 401, resp.StatusCode, "%s: %s %s: %s", name, call[0], call[1], answer)
		}
		resp, _ := f.as(nil, "POST", "/v1/admin/session", fmt.Sprintf(`{"key":%q,"secret":%q}`, key, secret), headers...)
		require.Equal(t, 403, resp.StatusCode, "%s: nor can it sign its victim in", name)
		require.Empty(t, resp.Cookies(), name)
	}
	resp, _ := f.as(c, "GET", "/v1/rooms/forged", "")
	require.Equal(t, 404, resp.StatusCode)
}

// Whatever cookie a browser has before, a session begins with a secret of its own.
func TestSessionsCannotBeFixed(t *testing.T) {
	f := openFront(t)
	planted := &http.Cookie{Name: "parlor-admin", Value: "planted-by-somebody"}
	in := fmt.Sprintf(`{"key":%q,"secret":%q}`, key, secret)
	resp, _ := f.as(planted, "POST", "/v1/admin/session", in)
	require.Equal(t, 201, resp.StatusCode)
	first := resp.Cookies()[0]
	require.NotEqual(t, planted.Value, first.Value)
	resp, _ = f.as(planted, "GET", "/v1/rooms", "")
	require.Equal(t, 401, resp.StatusCode)

	// Signing in again ends the session of before.
	resp, _ = f.as(first, "POST", "/v1/admin/session", in)
	second := resp.Cookies()[0]
	require.NotEqual(t, first.Value, second.Value)
	resp, _ = f.as(first, "GET", "/v1/rooms", "")
	require.Equal(t, 401, resp.StatusCode)
	resp, _ = f.as(second, "GET", "/v1/rooms", "")
	require.Equal(t, 200, resp.StatusCode)
}

func TestGuessingIsSlow(t *testing.T) {
	f := openFront(t)
	statuses := map[int]int{}
	for i := range 40 {
		resp, body := f.as(nil, "POST", "/v1/admin/session", fmt.Sprintf(`{"key":%q,"secret":"guess-%d"}`, key, i))
		statuses[resp.StatusCode]++
		require.NotContains(t, body, "guess-", "what was tried is not repeated")
		if resp.StatusCode == 429 {
			require.NotEmpty(t, resp.Header.Get("Retry-After"))
		}
	}
	require.Greater(t, statuses[429], 20, "%v", statuses)
	require.Equal(t, 40, statuses[429]+statuses[401])
	resp, _ := f.as(nil, "POST", "/v1/admin/session", fmt.Sprintf(`{"key":%q,"secret":%q}`, key, secret))
	require.Equal(t, 429, resp.StatusCode, "nor is the right one taken then, which would tell")
	_, total := f.refusals.List()
	require.EqualValues(t, 41, total)
}

func TestALinkSignsInOnce(t *testing.T) {
	f := openFront(t)
	_, body := f.server("POST", "/v1/admin/links", `{"role":"look","ttl":60}`)
	made := read[struct{ Link, Path, Role string }](t, body)
	require.Equal(t, "/admin#link="+made.Link, made.Path)
	resp, body := f.as(nil, "POST", "/v1/admin/session", fmt.Sprintf(`{"link":%q,"role":"all"}`, made.Link))
	require.Equal(t, 201, resp.StatusCode, body)
	require.Contains(t, body, `"role":"look"`, "a link gives no more than it was made for")
	resp, _ = f.as(nil, "POST", "/v1/admin/session", fmt.Sprintf(`{"link":%q}`, made.Link))
	require.Equal(t, 401, resp.StatusCode)
	resp, _ = f.server("POST", "/v1/admin/links", `{"ttl":7200}`)
	require.Equal(t, 400, resp.StatusCode)
}

// TestRoles tries every operation with every role, by the document, so that none is
// forgotten: the role look gets what GET shows and nothing else.
func TestRoles(t *testing.T) {
	f := openFront(t)
	track := f.mustJoin("lobby", "ada").publish()
	ranks := map[string]int{"look": 1, "moderate": 2, "all": 3}
	cookies := map[string]*http.Cookie{}
	for role := range ranks {
		cookies[role] = f.signIn(role)
	}
	variable := regexp.MustCompile(`{(\w+)}`)
	tried := map[string]int{}
	for _, role := range []string{"look", "moderate"} {
		for path, methods := range openAPI()["paths"].(object) {
			for method, operation := range methods.(object) {
				op := operation.(object)
				needs := op["x-role"].(string)
				id := op["operationId"].(string)
				require.Contains(t, ranks, needs, id)
				if method == "get" && id != "listAdminSessions" && id != "tailLog" {
					require.Equal(t, "look", needs, id)
				}
				if method != "get" && id != "signIn" && id != "signOut" && id != "redeemInvitation" && id != "getInvitationLobby" && id != "withdrawKnock" { // these are open to everybody, or of one's own session
					require.NotEqual(t, "look", needs, "%s changes something", id)
				}
				if ranks[role] >= ranks[needs] {
					continue
				}
				tried[role]++
				url := "/v1" + variable.ReplaceAllStringFunc(path, func(v string) string {
					return map[string]string{"{name}": "lobby", "{identity}": "ada", "{track}": track, "{id}": "1"}[v]
				})
				resp, body := f.as(cookies[role], strings.ToUpper(method), url, "")
				require.Equal(t, 403, resp.StatusCode, "%s: %s: %s", role, id, body)
				require.Contains(t, body, `"code":"permission_denied"`)
			}
		}
	}
	require.Greater(t, tried["look"], 25)
	require.Greater(t, tried["moderate"], 6)

	resp, body := f.as(cookies["look"], "GET", "/v1/rooms/lobby/participants", "")
	require.Equal(t, 200, resp.StatusCode)
	require.Contains(t, body, `"ada"`, "nothing was done to her")
	for _, path := range []string{"/rooms", "/webhooks", "/refusals", "/audit", "/overview", "/configuration", "/rooms/lobby/stats", "/rooms/lobby/bans"} {
		resp, body := f.as(cookies["look"], "GET", "/v1"+path, "")
		require.Equal(t, 200, resp.StatusCode, "%s: %s", path, body)
	}
	resp, _ = f.as(cookies["moderate"], "PATCH", "/v1/rooms/lobby", `{"locked":true}`)
	require.Equal(t, 200, resp.StatusCode)
	resp, _ = f.as(cookies["all"], "POST", "/v1/tokens", `{"room":"lobby","identity":"eve"}`)
	require.Equal(t, 201, resp.StatusCode)
}

// What a session did stands in the audit, and what a program did, each with who it was.
func TestAuditTellsWhoDidWhat(t *testing.T) {
	f := openFront(t)
	c := f.signIn("moderate")
	f.server("POST", "/v1/rooms", `{"name":"board"}`)
	f.as(c, "PATCH", "/v1/rooms/board", `{"locked":true}`)
	f.as(c, "PUT", "/v1/rooms/board/bans/eve", `{}`)
	f.as(c, "PATCH", "/v1/rooms/absent", `{"locked":true}`) // which failed
	status, _ := f.twirp("DeleteRoom", f.token(admin("board")), `{"room":"board"}`)
	require.Equal(t, 200, status)
	type deeds struct {
		Deeds []struct{ Key, Identity, Session, Role, Address, Call, Path, Room, Participant string }
		Next  string `json:"next_cursor"`
	}
	var got deeds
	require.Eventually(t, func() bool { // it is written soon after
		_, body := f.as(c, "GET", "/v1/audit", "")
		got = read[deeds](t, body)
		return len(got.Deeds) == 5
	}, time.Minute, 10*time.Millisecond)
	calls := []string{}
	for _, d := range got.Deeds {
		calls = append(calls, d.Call+" "+d.Room+" "+d.Participant+" "+d.Role+" "+d.Identity)
		require.Equal(t, key, d.Key)
		require.Equal(t, "127.0.0.1", d.Address)
	}
	require.Equal(t, []string{"DeleteRoom board   tester", "ban board eve moderate ", "updateRoom board  moderate ", "createRoom board   ", "signIn   moderate "}, calls)
	_, body := f.as(c, "GET", "/v1/audit?of=dashboard&limit=2", "")
	page := read[deeds](t, body)
	require.Len(t, page.Deeds, 2)
	_, body = f.as(c, "GET", "/v1/audit?of=dashboard&limit=2&cursor="+page.Next, "")
	page = read[deeds](t, body)
	require.Len(t, page.Deeds, 1)
	require.Equal(t, "signIn", page.Deeds[0].Call)
	require.Empty(t, page.Next)
	_, body = f.as(c, "GET", "/v1/audit?room=board", "")
	require.Len(t, read[deeds](t, body).Deeds, 4)
}

func TestRefusalsTellWhoAndWhy(t *testing.T) {
	f := openFront(t)
	f.ask("GET", "/v1/rooms", "nonsense", "", "")
	f.ask("GET", "/v1/webhooks", f.token(admin("board")), "", "")
	f.twirp("DeleteRoom", f.token(admin("board")), `{"room":"another"}`)
	f.as(f.signIn("look"), "POST", "/v1/rooms", `{"name":"x"}`)
	_, body := f.server("GET", "/v1/refusals", "")
	got := read[struct {
		Total    int
		Refusals []struct {
			What, Call, Key, Identity, Room, Why, Address string
			Status                                        int
		}
	}](t, body)
	require.Equal(t, got.Total, len(got.Refusals))
	calls := []string{}
	for _, r := range got.Refusals {
		calls = append(calls, fmt.Sprint(r.What, " ", r.Call, " ", r.Status, " ", r.Identity))
		require.NotEmpty(t, r.Why)
		require.NotContains(t, r.Why, "nonsense")
	}
	require.Contains(t, calls, "call GET /v1/rooms 401 ")
	require.Contains(t, calls, "call GET /v1/webhooks 403 tester")
	require.Contains(t, calls, "call POST /v1/rooms 403 ")
}

// The stream tells what happens and how the server fares, and ends with its session.
func TestLiveEndsWithItsSession(t *testing.T) {
	f := openFront(t)
	c := f.signIn("look")
	req, err := http.NewRequestWithContext(t.Context(), "GET", f.URL+"/v1/live?after=latest", nil)
	require.NoError(t, err)
	req.Header.Set(dashboard.Header, "1")
	req.AddCookie(c)
	resp, err := f.Client().Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	var text strings.Builder
	until := func(what string) {
		t.Helper()
		b := make([]byte, 4096)
		for !strings.Contains(text.String(), what) {
			n, err := resp.Body.Read(b)
			text.Write(b[:n])
			if err != nil {
				require.Contains(t, text.String(), what, err)
			}
		}
	}
	until("event: overview\ndata: {")
	f.server("POST", "/v1/rooms", `{"name":"board"}`)
	until("event: room_started")
	f.as(c, "DELETE", "/v1/admin/session", "")
	until("event: gone")
	_, err = io.ReadAll(resp.Body)
	require.NoError(t, err, "that was its end")
}

func TestSessionsRotateAndRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := dashboard.NewSessions(access.NewVerifier(map[string]string{key: secret}), nil, true, slog.New(slog.DiscardHandler))
		// ask is a request with that cookie; it returns the status, and the cookie that is set.
		ask := func(cookie string, h http.HandlerFunc) (int, string) {
			r := httptest.NewRequest("GET", "/v1/rooms", nil)
			r.Header.Set(dashboard.Header, "1")
			if cookie != "" {
				r.AddCookie(&http.Cookie{Name: "__Host-parlor-admin", Value: cookie})
			}
			w := httptest.NewRecorder()
			s.Middleware(h).ServeHTTP(w, r)
			set := ""
			for _, c := range w.Result().Cookies() {
				require.True(t, c.Secure)
				set = c.Value
			}
			return w.Code, set
		}
		signIn := func() string {
			_, set := ask("", func(w http.ResponseWriter, r *http.Request) {
				_, err := s.SignIn(w, r, dashboard.Credentials{APIKey: key, Secret: secret})
				require.NoError(t, err)
			})
			return set
		}
		who := func(cookie string) (int, string) {
			return ask(cookie, func(w http.ResponseWriter, r *http.Request) {
				if access.FromContext(r.Context()) == nil {
					w.WriteHeader(401)
				}
			})
		}
		first := signIn()
		time.Sleep(11 * time.Minute)
		status, second := who(first)
		require.Equal(t, 200, status)
		require.NotEmpty(t, second)
		require.NotEqual(t, first, second)
		status, set := who(first)
		require.Equal(t, 200, status, "a request that was on its way")
		require.Empty(t, set)
		status, _ = who(second)
		require.Equal(t, 200, status)
		time.Sleep(2 * time.Minute)
		status, _ = who(first)
		require.Equal(t, 401, status, "somebody else has it")
		status, _ = who(second)
		require.Equal(t, 401, status, "so that the session is over")

		// The answer with the newer cookie is lost: the browser gets another one.
		first = signIn()
		time.Sleep(11 * time.Minute)
		_, lost := who(first)
		time.Sleep(2 * time.Minute)
		status, third := who(first)
		require.Equal(t, 200, status)
		require.NotEmpty(t, third)
		status, _ = who(third)
		require.Equal(t, 200, status)
		status, _ = who(lost)
		require.Equal(t, 401, status)

		// Where it was not lost, two have the session.
		first = signIn()
		time.Sleep(11 * time.Minute)
		_, second = who(first)
		time.Sleep(2 * time.Minute)
		_, third = who(first)
		require.NotEmpty(t, third)
		status, _ = who(third)
		require.Equal(t, 200, status)
		status, _ = who(second)
		require.Equal(t, 401, status, "two use it")
		status, _ = who(third)
		require.Equal(t, 401, status, "so that the session is over")

		idle := signIn()
		time.Sleep(61 * time.Minute)
		status, _ = who(idle)
		require.Equal(t, 401, status, "nobody used it for an hour")

		busy := signIn()
		for range 12*6 + 1 {
			time.Sleep(10*time.Minute + time.Second)
			var next string
			if status, next = who(busy); next != "" {
				busy = next
			}
		}
		require.Equal(t, 401, status, "half a day is the most")
	})
}

// Hours and days tell what happened in them, page by page.
func TestHoursAndDays(t *testing.T) {
	f := openFront(t)
	c := f.signIn("look")
	noon := time.Date(2020, 1, 31, 12, 0, 0, 0, time.UTC)
	for i, m := range []rooms.Measured{
		{Refused: 1, BytesIn: 10, BytesOut: 20, PacketsOut: 100, LostOut: 5, Scores: 2, ScoreSum: 9},
		{Refused: 2, BytesIn: 30, PacketsOut: 100}, {BytesIn: 7},
	} {
		require.NoError(t, f.store.AddMeasured(t.Context(), rooms.NowMs(noon.Add(time.Duration(i)*8*time.Hour)), m))
	}
	f.mustJoin("lobby", "ada") // now
	type page struct {
		Hours []struct {
			From          string
			Opened        int `json:"rooms_opened"`
			Refused       int
			BytesIn       int `json:"bytes_in"`
			Loss, Quality *float64
		}
		Next string `json:"next_cursor"`
	}
	ask := func(query string) page {
		t.Helper()
		resp, body := f.as(c, "GET", "/v1/history/hours?"+query, "")
		require.Equal(t, 200, resp.StatusCode, body)
		return read[page](t, body)
	}
	all := ask("from=2020-01-31T12:59:00Z&before=2020-02-02T00:00:00Z")
	require.Len(t, all.Hours, 3)
	require.Equal(t, "2020-01-31T12:00:00.000Z", all.Hours[0].From)
	require.InDelta(t, 0.05, *all.Hours[0].Loss, 1e-9)
	require.InDelta(t, 4.5, *all.Hours[0].Quality, 1e-9)
	require.Nil(t, all.Hours[2].Loss)
	require.Nil(t, all.Hours[2].Quality)
	days := ask("by=day&from=2020-01-31T00:00:00Z&before=2020-01-31T12:30:00Z")
	require.Len(t, days.Hours, 1)
	require.Equal(t, 3, days.Hours[0].Refused, "the whole day, which begins before that time")
	days = ask("by=day&from=2020-01-31T23:00:00Z&before=2020-02-02T00:00:00Z&limit=1")
	require.Len(t, days.Hours, 1)
	require.Equal(t, "2020-01-31T00:00:00.000Z", days.Hours[0].From)
	require.Equal(t, 3, days.Hours[0].Refused)
	require.Equal(t, 40, days.Hours[0].BytesIn)
	require.InDelta(t, 0.025, *days.Hours[0].Loss, 1e-9)
	days = ask("by=day&limit=1&before=2020-02-02T00:00:00Z&cursor=" + days.Next)
	require.Len(t, days.Hours, 1)
	require.Equal(t, "2020-02-01T00:00:00.000Z", days.Hours[0].From)
	require.Empty(t, days.Next)
	newest := ask("")
	require.Len(t, newest.Hours, 1, "the last 30 days")
	require.Equal(t, 1, newest.Hours[0].Opened)
	for _, bad := range []string{"by=week", "from=yesterday", "before=1", "cursor=x", "by=day&cursor=1", "limit=0"} {
		resp, body := f.as(c, "GET", "/v1/history/hours?"+bad, "")
		require.Equal(t, 400, resp.StatusCode, "%s: %s", bad, body)
	}
}

// The log is for the role all: as a page, and as a stream that ends with its session.
func TestTheLogIsForTheRoleAll(t *testing.T) {
	f := openFront(t)
	lines := &dashboard.Lines{}
	c := f.config
	c.Dashboard.Lines = lines
	mux := http.NewServeMux()
	mux.Handle("/v1/", f.sessions.Middleware(f.routes(c)))
	f.Server = httptest.NewServer(mux)
	t.Cleanup(f.Server.Close)
	look, all := f.signIn("moderate"), f.signIn("all")
	log := slog.New(lines.Handler(slog.NewTextHandler(io.Discard, nil)))
	log.Info("first", "room", "tea")
	log.Warn("second")
	resp, body := f.as(look, "GET", "/v1/log", "")
	require.Equal(t, 403, resp.StatusCode, body)
	type page struct {
		Lines []struct {
			Seq                   int
			Level, Message, Attrs string
		}
		Newest int
	}
	_, body = f.as(all, "GET", "/v1/log?level=warn", "")
	got := read[page](t, body)
	require.Len(t, got.Lines, 1)
	require.Equal(t, "second", got.Lines[0].Message)
	require.Equal(t, 2, got.Newest)
	_, body = f.as(all, "GET", "/v1/log?after=1", "")
	require.Len(t, read[page](t, body).Lines, 1)
	_, body = f.as(all, "GET", "/v1/log?after=99", "")
	require.Len(t, read[page](t, body).Lines, 2, "of the process before")
	for _, bad := range []string{"level=loud", "after=x"} {
		resp, _ = f.as(all, "GET", "/v1/log?"+bad, "")
		require.Equal(t, 400, resp.StatusCode, bad)
	}

	req, err := http.NewRequestWithContext(t.Context(), "GET", f.URL+"/v1/log", nil)
	require.NoError(t, err)
	req.Header.Set(dashboard.Header, "1")
	req.Header.Set("Accept", "text/event-stream")
	req.AddCookie(all)
	stream, err := f.Client().Do(req)
	require.NoError(t, err)
	defer stream.Body.Close()
	var text strings.Builder
	until := func(what string) {
		t.Helper()
		b := make([]byte, 4096)
		for !strings.Contains(text.String(), what) {
			n, err := stream.Body.Read(b)
			text.Write(b[:n])
			if err != nil {
				require.Contains(t, text.String(), what, err)
			}
		}
	}
	until(`"message":"second"`)
	log.Error("third")
	until("id: 3\nevent: line\ndata: {\"seq\":3,")
	f.as(all, "DELETE", "/v1/admin/session", "")
	until("event: gone")
	_, err = io.ReadAll(stream.Body)
	require.NoError(t, err, "that was its end")
}
