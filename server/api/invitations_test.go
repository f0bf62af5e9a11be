package api_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/stretchr/testify/require"

	"parlor/server/ratelimit"
)

type invitationJSON struct {
	ID, Room, Role, Name, State string
	Uses                        *int
	Used                        int
	CreatedBy                   string `json:"created_by"`
}

type newInvitationJSON struct {
	Invitation   invitationJSON
	Secret, Link string
}

type admissionJSON struct {
	Token, Identity, Name, Room, Role string
	ExpiresAt                         time.Time `json:"expires_at"`
}

// inviting is a house with invitations, a clock of its own, and a log that is kept.
type inviting struct {
	*house
	now atomic.Int64 // ms
	log bytes.Buffer // read when nothing is asked any more

	knocksRefused atomic.Int64
}

func openInviting(t *testing.T) *inviting {
	i := &inviting{house: open(t)}
	i.now.Store(time.Now().UnixMilli())
	c := i.config
	c.Invitations = i.store
	c.Now = func() time.Time { return time.UnixMilli(i.now.Load()) }
	c.Log = slog.New(slog.NewTextHandler(&i.log, nil))
	c.KnockRefused = func() { i.knocksRefused.Add(1) }
	i.Close()
	i.serve(c)
	return i
}

func (i *inviting) invite(room, body string) newInvitationJSON {
	i.t.Helper()
	resp, answer := i.server("POST", "/v1/rooms/"+room+"/invitations", body)
	require.Equal(i.t, 201, resp.StatusCode, answer)
	return read[newInvitationJSON](i.t, answer)
}

func (i *inviting) redeem(secret string) (int, string) {
	i.t.Helper()
	resp, answer := i.ask("POST", "/v1/admissions", "", "application/json", fmt.Sprintf(`{"secret":%q,"name":"Ada"}`, secret))
	return resp.StatusCode, answer
}

// refused is the code with which an invitation is not taken.
func (i *inviting) refused(secret string) string {
	i.t.Helper()
	status, answer := i.redeem(secret)
	p := read[problemJSON](i.t, answer)
	require.Equal(i.t, status, p.Status)
	return p.Code
}

func (i *inviting) list(room string) []invitationJSON {
	i.t.Helper()
	path := "/v1/invitations"
	if room != "" {
		path = "/v1/rooms/" + room + "/invitations"
	}
	resp, answer := i.server("GET", path, "")
	require.Equal(i.t, 200, resp.StatusCode, answer)
	return read[struct{ Invitations []invitationJSON }](i.t, answer).Invitations
}

func TestInvitation(t *testing.T) {
	h := openInviting(t)
	made := h.invite("board", `{"role":"guest","uses":2,"name":"Somebody"}`)
	require.Equal(t, h.URL+"/#invite="+made.Secret, made.Link)
	require.Regexp(t, `^IN_\w+\.[\w-]{43}$`, made.Secret)

	status, answer := h.redeem(made.Secret)
	require.Equal(t, 201, status, answer)
	in := read[admissionJSON](t, answer)
	claims, err := h.verifier.Verify(in.Token)
	require.NoError(t, err)
	v := claims.Grants.Video
	require.Equal(t, []any{"board", true, false, "Ada"}, []any{v.Room, v.RoomJoin, v.RoomAdmin, claims.Grants.Name})
	require.Equal(t, in.Identity, claims.Grants.Identity)
	require.WithinDuration(t, time.Now().Add(time.Hour), claims.Expires, time.Minute)

	_, answer = h.ask("POST", "/v1/admissions", "", "application/json", fmt.Sprintf(`{"secret":%q}`, made.Secret))
	second := read[admissionJSON](t, answer)
	require.NotEqual(t, in.Identity, second.Identity, "nobody takes another's place")
	require.Equal(t, "Somebody", second.Name)
	require.Equal(t, "invitation_used", h.refused(made.Secret))

	all := h.list("board")
	require.Len(t, all, 1)
	require.Equal(t, []any{"used", 2}, []any{all[0].State, all[0].Used})
	require.Empty(t, h.list("other"))

	// The secret is in nothing that is kept or told again, nor is the token.
	_, shown := h.server("GET", "/v1/invitations", "")
	_, events := h.server("GET", "/v1/events", "")
	h.Close()
	secret := strings.Split(made.Secret, ".")[1]
	for _, text := range []string{h.log.String(), shown, events} {
		require.NotContains(t, text, secret)
		require.NotContains(t, text, in.Token)
	}
	require.Contains(t, h.log.String(), "invitation used")
}

