package api_test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type waitingJSON struct {
	Waiting     bool
	Knock, Room string
}

type knocksJSON struct {
	Knocks []struct {
		ID, Name string
		Since    time.Time
	}
}

// knock asks with an invitation's secret, and with the knock of the answer before.
func (i *inviting) knock(secret, knock, name string) (int, string) {
	i.t.Helper()
	resp, answer := i.ask("POST", "/v1/admissions", "", "application/json", fmt.Sprintf(`{"secret":%q,"knock":%q,"name":%q}`, secret, knock, name))
	return resp.StatusCode, answer
}

// waits asks as knock does. The answer is to wait.
func (i *inviting) waits(secret, knock, name string) string {
	i.t.Helper()
	status, answer := i.knock(secret, knock, name)
	require.Equal(i.t, 202, status, answer)
	w := read[waitingJSON](i.t, answer)
	require.True(i.t, w.Waiting)
	require.Equal(i.t, "board", w.Room)
	return w.Knock
}

// knocks are the ids and names of those that wait.
func (i *inviting) knocks(token string) (ids, names []string) {
	i.t.Helper()
	resp, answer := i.ask("GET", "/v1/rooms/board/knocks", token, "", "")
	require.Equal(i.t, 200, resp.StatusCode, answer)
	for _, one := range read[knocksJSON](i.t, answer).Knocks {
		ids, names = append(ids, one.ID), append(names, one.Name)
	}
	return ids, names
}

func (i *inviting) do(token, method, path, body string) int {
	i.t.Helper()
	resp, _ := i.ask(method, "/v1/rooms/board"+path, token, "application/json", body)
	return resp.StatusCode
}

