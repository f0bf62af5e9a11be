package media

import (
	"slices"
	"strings"
	"testing"

	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

const offerHead = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1 2 3\r\n" +
	"a=ice-ufrag:u\r\na=ice-pwd:p\r\na=fingerprint:sha-256 AA\r\n"

// sampleOffer has an audio section, a simulcast section, a section with Plan B's
// attributes, one to receive in, and data.
const sampleOffer = offerHead +
	"m=audio 9 UDP/TLS/RTP/SAVPF 111 63 0\r\na=mid:0\r\na=sendonly\r\na=msid:stream mic\r\na=rtpmap:111 opus/48000/2\r\n" +
	"a=fmtp:111 minptime=10\r\na=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\na=ssrc:1 cname:x\r\n" +
	"m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\na=mid:1\r\na=msid:- cam\r\na=rid:q send\r\na=rid:h send\r\na=rid:x recv\r\n" +
	"a=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n" +
	"m=video 0 UDP/TLS/RTP/SAVPF 96\r\na=mid:2\r\na=bundle-only\r\na=sendrecv\r\na=ssrc-group:FID 10 11\r\n" +
	"a=ssrc:10 msid:s old\r\na=ssrc:11 msid:s old\r\na=ssrc:bad cname:x\r\na=rtpmap:96 VP8/90000\r\n" +
	"m=video 0 UDP/TLS/RTP/SAVPF 96\r\na=mid:3\r\na=sendrecv\r\na=rtpmap:96 VP8/90000\r\n" +
	"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:4\r\n"

func TestParseOffer(t *testing.T) {
	s, err := parseOffer(sampleOffer, nil)
	require.NoError(t, err)
	require.Len(t, s, 5)

	require.True(t, s[0].sends)
	require.False(t, s[0].receives)
	require.Equal(t, "mic", s[0].trackID)
	require.Equal(t, []uint32{1}, s[0].ssrcs)
	require.Equal(t, []offeredCodec{
		{111, "audio/opus", 48000, 2, "minptime=10"}, {63, "audio/red", 48000, 2, "111/111"}, {0, "audio/PCMU", 8000, 0, ""},
	}, s[0].codecs)

	require.True(t, s[1].sends && s[1].receives, "both, unless it is said otherwise")
	require.Equal(t, []string{"q", "h"}, s[1].rids)
	require.Equal(t, "-", s[1].streamID)

	require.True(t, s[2].sends, "port 0 means nothing in a section that is bundled only")
	require.Equal(t, "old", s[2].trackID)
	require.Equal(t, []uint32{10}, s[2].ssrcs)
	require.EqualValues(t, 11, s[2].repairs[10])

	require.True(t, s[3].rejected)
	require.False(t, s[3].sends || s[3].receives)
	require.Zero(t, s[4].kind)
}

// A rejected section without a mid gets the mid that its m-line had before. If there was none,
// it gets a mid that no other section has.
func TestMidsOfRejectedSections(t *testing.T) {
	const rejected = "m=video 0 UDP/TLS/RTP/SAVPF 0\r\nc=IN IP4 0.0.0.0\r\n"
	text := offerHead + rejected + "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:2\r\n" + rejected + rejected
	s, err := parseOffer(text, []string{"camera", "2", "screen"})
	require.NoError(t, err)
	require.Equal(t, []string{"camera", "2", "screen", "3"}, mids(s))
	s, err = parseOffer(text, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"0", "2", "6", "3"}, mids(s))
	_, err = parseOffer(offerHead+strings.Repeat("m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:2\r\n", 2), nil)
	require.Error(t, err, "two of one name")
}

