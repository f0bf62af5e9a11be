package conformance

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/livekit/protocol/webhook"
	"github.com/stretchr/testify/require"
)

// doorman is a service that answers the authorization hook.
type doorman struct {
	*httptest.Server

	mu     sync.Mutex // guards the following
	asked  []question
	answer func(question) (int, string)
}

type question struct {
	Room              string
	RoomSID           string `json:"room_sid"`
	Create, Reconnect bool
	Participant       struct{ Identity, Name, Metadata string }
	Client            struct{ SDK, Address string }
}

func newDoorman(t *testing.T) *doorman {
	d := &doorman{}
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// LiveKit's own receiver checks the signature.
		body, err := webhook.Receive(r, auth.NewSimpleKeyProvider(apiKey, apiSecret))
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		var q question
		if err := json.Unmarshal(body, &q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		d.mu.Lock()
		d.asked = append(d.asked, q)
		status, text := d.answer(q)
		d.mu.Unlock()
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}))
	d.says(func(question) (int, string) { return http.StatusNoContent, "" })
	t.Cleanup(d.Close)
	return d
}

func (d *doorman) says(answer func(question) (int, string)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answer = answer
}

// questions returns the questions since the last call.
func (d *doorman) questions() []question {
	d.mu.Lock()
	defer d.mu.Unlock()
	asked := d.asked
	d.asked = nil
	return asked
}

// tries asks validate and the WebSocket route, which must agree, and returns their
// answer.
func tries(t *testing.T, s *server, jwt string) (status int, body string) {
	t.Helper()
	status, body, err := fetch(t.Context(), s.http()+"/rtc/validate?"+legacyQuery(), "Authorization", "Bearer "+jwt)
	require.NoError(t, err)
	ws, wsStatus, wsBody := upgrade(t, s, "/rtc?"+legacyQuery(), jwt)
	require.Nil(t, ws)
	require.Equal(t, status, wsStatus, "validate says %q, the WebSocket %q", body, wsBody)
	require.Equal(t, strings.TrimSpace(body), strings.TrimSpace(wsBody))
	return status, body
}

// TestAuthorizationHook: an application decides which clients are admitted, and with
// which permissions.
func TestAuthorizationHook(t *testing.T) {
	t.Parallel()
	parlorOnly(t)
	d := newDoorman(t)
	s := startServer(t, settings{"hooks": map[string]any{"authorize": d.URL + "/?secret=hidden", "timeout": "2s", "cache": "1s"}})
	room := roomName(t)
	d.says(func(q question) (int, string) {
		switch {
		case q.Participant.Identity == "eve":
			return http.StatusOK, `{"allow":false,"message":"members only"}`
		case q.Create:
			return http.StatusOK, `{"allow":true,"participant":{"name":"Ada L.","metadata":"host","attributes":{"role":"host"}},
				"room":{"departure_timeout":"never","max_participants":7,"metadata":"by the hook","tags":{"team":"red"}}}`
		}
		return http.StatusOK, `{"allow":true,"participant":{"permissions":{"can_publish":false}},"room":{"metadata":"too late"}}`
	})
	status, body := tries(t, s, token(t, "eve", join(room)))
	require.Equal(t, 403, status)
	require.Equal(t, "members only", strings.TrimSpace(body))
	require.Len(t, d.questions(), 1, "the second try has the first one's answer")
	rooms, err := roomService(s).ListRooms(t.Context(), &livekit.ListRoomsRequest{})
	require.NoError(t, err)
	require.Empty(t, rooms.Rooms, "a join that is denied opens no room")

	w := newWire(t, s)
	ada := dual.joinAt(t, w.ws(), token(t, "ada", join(room)))
	bob := single.joinAt(t, s.ws(), token(t, "bob", join(room)))
	asked := d.questions()
	require.Len(t, asked, 2)
	require.True(t, asked[0].Create && asked[0].RoomSID == "" && asked[0].Room == room)
	require.False(t, asked[1].Create)
	require.Equal(t, ada.SID(), asked[1].RoomSID)
	require.Equal(t, "go", asked[0].Client.SDK)
	require.Equal(t, "127.0.0.1", asked[0].Client.Address)

	require.Equal(t, "Ada L.", ada.LocalParticipant.Name())
	require.Equal(t, "host", bob.sees(t, "ada").Attributes()["role"])
	rooms, err = roomService(s).ListRooms(t.Context(), &livekit.ListRoomsRequest{})
	require.NoError(t, err)
	require.Len(t, rooms.Rooms, 1)
	require.EqualValues(t, 7, rooms.Rooms[0].MaxParticipants)
	require.Equal(t, "by the hook", rooms.Rooms[0].Metadata)
	info, err := roomService(s).GetParticipant(t.Context(), &livekit.RoomParticipantIdentity{Room: room, Identity: "bob"})
	require.NoError(t, err)
	require.False(t, info.Permission.CanPublish, "the hook does not let bob publish")

	// The hook is also asked about a resuming client. If it refuses, the participant is
	// removed.
	w.cut()
	ada.await(t, "reconnected")
	asked = d.questions()
	require.NotEmpty(t, asked)
	require.True(t, asked[0].Reconnect)
	require.Equal(t, "Ada L.", asked[0].Participant.Name)
	d.says(func(question) (int, string) { return http.StatusForbidden, `{"message":"banned meanwhile"}` })
	time.Sleep(1100 * time.Millisecond) // the former answer has expired
	w.cut()
	bob.await(t, "left ada")

	d.Close()
	status, body = tries(t, s, token(t, "carol", join(room)))
	require.Equal(t, 503, status)
	require.Contains(t, body, "cannot be asked")
	require.NotContains(t, s.log.String(), "hidden", "the hook's URL may hold a secret")
}

