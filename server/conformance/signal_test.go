package conformance

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// signaller speaks the signalling protocol frame by frame, so that it can also send
// messages that no SDK would send.
type signaller struct {
	conn *websocket.Conn

	mu     sync.Mutex // guards the following
	got    []*livekit.SignalResponse
	text   []bool // whether got[i] came in a text frame
	closed error  // why reading ended; nil while it continues

	wg sync.WaitGroup // the reader
}

// clientInfo is that of a current SDK.
func clientInfo() *livekit.ClientInfo {
	return &livekit.ClientInfo{Sdk: livekit.ClientInfo_GO, Version: "2.19.0", Protocol: 17}
}

// legacyQuery is the query of clients with two peer connections.
func legacyQuery(more ...string) string {
	q := url.Values{"protocol": {"17"}, "auto_subscribe": {"1"}, "sdk": {"go"}, "version": {"2.19.0"}}
	for i := 0; i+1 < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	return q.Encode()
}

// joinQuery is the query of clients with one peer connection.
func joinQuery(t *testing.T, r *livekit.JoinRequest, compress bool) string {
	t.Helper()
	data, err := proto.Marshal(r)
	require.NoError(t, err)
	wrapped := &livekit.WrappedJoinRequest{JoinRequest: data}
	if compress {
		wrapped.Compression = livekit.WrappedJoinRequest_GZIP
		wrapped.JoinRequest = zip(t, data)
	}
	return wrappedQuery(t, wrapped)
}

func wrappedQuery(t *testing.T, w *livekit.WrappedJoinRequest) string {
	t.Helper()
	data, err := proto.Marshal(w)
	require.NoError(t, err)
	return "join_request=" + url.QueryEscape(base64.URLEncoding.EncodeToString(data))
}

func zip(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

func plainJoin() *livekit.JoinRequest {
	return &livekit.JoinRequest{
		ClientInfo:         clientInfo(),
		ConnectionSettings: &livekit.ConnectionSettings{AutoSubscribe: true},
	}
}

// sign makes a token with any claims, also such that no SDK would sign.
func sign(t *testing.T, alg, secret string, claims map[string]any) string {
	t.Helper()
	part := func(v any) string {
		data, err := json.Marshal(v)
		require.NoError(t, err)
		return base64.RawURLEncoding.EncodeToString(data)
	}
	text := part(map[string]string{"alg": alg, "typ": "JWT"}) + "." + part(claims)
	if alg == "none" {
		return text + "."
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// upgrade requests a WebSocket. If it is refused, it returns status and text.
func upgrade(t *testing.T, s *server, pathAndQuery, jwt string) (*signaller, int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	options := &websocket.DialOptions{HTTPHeader: http.Header{}}
	if jwt != "" {
		options.HTTPHeader.Set("Authorization", "Bearer "+jwt)
	}
	conn, res, err := websocket.Dial(ctx, s.ws()+pathAndQuery, options)
	if err != nil {
		require.NotNil(t, res, "%v", err)
		var body bytes.Buffer
		_, _ = body.ReadFrom(res.Body) // the library has kept the first kilobyte
		return nil, res.StatusCode, strings.TrimSpace(body.String())
	}
	conn.SetReadLimit(1 << 22)
	c := &signaller{conn: conn}
	c.wg.Go(func() { c.read() })
	t.Cleanup(func() {
		_ = conn.CloseNow() // the server has often closed it before
		c.wg.Wait()
		if t.Failed() {
			t.Logf("signals: %s; end: %v", strings.Join(c.kinds(), ", "), c.end())
		}
	})
	return c, res.StatusCode, ""
}

// dial opens a WebSocket, and fails if it is refused.
func dial(t *testing.T, s *server, pathAndQuery, jwt string) *signaller {
	t.Helper()
	c, status, body := upgrade(t, s, pathAndQuery, jwt)
	require.NotNil(t, c, "refused with %d %s", status, body)
	return c
}

// dialLegacy and dialSingle join an ordinary participant.
func dialLegacy(t *testing.T, room, identity string) *signaller {
	t.Helper()
	return dial(t, env.server, "/rtc?"+legacyQuery(), token(t, identity, join(room)))
}

func dialSingle(t *testing.T, room, identity string) *signaller {
	t.Helper()
	return dial(t, env.server, "/rtc/v1?"+joinQuery(t, plainJoin(), false), token(t, identity, join(room)))
}

// read records messages until the connection ends.
func (c *signaller) read() {
	for {
		kind, data, err := c.conn.Read(context.Background())
		var m livekit.SignalResponse
		switch {
		case err != nil:
		case kind == websocket.MessageText:
			err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, &m)
		default:
			err = proto.Unmarshal(data, &m)
		}
		c.mu.Lock()
		if err != nil {
			c.closed = err
			c.mu.Unlock()
			return
		}
		c.got = append(c.got, &m)
		c.text = append(c.text, kind == websocket.MessageText)
		c.mu.Unlock()
	}
}

func (c *signaller) messages() []*livekit.SignalResponse {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.got)
}

func (c *signaller) end() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// kinds are the kinds of the messages so far.
func (c *signaller) kinds() []string {
	var kinds []string
	for _, m := range c.messages() {
		kinds = append(kinds, strings.TrimPrefix(fmt.Sprintf("%T", m.Message), "*livekit.SignalResponse_"))
	}
	return kinds
}

// request sends a signal request of any kind.
func (c *signaller) request(t *testing.T, r *livekit.SignalRequest) {
	t.Helper()
	data, err := proto.Marshal(r)
	require.NoError(t, err)
	c.frame(t, websocket.MessageBinary, data)
}

func (c *signaller) frame(t *testing.T, kind websocket.MessageType, data []byte) {
	t.Helper()
	require.NoError(t, c.conn.Write(t.Context(), kind, data))
}

// await returns the first message for which pick returns something.
func await[T any](t *testing.T, c *signaller, what string, pick func(*livekit.SignalResponse) *T) *T {
	t.Helper()
	var found *T
	eventually(t, "a message with "+what, func() bool {
		for _, m := range c.messages() {
			if found = pick(m); found != nil {
				return true
			}
		}
		return false
	})
	return found
}

func (c *signaller) joined(t *testing.T) *livekit.JoinResponse {
	t.Helper()
	j := await(t, c, "the join response", (*livekit.SignalResponse).GetJoin)
	require.IsType(t, &livekit.SignalResponse_Join{}, c.messages()[0].Message, "join comes first")
	return j
}

// awaitLeave waits for the leave, and for the close with code 1000.
func (c *signaller) awaitLeave(t *testing.T) *livekit.LeaveRequest {
	t.Helper()
	leave := await(t, c, "leave", (*livekit.SignalResponse).GetLeave)
	c.awaitClose(t, websocket.StatusNormalClosure)
	return leave
}

func (c *signaller) awaitClose(t *testing.T, code websocket.StatusCode) {
	t.Helper()
	eventually(t, "the connection is closed", func() bool { return c.end() != nil })
	require.Equal(t, code, websocket.CloseStatus(c.end()), "%v", c.end())
}

// alive checks that the connection still works.
func (c *signaller) alive(t *testing.T) {
	t.Helper()
	stamp := time.Now().UnixNano()
	c.request(t, &livekit.SignalRequest{Message: &livekit.SignalRequest_PingReq{PingReq: &livekit.Ping{Timestamp: stamp}}})
	await(t, c, "the answer to a ping", func(m *livekit.SignalResponse) *livekit.Pong {
		if p := m.GetPongResp(); p.GetLastPingTimestamp() == stamp {
			return p
		}
		return nil
	})
}