func TestShapeAudio(t *testing.T) {
	text := shapeAnswer(sampleOffer, nil)
	require.Equal(t, sampleOffer, text)

	text = shapeAnswer(sampleOffer, map[string]audioShape{"0": {dtx: true, stereo: true, nack: true}, "9": {}})
	require.Contains(t, text, "a=fmtp:111 minptime=10;usedtx=1;stereo=1;maxaveragebitrate=510000\r\n")
	require.Contains(t, text, "a=rtcp-fb:111 nack\r\n")
	require.Contains(t, text, "a=fmtp:63 111/111\r\n")
	again := shapeAnswer(text, map[string]audioShape{"0": {}})
	require.NotContains(t, again, "usedtx")
	require.NotContains(t, again, "stereo")
	// A receiver is told only the parameters of what it will be sent.
	down := shapeAnswer(sampleOffer, map[string]audioShape{"0": {stereo: true, sends: true}})
	require.Contains(t, down, ";sprop-stereo=1\r\n")
	require.NotContains(t, again, "nack")
}

// What is not to be changed of a description stays as it is, line by line, and the mids come
// by m-line.
func TestShapingLeavesTheRestAlone(t *testing.T) {
	require.Equal(t, sampleOffer, joinSections(cutSections(sampleOffer)))
	require.Equal(t, sampleOffer, joinSections(cutSections(strings.ReplaceAll(sampleOffer, "\r\n", "\n"))))
	shaped, named := shapeOffer(sampleOffer, map[string]audioShape{"elsewhere": {stereo: true}}, false)
	require.Equal(t, sampleOffer, shaped)
	sections, err := parseOffer(sampleOffer, nil)
	require.NoError(t, err)
	require.Equal(t, mids(sections), named)

	const idle = "v=0\r\ns=-\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:a\r\na=recvonly\r\n" +
		"m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:b\r\na=sendrecv\r\n"
	shaped, named = shapeOffer(idle, nil, true)
	require.Equal(t, strings.Replace(idle, "a=recvonly\r\n", "a=recvonly\r\na=ssrc:1 cname:idle\r\n", 1), shaped)
	require.Equal(t, []string{"a", "b"}, named)
	shaped, named = shapeOffer("", nil, true)
	require.Empty(t, shaped)
	require.Empty(t, named)
}

func TestPickCodec(t *testing.T) {
	set, err := newCodecSet(nil)
	require.NoError(t, err)
	for _, c := range []struct {
		mime, fmtp string
		want       webrtc.PayloadType
	}{
		{"video/vp8", "", 96},
		{"video/VP9", "", 98},
		{"video/VP9", "profile-id=2", 100},
		{"video/H264", "packetization-mode=1;profile-level-id=42e01f", 125},
		{"video/H264", "packetization-mode=1;profile-level-id=42e034", 125},
		{"video/H264", "profile-level-id=42001f", 104},
		{"video/H264", "packetization-mode=1;profile-level-id=4d001f", 106},
		{"video/AV1", "profile=0;level-idx=5;tier=0", 35},
		{"audio/RED", "", 63},
	} {
		got, ok := pickCodec(forwardCodec(codec(0, c.mime, 0, 0, c.fmtp), nil), append(set.video, set.audio...))
		require.True(t, ok, c.mime)
		require.Equal(t, c.want, got.PayloadType, "%s %s", c.mime, c.fmtp)
	}
	_, ok := pickCodec(forwardCodec(codec(0, "video/VP9", 0, 0, "profile-id=1"), nil), set.video)
	require.False(t, ok)
}

func TestPreferCodecKeepsRepairs(t *testing.T) {
	set, err := newCodecSet([]string{"video/vp8", "video/h264"})
	require.NoError(t, err)
	got := preferCodec(set.video, "video/h264")
	require.Len(t, got, len(set.video))
	require.Equal(t, "video/H264", got[0].MimeType)
	require.Equal(t, "video/VP8", got[len(got)-2].MimeType)
	for _, c := range got {
		if isPrimary(c.MimeType) {
			require.EqualValues(t, c.PayloadType+1, rtxPayloadType(c.PayloadType, got))
		}
	}
}