// TestADeniedResume ends the session in which the token was issued, and no other: an
// older token, or one of the application, may be anybody's.
func TestADeniedResume(t *testing.T) {
	t.Parallel()
	parlorOnly(t)
	d := newDoorman(t)
	d.says(func(q question) (int, string) {
		if q.Reconnect {
			return http.StatusForbidden, `{"message":"banned meanwhile"}`
		}
		return http.StatusNoContent, ""
	})
	s := startServer(t, settings{"hooks": map[string]any{"authorize": d.URL, "timeout": "30s"}})
	room := roomName(t)
	bob := dual.joinAt(t, s.ws(), token(t, "bob", join(room)))
	given := token(t, "ada", join(room))
	enter := func() (c *signaller, sid, fresh string) {
		t.Helper()
		c = dial(t, s, "/rtc?"+legacyQuery(), given)
		fresh = *await(t, c, "a fresh token", func(m *livekit.SignalResponse) *string {
			if jwt := m.GetRefreshToken(); jwt != "" {
				return &jwt
			}
			return nil
		})
		return c, c.joined(t).Participant.Sid, fresh
	}
	first, _, old := enter()
	second, sid, fresh := enter()
	require.Equal(t, livekit.DisconnectReason_DUPLICATE_IDENTITY, first.awaitLeave(t).Reason)
	denied := func(jwt string) {
		t.Helper()
		again := plainJoin()
		again.Reconnect, again.ParticipantSid = true, sid
		for _, path := range []string{
			"/rtc?" + legacyQuery("reconnect", "1", "sid", sid), "/rtc/v1?" + joinQuery(t, again, true),
		} {
			ws, status, body := upgrade(t, s, path, jwt)
			require.Nil(t, ws)
			require.Equal(t, 403, status)
			require.Equal(t, "banned meanwhile", body)
		}
	}
	for _, jwt := range []string{given, old, token(t, "ada", join(room))} {
		denied(jwt)
		second.alive(t)
		info, err := roomService(s).GetParticipant(t.Context(), &livekit.RoomParticipantIdentity{Room: room, Identity: "ada"})
		require.NoError(t, err)
		require.Equal(t, sid, info.Sid)
	}
	bob.sees(t, "ada")
	denied(fresh)
	require.Equal(t, livekit.DisconnectReason_PARTICIPANT_REMOVED, second.awaitLeave(t).Reason)
	bob.await(t, "left ada")
}

