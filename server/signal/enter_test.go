package signal

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"parlor/media"
	"parlor/rooms"
	"parlor/rooms/sqlite"
	"parlor/rooms/sqlite/sqlitetest"
	"parlor/server/access"
	"parlor/server/devices"
)

// lateUpgrade is a connection that is upgraded after a function was called.
type lateUpgrade struct {
	http.ResponseWriter
	before func()
}

func (l lateUpgrade) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	l.before()
	return http.NewResponseController(l.ResponseWriter).Hijack()
}

// entrance is the signalling of a real house. Its connections are upgraded after before
// was called, when the joins are on disk.
type entrance struct {
	t      *testing.T
	rooms  *rooms.Rooms
	h      *Handler
	url    string
	before func()
}

const secret = "a secret that is long enough for anybody"

func newEntrance(t *testing.T) *entrance {
	log := slog.New(slog.DiscardHandler)
	store, err := sqlite.Open(context.Background(), sqlite.Config{Path: sqlitetest.Path(t)})
	require.NoError(t, err)
	house := rooms.New(rooms.Config{Store: store, Log: log, AutoCreate: true, RestartGrace: time.Minute})
	require.NoError(t, house.Open(context.Background()))
	engine, err := media.NewEngine(media.Config{BindAddresses: []string{"127.0.0.1"}, LoopbackCandidate: true, Log: log})
	require.NoError(t, err)
	verifier := access.NewVerifier(map[string]string{"key": secret})
	h := New(Config{Rooms: house, Media: engine, Verifier: verifier, Log: log})
	e := &entrance{t: t, rooms: house, h: h}
	server := httptest.NewServer(verifier.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.RTC().ServeHTTP(lateUpgrade{w, e.before}, r)
	})))
	e.url = "ws" + strings.TrimPrefix(server.URL, "http")
	t.Cleanup(func() {
		house.Stop()
		require.NoError(t, h.Wait(context.Background()))
		server.Close()
		require.NoError(t, house.Close(context.Background()))
		require.NoError(t, engine.Close())
		require.NoError(t, store.Close(context.Background()))
	})
	return e
}

// connect joins as ann, and returns the client's first message.
func (e *entrance) connect() *livekit.SignalResponse {
	e.t.Helper()
	token, err := auth.NewAccessToken("key", secret).SetIdentity("ann").
		SetVideoGrant(&auth.VideoGrant{RoomJoin: true, Room: "tea"}).ToJWT()
	require.NoError(e.t, err)
	conn, _, err := websocket.Dial(e.t.Context(), e.url+"?protocol=17&access_token="+token, nil)
	require.NoError(e.t, err)
	conn.SetReadLimit(-1)
	e.t.Cleanup(func() { _ = conn.CloseNow() })
	_, b, err := conn.Read(e.t.Context())
	require.NoError(e.t, err)
	resp := &livekit.SignalResponse{}
	require.NoError(e.t, proto.Unmarshal(b, resp))
	return resp
}

// Whatever a room sends between a join and its socket, the client begins with the state
// of the room at the time of the socket.
func TestAClientBeginsWithTheStateOfItsSocket(t *testing.T) {
	const more = 1100 // more messages than may wait for a client
	e := newEntrance(t)
	bob, _, err := e.rooms.Join(t.Context(), rooms.JoinRequest{
		Room: "tea", Outlet: &stuck{}, Protocol: 17,
		Info: &livekit.ParticipantInfo{Identity: "bob", Permission: &livekit.ParticipantPermission{CanUpdateMetadata: true}},
	})
	require.NoError(t, err)
	e.before = func() {
		for n := range more {
			bob.UpdateSelf(&livekit.UpdateParticipantMetadata{Metadata: strconv.Itoa(n + 1)})
		}
		bob.Sync()
	}
	joined := e.connect().GetJoin()
	require.NotNil(t, joined)
	require.Len(t, joined.OtherParticipants, 1)
	require.Equal(t, strconv.Itoa(more), joined.OtherParticipants[0].Metadata)
}

