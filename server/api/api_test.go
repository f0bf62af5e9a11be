package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"github.com/twitchtv/twirp"

	"parlor/rooms"
	"parlor/rooms/log"
	"parlor/rooms/sqlite"
	"parlor/rooms/sqlite/sqlitetest"
	"parlor/server/access"
	"parlor/server/api"
	"parlor/server/config"
	"parlor/server/events"
	"parlor/webhooks"
)

const (
	key    = "APIkey"
	secret = "a-secret-of-thirty-two-characters"
)

// house is the API with real rooms in a real database, and a real HTTP server.
type house struct {
	*httptest.Server
	t        *testing.T
	rooms    *rooms.Rooms
	store    *sqlite.Store
	hooks    *webhooks.Dispatcher
	verifier *access.Verifier
	config   api.Config
}

func open(t *testing.T, with ...func(*rooms.Config)) *house {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	store, err := sqlite.Open(t.Context(), sqlite.Config{Path: sqlitetest.Path(t), Log: logger})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close(context.Background())) })
	h := &house{t: t, store: store, verifier: access.NewVerifier(map[string]string{key: secret})}
	h.receive(logger)
	limits := rooms.Limits{MaxMetadata: 1000, MaxAttributes: 1000, MaxRoomName: 256, MaxIdentity: 256, MaxParticipantName: 256}
	domain := rooms.Config{Store: store, Moderation: store, Log: logger, AutoCreate: true, Limits: limits, Agents: &rooms.AgentsConfig{Workers: noWorkers{}, Records: store}}
	for _, f := range with {
		f(&domain)
	}
	rs := rooms.New(domain)
	require.NoError(t, rs.Open(t.Context()))
	t.Cleanup(func() { require.NoError(t, rs.Close(context.Background())) })
	h.rooms = rs
	pull := events.New(&log.Reader{Store: store}, logger, 1)
	t.Cleanup(pull.Close)
	h.serve(api.Config{
		Rooms: rs, Dispatches: rs, Records: store, Moderation: store, Hours: store, Replies: store, Verifier: h.verifier, Log: logger, MaxBody: 1 << 20, Limits: limits,
		Presets: map[string]config.Preset{"webinar": {MaxParticipants: 1000, Metadata: "preset"}},
		Events:  pull, Webhooks: h.hooks, Version: "1.2.3", Started: time.Now(),
		Writer: func() api.Writer { return api.Writer{WALBytes: 7} },
	})
	return h
}

// receive starts a receiver that refuses every request with 500, and a dispatcher for it.
func (h *house) receive(log *slog.Logger) {
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
	h.t.Cleanup(refuses.Close)
	h.hooks = webhooks.New(webhooks.Config{
		Store: h.store, Keys: map[string]string{key: secret}, Key: key, Logger: log,
		Endpoints: []webhooks.Endpoint{{URL: refuses.URL + "/hook?secret=1"}},
	})
	require.NoError(h.t, h.hooks.Start(h.t.Context()))
	h.t.Cleanup(h.hooks.Close)
}

func (h *house) serve(c api.Config) {
	h.config = c
	h.Server = httptest.NewServer(h.routes(c))
	h.t.Cleanup(h.Close)
}

func (h *house) routes(c api.Config) http.Handler {
	r := chi.NewRouter()
	for path, service := range api.Twirp(c) {
		r.Handle(path+"*", c.Verifier.Middleware(service))
	}
	r.Mount("/v1", api.REST(c))
	return r
}

func (h *house) token(g *auth.VideoGrant) string {
	token, err := h.verifier.Mint(key, &auth.ClaimGrants{Identity: "tester", Video: g}, time.Hour)
	require.NoError(h.t, err)
	return token
}

// ask sends a request, and returns the answer with its whole body.
func (h *house) ask(method, path, token, contentType, body string) (*http.Response, string) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.URL+path, strings.NewReader(body))
	require.NoError(h.t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return h.do(req)
}

