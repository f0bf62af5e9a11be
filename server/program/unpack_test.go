package program

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"parlor/server/config"
)

// costs is how many bytes the program and this test allocate while attack runs. The heap
// grows by no more.
func (h *house) costs(attack func()) float64 {
	h.t.Helper()
	before := h.metric("go_memstats_alloc_bytes_total")
	attack()
	return h.metric("go_memstats_alloc_bytes_total") - before
}

// post sends a body to RoomService, and returns the answer.
func (h *house) post(method, token, kind string, body []byte) (int, string) {
	req, err := http.NewRequestWithContext(h.t.Context(), "POST", h.url+"/twirp/livekit.RoomService/"+method, bytes.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	req.Header.Set("Content-Type", kind)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("Expect", "100-continue") // so that an answer before the end of the body is not lost
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// atOnce runs f n times concurrently.
func atOnce(n int, f func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { f(i) })
	}
	all.Wait()
}

// TestDenseBodiesCostLittle: without a token, ten megabytes of the shortest values are
// refused before they are read; with one, before they are unpacked.
func TestDenseBodiesCostLittle(t *testing.T) {
	const megabyte = 1 << 20
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"), noLimits...)
	witness, _ := h.dial("", issue(t, "--room", "r", "--identity", "witness"))
	require.NotNil(t, witness)
	h.withMedia(witness)
	h.pings(witness)
	const binary, text = "application/protobuf", "application/json"
	agents := bytes.Repeat([]byte{14<<3 | 2, 0}, 5*megabyte)
	require.NoError(t, proto.Unmarshal(agents[:100], &livekit.CreateRoomRequest{}))
	agentsJSON := []byte(`{"agents":[{}` + strings.Repeat(",{}", 3*megabyte) + `]}`)

	cost := h.costs(func() {
		atOnce(6, func(int) {
			for kind, body := range map[string][]byte{binary: agents, text: agentsJSON} {
				status, answer := h.post("CreateRoom", "", kind, body)
				if status != 401 {
					t.Errorf("without a token: %d %s", status, answer)
				}
			}
		})
		h.pings(witness)
	})
	require.Less(t, cost, 40.0*megabyte, "twelve requests without a token")

	may := issue(t, "--create")
	cost = h.costs(func() {
		atOnce(6, func(int) {
			for kind, body := range map[string][]byte{binary: agents, text: agentsJSON} {
				if status, answer := h.post("CreateRoom", may, kind, body); status != 400 || !strings.Contains(answer, "must not be longer than") {
					t.Errorf("longer than a room can need: %d %s", status, answer)
				}
				if status, answer := h.post("CreateRoom", may, kind, append(body[:0:0], body[:600<<10]...)); status != 400 || !strings.Contains(answer, "more values than are taken") {
					t.Errorf("of a length that a room can need: %d %s", status, answer)
				}
			}
		})
		h.pings(witness)
	})
	// Each body of the second kind is read into memory, which doubles as it grows, and
	// not unpacked.
	require.Less(t, cost, 12*20.0*megabyte, "twenty-four requests with a token")

	cost = h.costs(func() {
		atOnce(6, func(int) {
			list := []byte(`{"name":"x","tags":{"a":[{}` + strings.Repeat(",{}", 20<<10) + `]}}`)
			req, err := http.NewRequest("POST", h.url+"/v1/rooms", bytes.NewReader(list))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Content-Type", text)
			req.Header.Set("Authorization", "Bearer "+may)
			resp, err := http.DefaultClient.Do(req)
			if err != nil || resp.StatusCode != 413 {
				t.Errorf("REST: %v %v", err, resp)
				return
			}
			_ = resp.Body.Close()
		})
	})
	require.Less(t, cost, 10.0*megabyte, "six requests of REST")
	require.Equal(t, 12.0, h.metric(`parlor_unpack_refused_total{what="twirp",why="too_long"}`))
	require.Equal(t, 12.0, h.metric(`parlor_unpack_refused_total{what="twirp",why="too_much"}`))
	require.Equal(t, 6.0, h.metric(`parlor_unpack_refused_total{what="rest",why="too_much"}`))
	h.pings(witness)
}

