package media

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pion/webrtc/v4"

	"parlor/media/forward"
	"parlor/rooms"
)

const (
	mimeOpus = "audio/opus"
	mimeRED  = "audio/red"
	mimeRTX  = "video/rtx"
	mimeH264 = "video/H264"
	mimeVP9  = "video/VP9"
	mimeAV1  = "video/AV1"
)

// The header extensions that we negotiate.
const (
	uriMID                = "urn:ietf:params:rtp-hdrext:sdes:mid"
	uriRID                = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"
	uriRepairedRID        = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id"
	uriAudioLevel         = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"
	uriAbsSendTime        = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
	uriAbsCaptureTime     = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time"
	uriTransportCC        = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
	uriFrameMarking       = "http://tools.ietf.org/html/draft-ietf-avtext-framemarking-07"
	uriDependencyDescr    = "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"
	uriPlayoutDelay       = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"
	uriVideoOrientation   = "urn:3gpp:video-orientation"
	opusFmtp              = "minptime=10;useinbandfec=1"
	stereoMaxBitrate      = "510000"
	h264ConstrainedPrefix = "level-asymmetry-allowed=1;packetization-mode="
)

// role is the purpose of a transport. It decides codecs and header extensions.
type role int

const (
	rolePublisher  role = iota // the client offers what it publishes
	roleSubscriber             // we offer what it subscribes to
	roleSingle                 // the client offers both
)

// codecSet is the codecs of this server, with the payload types of our own offers. It
// does not change once made.
type codecSet struct {
	audio, video []webrtc.RTPCodecParameters // without RTCP feedback; in video, each codec is followed by its RTX
}

// newCodecSet keeps the codecs whose mime types are enabled; an empty list enables all.
func newCodecSet(enabled []string) (codecSet, error) {
	var s codecSet
	keep := func(mime string) bool {
		return len(enabled) == 0 || slices.ContainsFunc(enabled, func(e string) bool { return strings.EqualFold(e, mime) })
	}
	audio := []webrtc.RTPCodecParameters{
		codec(111, mimeOpus, 48000, 2, opusFmtp),
		codec(63, mimeRED, 48000, 2, "111/111"),
		codec(0, webrtc.MimeTypePCMU, 8000, 0, ""),
		codec(8, webrtc.MimeTypePCMA, 8000, 0, ""),
	}
	for _, c := range audio {
		if keep(c.MimeType) {
			s.audio = append(s.audio, c)
		}
	}
	video := []webrtc.RTPCodecParameters{
		codec(96, webrtc.MimeTypeVP8, 90000, 0, ""),
		codec(98, mimeVP9, 90000, 0, "profile-id=0"),
		codec(100, mimeVP9, 90000, 0, "profile-id=2"),
		codec(125, mimeH264, 90000, 0, h264ConstrainedPrefix+"1;profile-level-id=42e01f"),
		codec(108, mimeH264, 90000, 0, h264ConstrainedPrefix+"0;profile-level-id=42e01f"),
		codec(102, mimeH264, 90000, 0, h264ConstrainedPrefix+"1;profile-level-id=42001f"),
		codec(104, mimeH264, 90000, 0, h264ConstrainedPrefix+"0;profile-level-id=42001f"),
		codec(106, mimeH264, 90000, 0, h264ConstrainedPrefix+"1;profile-level-id=4d001f"),
		codec(39, mimeH264, 90000, 0, h264ConstrainedPrefix+"0;profile-level-id=4d001f"),
		codec(123, mimeH264, 90000, 0, h264ConstrainedPrefix+"1;profile-level-id=640032"),
		codec(35, mimeAV1, 90000, 0, ""),
		codec(116, webrtc.MimeTypeH265, 90000, 0, ""),
	}
	for _, c := range video {
		if keep(c.MimeType) {
			s.video = append(s.video, c, codec(c.PayloadType+1, mimeRTX, 90000, 0, fmt.Sprintf("apt=%d", c.PayloadType)))
		}
	}
	if len(s.audio) == 0 && len(s.video) == 0 {
		return s, fmt.Errorf("none of the enabled codecs %v is known", enabled)
	}
	return s, nil
}

