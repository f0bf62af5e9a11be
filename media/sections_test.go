package media

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

// offerOf is pion's offer for that many sections of each kind that we send.
func offerOf(tb testing.TB, sections int) (string, map[string]audioShape) {
	tb.Helper()
	set, err := newCodecSet(nil)
	require.NoError(tb, err)
	m, err := set.mediaEngine(roleSubscriber)
	require.NoError(tb, err)
	pc, err := webrtc.NewAPI(webrtc.WithMediaEngine(m), webrtc.WithInterceptorRegistry(noInterceptors())).NewPeerConnection(webrtc.Configuration{})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, pc.Close()) })
	shapes := map[string]audioShape{}
	for i := range sections {
		for _, kind := range []webrtc.RTPCodecType{webrtc.RTPCodecTypeAudio, webrtc.RTPCodecTypeVideo} {
			_, err := pc.AddTransceiverFromKind(kind)
			require.NoError(tb, err)
		}
		shapes[fmt.Sprint(2*i)] = audioShape{nack: true, sends: true}
	}
	offer, err := pc.CreateOffer(nil)
	require.NoError(tb, err)
	return offer.SDP, shapes
}

// subscribing is a transport for our offers, and the connection of its client.
type subscribing struct {
	t      *transport
	client *webrtc.PeerConnection
}

func newSubscribing(tb testing.TB) *subscribing {
	tb.Helper()
	connect := func(codecs ...string) *webrtc.PeerConnection {
		set, err := newCodecSet(codecs)
		require.NoError(tb, err)
		m, err := set.mediaEngine(roleSubscriber)
		require.NoError(tb, err)
		pc, err := webrtc.NewAPI(webrtc.WithMediaEngine(m), webrtc.WithInterceptorRegistry(noInterceptors())).NewPeerConnection(webrtc.Configuration{})
		require.NoError(tb, err)
		tb.Cleanup(func() { require.NoError(tb, pc.Close()) })
		return pc
	}
	return &subscribing{
		t:      &transport{pc: connect(), clientCodecs: map[webrtc.RTPCodecType][]webrtc.RTPCodecParameters{}},
		client: connect("audio/opus", "audio/red", "video/vp8", "video/h264"),
	}
}

// negotiate offers one section more of each kind, and returns the client's answer.
func (s *subscribing) negotiate(tb testing.TB) string {
	tb.Helper()
	for _, mime := range []string{mimeOpus, webrtc.MimeTypeVP8} {
		track, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: mime}, "track", "stream")
		require.NoError(tb, err)
		_, err = s.t.pc.AddTrack(track)
		require.NoError(tb, err)
	}
	offer, err := s.t.pc.CreateOffer(nil)
	require.NoError(tb, err)
	require.NoError(tb, s.t.pc.SetLocalDescription(offer))
	require.NoError(tb, s.client.SetRemoteDescription(offer))
	answer, err := s.client.CreateAnswer(nil)
	require.NoError(tb, err)
	require.NoError(tb, s.client.SetLocalDescription(answer))
	return answer.SDP
}

// codecs are those that were negotiated, of each sender.
func (s *subscribing) codecs() (all [][]webrtc.RTPCodecParameters) {
	for _, sender := range s.t.pc.GetSenders() {
		all = append(all, sender.GetParameters().Codecs)
	}
	return all
}

// Pion negotiates the same codecs with answers of which it reads each codec once, and is
// given less.
func TestAnswersWithoutKnownCodecs(t *testing.T) {
	full, brief := newSubscribing(t), newSubscribing(t)
	for range 4 {
		answer := full.negotiate(t)
		require.NoError(t, full.t.describe(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: answer}))
		require.NoError(t, brief.t.takeIn(brief.negotiate(t)))
		require.Equal(t, sorted(full.codecs()), sorted(brief.codecs()))
	}
	require.Len(t, full.codecs(), 8)
	require.NotEmpty(t, full.codecs()[7])
	require.Less(t, 2*len(brief.t.pc.CurrentRemoteDescription().SDP), len(full.t.pc.CurrentRemoteDescription().SDP))
}

// A client may name a codec in a later section that it did not name before.
func TestAnswersWithAnotherCodecLater(t *testing.T) {
	s := newSubscribing(t)
	answer := s.negotiate(t)
	sections := cutSections(answer)
	sections[1] = sections[1].withFirstCodec() // of audio
	require.NoError(t, s.t.takeIn(joinSections(sections)))
	require.Len(t, s.codecs()[0], 1)
	require.NoError(t, s.t.takeIn(s.negotiate(t)))
	require.Len(t, s.codecs()[0], 2, "Opus and RED")
}

// sorted describes codecs, in an order that does not depend on pion's, which differs from
// answer to answer for RTX.
func sorted(all [][]webrtc.RTPCodecParameters) (out [][]string) {
	for _, list := range all {
		var codecs []string
		for _, c := range list {
			codecs = append(codecs, fmt.Sprint(c.PayloadType, c.MimeType, c.ClockRate, c.Channels, c.SDPFmtpLine, c.RTCPFeedback))
		}
		slices.Sort(codecs)
		out = append(out, codecs)
	}
	return out
}