// A guest waits until a host decides; a host comes straight in. One use is counted, when the
// guest comes in.
func TestWaitingRoom(t *testing.T) {
	h := openInviting(t)
	guests := h.invite("board", `{"uses":2}`)
	resp, answer := h.server("POST", "/v1/rooms", `{"name":"board","waiting_room":true}`)
	require.Equal(t, 201, resp.StatusCode, answer)
	require.Contains(t, answer, `"waiting_room":true`)

	status, answer := h.redeem(h.invite("board", `{"role":"host"}`).Secret)
	require.Equal(t, 201, status, answer)
	host := read[admissionJSON](t, answer).Token

	ada := h.waits(guests.Secret, "", "Ada")
	require.Regexp(t, `^KN_\w+\.[\w-]{43}$`, ada)
	bob := h.waits(guests.Secret, "", "Bob")
	require.Equal(t, ada, h.waits(guests.Secret, ada, "Ada"), "it waits as the same")
	ids, names := h.knocks(host)
	require.ElementsMatch(t, []string{"Ada", "Bob"}, names)
	if names[0] == "Bob" { // they came in the same moment
		ids[0], ids[1] = ids[1], ids[0]
	}
	require.Zero(t, h.list("board")[0].Used)

	require.Equal(t, 204, h.do(host, "POST", "/knocks/"+ids[0]+"/admit", ""))
	require.Equal(t, 204, h.do(host, "POST", "/knocks/"+ids[1]+"/refuse", ""))
	_, names = h.knocks(host)
	require.Empty(t, names)
	require.Zero(t, h.list("board")[0].Used)

	status, answer = h.knock(guests.Secret, ada, "The boss")
	require.Equal(t, 201, status, answer)
	in := read[admissionJSON](t, answer)
	require.Equal(t, "Ada", in.Name, "it comes in by the name that the host saw")
	require.Equal(t, 1, h.list("board")[0].Used)
	for range 2 {
		status, answer = h.knock(guests.Secret, bob, "Bob")
		require.Equal(t, 403, status, answer)
		require.Equal(t, "knock_refused", read[problemJSON](t, answer).Code)
	}
	status, answer = h.knock(guests.Secret, ada, "Ada")
	require.Equal(t, 201, status, "the first answer may have got lost")
	require.Equal(t, in, read[admissionJSON](t, answer))
	require.Equal(t, 1, h.list("board")[0].Used)
	h.waits(guests.Secret, "", "Ada") // on another device

	// Guests decide nothing, nor do hosts of other rooms, and nobody decides about the absent.
	_, answer = h.redeem(h.invite("other", `{"role":"host"}`).Secret)
	other := read[admissionJSON](t, answer).Token
	ids, _ = h.knocks(host)
	require.Len(t, ids, 1)
	for _, token := range []string{in.Token, other} {
		for _, path := range []string{"/knocks/" + ids[0] + "/admit", "/knocks/" + ids[0] + "/refuse", "/knocks/admit"} {
			require.Equal(t, 403, h.do(token, "POST", path, ""), path)
		}
		require.Equal(t, 403, h.do(token, "GET", "/knocks", ""))
	}
	require.Equal(t, 404, h.do(host, "POST", "/knocks/KN_0000/admit", ""))
	resp, _ = h.ask("POST", "/v1/rooms/other/knocks/"+ids[0]+"/admit", other, "", "")
	require.Equal(t, 404, resp.StatusCode, "by way of another room it is not there")

	// A knock is its own secret, and one of another invitation is not known.
	second := h.invite("board", "")
	theirs, _, _ := strings.Cut(ada, ".")
	for _, guess := range []string{ids[0], ids[0] + ".", ids[0] + "." + strings.Repeat("A", 43), theirs + ".x", ".", "x"} {
		require.NotEqual(t, guess, h.waits(guests.Secret, guess, "Eve"))
	}
	mine := h.waits(second.Secret, "", "Cid")
	require.NotEqual(t, mine, h.waits(guests.Secret, mine, "Cid"))

	// All come in at once. Then the invitation is used up, and guests are told so.
	require.Equal(t, 204, h.do(host, "POST", "/knocks/admit", ""))
	ids, _ = h.knocks(host)
	require.Empty(t, ids)
	status, _ = h.knock(second.Secret, mine, "Cid")
	require.Equal(t, 201, status)
	last := h.waits(guests.Secret, "", "Dan")
	require.Equal(t, 204, h.do(host, "POST", "/knocks/admit", ""))
	status, answer = h.knock(guests.Secret, last, "Dan")
	require.Equal(t, 201, status, answer)
	require.Equal(t, "invitation_used", h.refused(guests.Secret))

	h.Close()
	for _, knock := range []string{ada, bob, mine} {
		require.NotContains(t, h.log.String(), strings.Split(knock, ".")[1])
	}
	require.Contains(t, h.log.String(), "a guest waits")
}

// The option can be switched in an open room: those that wait come in when it is off, as they
// do when the room has ended.
func TestWaitingRoomIsSwitched(t *testing.T) {
	h := openInviting(t)
	guests := h.invite("board", "")
	_, answer := h.redeem(h.invite("board", `{"role":"host"}`).Secret)
	host := read[admissionJSON](t, answer).Token
	status, _ := h.redeem(guests.Secret)
	require.Equal(t, 201, status, "there is no room")
	resp, _ := h.server("POST", "/v1/rooms", `{"name":"board"}`)
	require.Equal(t, 201, resp.StatusCode)
	status, _ = h.redeem(guests.Secret)
	require.Equal(t, 201, status, "the room has no waiting room")

	require.Equal(t, 200, h.do(host, "PATCH", "", `{"waiting_room":true}`))
	knock := h.waits(guests.Secret, "", "Ada")
	require.Equal(t, 200, h.do(host, "PATCH", "", `{"waiting_room":false}`))
	status, answer = h.knock(guests.Secret, knock, "Ada")
	require.Equal(t, 201, status, answer)
	ids, _ := h.knocks(host)
	require.Empty(t, ids)

	require.Equal(t, 200, h.do(host, "PATCH", "", `{"waiting_room":true}`))
	knock = h.waits(guests.Secret, "", "Ada")

	// Another process knows of no knock: the guest waits again. It knows the option.
	h.Close()
	h.Server = httptest.NewServer(h.routes(h.config))
	defer h.Server.Close()
	again := h.waits(guests.Secret, knock, "Ada")
	require.NotEqual(t, knock, again)

	// One that does not ask any more is forgotten.
	_, names := h.knocks(host)
	require.Equal(t, []string{"Ada"}, names)
	h.now.Add(time.Minute.Milliseconds())
	require.Equal(t, again, h.waits(guests.Secret, again, "Ada"))
	h.now.Add(2 * time.Minute.Milliseconds())
	ids, _ = h.knocks(host)
	require.Empty(t, ids)
	require.NotEqual(t, again, h.waits(guests.Secret, again, "Ada"))

	// So is one that was refused, although it goes on asking.
	knock = h.waits(guests.Secret, "", "Eve")
	id, _, _ := strings.Cut(knock, ".")
	require.Equal(t, 204, h.do(host, "POST", "/knocks/"+id+"/refuse", ""))
	h.now.Add(time.Minute.Milliseconds())
	status, _ = h.knock(guests.Secret, knock, "Eve")
	require.Equal(t, 403, status)
	h.now.Add(time.Minute.Milliseconds())
	require.NotEqual(t, knock, h.waits(guests.Secret, knock, "Eve"))

	resp, _ = h.server("DELETE", "/v1/rooms/board", "")
	require.Equal(t, 204, resp.StatusCode)
	status, _ = h.knock(guests.Secret, again, "Ada")
	require.Equal(t, 201, status)
}