func codec(pt webrtc.PayloadType, mime string, rate uint32, channels uint16, fmtp string) webrtc.RTPCodecParameters {
	return webrtc.RTPCodecParameters{
		PayloadType: pt,
		RTPCodecCapability: webrtc.RTPCodecCapability{
			MimeType: mime, ClockRate: rate, Channels: channels, SDPFmtpLine: fmtp,
		},
	}
}

// isHighH264 reports whether a codec is H.264 in High profile. Browsers may decode this
// profile but rarely negotiate it, so it is never offered downstream.
func isHighH264(c webrtc.RTPCodecParameters) bool {
	return strings.EqualFold(c.MimeType, mimeH264) && strings.HasPrefix(fmtpParameter(c.SDPFmtpLine, "profile-level-id"), "64")
}

// without is s less the codecs of those mime types; s itself if there are none.
func (s codecSet) without(mimes []string) codecSet {
	if len(mimes) == 0 {
		return s
	}
	names := func(mime string) bool {
		return slices.ContainsFunc(mimes, func(m string) bool { return strings.EqualFold(m, mime) })
	}
	var kept codecSet
	for _, c := range s.audio {
		if !names(c.MimeType) {
			kept.audio = append(kept.audio, c)
		}
	}
	for i := 0; i+1 < len(s.video); i += 2 {
		if !names(s.video[i].MimeType) {
			kept.video = append(kept.video, s.video[i], s.video[i+1]) // with its RTX
		}
	}
	return kept
}

// publishable is codecs less those that the client may not publish, and less their RTX. On
// a transport for both directions the media engine has them, since the client may be sent
// them.
func (p *Peer) publishable(codecs []webrtc.RTPCodecParameters) []webrtc.RTPCodecParameters {
	var not []string // payload types
	for _, c := range codecs {
		if slices.ContainsFunc(p.cfg.DisabledPublishCodecs, func(m string) bool { return strings.EqualFold(m, c.MimeType) }) {
			not = append(not, fmt.Sprint(c.PayloadType))
		}
	}
	return slices.DeleteFunc(codecs, func(c webrtc.RTPCodecParameters) bool {
		return slices.Contains(not, fmt.Sprint(c.PayloadType)) ||
			strings.EqualFold(c.MimeType, mimeRTX) && slices.Contains(not, fmtpParameter(c.SDPFmtpLine, "apt"))
	})
}

// mediaEngine registers the codecs and header extensions of one transport.
func (s codecSet) mediaEngine(r role) (*webrtc.MediaEngine, error) {
	m := &webrtc.MediaEngine{}
	for _, c := range s.audio {
		c.RTCPFeedback = audioFeedback(c.MimeType, r)
		if err := m.RegisterCodec(c, webrtc.RTPCodecTypeAudio); err != nil {
			return nil, fmt.Errorf("register %s: %w", c.MimeType, err)
		}
	}
	skip := webrtc.PayloadType(0) // the RTX of a skipped codec
	for _, c := range s.video {
		if r == roleSubscriber && isHighH264(c) {
			skip = c.PayloadType + 1
			continue
		}
		if skip != 0 && c.PayloadType == skip {
			continue
		}
		if c.MimeType != mimeRTX {
			c.RTCPFeedback = videoFeedback(r)
		}
		if err := m.RegisterCodec(c, webrtc.RTPCodecTypeVideo); err != nil {
			return nil, fmt.Errorf("register %s: %w", c.MimeType, err)
		}
	}
	return m, registerExtensions(m, r)
}

// The feedback that we take and give, by codec. All transports share these lists, which are
// never changed: they are clipped, so that what pion appends comes into none of them.
var (
	opusFeedback = []webrtc.RTCPFeedback{{Type: "nack"}, {Type: "transport-cc"}, streamFeedback}
	redFeedback  = opusFeedback[1:]
	// upFeedback is for video that clients send us alone, downFeedback for what we send too.
	upFeedback = []webrtc.RTCPFeedback{
		{Type: "ccm", Parameter: "fir"}, {Type: "nack"}, {Type: "nack", Parameter: "pli"}, {Type: "transport-cc"}, remb,
	}
	downFeedback = slices.Concat(upFeedback, []webrtc.RTCPFeedback{streamFeedback})
)

// audioFeedback is what we take of sound. Clients that only publish on a transport do not number
// theirs: their estimate is for their pictures.
func audioFeedback(mime string, r role) []webrtc.RTCPFeedback {
	switch {
	case mime == mimeOpus && r == rolePublisher:
		return slices.Clip(opusFeedback[:1])
	case mime == mimeOpus:
		return slices.Clip(opusFeedback)
	case mime == mimeRED && r != rolePublisher:
		return slices.Clip(redFeedback)
	}
	return nil
}