func TestFirstCodecOfASection(t *testing.T) {
	section := func(lines ...string) textSection { return lines }
	for _, c := range []struct{ whole, first textSection }{
		{
			section("m=audio 9 UDP/TLS/RTP/SAVPF 111 63", "a=mid:0", "a=rtpmap:111 opus/48000/2", "a=rtcp-fb:111 nack", "a=rtpmap:63 red/48000/2", "a=fmtp:63 111/111", "a=rtcp-fb:* ack ccfb"),
			section("m=audio 9 UDP/TLS/RTP/SAVPF 111", "a=mid:0", "a=rtpmap:111 opus/48000/2", "a=rtcp-fb:111 nack", "a=rtcp-fb:* ack ccfb"),
		},
		{section("m=audio 9 UDP/TLS/RTP/SAVPF 0 8", "a=mid:0"), section("m=audio 9 UDP/TLS/RTP/SAVPF 0 8", "a=mid:0")},
		{section("m=video 9 UDP/TLS/RTP/SAVPF 97 96", "a=rtpmap:97 rtx/90000", "a=rtpmap:96 VP8/90000"), section("m=video 9 UDP/TLS/RTP/SAVPF 97 96", "a=rtpmap:97 rtx/90000", "a=rtpmap:96 VP8/90000")},
		{section("m=audio"), section("m=audio")},
	} {
		before := slices.Clone(c.whole)
		require.Equal(t, c.first, c.whole.withFirstCodec())
		require.Equal(t, before, c.whole, "it is not changed")
	}
	audio := section("m=audio 9 UDP/TLS/RTP/SAVPF 111", "a=mid:0", "a=rtpmap:111 opus/48000/2")
	require.Equal(t, audio.codecList(), section("m=audio 7 UDP/TLS/RTP/SAVPF 111", "a=mid:5", "a=rtpmap:111 opus/48000/2", "a=sendrecv").codecList())
	require.NotEqual(t, audio.codecList(), section("m=audio 9 UDP/TLS/RTP/SAVPF 111", "a=rtpmap:111 opus/48000").codecList())
	require.Zero(t, section("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=mid:0").codecList())
}

// What a bundle's sections say about the transport is read in the first of them alone.
func TestWithoutTransport(t *testing.T) {
	const group = "v=0\r\na=group:BUNDLE 1 2\r\na=ice-options:trickle\r\n"
	const data = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=ice-ufrag:a\r\n"
	const shared = "c=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\na=ice-ufrag:a\r\na=ice-pwd:b\r\na=ice-options:trickle\r\na=fingerprint:sha-256 00\r\n" +
		"a=setup:active\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\na=end-of-candidates\r\na=rtcp-mux\r\na=rtcp-rsize\r\n"
	const kept = "a=extmap:1 urn:a\r\na=recvonly\r\na=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack\r\na=ssrc:1 cname:a\r\n"
	const first, second = "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:1\r\n", "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:2\r\n"
	short := func(text string) string { return joinSections(withoutTransport(cutSections(text))) }
	require.Equal(t, group+"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:0\r\n"+first+shared+kept+second+kept,
		short(group+data+first+shared+kept+second+shared+kept))
	lacking := func(name string) string {
		tagged := strings.ReplaceAll(first+shared, "a="+name+":", "a=x-"+name+":")
		return group + tagged + kept + second + shared + kept
	}
	for _, whole := range []string{
		"v=0\r\n" + first + shared + kept + second + shared + kept,
		"", "v=0\r\na=group:BUNDLE \r\n" + first + shared, "v=0\r\na=group:BUNDLE\r\n" + first + shared,
		"v=0\r\na=group:BUNDLE 7 1 2\r\n" + first + shared + second + shared,
		"v=0\r\na=group:LS 1 2\r\na=group:BUNDLE 1 2\r\n" + first + shared + second + shared,
		lacking("ice-ufrag"), lacking("ice-pwd"), lacking("fingerprint"), lacking("setup"),
	} {
		require.Equal(t, whole, short(whole))
	}
}

func BenchmarkTakeAnswer(b *testing.B) {
	s := newSubscribing(b)
	for range 10 {
		require.NoError(b, s.t.takeIn(s.negotiate(b)))
	}
	offer, err := s.t.pc.CreateOffer(nil)
	require.NoError(b, err)
	require.NoError(b, s.client.SetRemoteDescription(offer))
	answer, err := s.client.CreateAnswer(nil)
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		offer, err := s.t.pc.CreateOffer(nil)
		require.NoError(b, err)
		require.NoError(b, s.t.pc.SetLocalDescription(offer))
		b.StartTimer()
		require.NoError(b, s.t.takeIn(answer.SDP))
	}
}

func BenchmarkShapeOffer(b *testing.B) {
	text, shapes := offerOf(b, 10)
	b.ReportAllocs()
	for b.Loop() {
		shapeOffer(text, shapes, true)
	}
}