// An invitation is for the name: it lets people into the next room of that name.
func TestInvitationOutlivesItsRoom(t *testing.T) {
	h := openInviting(t)
	made := h.invite("board", "")
	for range 2 {
		resp, _ := h.server("POST", "/v1/rooms", `{"name":"board"}`)
		require.Equal(t, 201, resp.StatusCode)
		status, answer := h.redeem(made.Secret)
		require.Equal(t, 201, status, answer)
		resp, _ = h.server("DELETE", "/v1/rooms/board", "")
		require.Equal(t, 204, resp.StatusCode)
	}
}

func TestInvitationsEnd(t *testing.T) {
	h := openInviting(t)
	soon := time.UnixMilli(h.now.Load()).Add(30 * time.Minute)
	made := h.invite("board", fmt.Sprintf(`{"expires_at":%q}`, soon.Format(time.RFC3339Nano)))
	status, answer := h.redeem(made.Secret)
	require.Equal(t, 201, status, answer)
	claims, err := h.verifier.Verify(read[admissionJSON](t, answer).Token)
	require.NoError(t, err)
	require.WithinDuration(t, soon, claims.Expires, time.Minute, "a token does not outlive what it was made for")
	h.now.Store(soon.UnixMilli() - 1)
	status, answer = h.redeem(made.Secret)
	require.Equal(t, 201, status, answer)
	h.now.Store(soon.UnixMilli())
	require.Equal(t, "invitation_expired", h.refused(made.Secret))
	require.Equal(t, "expired", h.list("")[0].State)

	made = h.invite("board", "")
	resp, _ := h.server("DELETE", "/v1/rooms/board/invitations/"+made.Invitation.ID, "")
	require.Equal(t, 204, resp.StatusCode)
	require.Equal(t, "invitation_revoked", h.refused(made.Secret))
	resp, _ = h.server("DELETE", "/v1/rooms/board/invitations/"+made.Invitation.ID, "")
	require.Equal(t, 204, resp.StatusCode, "once more does no harm")
	resp, _ = h.server("DELETE", "/v1/rooms/board/invitations/IN_0000", "")
	require.Equal(t, 404, resp.StatusCode)

	resp, answer = h.server("POST", "/v1/rooms/board/invitations", `{"expires_at":"2020-01-01T00:00:00Z"}`)
	require.Equal(t, 400, resp.StatusCode, answer)

	forgotten, err := h.store.PruneInvitations(t.Context(), h.now.Load()+1)
	require.NoError(t, err)
	require.Equal(t, 2, forgotten)
}

// A guesser is told nothing, whether or not the id is right.
func TestGuessedInvitations(t *testing.T) {
	h := openInviting(t)
	made := h.invite("board", "")
	id, secret, _ := strings.Cut(made.Secret, ".")
	_, unknown := h.redeem("IN_000000000000000000." + secret)
	for _, guess := range []string{id, id + ".", id + "." + secret[1:], id + "." + secret + "A", "." + secret, secret, ".", "x", id + "." + strings.Repeat("A", 43)} {
		status, answer := h.redeem(guess)
		require.Equal(t, 404, status, guess)
		require.JSONEq(t, unknown, answer)
	}
	resp, _ := h.ask("POST", "/v1/admissions", "", "application/json", `{"secret":"`+strings.Repeat("A", 1<<17)+`"}`)
	require.Equal(t, 413, resp.StatusCode)
	resp, _ = h.ask("POST", "/v1/admissions", "", "application/json", fmt.Sprintf(`{"secret":%q,"name":%q}`, made.Secret, strings.Repeat("n", 257)))
	require.Equal(t, 400, resp.StatusCode)
	require.Zero(t, h.list("")[0].Used)

	c := h.config
	c.Redeem = ratelimit.New(ratelimit.Config{What: "t", PerAddress: 1, Burst: 3 * time.Second})
	bounded := httptest.NewServer(h.routes(c))
	defer bounded.Close()
	h.Server = bounded
	for range 3 {
		require.Equal(t, "invitation_unknown", h.refused("x"))
	}
	require.Equal(t, "rate_limited", h.refused("x"))
}