// No address can fill the room before the door, and what waits is bounded.
func TestWaitingRoomIsBounded(t *testing.T) {
	h := openInviting(t)
	guests := h.invite("board", "")
	resp, _ := h.server("POST", "/v1/rooms", `{"name":"board","waiting_room":true}`)
	require.Equal(t, 201, resp.StatusCode)
	come := func(address string) int {
		r := httptest.NewRequest("POST", "/v1/admissions", strings.NewReader(fmt.Sprintf(`{"secret":%q}`, guests.Secret)))
		r.Header.Set("Content-Type", "application/json")
		r.RemoteAddr = address
		w := httptest.NewRecorder()
		h.Config.Handler.ServeHTTP(w, r)
		return w.Code
	}
	for n := range 20 {
		require.Equal(t, 202, come(fmt.Sprintf("[2001:db8::%d]:9", n)))
	}
	require.Equal(t, 429, come("[2001:db8::ffff]:9"), "of one network")
	require.EqualValues(t, 1, h.knocksRefused.Load())
	for n := range 80 {
		require.Equal(t, 202, come(fmt.Sprintf("192.0.2.%d:9", n)))
	}
	require.Equal(t, 429, come("198.51.100.1:9"), "before one room")
	h.now.Add(2 * time.Minute.Milliseconds())
	require.Equal(t, 202, come("198.51.100.1:9"), "they have gone")
}

// A guest who waits no more is not shown any longer, and cannot be taken away by others.
func TestAGuestWaitsNoMore(t *testing.T) {
	h := openInviting(t)
	guests, others := h.invite("board", ""), h.invite("board", "")
	resp, _ := h.server("POST", "/v1/rooms", `{"name":"board","waiting_room":true}`)
	require.Equal(t, 201, resp.StatusCode)
	_, answer := h.redeem(h.invite("board", `{"role":"host"}`).Secret)
	host := read[admissionJSON](t, answer).Token
	ada := h.waits(guests.Secret, "", "Ada")
	withdraw := func(secret, knock string) {
		resp, answer := h.ask("POST", "/v1/admissions/withdraw", "", "application/json", fmt.Sprintf(`{"secret":%q,"knock":%q}`, secret, knock))
		require.Equal(t, 204, resp.StatusCode, answer)
	}
	id, _, _ := strings.Cut(ada, ".")
	withdraw(guests.Secret, id+".guessed")
	withdraw(others.Secret, ada)
	_, names := h.knocks(host)
	require.Equal(t, []string{"Ada"}, names)
	withdraw(guests.Secret, ada)
	withdraw(guests.Secret, ada)
	_, names = h.knocks(host)
	require.Empty(t, names)
	require.NotEqual(t, ada, h.waits(guests.Secret, ada, "Ada"), "she may knock again")
}