func videoFeedback(r role) []webrtc.RTCPFeedback {
	if r == rolePublisher {
		return slices.Clip(upFeedback)
	}
	return slices.Clip(downFeedback)
}

// remb is the receiver's estimate of the bandwidth (REMB). Publishers get it that offer nothing
// better; see withoutEstimate.
var remb = webrtc.RTCPFeedback{Type: "goog-remb"}

// streamFeedback is congestion control feedback by streams (RFC 8888).
var streamFeedback = webrtc.RTCPFeedback{Type: "ack", Parameter: "ccfb"}

func registerExtensions(m *webrtc.MediaEngine, r role) error {
	const audio, video = webrtc.RTPCodecTypeAudio, webrtc.RTPCodecTypeVideo
	const up, down = webrtc.RTPTransceiverDirectionRecvonly, webrtc.RTPTransceiverDirectionSendonly
	type extension struct {
		uri        string
		kinds      []webrtc.RTPCodecType
		directions []webrtc.RTPTransceiverDirection
	}
	both := []webrtc.RTPCodecType{audio, video}
	ups := []webrtc.RTPTransceiverDirection{up}
	downs := []webrtc.RTPTransceiverDirection{down}
	upDown := []webrtc.RTPTransceiverDirection{up, down}
	var list []extension
	switch r {
	case roleSubscriber:
		list = []extension{
			{uriAbsCaptureTime, both, downs},
			{uriDependencyDescr, []webrtc.RTPCodecType{video}, downs},
			{uriAbsSendTime, []webrtc.RTPCodecType{video}, downs},
			{uriTransportCC, both, downs},
			{uriPlayoutDelay, []webrtc.RTPCodecType{video}, downs},
		}
	default:
		// Clients number their sound only where ours is, too.
		transportCC, numbered := ups, []webrtc.RTPCodecType{video}
		if r == roleSingle {
			transportCC, numbered = upDown, both
		}
		list = []extension{
			{uriMID, both, ups},
			{uriRID, both, ups},
			{uriRepairedRID, []webrtc.RTPCodecType{video}, ups},
			{uriAudioLevel, []webrtc.RTPCodecType{audio}, ups},
			{uriTransportCC, numbered, transportCC},
			{uriFrameMarking, []webrtc.RTPCodecType{video}, ups},
			{uriAbsCaptureTime, both, upDown},
			{uriDependencyDescr, []webrtc.RTPCodecType{video}, upDown},
		}
		if r == roleSingle {
			// The first answer for a section is sent before media flows in the section,
			// and clients do not offer again an extension that was refused then. So both
			// extensions are accepted for both directions.
			list = append(list,
				extension{uriAbsSendTime, []webrtc.RTPCodecType{video}, upDown},
				extension{uriPlayoutDelay, []webrtc.RTPCodecType{video}, upDown})
		} else {
			list = append(list, extension{uriAbsSendTime, []webrtc.RTPCodecType{video}, ups})
		}
	}
	for _, e := range list {
		for _, kind := range e.kinds {
			if err := m.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: e.uri}, kind, e.directions...); err != nil {
				return fmt.Errorf("register header extension %s: %w", e.uri, err)
			}
		}
	}
	return nil
}

// extensionIDs sorts negotiated header extensions by URI.
func extensionIDs(list []webrtc.RTPHeaderExtensionParameter) forward.Extensions {
	var e forward.Extensions
	for _, x := range list {
		id := uint8(min(max(x.ID, 0), 255))
		switch x.URI {
		case uriMID:
			e.MID = id
		case uriRID:
			e.RID = id
		case uriRepairedRID:
			e.RepairedRID = id
		case uriAudioLevel:
			e.AudioLevel = id
		case uriAbsSendTime:
			e.AbsSendTime = id
		case uriAbsCaptureTime:
			e.AbsCaptureTime = id
		case uriTransportCC:
			e.TransportCC = id
		case uriFrameMarking:
			e.FrameMarking = id
		case uriDependencyDescr:
			e.DependencyDescriptor = id
		case uriPlayoutDelay:
			e.PlayoutDelay = id
		case uriVideoOrientation:
			e.VideoOrientation = id
		}
	}
	return e
}