func TestOffersDownstreamHaveNoHighProfile(t *testing.T) {
	set, err := newCodecSet(nil)
	require.NoError(t, err)
	for _, r := range []role{rolePublisher, roleSubscriber, roleSingle} {
		m, err := set.mediaEngine(r)
		require.NoError(t, err)
		pc, err := webrtc.NewAPI(webrtc.WithMediaEngine(m), webrtc.WithInterceptorRegistry(noInterceptors())).NewPeerConnection(webrtc.Configuration{})
		require.NoError(t, err)
		_, err = pc.AddTransceiverFromKind(webrtc.RTPCodecTypeVideo)
		require.NoError(t, err)
		offer, err := pc.CreateOffer(nil)
		require.NoError(t, err)
		require.Equal(t, r != roleSubscriber, strings.Contains(offer.SDP, "profile-level-id=64"))
		require.Contains(t, offer.SDP, "transport-cc")
		require.Contains(t, offer.SDP, "goog-remb")
		require.NoError(t, pc.Close())
	}
}

// Transports share the lists of feedback: none changes those of others, and each knows all.
func TestFeedbackIsShared(t *testing.T) {
	for _, r := range []role{rolePublisher, roleSubscriber, roleSingle} {
		before := slices.Clone(videoFeedback(r))
		_ = append(videoFeedback(r), webrtc.RTCPFeedback{Type: "mine"})
		_ = append(audioFeedback(mimeOpus, r), webrtc.RTCPFeedback{Type: "mine"})
		require.Same(t, &videoFeedback(r)[0], &videoFeedback(r)[0])
		again := videoFeedback(r)
		require.Equal(t, before, again)
		require.Equal(t, len(again), cap(again))
		require.Equal(t, r != rolePublisher, slices.Contains(again, streamFeedback))
		for _, f := range []webrtc.RTCPFeedback{{Type: "transport-cc"}, streamFeedback} {
			require.Equal(t, r != rolePublisher, slices.Contains(audioFeedback(mimeOpus, r), f))
		}
		require.Equal(t, len(audioFeedback(mimeOpus, r)), cap(audioFeedback(mimeOpus, r)))
		require.NotContains(t, audioFeedback(mimeRED, r), webrtc.RTCPFeedback{Type: "nack"})
		require.Empty(t, audioFeedback("audio/PCMU", r))
	}
}

func FuzzParseOffer(f *testing.F) {
	f.Add(sampleOffer)
	f.Add(offerHead + "m=audio")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		sections, err := parseOffer(text, nil)
		if err != nil {
			return
		}
		mids := map[string]audioShape{}
		for _, s := range sections {
			require.NotEmpty(t, s.mid)
			require.NotContains(t, mids, s.mid)
			mids[s.mid] = audioShape{dtx: true, nack: true, stereo: true}
			require.NotContains(t, s.ssrcs, uint32(0))
		}
		shaped := shapeAnswer(text, mids)
		again, err := parseOffer(shaped, nil)
		require.NoError(t, err)
		require.Len(t, again, len(sections))
	})
}

// Feedback by streams is offered as RFC 8888 has it, for all payload types, and taken where
// a client offers nothing better, in sections in which we alone send.
func TestOneKindOfFeedbackIsChosen(t *testing.T) {
	section := func(direction string, feedback ...string) string {
		text := "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96 98\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\n"
		for _, f := range feedback {
			text += "a=rtcp-fb:" + f + "\r\n"
		}
		return text + "a=" + direction + "\r\n"
	}
	const line = "a=rtcp-fb:* ack ccfb\r\n"
	offer, _ := shapeOffer(section("sendonly", "96 transport-cc", "96 ack ccfb", "98 ack ccfb"), nil, false)
	require.Equal(t, 1, strings.Count(offer, "ccfb"))
	require.Contains(t, offer, line)
	for text, taken := range map[string]bool{
		section("sendonly", "96 ack ccfb", "98 ack ccfb"):                    true,
		section("inactive", "96 ack ccfb"):                                   true,
		section("sendonly", "96 transport-cc", "96 ack ccfb", "98 ack ccfb"): false,
		section("recvonly", "96 ack ccfb"):                                   false,
		section("sendrecv", "96 ack ccfb"):                                   false,
	} {
		answer := shapeAnswer(text, nil)
		require.Equal(t, map[bool]int{true: 1}[taken], strings.Count(answer, "ccfb"), text)
		require.Equal(t, taken, strings.Contains(answer, line), text)
	}
}