func (h *house) do(req *http.Request) (*http.Response, string) {
	h.t.Helper()
	resp, err := h.Client().Do(req)
	require.NoError(h.t, err)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	require.NoError(h.t, err)
	conforms(h.t, req, resp, string(got))
	return resp, string(got)
}

func (h *house) twirp(method, token, body string) (int, string) {
	h.t.Helper()
	resp, got := h.ask("POST", "/twirp/livekit.RoomService/"+method, token, "application/json", body)
	return resp.StatusCode, got
}

func admin(room string) *auth.VideoGrant {
	return &auth.VideoGrant{RoomCreate: true, RoomList: true, RoomAdmin: true, Room: room}
}

// bearer adds a token to a generated client's requests.
func bearer(ctx context.Context, token string) context.Context {
	ctx, err := twirp.WithHTTPRequestHeaders(ctx, http.Header{"Authorization": {"Bearer " + token}})
	if err != nil {
		panic(err)
	}
	return ctx
}

func TestGeneratedClients(t *testing.T) {
	for name, dial := range map[string]func(*house) livekit.RoomService{
		"protobuf": func(h *house) livekit.RoomService { return livekit.NewRoomServiceProtobufClient(h.URL, h.Client()) },
		"json":     func(h *house) livekit.RoomService { return livekit.NewRoomServiceJSONClient(h.URL, h.Client()) },
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			c := dial(h)
			ctx := bearer(t.Context(), h.token(admin("lobby")))

			room, err := c.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: "lobby", EmptyTimeout: 77, Metadata: "hello", Agents: []*livekit.RoomAgentDispatch{}})
			require.NoError(t, err)
			require.Equal(t, "lobby", room.Name)
			require.Regexp(t, "^RM_", room.Sid)
			require.EqualValues(t, 77, room.EmptyTimeout)
			require.EqualValues(t, 20, room.DepartureTimeout)

			again, err := c.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: "lobby", EmptyTimeout: 5})
			require.NoError(t, err)
			require.Equal(t, room.Sid, again.Sid)
			require.EqualValues(t, 77, again.EmptyTimeout, "a room that exists is returned as it is")

			list, err := c.ListRooms(ctx, &livekit.ListRoomsRequest{Names: []string{"lobby", "unknown"}})
			require.NoError(t, err)
			require.Len(t, list.Rooms, 1)

			updated, err := c.UpdateRoomMetadata(ctx, &livekit.UpdateRoomMetadataRequest{Room: "lobby", Metadata: "bye"})
			require.NoError(t, err)
			require.Equal(t, "bye", updated.Metadata)

			people, err := c.ListParticipants(ctx, &livekit.ListParticipantsRequest{Room: "lobby"})
			require.NoError(t, err)
			require.Empty(t, people.Participants)

			_, err = c.SendData(ctx, &livekit.SendDataRequest{Room: "lobby", Data: []byte("x")})
			require.NoError(t, err, "data for an empty room is no error")

			_, err = c.DeleteRoom(ctx, &livekit.DeleteRoomRequest{Room: "lobby"})
			require.NoError(t, err)
			list, err = c.ListRooms(ctx, &livekit.ListRoomsRequest{})
			require.NoError(t, err)
			require.Empty(t, list.Rooms)

			preset, err := c.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: "p", RoomPreset: "webinar", Metadata: "own"})
			require.NoError(t, err)
			require.EqualValues(t, 1000, preset.MaxParticipants)
			require.Equal(t, "own", preset.Metadata, "the request's own settings win over the preset's")
		})
	}
}