// fmtpParameter is the value of one format parameter in lower case; "" if it is absent.
func fmtpParameter(fmtp, name string) string {
	for part := range strings.SplitSeq(fmtp, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if strings.EqualFold(key, name) {
			return strings.ToLower(value)
		}
	}
	return ""
}

// isPrimary reports whether a codec carries media itself, and does not merely repair or
// accompany another codec.
func isPrimary(mime string) bool {
	switch strings.ToLower(mime) {
	case "video/rtx", "video/ulpfec", "video/flexfec-03", "video/red", "audio/telephone-event", "audio/cn":
		return false
	}
	return true
}

// pickCodec finds, among the negotiated codecs, the best match for want: it has the same
// mime type, and the same profile if there is a choice.
func pickCodec(want forward.Codec, negotiated []webrtc.RTPCodecParameters) (webrtc.RTPCodecParameters, bool) {
	best, score := webrtc.RTPCodecParameters{}, 0
	for _, c := range negotiated {
		if s := profileMatch(want.MimeType, want.Fmtp, c.MimeType, c.SDPFmtpLine); s > score {
			best, score = c, s
		}
	}
	return best, score > 0
}

// profileMatch is 0 if the codecs differ, and grows with their likeness.
func profileMatch(mimeA, fmtpA, mimeB, fmtpB string) int {
	if !strings.EqualFold(mimeA, mimeB) {
		return 0
	}
	same := func(name, byDefault string) bool {
		a, b := fmtpParameter(fmtpA, name), fmtpParameter(fmtpB, name)
		if a == "" {
			a = byDefault
		}
		if b == "" {
			b = byDefault
		}
		return a == b
	}
	score := 1
	switch strings.ToLower(mimeA) {
	case "video/h264":
		if same("packetization-mode", "0") {
			score += 2
		}
		a, b := fmtpParameter(fmtpA, "profile-level-id"), fmtpParameter(fmtpB, "profile-level-id")
		if len(a) >= 4 && len(b) >= 4 && a[:4] == b[:4] {
			score++
		}
	case "video/vp9":
		if !same("profile-id", "0") {
			return 0
		}
	case "video/av1":
		if !same("profile", "0") {
			return 0
		}
	}
	return score
}

// rtxPayloadType is the payload type that retransmits packets of pt; 0 if there is none.
func rtxPayloadType(pt webrtc.PayloadType, codecs []webrtc.RTPCodecParameters) uint8 {
	apt := fmt.Sprint(pt)
	for _, c := range codecs {
		if strings.EqualFold(c.MimeType, mimeRTX) && fmtpParameter(c.SDPFmtpLine, "apt") == apt {
			return uint8(c.PayloadType)
		}
	}
	return 0
}

// canonicalMime spells a mime type as LiveKit's clients do.
func canonicalMime(mime string) string {
	for _, known := range rooms.Codecs() {
		if strings.EqualFold(mime, known) {
			return known
		}
	}
	return mime
}

func forwardCodec(c webrtc.RTPCodecParameters, all []webrtc.RTPCodecParameters) forward.Codec {
	return forward.Codec{
		MimeType: canonicalMime(c.MimeType), ClockRate: c.ClockRate, Channels: c.Channels, Fmtp: c.SDPFmtpLine,
		PayloadType: uint8(c.PayloadType), RTXPayloadType: rtxPayloadType(c.PayloadType, all),
	}
}

// preferCodec orders codecs so that those with mime type want come first. Each keeps its
// RTX behind it.
func preferCodec(codecs []webrtc.RTPCodecParameters, want string) []webrtc.RTPCodecParameters {
	out := make([]webrtc.RTPCodecParameters, 0, len(codecs))
	var rest []webrtc.RTPCodecParameters
	taken := map[string]bool{}
	for _, c := range codecs {
		if strings.EqualFold(c.MimeType, want) {
			out = append(out, c)
			taken[fmt.Sprint(c.PayloadType)] = true
		}
	}
	for _, c := range codecs {
		switch {
		case strings.EqualFold(c.MimeType, want):
		case strings.EqualFold(c.MimeType, mimeRTX) && taken[fmtpParameter(c.SDPFmtpLine, "apt")]:
			out = append(out, c)
		default:
			rest = append(rest, c)
		}
	}
	return append(out, rest...)
}