// TestAuthorizationHookThatIsDown: all clients are admitted if that is configured.
func TestAuthorizationHookThatIsDown(t *testing.T) {
	t.Parallel()
	parlorOnly(t)
	d := newDoorman(t)
	d.Close()
	s := startServer(t, settings{"hooks": map[string]any{"authorize": d.URL, "on_failure": "allow"}})
	dual.joinAt(t, s.ws(), token(t, "ada", join(roomName(t))))
}

// TestDuplicateIdentityIsRejected if that is configured. A client that returns is not a
// duplicate of itself.
func TestDuplicateIdentityIsRejected(t *testing.T) {
	t.Parallel()
	parlorOnly(t)
	s := startServer(t, settings{"room": map[string]any{"on_duplicate_identity": "reject"}, "restart_grace": restartGrace.String()})
	room := roomName(t)
	w := newWire(t, s)
	ada := dual.joinAt(t, w.ws(), token(t, "ada", join(room)))
	bob := single.joinAt(t, s.ws(), token(t, "bob", join(room)))
	sid := bob.sees(t, "ada").SID()
	taken := func() {
		t.Helper()
		status, body := tries(t, s, token(t, "ada", join(room)))
		require.Equal(t, 409, status)
		require.Equal(t, fmt.Sprintf("participant %q is in room %q already", "ada", room), strings.TrimSpace(body))
	}
	taken()

	w.cut() // a resume
	ada.await(t, "reconnected")
	taken()
	s.kill() // and a full reconnect
	require.NoError(t, s.start())
	ada.awaitCount(t, "reconnected", 2)
	taken()
	require.Equal(t, sid, ada.LocalParticipant.SID())
}

// post sends JSON to REST with the API key and its secret.
func post(t *testing.T, s *server, path, body string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.http()+path, strings.NewReader(body))
	require.NoError(t, err)
	req.SetBasicAuth(apiKey, apiSecret)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, string(text))
	return string(text)
}

// TestHeldRoom: only the participants that the hold exempts are heard, whatever clients
// do, and also after a restart.
func TestHeldRoom(t *testing.T) {
	t.Parallel()
	parlorOnly(t)
	s := startServer(t, settings{"restart_grace": restartGrace.String()})
	room := roomName(t)
	ada := dual.joinAt(t, s.ws(), token(t, "ada", join(room)))
	host := single.joinAt(t, s.ws(), token(t, "host", join(room)))
	heard := func() (adas, hosts string) {
		return host.remote(t, "ada", mic).SID(), ada.remote(t, "host", mic).SID()
	}
	voice := ada.publishMicrophone(t)
	host.publishMicrophone(t)
	adas, hosts := heard()
	host.awaitMedia(t, adas, 5)
	ada.awaitMedia(t, hosts, 5)

	require.Contains(t, post(t, s, "/v1/rooms/"+room+"/mute", `{"except":["host"],"hold":true}`), adas)
	host.await(t, "muted ada MICROPHONE")
	host.awaitSilence(t, adas)
	ada.awaitMedia(t, hosts, 5)
	voice.SetMuted(false) // the client tries to speak
	host.awaitSilence(t, adas)

	s.kill()
	require.NoError(t, s.start())
	ada.await(t, "reconnected")
	host.await(t, "reconnected")
	eventually(t, "both publish again", func() bool {
		list, err := roomService(s).ListParticipants(t.Context(), &livekit.ListParticipantsRequest{Room: room})
		if err != nil {
			return false
		}
		muted := map[string]bool{}
		for _, p := range list.Participants {
			for _, track := range p.Tracks {
				muted[p.Identity] = track.Muted
			}
		}
		return len(muted) == 2 && muted["ada"] && !muted["host"]
	})
}