func TestTwirpErrors(t *testing.T) {
	h := open(t)
	all := h.token(admin("lobby"))
	ghost := `{"room":"lobby","identity":"ghost"`
	_, err := h.rooms.Create(t.Context(), &livekit.CreateRoomRequest{Name: "lobby"})
	require.NoError(t, err)
	both := h.token(&auth.VideoGrant{RoomAdmin: true, Room: "lobby", DestinationRoom: "other"})
	absentRoom := h.token(admin("absent"))

	const noParticipant = "participant does not exist"
	for _, tc := range []struct {
		name, method, token, body string
		status                    int
		code, msg                 string
	}{
		{"get", "GetParticipant", all, ghost + `}`, 404, "not_found", noParticipant},
		{"get in no room", "GetParticipant", absentRoom, `{"room":"absent","identity":"x"}`, 404, "not_found", noParticipant},
		{"remove", "RemoveParticipant", all, ghost + `}`, 404, "not_found", noParticipant},
		{"update", "UpdateParticipant", all, ghost + `,"metadata":"x"}`, 404, "not_found", noParticipant},
		{"mute", "MutePublishedTrack", all, ghost + `,"track_sid":"TR_x","muted":true}`, 404, "not_found", noParticipant},
		{"subscriptions", "UpdateSubscriptions", all, ghost + `,"track_sids":["TR_x"]}`, 404, "not_found", noParticipant},
		{"rpc", "PerformRpc", all, `{"room":"lobby","destination_identity":"ghost","method":"m"}`, 404, "not_found", noParticipant},
		{"forward", "ForwardParticipant", both, ghost + `,"destination_room":"other"}`, 404, "not_found", noParticipant},
		{"move", "MoveParticipant", both, ghost + `,"destination_room":"other"}`, 404, "not_found", noParticipant},
		{"move to itself", "MoveParticipant", h.token(&auth.VideoGrant{RoomAdmin: true, Room: "lobby", DestinationRoom: "lobby"}), ghost + `,"destination_room":"lobby"}`, 400, "invalid_argument", "destination room cannot be the same as source room"},
		{"delete", "DeleteRoom", all, `{"room":"absent"}`, 404, "not_found", "requested room does not exist"},
		{"metadata", "UpdateRoomMetadata", absentRoom, `{"room":"absent"}`, 404, "not_found", "requested room does not exist"},
		{"data", "SendData", absentRoom, `{"room":"absent"}`, 404, "not_found", "requested room does not exist"},
		{"nonce", "SendData", all, `{"room":"lobby","nonce":"AAAA"}`, 400, "invalid_argument", "nonce should be 16-bytes or not present, got: 3 bytes"},
		{"long name", "CreateRoom", all, `{"name":"` + strings.Repeat("x", 257) + `"}`, 400, "invalid_argument", "room name length exceeds limits: max length 256"},
		{"no name", "CreateRoom", all, `{}`, 400, "invalid_argument", "no room name"},
		{"long metadata", "CreateRoom", all, `{"name":"x","metadata":"` + strings.Repeat("x", 1001) + `"}`, 400, "invalid_argument", "metadata size exceeds limits: max size 1000"},
		{"unknown preset", "CreateRoom", all, `{"name":"x","room_preset":"y"}`, 400, "invalid_argument", `unknown room preset "y"`},
		{"too many agents", "CreateRoom", all, `{"name":"x","agents":[{}` + strings.Repeat(",{}", 100) + `]}`, 400, "invalid_argument", "a room has at most 100 dispatches"},
		{"agents", "CreateRoom", all, `{"name":"x","agents":[{"deployment":"a_b"}]}`, 400, "invalid_argument", "the deployment must not have spaces, control characters or underscores"},
		{"egress", "CreateRoom", all, `{"name":"x","egress":{}}`, 501, "unimplemented", "Parlor does not record: a room cannot be created with egress"},
		{"bad JSON", "CreateRoom", all, `{`, 400, "malformed", "the json request could not be decoded"},
		{"wrong type", "CreateRoom", all, `{"name":7}`, 400, "malformed", "the json request could not be decoded"},
		{"too long", "CreateRoom", all, `{"name":"` + strings.Repeat("x", 1<<20) + `"}`, 400, "malformed", "the body must not be longer than 77536 bytes"},
		{"unknown method", "Nope", all, `{}`, 404, "bad_route", `no handler for path "/twirp/livekit.RoomService/Nope"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			began := time.Now()
			status, body := h.twirp(tc.method, tc.token, tc.body)
			var got struct{ Code, Msg string }
			require.NoError(t, json.Unmarshal([]byte(body), &got), body)
			require.Equal(t, fmt.Sprint(tc.status, tc.code, tc.msg), fmt.Sprint(status, got.Code, got.Msg))
			require.Less(t, time.Since(began), 2*time.Second, "an absent participant is told of at once")
		})
	}

	t.Run("GET", func(t *testing.T) {
		resp, body := h.ask("GET", "/twirp/livekit.RoomService/ListRooms", all, "", "")
		require.Equal(t, 404, resp.StatusCode)
		require.Contains(t, body, `"bad_route"`)
	})
	t.Run("wrong content type", func(t *testing.T) {
		resp, body := h.ask("POST", "/twirp/livekit.RoomService/ListRooms", all, "text/plain", "{}")
		require.Equal(t, 404, resp.StatusCode)
		require.Contains(t, body, `"bad_route"`)
	})
	t.Run("unknown fields are ignored, and answers have snake_case and defaults", func(t *testing.T) {
		status, body := h.twirp("ListRooms", all, `{"nope":1}`)
		require.Equal(t, 200, status)
		require.Regexp(t, `"max_participants": ?0`, body)
		require.Regexp(t, `"creation_time": ?"\d+"`, body, "int64 is a string")
	})
	t.Run("bad protobuf", func(t *testing.T) {
		resp, body := h.ask("POST", "/twirp/livekit.RoomService/ListRooms", all, "application/protobuf", "\xff")
		require.Equal(t, 400, resp.StatusCode)
		require.Contains(t, body, `"malformed"`)
	})
}

func TestTwirpGrants(t *testing.T) {
	h := open(t)
	_, err := h.rooms.Create(t.Context(), &livekit.CreateRoomRequest{Name: "r"})
	require.NoError(t, err)
	var (
		create = &auth.VideoGrant{RoomCreate: true}
		list   = &auth.VideoGrant{RoomList: true}
		room   = &auth.VideoGrant{RoomAdmin: true, Room: "r"}
		other  = &auth.VideoGrant{RoomAdmin: true, Room: "other"}
		join   = &auth.VideoGrant{RoomJoin: true, Room: "r"}
		dest   = &auth.VideoGrant{RoomAdmin: true, Room: "r", DestinationRoom: "d"}
	)
	allowed := map[string]*auth.VideoGrant{
		"CreateRoom": create, "DeleteRoom": create, "ListRooms": list,
		"ListParticipants": room, "GetParticipant": room, "RemoveParticipant": room, "MutePublishedTrack": room,
		"UpdateParticipant": room, "UpdateSubscriptions": room, "SendData": room, "UpdateRoomMetadata": room,
		"PerformRpc": room, "ForwardParticipant": dest, "MoveParticipant": dest,
	}
	for method, needs := range allowed {
		for name, has := range map[string]*auth.VideoGrant{
			"create": create, "list": list, "admin": room, "admin of another room": other, "join": join, "destination": dest, "no video": nil,
		} {
			ok := has == needs || (has == dest && needs == room)
			status, body := h.twirp(method, h.token(has), `{"name":"r","room":"r","identity":"x","destination_identity":"x","destination_room":"d"}`)
			if ok {
				require.NotEqual(t, 401, status, "%s with %s: %s", method, name, body)
			} else {
				require.Equal(t, 401, status, "%s with %s", method, name)
				require.JSONEq(t, `{"code":"unauthenticated","msg":"permissions denied"}`, body)
			}
		}
		status, body := h.twirp(method, "", `{"room":"r"}`)
		require.Equal(t, 401, status, method)
		require.JSONEq(t, `{"code":"unauthenticated","msg":"permissions denied"}`, body)
	}
	resp, body := h.ask("POST", "/twirp/livekit.RoomService/ListRooms", "x.y.z", "application/json", "{}")
	require.Equal(t, 401, resp.StatusCode)
	require.Equal(t, "invalid authorization token\n", body)
	require.Contains(t, resp.Header.Get("Content-Type"), "text/plain")
}

func TestAbsentServicesSaySo(t *testing.T) {
	h := open(t)
	for _, path := range []string{"Egress/ListEgress", "Ingress/ListIngress", "SIP/ListSIPTrunk", "Connector/DialWhatsAppCall", "PhoneNumberService/ListPhoneNumbers"} {
		resp, body := h.ask("POST", "/twirp/livekit."+path, h.token(admin("r")), "application/json", "{}")
		require.Equal(t, 501, resp.StatusCode, path)
		require.Contains(t, body, `"code":"unimplemented"`)
		resp, body = h.ask("POST", "/twirp/livekit."+path, "", "application/json", "{}")
		require.Equal(t, 401, resp.StatusCode, path)
		require.Contains(t, body, `"code":"unauthenticated"`)
	}
	_, err := livekit.NewEgressProtobufClient(h.URL, h.Client()).
		ListEgress(bearer(t.Context(), h.token(admin("r"))), &livekit.ListEgressRequest{})
	var e twirp.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, twirp.Unimplemented, e.Code(), "a generated client understands the answer")
}

func TestStoppingServerAsksToTryAgain(t *testing.T) {
	h := open(t)
	h.rooms.Stop()
	resp, body := h.ask("POST", "/twirp/livekit.RoomService/CreateRoom", h.token(admin("r")), "application/json", `{"name":"r"}`)
	require.Equal(t, 503, resp.StatusCode)
	require.Equal(t, "1", resp.Header.Get("Retry-After"))
	require.Contains(t, body, `"unavailable"`)
	resp, body = h.ask("POST", "/v1/rooms", h.token(admin("r")), "application/json", `{"name":"r"}`)
	require.Equal(t, 503, resp.StatusCode)
	require.Equal(t, "1", resp.Header.Get("Retry-After"))
	require.Contains(t, body, `"unavailable"`)
}

// failing is a domain that fails by its own fault.
type failing struct{ api.Rooms }

func (failing) List(context.Context, []string) ([]*livekit.Room, error) {
	return nil, fmt.Errorf("disk %s", "/var/lib/secret-path")
}

func (failing) Admissible(context.Context, string, string, int64) error { return nil }

func (failing) HostDecided(context.Context, string, string) (bool, bool, error) {
	return false, false, nil
}

func (failing) Delete(context.Context, string, func(*rooms.Record) bool) error {
	return rooms.Errorf(rooms.Internal, "disk %s", "/var/lib/secret-path")
}

func TestOurOwnFaultsAreLoggedAndHidden(t *testing.T) {
	var logged bytes.Buffer
	h := &house{t: t, verifier: access.NewVerifier(map[string]string{key: secret})}
	h.serve(api.Config{Rooms: failing{}, Verifier: h.verifier, Log: slog.New(slog.NewTextHandler(&logged, nil))})
	status, body := h.twirp("ListRooms", h.token(admin("r")), "{}")
	require.Equal(t, 500, status)
	require.JSONEq(t, `{"code":"internal","msg":"internal error"}`, body)
	resp, body := h.ask("DELETE", "/v1/rooms/r", h.token(admin("r")), "", "")
	require.Equal(t, 500, resp.StatusCode)
	require.JSONEq(t, `{"type":"about:blank","title":"Internal Server Error","status":500,"code":"internal","detail":"internal error"}`, body)
	require.Equal(t, 2, strings.Count(logged.String(), "secret-path"), "each failure is logged once")
}

// noWorkers is a server without workers.
type noWorkers struct{}

func (noWorkers) Kinds(string, string) []rooms.AgentKind { return nil }
func (noWorkers) Wake(rooms.AgentKind)                   {}
func (noWorkers) Terminate(string)                       {}
