package signal

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"math/rand/v2"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func wrap(t testing.TB, c livekit.WrappedJoinRequest_Compression, inner []byte) string {
	t.Helper()
	b, err := proto.Marshal(&livekit.WrappedJoinRequest{Compression: c, JoinRequest: inner})
	require.NoError(t, err)
	return base64.URLEncoding.EncodeToString(b)
}

func zip(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.Bytes()
}

// noise is text that gzip shortens to about a quarter.
func noise(n int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = "0123"[random.IntN(4)]
	}
	return b
}

func TestJoinRequest(t *testing.T) {
	inner, err := proto.Marshal(&livekit.JoinRequest{
		ClientInfo:         &livekit.ClientInfo{Protocol: 17, Sdk: livekit.ClientInfo_GO},
		ConnectionSettings: &livekit.ConnectionSettings{AutoSubscribe: true},
		PublisherOffer:     &livekit.SessionDescription{Type: "offer", Sdp: "v=0", Id: 3},
	})
	require.NoError(t, err)
	for _, wrapped := range []string{
		wrap(t, livekit.WrappedJoinRequest_NONE, inner),
		wrap(t, livekit.WrappedJoinRequest_GZIP, zip(t, inner)),
	} {
		o, err := newDecoder(nil).parseJoinRequest(t.Context(), wrapped, "192.0.2.1")
		require.NoError(t, err)
		require.True(t, o.singlePC && o.autoSubscribe)
		require.Equal(t, 17, o.protocol)
		require.EqualValues(t, 3, o.offer.Id)
		require.Equal(t, "192.0.2.1", o.client.Address)
	}
}

func TestJoinRequestRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ wrapped, text string }{
		"base64":   {"!", "cannot base64 decode wrapped join request"},
		"protobuf": {base64.URLEncoding.EncodeToString([]byte("\xff\xff")), "cannot unmarshal wrapped join request"},
		"gzip":     {wrap(t, livekit.WrappedJoinRequest_GZIP, []byte("no")), "cannot read decompressed join request"},
		"bomb":     {wrap(t, livekit.WrappedJoinRequest_GZIP, zip(t, make([]byte, maxJoinRequest+1))), "join request is refused: it has more values than are taken here"},
		"too long": {wrap(t, livekit.WrappedJoinRequest_GZIP, zip(t, noise(maxJoinRequest+1))), "join request is too large"},
		"dense":    {wrap(t, livekit.WrappedJoinRequest_NONE, bytes.Repeat([]byte{0x2a, 0}, 64<<10)), "join request is refused: it has more values than are taken here"},
		"inner":    {wrap(t, livekit.WrappedJoinRequest_NONE, []byte("\xff\xff")), "cannot unmarshal join request"},
		"unknown":  {wrap(t, 9, nil), "unknown compression of join request"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newDecoder(nil).parseJoinRequest(t.Context(), tc.wrapped, "")
			ref, ok := asRefusal(err)
			require.True(t, ok, "%v", err)
			require.Equal(t, 400, ref.status)
			require.Equal(t, tc.text, ref.text)
		})
	}
}

func TestQueryDefaults(t *testing.T) {
	o, err := parseQuery(url.Values{}, "", false)
	require.NoError(t, err)
	require.True(t, o.autoSubscribe, "absent means yes")
	o, err = parseQuery(url.Values{"auto_subscribe": {"false"}, "sdk": {"js"}, "protocol": {"17"}}, "", false)
	require.NoError(t, err)
	require.False(t, o.autoSubscribe)
	require.Equal(t, livekit.ClientInfo_JS, o.client.Sdk)
	require.Equal(t, 17, o.protocol)
	bad := url.Values{"attributes": {"not base64!"}}
	_, err = parseQuery(bad, "", true)
	require.Error(t, err)
	_, err = parseQuery(bad, "", false)
	require.NoError(t, err, "the WebSocket ignores what validate refuses")
}