// TestDenseJoinRequestsCostLittle: a kilobyte of gzip is not unpacked to half a million
// tracks, and unpacked requests are measured before they are decoded.
func TestDenseJoinRequestsCostLittle(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"), noLimits...)
	witness, _ := h.dial("", issue(t, "--room", "r", "--identity", "witness"))
	require.NotNil(t, witness)
	h.withMedia(witness)
	join := func(c livekit.WrappedJoinRequest_Compression, inner []byte) string {
		b, err := proto.Marshal(&livekit.WrappedJoinRequest{Compression: c, JoinRequest: inner})
		require.NoError(t, err)
		return base64.URLEncoding.EncodeToString(b)
	}
	zip := func(b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		_, err := w.Write(b)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return out.Bytes()
	}
	tracks := bytes.Repeat([]byte{5<<3 | 2, 0}, 512<<10)
	require.NoError(t, proto.Unmarshal(tracks[:10], &livekit.JoinRequest{}))
	token := issue(t, "--room", "r", "--identity", "dense")
	for name, q := range map[string]string{
		"packed":     join(livekit.WrappedJoinRequest_GZIP, zip(tracks)),
		"barely":     join(livekit.WrappedJoinRequest_GZIP, zip(tracks[:64<<10])),
		"not packed": join(livekit.WrappedJoinRequest_NONE, tracks[:256<<10]),
	} {
		cost := h.costs(func() {
			atOnce(20, func(int) {
				req, err := http.NewRequest("GET", h.url+"/rtc/v1/validate?access_token="+token+"&join_request="+q, nil)
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				answer, _ := io.ReadAll(resp.Body)
				if resp.StatusCode != 400 || !strings.Contains(string(answer), "more values than are taken") {
					t.Errorf("%s: %d %s", name, resp.StatusCode, answer)
				}
			})
			h.pings(witness)
		})
		// The query is copied a few times in memory, but not decoded into tracks.
		require.Less(t, cost, 20*float64(8*len(q)+1<<20), name)
	}
	require.Equal(t, 60.0, h.metric(`parlor_unpack_refused_total{what="join_request",why="too_much"}`))
}

// TestDenseMessagesCostLittle: two megabytes of a client's shortest values are measured
// before they are unpacked, whatever kind of message they claim to be, and the client is
// told why it is disconnected.
func TestDenseMessagesCostLittle(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"), noLimits...)
	witness, _ := h.dial("", issue(t, "--room", "r", "--identity", "witness"))
	require.NotNil(t, witness)
	h.withMedia(witness)
	nested := func(field byte, inner []byte) []byte {
		m, err := proto.Marshal(&livekit.SignalRequest{Message: &livekit.SignalRequest_SyncState{SyncState: &livekit.SyncState{}}})
		require.NoError(t, err)
		require.Equal(t, byte(0), m[len(m)-1])
		b := m[:len(m)-1]
		for n := len(inner); ; n >>= 7 { // the length in protobuf's encoding
			if n < 0x80 {
				b = append(b, byte(n))
				break
			}
			b = append(b, byte(n)|0x80)
		}
		_ = field
		return append(b, inner...)
	}
	published := nested(0, bytes.Repeat([]byte{3<<3 | 2, 0}, 1<<20-100)) // publish_tracks of sync_state
	require.NoError(t, proto.Unmarshal(nested(0, published[len(published)-10:]), &livekit.SignalRequest{}))
	sections := &livekit.SignalRequest{Message: &livekit.SignalRequest_Offer{Offer: &livekit.SessionDescription{
		Type: "offer", Sdp: "v=0\r\n" + strings.Repeat("m=a 9 b 0\r\n", 90_000),
	}}}
	offer, err := proto.Marshal(sections)
	require.NoError(t, err)
	for name, f := range map[string]struct {
		kind  websocket.MessageType
		frame []byte
	}{
		"sync_state": {websocket.MessageBinary, published},
		"JSON":       {websocket.MessageText, []byte(`{"syncState":{"publishTracks":[{}` + strings.Repeat(",{}", 600_000) + `]}}`)},
		"SDP":        {websocket.MessageBinary, offer},
	} {
		cost := h.costs(func() {
			atOnce(8, func(i int) {
				conn, _ := h.dial("", issue(t, "--room", "r", "--identity", fmt.Sprint(name, i)))
				if conn == nil {
					t.Errorf("%s: not let in", name)
					return
				}
				if err := conn.Write(t.Context(), f.kind, f.frame); err != nil {
					t.Error(err)
					return
				}
				for {
					if _, _, err := conn.Read(t.Context()); err != nil {
						if websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
							t.Errorf("%s: %v", name, err)
						}
						return
					}
				}
			})
			h.pings(witness)
		})
		// A frame is read into memory that doubles as it grows, and joins cost something
		// too.
		require.Less(t, cost, 8*16.0*(1<<20), name)
	}
	require.Equal(t, 24.0, h.metric(`parlor_unpack_refused_total{what="signal",why="too_much"}`))
	h.pings(witness)
}