// However many come at once, no more get in than may.
func TestInvitationUsedByManyAtOnce(t *testing.T) {
	h := openInviting(t)
	made := h.invite("board", `{"uses":3}`)
	var in, out atomic.Int64
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			resp, err := http.Post(h.URL+"/v1/admissions", "application/json", strings.NewReader(fmt.Sprintf(`{"secret":%q}`, made.Secret)))
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close() // its status tells all
			switch resp.StatusCode {
			case http.StatusCreated:
				in.Add(1)
			case http.StatusGone:
				out.Add(1)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 3, in.Load())
	require.EqualValues(t, 37, out.Load())
	require.Equal(t, 3, h.list("")[0].Used)
}

// A host may invite guests to its room, and take back what is theirs; a guest nothing.
func TestWhoMayInvite(t *testing.T) {
	h := openInviting(t)
	admitted := func(room, body string) string {
		_, answer := h.redeem(h.invite(room, body).Secret)
		return read[admissionJSON](t, answer).Token
	}
	host, guest := admitted("board", `{"role":"host"}`), admitted("board", "")
	other := admitted("other", `{"role":"host"}`)
	hosts := h.list("board")[0]
	require.Equal(t, "host", hosts.Role)

	resp, answer := h.ask("POST", "/v1/rooms/board/invitations", host, "application/json", "{}")
	require.Equal(t, 201, resp.StatusCode, answer)
	theirs := read[newInvitationJSON](t, answer)
	require.Regexp(t, "^host-", theirs.Invitation.CreatedBy)
	status, answer := h.redeem(theirs.Secret)
	require.Equal(t, 201, status, answer)
	require.Equal(t, "guest", read[admissionJSON](t, answer).Role)

	for _, try := range []struct{ who, token, method, path, body string }{
		{"a guest invites", guest, "POST", "/v1/rooms/board/invitations", "{}"},
		{"a guest lists", guest, "GET", "/v1/rooms/board/invitations", ""},
		{"a guest revokes", guest, "DELETE", "/v1/rooms/board/invitations/" + theirs.Invitation.ID, ""},
		{"a guest mutes", guest, "POST", "/v1/rooms/board/mute", "{}"},
		{"a host makes hosts", host, "POST", "/v1/rooms/board/invitations", `{"role":"host"}`},
		{"a host invites elsewhere", host, "POST", "/v1/rooms/other/invitations", "{}"},
		{"a host lists all", host, "GET", "/v1/invitations", ""},
		{"a host revokes a host's", host, "DELETE", "/v1/rooms/board/invitations/" + hosts.ID, ""},
		{"a host of another room revokes", other, "DELETE", "/v1/rooms/board/invitations/" + theirs.Invitation.ID, ""},
		{"a lister invites", h.token(&auth.VideoGrant{RoomList: true, RoomCreate: true}), "POST", "/v1/rooms/board/invitations", "{}"},
	} {
		resp, answer := h.ask(try.method, try.path, try.token, "application/json", try.body)
		require.Equal(t, 403, resp.StatusCode, "%s: %s", try.who, answer)
	}
	resp, _ = h.ask("DELETE", "/v1/rooms/other/invitations/"+theirs.Invitation.ID, other, "", "")
	require.Equal(t, 404, resp.StatusCode, "by way of another room it is not there")
	require.Equal(t, "usable", h.list("board")[2].State)
	resp, answer = h.ask("DELETE", "/v1/rooms/board/invitations/"+theirs.Invitation.ID, host, "", "")
	require.Equal(t, 204, resp.StatusCode, answer)
	require.Equal(t, "invitation_revoked", h.refused(theirs.Secret))
}

func TestInvitationsAreBounded(t *testing.T) {
	h := openInviting(t)
	for n := range 1000 {
		made := h.invite("board", "")
		if n == 0 {
			resp, _ := h.server("DELETE", "/v1/rooms/board/invitations/"+made.Invitation.ID, "")
			require.Equal(t, 204, resp.StatusCode)
		}
	}
	h.invite("board", "") // for the one that was revoked
	resp, answer := h.server("POST", "/v1/rooms/board/invitations", "{}")
	require.Equal(t, 429, resp.StatusCode, answer)
	h.invite("other", "{}")
}

func TestInvitationsAreOffByThemselves(t *testing.T) {
	h := open(t)
	resp, answer := h.server("POST", "/v1/rooms/board/invitations", "{}")
	require.Equal(t, 404, resp.StatusCode)
	require.Equal(t, "invitations_off", read[problemJSON](t, answer).Code)
	resp, answer = h.ask("POST", "/v1/admissions", "", "application/json", `{"secret":"x.y"}`)
	require.Equal(t, 404, resp.StatusCode)
	require.Equal(t, "invitations_off", read[problemJSON](t, answer).Code)
}