// A client that is removed before it has a socket is told so on the socket.
func TestAClientSentAwayBeforeItsSocketIsTold(t *testing.T) {
	e := newEntrance(t)
	e.before = func() {
		require.NoError(t, e.rooms.Remove(context.Background(), &livekit.RoomParticipantIdentity{Room: "tea", Identity: "ann"}))
	}
	leave := e.connect().GetLeave()
	require.Equal(t, livekit.DisconnectReason_PARTICIPANT_REMOVED, leave.GetReason())
	require.Equal(t, livekit.LeaveRequest_DISCONNECT, leave.GetAction())
}

// A resuming client is first told that it resumes, and which of its tracks others muted.
// If it saw the tracks muted first, it would undo that.
func TestAResumedClientHearsOfMutesBeforeItsTracks(t *testing.T) {
	e := newEntrance(t)
	p, self, err := e.rooms.Join(t.Context(), rooms.JoinRequest{
		Room: "tea", Outlet: &stuck{}, Protocol: 17, Info: &livekit.ParticipantInfo{Identity: "ann"},
	})
	require.NoError(t, err)
	o := &outlet{metrics: newMetrics(nil)}
	peer, err := e.h.cfg.Media.NewPeer(media.PeerConfig{
		SID: self.Sid, Identity: "ann", Protocol: 17, Signals: speaker{o, 17}, Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	defer peer.Close()
	s := &session{
		h: e.h, outlet: o, client: p.Client, peer: peer, opts: &options{client: &livekit.ClientInfo{}},
		claims: &access.Claims{APIKey: "key", Grants: &auth.ClaimGrants{Identity: "ann", Video: &auth.VideoGrant{Room: "tea"}}, Expires: time.Now().Add(time.Hour)},
	}
	var kinds []string
	for _, m := range e.h.resumeMessages(s, rooms.Snapshot{
		Room: &livekit.Room{Name: "tea"}, Self: self,
		Mutes: []*livekit.MuteTrackRequest{{Sid: "TR_1", Muted: true}, {Sid: "TR_2"}},
	}) {
		kinds = append(kinds, strings.TrimPrefix(fmt.Sprintf("%T", m.Response.Message), "*livekit.SignalResponse_"))
	}
	require.Equal(t, []string{"Reconnect", "Mute", "Mute", "Update", "RoomUpdate", "RefreshToken"}, kinds)
}

// dial connects as ann with more of a query, and returns the connection and what comes first.
func (e *entrance) dial(more string) (*websocket.Conn, *livekit.JoinResponse) {
	e.t.Helper()
	if e.before == nil {
		e.before = func() {}
	}
	token, err := auth.NewAccessToken("key", secret).SetIdentity("ann").
		SetVideoGrant(&auth.VideoGrant{RoomJoin: true, Room: "tea"}).ToJWT()
	require.NoError(e.t, err)
	conn, _, err := websocket.Dial(e.t.Context(), e.url+"?protocol=17&access_token="+token+more, nil)
	require.NoError(e.t, err)
	conn.SetReadLimit(-1)
	e.t.Cleanup(func() { _ = conn.CloseNow() })
	_, b, err := conn.Read(e.t.Context())
	require.NoError(e.t, err)
	resp := &livekit.SignalResponse{}
	require.NoError(e.t, proto.Unmarshal(b, resp))
	return conn, resp.GetJoin()
}

// TestAMessageBeyondTheLimitEndsItsConnection with 1009 (RFC 6455, section 7.4.1); without
// a limit a long message is only what it is.
func TestAMessageBeyondTheLimitEndsItsConnection(t *testing.T) {
	for _, limit := range []int64{1000, 0} {
		e := newEntrance(t)
		e.h.cfg.MaxMessage = limit
		conn, _ := e.dial("")
		long, err := proto.Marshal(&livekit.SignalRequest{Message: &livekit.SignalRequest_UpdateMetadata{
			UpdateMetadata: &livekit.UpdateParticipantMetadata{RequestId: 5, Metadata: strings.Repeat("x", 3<<20)},
		}})
		require.NoError(t, err)
		_ = conn.Write(t.Context(), websocket.MessageBinary, long) // the server may have closed before all is sent
		for {
			_, b, err := conn.Read(t.Context())
			if limit > 0 && err != nil {
				require.Equal(t, websocket.StatusMessageTooBig, websocket.CloseStatus(err))
				break
			}
			require.NoError(t, err)
			resp := &livekit.SignalResponse{}
			require.NoError(t, proto.Unmarshal(b, resp))
			if resp.GetRequestResponse().GetRequestId() == 5 {
				require.Zero(t, limit)
				break
			}
		}
	}
}

// Messages of a few kilobytes that unpack to megabytes are read at the pace of what they unpack to.
func TestMessagesArePacedByWhatTheyUnpackTo(t *testing.T) {
	e := newEntrance(t)
	token, err := auth.NewAccessToken("key", secret).SetIdentity("ann").
		SetVideoGrant(&auth.VideoGrant{RoomJoin: true, Room: "tea"}).ToJWT()
	require.NoError(t, err)
	e.before = func() {}
	conn, _, err := websocket.Dial(t.Context(), e.url+"?protocol=17&access_token="+token, &websocket.DialOptions{CompressionMode: websocket.CompressionContextTakeover})
	require.NoError(t, err)
	conn.SetReadLimit(-1)
	t.Cleanup(func() { _ = conn.CloseNow() })
	large := protowire.AppendTag(nil, 5000, protowire.BytesType) // a field that nobody knows
	large = protowire.AppendBytes(large, make([]byte, 3<<19))
	began := time.Now()
	for range (inflowBurst + 4*inflow) / (2 * len(large)) { // it costs twice its length
		require.NoError(t, conn.Write(t.Context(), websocket.MessageBinary, large))
	}
	ping, err := proto.Marshal(&livekit.SignalRequest{Message: &livekit.SignalRequest_PingReq{PingReq: &livekit.Ping{Timestamp: 7}}})
	require.NoError(t, err)
	require.NoError(t, conn.Write(t.Context(), websocket.MessageBinary, ping))
	for {
		_, b, err := conn.Read(t.Context())
		require.NoError(t, err)
		resp := &livekit.SignalResponse{}
		require.NoError(t, proto.Unmarshal(b, resp))
		if resp.GetPongResp() != nil {
			break
		}
	}
	require.GreaterOrEqual(t, time.Since(began), 2*time.Second)
}

// TestAClientIsToldWhatItDoesBadly, and which codecs are left.
func TestAClientIsToldWhatItDoesBadly(t *testing.T) {
	e := newEntrance(t)
	var err error
	e.h.cfg.Devices, err = devices.New([]devices.Rule{{Browsers: []string{"safari"}, NoResume: true}})
	require.NoError(t, err)
	e.h.cfg.EnabledCodecs = []string{"video/VP8", "video/VP9", "video/AV1"}
	for query, want := range map[string][]string{
		"":                                        {"video/VP8", "video/VP9", "video/AV1"},
		"&browser=Safari&browser_version=17.0":    {"video/VP8", "video/VP9"},
		"&browser=Safari&browser_version=18.4":    {"video/VP8"},
		"&browser=Firefox&os=Linux&sdk=js":        {"video/VP8", "video/VP9"},
		"&browser=Chrome&browser_version=150&x=y": {"video/VP8", "video/VP9", "video/AV1"},
	} {
		_, join := e.dial(query)
		var got []string
		for _, c := range join.EnabledPublishCodecs {
			got = append(got, c.Mime)
		}
		require.Equal(t, want, got, query)
		resume := livekit.ClientConfigSetting_UNSET
		if strings.Contains(query, "Safari") {
			resume = livekit.ClientConfigSetting_DISABLED
			require.Equal(t, "video/av1", join.ClientConfiguration.DisabledCodecs.Codecs[0].Mime)
		}
		require.Equal(t, resume, join.ClientConfiguration.ResumeConnection, query)
	}
}