// What a client says of itself is shortened, and its capabilities are told once each, in either form of
// the request.
func TestWhatAClientSaysOfItselfIsBounded(t *testing.T) {
	long := strings.Repeat("ä", 2000)
	q := url.Values{"capabilities": {strings.Repeat("CAP_PACKET_TRAILER,CAP_UNUSED,CAP_NONE,", 1000)}}
	said := &livekit.ClientInfo{Version: "2.23.0"}
	m := said.ProtoReflect()
	texts := 0
	for i := range m.Descriptor().Fields().Len() {
		if field := m.Descriptor().Fields().Get(i); field.Kind() == protoreflect.StringKind && field.Name() != "version" {
			m.Set(field, protoreflect.ValueOfString(long))
			q.Set(string(field.Name()), long)
			texts++
		}
	}
	require.Greater(t, texts, 5)
	for range 500 {
		said.Capabilities = append(said.Capabilities, 7777, livekit.ClientInfo_CAP_PACKET_TRAILER, -1, livekit.ClientInfo_CAP_UNUSED)
	}
	q.Set("version", "2.23.0")
	fromQuery, err := parseQuery(q, "192.0.2.1", false)
	require.NoError(t, err)
	inner, err := proto.Marshal(&livekit.JoinRequest{ClientInfo: said})
	require.NoError(t, err)
	fromJoin, err := newDecoder(nil).parseJoinRequest(t.Context(), wrap(t, livekit.WrappedJoinRequest_GZIP, zip(t, inner)), "192.0.2.1")
	require.NoError(t, err)
	for _, o := range []*options{fromQuery, fromJoin} {
		require.Less(t, proto.Size(o.client), 4000)
		require.Equal(t, "2.23.0", o.client.Version)
		require.Equal(t, "192.0.2.1", o.client.Address)
		require.True(t, strings.HasPrefix(long, strings.TrimSuffix(o.client.DeviceModel, "…")))
		require.Equal(t, []livekit.ClientInfo_Capability{livekit.ClientInfo_CAP_UNUSED, livekit.ClientInfo_CAP_PACKET_TRAILER}, o.client.Capabilities)
		require.Less(t, cap(o.client.Capabilities), 100, "what else was said is not kept")
	}
}

// Capabilities that are newer than the server are told to the other participants, but not any number.
func TestCapabilitiesThatTheServerDoesNotKnow(t *testing.T) {
	c := &livekit.ClientInfo{Capabilities: []livekit.ClientInfo_Capability{900, livekit.ClientInfo_CAP_PACKET_TRAILER, 900, 901}}
	curtail(c)
	require.Equal(t, []livekit.ClientInfo_Capability{livekit.ClientInfo_CAP_PACKET_TRAILER, 900, 901}, c.Capabilities)
	for i := range 100_000 {
		c.Capabilities = append(c.Capabilities, livekit.ClientInfo_Capability(i-1000))
	}
	curtail(c)
	require.Len(t, c.Capabilities, mostCapabilities)
	require.Less(t, cap(c.Capabilities), 100)
}

// A client's setting for pausing takes precedence over the configuration, in either form
// of the request.
func TestWhoDecidesAboutPausing(t *testing.T) {
	yes, no := true, false
	for query, asked := range map[string]*bool{"": nil, "subscriber_allow_pause=1": &yes, "subscriber_allow_pause=0": &no} {
		q, err := url.ParseQuery(query)
		require.NoError(t, err)
		fromQuery, err := parseQuery(q, "", false)
		require.NoError(t, err)
		inner, err := proto.Marshal(&livekit.JoinRequest{ConnectionSettings: &livekit.ConnectionSettings{SubscriberAllowPause: asked}})
		require.NoError(t, err)
		fromJoin, err := newDecoder(nil).parseJoinRequest(t.Context(), wrap(t, livekit.WrappedJoinRequest_NONE, inner), "")
		require.NoError(t, err)
		for _, o := range []*options{fromQuery, fromJoin} {
			for _, configured := range []bool{true, false} {
				want := configured
				if asked != nil {
					want = *asked
				}
				s := &session{opts: o, h: &Handler{cfg: Config{AllowPause: configured}}}
				require.Equal(t, want, s.allowPause(), "%q, configured %v", query, configured)
			}
		}
	}
}

// FuzzConnect: every connect request is either accepted or refused.
func FuzzConnect(f *testing.F) {
	f.Add("auto_subscribe=1&protocol=17&attributes=e30=", false)
	f.Add("join_request="+url.QueryEscape(wrap(f, livekit.WrappedJoinRequest_NONE, nil)), true)
	f.Fuzz(func(t *testing.T, query string, v1 bool) {
		r := httptest.NewRequest("GET", "/rtc", nil)
		r.URL.RawQuery = query
		o, err := newDecoder(nil).parseOptions(r, v1, true)
		if err != nil {
			ref, ok := asRefusal(err)
			require.True(t, ok)
			require.Equal(t, 400, ref.status)
			return
		}
		require.NotNil(t, o.client)
	})
}