// TestEveryRequestThatWaitsIsAnswered: a request that Parlor does not support is refused
// at once, with the client's request id.
func TestEveryRequestThatWaitsIsAnswered(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"))
	conn, _ := h.dial("", issue(t, "--room", "r", "--identity", "ada"))
	require.NotNil(t, conn)
	for _, req := range []*livekit.SignalRequest{
		{Message: &livekit.SignalRequest_StoreDataBlobRequest{StoreDataBlobRequest: &livekit.StoreDataBlobRequest{RequestId: 7}}},
		{Message: &livekit.SignalRequest_GetDataBlobRequest{GetDataBlobRequest: &livekit.GetDataBlobRequest{RequestId: 8}}},
	} {
		require.NoError(t, send(t.Context(), conn, req))
		var got *livekit.RequestResponse
		for got == nil {
			m, err := receive(t.Context(), conn)
			require.NoError(t, err)
			got = m.GetRequestResponse()
		}
		require.Equal(t, livekit.RequestResponse_NOT_ALLOWED, got.Reason)
		require.NotEmpty(t, got.Message)
		switch {
		case req.GetStoreDataBlobRequest() != nil:
			require.EqualValues(t, 7, got.RequestId)
		default:
			require.EqualValues(t, 8, got.RequestId)
		}
	}
	long := &livekit.SignalRequest{Message: &livekit.SignalRequest_StoreDataBlobRequest{StoreDataBlobRequest: &livekit.StoreDataBlobRequest{
		RequestId: 9, Blob: &livekit.DataBlob{Contents: make([]byte, 100<<10)},
	}}}
	require.NoError(t, send(t.Context(), conn, long))
	h.await(conn, func(m *livekit.SignalResponse) string {
		if r := m.GetRequestResponse(); r.GetRequestId() == 9 {
			require.Equal(t, livekit.RequestResponse_LIMIT_EXCEEDED, r.Reason)
			return r.Message
		}
		return ""
	})
	h.pings(conn)
}

// TestDataBlobsOverTheWire are stored and fetched, and are there after a restart.
func TestDataBlobsOverTheWire(t *testing.T) {
	path := filepath.Join(t.TempDir(), "parlor.db")
	on := []config.Setting{{Path: "enable_participant_data_blob", Value: "true", From: "test"}, {Path: "limit.max_data_blobs_size", Value: "1000", From: "test"}}
	key := &livekit.DataBlobKey{Key: &livekit.DataBlobKey_Generic{Generic: "plan"}}
	store := func(n uint32, contents []byte) *livekit.SignalRequest {
		return &livekit.SignalRequest{Message: &livekit.SignalRequest_StoreDataBlobRequest{StoreDataBlobRequest: &livekit.StoreDataBlobRequest{
			RequestId: n, Blob: &livekit.DataBlob{Key: key, Contents: contents},
		}}}
	}
	h := start(t, path, on...)
	ada := issue(t, "--room", "r", "--identity", "ada")
	conn, _ := h.dial("", ada)
	require.NotNil(t, conn)
	require.NoError(t, send(t.Context(), conn, store(1, []byte("of the house"))))
	h.await(conn, func(m *livekit.SignalResponse) string {
		if r := m.GetStoreDataBlobResponse(); r.GetRequestId() == 1 {
			return r.Key.GetGeneric()
		}
		return ""
	})
	require.NoError(t, send(t.Context(), conn, store(2, make([]byte, 1000))))
	h.await(conn, func(m *livekit.SignalResponse) string {
		if r := m.GetRequestResponse(); r.GetRequestId() == 2 {
			require.Equal(t, livekit.RequestResponse_LIMIT_EXCEEDED, r.Reason)
			return r.Message
		}
		return ""
	})
	require.EqualValues(t, 1, h.metric(`parlor_data_blob_refused_total{why="limit"}`))
	require.NoError(t, h.stop())

	h = start(t, path, on...)
	conn, _ = h.dial("", issue(t, "--room", "r", "--identity", "bob"))
	require.NotNil(t, conn)
	require.NoError(t, send(t.Context(), conn, &livekit.SignalRequest{Message: &livekit.SignalRequest_GetDataBlobRequest{
		GetDataBlobRequest: &livekit.GetDataBlobRequest{RequestId: 3, ParticipantIdentity: "ada", Key: key},
	}}))
	h.await(conn, func(m *livekit.SignalResponse) string {
		if r := m.GetGetDataBlobResponse(); r.GetRequestId() == 3 {
			require.Equal(t, "of the house", string(r.Blob.Contents))
			return "got"
		}
		return ""
	})
}
